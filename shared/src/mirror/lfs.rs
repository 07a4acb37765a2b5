//! LFS objects of a mirroring: copied with each push, and afterwards those that earlier runs left.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bstr::BString;
use futures_util::TryStreamExt as _;
use tokio::time::Instant;

use super::{MirrorOptions, temporary_tag};
use crate::error::{Error, Result};
use crate::git::ObjectId;
use crate::git::pack::PackLimits;
use crate::git::pack::incoming::BlobScanner;
use crate::lfs::{LfsTransfer, Pointer, PointerScanner, SkippedScan, TransferReport};
use crate::remote::{
    IncomingOptions, IncomingPack, LFS_RECORD_REF, PackRequest, PublishHook, ReceivedObjects,
    Remote, Snapshot,
};

/// Options of the transfer of git LFS objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LfsOptions {
    /// Approximate limit of LFS bytes in memory.
    pub memory: usize,
    /// Treatment of the objects.
    pub policy: LfsPolicy,
}

impl LfsOptions {
    /// Makes options with the default policy.
    pub fn new(memory: usize) -> Self {
        Self {
            memory,
            policy: LfsPolicy::default(),
        }
    }
}

/// Treatment of LFS objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LfsPolicy {
    /// Missing objects are counted, and requested again by each run.
    #[default]
    Copy,
    /// Missing objects are an error, and no ref that needs them moves.
    Required,
    /// Like `Copy`; and the content of all objects is read at the target and compared.
    Verify,
    /// No objects are copied. The target remembers that, so that a later run copies them.
    Skip,
}

/// The hooks of one mirroring for LFS objects.
pub(super) enum LfsWork {
    Transfer(Arc<LfsTransfer>, LfsPolicy),
    /// LFS objects are not copied, which the target remembers.
    Skip(Arc<SkippedScan>),
    /// LFS objects are ignored, or not copied to a target that keeps no record.
    None,
}

impl LfsWork {
    pub(super) fn new(
        source: &dyn Remote,
        target: &dyn Remote,
        options: Option<LfsOptions>,
    ) -> Self {
        let Some(LfsOptions { memory, policy }) = options else {
            return Self::None;
        };
        if policy == LfsPolicy::Skip {
            let skipped = SkippedScan::new(target.lfs());
            return skipped.map_or(Self::None, |skipped| Self::Skip(Arc::new(skipped)));
        }
        let transfer = LfsTransfer::new(source.lfs(), target.lfs(), memory)
            .with_required(policy == LfsPolicy::Required);
        Self::Transfer(Arc::new(transfer), policy)
    }

    /// Returns the hook that runs before refs move.
    pub(super) fn hook(&self) -> Option<Arc<dyn PublishHook>> {
        match self {
            Self::Transfer(transfer, _) => Some(Arc::clone(transfer) as _),
            Self::Skip(skipped) => Some(Arc::clone(skipped) as _),
            Self::None => None,
        }
    }

    /// Returns the constructor of the scanner that packs pass, which collects pointers.
    pub(super) fn scanner(&self) -> Option<fn() -> Box<dyn BlobScanner>> {
        match self {
            Self::Transfer(..) => Some(PointerScanner::boxed),
            Self::Skip(skipped) => skipped.scanner(),
            Self::None => None,
        }
    }

    /// Leaves out the comparison of the target's objects with its record.
    pub(super) fn skip_comparison(&self) {
        if let Self::Transfer(transfer, _) = self {
            transfer.skip_comparison();
        }
    }

    /// Starts an attempt with this snapshot of the target.
    pub(super) fn start_attempt(&self, target: &Snapshot) {
        if let Self::Skip(skipped) = self {
            skipped.set_scanned(target.tips());
        }
    }

    /// Returns true if [`finish`](Self::finish) lists the target's objects, in a run that has
    /// nothing else to do.
    pub(super) async fn lists_target(&self) -> Result<bool> {
        match self {
            Self::Transfer(transfer, _) => transfer.compares_stored_objects().await,
            Self::Skip(_) | Self::None => Ok(false),
        }
    }

    /// Returns the error for an object that takes longer than a run, in a run since `begin` that
    /// is out of time and copied no LFS object.
    pub(super) fn stuck_object_error(&self, begin: Instant) -> Option<Error> {
        match self {
            Self::Transfer(transfer, _) => transfer.stuck_object_error(begin),
            Self::Skip(_) | Self::None => None,
        }
    }

    /// Returns the counts so far.
    pub(super) async fn report(&self) -> TransferReport {
        match self {
            Self::Transfer(transfer, _) => transfer.report().await,
            Self::Skip(_) | Self::None => TransferReport::default(),
        }
    }

    /// Copies objects that earlier runs left, after all refs were mirrored.
    pub(super) async fn finish(
        &self,
        source: &dyn Remote,
        target: &dyn Remote,
        options: &MirrorOptions,
    ) -> Result<()> {
        let Self::Transfer(transfer, policy) = self else {
            return Ok(());
        };
        if *policy == LfsPolicy::Verify {
            if transfer.has_begun_verification().await? {
                transfer.verify(&[], false).await?;
            } else {
                let (pointers, is_all) = scan_all(source, target, options).await?;
                transfer.verify(&pointers, is_all).await?;
            }
        } else if let Some(scanned) = transfer.unscanned_since().await? {
            let source = source.source(&options.refs.prefixes()).await?;
            let wants = selected_tips(source.snapshot(), options);
            let pointers = scan(&*source, options.limits, wants, scanned).await?;
            transfer.copy_scanned(&pointers).await?;
        }
        transfer.restore().await?;
        transfer.check_required().await
    }
}

fn selected_tips(snapshot: &Snapshot, options: &MirrorOptions) -> Vec<ObjectId> {
    let selected = snapshot
        .refs
        .iter()
        .filter(|(name, _)| options.refs.selects(name.as_ref()));
    let mut tips: Vec<ObjectId> = selected.map(|(_, target)| target.id).collect();
    tips.sort_unstable();
    tips.dedup();
    tips
}

/// Returns the pointers in the history of all selected refs, and whether these are all refs of
/// the target.
async fn scan_all(
    source: &dyn Remote,
    target: &dyn Remote,
    options: &MirrorOptions,
) -> Result<(Vec<Pointer>, bool)> {
    let prefixes = options.refs.prefixes();
    let (source, target) = tokio::try_join!(source.source(&prefixes), target.target())?;
    let is_mirrored = |name: &BString, id: ObjectId| {
        options.refs.selects(name.as_ref())
            && source.snapshot().refs.get(name).map(|found| found.id) == Some(id)
    };
    let is_all = target
        .snapshot()
        .refs
        .iter()
        .filter(|(name, _)| !temporary_tag::is_temporary(name.as_ref()))
        .filter(|(name, _)| *name != LFS_RECORD_REF)
        .all(|(name, found)| is_mirrored(name, found.id));
    let wants = selected_tips(source.snapshot(), options);
    let pointers = scan(&*source, options.limits, wants, Vec::new()).await?;
    Ok((pointers, is_all))
}

/// Reads the objects that `wants` reach and `haves` do not; returns the pointers among them.
pub(super) async fn scan(
    source: &dyn crate::remote::Source,
    limits: PackLimits,
    wants: Vec<ObjectId>,
    haves: Vec<ObjectId>,
) -> Result<Vec<Pointer>> {
    let wants: Vec<ObjectId> = wants
        .into_iter()
        .filter(|want| !haves.contains(want))
        .collect();
    if wants.is_empty() {
        return Ok(Vec::new());
    }
    tracing::info!("scanning history for LFS pointers");
    let request = PackRequest {
        wants,
        haves,
        // Not thin, because the pointers in deltas are read without other objects.
        thin: false,
        offset_deltas: true,
    };
    let body = source.fetch(&request).await?;
    let incoming = IncomingOptions {
        hash: source.snapshot().hash,
        limits,
        scanner: Some(PointerScanner::boxed),
        commits: None,
    };
    let found = Arc::new(FoundPointers::default());
    let pack = IncomingPack::new(body, &incoming);
    let (mut pack, _) = pack.into_outgoing(Some(Arc::clone(&found) as _));
    while pack.try_next().await?.is_some() {}
    let mut found = found.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *found))
}

/// Takes the pointers out of a pack.
#[derive(Default)]
struct FoundPointers(Mutex<Vec<Pointer>>);

#[async_trait]
impl PublishHook for FoundPointers {
    async fn before_publish(&self, received: &ReceivedObjects) -> crate::git::Result<()> {
        let scanner = received.scanner::<PointerScanner>();
        let pointers = scanner.map(PointerScanner::pointers).unwrap_or_default();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pointers;
        Ok(())
    }
}
