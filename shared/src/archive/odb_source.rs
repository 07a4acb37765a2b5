//! Reads the trees and blobs of a commit from an object database.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::streamed_entry::{FileBody, LargeFile, LargeFiles};
use super::tree_source::TreeSource;
use crate::codecommit::BlobAdmission;
use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::git::ObjectId;
use crate::git::object::{ObjectKind, TreeListing};
use crate::git::odb::{BlobReader, Database};

/// Reads a commit from a database that has all objects of the commit's tree.
#[derive(Debug)]
pub(super) struct DatabaseFiles {
    database: Arc<Database>,
    // Larger files are streamed.
    max_in_memory_bytes: u64,
}

impl DatabaseFiles {
    /// Reads files of up to `max_in_memory_bytes` into memory, and streams larger ones.
    pub(super) fn new(database: Arc<Database>, max_in_memory_bytes: u64) -> Self {
        Self {
            database,
            max_in_memory_bytes,
        }
    }

    async fn blob(&self, id: ObjectId) -> Result<BlobReader> {
        let blob = self.database.open(id).await?;
        blob.ok_or_else(|| corrupt(format!("blob {id} of the commit's tree is missing")))
    }
}

#[async_trait]
impl TreeSource for DatabaseFiles {
    async fn folder(&self, _path: &str, tree: ObjectId) -> Result<TreeListing> {
        // The empty tree need not be stored: git knows its content.
        if tree.is_empty_tree() {
            return Ok(TreeListing::decode(tree, b"")?);
        }
        let content = self.database.read_kind(tree, ObjectKind::Tree).await?;
        Ok(TreeListing::decode(tree, &content)?)
    }

    async fn file(&self, id: ObjectId, admission: &dyn BlobAdmission) -> Result<Bytes> {
        let size = self.blob(id).await?.size_bytes();
        if size > self.max_in_memory_bytes {
            let message = format!("blob {id} has {size} bytes");
            return Err(Error::new(ErrorKind::FileTooLarge, message));
        }
        admission.admit(size).await;
        Ok(self.database.read_kind(id, ObjectKind::Blob).await?)
    }

    fn is_local(&self) -> bool {
        true
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
