//! Archives of CodeCommit repositories for `git archive --remote`: the refs over git, all else over
//! the API.
//!
//! CodeCommit itself does not serve `git-upload-archive`. Only what the archive contains is read:
//! a folder of a large repository costs its own folders and files.
//!
//! Memory: that of [`served_archives`](super::served_archives); a commit with files that the API
//! does not serve is also fetched by git, into [`GitAccess::memory_bytes`].

use std::sync::Arc;

use async_trait::async_trait;

use super::history::CodeCommitHistory;
use super::large_files_over_git::{GitAccess, GitLargeFiles};
use super::pathspec::PathSelection;
use super::request::ArchiveRequest;
use super::served_archives::{body, commit_of_tree, time};
use super::tree_source::{CodeCommitFolder, TreeSource as _};
use crate::error::{Error, ErrorKind, Result};
use crate::git::date::LocalTime;
use crate::git::refs::{RefValue, Refs};
use crate::git::server::{ArchiveArguments, ArchiveBody, ArchiveSource, RefSnapshot};
use crate::git::{ObjectId, escaped_excerpt};
use crate::name::{CommitId, RepositoryName};

/// Maximum number of concurrent requests; the service's limiter may allow fewer.
const CONCURRENT_REQUESTS: usize = 8;

/// Makes archives of a repository.
#[derive(Debug, Clone)]
pub struct CodeCommitArchives {
    access: GitAccess,
    repository: RepositoryName,
    now: LocalTime,
}

impl CodeCommitArchives {
    /// Makes archives of `repository`; those of folders have the time `now`.
    pub fn new(access: GitAccess, repository: RepositoryName, now: LocalTime) -> Self {
        Self {
            access,
            repository,
            now,
        }
    }

    /// Finds the commit that a ref names, or that is given by its full id.
    async fn resolve(&self, name: &str) -> Result<ObjectId> {
        if let Ok(id) = CommitId::new(name) {
            return Ok(id.object_id());
        }
        let client = self.access.client(&self.repository).await?;
        let server = client.upload_pack(&[]).await?;
        let advertisement = &server.advertisement;
        let advertised = advertisement.refs.iter();
        let peeled = |id: ObjectId| {
            let mut advertised = advertisement.refs.iter();
            let tag = advertised.find(|found| found.id == id && found.peeled.is_some());
            tag.and_then(|tag| tag.peeled).unwrap_or(id)
        };
        if name == "HEAD"
            && let Some(head) = advertisement.find("HEAD")
        {
            return Ok(peeled(head.id));
        }
        let refs: Refs = advertised
            .map(|found| {
                let value = RefValue {
                    id: found.id,
                    peeled: found.peeled,
                };
                (found.name.clone(), value)
            })
            .collect();
        let snapshot = RefSnapshot {
            hash: advertisement.hash,
            refs,
            head: advertisement.head(),
        };
        let found = snapshot.resolve(name.as_bytes()).map(peeled);
        found.ok_or_else(|| {
            let shown = escaped_excerpt(name.as_bytes());
            Error::new(ErrorKind::Config, format!("no such ref: {shown}"))
        })
    }

    async fn open(&self, arguments: &ArchiveArguments) -> Result<ArchiveBody> {
        let (name, folder) = match arguments.tree_ish.split_once(':') {
            Some((name, folder)) => (name, Some(folder)),
            None => (arguments.tree_ish.as_str(), None),
        };
        let service = &self.access.service;
        let id = self.resolve(name).await?;
        let commit = service.get_commit(&self.repository, id.into()).await?;
        let names = folder.unwrap_or_default().split('/');
        let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
        let tree = CodeCommitFolder {
            service: Arc::clone(service),
            repository: self.repository.clone(),
            commit: id.into(),
            folder: names.join("/"),
        };
        let archived = if folder.is_none() {
            commit
        } else if tree.folder.is_empty() {
            commit_of_tree(commit.tree, self.now.seconds())
        } else {
            let listing = tree.folder("", commit.tree).await.map_err(|error| {
                if error.kind() == ErrorKind::NotFound {
                    let shown = escaped_excerpt(arguments.tree_ish.as_bytes());
                    let message = format!("not a valid object name: {shown}");
                    Error::new(ErrorKind::Config, message).with_source(error)
                } else {
                    error
                }
            })?;
            commit_of_tree(listing.id, self.now.seconds())
        };
        let large_files = GitLargeFiles::new(
            self.access.clone(),
            self.repository.clone(),
            id.into(),
            None,
        );
        let history = CodeCommitHistory::new(self.access.clone(), self.repository.clone());
        let request = ArchiveRequest {
            prefix: arguments.prefix.clone(),
            history: Some(Arc::new(history)),
            concurrency: CONCURRENT_REQUESTS,
            paths: PathSelection::new(&arguments.paths)?,
            time: time(arguments.mtime.as_deref(), &self.now)?,
            level: arguments.level,
            tree_only: folder.is_some(),
            large_files: Some(Arc::new(large_files)),
            ..ArchiveRequest::new(archived)
        };
        Ok(body(Arc::new(tree), request, arguments.format))
    }
}

#[async_trait]
impl ArchiveSource for CodeCommitArchives {
    async fn archive(&self, arguments: &ArchiveArguments) -> crate::git::Result<ArchiveBody> {
        Ok(self.open(arguments).await?)
    }
}
