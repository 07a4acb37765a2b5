//! Source of the trees and blobs of an archive.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;

use super::head_start::HeadStart;
use super::read_method::ReadCosts;
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

    /// Returns whether the objects are at hand, so that reading them is no request to
    /// CodeCommit.
    fn is_local(&self) -> bool {
        false
    }
}

/// Reads a commit over CodeCommit's API.
pub(super) struct CodeCommitTree<'a> {
    pub(super) service: &'a dyn CodeCommit,
    pub(super) repository: &'a RepositoryName,
    pub(super) commit: CommitId,
    /// Receives the times of listings.
    pub(super) costs: Option<&'a ReadCosts>,
    /// May have the listing of the root.
    pub(super) head_start: Option<&'a HeadStart>,
}

#[async_trait]
impl TreeSource for CodeCommitTree<'_> {
    async fn folder(&self, path: &str, tree: ObjectId) -> Result<TreeListing> {
        if path.is_empty()
            && let Some(ahead) = self.head_start
            && let Some(root) = ahead.take_root(self.commit, tree)
        {
            return root;
        }
        let begin = Instant::now();
        let listing = self.service.get_folder(self.repository, self.commit, path);
        let listing = listing.await?;
        if let Some(costs) = self.costs {
            costs.record_api(begin.elapsed());
        }
        Ok(listing)
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
            costs: None,
            head_start: None,
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
