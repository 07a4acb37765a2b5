//! A pack that is kept on the disk while it is received, so that reading it again takes no
//! request, and inserting it no second copy.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};

use super::segment::Segment;
use super::writer::{EntryWriter, WrittenEntries};
use super::{PackCache, blocking};
use crate::git::HashKind;
use crate::git::pack::PACK_HEADER_BYTES;

/// Writes the entries of a pack whose bytes arrive in order. Nothing fails: what cannot be
/// written is absent at the end.
pub(crate) struct PackCopy {
    writer: EntryWriter,
    // Bytes of the pack's header that have not arrived.
    header_left: usize,
    // The last bytes, which may be the trailer.
    held: BytesMut,
    trailer_bytes: usize,
}

/// Reads the entries of a received pack.
#[derive(Clone)]
pub(crate) struct PackCopyReader(Arc<Segment>);

impl PackCopy {
    /// Starts the copy of a pack of unknown length.
    pub(crate) fn new(cache: &PackCache, hash: HashKind) -> Self {
        Self {
            writer: cache.writer(0),
            header_left: usize::try_from(PACK_HEADER_BYTES).expect("because 12 fits"),
            held: BytesMut::new(),
            trailer_bytes: hash.len_in_bytes(),
        }
    }

    /// Receives the next bytes of the pack.
    pub(crate) async fn push(&mut self, mut bytes: Bytes) {
        let skipped = self.header_left.min(bytes.len());
        bytes.advance(skipped);
        self.header_left -= skipped;
        let total = self.held.len() + bytes.len();
        let Some(ready) = total.checked_sub(self.trailer_bytes) else {
            self.held.extend_from_slice(&bytes);
            return;
        };
        let from_held = ready.min(self.held.len());
        if from_held > 0 {
            let entries = self.held.split_to(from_held).freeze();
            self.writer.push(entries).await;
        }
        let entries = bytes.split_to(ready - from_held);
        self.held.extend_from_slice(&bytes);
        if !entries.is_empty() {
            self.writer.push(entries).await;
        }
    }

    /// Ends the pack; returns its entries and their reader, unless they could not be written.
    pub(crate) async fn finish(self) -> Option<(WrittenEntries, PackCopyReader)> {
        let written = self.writer.finish().await?;
        let id = written.segment()?;
        let path = written.directory_path().to_owned();
        let segment = blocking(move || Segment::open(&path, id)).await?;
        Some((written, PackCopyReader(Arc::new(segment))))
    }
}

impl PackCopyReader {
    /// Reads `range` of the pack; `None` if it is not within the entries, or cannot be read.
    pub(crate) async fn read_range(&self, range: Range<u64>) -> Option<Bytes> {
        let start = range.start.checked_sub(PACK_HEADER_BYTES)?;
        let end = range.end.checked_sub(PACK_HEADER_BYTES)?;
        if end > self.0.id.size {
            return None;
        }
        let segment = Arc::clone(&self.0);
        blocking(move || segment.read(start..end)).await
    }
}
