//! Ranges of stored packs, read in pieces ahead of their use.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument as _;

use super::super::Database;
use crate::corrupt;
use crate::error::{Error, ErrorKind, Result};

/// The most bytes of a read.
const MAX_READ_BYTES: u64 = 4 << 20;
/// Concurrent reads of a pack, of as many bytes together as two of the largest ones.
const CONCURRENT_READS: usize = 8;
/// Bytes of a permit to hold bytes that were read.
const PERMIT_BYTES: u64 = 64 * 1024;

/// A piece of a range of a pack.
pub(super) struct Piece {
    pack: u32,
    start: u64,
    pub(super) bytes: Bytes,
    // Until the next piece is used.
    permit: Option<OwnedSemaphorePermit>,
}

/// Consecutive pieces of ranges of packs.
pub(super) type EntryChunks = Pin<Box<dyn Stream<Item = Result<Piece>> + Send>>;

/// Reads ranges in pieces, ahead of their use.
pub(super) fn read(
    database: &Arc<Database>,
    runs: impl Iterator<Item = Result<(u32, Range<u64>)>> + Send + 'static,
) -> EntryChunks {
    let piece = (database.limits.memory as u64 / 16).clamp(PERMIT_BYTES, MAX_READ_BYTES);
    let permits = usize::try_from(2 * piece.div_ceil(PERMIT_BYTES)).unwrap_or(usize::MAX);
    let permits = Arc::new(Semaphore::new(permits));
    let database = Arc::clone(database);
    let pieces = runs.flat_map(move |run| {
        let (pack, range, failed) = match run {
            Ok((pack, range)) => (pack, range, None),
            Err(error) => (0, 0..0, Some(Err(error))),
        };
        let starts = (range.start..range.end).step_by(usize::try_from(piece).unwrap_or(1 << 20));
        failed
            .into_iter()
            .chain(starts.map(move |start| Ok((pack, start..range.end.min(start + piece)))))
    });
    // In order, because the first piece must not wait for what later ones hold.
    let permitted = futures_util::stream::iter(pieces).then(move |piece| {
        let permits = Arc::clone(&permits);
        async move {
            let size = piece
                .as_ref()
                .map_or(0, |(_, range)| range.end - range.start);
            let count = u32::try_from(size.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
            (piece, permits.acquire_many_owned(count).await.ok())
        }
    });
    let reads = permitted.map(move |(piece, permit)| {
        let database = Arc::clone(&database);
        let read = async move {
            let (pack, range) = piece?;
            let start = range.start;
            let bytes = database.read_raw(pack, range).await?;
            Ok(Piece {
                pack,
                start,
                bytes,
                permit,
            })
        };
        // A task, so that the read continues while another piece is processed.
        tokio::spawn(read.in_current_span())
    });
    let reads = reads.buffered(CONCURRENT_READS);
    Box::pin(reads.map(|read| {
        read.unwrap_or_else(|error| {
            let message = "reading a pack failed";
            Err(Error::new(ErrorKind::Internal, message).with_source(error))
        })
    }))
}

/// Bytes that were read and not used yet.
pub(super) struct ReadBuffer {
    pieces: EntryChunks,
    pack: u32,
    start: u64,
    pub(super) bytes: Bytes,
    permit: Option<OwnedSemaphorePermit>,
}

impl ReadBuffer {
    /// Makes an empty buffer that is filled from `pieces`.
    pub(super) fn new(pieces: EntryChunks) -> Self {
        Self {
            pieces,
            pack: 0,
            start: 0,
            bytes: Bytes::new(),
            permit: None,
        }
    }

    /// Advances until the buffer starts at `from` and contains at least `length` bytes.
    pub(super) async fn seek(&mut self, pack: u32, from: u64, length: u64) -> Result<()> {
        loop {
            if self.pack == pack && self.start <= from {
                let skip = usize::try_from(from - self.start)
                    .unwrap_or(usize::MAX)
                    .min(self.bytes.len());
                let _ = self.bytes.split_to(skip);
                self.start += skip as u64;
            }
            let is_there = self.pack == pack && self.start == from;
            if is_there && self.bytes.len() as u64 >= length {
                return Ok(());
            }
            // What is kept is a part of one entry's header.
            self.permit = None;
            let next = self.pieces.next().await.transpose()?;
            let next = next.ok_or_else(|| corrupt("a pack ends before its last entry"))?;
            let end = self.start + self.bytes.len() as u64;
            if is_there && next.pack == self.pack && next.start == end && !self.bytes.is_empty() {
                let joined = [&self.bytes[..], &next.bytes[..]].concat();
                self.bytes = joined.into();
            } else {
                (self.pack, self.start, self.bytes) = (next.pack, next.start, next.bytes);
            }
            self.permit = next.permit;
        }
    }
}
