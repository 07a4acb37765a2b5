//! From one place to another: what the pointers in new objects name.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{BATCH, LfsStore, Pointer, PointerScanner, verify_stream};
use crate::error::Result;
use crate::remote::{PrePublishHook, ReceivedObjects};
use crate::retry::RetryPolicy;

/// The most objects on their way at once.
const MOST: usize = 8;
/// What an object on its way may hold, in bytes: a part that is sent, the one that
/// arrives meanwhile, and what is between.
const SHARE: usize = 16 << 20;

/// What was copied, and what was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransferReport {
    /// Objects that were copied.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were left out, since a side has no place for them.
    pub left_out: u64,
}

/// Copies the objects that new pointers stand for, before refs move. Those that are there
/// are left alone: what was interrupted goes on where it was.
pub struct LfsTransfer {
    // `None` where a side has no place for objects.
    sides: Option<(Arc<dyn LfsStore>, Arc<dyn LfsStore>)>,
    at_once: usize,
    pace: RetryPolicy,
    objects: AtomicU64,
    bytes: AtomicU64,
    // Each once, however often a push is tried.
    left_out: Mutex<BTreeSet<Pointer>>,
}

impl fmt::Debug for LfsTransfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LfsCopy")
            .field("at_once", &self.at_once)
            .field("copied", &self.copied())
            .finish_non_exhaustive()
    }
}

impl LfsTransfer {
    /// Copies from the first place to the second one, holding about `memory` bytes.
    /// Without one of them all objects are left out, with a warning.
    pub fn new(
        source: Option<Arc<dyn LfsStore>>,
        target: Option<Arc<dyn LfsStore>>,
        memory: usize,
    ) -> Self {
        let at_once = (memory / SHARE).clamp(1, MOST);
        Self {
            sides: source.zip(target),
            at_once,
            pace: RetryPolicy::new(at_once),
            objects: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            left_out: Mutex::default(),
        }
    }

    fn left_out(&self) -> MutexGuard<'_, BTreeSet<Pointer>> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was done so far.
    pub fn copied(&self) -> TransferReport {
        TransferReport {
            objects: self.objects.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            left_out: self.left_out().len() as u64,
        }
    }

    /// Copies those of `pointers` that the target lacks.
    ///
    /// # Errors
    /// `NotFound` for one that the source does not have; `Corrupt` for one that is not
    /// what its pointer says.
    pub async fn copy(&self, pointers: &[Pointer]) -> Result<()> {
        // git-lfs moves no empty objects either: everyone has them.
        let pointers: Vec<Pointer> = pointers
            .iter()
            .filter(|pointer| pointer.size_bytes > 0)
            .cloned()
            .collect();
        if pointers.is_empty() {
            return Ok(());
        }
        let Some((source, target)) = &self.sides else {
            let mut left_out = self.left_out();
            left_out.extend(pointers);
            tracing::warn!(
                lfs.left_out = left_out.len(),
                "objects of git LFS are left out: one side has no place for them, as CodeCommit"
            );
            return Ok(());
        };
        for batch in pointers.chunks(BATCH) {
            let missing = self.pace.run(|| target.missing(batch)).await?;
            if missing.is_empty() {
                continue;
            }
            self.pace.run(|| source.prepare(&missing)).await?;
            let copies = stream::iter(missing).map(|pointer| async move {
                self.pace
                    .run(|| transfer_object(&**source, &**target, &pointer))
                    .await?;
                self.objects.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(pointer.size_bytes, Ordering::Relaxed);
                Ok::<_, crate::Error>(())
            });
            copies
                .buffer_unordered(self.at_once)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }
}

async fn transfer_object(
    source: &dyn LfsStore,
    target: &dyn LfsStore,
    pointer: &Pointer,
) -> Result<()> {
    let content = source.read(pointer).await?;
    target.write(pointer, verify_stream(pointer, content)).await
}

#[async_trait]
impl PrePublishHook for LfsTransfer {
    async fn pre_publish(&self, watch: &ReceivedObjects) -> crate::git::Result<()> {
        let scanner = watch.scanner::<PointerScanner>();
        let pointers = scanner.map(PointerScanner::pointers).unwrap_or_default();
        Ok(self.copy(&pointers).await?)
    }
}
