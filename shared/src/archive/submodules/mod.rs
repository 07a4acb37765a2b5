//! Content of submodules at their pinned commits.
//!
//! A submodule is archived as `git archive` would archive it in a checkout: with its own
//! `.gitattributes`, and with its own commit for `export-subst`. Its repository is the one that
//! `.gitmodules` names.
//!
//! | file | job |
//! |---|---|
//! | `gitmodules` | reads `.gitmodules` |
//! | `codecommit` | repositories of CodeCommit, of one account and region |

mod codecommit;
mod gitmodules;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

pub use self::codecommit::CodeCommitSubmodules;
pub(super) use self::gitmodules::Modules;

use super::history::History;
use super::odb_source::DatabaseFiles;
use super::streamed_entry::LargeFiles;
use super::tree_source::{CodeCommitFolder, TreeSource};
use crate::codecommit::{CodeCommit, MAX_BLOB_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::Commit;
use crate::git::odb::Database;
use crate::lfs::LfsStore;
use crate::name::RepositoryName;

/// Maximum depth of nested submodules.
pub(super) const MAX_DEPTH: usize = 16;

/// The repositories that submodules may be in.
#[async_trait]
pub trait SubmoduleRepositories: fmt::Debug + Send + Sync {
    /// Returns the name of the archived repository.
    fn root(&self) -> &str;

    /// Opens `commit` of the repository that the `.gitmodules` of the repository `parent` calls
    /// `url`.
    ///
    /// # Errors
    /// `Config` for a URL that may not be read; `NotFound` for a commit that was not pushed.
    async fn open(&self, parent: &str, url: &str, commit: ObjectId) -> Result<SubmoduleCommit>;

    /// Returns the number of requests to CodeCommit so far.
    fn requests(&self) -> u64 {
        0
    }
}

/// A commit of a submodule.
#[derive(Clone)]
pub struct SubmoduleCommit {
    name: String,
    pub(super) commit: Arc<Commit>,
    pub(super) files: Arc<dyn TreeSource>,
    pub(super) large_files: Option<Arc<dyn LargeFiles>>,
    pub(super) lfs: Option<Arc<dyn LfsStore>>,
    pub(super) history: Option<Arc<dyn History>>,
}

impl fmt::Debug for SubmoduleCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmoduleCommit")
            .field("name", &self.name)
            .field("commit", &self.commit.id)
            .finish_non_exhaustive()
    }
}

impl SubmoduleCommit {
    /// Reads `commit` from an object database of the repository `name`.
    pub fn in_database(name: String, objects: &Arc<Database>, commit: Commit) -> Self {
        let files = Arc::new(DatabaseFiles::new(Arc::clone(objects), MAX_BLOB_BYTES));
        Self {
            name,
            commit: Arc::new(commit),
            large_files: Some(Arc::clone(&files) as _),
            files,
            lfs: None,
            history: None,
        }
    }

    /// Reads `commit` of a CodeCommit repository over the API.
    pub fn in_codecommit(
        service: Arc<dyn CodeCommit>,
        repository: RepositoryName,
        commit: Commit,
    ) -> Self {
        Self {
            name: repository.to_string(),
            files: Arc::new(CodeCommitFolder {
                service,
                repository,
                commit: commit.id.into(),
                folder: String::new(),
            }),
            commit: Arc::new(commit),
            large_files: None,
            lfs: None,
            history: None,
        }
    }

    /// Adds the source of files that the API refuses as too large.
    #[must_use]
    pub fn with_large_files(mut self, large_files: Option<Arc<dyn LargeFiles>>) -> Self {
        self.large_files = large_files;
        self
    }

    /// Adds the store of the repository's LFS objects.
    #[must_use]
    pub fn with_lfs(mut self, lfs: Option<Arc<dyn LfsStore>>) -> Self {
        self.lfs = lfs;
        self
    }

    /// Adds the history of the repository, for `%(describe)` and `%d` in its files.
    #[must_use]
    pub fn with_history(mut self, history: Option<Arc<dyn History>>) -> Self {
        self.history = history;
        self
    }

    /// Returns the name of the repository.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// Opens the submodule at `path` of the repository `parent`, whose `.gitmodules` is `modules`.
pub(super) async fn open(
    repositories: &dyn SubmoduleRepositories,
    parent: &str,
    modules: &Modules,
    path: &str,
    commit: ObjectId,
) -> Result<SubmoduleCommit> {
    let url = modules.url(path).ok_or_else(|| {
        let message = "`.gitmodules` has no `url` for it";
        Error::new(ErrorKind::Config, message)
            .with_hint("add the submodule to `.gitmodules`, or archive without submodules")
    })?;
    repositories.open(parent, url, commit).await
}
