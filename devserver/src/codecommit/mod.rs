//! The CodeCommit API on real bare repositories.
//!
//! [`CodeCommitService`] holds the repositories and answers operations; the git
//! transport (`git_http`) uses it too, so that every change of refs takes one path
//! and is reported to the observer once. Layers, each using only those below it:
//!
//! 1. `repositories`, `branches`, `contents`, `differences`, `triggers`, `pull_requests`: the
//!    operations.
//! 2. `refs_change`: changes of refs, one at a time per repository.
//! 3. `repository`: one repository and what is durable about it.
//! 4. `merge`: merges of two commits.
//! 5. `objects`, `tree`, `input`, `page`, [`git`]: reading objects and requests.

mod branches;
mod contents;
mod differences;
pub mod git;
mod input;
mod merge;
mod objects;
mod page;
mod pull_requests;
mod refs_change;
mod repositories;
mod repository;
mod tree;
mod triggers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use branchline_core::codecommit::{MAX_BRANCHES_PER_TRIGGER, MAX_TRIGGERS, TriggerSet};
use branchline_core::name::RepositoryName;
use serde_json::Value;

use crate::account::Account;
use crate::aws_json::{ApiError, ApiResult};
use crate::event::{EventSink, NoEvents};
use crate::ref_observer::RefObserver;

use input::Input;
use pull_requests::PullRequestStore;
pub(crate) use repository::Repository;
pub use triggers::{TriggerTest, TriggerTester};

/// Quotas and page sizes. AWS states the quotas; for the page sizes of `ListBranches`
/// and `GetDifferences`, which it does not, the defaults are a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of triggers of a repository: 10.
    pub triggers: usize,
    /// Maximum number of branches of a trigger: 10.
    pub branches_per_trigger: usize,
    /// Names on a page of `ListBranches`: 100.
    pub branches_page: usize,
    /// Names on a page of `ListRepositories`: 1000.
    pub repositories_page: usize,
    /// Maximum number of differences on a page of `GetDifferences`: 400.
    pub differences_page: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            triggers: MAX_TRIGGERS,
            branches_per_trigger: MAX_BRANCHES_PER_TRIGGER,
            branches_page: 100,
            repositories_page: 1000,
            differences_page: 400,
        }
    }
}

/// CodeCommit, over the bare repositories `<dir>/<name>.git`.
///
/// A handle: clones share the repositories.
#[derive(Clone)]
pub struct CodeCommitService(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    account: Account,
    limits: Limits,
    observer: Arc<dyn RefObserver>,
    base_url: RwLock<String>,
    tester: RwLock<Option<Arc<dyn TriggerTester>>>,
    events: RwLock<Arc<dyn EventSink>>,
    pull_requests: PullRequestStore,
    repositories: RwLock<BTreeMap<String, Arc<Repository>>>,
    /// Held while a repository is created or deleted.
    membership: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for CodeCommitService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CodeCommitService")
            .field("dir", &self.0.dir)
            .finish_non_exhaustive()
    }
}

impl CodeCommitService {
    /// Opens the repositories in `dir`, which is created when it is missing.
    pub fn open(
        dir: impl AsRef<Path>,
        account: Account,
        observer: Arc<dyn RefObserver>,
    ) -> std::io::Result<Self> {
        Self::open_with(dir, account, observer, Limits::default())
    }

    /// Like [`open`](Self::open), with the given quotas and page sizes.
    pub fn open_with(
        dir: impl AsRef<Path>,
        account: Account,
        observer: Arc<dyn RefObserver>,
        limits: Limits,
    ) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir.as_ref())?;
        let dir = std::path::absolute(dir.as_ref())?;
        let mut repositories = BTreeMap::new();
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let Some(file_name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if file_name.starts_with(".new-") || file_name.starts_with(".deleted-") {
                // Left by a server that was killed while it created or deleted a repository.
                std::fs::remove_dir_all(&path)?;
                continue;
            }
            let Some(name) = file_name.strip_suffix(".git") else {
                continue;
            };
            if RepositoryName::new(name).is_ok() && path.join("objects").is_dir() {
                let repository = Repository::open(name.to_owned(), path.clone())?;
                repositories.insert(name.to_owned(), Arc::new(repository));
            }
        }
        let ids: BTreeSet<String> = repositories
            .values()
            .map(|repository: &Arc<Repository>| repository.metadata().id)
            .collect();
        let pull_requests = PullRequestStore::open(&dir, |id| ids.contains(id))?;
        Ok(Self(Arc::new(Inner {
            dir,
            account,
            limits,
            observer,
            base_url: RwLock::default(),
            tester: RwLock::default(),
            events: RwLock::new(Arc::new(NoEvents)),
            pull_requests,
            repositories: RwLock::new(repositories),
            membership: tokio::sync::Mutex::default(),
        })))
    }

    /// Sets the start of `cloneUrlHttp`, `http://127.0.0.1:3000`; the port is known
    /// only after the server listens.
    pub fn set_base_url(&self, base_url: &str) {
        let base_url = base_url.trim_end_matches('/').to_owned();
        let held = self.0.base_url.write();
        *held.unwrap_or_else(PoisonError::into_inner) = base_url;
    }

    /// Sets the runner of `TestRepositoryTriggers`. Until then all tests fail.
    pub fn set_trigger_tester(&self, tester: Arc<dyn TriggerTester>) {
        let mut held = self
            .0
            .tester
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *held = Some(tester);
    }

    /// Sets the taker of the events of pull requests and comments. Until then they are ignored.
    pub fn set_event_sink(&self, events: Arc<dyn EventSink>) {
        let held = self.0.events.write();
        *held.unwrap_or_else(PoisonError::into_inner) = events;
    }

    fn events(&self) -> Arc<dyn EventSink> {
        let held = self.0.events.read();
        Arc::clone(&held.unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the names of all repositories, sorted.
    pub fn repositories(&self) -> Vec<String> {
        self.open_repositories().keys().cloned().collect()
    }

    /// Returns the triggers of a repository; `None` if it does not exist.
    pub fn triggers(&self, repository: &str) -> Option<TriggerSet> {
        self.find(repository).map(|found| found.triggers())
    }

    /// Returns the `repositoryId` (a UUID) of a repository.
    pub fn repository_id(&self, repository: &str) -> Option<String> {
        self.find(repository).map(|found| found.metadata().id)
    }

    /// Returns the folder of a repository's bare git repository.
    pub fn repository_dir(&self, repository: &str) -> Option<PathBuf> {
        self.find(repository).map(|found| found.dir.clone())
    }

    /// Returns the URL at which git reaches a repository.
    pub fn clone_url(&self, repository: &str) -> String {
        let base_url = self.0.base_url.read();
        let base_url = base_url.unwrap_or_else(PoisonError::into_inner);
        format!("{base_url}/v1/repos/{repository}")
    }

    /// Answers one operation (`GetFolder`) requested by `principal_arn`.
    pub async fn call(&self, operation: &str, input: Value, principal_arn: &str) -> ApiResult {
        let Value::Object(members) = &input else {
            return Err(ApiError::new(
                "SerializationException",
                "the request's body must be a JSON object",
            ));
        };
        let input = Input(members);
        match operation {
            "CreateRepository" => self.create_repository(input).await,
            "DeleteRepository" => self.delete_repository(input).await,
            "GetRepository" => self.get_repository(input),
            "ListRepositories" => self.list_repositories(input),
            "BatchGetRepositories" => self.batch_get_repositories(input),
            "GetFolder" => self.get_folder(input).await,
            "GetFile" => self.get_file(input).await,
            "GetBlob" => self.get_blob(input).await,
            "GetCommit" => self.get_commit(input).await,
            "BatchGetCommits" => self.batch_get_commits(input).await,
            "GetDifferences" => self.get_differences(input).await,
            "GetBranch" => self.get_branch(input).await,
            "ListBranches" => self.list_branches(input).await,
            "CreateBranch" => self.create_branch(input, principal_arn).await,
            "DeleteBranch" => self.delete_branch(input, principal_arn).await,
            "UpdateDefaultBranch" => self.update_default_branch(input).await,
            "UpdateRepositoryDescription" => self.update_repository_description(input),
            "GetRepositoryTriggers" => self.get_repository_triggers(input),
            "PutRepositoryTriggers" => self.put_repository_triggers(input),
            "TestRepositoryTriggers" => self.test_repository_triggers(input, principal_arn).await,
            _ => {
                let called = self.call_pull_requests(operation, input, principal_arn);
                let called = called.await;
                called.unwrap_or_else(|| Err(unknown_operation(operation)))
            }
        }
    }

    /// Finds an open repository by name.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Repository>> {
        self.open_repositories().get(name).cloned()
    }

    /// Finds the repository that `repositoryName` names, or returns the operation's error.
    fn named(&self, input: Input<'_>) -> Result<Arc<Repository>, ApiError> {
        let name = input.repository_name()?;
        self.find(name.as_str()).ok_or_else(|| {
            ApiError::new(
                "RepositoryDoesNotExistException",
                format!("{name} does not exist"),
            )
        })
    }

    fn open_repositories(
        &self,
    ) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<Repository>>> {
        let repositories = self.0.repositories.read();
        repositories.unwrap_or_else(PoisonError::into_inner)
    }

    fn all_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<String, Arc<Repository>>> {
        let repositories = self.0.repositories.write();
        repositories.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Operations besides those of pull requests.
const OPERATIONS: [&str; 20] = [
    "BatchGetCommits",
    "BatchGetRepositories",
    "CreateBranch",
    "CreateRepository",
    "DeleteBranch",
    "DeleteRepository",
    "GetBlob",
    "GetBranch",
    "GetCommit",
    "GetDifferences",
    "GetFile",
    "GetFolder",
    "GetRepository",
    "GetRepositoryTriggers",
    "ListBranches",
    "ListRepositories",
    "PutRepositoryTriggers",
    "TestRepositoryTriggers",
    "UpdateDefaultBranch",
    "UpdateRepositoryDescription",
];

fn unknown_operation(operation: &str) -> ApiError {
    let offered = OPERATIONS.into_iter().chain(pull_requests::OPERATIONS);
    crate::aws_json::unknown_operation("CodeCommit", operation, offered)
}
