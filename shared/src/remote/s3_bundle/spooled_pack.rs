//! A received pack that is too large for memory: a temporary object in S3, and a copy on the
//! disk where there is a pack cache.
//!
//! The bundle of a new ref without a base has the pack as it was received, so S3 copies it from
//! the temporary object, and no byte is read or sent again.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::git::ObjectId;
use crate::git::pack::{Index, PACK_HEADER_BYTES, PackBytes, pack_header};
use crate::pack_cache::{PackCopyReader, PackExtension, WrittenEntries};
use crate::remote::{Spool, SpoolConfig};

/// Reads a received pack, from the disk where it is there.
pub(super) struct ReceivedBytes {
    pub(super) spool: Arc<Spool>,
    pub(super) copy: Option<PackCopyReader>,
}

#[async_trait]
impl PackBytes for ReceivedBytes {
    async fn read_range(&self, range: Range<u64>) -> crate::git::Result<Bytes> {
        if let Some(copy) = &self.copy
            && let Some(bytes) = copy.read_range(range.clone()).await
        {
            return Ok(bytes);
        }
        self.spool.read_range(range).await
    }
}

/// A received pack in S3 that has all objects of its refs, and is not thin.
pub(super) struct SpooledPack {
    pub(super) place: SpoolConfig,
    pub(super) size_bytes: u64,
    pub(super) index: Index,
    pub(super) bytes: Arc<dyn PackBytes>,
    // The copy on the disk, until the pack is inserted into the pack cache.
    pub(super) written: Mutex<Option<WrittenEntries>>,
}

impl SpooledPack {
    /// Returns whether the pack consists of exactly `objects`.
    pub(super) fn consists_of(&self, objects: &[ObjectId]) -> bool {
        let is_in_pack = |id: &ObjectId| self.index.find(*id).is_some();
        self.index.len() == objects.len() && objects.iter().all(is_in_pack)
    }

    /// Reads the first `length` bytes, which end before the trailer or are all.
    pub(super) async fn start(&self, length: u64) -> crate::git::Result<Bytes> {
        let count = u32::try_from(self.index.len());
        let count = count.expect("because the pack was indexed");
        let mut start = BytesMut::from(&pack_header(count)[..]);
        if length <= PACK_HEADER_BYTES {
            return self.bytes.read_range(0..length).await;
        }
        let trailer = self.index.pack_id();
        let entries_end = self.size_bytes - trailer.as_slice().len() as u64;
        let end = length.min(entries_end);
        start.extend_from_slice(&self.bytes.read_range(PACK_HEADER_BYTES..end).await?);
        if length > entries_end {
            let rest = usize::try_from(length - entries_end).unwrap_or(usize::MAX);
            let trailer = trailer.as_slice();
            start.extend_from_slice(&trailer[..rest.min(trailer.len())]);
        }
        Ok(start.freeze())
    }

    /// Returns the pack for the pack cache, once.
    pub(super) fn extension(&self) -> Option<PackExtension> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        Some(PackExtension {
            base: None,
            written: written.take()?,
            index: self.index.clone(),
            pack: self.index.pack_id(),
            replaces_base: false,
        })
    }
}
