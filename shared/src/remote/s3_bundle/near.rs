//! Packs of bundles that have a copy on this machine's disk.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;

use super::file::{OpenBundle, pieces};
use super::layout::BundleFile;
use super::library::{Library, overlap};
use super::trailer::Proof;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::pack::PackBytes;
use crate::remote::PackBody;
use crate::remote::copies::{Copies, Copy};

/// Reads the copy, and the bundle from where the copy turns out to be broken.
pub(super) struct Near {
    pub(super) copy: Arc<Copy>,
    pub(super) bundle: OpenBundle,
}

#[async_trait]
impl PackBytes for Near {
    async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        match self.copy.read_range(range.clone()).await {
            Some(bytes) => Ok(bytes),
            None => self.bundle.read_range(range).await,
        }
    }
}

impl Library {
    /// The pack of a bundle as it lies; `None` when the bundle is not full.
    pub(super) async fn whole(&self, file: &BundleFile) -> Result<Option<PackBody>> {
        let opened = self.open(file).await?;
        if !opened.bundle.is_full() {
            return Ok(None);
        }
        let size_bytes = opened.bundle.pack_bytes();
        Ok(Some(match self.copied(&opened).await {
            Some((near, _)) => {
                let copy = Arc::clone(&near.copy);
                proven(near, size_bytes, copy)
            }
            None => pieces(Arc::new(opened.bundle), size_bytes).boxed(),
        }))
    }
}

/// The copies that were read of one remote, should one of them turn out to be forged so well
/// that it passed for whole.
pub(super) struct Doubts {
    copies: Option<Arc<Copies>>,
    read: Mutex<Vec<ObjectId>>,
    /// Some were given up: what others read of them meanwhile is in doubt, too.
    were_right: AtomicBool,
}

impl Doubts {
    pub(super) fn new(copies: Option<Arc<Copies>>) -> Self {
        Self {
            copies,
            read: Mutex::default(),
            were_right: AtomicBool::new(false),
        }
    }

    fn read(&self) -> MutexGuard<'_, Vec<ObjectId>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, pack: ObjectId) {
        self.read().push(pack);
    }

    /// What an error means where copies were read: without them everything may be well. They
    /// are given up, and the caller is to try again.
    pub(super) async fn about(&self, error: Error) -> Error {
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
                .give_up(pack, "what it holds may be another pack")
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
fn proven(bytes: Arc<dyn PackBytes>, size_bytes: u64, copy: Arc<Copy>) -> PackBody {
    let trailer = copy.pack_id().as_slice().len() as u64;
    let end = size_bytes.saturating_sub(trailer);
    let begun = (
        pieces(bytes, size_bytes).boxed(),
        Proof::new(copy.pack_id()),
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
            if at == size_bytes && !proof.is_met() {
                copy.give_up("its trailer is another").await;
                return Err(broken());
            }
            Ok(Some((piece, (pieces, proof, at))))
        }
    });
    pieces.boxed()
}
