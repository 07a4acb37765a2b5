//! Making one remote's refs and objects equal to another's.
//!
//! [`mirror`] reads both sides' refs, plans the difference ([`plan()`]), and has objects go
//! over before refs. What is done is read off the target, so the same call goes on where
//! an earlier one stopped, and one that finds nothing to do writes nothing.
//!
//! Sees remotes through [`crate::remote::Remote`] alone.

mod attempt;
mod batch;
mod pack_limit;
mod plan;
mod prefetch;
mod progress;
mod ref_selection;
mod transfer;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bstr::BString;
use tokio::time::Instant;

pub use batch::{BatchLimits, clean};
pub use plan::{MirrorPlan, plan};
pub use ref_selection::RefSelection;

use crate::error::{Error, Result};
use crate::git::pack::PackLimits;
use crate::lfs::{LfsTransfer, TransferReport};
use crate::remote::{BatchPolicy as Batching, PrePublishHook, ReceivedObjects, Remote};
use attempt::Attempt;
use batch::BatchState;
use pack_limit::PushLimit;
use progress::RefProgress;
use transfer::{PushedRefs, Transfer};

/// How to mirror.
#[derive(Clone, Default)]
pub struct MirrorOptions {
    /// The refs that are mirrored.
    pub refs: RefSelection,
    /// Selected refs of the target that the source does not have are deleted.
    pub prune: bool,
    /// What verifying packs may use.
    pub limits: PackLimits,
    /// Whether objects of git LFS that new objects point to are copied. Where a side has
    /// no place for them (CodeCommit), they are left out with a warning.
    pub lfs: Option<LfsOptions>,
    /// Done when objects have arrived and before refs move.
    pub before_refs: Option<Arc<dyn PrePublishHook>>,
    /// How much goes over at once.
    pub batch: BatchLimits,
}

/// How objects of git LFS are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LfsOptions {
    /// About how many bytes of them are held.
    pub memory: usize,
}

impl std::fmt::Debug for MirrorOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("refs", &self.refs)
            .field("prune", &self.prune)
            .field("limits", &self.limits)
            .field("lfs", &self.lfs)
            .finish_non_exhaustive()
    }
}

/// What a mirroring did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MirrorStats {
    /// Whether the target is as the source was, but for what it rejected; else there was
    /// not enough time.
    pub complete: bool,
    /// Refs that were created.
    pub created: u64,
    /// Refs that were moved.
    pub updated: u64,
    /// Refs that were deleted.
    pub deleted: u64,
    /// Selected refs that were as they should be before.
    pub unchanged: u64,
    /// Refs that the target refused, with its words.
    pub rejected: BTreeMap<BString, String>,
    /// Objects that were sent.
    pub objects: u64,
    /// Bytes of packs that were sent.
    pub bytes: u64,
    /// Objects of git LFS, beside all these.
    pub lfs: TransferReport,
}

/// How a mirroring ended.
#[derive(Debug)]
pub struct MirrorResult {
    /// What was done, whatever happened afterwards.
    pub outcome: MirrorStats,
    /// Why it failed; refs that the target refused are in the outcome.
    pub error: Option<Error>,
}

impl MirrorResult {
    /// The outcome, or the failure alone.
    ///
    /// # Errors
    /// The failure.
    pub fn into_result(self) -> Result<MirrorStats> {
        self.error.map_or(Ok(self.outcome), Err)
    }
}

/// Mirrors `source` into `target`, until it is done or `deadline` has come.
///
/// What fails by the way is tried again with a new look at both sides, as long as each
/// few tries change some more refs.
///
/// # Errors
/// Failures that trying again did not help. Refs that the target refuses are in the
/// outcome.
pub async fn mirror(
    source: &dyn Remote,
    target: &dyn Remote,
    options: &MirrorOptions,
    deadline: Option<Instant>,
) -> Result<MirrorStats> {
    run(source, target, options, deadline).await.into_result()
}

/// As [`mirror`], and tells of a failure too what was done before it.
pub async fn run(
    source: &dyn Remote,
    target: &dyn Remote,
    options: &MirrorOptions,
    deadline: Option<Instant>,
) -> MirrorResult {
    let lfs = options.lfs.map(|options| {
        let copy = LfsTransfer::new(source.lfs(), target.lfs(), options.memory);
        Arc::new(copy)
    });
    let before_refs: Vec<Arc<dyn PrePublishHook>> = options
        .before_refs
        .iter()
        .cloned()
        .chain(lfs.clone().map(|lfs| lfs as Arc<dyn PrePublishHook>))
        .collect();
    let before_refs = (!before_refs.is_empty()).then(|| Arc::new(InTurn(before_refs)) as _);
    let options = &MirrorOptions {
        before_refs,
        ..options.clone()
    };
    let mut work = Mirroring {
        source,
        target,
        options,
        batches: BatchState::default(),
        deadline,
    };
    let mut ended = attempt::run_until_done(&mut work, deadline).await;
    if let Some(lfs) = lfs {
        ended.outcome.lfs = lfs.copied();
    }
    ended
}

/// Several things to be done before refs move.
struct InTurn(Vec<Arc<dyn PrePublishHook>>);

#[async_trait]
impl PrePublishHook for InTurn {
    async fn pre_publish(&self, watch: &ReceivedObjects) -> crate::git::Result<()> {
        for one in &self.0 {
            one.pre_publish(watch).await?;
        }
        Ok(())
    }
}

/// One source, one target, and what is known of the way between them.
struct Mirroring<'a> {
    source: &'a dyn Remote,
    target: &'a dyn Remote,
    options: &'a MirrorOptions,
    batches: BatchState,
    deadline: Option<Instant>,
}

#[async_trait]
impl Attempt for Mirroring<'_> {
    fn target(&self) -> &dyn Remote {
        self.target
    }

    async fn attempt(&mut self, tally: &mut RefProgress) -> Result<()> {
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
        tally.planned(&plan, source.snapshot(), target.snapshot());
        let accepts = target.accepts();
        let mut transfer = Transfer {
            source: &*source,
            options,
            bytes: options.batch.bytes_for(accepts.batches),
            deadline: self.deadline,
            ahead: None,
        };
        if accepts.batches == Batching::ByCommits {
            let batches = &mut self.batches;
            batches
                .push(&mut transfer, &mut *target, &plan.changes, tally)
                .await?;
        }
        let mut rest = plan.changes;
        let mut head = plan.head.filter(|head| target.accepts_head(head));
        let wanted = &source.snapshot().refs;
        let mut gone = Vec::new();
        while !rest.is_empty() || head.is_some() {
            let later = rest.split_off(rest.len().min(accepts.max_changes.max(1)));
            let changes = std::mem::replace(&mut rest, later);
            // `HEAD` last, when what it names is there.
            let head = if rest.is_empty() { head.take() } else { None };
            let is_last = rest.is_empty() && !tally.was_any_rejected(wanted);
            let room = accepts.max_changes.saturating_sub(changes.len());
            let mut refs = PushedRefs {
                changes,
                head,
                ..PushedRefs::default()
            };
            let most = transfer.push_limit();
            if is_last {
                refs.gone = self.batches.deletions(&*target, room);
            }
            if let Some(over) = transfer.refs(&mut *target, &refs, most, tally).await? {
                let batches = &mut self.batches;
                batches
                    .push_by_size(&mut transfer, &mut *target, (&refs.changes, over), tally)
                    .await?;
                let most = PushLimit::default();
                if is_last {
                    refs.gone = self.batches.deletions(&*target, room);
                }
                transfer.refs(&mut *target, &refs, most, tally).await?;
            }
            gone = refs.gone;
        }
        if tally.was_any_rejected(wanted) {
            // What went over for refs that were refused would be lost with the tags.
            batch::restore(&mut *target, &gone, tally).await;
        } else {
            batch::delete(&mut *target, tally, false).await?;
        }
        let kept: Vec<BString> = target
            .snapshot()
            .refs
            .keys()
            .filter(|name| options.refs.selects(name.as_ref()))
            .filter(|name| !batch::is_temporary(name.as_ref()))
            .cloned()
            .collect();
        target.refresh_archives(&kept).await
    }
}
