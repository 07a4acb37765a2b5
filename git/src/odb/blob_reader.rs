//! Blobs of any size, read in pieces.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use flate2::{Decompress, FlushDecompress, Status};
use futures_util::stream::{self, BoxStream, StreamExt as _, try_unfold};

use super::Database;
use crate::error::Result;
use crate::object::{ObjectHasher, ObjectKind};
use crate::pack::EntryEncoding;
use crate::{ObjectId, corrupt};

/// Bytes of a blob's entry that are read at a time.
const READ_CHUNK_BYTES: u64 = 2 << 20;
/// Concurrent reads of a blob.
const CONCURRENT_READS: usize = 2;
/// The most bytes of a piece of content.
const PIECE_BYTES: usize = 256 * 1024;

/// The content of a blob in pieces of at most 256 KiB.
pub type BlobContent = BoxStream<'static, Result<Bytes>>;

/// A blob of a database whose content is not in memory.
pub struct BlobReader {
    database: Arc<Database>,
    id: ObjectId,
    size: u64,
    // The pack and the range of the zlib stream in it; `None` for a blob that must be read
    // into memory.
    whole: Option<(u32, Range<u64>)>,
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobReader")
            .field("id", &self.id)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// Opens a blob; `None` when it is missing. The content of a delta or of a loose object is
    /// held in memory while it is read.
    ///
    /// # Errors
    /// `Corrupt` when the object is not a blob, as far as its entry shows.
    pub async fn open(self: &Arc<Self>, id: ObjectId) -> Result<Option<BlobReader>> {
        let blob = |size, whole| BlobReader {
            database: Arc::clone(self),
            id,
            size,
            whole,
        };
        let Some(slot) = self.find(id) else {
            let Some((kind, content)) = self.read(id).await? else {
                return Ok(None);
            };
            check_is_blob(id, kind)?;
            return Ok(Some(blob(content.len() as u64, None)));
        };
        let held = &self.packs[slot.pack as usize];
        let stored = held.layout.stored(&held.blocked, slot.entry).await?;
        Ok(Some(match stored {
            EntryEncoding::Delta { size } => blob(size, None),
            EntryEncoding::Whole { kind, size, zlib } => {
                check_is_blob(id, kind)?;
                blob(size, Some((slot.pack, zlib)))
            }
        }))
    }
}

impl Database {
    /// Returns the size of a blob in bytes, without its content if it is packed; `None` when it
    /// is missing.
    pub(super) async fn blob_size(self: &Arc<Self>, id: ObjectId) -> Result<Option<u64>> {
        Ok(self.open(id).await?.map(|blob| blob.size))
    }
}

impl Database {
    /// Returns whether an object is packed as a whole blob. Reads the start of its entry.
    pub async fn is_whole_blob(&self, id: ObjectId) -> Result<bool> {
        let Some(slot) = self.find(id) else {
            return Ok(false);
        };
        let held = &self.packs[slot.pack as usize];
        let stored = held.layout.stored(&held.blocked, slot.entry).await?;
        Ok(matches!(
            stored,
            EntryEncoding::Whole {
                kind: ObjectKind::Blob,
                ..
            }
        ))
    }
}

fn check_is_blob(id: ObjectId, kind: ObjectKind) -> Result<()> {
    if kind == ObjectKind::Blob {
        return Ok(());
    }
    Err(corrupt(format!("{id} is a {kind}, and used as a file")))
}

impl BlobReader {
    /// Returns the size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Reads the content from its start, and verifies the id at its end.
    pub fn content(&self) -> BlobContent {
        let (database, id) = (Arc::clone(&self.database), self.id);
        match self.whole.clone() {
            None => in_pieces(async move { database.read_kind(id, ObjectKind::Blob).await }),
            Some((pack, zlib)) => inflated(id, self.size, zlib, move |range| {
                let database = Arc::clone(&database);
                async move { database.read_raw(pack, range).await }
            }),
        }
    }
}

/// Returns content that a future reads into memory, in pieces.
pub fn in_pieces(content: impl Future<Output = Result<Bytes>> + Send + 'static) -> BlobContent {
    let pieces = |content: Result<Bytes>| match content {
        Err(error) => vec![Err(error)],
        Ok(content) => (0..content.len())
            .step_by(PIECE_BYTES)
            .map(|start| Ok(content.slice(start..content.len().min(start + PIECE_BYTES))))
            .collect(),
    };
    let content = stream::once(content);
    Box::pin(
        content
            .map(move |content| stream::iter(pieces(content)))
            .flatten(),
    )
}

/// Returns the content of the blob `id` of `size` bytes, inflated from the range `zlib` of a
/// pack.
pub fn inflated<R>(
    id: ObjectId,
    size: u64,
    zlib: Range<u64>,
    read: impl Fn(Range<u64>) -> R + Send + 'static,
) -> BlobContent
where
    R: Future<Output = Result<Bytes>> + Send + 'static,
{
    let ranges = (zlib.start..zlib.end).step_by(usize::try_from(READ_CHUNK_BYTES).unwrap_or(1));
    let end = zlib.end;
    let input = stream::iter(ranges)
        .map(move |start| read(start..end.min(start + READ_CHUNK_BYTES)))
        .buffered(CONCURRENT_READS);
    let inflating = Inflating {
        id,
        input: Box::pin(input),
        held: Bytes::new(),
        zlib: Decompress::new(true),
        hasher: Some(ObjectHasher::new(id.kind(), ObjectKind::Blob, size)),
    };
    Box::pin(try_unfold(inflating, Inflating::next))
}

/// A blob while it is inflated.
struct Inflating {
    id: ObjectId,
    input: BlobContent,
    held: Bytes,
    zlib: Decompress,
    // `None` after the end.
    hasher: Option<ObjectHasher>,
}

impl Inflating {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        let Some(mut hasher) = self.hasher.take() else {
            return Ok(None);
        };
        let broken = || corrupt("a zlib stream is broken");
        let mut out = Vec::with_capacity(PIECE_BYTES);
        let mut status = Status::Ok;
        while out.len() < PIECE_BYTES && status != Status::StreamEnd {
            if self.held.is_empty() {
                self.held = self.input.next().await.ok_or_else(broken)??;
            }
            let before = (self.zlib.total_in(), out.len());
            status = self
                .zlib
                .decompress_vec(&self.held, &mut out, FlushDecompress::None)
                .map_err(|error| broken().with_source(error))?;
            let used = self.zlib.total_in() - before.0;
            if used == 0 && out.len() == before.1 && status != Status::StreamEnd {
                return Err(broken());
            }
            self.held.advance(
                usize::try_from(used).expect("because it is at most the length of a slice"),
            );
        }
        hasher.update(&out);
        if status == Status::StreamEnd {
            if hasher.finish()? != self.id {
                return Err(corrupt(format!(
                    "the content of object {} does not match its id",
                    self.id
                )));
            }
        } else {
            self.hasher = Some(hasher);
        }
        // Other tasks get their turn, because inflating rarely waits.
        tokio::task::yield_now().await;
        Ok(Some((out.into(), self)))
    }
}
