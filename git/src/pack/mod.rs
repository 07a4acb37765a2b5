//! Packs (`gitformat-pack`, version 2) and their indexes, without a disk and within a
//! stated bound of memory.
//!
//! A pack is received in two steps. [`PackIndexer`] reads its bytes as they arrive, while the
//! caller stores them: it verifies the framing, every zlib stream and the trailer, computes
//! the ids of undeltified objects, and resolves each delta whose base is cached.
//! [`UnresolvedPack::resolve`] then resolves the remaining deltas, reads their bases back
//! through [`PackBytes`], and returns the [`Index`]. Every object is passed once to a
//! [`Visitor`], such as [`Connectivity`].
//!
//! Memory: [`PackLimits::memory`] bounds all content in memory (cached bases, the current
//! object and the current delta, those of other threads included). In addition there are at most
//! 150 bytes for each object of the pack. An undeltified blob is never held in memory, except a
//! small one.
//!
//! Ids are computed by several threads if the machine has several processors (`workers`).

mod block_cache;
mod cache;
mod complete;
mod connectivity;
mod content;
mod delta;
mod delta_graph;
mod entry;
mod id_map;
pub mod incoming;
mod index;
mod inflate;
mod read;
mod receive;
mod resolve;
mod unresolved;
mod workers;
mod write;

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

pub(crate) use block_cache::BlockCache;
pub use block_cache::Blocks;
pub use complete::Completed;
pub use connectivity::Connectivity;
pub use delta::apply as apply_delta;
pub use entry::{EntryHeader, EntryKind};
pub use index::Index;
pub(crate) use index::IndexBuilder;
pub use read::{ContentCache, EntryEncoding, Pack, PackLayout};
pub use receive::PackIndexer;
pub use resolve::Resolved;
pub use unresolved::{SMALL_BLOB, UnresolvedPack};
pub use write::PackWriter;

use crate::error::{Error, ErrorKind, Result};
use crate::object::ObjectKind;
use crate::{HashKind, ObjectId};

/// The bytes of a pack in a stream that ends after the first error.
pub type PackBody = BoxStream<'static, Result<Bytes>>;

/// The length of a pack's header in bytes: `PACK`, the version and the number of objects.
pub const PACK_HEADER_BYTES: u64 = 12;

/// The start of a pack: its magic, and version 2.
const SIGNATURE: [u8; 8] = *b"PACK\0\0\0\x02";

/// Returns the header of a pack of `objects` objects.
pub fn pack_header(objects: u32) -> [u8; 12] {
    let mut header = [0; 12];
    header[..8].copy_from_slice(&SIGNATURE);
    header[8..].copy_from_slice(&objects.to_be_bytes());
    header
}

/// The longest chain of deltas that is followed; git writes at most 4,095.
pub(crate) const MAX_CHAIN: usize = 10_000;

/// Limits for reading a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackLimits {
    /// The most bytes of content in memory.
    pub memory: usize,
    /// The largest object, in bytes.
    pub object_bytes: u64,
    /// The most objects in one pack.
    pub objects: u32,
    /// The most bytes that deltas may expand to for each byte of pack, beyond 1 GiB in all.
    pub expansion: u64,
}

impl Default for PackLimits {
    fn default() -> Self {
        Self {
            memory: 128 << 20,
            object_bytes: 2 << 30,
            objects: 50_000_000,
            expansion: 8192,
        }
    }
}

impl PackLimits {
    /// Returns these limits with another bound of memory.
    #[must_use]
    pub fn with_memory(self, memory: usize) -> Self {
        Self { memory, ..self }
    }

    pub(crate) fn check_object(&self, size: u64) -> Result<()> {
        if size <= self.object_bytes {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::FileTooLarge,
            format!(
                "an object has {size} bytes, and {} are allowed",
                self.object_bytes
            ),
        ))
    }

    pub(crate) fn too_little_memory(&self, need: u64) -> Error {
        Error::new(
            ErrorKind::FileTooLarge,
            format!(
                "an object needs {need} bytes of memory, and {} are allowed",
                self.memory
            ),
        )
        .with_hint("raise the memory limit")
    }
}

/// The bytes of a stored pack.
#[async_trait]
pub trait PackBytes: Send + Sync {
    /// Reads exactly `range`.
    async fn read_range(&self, range: Range<u64>) -> Result<Bytes>;
}

#[async_trait]
impl PackBytes for Bytes {
    async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        let bounds = usize::try_from(range.start)
            .ok()
            .zip(usize::try_from(range.end).ok())
            .filter(|(start, end)| start <= end && *end <= self.len());
        match bounds {
            Some((start, end)) => Ok(self.slice(start..end)),
            None => Err(Error::new(
                ErrorKind::Corrupt,
                format!("a pack of {} bytes has no range {range:?}", self.len()),
            )),
        }
    }
}

/// Objects outside of a thin pack that are bases of its deltas.
#[async_trait]
pub trait Bases: Send + Sync {
    /// Reads an object; `None` when it is missing.
    async fn base(&self, id: ObjectId) -> Result<Option<(ObjectKind, Bytes)>>;
}

/// No bases, for packs that are not thin.
#[derive(Debug, Clone, Copy)]
pub struct NoBases;

#[async_trait]
impl Bases for NoBases {
    async fn base(&self, _id: ObjectId) -> Result<Option<(ObjectKind, Bytes)>> {
        Ok(None)
    }
}

/// An object of a pack that is passed to a [`Visitor`].
#[derive(Debug, Clone, Copy)]
pub struct PackObject<'a> {
    /// The verified id.
    pub id: ObjectId,
    /// The type.
    pub kind: ObjectKind,
    /// The size in bytes.
    pub size: u64,
    /// The content; `None` for blobs of more than an eighth of the memory limit, which are
    /// not held in memory.
    pub content: Option<&'a [u8]>,
}

/// Receives each object of a pack once, in no particular order.
pub trait Visitor: Send {
    /// Receives an object; an error ends the reading of the pack.
    fn object(&mut self, object: PackObject<'_>) -> Result<()>;
}

impl<F: FnMut(PackObject<'_>) -> Result<()> + Send> Visitor for F {
    fn object(&mut self, object: PackObject<'_>) -> Result<()> {
        self(object)
    }
}

/// Hashes whole files, for the trailers of packs and indexes. Detects no SHA-1 collisions,
/// because that is slow and trailers protect against accidents only.
#[derive(Clone)]
pub struct FileHasher(FileHash);

#[derive(Clone)]
enum FileHash {
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl FileHasher {
    /// Starts a file of a repository with the hash function `hash`.
    pub fn new(hash: HashKind) -> Self {
        Self(match hash {
            HashKind::Sha256 => FileHash::Sha256(sha2::Digest::new()),
            _ => FileHash::Sha1(sha1::Digest::new()),
        })
    }

    /// Adds the next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            FileHash::Sha1(inner) => sha1::Digest::update(inner, bytes),
            FileHash::Sha256(inner) => sha2::Digest::update(inner, bytes),
        }
    }

    /// Returns the hash as an id, which names a pack.
    pub fn finish(self) -> ObjectId {
        match self.0 {
            FileHash::Sha1(inner) => {
                ObjectId::from_bytes_or_panic(sha1::Digest::finalize(inner).as_slice())
            }
            FileHash::Sha256(inner) => {
                ObjectId::from_bytes_or_panic(sha2::Digest::finalize(inner).as_slice())
            }
        }
    }
}
