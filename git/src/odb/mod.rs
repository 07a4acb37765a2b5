//! An object database made of packs that lie anywhere, and of loose objects.
//!
//! - [`Database`]: objects by id, verified as they are read; [`BlobReader`] for one in pieces.
//! - [`reachable_objects`], [`commit_graph`]: what is reachable from one set of objects and not from
//!   another.
//! - [`pack_objects()`]: a pack of chosen objects, copied as they lie compressed.
//! - [`fetch`]: all three, as a source is asked for it.
//!
//! Memory: [`DatabaseOptions::limits`] bounds the content held at once. Beside it there
//! are each pack's index and 4 bytes for each of its objects; while objects are chosen, 33
//! bytes for each chosen one, 200 for each commit looked at and a quarter byte for every
//! object there is; while a pack is sent, 16 bytes for each object of it.
//!
//! May use [`crate`] alone; the packs are behind [`PackBytes`].

mod abbreviate;
mod blob_reader;
mod block_cache;
mod loose;
mod object_set;
mod pack_objects;
mod reachable;
mod rev_walk;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Mutex;

pub use blob_reader::{BlobContent, BlobReader};
pub use blob_reader::{in_pieces, inflated};
use block_cache::{BlockCache, CachedBlocks};
pub use loose::{LooseObjects, whole};
pub use object_set::ReceiverObjects;
pub use pack_objects::{PackOptions, indexed_pack, pack_objects};
pub use reachable::{Closure, reachable_objects};
pub use rev_walk::{CommitGraph, HistoryCommit, commit_graph, graph};

use crate::error::{Error, ErrorKind, Result};
use crate::object::{ObjectKind, Reference, references};
use crate::pack::{Bases, ContentCache, Index, PackBody, PackBytes, PackLayout, PackLimits};
use crate::{HashKind, ObjectId, corrupt};

/// The objects that a receiver asks a source for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackRequest {
    /// Objects to send, with all objects that they need. At least one.
    pub wants: Vec<ObjectId>,
    /// Objects that the receiver has, with all objects that they need. The source need not
    /// have any of them.
    pub haves: Vec<ObjectId>,
    /// Allows deltas whose bases are not in the pack but at the receiver.
    pub thin: bool,
    /// Allows deltas that name their bases by distance.
    pub offset_deltas: bool,
}

/// A pack that lies somewhere.
#[derive(Clone)]
pub struct StoredPack {
    /// Its index.
    pub index: Index,
    /// Its length.
    pub size_bytes: u64,
    /// Its bytes.
    pub bytes: Arc<dyn PackBytes>,
}

impl fmt::Debug for StoredPack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackAt")
            .field("index", &self.index)
            .field("size_bytes", &self.size_bytes)
            .finish_non_exhaustive()
    }
}

/// How a database reads.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseOptions {
    /// What reading may use, for all packs together.
    pub limits: PackLimits,
    /// How much of a pack is read at once, to look at objects. Made smaller where little
    /// memory is allowed.
    pub block_bytes: u64,
}

impl Default for DatabaseOptions {
    /// Blocks of 2 MiB, for packs that are a request away.
    fn default() -> Self {
        Self {
            limits: PackLimits::default(),
            block_bytes: 2 << 20,
        }
    }
}

/// Where an object lies: the number of the pack, and the entry in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ObjectLocation {
    pack: u32,
    entry: u32,
}

struct OpenPack {
    layout: PackLayout,
    raw: Arc<dyn PackBytes>,
    blocked: CachedBlocks,
}

/// Objects in packs that lie anywhere, and loose ones.
///
/// Where an object is in several packs, the first one is read.
pub struct Database {
    hash: HashKind,
    limits: PackLimits,
    packs: Vec<OpenPack>,
    loose: Option<Arc<dyn LooseObjects>>,
    cache: Mutex<ContentCache>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("hash", &self.hash)
            .field("packs", &self.packs.len())
            .finish_non_exhaustive()
    }
}

impl Database {
    /// A database of these packs, none of them thin.
    ///
    /// # Errors
    /// `Corrupt` when an index is of another hash function, or has too many objects.
    pub fn new(
        hash: HashKind,
        packs: impl IntoIterator<Item = StoredPack>,
        loose: Option<Arc<dyn LooseObjects>>,
        options: DatabaseOptions,
    ) -> Result<Self> {
        let limits = options.limits;
        let pool = Arc::new(BlockCache::new(limits.memory / 4, options.block_bytes));
        let hold = |(number, at): (usize, StoredPack)| {
            if at.index.hash() != hash {
                let pack = at.index.pack_id();
                return Err(corrupt(format!("pack {pack} is not one of {hash}")));
            }
            let number =
                u32::try_from(number).map_err(|_| corrupt("a database has too many packs"))?;
            Ok(OpenPack {
                layout: PackLayout::new(at.index, at.size_bytes)?,
                raw: Arc::clone(&at.bytes),
                blocked: CachedBlocks::new(Arc::clone(&pool), number, at.size_bytes, at.bytes),
            })
        };
        Ok(Self {
            hash,
            // Content in work, what is remembered of it, blocks, and packs on their way
            // out have a share each.
            limits: limits.with_memory(limits.memory / 2),
            packs: packs
                .into_iter()
                .enumerate()
                .map(hold)
                .collect::<Result<_>>()?,
            loose,
            cache: Mutex::new(ContentCache::new(limits.memory / 4)),
        })
    }

    /// The hash function of its ids.
    pub fn hash(&self) -> HashKind {
        self.hash
    }

    /// How many objects its packs have, those in several packs counted as often.
    pub fn packed_objects(&self) -> usize {
        self.packs.iter().map(|held| held.layout.len()).sum()
    }

    /// Whether an object is in a pack. Reads nothing.
    pub fn is_packed(&self, id: ObjectId) -> bool {
        self.find(id).is_some()
    }

    /// Whether an object is there, in a pack or loose.
    pub async fn contains(&self, id: ObjectId) -> Result<bool> {
        match &self.loose {
            _ if self.is_packed(id) => Ok(true),
            Some(loose) => loose.contains(id).await,
            None => Ok(false),
        }
    }

    /// Reads an object whole and verifies it; `None` when it is not there.
    ///
    /// # Errors
    /// `FileTooLarge` when it does not fit into memory.
    pub async fn read(&self, id: ObjectId) -> Result<Option<(ObjectKind, Bytes)>> {
        if let Some(ObjectLocation { pack, entry }) = self.find(id) {
            let held = &self.packs[pack as usize];
            let mut cache = self.cache.lock().await;
            let found = held
                .layout
                .read(&held.blocked, entry, self.limits, &mut cache, pack);
            return found
                .await
                .map(Some)
                .map_err(|error| error.context(format!("reading {id}")));
        }
        match &self.loose {
            Some(loose) => loose::read(&**loose, id, self.limits).await,
            None => Ok(None),
        }
    }

    /// Reads an object that must be there and be of that kind.
    ///
    /// # Errors
    /// `Corrupt`, naming the object, when it is not there or of another kind.
    pub async fn read_kind(&self, id: ObjectId, kind: ObjectKind) -> Result<Bytes> {
        let found = self.read(id).await?;
        let (is, content) = found.ok_or_else(|| missing(id, kind))?;
        if is == kind {
            Ok(content)
        } else {
            Err(corrupt(format!("{id} is a {is}, and used as a {kind}")))
        }
    }

    /// What an object stands for in the end, with its kind: itself, or what a tag, or a tag
    /// of a tag, names.
    ///
    /// # Errors
    /// `NotFound` when the object is not there; `Corrupt` when what its tag names is not.
    pub async fn peel(&self, id: ObjectId) -> Result<(ObjectId, ObjectKind)> {
        let mut tags = Vec::new();
        self.peel_recording_tags(id, &mut tags).await
    }

    /// Peels an object, and tells the tags on the way.
    async fn peel_recording_tags(
        &self,
        id: ObjectId,
        tags: &mut Vec<ObjectId>,
    ) -> Result<(ObjectId, ObjectKind)> {
        let mut at = id;
        let mut named = None;
        loop {
            // A blob is not read to know that it is one.
            if named == Some(ObjectKind::Blob) && self.contains(at).await? {
                return Ok((at, ObjectKind::Blob));
            }
            let Some((kind, content)) = self.read(at).await? else {
                return Err(match named {
                    Some(kind) => missing(at, kind),
                    None => Error::new(ErrorKind::NotFound, format!("object {at}")),
                });
            };
            if named.is_some_and(|named| named != kind) {
                return Err(corrupt(format!("{at} is not what a tag says it is")));
            }
            if kind != ObjectKind::Tag {
                return Ok((at, kind));
            }
            tags.push(at);
            references(self.hash, kind, &content, |reference| {
                if let Reference::Target(target, kind) = reference {
                    at = target;
                    named = Some(kind);
                }
            })?;
        }
    }

    fn find(&self, id: ObjectId) -> Option<ObjectLocation> {
        (0..).zip(&self.packs).find_map(|(pack, held)| {
            let entry = held.layout.find(id)?;
            Some(ObjectLocation { pack, entry })
        })
    }

    fn layout(&self, pack: u32) -> &PackLayout {
        &self.packs[pack as usize].layout
    }

    async fn read_raw(&self, pack: u32, range: Range<u64>) -> Result<Bytes> {
        let length = range.end - range.start;
        let bytes = self.packs[pack as usize].raw.read_range(range).await?;
        if bytes.len() as u64 == length {
            Ok(bytes)
        } else {
            Err(corrupt("a range of a pack was read short"))
        }
    }
}

#[async_trait]
impl Bases for Database {
    async fn base(&self, id: ObjectId) -> Result<Option<(ObjectKind, Bytes)>> {
        self.read(id).await
    }
}

fn missing(id: ObjectId, kind: ObjectKind) -> Error {
    corrupt(format!("{kind} {id} is needed and not there"))
}

/// Sends what a source is asked for: the pack of [`reachable_objects`].
///
/// # Errors
/// `Conflict` when what a ref named, or a pack that was there, is not there any more.
pub async fn fetch(database: &Arc<Database>, wanted: &PackRequest) -> Result<PackBody> {
    let closure = reachable_objects(database, &wanted.wants, &wanted.haves).await;
    let closure = closure.map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            let message = "the source changed while it was read";
            Error::new(ErrorKind::Conflict, message).with_source(error)
        }
        _ => error,
    })?;
    let options = PackOptions {
        known: wanted.thin.then_some(closure.known),
        offset_deltas: wanted.offset_deltas,
    };
    pack_objects(database, closure.objects, options)
}
