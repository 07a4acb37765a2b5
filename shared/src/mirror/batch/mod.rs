//! Long histories go in batches, each a push of its own under a temporary tag, so that
//! what went over once stays there whatever happens next.
//!
//! To CodeCommit they go by commits. The cuts and the names of the tags are those of the
//! script that AWS documents ([`mod@cut_points`]), so that either goes on with what the other began.
//! Which batches are there already is read off the target. What turns out to have too many
//! bytes, or to take too long, is cut on its way, under tags of our own, which the script
//! removes with its own ones; to other targets this is the only cut.
//!
//! All temporary tags are deleted with or after the last refs, or by [`clean`]; they stay
//! while the target refuses a ref, since the next run stands on them.
//!
//! A target may refuse a temporary tag as it may refuse any ref. What was under it then
//! goes with the next one; after [`REFUSALS`] in a row the refs go as they are.

mod cut_points;
mod history;
mod temporary_tags;

use std::collections::HashSet;

use bstr::BString;

use super::pack_limit::{PackMeter, PushLimit};
use super::progress::RefProgress;
use super::transfer::{Pushed, PushedRefs, Transfer};
use crate::error::Result;
use crate::git::ObjectId;
use crate::remote::{
    BatchPolicy as Batching, Head, RefTarget, RefUpdate, Source, Target, TargetCapabilities,
};

use cut_points::cut_points;
use history::SourceHistory;
pub use temporary_tags::clean;
pub(super) use temporary_tags::{delete, is_temporary, restore};
use temporary_tags::{deletions, numbered, temporary_tag};

/// So many temporary tags in a row that the target refuses are the last ones: it will
/// refuse others, too, and the pack grows from one to the next.
const REFUSALS: u32 = 2;

/// How much goes over at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// About so many commits, to CodeCommit: the script's `-b`.
    pub commits: u64,
    /// At most so many bytes of pack, where one commit alone does not have more. `None`
    /// stands for 256 MiB to CodeCommit, and for 2 GB to others: git servers take no more
    /// in one push.
    pub bytes: Option<u64>,
}

impl Default for BatchLimits {
    /// 1,000 commits, as the script.
    fn default() -> Self {
        Self {
            commits: 1000,
            bytes: None,
        }
    }
}

impl BatchLimits {
    pub(super) fn bytes_for(self, batching: Batching) -> u64 {
        self.bytes.unwrap_or(match batching {
            Batching::ByCommits => 256 << 20,
            Batching::BySize => 2_000_000_000,
        })
    }
}

/// What is pushed in batches before refs move, over all tries of one mirroring.
#[derive(Default)]
pub(super) struct BatchState {
    known: Option<SourceHistory>,
    /// Commits that the target lacks and that were not pushed yet.
    left: HashSet<ObjectId>,
    /// How many temporary tags in a row the target has refused.
    refused: u32,
    /// What came of a push of all that is left.
    over: Option<PackMeter>,
    /// The temporary tags that were asked for.
    made: HashSet<BString>,
}

impl BatchState {
    /// Pushes what `changes` need, in batches, where it is much. Afterwards little or
    /// nothing of it is missing at the target.
    pub(super) async fn push(
        &mut self,
        transfer: &mut Transfer<'_>,
        target: &mut dyn Target,
        changes: &[RefUpdate],
        tally: &mut RefProgress,
    ) -> Result<()> {
        self.refused = 0;
        if !self
            .load_history(transfer.source, target, changes, false)
            .await?
        {
            return Ok(());
        }
        let most = transfer.options.batch.commits;
        if !self.needs_batches(most) {
            // Its bytes show on the way. Where they fit, the refs themselves are all that
            // is pushed.
            return Ok(());
        }
        let mut starts = starts(transfer.source);
        if !self
            .load_full_history(transfer.source, &starts, changes)
            .await?
        {
            return Ok(());
        }
        let mut number = 0;
        // The branches as the script walks them, and then what only tags lead to.
        for more in [Vec::new(), commits_of(changes)] {
            starts.extend(more);
            let all = self
                .known
                .as_ref()
                .map(|known| cut_points(known.graph(), &starts, most));
            let all = all.unwrap_or_default();
            for (at, cut) in all.iter().enumerate().skip(number) {
                if !self.needs_batches(most) {
                    // The refs themselves are the last batch.
                    return Ok(());
                }
                number += 1;
                let name = numbered(number);
                let later = UpcomingBatches {
                    cuts: &all[at + 1..],
                    most,
                    changes,
                };
                self.push_under_temporary_tag(transfer, target, (name, *cut), Some(&later), tally)
                    .await?;
                if self.refused >= REFUSALS {
                    return Ok(());
                }
            }
            if !self.needs_batches(most) {
                break;
            }
        }
        Ok(())
    }

    /// The deletions of all temporary tags, where they may go together with the last refs:
    /// where the script is at work, and all of them were made by this mirroring, so that
    /// they cost no push of their own. Those of an earlier one stay until the refs are known
    /// to be taken: else a target that never takes one would lose them each time.
    pub(super) fn deletions(&self, target: &dyn Target, room: usize) -> Vec<RefUpdate> {
        let deletions = deletions(target);
        let together = target.accepts().batches == Batching::ByCommits
            && deletions.len() <= room
            && deletions.iter().all(|tag| self.made.contains(&tag.name));
        if together { deletions } else { Vec::new() }
    }

    /// Whether more commits are left than make one batch. A twentieth more is tolerated.
    fn needs_batches(&self, most: u64) -> bool {
        is_much(self.left.len(), most)
    }

    /// Pushes what `changes` need in pieces, because one push of it was `over`.
    pub(super) async fn push_by_size(
        &mut self,
        transfer: &mut Transfer<'_>,
        target: &mut dyn Target,
        (changes, over): (&[RefUpdate], PackMeter),
        tally: &mut RefProgress,
    ) -> Result<()> {
        self.refused = 0;
        if !self
            .load_history(transfer.source, target, changes, true)
            .await?
        {
            return Ok(());
        }
        self.over = Some(over);
        for want in commits_of(changes) {
            let tag = (temporary_tag(want), want);
            self.push_under_temporary_tag(transfer, target, tag, None, tally)
                .await?;
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
    async fn load_history(
        &mut self,
        source: &dyn Source,
        target: &dyn Target,
        changes: &[RefUpdate],
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
            .is_some_and(|known| known.matches_snapshot(snapshot) && known.covers(&commits, &haves))
        {
            self.known = None;
            if let Some(graph) = source.commit_graph(&wants, &haves).await? {
                self.known = Some(SourceHistory::new(snapshot, graph));
            } else {
                let is_long = insist || !deletions(target).is_empty();
                if !is_long
                    || !self
                        .load_full_history(source, &starts(source), changes)
                        .await?
                {
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
    async fn load_full_history(
        &mut self,
        source: &dyn Source,
        starts: &[ObjectId],
        changes: &[RefUpdate],
    ) -> Result<bool> {
        if self
            .known
            .as_ref()
            .is_some_and(|known| known.is_complete(starts))
        {
            return Ok(true);
        }
        let mut ids = ids_of(changes);
        ids.extend(starts);
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(*id));
        let Some(graph) = source.commit_graph(&ids, &[]).await? else {
            return Ok(false);
        };
        self.known = Some(SourceHistory::new(source.snapshot(), graph));
        Ok(true)
    }

    /// Pushes all up to `commit` under a temporary tag, in several steps where it is too
    /// much for one. What is there already is not pushed again. `later` is pushed
    /// afterwards.
    async fn push_under_temporary_tag(
        &mut self,
        transfer: &mut Transfer<'_>,
        target: &mut dyn Target,
        tag: (BString, ObjectId),
        later: Option<&UpcomingBatches<'_>>,
        tally: &mut RefProgress,
    ) -> Result<()> {
        let mut steps = vec![tag];
        while let Some((name, commit)) = steps.pop() {
            if !self.left.contains(&commit) {
                continue;
            }
            let below = self.pending_ancestors(commit);
            // A commit alone goes whatever its size.
            let most = if below.len() > 1 {
                transfer.push_limit()
            } else {
                PushLimit::default()
            };
            // The same pack was tried just now.
            let known = self.over.take().filter(|_| below.len() == self.left.len());
            if let Some(over) = known.filter(|_| below.len() > 1) {
                cut(&mut steps, (name, commit), &below, &over);
                continue;
            }
            let refs = PushedRefs {
                changes: vec![RefUpdate {
                    old: target.snapshot().refs.get(&name).map(|there| there.id),
                    name: name.clone(),
                    new: Some(RefTarget {
                        id: commit,
                        peeled: None,
                    }),
                }],
                temporary: true,
                ..PushedRefs::default()
            };
            let later = later.filter(|_| steps.is_empty());
            let next = later.map(|later| later.next(&self.left, &below, target.accepts()));
            tally.record_request(&[], &refs.changes);
            self.made.insert(name.clone());
            let next = next.unwrap_or_default();
            let report = match transfer.push(target, &refs, most, &next).await? {
                Pushed::Answered(report) => report,
                Pushed::Over(over) => {
                    cut(&mut steps, (name, commit), &below, &over);
                    continue;
                }
            };
            let Some(reason) = tally.record_sent(report)? else {
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
    fn pending_ancestors(&self, commit: ObjectId) -> Vec<ObjectId> {
        let graph = self.known.as_ref().map(SourceHistory::graph);
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

/// Whether so many commits are more than make one batch. A twentieth more is tolerated.
fn is_much(commits: usize, most: u64) -> bool {
    (commits as u64).saturating_mul(20) > most.saturating_mul(21)
}

/// What comes after a batch, when all goes well.
struct UpcomingBatches<'a> {
    cuts: &'a [ObjectId],
    most: u64,
    changes: &'a [RefUpdate],
}

impl UpcomingBatches<'_> {
    /// What the next push will name, when of what is `left` these have been `sent`.
    fn next(
        &self,
        left: &HashSet<ObjectId>,
        sent: &[ObjectId],
        accepts: TargetCapabilities,
    ) -> Vec<ObjectId> {
        if is_much(left.len() - sent.len(), self.most) {
            let sent: HashSet<_> = sent.iter().collect();
            let mut cuts = self.cuts.iter();
            let next = cuts.find(|cut| left.contains(*cut) && !sent.contains(cut));
            return next.into_iter().copied().collect();
        }
        let changes = self.changes.iter().take(accepts.max_changes);
        changes.filter_map(|change| Some(change.new?.id)).collect()
    }
}

/// Puts a part of what was too much before it. What takes too long took time, and another
/// try in vain would be too much: then the oldest commit goes first, which may be what
/// takes so long, and an eighth after it.
fn cut(
    steps: &mut Vec<(BString, ObjectId)>,
    (name, commit): (BString, ObjectId),
    below: &[ObjectId],
    over: &PackMeter,
) {
    let parts = if over.exceeded_time() { 8 } else { 2 };
    let part = below[(below.len() / parts).max(1) - 1];
    tracing::debug!(
        commit.id = %commit,
        part.id = %part,
        size_bytes = over.bytes(),
        "a batch is cut"
    );
    steps.push((name, commit));
    steps.push((temporary_tag(part), part));
    if over.exceeded_time() && part != below[0] {
        steps.push((temporary_tag(below[0]), below[0]));
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
fn ids_of(changes: &[RefUpdate]) -> Vec<ObjectId> {
    dedup(changes.iter().filter_map(|change| Some(change.new?.id)))
}

/// The commits that changes lead to, branches before tags, each once. Something else than
/// a commit may be among them.
fn commits_of(changes: &[RefUpdate]) -> Vec<ObjectId> {
    let targets = changes.iter().filter_map(|change| change.new);
    dedup(targets.map(|target| target.peeled.unwrap_or(target.id)))
}

fn dedup(ids: impl Iterator<Item = ObjectId>) -> Vec<ObjectId> {
    let mut seen = HashSet::new();
    ids.filter(|id| seen.insert(*id)).collect()
}
