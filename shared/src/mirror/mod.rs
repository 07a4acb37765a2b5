//! Making one remote's refs and objects equal to another's.
//!
//! [`mirror`] reads both sides' refs, plans the difference ([`plan()`]), and has objects go
//! over before refs. What is done is read off the target, so the same call goes on where
//! an earlier one stopped, and one that finds nothing to do writes nothing.
//!
//! Sees remotes through [`crate::remote::Remote`] alone.

mod ahead;
mod anew;
mod batch;
mod plan;
mod select;
mod size;
mod tally;
mod transfer;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bstr::BString;
use tokio::time::Instant;

pub use batch::{Batch, clean};
pub use plan::{Plan, plan};
pub use select::RefSelection;

use crate::error::{Error, Result};
use crate::git::pack::Limits;
use crate::remote::lfs::{Copied, LfsCopy};
use crate::remote::{Batches as Batching, BeforeRefs, Remote, Watch};
use anew::Work;
use batch::Batches;
use size::Most;
use tally::Tally;
use transfer::{Refs, Transfer};

/// How to mirror.
#[derive(Clone, Default)]
pub struct Options {
    /// The refs that are mirrored.
    pub refs: RefSelection,
    /// Selected refs of the target that the source does not have are deleted.
    pub prune: bool,
    /// What verifying packs may use.
    pub limits: Limits,
    /// Whether objects of git LFS that new objects point to are copied. Where a side has
    /// no place for them (CodeCommit), they are left out with a warning.
    pub lfs: Option<LfsOptions>,
    /// Done when objects have arrived and before refs move.
    pub before_refs: Option<Arc<dyn BeforeRefs>>,
    /// How much goes over at once.
    pub batch: Batch,
}

/// How objects of git LFS are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LfsOptions {
    /// About how many bytes of them are held.
    pub memory: usize,
}

impl std::fmt::Debug for Options {
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
pub struct Outcome {
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
    pub lfs: Copied,
}

/// How a mirroring ended.
#[derive(Debug)]
pub struct Ended {
    /// What was done, whatever happened afterwards.
    pub outcome: Outcome,
    /// Why it failed; refs that the target refused are in the outcome.
    pub error: Option<Error>,
}

impl Ended {
    /// The outcome, or the failure alone.
    ///
    /// # Errors
    /// The failure.
    pub fn into_result(self) -> Result<Outcome> {
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
    options: &Options,
    deadline: Option<Instant>,
) -> Result<Outcome> {
    run(source, target, options, deadline).await.into_result()
}

/// As [`mirror`], and tells of a failure too what was done before it.
pub async fn run(
    source: &dyn Remote,
    target: &dyn Remote,
    options: &Options,
    deadline: Option<Instant>,
) -> Ended {
    let lfs = options.lfs.map(|options| {
        let copy = LfsCopy::new(source.lfs(), target.lfs(), options.memory);
        Arc::new(copy)
    });
    let before_refs: Vec<Arc<dyn BeforeRefs>> = options
        .before_refs
        .iter()
        .cloned()
        .chain(lfs.clone().map(|lfs| lfs as Arc<dyn BeforeRefs>))
        .collect();
    let before_refs = (!before_refs.is_empty()).then(|| Arc::new(InTurn(before_refs)) as _);
    let options = &Options {
        before_refs,
        ..options.clone()
    };
    let mut work = Mirroring {
        source,
        target,
        options,
        batches: Batches::default(),
        deadline,
    };
    let mut ended = anew::run(&mut work, deadline).await;
    if let Some(lfs) = lfs {
        ended.outcome.lfs = lfs.copied();
    }
    ended
}

/// Several things to be done before refs move.
struct InTurn(Vec<Arc<dyn BeforeRefs>>);

#[async_trait]
impl BeforeRefs for InTurn {
    async fn objects_arrived(&self, watch: &Watch) -> Result<()> {
        for one in &self.0 {
            one.objects_arrived(watch).await?;
        }
        Ok(())
    }
}

/// One source, one target, and what is known of the way between them.
struct Mirroring<'a> {
    source: &'a dyn Remote,
    target: &'a dyn Remote,
    options: &'a Options,
    batches: Batches,
    deadline: Option<Instant>,
}

#[async_trait]
impl Work for Mirroring<'_> {
    fn target(&self) -> &dyn Remote {
        self.target
    }

    async fn attempt(&mut self, tally: &mut Tally) -> Result<()> {
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
            let is_last = rest.is_empty() && !tally.refused_one_of(wanted);
            let room = accepts.max_changes.saturating_sub(changes.len());
            let mut refs = Refs {
                changes,
                head,
                ..Refs::default()
            };
            let most = transfer.most();
            if is_last {
                refs.gone = self.batches.deletions(&*target, room);
            }
            if let Some(over) = transfer.refs(&mut *target, &refs, most, tally).await? {
                let batches = &mut self.batches;
                batches
                    .push_pieces(&mut transfer, &mut *target, (&refs.changes, over), tally)
                    .await?;
                let most = Most::default();
                if is_last {
                    refs.gone = self.batches.deletions(&*target, room);
                }
                transfer.refs(&mut *target, &refs, most, tally).await?;
            }
            gone = refs.gone;
        }
        if tally.refused_one_of(wanted) {
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
        target.tend(&kept).await
    }
}
