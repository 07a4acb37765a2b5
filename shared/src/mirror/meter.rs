//! Counters of a mirroring in progress.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bstr::BString;
use futures_util::StreamExt as _;

use crate::lfs::LfsTransfer;
use crate::remote::PackBody;

/// Counters of a mirroring in progress, which another task reads. They only inform: what was done
/// is in [`MirrorStats`](super::MirrorStats).
#[derive(Default)]
pub struct MirrorMeter {
    refs_planned: AtomicU64,
    refs_done: AtomicU64,
    commits_planned: AtomicU64,
    commits_left: AtomicU64,
    pushes: AtomicU64,
    objects: AtomicU64,
    bytes: AtomicU64,
    // Counts its objects itself.
    lfs: Mutex<Option<Arc<LfsTransfer>>>,
    observer: Option<PushObserver>,
}

impl fmt::Debug for MirrorMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

/// A push that the target has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnsweredPush {
    /// Full names of the refs that were changed, without temporary tags that were deleted.
    pub refs: Vec<BString>,
    /// The refs are temporary tags of batches.
    pub temporary: bool,
    /// Number of objects in the pack.
    pub objects: u64,
}

/// Receives each push of a mirroring when it is answered.
pub type PushObserver = Box<dyn Fn(&AnsweredPush) + Send + Sync>;

/// Values of a [`MirrorMeter`] at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MeterReading {
    /// Refs to change, without temporary tags.
    pub refs_planned: u64,
    /// Refs that were changed.
    pub refs_done: u64,
    /// Commits that the target lacked; 0 if they are not counted.
    pub commits_planned: u64,
    /// Commits that the target lacks.
    pub commits_left: u64,
    /// Pushes that the target has answered.
    pub pushes: u64,
    /// Objects that the target has received.
    pub objects: u64,
    /// Bytes of packs that arrived from the source.
    pub bytes: u64,
    /// LFS objects that were copied.
    pub lfs_objects: u64,
    /// Bytes of LFS objects that were copied.
    pub lfs_bytes: u64,
}

impl MirrorMeter {
    /// Makes counters that pass each push to `observer`.
    pub fn observed(observer: PushObserver) -> Self {
        Self {
            observer: Some(observer),
            ..Self::default()
        }
    }

    /// Returns the present values.
    pub fn read(&self) -> MeterReading {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let copied = self.lfs().as_ref().map(|transfer| transfer.copied());
        let (lfs_objects, lfs_bytes) = copied.unwrap_or_default();
        MeterReading {
            refs_planned: of(&self.refs_planned),
            refs_done: of(&self.refs_done),
            commits_planned: of(&self.commits_planned),
            commits_left: of(&self.commits_left),
            pushes: of(&self.pushes),
            objects: of(&self.objects),
            bytes: of(&self.bytes),
            lfs_objects,
            lfs_bytes,
        }
    }

    fn lfs(&self) -> MutexGuard<'_, Option<Arc<LfsTransfer>>> {
        self.lfs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the LFS objects of `transfer` from now on.
    pub(super) fn watch_lfs(&self, transfer: &Arc<LfsTransfer>) {
        *self.lfs() = Some(Arc::clone(transfer));
    }

    /// Records that `count` refs remain to be changed.
    pub(super) fn plan_refs(&self, count: u64) {
        let done = self.refs_done.load(Ordering::Relaxed);
        self.refs_planned.store(done + count, Ordering::Relaxed);
    }

    /// Records that `count` commits remain to be sent.
    pub(super) fn set_commits_left(&self, count: u64) {
        self.commits_planned.fetch_max(count, Ordering::Relaxed);
        self.commits_left.store(count, Ordering::Relaxed);
    }

    /// Records a push.
    pub(super) fn add_push(&self, push: &AnsweredPush) {
        if !push.temporary {
            let refs = push.refs.len() as u64;
            self.refs_done.fetch_add(refs, Ordering::Relaxed);
        }
        self.objects.fetch_add(push.objects, Ordering::Relaxed);
        self.pushes.fetch_add(1, Ordering::Relaxed);
        if let Some(observer) = &self.observer {
            observer(push);
        }
    }
}

/// Counts the bytes of a pack as they arrive.
pub(super) fn metered(body: PackBody, meter: Option<Arc<MirrorMeter>>) -> PackBody {
    let Some(meter) = meter else {
        return body;
    };
    let count = move |chunk: &crate::git::Result<bytes::Bytes>| {
        let bytes = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        meter.bytes.fetch_add(bytes, Ordering::Relaxed);
    };
    body.inspect(count).boxed()
}
