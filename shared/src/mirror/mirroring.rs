//! One mirroring: reads both sides, plans, and pushes refs, then `HEAD`, then deletions.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use bstr::BString;
use tokio::time::Instant;

use super::attempt::Attempt;
use super::batch::{self, BatchState};
use super::clean;
use super::forced::FastForwardCheck;
use super::head::wanted_head;
use super::lfs::LfsWork;
use super::pack_limit::PushLimit;
use super::progress::RefProgress;
use super::stale_ref::is_stale;
use super::transfer::{RefsToPush, Transfer};
use super::{IdleList, MirrorOptions, MirrorPlan, PlanRules, plan, temporary_tag};
use crate::error::Result;
use crate::remote::{
    BatchPolicy, CommitTrace, Head, RefUpdate, Remote, Snapshot, Source, Target,
    TargetCapabilities, has_branch,
};

/// Reason why the branch that `HEAD` names is not deleted.
pub(super) const NAMED_BY_HEAD: &str = "it is the default branch; hint: make another branch the default at \
                             the target, or let the mirror do it with `\"create\": true`";

/// A mirroring in progress: both remotes, and the batches pushed so far.
pub(super) struct Mirroring<'a> {
    source: &'a dyn Remote,
    target: &'a dyn Remote,
    options: &'a MirrorOptions,
    lfs: &'a LfsWork,
    batches: BatchState,
    commits: Arc<CommitTrace>,
    deadline: Option<Instant>,
}

/// Plans the updates of a target with these capabilities.
pub(super) fn plan_for(
    source: &Snapshot,
    target: &dyn Target,
    options: &MirrorOptions,
) -> Result<MirrorPlan> {
    let rules = PlanRules {
        prune: options.prune,
        prune_all: options.prune_all,
        sets_aside: target.capabilities().sets_aside,
        head: source
            .head
            .as_ref()
            .filter(|head| target.accepts_head(head)),
    };
    plan(source, target.snapshot(), &options.refs, rules)
}

/// Returns true if `HEAD` can be set to `head` once these changes are made: the target accepts
/// it, and its ref exists, or the target accepts the name of a missing one.
pub(super) fn can_set_head(target: &dyn Target, head: &Head, changes: &[RefUpdate]) -> bool {
    let capabilities = target.capabilities();
    let exists = |name: &BString| {
        let mut changes = changes.iter();
        target.snapshot().refs.contains_key(name)
            || changes.any(|change| change.name == *name && change.new.is_some())
    };
    target.accepts_head(head)
        && match head {
            Head::Symbolic(name) => capabilities.unborn_head || exists(name),
            Head::Detached(_) => true,
        }
}

/// Returns true if a branch must not be deleted because `head` names it. A target in S3 or on disk
/// may lose it with its last branch: `leaves_branch` is whether a branch would remain.
pub(super) fn is_kept_by_head(
    capabilities: TargetCapabilities,
    name: &BString,
    head: Option<&Head>,
    leaves_branch: bool,
) -> bool {
    let may_be_empty = capabilities.unborn_head || capabilities.sets_aside;
    matches!(head, Some(Head::Symbolic(named)) if named == name) && (leaves_branch || !may_be_empty)
}

impl<'a> Mirroring<'a> {
    pub(super) fn new(
        source: &'a dyn Remote,
        target: &'a dyn Remote,
        options: &'a MirrorOptions,
        (lfs, deadline): (&'a LfsWork, Option<Instant>),
    ) -> Self {
        Self {
            source,
            target,
            options,
            lfs,
            batches: BatchState::default(),
            commits: Arc::default(),
            deadline,
        }
    }

    /// Pushes new and moved refs with their objects, deletions, and `HEAD` with the last ones.
    async fn push_changes(
        &mut self,
        transfer: &mut Transfer<'_>,
        target: &mut dyn Target,
        (changes, mut head): (Vec<RefUpdate>, Option<Head>),
        progress: &mut RefProgress,
    ) -> Result<()> {
        let capabilities = target.capabilities();
        let source = transfer.source;
        let source_refs = &source.snapshot().refs;
        let mut rest = changes;
        let mut deleted_tags = Vec::new();
        while !rest.is_empty() || head.is_some() {
            let later = rest.split_off(rest.len().min(capabilities.max_changes.max(1)));
            let changes = std::mem::replace(&mut rest, later);
            // `HEAD` with the last push, because the ref that it names must exist.
            let head = if rest.is_empty() { head.take() } else { None };
            let is_last = rest.is_empty() && !progress.was_any_rejected(source_refs);
            let free_changes = capabilities.max_changes.saturating_sub(changes.len());
            let mut refs = RefsToPush {
                changes: Arc::new(changes),
                head,
                ..RefsToPush::default()
            };
            let limit = transfer.push_limit();
            if is_last {
                refs.deleted_tags = self.batches.deletions(&*target, free_changes);
            }
            if let Some(exceeded) = transfer
                .push_refs(&mut *target, &refs, limit, progress)
                .await?
            {
                let batches = &mut self.batches;
                batches
                    .push_by_size(transfer, &mut *target, (&refs.changes, exceeded), progress)
                    .await?;
                let unlimited = PushLimit::default();
                if is_last {
                    refs.deleted_tags = self.batches.deletions(&*target, free_changes);
                }
                transfer
                    .push_refs(&mut *target, &refs, unlimited, progress)
                    .await?;
            }
            FastForwardCheck::new(source, Some(&self.commits))
                .record(progress)
                .await;
            deleted_tags = refs.deleted_tags;
        }
        if progress.was_any_rejected(source_refs) {
            // The tags keep the objects of rejected refs reachable for the next run.
            batch::restore(&mut *target, &deleted_tags, progress).await;
        } else {
            batch::delete(&mut *target, progress, false).await?;
        }
        Ok(())
    }
}

/// Pushes updates that need no objects, in as many pushes as the target requires.
async fn push_without_objects(
    transfer: &mut Transfer<'_>,
    target: &mut dyn Target,
    refs: RefsToPush,
    progress: &mut RefProgress,
) -> Result<()> {
    let max_changes = target.capabilities().max_changes.max(1);
    for changes in refs.changes.chunks(max_changes) {
        let refs = RefsToPush {
            changes: Arc::new(changes.to_vec()),
            temporary: refs.temporary,
            ..RefsToPush::default()
        };
        let unlimited = PushLimit::default();
        transfer
            .push_refs(target, &refs, unlimited, progress)
            .await?;
    }
    Ok(())
}

/// Sets `HEAD` alone.
async fn push_head(
    transfer: &mut Transfer<'_>,
    target: &mut dyn Target,
    head: Head,
    progress: &mut RefProgress,
) -> Result<()> {
    let refs = RefsToPush {
        head: Some(head),
        ..RefsToPush::default()
    };
    let unlimited = PushLimit::default();
    let pushed = transfer.push_refs(target, &refs, unlimited, progress);
    pushed.await.map(|_| ())
}

/// Copies stale refs to their new names, and then deletes them and the pruned refs that are in
/// the way of others. If `HEAD` names one of them, it is moved before: to a branch that stays,
/// else to the commit.
async fn delete_conflicting_refs(
    transfer: &mut Transfer<'_>,
    target: &mut dyn Target,
    plan: &mut MirrorPlan,
    progress: &mut RefProgress,
) -> Result<()> {
    if plan.conflicting_deletions.is_empty() {
        return Ok(());
    }
    let copies = RefsToPush {
        changes: Arc::new(std::mem::take(&mut plan.copies)),
        temporary: true,
        ..RefsToPush::default()
    };
    push_without_objects(transfer, target, copies, progress).await?;
    let mut conflicting_deletions = std::mem::take(&mut plan.conflicting_deletions);
    let refs = &target.snapshot().refs;
    conflicting_deletions.retain(|deletion| match plan.set_aside.get(&deletion.name) {
        Some(kept) => refs.get(kept).map(|kept| kept.id) == deletion.old,
        None => true,
    });
    let current = target.snapshot().head.clone();
    if let Some(Head::Symbolic(current)) = &current
        && let Some(at) = conflicting_deletions
            .iter()
            .position(|deletion| deletion.name == *current)
    {
        let mut staying = target.snapshot().refs.clone();
        for deletion in conflicting_deletions.iter().chain(&plan.deletions) {
            staying.remove(&deletion.name);
        }
        let other_branch = wanted_head(plan.head.as_ref(), &staying, None)
            .filter(|head| matches!(head, Head::Symbolic(name) if staying.contains_key(name)));
        let detached = conflicting_deletions[at].old.map(Head::Detached);
        let mut candidates = other_branch.into_iter().chain(detached);
        if let Some(interim) = candidates.find(|head| can_set_head(target, head, &[])) {
            push_head(transfer, target, interim, progress).await?;
        } else if !target.capabilities().head {
            let kept = conflicting_deletions.remove(at);
            progress.record_undeleted(kept.name, NAMED_BY_HEAD);
        }
    }
    let conflicting_deletions = RefsToPush {
        changes: Arc::new(conflicting_deletions),
        ..RefsToPush::default()
    };
    push_without_objects(transfer, target, conflicting_deletions, progress).await
}

#[async_trait]
impl Attempt for Mirroring<'_> {
    fn target(&self) -> &dyn Remote {
        self.target
    }

    async fn attempt(&mut self, progress: &mut RefProgress) -> Result<()> {
        let options = self.options;
        let prefixes = options.refs.prefixes();
        let (source, mut target) =
            tokio::try_join!(self.source.source(&prefixes), self.target.target())?;
        let source: &dyn Source = &*source;
        let target = &mut *target;
        let refs = source.snapshot().refs.len() + target.snapshot().refs.len();
        let limits = options.tables.limit(options.limits, refs)?;
        let mut plan = plan_for(source.snapshot(), target, options)?;
        if options.fast_forward_only {
            FastForwardCheck::new(source, None)
                .reject_forced(&mut plan)
                .await;
        }
        progress.start_planned_attempt(&plan, source.snapshot(), target.snapshot());
        if let Some(meter) = &options.meter {
            let changes =
                plan.changes.len() + plan.conflicting_deletions.len() + plan.deletions.len();
            meter.plan_refs(changes as u64);
        }
        self.lfs.start_attempt(target.snapshot());
        FastForwardCheck::new(source, Some(&self.commits))
            .record(progress)
            .await;
        let capabilities = target.capabilities();
        let is_idle = [&plan.changes, &plan.conflicting_deletions, &plan.deletions]
            .iter()
            .all(|changes| changes.is_empty());
        let moves_refs = plan.changes.iter().any(|change| change.old.is_some());
        let mut transfer = Transfer {
            source,
            options,
            limits,
            max_bytes: options.batch.bytes_for(capabilities.batches),
            deadline: self.deadline,
            commits: moves_refs.then(|| Arc::clone(&self.commits)),
            scanner: self.lfs.scanner(),
            prefetch: None,
        };
        delete_conflicting_refs(&mut transfer, target, &mut plan, progress).await?;
        if capabilities.batches == BatchPolicy::ByCommits {
            let batches = &mut self.batches;
            batches
                .push(&mut transfer, target, &plan.changes, progress)
                .await?;
        }
        // The branch that `HEAD` names is deleted only after `HEAD` has moved.
        let current = match &target.snapshot().head {
            Some(Head::Symbolic(name)) => Some(name.clone()),
            _ => None,
        };
        let (former_default, deletions): (Vec<_>, Vec<_>) = std::mem::take(&mut plan.deletions)
            .into_iter()
            .partition(|deletion| Some(&deletion.name) == current.as_ref());
        let mut changes = std::mem::take(&mut plan.changes);
        changes.extend(deletions);
        let head = plan.head.take();
        let head = head.filter(|head| can_set_head(target, head, &changes));
        self.push_changes(&mut transfer, target, (changes, head), progress)
            .await?;
        self.finish_head(&mut transfer, target, former_default, progress)
            .await?;
        // A run without changes makes few requests, and lists either LFS objects or leftovers.
        let lists_lfs = is_idle && self.lfs.lists_target().await?;
        if !lists_lfs || options.idle_list == IdleList::Leftovers {
            clean::delete_leftovers(target).await;
        }
        if lists_lfs && options.idle_list == IdleList::Leftovers {
            self.lfs.skip_comparison();
        }
        let mirrored: Vec<BString> = target
            .snapshot()
            .refs
            .keys()
            .filter(|name| options.refs.selects(name.as_ref()) && !is_stale(name.as_ref()))
            .filter(|name| !temporary_tag::is_temporary(name.as_ref()))
            .cloned()
            .collect();
        target.repair(&mirrored).await?;
        target.refresh_archives(&mirrored).await
    }
}

impl Mirroring<'_> {
    /// Sets `HEAD` again if the branch that it was to name was rejected, and deletes the branch
    /// that it named before.
    async fn finish_head(
        &self,
        transfer: &mut Transfer<'_>,
        target: &mut dyn Target,
        former_default: Vec<RefUpdate>,
        progress: &mut RefProgress,
    ) -> Result<()> {
        // Not copied if nothing is deleted, because names take much memory.
        let mut after = Cow::Borrowed(&target.snapshot().refs);
        for deletion in &former_default {
            after.to_mut().remove(&deletion.name);
        }
        let selects = |head: &&Head| match head {
            Head::Symbolic(name) => self.options.refs.selects(name.as_ref()),
            Head::Detached(_) => true,
        };
        let source_head = transfer.source.snapshot().head.as_ref();
        let source_head = source_head.filter(|head| target.accepts_head(head));
        let current = target.snapshot().head.clone();
        let wanted = wanted_head(source_head.filter(selects), &*after, current.as_ref());
        let leaves_branch = has_branch(&after);
        if let Some(wanted) = wanted
            .clone()
            .filter(|wanted| Some(wanted) != current.as_ref())
            && can_set_head(target, &wanted, &[])
        {
            push_head(transfer, target, wanted, progress).await?;
        }
        let mut deletions = Vec::new();
        for deletion in former_default {
            let head = target.snapshot().head.as_ref();
            if is_kept_by_head(target.capabilities(), &deletion.name, head, leaves_branch) {
                progress.record_undeleted(deletion.name, NAMED_BY_HEAD);
            } else {
                deletions.push(deletion);
            }
        }
        let refs = RefsToPush {
            changes: Arc::new(deletions),
            ..RefsToPush::default()
        };
        push_without_objects(transfer, target, refs, progress).await?;
        // Without its last branch, a target accepts a `HEAD` that names a missing one.
        let Snapshot { refs, head, .. } = target.snapshot();
        if let Some(wanted) = wanted.filter(|wanted| Some(wanted) != head.as_ref())
            && !has_branch(refs)
            && can_set_head(target, &wanted, &[])
        {
            push_head(transfer, target, wanted, progress).await?;
        }
        Ok(())
    }
}
