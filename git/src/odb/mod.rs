//! An object database over stored packs and loose objects.
//!
//! - [`Database`]: objects by id, verified as they are read; [`BlobReader`] for a blob in
//!   pieces.
//! - [`reachable_objects`], [`commit_graph`]: objects and commits that are reachable from one
//!   set of objects and not from another. [`select_objects`] does the same for receivers of
//!   shallow histories ([`history_of_depth`], [`history_since`]) and for partial clones
//!   ([`ObjectFilter`]).
//! - [`pack_objects()`]: a pack of chosen objects, whose entries are copied compressed.
//! - [`fetch`]: the pack for a [`PackRequest`]. [`CommitReader`]: commits, each parsed once.
//!
//! Memory: [`DatabaseOptions::limits`] bounds the content in memory. In addition there are the
//! index of each pack and 4 bytes for each of its objects; while objects are chosen, 33 bytes
//! for each chosen object, 200 for each visited commit and three bits for each object of
//! the database; while a pack is sent, 16 bytes for each of its objects.

mod abbreviate;
mod blob_reader;
mod commit_reader;
mod filter;
mod loose;
mod object_set;
mod pack_objects;
mod reachable;
mod rev_walk;
mod shallow;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Mutex;

pub use blob_reader::{BlobContent, BlobReader};
pub use blob_reader::{in_pieces, inflated};
pub use commit_reader::CommitReader;
pub use filter::ObjectFilter;
pub use loose::{LooseObjects, whole};
pub use object_set::ReceiverObjects;
pub use pack_objects::{PackOptions, indexed_pack, pack_objects};
pub use reachable::{Closure, Selection, reachable_objects, select_objects};
pub use rev_walk::{CommitGraph, HistoryCommit, commit_graph, graph, graph_since};
pub use shallow::{ShallowHistory, history_of_depth, history_since};

use crate::error::{Error, ErrorKind, Result};
use crate::object::{ObjectKind, Reference, references};
use crate::pack::{
    Bases, BlockCache, Blocks, ContentCache, Index, PackBody, PackBytes, PackLayout, PackLimits,
};
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

/// A stored pack.
#[derive(Clone)]
pub struct StoredPack {
    /// The index.
    pub index: Index,
    /// The length in bytes.
    pub size_bytes: u64,
    /// The bytes.
    pub bytes: Arc<dyn PackBytes>,
}

impl fmt::Debug for StoredPack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredPack")
            .field("index", &self.index)
            .field("size_bytes", &self.size_bytes)
            .finish_non_exhaustive()
    }
}

/// Options for reading a database.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseOptions {
    /// The limits for reading, for all packs together.
    pub limits: PackLimits,
    /// Bytes of a pack that are read at a time for single objects; reduced when the memory
    /// limit is low.
    pub block_bytes: u64,
}

impl Default for DatabaseOptions {
    /// Returns the default limits, and blocks of 2 MiB, for remote packs.
    fn default() -> Self {
        Self {
            limits: PackLimits::default(),
            block_bytes: 2 << 20,
        }
    }
}

/// The location of an object: the number of the pack, and the entry in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ObjectLocation {
    pack: u32,
    entry: u32,
}

struct OpenPack {
    layout: PackLayout,
    raw: Arc<dyn PackBytes>,
    blocked: Blocks<Arc<dyn PackBytes>>,
}

/// An object database over stored packs and loose objects.
///
/// An object that is in several packs is read from the first of them.
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
    /// Creates a database over `packs`, of which none is thin, and `loose` objects.
    ///
    /// # Errors
    /// `Corrupt` when the hash function of an index does not match `hash`, or when it has too
    /// many objects.
    pub fn new(
        hash: HashKind,
        packs: impl IntoIterator<Item = StoredPack>,
        loose: Option<Arc<dyn LooseObjects>>,
        options: DatabaseOptions,
    ) -> Result<Self> {
        let limits = options.limits;
        let pool = Arc::new(BlockCache::shared(limits.memory / 4, options.block_bytes));
        let hold = |(number, at): (usize, StoredPack)| {
            if at.index.hash() != hash {
                let pack = at.index.pack_id();
                return Err(corrupt(format!("the ids of pack {pack} are not of {hash}")));
            }
            let number =
                u32::try_from(number).map_err(|_| corrupt("a database has too many packs"))?;
            Ok(OpenPack {
                layout: PackLayout::new(at.index, at.size_bytes)?,
                raw: Arc::clone(&at.bytes),
                blocked: Blocks::cached_in(Arc::clone(&pool), number, at.bytes, at.size_bytes),
            })
        };
        Ok(Self {
            hash,
            // The current content gets half of the memory, cached content and cached blocks a
            // quarter each.
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

    /// Returns the hash function of the ids.
    pub fn hash(&self) -> HashKind {
        self.hash
    }

    /// Returns the number of objects in packs; an object in several packs is counted for
    /// each.
    pub fn packed_objects(&self) -> usize {
        self.packs.iter().map(|held| held.layout.len()).sum()
    }

    /// Returns whether an object is in a pack. Reads nothing.
    pub fn is_packed(&self, id: ObjectId) -> bool {
        self.find(id).is_some()
    }

    /// Returns whether an object exists, in a pack or loose.
    pub async fn contains(&self, id: ObjectId) -> Result<bool> {
        match &self.loose {
            _ if self.is_packed(id) => Ok(true),
            Some(loose) => loose.contains(id).await,
            None => Ok(false),
        }
    }

    /// Returns whether an object exists, or `false` where only requests for loose objects would
    /// answer that and the database has packs: for many ids that need not exist.
    pub async fn contains_without_requests(&self, id: ObjectId) -> Result<bool> {
        let is_remote = |loose: &Arc<dyn LooseObjects>| loose.is_remote();
        if self.loose.as_ref().is_some_and(is_remote) && !self.packs.is_empty() {
            return Ok(self.is_packed(id));
        }
        self.contains(id).await
    }

    /// Reads an object into memory and verifies its id; `None` when it is missing.
    ///
    /// # Errors
    /// `FileTooLarge` when the object exceeds the memory limit.
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

    /// Reads an object that must exist and have the type `kind`.
    ///
    /// # Errors
    /// `Corrupt`, with the id, when the object is missing or has another type.
    pub async fn read_kind(&self, id: ObjectId, kind: ObjectKind) -> Result<Bytes> {
        let found = self.read(id).await?;
        let (is, content) = found.ok_or_else(|| missing(id, kind))?;
        if is == kind {
            Ok(content)
        } else {
            Err(corrupt(format!("{id} is a {is}, and used as a {kind}")))
        }
    }

    /// Peels tags, and returns the object that is not a tag, with its type.
    ///
    /// # Errors
    /// `NotFound` when the object `id` is missing; `Corrupt` when the target of a tag is.
    pub async fn peel(&self, id: ObjectId) -> Result<(ObjectId, ObjectKind)> {
        let mut tags = Vec::new();
        self.peel_recording_tags(id, &mut tags).await
    }

    /// Peels an object, and appends the peeled tags to `tags`.
    async fn peel_recording_tags(
        &self,
        id: ObjectId,
        tags: &mut Vec<ObjectId>,
    ) -> Result<(ObjectId, ObjectKind)> {
        let mut at = id;
        let mut named = None;
        loop {
            // A blob is not read, because its content is not needed.
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
                return Err(corrupt(format!(
                    "the type of {at} does not match the tag that names it"
                )));
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
    corrupt(format!("{kind} {id} is needed and missing"))
}

/// Returns the pack for a request: [`reachable_objects`] without those that the receiver has.
///
/// # Errors
/// `Conflict` when a wanted object, or a pack, was deleted since the refs were read.
pub async fn fetch(database: &Arc<Database>, request: &PackRequest) -> Result<PackBody> {
    let closure = reachable_objects(database, &request.wants, &request.haves).await;
    let closure = closure.map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            let message = "the source changed while it was read";
            Error::new(ErrorKind::Conflict, message).with_source(error)
        }
        _ => error,
    })?;
    let options = PackOptions {
        known: request.thin.then_some(closure.known),
        offset_deltas: request.offset_deltas,
    };
    pack_objects(database, closure.objects, options)
}
