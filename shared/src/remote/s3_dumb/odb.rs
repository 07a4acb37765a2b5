//! Finds and reads a repository's objects by the indexes of its packs, and loose ones.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::DumbOptions;
use super::keys::{ObjectRole, RepositoryKeys};
use super::pack_list::PackList;
use crate::error::{ErrorKind, Result, corrupt};
use crate::git::object::loose_path;
use crate::git::odb::{Database, DatabaseOptions, LooseObjects, StoredPack, whole};
use crate::git::pack::{Index, PackBytes};
use crate::git::{HashKind, ObjectId};
use crate::remote::PackBody;
use crate::storage::ObjectStoreExt as _;

/// Maximum number of concurrent requests.
const CONCURRENT_REQUESTS: usize = 16;
/// Up to this number, loose objects are requested one by one; more are listed, a thousand
/// in a request.
const MAX_HEADS: usize = 64;
/// Bytes of a loose object that are read at once.
const CHUNK_BYTES: u64 = 4 << 20;

/// Indexes of a repository's packs, each read once.
#[derive(Default)]
pub(super) struct Indexes(BTreeMap<ObjectId, Arc<Index>>);

impl Indexes {
    /// Returns the index of a pack.
    pub(super) async fn read(
        &mut self,
        keys: &RepositoryKeys,
        hash: HashKind,
        pack: ObjectId,
    ) -> Result<Arc<Index>> {
        if let Some(index) = self.0.get(&pack) {
            return Ok(Arc::clone(index));
        }
        let bytes = keys.get(&ObjectRole::Index(pack)).await?;
        let index = Arc::new(Index::parse(hash, bytes)?);
        self.0.insert(pack, Arc::clone(&index));
        Ok(index)
    }

    /// Adds the index of a pack that was written.
    pub(super) fn insert(&mut self, pack: ObjectId, index: Index) {
        self.0.insert(pack, Arc::new(index));
    }

    /// Removes from `missing` the objects that `packs` have; reads indexes only as needed.
    pub(super) async fn remove_found(
        &mut self,
        keys: &RepositoryKeys,
        packs: &[ObjectId],
        missing: &mut Vec<ObjectId>,
    ) -> Result<()> {
        for pack in packs {
            let Some(first) = missing.first() else {
                return Ok(());
            };
            let index = self.read(keys, first.kind(), *pack).await?;
            missing.retain(|id| index.find(*id).is_none());
        }
        Ok(())
    }
}

/// Removes from `missing` the objects that are stored loose.
pub(super) async fn remove_found_loose(
    keys: &RepositoryKeys,
    missing: &mut Vec<ObjectId>,
) -> Result<()> {
    let found: BTreeSet<ObjectId> = if missing.len() <= MAX_HEADS {
        let check = |id: ObjectId| async move {
            let key = keys.key(&ObjectRole::Loose(id))?;
            let head = keys.store.head(&keys.bucket, &key).await?;
            Ok::<_, crate::Error>(head.map(|_| id))
        };
        let checks = stream::iter(missing.clone()).map(check);
        let found: Vec<_> = checks
            .buffer_unordered(CONCURRENT_REQUESTS)
            .try_collect()
            .await?;
        found.into_iter().flatten().collect()
    } else {
        listed(keys, missing).await?
    };
    missing.retain(|id| !found.contains(id));
    Ok(())
}

async fn listed(keys: &RepositoryKeys, wanted: &[ObjectId]) -> Result<BTreeSet<ObjectId>> {
    let prefix = format!("{}objects/", keys.prefix);
    let wanted: BTreeMap<String, ObjectId> =
        wanted.iter().map(|id| (loose_path(*id), *id)).collect();
    let mut found = BTreeSet::new();
    let mut next = None;
    loop {
        let page = keys
            .store
            .list(&keys.bucket, &prefix, None, next.as_deref())
            .await?;
        for object in &page.objects {
            let path = object.key.as_str().strip_prefix(&prefix);
            found.extend(path.and_then(|path| wanted.get(path)));
        }
        next = page.next;
        if next.is_none() {
            return Ok(found);
        }
    }
}

/// Returns the listed packs, with their indexes.
pub(super) async fn packs(
    keys: &RepositoryKeys,
    list: &PackList,
    hash: HashKind,
    indexes: &mut Indexes,
) -> Result<Vec<StoredPack>> {
    let unread = list
        .packs
        .iter()
        .filter(|pack| !indexes.0.contains_key(*pack));
    let read = |pack: ObjectId| async move {
        let bytes = keys.get(&ObjectRole::Index(pack)).await?;
        Ok::<_, crate::Error>((pack, Index::parse(hash, bytes)?))
    };
    let reads = stream::iter(unread.copied().collect::<Vec<_>>()).map(read);
    let new: Vec<_> = reads
        .buffer_unordered(CONCURRENT_REQUESTS)
        .try_collect()
        .await?;
    for (pack, index) in new {
        indexes.insert(pack, index);
    }
    let mut found = Vec::new();
    for pack in &list.packs {
        let index = indexes.read(keys, hash, *pack).await?;
        let size_bytes = match list.sizes.get(pack) {
            Some(size) => size.bytes,
            None => keys.size(&ObjectRole::Pack(*pack)).await?,
        };
        found.push(StoredPack {
            index: (*index).clone(),
            size_bytes,
            bytes: Arc::new(S3PackBytes {
                keys: keys.clone(),
                pack: *pack,
            }),
        });
    }
    Ok(found)
}

/// Makes the database of the objects of `packs` and of loose objects.
pub(super) fn database(
    keys: &RepositoryKeys,
    options: &DumbOptions,
    hash: HashKind,
    packs: Vec<StoredPack>,
) -> Result<Database> {
    let loose: Arc<dyn LooseObjects> = Arc::new(StoredLoose(keys.clone()));
    let limits = options
        .limits
        .with_memory(options.limits.memory.min(options.memory));
    let options = DatabaseOptions {
        limits,
        ..DatabaseOptions::default()
    };
    Ok(Database::new(hash, packs, Some(loose), options)?)
}

/// Loose objects in the bucket.
struct StoredLoose(RepositoryKeys);

#[async_trait]
impl LooseObjects for StoredLoose {
    async fn open(&self, id: ObjectId) -> crate::git::Result<Option<PackBody>> {
        let keys = self.0.clone();
        let key = keys.key(&ObjectRole::Loose(id))?;
        let first = keys
            .store
            .get(&keys.bucket, &key, None, Some(0..CHUNK_BYTES))
            .await;
        let first = match first {
            Ok(first) => first,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if (first.len() as u64) < CHUNK_BYTES {
            return Ok(Some(whole(first)));
        }
        // The size is requested only for large objects, because most are small.
        let size = keys.size(&ObjectRole::Loose(id)).await?;
        let rest = stream::try_unfold(
            (keys, key, CHUNK_BYTES),
            move |(keys, key, at)| async move {
                if at >= size {
                    return Ok(None);
                }
                let range = at..size.min(at + CHUNK_BYTES);
                let end = range.end;
                let read = keys.store.get(&keys.bucket, &key, None, Some(range));
                let bytes = read.await?;
                Ok(Some((bytes, (keys, key, end))))
            },
        );
        Ok(Some(Box::pin(whole(first).chain(rest))))
    }

    async fn contains(&self, id: ObjectId) -> crate::git::Result<bool> {
        let key = self.0.key(&ObjectRole::Loose(id))?;
        Ok(self.0.store.head(&self.0.bucket, &key).await?.is_some())
    }

    fn is_remote(&self) -> bool {
        true
    }
}

/// Bytes of a pack in the bucket.
pub(super) struct S3PackBytes {
    pub(super) keys: RepositoryKeys,
    pub(super) pack: ObjectId,
}

#[async_trait]
impl PackBytes for S3PackBytes {
    async fn read_range(&self, range: Range<u64>) -> crate::git::Result<Bytes> {
        let key = self.keys.key(&ObjectRole::Pack(self.pack))?;
        let length = range.end.saturating_sub(range.start);
        let store = &self.keys.store;
        let bytes = store
            .get(&self.keys.bucket, &key, None, Some(range))
            .await?;
        if bytes.len() as u64 == length {
            Ok(bytes)
        } else {
            Err(corrupt(format!("`{key}` is shorter than its recorded size")).into())
        }
    }
}
