//! Pushes long histories in batches, each under a temporary tag, so that an interrupted run
//! keeps what it transferred.
//!
//! To CodeCommit, batches have a number of commits. The cut points and the names of the tags
//! are those of the script that AWS documents ([`mod@cut_points`]), so that each resumes what
//! the other started. Existing batches are read from the target. A batch that exceeds its
//! bytes or its time is split, under tags with names of their own, which the script deletes
//! together with its tags. To other targets, this is the only split.
//!
//! All temporary tags are deleted with or after the last refs, or by [`clean`](super::clean()). They stay
//! while the target rejects a ref, because the next run uses their objects.
//!
//! A target may reject a temporary tag like any ref. Its commits are then part of the next
//! batch; after [`MAX_REJECTED_TAGS`] rejections in a row the refs are pushed without batches.

mod cut_points;
mod history;
mod temporary_tags;

use std::collections::HashSet;
use std::sync::Arc;

use bstr::BString;

use super::pack_limit::{PackMeter, PushLimit};
use super::progress::RefProgress;
use super::temporary_tag::{numbered_tag, part_tag};
use super::transfer::{PushResult, RefsToPush, Transfer};
use crate::error::Result;
use crate::git::ObjectId;
use crate::remote::{BatchPolicy, Head, RefUpdate, RefValue, Source, Target, TargetCapabilities};

use cut_points::cut_points;
use history::SourceHistory;
use temporary_tags::deletions;
pub(super) use temporary_tags::{delete, restore};

/// After this many consecutive rejected temporary tags no more are tried: the target would
/// reject the others too, while the pack grows from one to the next.
const MAX_REJECTED_TAGS: u32 = 2;

/// Commits and bytes of one push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Approximate number of commits of a push to CodeCommit: the script's `-b`.
    pub commits: u64,
    /// Maximum bytes of a pack, unless one commit alone has more. `None` means 256 MiB to
    /// CodeCommit, and to others 2 GB, the limit of git servers.
    pub bytes: Option<u64>,
}

impl Default for BatchLimits {
    /// 1,000 commits, as in the script.
    fn default() -> Self {
        Self {
            commits: 1000,
            bytes: None,
        }
    }
}

impl BatchLimits {
    /// Returns the maximum bytes of a push to a target with this policy.
    pub(super) fn bytes_for(self, policy: BatchPolicy) -> u64 {
        self.bytes.unwrap_or(match policy {
            BatchPolicy::ByCommits => 256 << 20,
            BatchPolicy::BySize => 2_000_000_000,
        })
    }
}

/// Progress of the batches, over all attempts of one mirroring.
#[derive(Default)]
pub(super) struct BatchState {
    history: Option<SourceHistory>,
    /// Commits that the target does not have and that were not pushed yet.
    pending: HashSet<ObjectId>,
    /// Number of consecutive temporary tags that the target has rejected.
    rejections: u32,
    /// Meter of a pack of all pending commits that has exceeded its limit.
    exceeded: Option<PackMeter>,
    /// Temporary tags whose push was requested.
    requested_tags: HashSet<BString>,
}

impl BatchState {
    /// Pushes the objects of `changes` in batches, if they are many. Afterwards at most one
    /// batch of them is missing on the target.
    pub(super) async fn push(
        &mut self,
        transfer: &mut Transfer<'_>,
        target: &mut dyn Target,
        changes: &[RefUpdate],
        progress: &mut RefProgress,
    ) -> Result<()> {
        self.rejections = 0;
        if !self
            .load_history(transfer.source, target, changes, false)
            .await?
        {
            return Ok(());
        }
        self.count_pending(transfer);
        let max_commits = transfer.options.batch.commits;
        if !self.needs_batches(max_commits) {
            // The bytes are checked while the refs are pushed, so that a small push needs
            // no temporary tag.
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
        // The branches in the order of the script first, then commits that only tags reach.
        for more in [Vec::new(), commits_of(changes)] {
            starts.extend(more);
            let cuts = self
                .history
                .as_ref()
                .map(|history| cut_points(history.graph(), &starts, max_commits));
            let cuts = cuts.unwrap_or_default();
            for (index, cut) in cuts.iter().enumerate().skip(number) {
                if !self.needs_batches(max_commits) {
                    // The push of the refs is the last batch.
                    return Ok(());
                }
                number += 1;
                let name = numbered_tag(number);
                let upcoming = UpcomingBatches {
                    cuts: &cuts[index + 1..],
                    max_commits,
                    changes,
                };
                self.push_under_temporary_tag(
                    transfer,
                    target,
                    (name, *cut),
                    Some(&upcoming),
                    progress,
                )
                .await?;
                if self.rejections >= MAX_REJECTED_TAGS {
                    return Ok(());
                }
            }
            if !self.needs_batches(max_commits) {
                break;
            }
        }
        Ok(())
    }

    /// Returns the deletions of all temporary tags if they may be part of the push of the last
    /// refs, which saves a push: to a target of the script, and if this mirroring made all the
    /// tags. Tags of an earlier mirroring stay until the refs are accepted: else a target that
    /// rejects a ref each time would lose them each time.
    pub(super) fn deletions(&self, target: &dyn Target, free_changes: usize) -> Vec<RefUpdate> {
        let deletions = deletions(target);
        let in_one_push = target.capabilities().batches == BatchPolicy::ByCommits
            && deletions.len() <= free_changes
            && deletions
                .iter()
                .all(|tag| self.requested_tags.contains(&tag.name));
        if in_one_push { deletions } else { Vec::new() }
    }

    fn count_pending(&self, transfer: &Transfer<'_>) {
        if let Some(meter) = &transfer.options.meter {
            meter.set_commits_left(self.pending.len() as u64);
        }
    }

    /// Returns true if the pending commits are more than one batch.
    fn needs_batches(&self, max_commits: u64) -> bool {
        needs_batches(self.pending.len(), max_commits)
    }

    /// Pushes the objects of `changes` split by size, because one push `exceeded` its limit.
    pub(super) async fn push_by_size(
        &mut self,
        transfer: &mut Transfer<'_>,
        target: &mut dyn Target,
        (changes, exceeded): (&[RefUpdate], PackMeter),
        progress: &mut RefProgress,
    ) -> Result<()> {
        self.rejections = 0;
        if !self
            .load_history(transfer.source, target, changes, true)
            .await?
        {
            return Ok(());
        }
        self.exceeded = Some(exceeded);
        for want in commits_of(changes) {
            let tag = (part_tag(want), want);
            self.push_under_temporary_tag(transfer, target, tag, None, progress)
                .await?;
            if self.rejections >= MAX_REJECTED_TAGS {
                break;
            }
        }
        Ok(())
    }

    /// Loads the commits that `changes` reach and the target does not have; returns false if
    /// the source cannot list them.
    ///
    /// Some sources list only a full history, which is slow. It is loaded if batches were
    /// started before, because all remaining commits would else be one push, or if `insist`,
    /// because one push exceeds its limit.
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
        if !self.history.as_ref().is_some_and(|history| {
            history.matches_snapshot(snapshot) && history.covers(&commits, &haves)
        }) {
            self.history = None;
            if let Some(graph) = source.commit_graph(&wants, &haves).await? {
                self.history = Some(SourceHistory::new(snapshot, graph));
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
        let Some(history) = &self.history else {
            return Ok(false);
        };
        self.pending = history.missing(&commits, &haves);
        Ok(true)
    }

    /// Loads the full history of `starts`, unless already loaded; returns false if the source
    /// cannot list it.
    async fn load_full_history(
        &mut self,
        source: &dyn Source,
        starts: &[ObjectId],
        changes: &[RefUpdate],
    ) -> Result<bool> {
        if self
            .history
            .as_ref()
            .is_some_and(|history| history.is_complete(starts))
        {
            return Ok(true);
        }
        let mut ids = ids_of(changes);
        ids.extend(starts);
        let ids = dedup(ids.into_iter());
        let Some(graph) = source.commit_graph(&ids, &[]).await? else {
            return Ok(false);
        };
        self.history = Some(SourceHistory::new(source.snapshot(), graph));
        Ok(true)
    }

    /// Pushes the pending ancestors of a commit under a temporary tag, in several steps if one
    /// exceeds its limit. `upcoming` are the batches to push afterwards.
    async fn push_under_temporary_tag(
        &mut self,
        transfer: &mut Transfer<'_>,
        target: &mut dyn Target,
        tag: (BString, ObjectId),
        upcoming: Option<&UpcomingBatches<'_>>,
        progress: &mut RefProgress,
    ) -> Result<()> {
        let mut steps = vec![tag];
        while let Some((name, commit)) = steps.pop() {
            if !self.pending.contains(&commit) {
                continue;
            }
            let ancestors = self.pending_ancestors(commit);
            // A single commit cannot be split, so it is not limited.
            let limit = if ancestors.len() > 1 {
                transfer.push_limit()
            } else {
                PushLimit::default()
            };
            // A pack of all pending commits has exceeded its limit already.
            let exceeded = self
                .exceeded
                .take()
                .filter(|_| ancestors.len() == self.pending.len());
            if let Some(exceeded) = exceeded.filter(|_| ancestors.len() > 1) {
                split(&mut steps, (name, commit), &ancestors, &exceeded);
                continue;
            }
            let refs = RefsToPush {
                changes: Arc::new(vec![RefUpdate {
                    old: target.snapshot().refs.get(&name).map(|there| there.id),
                    name: name.clone(),
                    new: Some(RefValue {
                        id: commit,
                        peeled: None,
                    }),
                }]),
                temporary: true,
                ..RefsToPush::default()
            };
            let upcoming = upcoming.filter(|_| steps.is_empty());
            let next = upcoming
                .map(|upcoming| upcoming.next(&self.pending, &ancestors, target.capabilities()));
            progress.record_request(Arc::default(), &refs.changes);
            self.requested_tags.insert(name.clone());
            let next = next.unwrap_or_default();
            let report = match transfer.push(target, &refs, limit, &next).await? {
                PushResult::Reported(report) => report,
                PushResult::OverLimit(meter) => {
                    split(&mut steps, (name, commit), &ancestors, &meter);
                    continue;
                }
            };
            let Some(reason) = progress.record_temporary(report)? else {
                self.rejections = 0;
                for id in ancestors {
                    self.pending.remove(&id);
                }
                self.count_pending(transfer);
                continue;
            };
            self.rejections += 1;
            tracing::warn!(
                reference.name = %name,
                reason,
                "the target rejected a temporary tag: its commits are pushed with the next batch"
            );
            if self.rejections >= MAX_REJECTED_TAGS {
                break;
            }
        }
        Ok(())
    }

    /// Returns the pending ancestors of a commit, parents before children; the commit itself is
    /// last.
    fn pending_ancestors(&self, commit: ObjectId) -> Vec<ObjectId> {
        let graph = self.history.as_ref().map(SourceHistory::graph);
        let parents = |id: &ObjectId| {
            let found = graph.and_then(|graph| graph.get(id));
            found.map_or(&[][..], AsRef::as_ref)
        };
        let mut ordered = Vec::new();
        let mut seen = HashSet::from([commit]);
        let mut stack = vec![(commit, 0)];
        while let Some((at, next)) = stack.last_mut() {
            if let Some(parent) = parents(at).get(*next) {
                *next += 1;
                if self.pending.contains(parent) && seen.insert(*parent) {
                    stack.push((*parent, 0));
                }
            } else {
                ordered.push(*at);
                stack.pop();
            }
        }
        ordered
    }
}

/// Returns true if `commits` are more than one batch of `max_commits`, plus 5 %.
fn needs_batches(commits: usize, max_commits: u64) -> bool {
    (commits as u64).saturating_mul(20) > max_commits.saturating_mul(21)
}

/// Batches to push after the current one.
struct UpcomingBatches<'a> {
    cuts: &'a [ObjectId],
    max_commits: u64,
    changes: &'a [RefUpdate],
}

impl UpcomingBatches<'_> {
    /// Computes the ids that the next push names after `sent` of the `pending` commits.
    fn next(
        &self,
        pending: &HashSet<ObjectId>,
        sent: &[ObjectId],
        capabilities: TargetCapabilities,
    ) -> Vec<ObjectId> {
        if needs_batches(pending.len() - sent.len(), self.max_commits) {
            let sent: HashSet<_> = sent.iter().collect();
            let mut cuts = self.cuts.iter();
            let next = cuts.find(|cut| pending.contains(*cut) && !sent.contains(cut));
            return next.into_iter().copied().collect();
        }
        let changes = self.changes.iter().take(capabilities.max_changes);
        changes.filter_map(|change| Some(change.new?.id)).collect()
    }
}

/// Inserts a step for a part of a batch that exceeded its limit before the step for the whole.
/// If it exceeded its time, another failed attempt must be avoided: then the parts are the
/// oldest commit, which may be the slow one, and an eighth of the commits.
fn split(
    steps: &mut Vec<(BString, ObjectId)>,
    (name, commit): (BString, ObjectId),
    ancestors: &[ObjectId],
    exceeded: &PackMeter,
) {
    let parts = if exceeded.exceeded_time() { 8 } else { 2 };
    let part = ancestors[(ancestors.len() / parts).max(1) - 1];
    tracing::debug!(
        commit.id = %commit,
        part.id = %part,
        size_bytes = exceeded.bytes(),
        "splitting a batch"
    );
    steps.push((name, commit));
    steps.push((part_tag(part), part));
    if exceeded.exceeded_time() && part != ancestors[0] {
        steps.push((part_tag(ancestors[0]), ancestors[0]));
    }
}

/// Returns the commit of `HEAD`, then those of the branches sorted by name, in the order in
/// which the script walks them.
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

/// Returns the ids that `changes` refer to, without duplicates.
fn ids_of(changes: &[RefUpdate]) -> Vec<ObjectId> {
    dedup(changes.iter().filter_map(|change| Some(change.new?.id)))
}

/// Returns the peeled ids that `changes` refer to, in their order (branches before tags),
/// without duplicates. Not all need be commits.
fn commits_of(changes: &[RefUpdate]) -> Vec<ObjectId> {
    let targets = changes.iter().filter_map(|change| change.new);
    dedup(targets.map(|target| target.peeled.unwrap_or(target.id)))
}

fn dedup(ids: impl Iterator<Item = ObjectId>) -> Vec<ObjectId> {
    let mut seen = HashSet::new();
    ids.filter(|id| seen.insert(*id)).collect()
}
