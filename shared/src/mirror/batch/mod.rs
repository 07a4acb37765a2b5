//! Long histories go to CodeCommit in batches, each a push of its own under a temporary
//! tag, so that what went over once stays there whatever happens next.
//!
//! The cuts and the names of the tags are those of the script that AWS documents
//! ([`plan`]), so that either goes on with what the other began. Which batches are there
//! already is read off the target. A batch that turns out to have too many bytes is cut in
//! halves on its way, under tags of our own. All temporary tags are deleted when the last
//! ref is where it should be, or by [`clean`].

mod plan;

use std::collections::HashSet;

use bstr::{BStr, BString, ByteSlice as _};

use super::size::Limited;
use super::tally::Tally;
use super::{Options, until};
use crate::error::Result;
use crate::git::ObjectId;
use crate::remote::lfs::Copied;
use crate::remote::{
    CommitGraph, Head, Incoming, IncomingOptions, Push, RefChange, RefTarget, Remote, Source,
    Target, Wanted,
};

use plan::cuts;

/// How the script names its tags, with numbers from 1.
const SCRIPT_TAG: &str = "refs/tags/codecommit_migration_";
/// How many digits of the commit's id end a tag of ours.
const OWN_DIGITS: usize = 16;
/// How we name those that cut its batches further, with the start of the commit's id.
const OWN_TAG: &str = "refs/tags/branchline_migration_";

/// How much goes over at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// About so many commits: the script's `-b`.
    pub commits: u64,
    /// At most so many bytes of pack, where one commit alone does not have more.
    pub bytes: u64,
}

impl Default for Batch {
    /// 1,000 commits, as the script; 256 MiB.
    fn default() -> Self {
        Self {
            commits: 1000,
            bytes: 256 << 20,
        }
    }
}

/// Whether a ref is a migration's temporary tag, the script's or ours.
pub(super) fn is_temporary(name: &BStr) -> bool {
    let numbered = |rest: &[u8]| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit);
    let hex = |rest: &[u8]| rest.len() == OWN_DIGITS && rest.iter().all(u8::is_ascii_hexdigit);
    name.strip_prefix(SCRIPT_TAG.as_bytes())
        .is_some_and(numbered)
        || name.strip_prefix(OWN_TAG.as_bytes()).is_some_and(hex)
}

/// What is pushed in batches before refs move.
pub(super) struct Batches<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) options: &'a Options,
    pub(super) size: Batch,
}

impl Batches<'_> {
    /// Pushes what `changes` need, in batches, where it is much. Afterwards little or
    /// nothing of it is missing at the target.
    pub(super) async fn push(
        &self,
        target: &mut dyn Target,
        changes: &[RefChange],
        tally: &mut Tally,
    ) -> Result<()> {
        let wants = commits_of(changes);
        let haves = target.haves().await?;
        if wants.is_empty() {
            return Ok(());
        }
        let Some(missing) = self.missing(target, &wants, &haves).await? else {
            return Ok(());
        };
        let mut work = Work {
            batches: self,
            left: missing.keys().copied().collect(),
            missing,
        };
        let count = work.missing.len() as u64;
        if count == 0 {
            return Ok(());
        }
        if count.saturating_mul(20) <= self.size.commits.saturating_mul(21) {
            // One batch by its commits; its bytes show on the way. Where they fit, the
            // refs themselves are all that is pushed.
            return Ok(());
        }
        let starts = starts(self.source);
        let ids: Vec<_> = starts.iter().chain(&wants).copied().collect();
        let Some(whole) = self.source.history(&ids, &[]).await? else {
            return Ok(());
        };
        let cuts = cuts(&whole, &starts, self.size.commits);
        drop(whole);
        for (number, cut) in (1_u64..).zip(cuts) {
            let name = format!("{SCRIPT_TAG}{number}");
            work.push(target, name.into(), cut, tally).await?;
        }
        Ok(())
    }

    /// The commits that `wants` lead to and the target lacks.
    ///
    /// Some sources only tell a history as a whole. Where batches were begun it is long,
    /// and worth to be read again: else all that is left would go at once.
    async fn missing(
        &self,
        target: &dyn Target,
        wants: &[ObjectId],
        haves: &[ObjectId],
    ) -> Result<Option<CommitGraph>> {
        let told = self.source.history(wants, haves).await?;
        if told.is_some() || deletions(target).is_empty() {
            return Ok(told);
        }
        let Some(mut graph) = self.source.history(wants, &[]).await? else {
            return Ok(None);
        };
        let mut there = haves.to_vec();
        while let Some(id) = there.pop() {
            if let Some(parents) = graph.remove(&id) {
                there.extend(parents.iter().copied());
            }
        }
        Ok(Some(graph))
    }

    /// Pushes what `changes` need in halves, because one push of it has too many bytes.
    pub(super) async fn push_halves(
        &self,
        target: &mut dyn Target,
        changes: &[RefChange],
        tally: &mut Tally,
    ) -> Result<()> {
        let wants = commits_of(changes);
        let haves = target.haves().await?;
        let Some(missing) = self.missing(target, &wants, &haves).await? else {
            return Ok(());
        };
        let mut work = Work {
            batches: self,
            left: missing.keys().copied().collect(),
            missing,
        };
        for want in wants {
            work.push(target, own_tag(want), want, tally).await?;
        }
        Ok(())
    }
}

/// The commit of `HEAD`, then the branches' in the order of their names, as the script
/// walks them.
fn starts(source: &dyn Source) -> Vec<ObjectId> {
    let snapshot = source.snapshot();
    let head = match &snapshot.head {
        Some(Head::Symbolic(name)) => snapshot.refs.get(name).map(|target| target.id),
        Some(Head::Detached(id)) => Some(*id),
        None => None,
    };
    let heads = snapshot
        .refs
        .iter()
        .filter(|(name, _)| name.starts_with(b"refs/heads/"))
        .map(|(_, target)| target.id);
    head.into_iter().chain(heads).collect()
}

/// The commits that changes lead to, branches before tags, each once.
fn commits_of(changes: &[RefChange]) -> Vec<ObjectId> {
    let mut seen = HashSet::new();
    changes
        .iter()
        .filter_map(|change| change.new)
        .map(|target| target.peeled.unwrap_or(target.id))
        .filter(|id| seen.insert(*id))
        .collect()
}

fn own_tag(commit: ObjectId) -> BString {
    format!("{OWN_TAG}{}", commit.to_hex_with_len(OWN_DIGITS)).into()
}

/// The commits that the target lacks, and those of them that were not pushed yet.
struct Work<'a> {
    batches: &'a Batches<'a>,
    missing: CommitGraph,
    left: HashSet<ObjectId>,
}

impl Work<'_> {
    /// Pushes all up to `commit` under a temporary tag, in several steps where it is too
    /// much for one. What is there already is not pushed again.
    async fn push(
        &mut self,
        target: &mut dyn Target,
        name: BString,
        commit: ObjectId,
        tally: &mut Tally,
    ) -> Result<()> {
        let mut steps = vec![(name, commit)];
        while let Some((name, commit)) = steps.pop() {
            if !self.left.contains(&commit) {
                continue;
            }
            let below = self.below(commit);
            // A commit alone goes whatever its size.
            let most = (below.len() > 1).then_some(self.batches.size.bytes);
            if self
                .push_one(target, name.clone(), commit, most, tally)
                .await?
            {
                for id in below {
                    self.left.remove(&id);
                }
                continue;
            }
            let half = below[below.len() / 2 - 1];
            tracing::debug!(commit.id = %commit, half.id = %half, "a batch is cut in halves");
            steps.push((name, commit));
            steps.push((own_tag(half), half));
        }
        Ok(())
    }

    /// What is left below a commit, parents before children; the commit itself is last.
    fn below(&self, commit: ObjectId) -> Vec<ObjectId> {
        let parents = |id: &ObjectId| self.missing.get(id).map_or(&[][..], AsRef::as_ref);
        let mut out = Vec::new();
        let mut seen = HashSet::from([commit]);
        let mut stack = vec![(commit, 0)];
        while let Some((at, next)) = stack.last_mut() {
            if let Some(parent) = parents(at).get(*next) {
                *next += 1;
                if self.left.contains(parent) && seen.insert(*parent) {
                    stack.push((*parent, 0));
                }
            } else {
                out.push(*at);
                stack.pop();
            }
        }
        out
    }

    /// One push; `false` when it would have been more than `most` bytes, and nothing was
    /// changed.
    async fn push_one(
        &self,
        target: &mut dyn Target,
        name: BString,
        commit: ObjectId,
        most: Option<u64>,
        tally: &mut Tally,
    ) -> Result<bool> {
        let Batches {
            source, options, ..
        } = self.batches;
        let accepts = target.accepts();
        let wanted = Wanted {
            wants: vec![commit],
            haves: target.haves().await?,
            thin: accepts.thin && options.lfs.is_none(),
            offset_deltas: accepts.offset_deltas,
        };
        let limited = Limited::new(source.fetch(&wanted).await?, most);
        let too_much = limited.flag();
        let options = IncomingOptions {
            hash: source.snapshot().hash,
            limits: options.limits,
            pointers: options.lfs.is_some(),
        };
        let change = RefChange {
            old: target.snapshot().refs.get(&name).map(|found| found.id),
            name,
            new: Some(RefTarget {
                id: commit,
                peeled: None,
            }),
        };
        let push = Push {
            changes: vec![change],
            pack: Some(Incoming::new(limited.into_body(), &options)),
            before_refs: self.batches.options.before_refs.clone(),
            ..Push::default()
        };
        match target.push(push).await {
            Err(_) if too_much.is_raised() => Ok(false),
            Err(error) => Err(error),
            Ok(report) => {
                tally.sent(report)?;
                Ok(true)
            }
        }
    }
}

/// The deletions of all temporary tags of a target.
pub(super) fn deletions(target: &dyn Target) -> Vec<RefChange> {
    let refs = target.snapshot().refs.iter();
    refs.filter(|(name, _)| is_temporary(name.as_bstr()))
        .map(|(name, there)| RefChange {
            name: name.clone(),
            old: Some(there.id),
            new: None,
        })
        .collect()
}

/// Deletes all temporary tags, the script's and ours.
pub(super) async fn delete(target: &mut dyn Target, tally: &mut Tally) -> Result<()> {
    let mut rest = deletions(target);
    let most = target.accepts().max_changes.max(1);
    while !rest.is_empty() {
        let later = rest.split_off(rest.len().min(most));
        let changes = std::mem::replace(&mut rest, later);
        let push = Push {
            changes,
            ..Push::default()
        };
        tally.sent(target.push(push).await?)?;
    }
    Ok(())
}

/// Removes what an unfinished migration left at `target`; tells how many tags that were.
/// A migration that is begun again afterwards pushes them once more.
///
/// # Errors
/// As [`mirror`](super::mirror).
pub async fn clean(
    target: &dyn Remote,
    deadline: Option<tokio::time::Instant>,
) -> Result<super::Outcome> {
    let mut tally = Tally::default();
    let work = async {
        let mut target = target.target().await?;
        let before = deletions(&*target).len() as u64;
        delete(&mut *target, &mut tally).await?;
        Ok(before)
    };
    let deleted = until(deadline, work).await.transpose()?;
    Ok(super::Outcome {
        deleted: deleted.unwrap_or(0),
        ..tally.into_outcome(deleted.is_some(), Copied::default())
    })
}
