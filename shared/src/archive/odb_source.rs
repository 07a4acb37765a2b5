//! The files of a commit, out of the objects of git.

use std::sync::Arc;

use async_trait::async_trait;
use bstr::ByteSlice as _;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use gix_hash::ObjectId;

use super::streamed_entry::{FileBody, LargeFile, LargeFiles};
use super::tree_source::TreeSource;
use crate::codecommit::{BlobAdmission, EntryMode, TreeListing};
use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::git::object::{ObjectKind, tree_entries};
use crate::git::odb::{BlobReader, Database};
use crate::name::{BlobId, TreeId};

/// What lies in a database that has all that the commit needs.
#[derive(Debug)]
pub(super) struct DatabaseFiles {
    database: Arc<Database>,
    // Files that are larger are streamed.
    held_bytes: u64,
}

impl DatabaseFiles {
    /// Files up to `held_bytes` are held.
    pub(super) fn new(database: Arc<Database>, held_bytes: u64) -> Self {
        Self {
            database,
            held_bytes,
        }
    }

    async fn blob(&self, id: ObjectId) -> Result<BlobReader> {
        let blob = self.database.open(id).await?;
        blob.ok_or_else(|| corrupt(format!("blob {id} is part of the commit and not there")))
    }
}

#[async_trait]
impl TreeSource for DatabaseFiles {
    async fn folder(&self, _path: &str, tree: TreeId) -> Result<TreeListing> {
        let id = tree.object_id();
        let mut folder = TreeListing {
            tree_id: tree,
            folders: Vec::new(),
            blobs: Vec::new(),
            submodules: Vec::new(),
        };
        // Git knows it without having it.
        if id.is_empty_tree() {
            return Ok(folder);
        }
        let content = self.database.read_kind(id, ObjectKind::Tree).await?;
        tree_entries(id.kind(), &content, |entry| {
            let name = entry.name.to_str_lossy().into_owned();
            let kind = match entry.mode & 0o170_000 {
                0o040_000 => return folder.folders.push((name, entry.id.into())),
                0o160_000 => return folder.submodules.push((name, entry.id.into())),
                0o120_000 => EntryMode::Symlink,
                _ if entry.mode & 0o100 != 0 => EntryMode::Executable,
                _ => EntryMode::File,
            };
            folder.blobs.push((name, kind, entry.id.into()));
        })?;
        Ok(folder)
    }

    async fn file(&self, id: BlobId, admission: &dyn BlobAdmission) -> Result<Bytes> {
        let id = id.object_id();
        let size = self.blob(id).await?.size_bytes();
        if size > self.held_bytes {
            let message = format!("blob {id} has {size} bytes");
            return Err(Error::new(ErrorKind::FileTooLarge, message));
        }
        admission.admit(size).await;
        Ok(self.database.read_kind(id, ObjectKind::Blob).await?)
    }
}

#[async_trait]
impl LargeFiles for DatabaseFiles {
    async fn open(&self, id: ObjectId) -> Result<Arc<dyn LargeFile>> {
        Ok(Arc::new(self.blob(id).await?))
    }

    fn requests(&self) -> u64 {
        0
    }

    async fn close(&self) {}
}

impl LargeFile for BlobReader {
    fn size_bytes(&self) -> u64 {
        BlobReader::size_bytes(self)
    }

    fn content(self: Arc<Self>) -> FileBody {
        BlobReader::content(&self).map_err(Into::into).boxed()
    }
}
