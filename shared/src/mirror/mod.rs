//! Making one remote's refs and objects equal to another's.
//!
//! [`mirror`] reads both sides' refs, plans the difference ([`plan()`]), and has objects go
//! over before refs. What is done is read off the target, so the same call goes on where
//! an earlier one stopped, and one that finds nothing to do writes nothing.
//!
//! Sees remotes through [`crate::remote::Remote`] alone.

mod batch;
mod plan;
mod select;
mod size;
mod tally;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bstr::BString;
use tokio::time::Instant;

pub use batch::{Batch, clean};
pub use plan::{Plan, plan};
pub use select::RefSelection;

use crate::error::Result;
use crate::git::ObjectId;
use crate::git::pack::Limits;
use crate::remote::lfs::{Copied, LfsCopy};
use crate::remote::{
    BeforeRefs, Head, Incoming, IncomingOptions, Push, RefChange, Remote, Source, Target, Wanted,
    Watch,
};
use crate::retry::Backoff;
use batch::Batches;
use size::{Flag, Limited};
use tally::Tally;

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
    /// How much goes over at once to a target that wants batches.
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
    let lfs = options.lfs.map(|options| {
        let copy = LfsCopy::new(source.lfs(), target.lfs(), options.memory);
        Arc::new(copy)
    });
    let copied = || {
        lfs.as_ref()
            .map_or_else(Copied::default, |lfs| lfs.copied())
    };
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
    let mut tally = Tally::default();
    let mut tries = 0;
    loop {
        let before = tally.steps();
        let attempt = attempt(source, target, options, &mut tally);
        let error = match until(deadline, attempt).await {
            None => return Ok(tally.into_outcome(false, copied())),
            Some(Ok(())) => return Ok(tally.into_outcome(true, copied())),
            Some(Err(error)) => error,
        };
        // Those that an attempt has brought forward were not in vain.
        tries = if tally.steps() > before { 1 } else { tries + 1 };
        match Backoff::of_anew(error.kind()) {
            Some(backoff) if tries < backoff.tries => {
                tracing::debug!(tries, error = %error.report(), "looking at both sides again");
                let wait = tokio::time::sleep(backoff.wait(tries, rand::random()));
                if until(deadline, wait).await.is_none() {
                    return Ok(tally.into_outcome(false, copied()));
                }
            }
            Some(_) => return Err(error.context(format!("gave up after {tries} tries"))),
            None => return Err(error),
        }
    }
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

/// Waits for `work`; `None` when the deadline came first.
async fn until<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        None => Some(work.await),
        Some(deadline) => tokio::time::timeout_at(deadline, work).await.ok(),
    }
}

async fn attempt(
    source: &dyn Remote,
    target: &dyn Remote,
    options: &Options,
    tally: &mut Tally,
) -> Result<()> {
    let prefixes = options.refs.prefixes();
    let (source, mut target) = tokio::try_join!(source.source(&prefixes), target.target())?;
    let plan = plan(
        source.snapshot(),
        target.snapshot(),
        &options.refs,
        options.prune,
    )?;
    tally.planned(&plan, source.snapshot(), target.snapshot());
    let batches = target.accepts().batches.then_some(Batches {
        source: &*source,
        options,
        size: options.batch,
    });
    if let Some(batches) = &batches {
        batches.push(&mut *target, &plan.changes, tally).await?;
    }
    let most = target.accepts().max_changes.max(1);
    let mut rest = plan.changes;
    let mut head = plan.head.filter(|head| target.accepts_head(head));
    while !rest.is_empty() || head.is_some() {
        let later = rest.split_off(rest.len().min(most));
        let changes = std::mem::replace(&mut rest, later);
        // `HEAD` last, when what it names is there.
        let head = if rest.is_empty() { head.take() } else { None };
        let transfer = Transfer {
            source: &*source,
            options,
            changes,
            head,
        };
        let most = batches.as_ref().map(|batches| batches.size.bytes);
        if !transfer.run(&mut *target, most, tally).await?
            && let Some(batches) = &batches
        {
            let changes = &transfer.changes;
            batches.push_halves(&mut *target, changes, tally).await?;
            transfer.run(&mut *target, None, tally).await?;
        }
    }
    if batches.is_some() {
        batch::delete(&mut *target, tally).await?;
    }
    Ok(())
}

/// One push.
struct Transfer<'a> {
    source: &'a dyn Source,
    options: &'a Options,
    changes: Vec<RefChange>,
    head: Option<Head>,
}

impl Transfer<'_> {
    /// What the target lacks.
    fn wants(&self, target: &dyn Target) -> Vec<ObjectId> {
        let there = target.snapshot().tips();
        let detached = match &self.head {
            Some(Head::Detached(id)) => Some(*id),
            _ => None,
        };
        let changes = self.changes.iter();
        let mut wants: Vec<ObjectId> = changes
            .filter_map(|change| Some(change.new?.id))
            .chain(detached)
            .filter(|id| there.binary_search(id).is_err())
            .collect();
        wants.sort_unstable();
        wants.dedup();
        wants
    }

    /// Sends what the changes need, and has the target make them; `false` when that is
    /// more than `most` bytes, and nothing was changed.
    async fn run(
        &self,
        target: &mut dyn Target,
        most: Option<u64>,
        tally: &mut Tally,
    ) -> Result<bool> {
        let wants = self.wants(target);
        let mut too_much = Flag::default();
        let pack = if wants.is_empty() {
            None
        } else {
            let accepts = target.accepts();
            let wanted = Wanted {
                wants,
                haves: target.haves().await?,
                // Of a pointer that is a delta on what is not sent, nothing could be seen.
                thin: accepts.thin && self.options.lfs.is_none(),
                offset_deltas: accepts.offset_deltas,
            };
            let limited = Limited::new(self.source.fetch(&wanted).await?, most);
            too_much = limited.flag();
            let options = IncomingOptions {
                hash: self.source.snapshot().hash,
                limits: self.options.limits,
                pointers: self.options.lfs.is_some(),
            };
            Some(Incoming::new(limited.into_body(), &options))
        };
        tally.ask(&self.changes);
        let push = Push {
            changes: self.changes.clone(),
            head: self.head.clone(),
            pack,
            before_refs: self.options.before_refs.clone(),
        };
        match target.push(push).await {
            Err(_) if too_much.is_raised() => Ok(false),
            Err(error) => Err(error),
            Ok(report) => tally.answered(report).map(|()| true),
        }
    }
}
