//! Source of the trees and blobs of an archive.

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
