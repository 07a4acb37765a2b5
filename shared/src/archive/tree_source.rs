//! Where an archive reads its folders and files.

use async_trait::async_trait;
use bytes::Bytes;

use crate::codecommit::{BlobAdmission, CodeCommit, TreeListing};
use crate::error::Result;
use crate::name::{BlobId, CommitId, RepositoryName, TreeId};

/// The folders and files of one commit.
#[async_trait]
pub(super) trait TreeSource: Send + Sync {
    /// Lists the folder at `path`, which is empty for the root and has no slash at its
    /// ends; `tree` is its id.
    async fn folder(&self, path: &str, tree: TreeId) -> Result<TreeListing>;

    /// Reads a file or symbolic link, once `admission` lets it in. Errors: `FileTooLarge`
    /// for one that is to be read from [`LargeFiles`](super::LargeFiles), if at all.
    async fn file(&self, id: BlobId, admission: &dyn BlobAdmission) -> Result<Bytes>;
}

/// The files of a commit, as CodeCommit's API serves them.
pub(super) struct CodeCommitTree<'a> {
    pub(super) service: &'a dyn CodeCommit,
    pub(super) repository: &'a RepositoryName,
    pub(super) commit: CommitId,
}

#[async_trait]
impl TreeSource for CodeCommitTree<'_> {
    async fn folder(&self, path: &str, _tree: TreeId) -> Result<TreeListing> {
        let folder = self.service.get_folder(self.repository, self.commit, path);
        folder.await
    }

    async fn file(&self, id: BlobId, admission: &dyn BlobAdmission) -> Result<Bytes> {
        let file = self.service.get_blob(self.repository, id, admission);
        file.await
    }
}
