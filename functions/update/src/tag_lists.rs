//! Lists of tags, which CodeCommit's API does not have.

use async_trait::async_trait;
use branchline_core::Result;
use branchline_core::archive::large_files_over_git::GitAccess;
use branchline_core::archive::{CodeCommitHistory, History as _};
use branchline_core::name::{CommitId, RefName, RepositoryName, TagName};

/// Lists of tags.
#[async_trait]
pub trait TagLists: Send + Sync {
    /// Lists the tags of a repository with the commits that they name, through annotated ones.
    /// Tags whose names cannot be used are left out.
    async fn list_tags(&self, repository: &RepositoryName) -> Result<Vec<(TagName, CommitId)>>;
}

/// Lists of tags by git: one advertisement of a repository's refs.
#[derive(Debug)]
pub(crate) struct GitTagLists(pub(crate) GitAccess);

#[async_trait]
impl TagLists for GitTagLists {
    async fn list_tags(&self, repository: &RepositoryName) -> Result<Vec<(TagName, CommitId)>> {
        let history = CodeCommitHistory::new(self.0.clone(), repository.clone());
        let refs = history.refs().await?;
        let tags = refs.refs.iter().filter_map(|(name, value)| {
            let name = RefName::new(std::str::from_utf8(name).ok()?).ok()?;
            Some((name.tag()?, value.peeled.unwrap_or(value.id).into()))
        });
        Ok(tags.collect())
    }
}
