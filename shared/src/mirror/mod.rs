//! Mirroring: makes one remote's selected refs, and their objects, equal to another's.
//!
//! [`mirror`] reads the refs of both sides, plans the difference ([`plan()`]), and transfers
//! objects before refs. Progress is read from the target, so an equal call resumes where an
//! earlier one stopped, and a call without a difference writes nothing.
//!
//! | module | job |
//! |---|---|
//! | `attempt` | retries, each attempt with a new snapshot of both sides |
//! | [`plan()`] | the difference, as ref updates (pure) |
//! | `ref_selection` | patterns that select refs (pure) |
//! | `batch` | splits long histories into pushes under temporary tags |
//! | `temporary_tag` | names of temporary tags (pure) |
//! | `clean` | deletes the temporary tags of an unfinished migration |
//! | `transfer` | one push: fetches a pack from the source and pushes it to the target |
//! | `prefetch` | the pack of the next push, fetched during this one |
//! | `pack_limit` | limits of bytes and time of a pack |
//! | `progress` | ref outcomes over all attempts |
//! | `lfs` | LFS objects, with each push and afterwards |
//!
//! Uses remotes only through [`crate::remote::Remote`].

mod attempt;
mod batch;
mod clean;
mod lfs;
mod pack_limit;
mod plan;
mod prefetch;
mod progress;
mod ref_selection;
mod temporary_tag;
mod transfer;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bstr::BString;
use tokio::time::Instant;

pub use batch::BatchLimits;
pub use clean::clean;
pub use lfs::{LfsOptions, LfsPolicy};
pub use plan::{MirrorPlan, plan};
pub use ref_selection::RefSelection;

use crate::error::{Error, Result};
use crate::git::pack::PackLimits;
use crate::lfs::TransferReport;
use crate::remote::{BatchPolicy, PrePublishHook, ReceivedObjects, Remote};
use attempt::Attempt;
use batch::BatchState;
use lfs::LfsWork;
use pack_limit::PushLimit;
use progress::RefProgress;
use transfer::{PushedRefs, Transfer};

/// Options of a mirroring.
#[derive(Clone, Default)]
pub struct MirrorOptions {
    /// Refs to mirror.
    pub refs: RefSelection,
    /// Deletes selected refs of the target that the source does not have.
    pub prune: bool,
    /// Limits of verifying packs.
    pub limits: PackLimits,
    /// Transfers the git LFS objects that new pointers name; `None` ignores LFS. If a side has no
    /// LFS store (CodeCommit), they are left out with a warning.
    pub lfs: Option<LfsOptions>,
    /// Hook that runs when all objects of a push have arrived and before refs move.
    pub before_refs: Option<Arc<dyn PrePublishHook>>,
    /// Commits and bytes of one push.
    pub batch: BatchLimits,
}

impl MirrorOptions {
    /// Returns true if packs are scanned for pointers of git LFS.
    fn scans_pointers(&self) -> bool {
        self.lfs.is_some_and(|lfs| lfs.policy != LfsPolicy::Skip)
    }
}

impl std::fmt::Debug for MirrorOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MirrorOptions")
            .field("refs", &self.refs)
            .field("prune", &self.prune)
            .field("limits", &self.limits)
            .field("lfs", &self.lfs)
            .finish_non_exhaustive()
    }
}

/// Counts of a mirroring.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MirrorStats {
    /// True if the target's selected refs equal the source's, except rejected ones; false if
    /// the deadline came first.
    pub complete: bool,
    /// Refs that were created.
    pub created: u64,
    /// Refs that were moved.
    pub updated: u64,
    /// Refs that were deleted.
    pub deleted: u64,
    /// Selected refs that were equal before.
    pub unchanged: u64,
    /// Refs that the target rejected, with its reasons.
    pub rejected: BTreeMap<BString, String>,
    /// Number of objects sent.
    pub objects: u64,
    /// Bytes of packs sent.
    pub bytes: u64,
    /// Git LFS objects; not included in `objects` and `bytes`.
    pub lfs: TransferReport,
}

impl MirrorStats {
    /// Returns the number of refs that were created, moved or deleted.
    fn refs_changed(&self) -> u64 {
        self.created + self.updated + self.deleted
    }
}

/// Result of a mirroring, with its counts also after a failure.
#[derive(Debug)]
pub struct MirrorResult {
    /// Counts up to the end or the failure.
    pub stats: MirrorStats,
    /// Failure, if any; rejected refs are in `stats`.
    pub error: Option<Error>,
}

impl MirrorResult {
    /// Returns the counts, or only the failure.
    ///
    /// # Errors
    /// `self.error`.
    pub fn into_result(self) -> Result<MirrorStats> {
        self.error.map_or(Ok(self.stats), Err)
    }
}

/// Mirrors `source` into `target` until both are equal or `deadline` has come.
///
/// Failed attempts are retried with new snapshots of both sides, as long as every few attempts
/// change more refs.
///
/// # Errors
/// Failures that retries did not resolve. Refs that the target rejects are in the counts.
pub async fn mirror(
    source: &dyn Remote,
    target: &dyn Remote,
    options: &MirrorOptions,
    deadline: Option<Instant>,
) -> Result<MirrorStats> {
    run(source, target, options, deadline).await.into_result()
}

/// Like [`mirror`], but also returns the counts of a failed mirroring.
pub async fn run(
    source: &dyn Remote,
    target: &dyn Remote,
    options: &MirrorOptions,
    deadline: Option<Instant>,
) -> MirrorResult {
    let lfs = LfsWork::new(source, target, options.lfs);
    let hooks: Vec<Arc<dyn PrePublishHook>> = options
        .before_refs
        .iter()
        .cloned()
        .chain(lfs.hook())
        .collect();
    let before_refs = (!hooks.is_empty()).then(|| Arc::new(HookChain(hooks)) as _);
    let options = &MirrorOptions {
        before_refs,
        ..options.clone()
    };
    let mut mirroring = Mirroring {
        source,
        target,
        options,
        lfs: &lfs,
        batches: BatchState::default(),
        deadline,
    };
    let begin = Instant::now();
    let mut result = attempt::run_until_done(&mut mirroring, deadline).await;
    if result.stats.complete {
        let finish = lfs.finish(source, target, options);
        let finished = attempt::before_deadline(deadline, finish).await;
        result.stats.complete = matches!(finished, Some(Ok(())));
        result.error = finished.and_then(Result::err);
    }
    let has_moved = result.stats.objects > 0 || result.stats.refs_changed() > 0;
    if !result.stats.complete && result.error.is_none() && !has_moved {
        result.error = lfs.stuck_object_error(begin);
    }
    result.stats.lfs = lfs.report().await;
    attempt::release(&result).await;
    result
}

/// Hooks that run one after the other.
struct HookChain(Vec<Arc<dyn PrePublishHook>>);

#[async_trait]
impl PrePublishHook for HookChain {
    async fn pre_publish(&self, objects: &ReceivedObjects) -> crate::git::Result<()> {
        for hook in &self.0 {
            hook.pre_publish(objects).await?;
        }
        Ok(())
    }
}

/// A mirroring in progress: both remotes, and the batches pushed so far.
struct Mirroring<'a> {
    source: &'a dyn Remote,
    target: &'a dyn Remote,
    options: &'a MirrorOptions,
    lfs: &'a LfsWork,
    batches: BatchState,
    deadline: Option<Instant>,
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
        let plan = plan(
            source.snapshot(),
            target.snapshot(),
            &options.refs,
            options.prune,
        )?;
        progress.start_planned_attempt(&plan, source.snapshot(), target.snapshot());
        self.lfs.start_attempt(target.snapshot());
        let capabilities = target.accepts();
        let mut transfer = Transfer {
            source: &*source,
            options,
            max_bytes: options.batch.bytes_for(capabilities.batches),
            deadline: self.deadline,
            prefetch: None,
        };
        if capabilities.batches == BatchPolicy::ByCommits {
            let batches = &mut self.batches;
            batches
                .push(&mut transfer, &mut *target, &plan.changes, progress)
                .await?;
        }
        let is_idle = plan.changes.is_empty();
        let mut rest = plan.changes;
        let mut head = plan.head.filter(|head| target.accepts_head(head));
        let source_refs = &source.snapshot().refs;
        let mut deleted_tags = Vec::new();
        while !rest.is_empty() || head.is_some() {
            let later = rest.split_off(rest.len().min(capabilities.max_changes.max(1)));
            let changes = std::mem::replace(&mut rest, later);
            // `HEAD` with the last push, because the ref that it names must exist.
            let head = if rest.is_empty() { head.take() } else { None };
            let is_last = rest.is_empty() && !progress.was_any_rejected(source_refs);
            let free_changes = capabilities.max_changes.saturating_sub(changes.len());
            let mut refs = PushedRefs {
                changes,
                head,
                ..PushedRefs::default()
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
                    .push_by_size(
                        &mut transfer,
                        &mut *target,
                        (&refs.changes, exceeded),
                        progress,
                    )
                    .await?;
                let unlimited = PushLimit::default();
                if is_last {
                    refs.deleted_tags = self.batches.deletions(&*target, free_changes);
                }
                transfer
                    .push_refs(&mut *target, &refs, unlimited, progress)
                    .await?;
            }
            deleted_tags = refs.deleted_tags;
        }
        if progress.was_any_rejected(source_refs) {
            // The tags keep the objects of rejected refs reachable for the next run.
            batch::restore(&mut *target, &deleted_tags, progress).await;
        } else {
            batch::delete(&mut *target, progress, false).await?;
        }
        // A run without changes makes few requests: if it lists LFS objects, the next run with
        // changes deletes the leftovers.
        if !(is_idle && self.lfs.lists_target().await?) {
            clean::delete_leftovers(&mut *target).await;
        }
        let mirrored: Vec<BString> = target
            .snapshot()
            .refs
            .keys()
            .filter(|name| options.refs.selects(name.as_ref()))
            .filter(|name| !temporary_tag::is_temporary(name.as_ref()))
            .cloned()
            .collect();
        target.refresh_archives(&mirrored).await
    }
}
