//! Finds and reads a repository's objects by the indexes of its packs, and loose ones.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::pack_list::PackList;
use super::{RepositoryFiles, index_path, loose_path, missing_file, pack_path};
use crate::error::{Result, corrupt};
use crate::git::odb::{Database, DatabaseOptions, LooseObjects, StoredPack};
use crate::git::pack::{Index, PackBytes, PackLimits};
use crate::git::{HashKind, ObjectId};
use crate::remote::PackBody;

/// Maximum number of concurrent requests.
const CONCURRENT_REQUESTS: usize = 16;

/// Indexes of a repository's packs, each read once.
#[derive(Default)]
pub(in crate::remote) struct Indexes(BTreeMap<ObjectId, Arc<Index>>);

impl Indexes {
    /// Returns the index of a pack.
    pub(in crate::remote) async fn read(
        &mut self,
        files: &dyn RepositoryFiles,
        hash: HashKind,
        pack: ObjectId,
    ) -> Result<Arc<Index>> {
        if let Some(index) = self.0.get(&pack) {
            return Ok(Arc::clone(index));
        }
        let index = Arc::new(read_index(files, hash, pack).await?);
        self.0.insert(pack, Arc::clone(&index));
        Ok(index)
    }

    /// Adds the index of a pack that was written.
    pub(in crate::remote) fn insert(&mut self, pack: ObjectId, index: Index) {
        self.0.insert(pack, Arc::new(index));
    }

    /// Removes from `missing` the objects that `packs` have; reads indexes only as needed.
    pub(in crate::remote) async fn remove_found(
        &mut self,
        files: &dyn RepositoryFiles,
        packs: &[ObjectId],
        missing: &mut Vec<ObjectId>,
    ) -> Result<()> {
        for pack in packs {
            let Some(first) = missing.first() else {
                return Ok(());
            };
            let index = self.read(files, first.kind(), *pack).await?;
            missing.retain(|id| index.find(*id).is_none());
        }
        Ok(())
    }
}

async fn read_index(files: &dyn RepositoryFiles, hash: HashKind, pack: ObjectId) -> Result<Index> {
    let path = index_path(pack);
    let bytes = files.read(&path).await?;
    let bytes = bytes.ok_or_else(|| missing_file(files, &path))?;
    let parsed = Index::parse(hash, bytes);
    Ok(parsed.map_err(|error| error.context(format!("`{path}` of {files}")))?)
}

/// Returns the listed packs, with their indexes.
pub(in crate::remote) async fn packs(
    files: &Arc<dyn RepositoryFiles>,
    list: &PackList,
    hash: HashKind,
    indexes: &mut Indexes,
) -> Result<Vec<StoredPack>> {
    let unread = list
        .packs
        .iter()
        .filter(|pack| !indexes.0.contains_key(*pack));
    let read = |pack: ObjectId| async move {
        Ok::<_, crate::Error>((pack, read_index(&**files, hash, pack).await?))
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
        let index = indexes.read(&**files, hash, *pack).await?;
        let size_bytes = if let Some(size) = list.sizes.get(pack) {
            size.bytes
        } else {
            let path = pack_path(*pack);
            let size = files.size(&path).await?;
            size.ok_or_else(|| missing_file(&**files, &path))?
        };
        found.push(StoredPack {
            index: (*index).clone(),
            size_bytes,
            bytes: Arc::new(PackFile {
                files: Arc::clone(files),
                pack: *pack,
            }),
        });
    }
    Ok(found)
}

/// Makes the database of the objects of `packs` and of loose objects.
pub(in crate::remote) fn database(
    files: &Arc<dyn RepositoryFiles>,
    limits: PackLimits,
    hash: HashKind,
    packs: Vec<StoredPack>,
) -> Result<Database> {
    let loose: Arc<dyn LooseObjects> = Arc::new(LooseFiles(Arc::clone(files)));
    let options = DatabaseOptions {
        limits,
        ..DatabaseOptions::default()
    };
    Ok(Database::new(hash, packs, Some(loose), options)?)
}

/// Loose objects of a repository.
struct LooseFiles(Arc<dyn RepositoryFiles>);

#[async_trait]
impl LooseObjects for LooseFiles {
    async fn open(&self, id: ObjectId) -> crate::git::Result<Option<PackBody>> {
        Ok(self.0.open(&loose_path(id)).await?)
    }

    async fn contains(&self, id: ObjectId) -> crate::git::Result<bool> {
        Ok(self.0.size(&loose_path(id)).await?.is_some())
    }

    fn is_remote(&self) -> bool {
        true
    }
}

/// Bytes of a stored pack.
pub(in crate::remote) struct PackFile {
    pub(in crate::remote) files: Arc<dyn RepositoryFiles>,
    pub(in crate::remote) pack: ObjectId,
}

#[async_trait]
impl PackBytes for PackFile {
    async fn read_range(&self, range: Range<u64>) -> crate::git::Result<Bytes> {
        let path = pack_path(self.pack);
        let length = range.end.saturating_sub(range.start);
        let bytes = self.files.read_range(&path, range).await?;
        if bytes.len() as u64 == length {
            Ok(bytes)
        } else {
            let files = &self.files;
            Err(corrupt(format!(
                "`{path}` of {files} is shorter than its recorded size"
            ))
            .into())
        }
    }
}
