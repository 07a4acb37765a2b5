//! Reads the trees and blobs of a commit from the pack of one shallow fetch.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::large_files_over_git::FetchedPack;
use super::tree_source::TreeSource;
use crate::codecommit::{BlobAdmission, MAX_BLOB_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::{ObjectKind, TreeListing};

/// A commit whose objects were fetched by git.
pub(super) struct FetchedCommit(Arc<FetchedPack>);

impl FetchedCommit {
    pub(super) fn new(pack: Arc<FetchedPack>) -> Self {
        Self(pack)
    }
}

#[async_trait]
impl TreeSource for FetchedCommit {
    async fn folder(&self, _path: &str, tree: ObjectId) -> Result<TreeListing> {
        // The empty tree need not be sent: git knows its content.
        if tree.is_empty_tree() {
            return Ok(TreeListing::decode(tree, b"")?);
        }
        let content = self.0.object(tree, ObjectKind::Tree).await?;
        Ok(TreeListing::decode(tree, &content)?)
    }

    async fn file(&self, id: ObjectId, admission: &dyn BlobAdmission) -> Result<Bytes> {
        let size = self.0.size_of(id).await?;
        // What the API refuses is streamed, so that both ways deflate it in the same steps.
        if size > MAX_BLOB_BYTES {
            let message = format!("blob {id} has {size} bytes");
            return Err(Error::new(ErrorKind::FileTooLarge, message));
        }
        admission.admit(size).await;
        self.0.object(id, ObjectKind::Blob).await
    }

    fn is_local(&self) -> bool {
        true
    }
}
