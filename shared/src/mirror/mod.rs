//! Mirroring: makes one remote's selected refs, and their objects, equal to another's.
//!
//! [`mirror`] reads the refs of both sides, plans the difference ([`plan()`]), and transfers
//! objects before refs. Progress is read from the target, so an equal call resumes where an
//! earlier one stopped, and a call without a difference writes nothing.
//!
//! | module | job |
//! |---|---|
//! | `mirroring` | one mirroring: from the plan to the last push |
//! | `preview` | the changes that a mirroring would make, without a write |
//! | `attempt` | retries, each attempt with a new snapshot of both sides |
//! | [`plan()`] | the difference, as ref updates (pure) |
//! | `ref_selection` | patterns that select refs (pure) |
//! | `head` | the `HEAD` that the target gets (pure) |
//! | `moved_ref`, `forced` | refs that have moved, and which of them are not fast-forwards |
//! | `batch` | splits long histories into pushes under temporary tags |
//! | `temporary_tag` | names of temporary tags (pure) |
//! | `clean` | deletes the temporary tags of an unfinished migration |
//! | `transfer` | one push: fetches a pack from the source and pushes it to the target |
//! | `prefetch` | the pack of the next push, fetched during this one |
//! | `lfs_check` | checks and repairs the LFS objects of one repository |
//! | `pack_limit` | limits of bytes and time of a pack |
//! | `progress` | ref outcomes over all attempts |
//! | `pending_changes` | ref updates whose report has not arrived |
//! | `lfs` | LFS objects, with each push and afterwards |
//! | `meter` | counters of a mirroring in progress |
//! | `compare` | compares both sides afterwards |
//! | `request` | mappings and batch limits, as JSON |
//! | `run_mapping` | one mapping of a request |
//! | `table_memory` | memory for refs and objects |
//! | `turns` | mappings side by side, and in turns where they have one target |
//! | `answer` | the result of a mapping as plain data |
//!
//! Uses remotes only through [`crate::remote::Remote`].

mod answer;
mod attempt;
mod batch;
mod clean;
mod compare;
mod forced;
mod head;
mod lfs;
mod lfs_check;
mod meter;
mod mirroring;
mod moved_ref;
mod pack_limit;
mod pending_changes;
mod plan;
mod prefetch;
mod preview;
mod progress;
mod ref_selection;
#[cfg(feature = "connect")]
mod request;
#[cfg(feature = "connect")]
mod run_mapping;
mod table_memory;
mod temporary_tag;
mod transfer;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use bstr::BString;
use tokio::time::Instant;

pub use answer::{
    LfsCounts, MappingAnswer, MappingStatus, PlanAnswer, RefCounts, describe, rejected_refs_error,
    unanswered_ref_warnings,
};
pub use attempt::ReleaseLimit;
pub use batch::BatchLimits;
pub use clean::clean;
pub use compare::{Comparison, RefDifference, compare};
pub use lfs::{LfsOptions, LfsPolicy};
pub use lfs_check::{LfsCheck, LfsNeed, check_lfs, repair_lfs};
pub use meter::{AnsweredPush, MeterReading, MirrorMeter, PushObserver};
pub use moved_ref::ForcedUpdate;
pub use plan::{MirrorPlan, PlanRules, plan};
pub use preview::{MirrorPreview, preview};
pub use ref_selection::RefSelection;
#[cfg(feature = "connect")]
pub use request::{Mapping, MappingError, MirrorRequest, MirrorTask, RequestOrigin, unknown_shape};
#[cfg(feature = "connect")]
pub use run_mapping::{MappingLimits, MappingRun, run_mapping};
pub use table_memory::TableMemory;
pub use turns::run_in_turns;

use crate::error::{Error, Result};
use crate::git::pack::PackLimits;
use crate::lfs::TransferReport;
use crate::remote::stale_ref;
use crate::remote::{IgnoredRefs, PublishHook, ReceivedObjects, Remote};
use lfs::LfsWork;
use mirroring::Mirroring;

/// Options of a mirroring.
#[derive(Clone, Default)]
pub struct MirrorOptions {
    /// Refs to mirror.
    pub refs: RefSelection,
    /// Deletes selected refs of the target that the source does not have.
    pub prune: bool,
    /// Lets `prune` delete every selected ref, if the source has none.
    pub prune_all: bool,
    /// Rejects updates that are not fast-forwards, and moved tags.
    pub fast_forward_only: bool,
    /// Limits of verifying packs.
    pub limits: PackLimits,
    /// Memory for refs and for the objects of a pack.
    pub tables: TableMemory,
    /// Transfers the git LFS objects that new pointers name; `None` ignores LFS. If a side has no
    /// LFS store (CodeCommit), they are left out with a warning.
    pub lfs: Option<LfsOptions>,
    /// Hook that runs when all objects of a push have arrived and before refs move.
    pub publish_hook: Option<Arc<dyn PublishHook>>,
    /// Commits and bytes of one push.
    pub batch: BatchLimits,
    /// Counters that another task reads meanwhile.
    pub meter: Option<Arc<MirrorMeter>>,
    /// List that a run without news requests of a target that has LFS objects.
    pub idle_list: IdleList,
    /// Maximum wait for the release of locks and uploads of an unfinished mirroring.
    pub release_within: ReleaseLimit,
}

impl std::fmt::Debug for MirrorOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MirrorOptions")
            .field("refs", &self.refs)
            .field("prune", &self.prune)
            .field("prune_all", &self.prune_all)
            .field("fast_forward_only", &self.fast_forward_only)
            .field("limits", &self.limits)
            .field("lfs", &self.lfs)
            .finish_non_exhaustive()
    }
}

/// List that a run without news requests of a target that has LFS objects: both lists would be one
/// request more than such a run makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdleList {
    /// The LFS objects, which are compared with the record.
    #[default]
    LfsObjects,
    /// Temporary objects that killed runs left.
    Leftovers,
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
    /// Updated refs whose move was not a fast-forward.
    pub forced: BTreeMap<BString, ForcedUpdate>,
    /// Refs that were deleted.
    pub deleted: u64,
    /// Selected refs that were equal before.
    pub unchanged: u64,
    /// Refs that were not changed, with the reasons.
    pub rejected: BTreeMap<BString, String>,
    /// Rejected deletions.
    pub undeleted: BTreeSet<BString>,
    /// Refs that were set aside, because they were in the way of others, with their new names.
    pub set_aside: BTreeMap<BString, BString>,
    /// Refs of the source that are left out, because git does not allow their names.
    pub ignored: IgnoredRefs,
    /// Number of objects sent.
    pub objects: u64,
    /// Bytes of packs sent.
    pub bytes: u64,
    /// Git LFS objects; not included in `objects` and `bytes`.
    pub lfs: TransferReport,
}

impl MirrorStats {
    /// Returns the number of refs that were created, moved, deleted or set aside.
    fn refs_changed(&self) -> u64 {
        self.created + self.updated + self.deleted + self.set_aside.len() as u64
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
    mirror_with_stats(source, target, options, deadline)
        .await
        .into_result()
}

/// Like [`mirror`], but also returns the counts of a failed mirroring.
pub async fn mirror_with_stats(
    source: &dyn Remote,
    target: &dyn Remote,
    options: &MirrorOptions,
    deadline: Option<Instant>,
) -> MirrorResult {
    let lfs = LfsWork::new(source, target, options.lfs);
    if let (Some(meter), LfsWork::Transfer(transfer, _)) = (&options.meter, &lfs) {
        meter.watch_lfs(transfer);
    }
    let hooks: Vec<Arc<dyn PublishHook>> = options
        .publish_hook
        .iter()
        .cloned()
        .chain(lfs.hook())
        .collect();
    let publish_hook = (!hooks.is_empty()).then(|| Arc::new(HookChain(hooks)) as _);
    let options = &MirrorOptions {
        publish_hook,
        ..options.clone()
    };
    let mut mirroring = Mirroring::new(source, target, options, (&lfs, deadline));
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
    attempt::release(&mut result, options.release_within).await;
    result
}

/// Hooks that run one after the other.
struct HookChain(Vec<Arc<dyn PublishHook>>);

#[async_trait]
impl PublishHook for HookChain {
    async fn before_publish(&self, objects: &ReceivedObjects) -> crate::git::Result<()> {
        for hook in &self.0 {
            hook.before_publish(objects).await?;
        }
        Ok(())
    }
}
