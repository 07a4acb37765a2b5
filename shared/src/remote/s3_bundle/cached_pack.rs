//! Packs of bundles that have a copy on this machine's disk.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;

use super::bundle_reader::{OpenBundle, pieces};
use super::catalog::{BundleCatalog, overlap};
use super::checksum::PackChecksum;
use super::keys::BundleFile;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::pack::PackBytes;
use crate::pack_cache::{CachedPack, PackCache};
use crate::remote::PackBody;

/// Reads the copy, and the bundle from where the copy turns out to be broken.
pub(super) struct CachedPackReader {
    pub(super) copy: Arc<CachedPack>,
    pub(super) bundle: OpenBundle,
}

#[async_trait]
impl PackBytes for CachedPackReader {
    async fn read_range(&self, range: Range<u64>) -> crate::git::Result<Bytes> {
        match self.copy.read_range(range.clone()).await {
            Some(bytes) => Ok(bytes),
            None => self.bundle.read_range(range).await,
        }
    }
}

impl BundleCatalog {
    /// The pack of a bundle as it lies; `None` when the bundle is not full.
    pub(super) async fn cached_or_remote_pack(
        &self,
        file: &BundleFile,
    ) -> Result<Option<PackBody>> {
        let opened = self.open(file).await?;
        if !opened.bundle.is_full() {
            return Ok(None);
        }
        let size_bytes = opened.bundle.pack_bytes();
        Ok(Some(match self.copied(&opened).await {
            Some((near, _)) => {
                let copy = Arc::clone(&near.copy);
                verified_stream(near, size_bytes, copy)
            }
            None => pieces(Arc::new(opened.bundle), size_bytes).boxed(),
        }))
    }
}

/// The copies that were read of one remote, should one of them turn out to be forged so well
/// that it passed for whole.
pub(super) struct CacheSuspects {
    copies: Option<Arc<PackCache>>,
    read: Mutex<Vec<ObjectId>>,
    /// Some were given up: what others read of them meanwhile is in doubt, too.
    were_right: AtomicBool,
}

impl CacheSuspects {
    pub(super) fn new(copies: Option<Arc<PackCache>>) -> Self {
        Self {
            copies,
            read: Mutex::default(),
            were_right: AtomicBool::new(false),
        }
    }

    fn read(&self) -> MutexGuard<'_, Vec<ObjectId>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record_read(&self, pack: ObjectId) {
        self.read().push(pack);
    }

    /// What an error means where copies were read: without them everything may be well. They
    /// are given up, and the caller is to try again.
    pub(super) async fn discard_on_error(&self, error: Error) -> Error {
        let Some(copies) = self
            .copies
            .as_ref()
            .filter(|_| error.kind() == ErrorKind::Corrupt)
        else {
            return error;
        };
        let read = std::mem::take(&mut *self.read());
        if read.is_empty() && !self.were_right.load(Ordering::Relaxed) {
            return error;
        }
        self.were_right.store(true, Ordering::Relaxed);
        for pack in read {
            copies
                .discard(pack, "what it holds may be another pack")
                .await;
        }
        broken().with_source(error)
    }
}

fn broken() -> Error {
    let message = "a copy of a pack on this machine's disk may be another pack";
    Error::new(ErrorKind::Conflict, message).with_hint("try again: it is not read any more")
}

/// The bytes of a copied pack, the last of which are handed on only when all were the pack's.
fn verified_stream(bytes: Arc<dyn PackBytes>, size_bytes: u64, copy: Arc<CachedPack>) -> PackBody {
    let trailer = copy.pack_id().as_slice().len() as u64;
    let end = size_bytes.saturating_sub(trailer);
    let begun = (
        pieces(bytes, size_bytes).boxed(),
        PackChecksum::new(copy.pack_id()),
        0,
    );
    let pieces = futures_util::stream::try_unfold(begun, move |(mut pieces, proof, at)| {
        let copy = Arc::clone(&copy);
        async move {
            let Some(piece) = pieces.next().await.transpose()? else {
                return Ok(None);
            };
            let proof = proof.update(overlap(&piece, at, &(0..end))).await?;
            let at = at + piece.len() as u64;
            if at == size_bytes && !proof.matches() {
                copy.give_up("its trailer is another").await;
                return Err(broken().into());
            }
            Ok(Some((piece, (pieces, proof, at))))
        }
    });
    pieces.boxed()
}
