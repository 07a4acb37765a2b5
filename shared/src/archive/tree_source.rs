//! Source of the trees and blobs of an archive.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::codecommit::{BlobAdmission, CodeCommit};
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::object::TreeListing;
use crate::name::{BlobId, CommitId, RepositoryName};

/// The trees and blobs of one commit.
#[async_trait]
pub(super) trait TreeSource: Send + Sync {
    /// Lists the folder at `path`, whose tree is `tree`. `path` is empty for the root and has
    /// no slash at its ends.
    async fn folder(&self, path: &str, tree: ObjectId) -> Result<TreeListing>;

    /// Reads a file or symbolic link, once `admission` admits its size.
    ///
    /// # Errors
    /// `FileTooLarge` for a file that only [`LargeFiles`](super::LargeFiles) can read.
    async fn file(&self, id: ObjectId, admission: &dyn BlobAdmission) -> Result<Bytes>;
}

/// Reads a commit over CodeCommit's API.
pub(super) struct CodeCommitTree<'a> {
    pub(super) service: &'a dyn CodeCommit,
    pub(super) repository: &'a RepositoryName,
    pub(super) commit: CommitId,
}

#[async_trait]
impl TreeSource for CodeCommitTree<'_> {
    async fn folder(&self, path: &str, _tree: ObjectId) -> Result<TreeListing> {
        let listing = self.service.get_folder(self.repository, self.commit, path);
        listing.await
    }

    async fn file(&self, id: ObjectId, admission: &dyn BlobAdmission) -> Result<Bytes> {
        let blob = BlobId::from(id);
        self.service
            .get_blob(self.repository, blob, admission)
            .await
    }
}

/// Reads a folder of a commit as if it were the root.
pub(super) struct CodeCommitFolder {
    pub(super) service: Arc<dyn CodeCommit>,
    pub(super) repository: RepositoryName,
    pub(super) commit: CommitId,
    /// Without slashes at its ends; empty for the root.
    pub(super) folder: String,
}

impl CodeCommitFolder {
    fn whole(&self) -> CodeCommitTree<'_> {
        CodeCommitTree {
            service: &*self.service,
            repository: &self.repository,
            commit: self.commit,
        }
    }
}

#[async_trait]
impl TreeSource for CodeCommitFolder {
    async fn folder(&self, path: &str, tree: ObjectId) -> Result<TreeListing> {
        let parts = [self.folder.as_str(), path];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        self.whole().folder(&parts.join("/"), tree).await
    }

    async fn file(&self, id: ObjectId, admission: &dyn BlobAdmission) -> Result<Bytes> {
        self.whole().file(id, admission).await
    }
}
