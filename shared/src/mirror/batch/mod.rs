//! Long histories go in batches, each a push of its own under a temporary tag, so that
//! what went over once stays there whatever happens next.
//!
//! To CodeCommit they go by commits. The cuts and the names of the tags are those of the script that AWS documents
//! ([`plan`]), so that either goes on with what the other began. Which batches are there
//! already is read off the target. What turns out to have too many bytes, or to take too
//! long, is cut on its way, under tags of our own, which the script removes with its own
//! ones; to other targets this is the only cut.
//! All temporary tags are deleted when the last ref is where it should be, or by
//! [`clean`]; they stay while the target refuses a ref, since the next run stands on them.
//!
//! A target may refuse a temporary tag as it may refuse any ref. What was under it then
//! goes with the next one; after [`REFUSALS`] in a row the refs go as they are.

mod known;
mod plan;

use std::collections::HashSet;

use async_trait::async_trait;
use bstr::{BStr, BString, ByteSlice as _};
use tokio::time::Instant;

use super::Ended;
use super::anew::{self, Work};
use super::size::{Meter, Most};
use super::tally::Tally;
use super::transfer::{Pushed, Refs, Transfer};
use crate::error::Result;
use crate::git::ObjectId;
use crate::remote::{
    Batches as Batching, Head, Push, RefChange, RefTarget, Remote, Source, Target,
};

use known::Known;
use plan::cuts;

/// How temporary tags start. The script goes on with numbers from 1, and deletes all that
/// start so.
const TAG: &str = "refs/tags/codecommit_migration_";
/// How those go on that cut its batches further, with the start of the commit's id.
const PART: &str = "part_";
/// How many digits of the commit's id end such a tag.
const PART_DIGITS: usize = 16;
/// So many temporary tags in a row that the target refuses are the last ones: it will
/// refuse others, too, and the pack grows from one to the next.
const REFUSALS: u32 = 2;

/// How much goes over at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// About so many commits, to CodeCommit: the script's `-b`.
    pub commits: u64,
    /// At most so many bytes of pack, where one commit alone does not have more. `None`
    /// stands for 256 MiB to CodeCommit, and for 2 GB to others: git servers take no more
    /// in one push.
    pub bytes: Option<u64>,
}

impl Default for Batch {
    /// 1,000 commits, as the script.
    fn default() -> Self {
        Self {
            commits: 1000,
            bytes: None,
        }
    }
}

impl Batch {
    pub(super) fn bytes_for(self, batching: Batching) -> u64 {
        self.bytes.unwrap_or(match batching {
            Batching::ByCommits => 256 << 20,
            Batching::BySize => 2_000_000_000,
        })
    }
}

/// Whether a ref is a migration's temporary tag, the script's or ours.
pub(super) fn is_temporary(name: &BStr) -> bool {
    let Some(rest) = name.strip_prefix(TAG.as_bytes()) else {
        return false;
    };
    is_part(name) || (!rest.is_empty() && rest.iter().all(u8::is_ascii_digit))
}

/// Whether a ref is a temporary tag that the script does not make.
fn is_part(name: &BStr) -> bool {
    let rest = name.strip_prefix(TAG.as_bytes());
    rest.and_then(|rest| rest.strip_prefix(PART.as_bytes()))
        .is_some_and(|id| id.len() == PART_DIGITS && id.iter().all(u8::is_ascii_hexdigit))
}

/// What is pushed in batches before refs move, over all tries of one mirroring.
#[derive(Default)]
pub(super) struct Batches {
    known: Option<Known>,
    /// Commits that the target lacks and that were not pushed yet.
    left: HashSet<ObjectId>,
    /// How many temporary tags in a row the target has refused.
    refused: u32,
    /// What came of a push of all that is left.
    over: Option<Meter>,
}

impl Batches {
    /// Pushes what `changes` need, in batches, where it is much. Afterwards little or
    /// nothing of it is missing at the target.
    pub(super) async fn push(
        &mut self,
        transfer: &Transfer<'_>,
        target: &mut dyn Target,
        changes: &[RefChange],
        tally: &mut Tally,
    ) -> Result<()> {
        self.refused = 0;
        if !self.learn(transfer.source, target, changes, false).await? {
            return Ok(());
        }
        let most = transfer.options.batch.commits;
        if !self.is_much(most) {
            // Its bytes show on the way. Where they fit, the refs themselves are all that
            // is pushed.
            return Ok(());
        }
        let mut starts = starts(transfer.source);
        if !self.learn_whole(transfer.source, &starts, changes).await? {
            return Ok(());
        }
        let mut number = 0;
        // The branches as the script walks them, and then what only tags lead to.
        for more in [Vec::new(), commits_of(changes)] {
            starts.extend(more);
            let all = self
                .known
                .as_ref()
                .map(|known| cuts(known.graph(), &starts, most));
            for cut in all.unwrap_or_default().into_iter().skip(number) {
                if !self.is_much(most) {
                    // The refs themselves are the last batch.
                    return Ok(());
                }
                number += 1;
                let name = format!("{TAG}{number}").into();
                self.push_up_to(transfer, target, name, cut, tally).await?;
                if self.refused >= REFUSALS {
                    return Ok(());
                }
            }
            if !self.is_much(most) {
                break;
            }
        }
        Ok(())
    }

    /// Whether more commits are left than make one batch. A twentieth more is tolerated.
    fn is_much(&self, most: u64) -> bool {
        (self.left.len() as u64).saturating_mul(20) > most.saturating_mul(21)
    }

    /// Pushes what `changes` need in pieces, because one push of it was `over`.
    pub(super) async fn push_pieces(
        &mut self,
        transfer: &Transfer<'_>,
        target: &mut dyn Target,
        (changes, over): (&[RefChange], Meter),
        tally: &mut Tally,
    ) -> Result<()> {
        self.refused = 0;
        if !self.learn(transfer.source, target, changes, true).await? {
            return Ok(());
        }
        self.over = Some(over);
        for want in commits_of(changes) {
            let name = part_tag(want);
            self.push_up_to(transfer, target, name, want, tally).await?;
            if self.refused >= REFUSALS {
                break;
            }
        }
        Ok(())
    }

    /// Learns which commits `changes` lead to and the target lacks; `false` where nobody
    /// can tell.
    ///
    /// Some sources only tell a history as a whole. Where batches were begun it is long,
    /// and worth to be read: else all that is left would go at once. Where one push has
    /// too many bytes, too: `insist`.
    async fn learn(
        &mut self,
        source: &dyn Source,
        target: &dyn Target,
        changes: &[RefChange],
        insist: bool,
    ) -> Result<bool> {
        let wants = ids_of(changes);
        if wants.is_empty() {
            return Ok(false);
        }
        let haves = target.haves().await?;
        let commits = commits_of(changes);
        let snapshot = source.snapshot();
        if !self
            .known
            .as_ref()
            .is_some_and(|known| known.is_of(snapshot) && known.reaches(&commits, &haves))
        {
            self.known = None;
            if let Some(graph) = source.history(&wants, &haves).await? {
                self.known = Some(Known::new(snapshot, graph));
            } else {
                let is_long = insist || !deletions(target).is_empty();
                if !is_long || !self.learn_whole(source, &starts(source), changes).await? {
                    return Ok(false);
                }
            }
        }
        let Some(known) = &self.known else {
            return Ok(false);
        };
        self.left = known.missing(&commits, &haves);
        Ok(true)
    }

    /// Learns all that `starts` lead to, unless it is known; `false` where nobody can tell.
    async fn learn_whole(
        &mut self,
        source: &dyn Source,
        starts: &[ObjectId],
        changes: &[RefChange],
    ) -> Result<bool> {
        if self
            .known
            .as_ref()
            .is_some_and(|known| known.is_whole(starts))
        {
            return Ok(true);
        }
        let mut ids = ids_of(changes);
        ids.extend(starts);
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(*id));
        let Some(graph) = source.history(&ids, &[]).await? else {
            return Ok(false);
        };
        self.known = Some(Known::new(source.snapshot(), graph));
        Ok(true)
    }

    /// Pushes all up to `commit` under a temporary tag, in several steps where it is too
    /// much for one. What is there already is not pushed again.
    async fn push_up_to(
        &mut self,
        transfer: &Transfer<'_>,
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
            let most = if below.len() > 1 {
                transfer.most()
            } else {
                Most::default()
            };
            // The same pack was tried just now.
            let known = self.over.take().filter(|_| below.len() == self.left.len());
            if let Some(over) = known.filter(|_| below.len() > 1) {
                cut(&mut steps, (name, commit), &below, &over);
                continue;
            }
            let refs = Refs {
                changes: vec![RefChange {
                    old: target.snapshot().refs.get(&name).map(|there| there.id),
                    name: name.clone(),
                    new: Some(RefTarget {
                        id: commit,
                        peeled: None,
                    }),
                }],
                head: None,
                temporary: true,
            };
            tally.ask_quietly(&refs.changes);
            let report = match transfer.push(target, &refs, most).await? {
                Pushed::Answered(report) => report,
                Pushed::Over(over) => {
                    cut(&mut steps, (name, commit), &below, &over);
                    continue;
                }
            };
            let Some(reason) = tally.sent(report)? else {
                self.refused = 0;
                for id in below {
                    self.left.remove(&id);
                }
                continue;
            };
            self.refused += 1;
            tracing::warn!(
                reference.name = %name,
                reason,
                "the target refused a temporary tag: its batch goes with the next one"
            );
            if self.refused >= REFUSALS {
                break;
            }
        }
        Ok(())
    }

    /// What is left below a commit, parents before children; the commit itself is last.
    fn below(&self, commit: ObjectId) -> Vec<ObjectId> {
        let graph = self.known.as_ref().map(Known::graph);
        let parents = |id: &ObjectId| {
            let found = graph.and_then(|graph| graph.get(id));
            found.map_or(&[][..], AsRef::as_ref)
        };
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
}

/// Puts a part of what was too much before it. What takes too long took time, and another
/// try in vain would be too much: then the oldest commit goes first, which may be what
/// takes so long, and an eighth after it.
fn cut(
    steps: &mut Vec<(BString, ObjectId)>,
    (name, commit): (BString, ObjectId),
    below: &[ObjectId],
    over: &Meter,
) {
    let parts = if over.is_slow() { 8 } else { 2 };
    let part = below[(below.len() / parts).max(1) - 1];
    tracing::debug!(
        commit.id = %commit,
        part.id = %part,
        size_bytes = over.bytes(),
        "a batch is cut"
    );
    steps.push((name, commit));
    steps.push((part_tag(part), part));
    if over.is_slow() && part != below[0] {
        steps.push((part_tag(below[0]), below[0]));
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

/// What changes name, each once.
fn ids_of(changes: &[RefChange]) -> Vec<ObjectId> {
    each_once(changes.iter().filter_map(|change| Some(change.new?.id)))
}

/// The commits that changes lead to, branches before tags, each once. Something else than
/// a commit may be among them.
fn commits_of(changes: &[RefChange]) -> Vec<ObjectId> {
    let targets = changes.iter().filter_map(|change| change.new);
    each_once(targets.map(|target| target.peeled.unwrap_or(target.id)))
}

fn each_once(ids: impl Iterator<Item = ObjectId>) -> Vec<ObjectId> {
    let mut seen = HashSet::new();
    ids.filter(|id| seen.insert(*id)).collect()
}

fn part_tag(commit: ObjectId) -> BString {
    format!("{TAG}{PART}{}", commit.to_hex_with_len(PART_DIGITS)).into()
}

/// The deletions of all temporary tags of a target. Where the script is not at work, its
/// tags are somebody's.
fn deletions(target: &dyn Target) -> Vec<RefChange> {
    let is_ours: fn(&BStr) -> bool = match target.accepts().batches {
        Batching::ByCommits => is_temporary,
        Batching::BySize => is_part,
    };
    let refs = target.snapshot().refs.iter();
    refs.filter(|(name, _)| is_ours(name.as_bstr()))
        .map(|(name, there)| RefChange {
            name: name.clone(),
            old: Some(there.id),
            new: None,
        })
        .collect()
}

/// Deletes all temporary tags, the script's and ours. `ask` notes what is asked for.
pub(super) async fn delete(
    target: &mut dyn Target,
    tally: &mut Tally,
    ask: fn(&mut Tally, &[RefChange]),
) -> Result<()> {
    let mut rest = deletions(target);
    while !rest.is_empty() {
        let later = rest.split_off(rest.len().min(target.accepts().max_changes.max(1)));
        let changes = std::mem::replace(&mut rest, later);
        ask(tally, &changes);
        let push = Push {
            changes,
            ..Push::default()
        };
        let report = target.push(push).await?;
        if target.accepts().batches == Batching::ByCommits {
            tally.answered(report)?;
        } else if let Some(reason) = tally.sent(report)? {
            // They do no harm there, and the refs are as they should be.
            tracing::warn!(reason, "the target keeps temporary tags");
        }
    }
    Ok(())
}

struct Cleaning<'a>(&'a dyn Remote);

#[async_trait]
impl Work for Cleaning<'_> {
    fn target(&self) -> &dyn Remote {
        self.0
    }

    async fn attempt(&mut self, tally: &mut Tally) -> Result<()> {
        let mut target = self.0.target().await?;
        tally.begun(target.snapshot());
        delete(&mut *target, tally, Tally::ask).await
    }
}

/// Removes what an unfinished migration left at `target`, until it is done or `deadline`
/// has come; the tags count as refs that were deleted. A migration that is begun again
/// afterwards pushes them once more.
pub async fn clean(target: &dyn Remote, deadline: Option<Instant>) -> Ended {
    anew::run(&mut Cleaning(target), deadline).await
}
