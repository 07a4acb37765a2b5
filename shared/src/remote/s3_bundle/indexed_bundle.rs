//! A bundle and the objects of its pack.

use std::collections::HashSet;
use std::sync::Arc;

use super::bundle_reader::OpenBundle;
use super::cached_pack::CachedPackReader;
use crate::git::ObjectId;
use crate::git::odb::StoredPack;
use crate::git::pack::{Index, PackBytes};
use crate::pack_cache::CachedPack;

/// Ids of the objects in a pack.
#[derive(Clone, Default)]
pub(super) struct ObjectIdSet {
    index: Option<Index>,
    added: Vec<Arc<HashSet<ObjectId>>>,
    count: usize,
}

impl ObjectIdSet {
    /// Returns the ids in `index`.
    pub(super) fn of_index(index: Index) -> Self {
        Self {
            count: index.len(),
            index: Some(index),
            added: Vec::new(),
        }
    }

    pub(super) fn contains(&self, id: ObjectId) -> bool {
        self.index
            .as_ref()
            .is_some_and(|index| index.find(id).is_some())
            || self.added.iter().any(|added| added.contains(&id))
    }

    /// Returns the number of ids.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Returns the union with `ids`, of which this set contains none.
    pub(super) fn with(&self, ids: &[ObjectId]) -> Self {
        let mut union = self.clone();
        union.count += ids.len();
        union.added.push(Arc::new(ids.iter().copied().collect()));
        union
    }
}

/// A bundle whose objects are known. Others can be composed of it if it is full.
pub(super) struct IndexedBundle {
    pub(super) bundle: OpenBundle,
    /// Objects in the bundle's own pack, without those that complete a thin pack.
    pub(super) objects: ObjectIdSet,
    /// Bytes of the bundle's own pack, from memory, the pack cache or S3.
    pub(super) bytes: Arc<dyn PackBytes>,
    pub(super) cached: Option<Arc<CachedPack>>,
    /// Pack to read objects from, completed if the bundle's own pack is thin; `None` for a
    /// bundle that was just written, because its index was not built.
    pub(super) pack: Option<StoredPack>,
}

impl IndexedBundle {
    /// Returns a bundle that was just written.
    pub(super) fn written(
        bundle: OpenBundle,
        objects: ObjectIdSet,
        cached: Option<Arc<CachedPack>>,
    ) -> Self {
        Self {
            bytes: pack_bytes(&bundle, cached.as_ref()),
            bundle,
            objects,
            cached,
            pack: None,
        }
    }
}

/// Returns a reader of a bundle's pack, from the pack cache if the pack is in it.
pub(super) fn pack_bytes(
    bundle: &OpenBundle,
    cached: Option<&Arc<CachedPack>>,
) -> Arc<dyn PackBytes> {
    let bundle = bundle.clone();
    match cached {
        Some(cached) => Arc::new(CachedPackReader {
            cached: Arc::clone(cached),
            bundle,
        }),
        None => Arc::new(bundle),
    }
}
