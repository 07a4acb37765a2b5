//! Transfers the LFS objects that new pointers name.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{BATCH, LfsStore, Pointer, PointerScanner, verify_stream};
use crate::error::Result;
use crate::git::pack::incoming::{PrePublishHook, ReceivedObjects};
use crate::retry::RetryPolicy;

/// Maximum number of concurrent transfers.
const MAX_TRANSFERS: usize = 8;
/// Memory of one transfer, in bytes: the part that is sent, the part that is received
/// meanwhile, and buffers between them.
const TRANSFER_BYTES: usize = 16 << 20;

/// Counts of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransferReport {
    /// Objects copied.
    pub objects: u64,
    /// Bytes of the copied objects.
    pub bytes: u64,
    /// Objects left out because one side cannot store LFS objects.
    pub left_out: u64,
}

/// Copies the objects that new pointers name, before refs move. Objects that the target has
/// are not copied, so that an interrupted transfer is resumed.
pub struct LfsTransfer {
    // Source and target; `None` where one side cannot store LFS objects.
    stores: Option<(Arc<dyn LfsStore>, Arc<dyn LfsStore>)>,
    concurrency: usize,
    retry: RetryPolicy,
    objects: AtomicU64,
    bytes: AtomicU64,
    // A set, because a push that is retried leaves the same objects out.
    left_out: Mutex<BTreeSet<Pointer>>,
}

impl fmt::Debug for LfsTransfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LfsTransfer")
            .field("concurrency", &self.concurrency)
            .field("copied", &self.copied())
            .finish_non_exhaustive()
    }
}

impl LfsTransfer {
    /// Copies from `source` to `target`, holding about `memory` bytes. If one of them is
    /// `None`, all objects are left out, with a warning.
    pub fn new(
        source: Option<Arc<dyn LfsStore>>,
        target: Option<Arc<dyn LfsStore>>,
        memory: usize,
    ) -> Self {
        let concurrency = (memory / TRANSFER_BYTES).clamp(1, MAX_TRANSFERS);
        Self {
            stores: source.zip(target),
            concurrency,
            retry: RetryPolicy::new(concurrency),
            objects: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            left_out: Mutex::default(),
        }
    }

    fn left_out(&self) -> MutexGuard<'_, BTreeSet<Pointer>> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the counts so far.
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
    /// `NotFound` for an object that the source lacks; `Corrupt` for an object that does not
    /// match its pointer.
    pub async fn copy(&self, pointers: &[Pointer]) -> Result<()> {
        // Empty objects are not copied, because git-lfs does not store them either.
        let pointers: Vec<Pointer> = pointers
            .iter()
            .filter(|pointer| pointer.size_bytes > 0)
            .cloned()
            .collect();
        if pointers.is_empty() {
            return Ok(());
        }
        let Some((source, target)) = &self.stores else {
            let mut left_out = self.left_out();
            left_out.extend(pointers);
            tracing::warn!(
                lfs.left_out = left_out.len(),
                "LFS objects are left out, because one side (such as CodeCommit) cannot store them"
            );
            return Ok(());
        };
        for batch in pointers.chunks(BATCH) {
            let missing = self.retry.run(|| target.missing(batch)).await?;
            if missing.is_empty() {
                continue;
            }
            self.retry.run(|| source.prepare(&missing)).await?;
            let copies = stream::iter(missing).map(|pointer| async move {
                self.retry
                    .run(|| transfer_object(&**source, &**target, &pointer))
                    .await?;
                self.objects.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(pointer.size_bytes, Ordering::Relaxed);
                Ok::<_, crate::Error>(())
            });
            copies
                .buffer_unordered(self.concurrency)
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
