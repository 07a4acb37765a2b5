//! What objects a target has: the indexes of its packs, and its loose objects.

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

/// How many requests are on their way at once.
const AT_ONCE: usize = 16;
/// How many loose objects are asked for one by one; more are listed, a thousand a request.
const ASK: usize = 64;
/// How much of a loose object is read at once.
const STEP: u64 = 4 << 20;

/// The indexes of a repository's packs, each read once.
#[derive(Default)]
pub(super) struct Indexes(BTreeMap<ObjectId, Arc<Index>>);

impl Indexes {
    /// The index of a pack.
    pub(super) async fn read(
        &mut self,
        place: &RepositoryKeys,
        hash: HashKind,
        pack: ObjectId,
    ) -> Result<Arc<Index>> {
        if let Some(index) = self.0.get(&pack) {
            return Ok(Arc::clone(index));
        }
        let bytes = place.get(&ObjectRole::Index(pack)).await?;
        let index = Arc::new(Index::parse(hash, bytes)?);
        self.0.insert(pack, Arc::clone(&index));
        Ok(index)
    }

    /// Notes an index that was written.
    pub(super) fn insert(&mut self, pack: ObjectId, index: Index) {
        self.0.insert(pack, Arc::new(index));
    }

    /// Takes off `missing` what these packs have; reads no more indexes than it must.
    pub(super) async fn find(
        &mut self,
        place: &RepositoryKeys,
        packs: &[ObjectId],
        missing: &mut Vec<ObjectId>,
    ) -> Result<()> {
        for pack in packs {
            let Some(first) = missing.first() else {
                return Ok(());
            };
            let index = self.read(place, first.kind(), *pack).await?;
            missing.retain(|id| index.find(*id).is_none());
        }
        Ok(())
    }
}

/// Takes off `missing` what is there as a loose object.
pub(super) async fn find_loose(place: &RepositoryKeys, missing: &mut Vec<ObjectId>) -> Result<()> {
    let found: BTreeSet<ObjectId> = if missing.len() <= ASK {
        let look = |id: ObjectId| async move {
            let key = place.key(&ObjectRole::Loose(id))?;
            let head = place.store.head(&place.bucket, &key).await?;
            Ok::<_, crate::Error>(head.map(|_| id))
        };
        let looks = stream::iter(missing.clone()).map(look);
        let found: Vec<_> = looks.buffer_unordered(AT_ONCE).try_collect().await?;
        found.into_iter().flatten().collect()
    } else {
        listed(place, missing).await?
    };
    missing.retain(|id| !found.contains(id));
    Ok(())
}

async fn listed(place: &RepositoryKeys, wanted: &[ObjectId]) -> Result<BTreeSet<ObjectId>> {
    let prefix = format!("{}objects/", place.prefix);
    let wanted: BTreeMap<String, ObjectId> =
        wanted.iter().map(|id| (loose_path(*id), *id)).collect();
    let mut found = BTreeSet::new();
    let mut next = None;
    loop {
        let page = place
            .store
            .list(&place.bucket, &prefix, None, next.as_deref())
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

/// The listed packs, with their indexes.
pub(super) async fn packs(
    place: &RepositoryKeys,
    list: &PackList,
    hash: HashKind,
    indexes: &mut Indexes,
) -> Result<Vec<StoredPack>> {
    let unread = list
        .packs
        .iter()
        .filter(|pack| !indexes.0.contains_key(*pack));
    let read = |pack: ObjectId| async move {
        let bytes = place.get(&ObjectRole::Index(pack)).await?;
        Ok::<_, crate::Error>((pack, Index::parse(hash, bytes)?))
    };
    let reads = stream::iter(unread.copied().collect::<Vec<_>>()).map(read);
    let fresh: Vec<_> = reads.buffer_unordered(AT_ONCE).try_collect().await?;
    for (pack, index) in fresh {
        indexes.insert(pack, index);
    }
    let mut found = Vec::new();
    for pack in &list.packs {
        let index = indexes.read(place, hash, *pack).await?;
        let size_bytes = match list.sizes.get(pack) {
            Some(size) => size.bytes,
            None => place.size(&ObjectRole::Pack(*pack)).await?,
        };
        found.push(StoredPack {
            index: (*index).clone(),
            size_bytes,
            bytes: Arc::new(S3PackBytes {
                place: place.clone(),
                pack: *pack,
            }),
        });
    }
    Ok(found)
}

/// All objects: those of these packs, and loose ones.
pub(super) fn database(
    place: &RepositoryKeys,
    options: &DumbOptions,
    hash: HashKind,
    packs: Vec<StoredPack>,
) -> Result<Database> {
    let loose: Arc<dyn LooseObjects> = Arc::new(StoredLoose(place.clone()));
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
        let place = self.0.clone();
        let key = place.key(&ObjectRole::Loose(id))?;
        let first = place
            .store
            .get(&place.bucket, &key, None, Some(0..STEP))
            .await;
        let first = match first {
            Ok(first) => first,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if (first.len() as u64) < STEP {
            return Ok(Some(whole(first)));
        }
        // Most are small; of a large one the size is asked for.
        let size = place.size(&ObjectRole::Loose(id)).await?;
        let rest = stream::try_unfold((place, key, STEP), move |(place, key, at)| async move {
            if at >= size {
                return Ok(None);
            }
            let range = at..size.min(at + STEP);
            let end = range.end;
            let read = place.store.get(&place.bucket, &key, None, Some(range));
            let bytes = read.await?;
            Ok(Some((bytes, (place, key, end))))
        });
        Ok(Some(Box::pin(whole(first).chain(rest))))
    }

    async fn contains(&self, id: ObjectId) -> crate::git::Result<bool> {
        let key = self.0.key(&ObjectRole::Loose(id))?;
        Ok(self.0.store.head(&self.0.bucket, &key).await?.is_some())
    }
}

/// The bytes of a pack that lies in the bucket.
pub(super) struct S3PackBytes {
    pub(super) place: RepositoryKeys,
    pub(super) pack: ObjectId,
}

#[async_trait]
impl PackBytes for S3PackBytes {
    async fn read_range(&self, range: Range<u64>) -> crate::git::Result<Bytes> {
        let key = self.place.key(&ObjectRole::Pack(self.pack))?;
        let length = range.end.saturating_sub(range.start);
        let store = &self.place.store;
        let bytes = store
            .get(&self.place.bucket, &key, None, Some(range))
            .await?;
        if bytes.len() as u64 == length {
            Ok(bytes)
        } else {
            Err(corrupt(format!("`{key}` is shorter than its index says")).into())
        }
    }
}
