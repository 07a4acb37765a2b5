//! Blobs of any size, read piece by piece.

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

/// How much of a blob's bytes in the pack is read at once.
const STEP: u64 = 2 << 20;
/// How many such reads are under way at once.
const READS_AT_ONCE: usize = 2;
/// How much of a blob is handed on at once.
const PIECE: usize = 256 * 1024;

/// The content of a blob, from its start, in pieces of 256 KiB at most.
pub type BlobContent = BoxStream<'static, Result<Bytes>>;

/// A blob of a database, which is not held.
pub struct BlobReader {
    database: Arc<Database>,
    id: ObjectId,
    size: u64,
    // Its pack and where its zlib stream lies in it; `None` for what must be read whole.
    whole: Option<(u32, Range<u64>)>,
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob")
            .field("id", &self.id)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// Opens a blob; `None` when it is not there. Where it is a delta or a loose object,
    /// each reading of it holds it whole.
    ///
    /// # Errors
    /// `Corrupt` when the object is known to be no blob.
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
            is_blob(id, kind)?;
            return Ok(Some(blob(content.len() as u64, None)));
        };
        let held = &self.packs[slot.pack as usize];
        let stored = held.layout.stored(&held.blocked, slot.entry).await?;
        Ok(Some(match stored {
            EntryEncoding::Delta { size } => blob(size, None),
            EntryEncoding::Whole { kind, size, zlib } => {
                is_blob(id, kind)?;
                blob(size, Some((slot.pack, zlib)))
            }
        }))
    }
}

fn is_blob(id: ObjectId, kind: ObjectKind) -> Result<()> {
    if kind == ObjectKind::Blob {
        return Ok(());
    }
    Err(corrupt(format!("{id} is a {kind}, and used as a file")))
}

impl BlobReader {
    /// Its size.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Reads it from its start, verified at its end. Each call starts anew.
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

/// Content that is held, once it is there, in pieces.
pub fn in_pieces(content: impl Future<Output = Result<Bytes>> + Send + 'static) -> BlobContent {
    let pieces = |content: Result<Bytes>| match content {
        Err(error) => vec![Err(error)],
        Ok(content) => (0..content.len())
            .step_by(PIECE)
            .map(|start| Ok(content.slice(start..content.len().min(start + PIECE))))
            .collect(),
    };
    let content = stream::once(content);
    Box::pin(
        content
            .map(move |content| stream::iter(pieces(content)))
            .flatten(),
    )
}

/// The blob `id` of `size` bytes, inflated from the range `zlib` of a pack.
pub fn inflated<R>(
    id: ObjectId,
    size: u64,
    zlib: Range<u64>,
    read: impl Fn(Range<u64>) -> R + Send + 'static,
) -> BlobContent
where
    R: Future<Output = Result<Bytes>> + Send + 'static,
{
    let ranges = (zlib.start..zlib.end).step_by(usize::try_from(STEP).unwrap_or(1));
    let end = zlib.end;
    let input = stream::iter(ranges)
        .map(move |start| read(start..end.min(start + STEP)))
        .buffered(READS_AT_ONCE);
    let inflating = Inflating {
        id,
        input: Box::pin(input),
        held: Bytes::new(),
        zlib: Decompress::new(true),
        hasher: Some(ObjectHasher::new(id.kind(), ObjectKind::Blob, size)),
    };
    Box::pin(try_unfold(inflating, Inflating::next))
}

/// A blob on its way out of its pack.
struct Inflating {
    id: ObjectId,
    input: BlobContent,
    held: Bytes,
    zlib: Decompress,
    // Taken at the end.
    hasher: Option<ObjectHasher>,
}

impl Inflating {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        let Some(mut hasher) = self.hasher.take() else {
            return Ok(None);
        };
        let broken = || corrupt("a zlib stream is broken");
        let mut out = Vec::with_capacity(PIECE);
        let mut status = Status::Ok;
        while out.len() < PIECE && status != Status::StreamEnd {
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
            self.held
                .advance(usize::try_from(used).expect("because it is the length of a slice"));
        }
        hasher.update(&out);
        if status == Status::StreamEnd {
            if hasher.finish()? != self.id {
                return Err(corrupt(format!("the content of {} is another", self.id)));
            }
        } else {
            self.hasher = Some(hasher);
        }
        // Each file asks for much computing: others get their turn.
        tokio::task::yield_now().await;
        Ok(Some((out.into(), self)))
    }
}
