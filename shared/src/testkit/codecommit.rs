//! [`CodeCommit`] in memory.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::call_log::CallLog;
use super::pull_request_store::MemoryPullRequests;
use super::repository::{CommitText, Entry, MemoryRepository};
use crate::codecommit::{
    self, BlobAdmission, CodeCommit, Difference, MAX_BLOB_BYTES, MAX_BRANCHES_PER_TRIGGER,
    MAX_COMMITS_PER_REQUEST, MAX_TRIGGERS, Page, PullRequest, Trigger, TriggerEvent, TriggerSet,
};
use crate::error::{Error, ErrorKind, Result};
use crate::git::object::{Commit, TreeListing};
use crate::name::{BlobId, BranchName, CommitId, PullRequestId, RepositoryName, TagName};

/// Limits of a [`MemoryCodeCommit`] in which services may differ.
#[derive(Debug, Clone)]
pub struct CodeCommitOptions {
    /// Maximum number of items in a page.
    pub page: usize,
    /// Lists items in reverse order.
    pub unordered: bool,
    /// Maximum number of triggers of a repository.
    pub max_triggers: usize,
    /// Maximum number of branches of a trigger.
    pub max_branches_per_trigger: usize,
    /// Region of the service; destinations of triggers must be in it.
    pub region: String,
}

impl Default for CodeCommitOptions {
    fn default() -> Self {
        Self {
            page: 2,
            unordered: false,
            max_triggers: MAX_TRIGGERS,
            max_branches_per_trigger: MAX_BRANCHES_PER_TRIGGER,
            region: "eu-west-1".into(),
        }
    }
}

/// CodeCommit of one account and region, in memory.
#[derive(Debug, Default)]
pub struct MemoryCodeCommit {
    options: CodeCommitOptions,
    repositories: Mutex<BTreeMap<RepositoryName, MemoryRepository>>,
    pub(super) pull_requests: MemoryPullRequests,
    traffic: CallLog,
}

impl MemoryCodeCommit {
    /// Makes a service without repositories, with AWS's quotas.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a service without repositories, with these limits.
    pub fn with_options(options: CodeCommitOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Returns the log of calls, which has latency, throttling and hooks.
    pub fn traffic(&self) -> &CallLog {
        &self.traffic
    }

    /// Creates an empty repository.
    pub fn add_repository(&self, repository: &RepositoryName) {
        self.lock().entry(repository.clone()).or_default();
    }

    /// Deletes a repository.
    pub fn delete_repository(&self, repository: &RepositoryName) {
        self.lock().remove(repository);
    }

    /// Commits changes on top of a branch. A missing repository or branch is created; the
    /// first branch becomes the default one.
    pub fn commit(
        &self,
        repository: &RepositoryName,
        branch: &str,
        changes: &[(&str, Entry)],
    ) -> CommitId {
        self.commit_as(repository, branch, changes, &CommitText::new("a change\n"))
    }

    /// Like [`commit`](Self::commit), with this author and message.
    pub fn commit_as(
        &self,
        repository: &RepositoryName,
        branch: &str,
        changes: &[(&str, Entry)],
        text: &CommitText,
    ) -> CommitId {
        let tip = {
            let name = BranchName::new(branch).expect("because tests name branches legally");
            let repositories = self.lock();
            let known = repositories.get(repository);
            known.and_then(|known| known.branches.get(&name).copied())
        };
        self.commit_on(repository, branch, tip.as_slice(), changes, text)
    }

    /// Adds a branch with a name that [`BranchName`] rejects, as a push can make it.
    pub fn add_odd_branch(&self, repository: &RepositoryName, name: &str) {
        let mut repositories = self.lock();
        let repository = repositories.entry(repository.clone()).or_default();
        repository.odd_branches.push(name.to_owned());
    }

    /// Commits changes on top of `parents`, of which the first has the tree, and makes the
    /// commit the tip of a branch: a forced push, or the push of a merge.
    pub fn commit_on(
        &self,
        repository: &RepositoryName,
        branch: &str,
        parents: &[CommitId],
        changes: &[(&str, Entry)],
        text: &CommitText,
    ) -> CommitId {
        let branch = BranchName::new(branch).expect("because tests name branches legally");
        let mut repositories = self.lock();
        let repository = repositories.entry(repository.clone()).or_default();
        let id = repository.commit(parents, changes, text);
        repository.default_branch.get_or_insert(branch.clone());
        repository.branches.insert(branch, id);
        id
    }

    /// Sets a branch to a commit, like a forced push.
    pub fn set_branch(&self, repository: &RepositoryName, branch: &str, commit: CommitId) {
        let branch = BranchName::new(branch).expect("because tests name branches legally");
        let mut repositories = self.lock();
        let repository = repositories.entry(repository.clone()).or_default();
        repository.branches.insert(branch, commit);
    }

    /// Deletes a branch.
    pub fn delete_branch(&self, repository: &RepositoryName, branch: &str) {
        if let Some(repository) = self.lock().get_mut(repository) {
            repository.branches.remove(branch);
        }
    }

    /// Returns the triggers of a repository without a logged call.
    pub fn triggers(&self, repository: &RepositoryName) -> Vec<Trigger> {
        self.lock()
            .get(repository)
            .map(|repository| repository.triggers.clone())
            .unwrap_or_default()
    }

    /// Replaces the triggers without a logged call and without checks, as another client.
    pub fn set_triggers(&self, repository: &RepositoryName, triggers: Vec<Trigger>) {
        let mut repositories = self.lock();
        let repository = repositories.entry(repository.clone()).or_default();
        repository.triggers = triggers;
        repository.configuration += 1;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<RepositoryName, MemoryRepository>> {
        self.repositories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(
        &self,
        name: &RepositoryName,
        read: impl FnOnce(&mut MemoryRepository) -> Result<T>,
    ) -> Result<T> {
        let mut repositories = self.lock();
        let repository = repositories.get_mut(name).ok_or_else(|| {
            missing(
                "RepositoryDoesNotExistException",
                format!("repository `{name}`"),
            )
        })?;
        read(repository)
    }

    fn describe(
        &self,
        name: &RepositoryName,
        repository: &MemoryRepository,
    ) -> codecommit::Repository {
        let region = &self.options.region;
        codecommit::Repository {
            name: name.clone(),
            arn: format!("arn:aws:codecommit:{region}:111122223333:{name}"),
            clone_url_http: format!(
                "https://git-codecommit.{region}.amazonaws.com/v1/repos/{name}"
            ),
            default_branch: repository.default_branch.as_ref().map(ToString::to_string),
        }
    }

    fn page<T: Clone>(&self, mut items: Vec<T>, next: Option<&str>) -> Result<Page<T>> {
        if self.options.unordered {
            items.reverse();
        }
        let from = match next {
            None => 0,
            Some(token) => token
                .strip_prefix("from-")
                .and_then(|from| from.parse().ok())
                .ok_or_else(|| refused("InvalidContinuationTokenException", "the token"))?,
        };
        let end = (from + self.options.page).min(items.len());
        Ok(Page {
            next: (end < items.len()).then(|| format!("from-{end}")),
            items: items.get(from..end).unwrap_or_default().to_vec(),
        })
    }

    fn check(&self, triggers: &[Trigger]) -> Result<()> {
        if triggers.len() > self.options.max_triggers {
            return Err(refused(
                "MaximumRepositoryTriggersExceededException",
                "the number of triggers",
            ));
        }
        let mut names = HashSet::new();
        for trigger in triggers {
            let name = &trigger.name;
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            let legal_name = (1..=100).contains(&name.len()) && name.chars().all(legal);
            if !legal_name || !names.insert(name) {
                return Err(refused("InvalidRepositoryTriggerNameException", name));
            }
            let arn: Vec<_> = trigger.destination_arn.splitn(6, ':').collect();
            let ["arn", _, "lambda" | "sns", region, _, _] = arn[..] else {
                return Err(refused(
                    "InvalidRepositoryTriggerDestinationArnException",
                    &trigger.destination_arn,
                ));
            };
            if region != self.options.region {
                return Err(refused("InvalidRepositoryTriggerRegionException", region));
            }
            let data = trigger.custom_data.as_deref().unwrap_or_default();
            if data.chars().count() > 1000 {
                return Err(refused(
                    "InvalidRepositoryTriggerCustomDataException",
                    "the length of the custom data",
                ));
            }
            if trigger.branches.len() > self.options.max_branches_per_trigger {
                return Err(refused(
                    "MaximumBranchesExceededException",
                    "the number of branches of a trigger",
                ));
            }
            if let Some(branch) = trigger
                .branches
                .iter()
                .find(|b| BranchName::new(b).is_err())
            {
                return Err(refused(
                    "InvalidRepositoryTriggerBranchNameException",
                    branch,
                ));
            }
            if trigger.events.is_empty() {
                return Err(refused(
                    "InvalidRepositoryTriggerEventsException",
                    "the empty list of events",
                ));
            }
            if trigger.events.contains(&TriggerEvent::All) && trigger.events.len() > 1 {
                return Err(refused(
                    "InvalidRepositoryTriggerEventsException",
                    "`all` beside other events",
                ));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl CodeCommit for MemoryCodeCommit {
    async fn list_repositories(&self, next: Option<&str>) -> Result<Page<RepositoryName>> {
        let _call = self.traffic.enter("list_repositories").await?;
        let names = self.lock().keys().cloned().collect();
        self.page(names, next)
    }

    async fn get_repository(&self, name: &RepositoryName) -> Result<codecommit::Repository> {
        let _call = self.traffic.enter("get_repository").await?;
        self.read(name, |repository| Ok(self.describe(name, repository)))
    }

    async fn create_repository(&self, name: &RepositoryName) -> Result<codecommit::Repository> {
        let _call = self.traffic.enter("create_repository").await?;
        let mut repositories = self.lock();
        if repositories.contains_key(name) {
            let message = format!("repository `{name}` exists already");
            return Err(Error::new(ErrorKind::Conflict, message)
                .with_aws(Some("RepositoryNameExistsException"), None));
        }
        let repository = repositories.entry(name.clone()).or_default();
        Ok(self.describe(name, repository))
    }

    async fn update_default_branch(
        &self,
        name: &RepositoryName,
        branch: &BranchName,
    ) -> Result<()> {
        let _call = self.traffic.enter("update_default_branch").await?;
        self.read(name, |repository| {
            if !repository.branches.contains_key(branch) {
                return Err(missing(
                    "BranchDoesNotExistException",
                    format!("branch `{branch}` of repository `{name}`"),
                ));
            }
            repository.default_branch = Some(branch.clone());
            Ok(())
        })
    }

    async fn list_branches(
        &self,
        name: &RepositoryName,
        next: Option<&str>,
    ) -> Result<Page<String>> {
        let _call = self.traffic.enter("list_branches").await?;
        let names = self.read(name, |repository| {
            let names = repository.branches.keys().map(BranchName::to_string);
            Ok(names.chain(repository.odd_branches.clone()).collect())
        })?;
        self.page(names, next)
    }

    async fn get_branch(&self, name: &RepositoryName, branch: &BranchName) -> Result<CommitId> {
        let _call = self.traffic.enter("get_branch").await?;
        self.read(name, |repository| {
            repository.branches.get(branch).copied().ok_or_else(|| {
                missing(
                    "BranchDoesNotExistException",
                    format!("branch `{branch}` of repository `{name}`"),
                )
            })
        })
    }

    async fn get_tag(&self, name: &RepositoryName, tag: &TagName) -> Result<CommitId> {
        let _call = self.traffic.enter("get_tag").await?;
        self.read(name, |repository| {
            repository.tags.get(tag).copied().ok_or_else(|| {
                missing(
                    "CommitDoesNotExistException",
                    format!("tag `{tag}` of repository `{name}`"),
                )
            })
        })
    }

    async fn get_commit(&self, name: &RepositoryName, commit: CommitId) -> Result<Commit> {
        let _call = self.traffic.enter("get_commit").await?;
        self.read(name, |repository| {
            repository.find_commit(commit).cloned().ok_or_else(|| {
                missing(
                    "CommitIdDoesNotExistException",
                    format!("commit {commit} of repository `{name}`"),
                )
            })
        })
    }

    async fn get_commits(
        &self,
        name: &RepositoryName,
        commits: &[CommitId],
    ) -> Result<Vec<Commit>> {
        let _call = self.traffic.enter("get_commits").await?;
        if !(1..=MAX_COMMITS_PER_REQUEST).contains(&commits.len()) {
            return Err(refused(
                "CommitIdsLimitExceededException",
                "the number of commits",
            ));
        }
        self.read(name, |repository| {
            let found = commits.iter().filter_map(|id| repository.find_commit(*id));
            Ok(found.cloned().collect())
        })
    }

    async fn get_folder(
        &self,
        name: &RepositoryName,
        commit: CommitId,
        path: &str,
    ) -> Result<TreeListing> {
        let _call = self.traffic.enter("get_folder").await?;
        let mut folder = self.read(name, |repository| {
            let found = repository.find_commit(commit).ok_or_else(|| {
                missing(
                    "CommitDoesNotExistException",
                    format!("commit {commit} of repository `{name}`"),
                )
            })?;
            repository.folder(found, path).ok_or_else(|| {
                missing(
                    "FolderDoesNotExistException",
                    format!("folder `{path}` of commit {commit} of repository `{name}`"),
                )
            })
        })?;
        if self.options.unordered {
            folder.entries.reverse();
        }
        Ok(folder)
    }

    async fn get_blob(
        &self,
        name: &RepositoryName,
        blob: BlobId,
        admission: &dyn BlobAdmission,
    ) -> Result<Bytes> {
        let call = self.traffic.enter("get_blob").await?;
        let content = self.read(name, |repository| {
            let what = || format!("blob {blob} of repository `{name}`");
            let content = repository
                .find_blob(blob)
                .ok_or_else(|| missing("BlobIdDoesNotExistException", what()))?;
            if content.len() as u64 > MAX_BLOB_BYTES {
                let message = format!(
                    "{} is larger than the 6 MiB that the CodeCommit API serves",
                    what()
                );
                return Err(Error::new(ErrorKind::FileTooLarge, message)
                    .with_aws(Some("FileTooLargeException"), None));
            }
            Ok(content.clone())
        })?;
        self.traffic.record_bytes("get_blob", content.len());
        // Ended here, because the service has answered; only reading the body is delayed.
        drop(call);
        admission.admit(content.len() as u64).await;
        Ok(content)
    }

    async fn get_differences(
        &self,
        name: &RepositoryName,
        before: CommitId,
        after: CommitId,
        next: Option<&str>,
    ) -> Result<Page<Difference>> {
        let _call = self.traffic.enter("get_differences").await?;
        let differences = self.read(name, |repository| {
            let find = |commit| {
                repository.find_commit(commit).ok_or_else(|| {
                    missing(
                        "CommitDoesNotExistException",
                        format!("commit {commit} of repository `{name}`"),
                    )
                })
            };
            Ok(repository.differences(find(before)?, find(after)?))
        })?;
        self.page(differences, next)
    }

    async fn get_merge_base(
        &self,
        name: &RepositoryName,
        commit: CommitId,
        branch: &BranchName,
    ) -> Result<Option<CommitId>> {
        let _call = self.traffic.enter("get_merge_base").await?;
        self.read(name, |repository| {
            let tip = repository.branches.get(branch).copied();
            match tip.filter(|_| repository.find_commit(commit).is_some()) {
                Some(tip) => Ok(repository.merge_base(commit, tip)),
                None => Err(missing(
                    "CommitDoesNotExistException",
                    format!("commit {commit} or branch `{branch}` of repository `{name}`"),
                )),
            }
        })
    }

    async fn get_pull_request(&self, id: &PullRequestId) -> Result<PullRequest> {
        let _call = self.traffic.enter("get_pull_request").await?;
        self.pull_request(id).ok_or_else(|| {
            missing(
                "PullRequestDoesNotExistException",
                format!("pull request {id}"),
            )
        })
    }

    async fn list_open_pull_requests(
        &self,
        name: &RepositoryName,
        next: Option<&str>,
    ) -> Result<Page<PullRequestId>> {
        let _call = self.traffic.enter("list_open_pull_requests").await?;
        self.read(name, |_| Ok(()))?;
        self.page(self.open_pull_requests(name), next)
    }

    async fn get_triggers(&self, name: &RepositoryName) -> Result<TriggerSet> {
        let _call = self.traffic.enter("get_triggers").await?;
        self.read(name, |repository| {
            Ok(TriggerSet {
                configuration_id: configuration_id(repository.configuration),
                triggers: repository.triggers.clone(),
            })
        })
    }

    async fn put_triggers(&self, name: &RepositoryName, triggers: &[Trigger]) -> Result<String> {
        let _call = self.traffic.enter("put_triggers").await?;
        self.read(name, |repository| {
            self.check(triggers)?;
            repository.triggers = triggers.to_vec();
            repository.configuration += 1;
            Ok(configuration_id(repository.configuration))
        })
    }
}

fn configuration_id(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

fn missing(code: &str, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::NotFound, format!("{what} does not exist")).with_aws(Some(code), None)
}

fn refused(code: &str, what: &str) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("CodeCommit does not accept {what}"),
    )
    .with_aws(Some(code), None)
}
