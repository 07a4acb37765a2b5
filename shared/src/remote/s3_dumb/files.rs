//! Checks for loose objects in the bucket, and the bucket's files for the object database.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::keys::{ObjectRole, RepositoryKeys};
use crate::error::{ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::loose_path;
use crate::git::odb::whole;
use crate::name::ObjectKey;
use crate::remote::PackBody;
use crate::remote::dumb_files::RepositoryFiles;
use crate::storage::ObjectStoreExt as _;

/// Maximum number of concurrent requests.
const CONCURRENT_REQUESTS: usize = 16;
/// Up to this number, loose objects are requested one by one; more are listed, a thousand
/// in a request.
const MAX_HEADS: usize = 64;
/// Bytes of a file that are read at once.
const CHUNK_BYTES: u64 = 4 << 20;

impl RepositoryKeys {
    fn key_at(&self, path: &str) -> Result<ObjectKey> {
        ObjectKey::new(&format!("{}{path}", self.prefix))
    }

    /// Returns the files as the object database reads them.
    pub(super) fn files(&self) -> Arc<dyn RepositoryFiles> {
        Arc::new(self.clone())
    }
}

#[async_trait]
impl RepositoryFiles for RepositoryKeys {
    async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        let key = self.key_at(path)?;
        let read = self.store.get_with_etag(&self.bucket, &key).await?;
        Ok(read.map(|(bytes, _)| bytes))
    }

    async fn open(&self, path: &str) -> Result<Option<PackBody>> {
        let first = match self.read_range(path, 0..CHUNK_BYTES).await {
            Ok(first) => first,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if (first.len() as u64) < CHUNK_BYTES {
            return Ok(Some(whole(first)));
        }
        // The size is requested only for large files, because most are small.
        let Some(size) = self.size(path).await? else {
            return Ok(None);
        };
        let rest = stream::try_unfold(
            (self.clone(), path.to_owned(), CHUNK_BYTES),
            move |(keys, path, at)| async move {
                if at >= size {
                    return Ok(None);
                }
                let end = size.min(at + CHUNK_BYTES);
                let bytes = keys.read_range(&path, at..end).await?;
                Ok(Some((bytes, (keys, path, end))))
            },
        );
        Ok(Some(Box::pin(whole(first).chain(rest))))
    }

    async fn size(&self, path: &str) -> Result<Option<u64>> {
        let head = self.store.head(&self.bucket, &self.key_at(path)?).await?;
        Ok(head.map(|head| head.size_bytes))
    }

    async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        let key = self.key_at(path)?;
        self.store.get(&self.bucket, &key, None, Some(range)).await
    }

    async fn may_have_loose(&self) -> Result<bool> {
        let prefix = format!("{}objects/", self.prefix);
        let page = self.store.list(&self.bucket, &prefix, Some("/"), None);
        // Folders of loose objects are named by the first two digits.
        let is_loose = |folder: &String| folder.len() == prefix.len() + "00/".len();
        Ok(page.await?.common_prefixes.iter().any(is_loose))
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
