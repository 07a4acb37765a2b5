//! A thin pack and the objects that complete it, read as one pack.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::error::corrupt;
use crate::git::odb::StoredPack;
use crate::git::pack::{PackBytes, Resolved};

/// Thin pack with the objects that complete it.
pub(super) struct CompletedPack {
    header: Bytes,
    thin: Arc<dyn PackBytes>,
    /// Range of the thin pack's entries, at the same offsets in the completed pack.
    body: Range<u64>,
    /// Added entries and the trailer.
    tail: Bytes,
}

impl CompletedPack {
    /// Returns a resolved pack to read from: completed if it is thin, else as it is.
    pub(super) fn stored_pack(
        bytes: Arc<dyn PackBytes>,
        size_bytes: u64,
        resolved: &Resolved,
    ) -> StoredPack {
        let index = resolved.index.clone();
        let Some(completed) = &resolved.completed else {
            return StoredPack {
                index,
                size_bytes,
                bytes,
            };
        };
        let completed_pack = Self {
            header: Bytes::copy_from_slice(&completed.header),
            thin: bytes,
            body: completed.body.clone(),
            tail: completed.tail.clone().into(),
        };
        StoredPack {
            index,
            size_bytes: completed_pack.body.end + completed_pack.tail.len() as u64,
            bytes: Arc::new(completed_pack),
        }
    }
}

#[async_trait]
impl PackBytes for CompletedPack {
    async fn read_range(&self, range: Range<u64>) -> crate::git::Result<Bytes> {
        let length = range.end.saturating_sub(range.start);
        let mut out = BytesMut::new();
        let overlap = |part: Range<u64>| {
            let shared = range.start.max(part.start)..range.end.min(part.end);
            (shared.start < shared.end).then_some(shared)
        };
        if let Some(shared) = overlap(0..self.body.start) {
            out.extend_from_slice(&self.header.read_range(shared).await?);
        }
        if let Some(shared) = overlap(self.body.clone()) {
            out.extend_from_slice(&self.thin.read_range(shared).await?);
        }
        let end = self.body.end + self.tail.len() as u64;
        if let Some(shared) = overlap(self.body.end..end) {
            let within = shared.start - self.body.end..shared.end - self.body.end;
            out.extend_from_slice(&self.tail.read_range(within).await?);
        }
        if out.len() as u64 == length {
            Ok(out.freeze())
        } else {
            Err(corrupt(format!("the range {range:?} is outside a pack")).into())
        }
    }
}
