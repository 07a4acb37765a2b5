//! [`CodeCommit`] over the AWS SDK.

use async_trait::async_trait;
use aws_sdk_codecommit::Client;
use aws_sdk_codecommit::types::{
    FileModeTypeEnum, RepositoryMetadata, RepositoryTrigger, RepositoryTriggerEventEnum,
};
use bytes::Bytes;

use super::client_error::{convert, convert_in};
use super::client_fields::{of_repository, parse, required};
use super::{
    BlobAdmission, CodeCommit, Difference, MAX_BLOB_BYTES, Page, PullRequest, Repository, Trigger,
    TriggerEvent, TriggerSet, client_commits, client_differences, client_pull_requests,
    client_revisions,
};
use crate::aws::{ApiCall, Aws, BodyGate, corrupt};
use crate::error::Result;
use crate::git::object::{Commit, EntryMode, ListedEntry, TreeListing};
use crate::git::{ObjectId, escaped_excerpt};
use crate::name::{BlobId, BranchName, CommitId, PullRequestId, RepositoryName, TagName, TreeId};

/// Maximum number of characters of a repository's description.
pub const MAX_DESCRIPTION_CHARS: usize = 1000;

/// AWS CodeCommit of one account and region.
#[derive(Debug, Clone)]
pub struct SdkCodeCommit {
    client: Client,
}

impl SdkCodeCommit {
    /// Makes a client.
    pub fn new(aws: &Aws) -> Self {
        let config = aws_sdk_codecommit::config::Builder::from(aws.sdk())
            .interceptor(aws.idle_timeout())
            .build();
        Self {
            client: Client::from_conf(config),
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the description of a repository, if it has one.
    pub async fn description(&self, repository: &RepositoryName) -> Result<Option<String>> {
        let metadata = self.metadata(repository).await?;
        let description = metadata.and_then(|metadata| metadata.repository_description);
        Ok(description.filter(|text| !text.is_empty()))
    }

    async fn metadata(&self, repository: &RepositoryName) -> Result<Option<RepositoryMetadata>> {
        let answer = self
            .client
            .get_repository()
            .repository_name(repository.as_str())
            .send()
            .await;
        let call = || of_repository("GetRepository", "codecommit:GetRepository", repository);
        let answer = answer.map_err(|error| convert(&error, &call()))?;
        Ok(answer.repository_metadata)
    }

    /// Sets the description of a repository, at most [`MAX_DESCRIPTION_CHARS`].
    pub async fn update_description(
        &self,
        repository: &RepositoryName,
        description: &str,
    ) -> Result<()> {
        let call = || {
            of_repository(
                "UpdateRepositoryDescription",
                "codecommit:UpdateRepositoryDescription",
                repository,
            )
        };
        self.client
            .update_repository_description()
            .repository_name(repository.as_str())
            .repository_description(description)
            .send()
            .await
            .map_err(|error| convert(&error, &call()))
            .map(drop)
    }
}

#[async_trait]
impl CodeCommit for SdkCodeCommit {
    async fn list_repositories(&self, next: Option<&str>) -> Result<Page<RepositoryName>> {
        let call = || ApiCall {
            service: "CodeCommit",
            operation: "ListRepositories",
            permission: "codecommit:ListRepositories",
            subject: "the account's repositories".into(),
            resource: "`*`".into(),
        };
        let answer = self
            .client
            .list_repositories()
            .set_next_token(next.map(str::to_owned))
            .send()
            .await
            .map_err(|error| convert(&error, &call()))?;
        let items = answer
            .repositories
            .unwrap_or_default()
            .into_iter()
            .map(|repository| {
                let name = repository.repository_name.unwrap_or_default();
                RepositoryName::new(&name).map_err(|error| corrupt(&call(), error))
            })
            .collect::<Result<_>>()?;
        Ok(Page {
            items,
            next: answer.next_token.filter(|token| !token.is_empty()),
        })
    }

    async fn get_repository(&self, repository: &RepositoryName) -> Result<Repository> {
        let call = || of_repository("GetRepository", "codecommit:GetRepository", repository);
        described(&call, self.metadata(repository).await?)
    }

    async fn create_repository(&self, repository: &RepositoryName) -> Result<Repository> {
        let call = || {
            of_repository(
                "CreateRepository",
                "codecommit:CreateRepository",
                repository,
            )
        };
        let answer = self
            .client
            .create_repository()
            .repository_name(repository.as_str())
            .send()
            .await
            .map_err(|error| convert(&error, &call()))?;
        described(&call, answer.repository_metadata)
    }

    async fn update_default_branch(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
    ) -> Result<()> {
        let call = || ApiCall {
            subject: format!("branch `{branch}` of repository `{repository}`"),
            ..of_repository(
                "UpdateDefaultBranch",
                "codecommit:UpdateDefaultBranch",
                repository,
            )
        };
        self.client
            .update_default_branch()
            .repository_name(repository.as_str())
            .default_branch_name(branch.as_str())
            .send()
            .await
            .map_err(|error| convert_in(&error, &call(), repository))
            .map(drop)
    }

    async fn list_branches(
        &self,
        repository: &RepositoryName,
        next: Option<&str>,
    ) -> Result<Page<String>> {
        let call = || ApiCall {
            subject: format!("the branches of repository `{repository}`"),
            ..of_repository("ListBranches", "codecommit:ListBranches", repository)
        };
        let answer = self
            .client
            .list_branches()
            .repository_name(repository.as_str())
            .set_next_token(next.map(str::to_owned))
            .send()
            .await
            .map_err(|error| convert_in(&error, &call(), repository))?;
        Ok(Page {
            items: answer.branches.unwrap_or_default(),
            next: answer.next_token.filter(|token| !token.is_empty()),
        })
    }

    async fn get_branch(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
    ) -> Result<CommitId> {
        let call = || ApiCall {
            subject: format!("branch `{branch}` of repository `{repository}`"),
            ..of_repository("GetBranch", "codecommit:GetBranch", repository)
        };
        let answer = self
            .client
            .get_branch()
            .repository_name(repository.as_str())
            .branch_name(branch.as_str())
            .send()
            .await
            .map_err(|error| convert_in(&error, &call(), repository))?;
        let commit = answer.branch.and_then(|branch| branch.commit_id);
        parse(&call, "commitId", commit, CommitId::new)
    }

    async fn get_tag(&self, repository: &RepositoryName, tag: &TagName) -> Result<CommitId> {
        client_revisions::get_tag(&self.client, repository, tag).await
    }

    async fn get_commit(&self, repository: &RepositoryName, commit: CommitId) -> Result<Commit> {
        client_commits::get_commit(&self.client, repository, commit).await
    }

    async fn get_commits(
        &self,
        repository: &RepositoryName,
        commits: &[CommitId],
    ) -> Result<Vec<Commit>> {
        client_commits::get_commits(&self.client, repository, commits).await
    }

    async fn get_folder(
        &self,
        repository: &RepositoryName,
        commit: CommitId,
        path: &str,
    ) -> Result<TreeListing> {
        let call = || ApiCall {
            subject: if path.is_empty() {
                format!("the root folder of commit {commit} of repository `{repository}`")
            } else {
                format!("folder `{path}` of commit {commit} of repository `{repository}`")
            },
            ..of_repository("GetFolder", "codecommit:GetFolder", repository)
        };
        let answer = self
            .client
            .get_folder()
            .repository_name(repository.as_str())
            .commit_specifier(commit.to_string())
            .folder_path(path)
            .send()
            .await
            .map_err(|error| convert_in(&error, &call(), repository))?;
        if answer.commit_id != commit.to_string() {
            return Err(corrupt(
                &call(),
                format!("it is about commit `{}`", answer.commit_id),
            ));
        }
        let id = parse(&call, "treeId", answer.tree_id, TreeId::new)?.object_id();
        let mut entries = Vec::new();
        let mut list = |name: String, mode: EntryMode, id: ObjectId| {
            entries.push(ListedEntry::new(name, mode, id));
        };
        for entry in answer.sub_folders.unwrap_or_default() {
            let name = entry_name(&call, entry.relative_path, entry.absolute_path)?;
            let tree = parse(&call, "treeId", entry.tree_id, TreeId::new)?;
            list(name, EntryMode::Tree, tree.object_id());
        }
        for entry in answer.files.unwrap_or_default() {
            let name = entry_name(&call, entry.relative_path, entry.absolute_path)?;
            let mode = match entry.file_mode {
                Some(FileModeTypeEnum::Normal) => EntryMode::Blob,
                Some(FileModeTypeEnum::Executable) => EntryMode::BlobExecutable,
                Some(FileModeTypeEnum::Symlink) => EntryMode::Link,
                mode => {
                    let mode = mode.as_ref().map_or("no mode", |mode| mode.as_str());
                    return Err(corrupt(&call(), format!("`{name}` has the mode `{mode}`")));
                }
            };
            let blob = parse(&call, "blobId", entry.blob_id, BlobId::new)?;
            list(name, mode, blob.object_id());
        }
        for entry in answer.symbolic_links.unwrap_or_default() {
            let name = entry_name(&call, entry.relative_path, entry.absolute_path)?;
            let blob = parse(&call, "blobId", entry.blob_id, BlobId::new)?;
            list(name, EntryMode::Link, blob.object_id());
        }
        for entry in answer.sub_modules.unwrap_or_default() {
            let name = entry_name(&call, entry.relative_path, entry.absolute_path)?;
            let commit = parse(&call, "commitId", entry.commit_id, CommitId::new)?;
            list(name, EntryMode::Commit, commit.object_id());
        }
        Ok(TreeListing { id, entries })
    }

    async fn get_blob(
        &self,
        repository: &RepositoryName,
        blob: BlobId,
        admission: &dyn BlobAdmission,
    ) -> Result<Bytes> {
        let call = || ApiCall {
            subject: format!("blob {blob} of repository `{repository}`"),
            ..of_repository("GetBlob", "codecommit:GetBlob", repository)
        };
        let (gate, admitter) = BodyGate::new();
        let request = self
            .client
            .get_blob()
            .repository_name(repository.as_str())
            .blob_id(blob.to_string())
            .customize()
            .interceptor(gate)
            .send();
        let admit = async {
            // Fails when the call ends without a body.
            if let Ok(length) = admitter.length.await {
                // The content is base64, with three bytes in four characters. Without a
                // length the largest size is assumed.
                let size = length.map_or(MAX_BLOB_BYTES, |length| length / 4 * 3);
                admission.admit(size).await;
                let _ = admitter.open.send(());
            }
            std::future::pending::<std::convert::Infallible>().await
        };
        let answer = tokio::select! {
            answer = request => answer.map_err(|error| convert_in(&error, &call(), repository))?,
            never = admit => match never {},
        };
        Ok(Bytes::from(answer.content.into_inner()))
    }

    async fn get_differences(
        &self,
        repository: &RepositoryName,
        before: CommitId,
        after: CommitId,
        next: Option<&str>,
    ) -> Result<Page<Difference>> {
        client_differences::get_differences(&self.client, repository, before, after, next).await
    }

    async fn get_merge_base(
        &self,
        repository: &RepositoryName,
        commit: CommitId,
        branch: &BranchName,
    ) -> Result<Option<CommitId>> {
        client_revisions::get_merge_base(&self.client, repository, commit, branch).await
    }

    async fn get_pull_request(&self, id: &PullRequestId) -> Result<PullRequest> {
        client_pull_requests::get_pull_request(&self.client, id).await
    }

    async fn list_open_pull_requests(
        &self,
        repository: &RepositoryName,
        next: Option<&str>,
    ) -> Result<Page<PullRequestId>> {
        client_pull_requests::list_open(&self.client, repository, next).await
    }

    async fn get_triggers(&self, repository: &RepositoryName) -> Result<TriggerSet> {
        let call = || ApiCall {
            subject: format!("the triggers of repository `{repository}`"),
            ..of_repository(
                "GetRepositoryTriggers",
                "codecommit:GetRepositoryTriggers",
                repository,
            )
        };
        let answer = self
            .client
            .get_repository_triggers()
            .repository_name(repository.as_str())
            .send()
            .await
            .map_err(|error| convert_in(&error, &call(), repository))?;
        let triggers = answer
            .triggers
            .unwrap_or_default()
            .into_iter()
            .map(|trigger| {
                let events = trigger
                    .events
                    .iter()
                    .map(|event| event_from_sdk(event).ok_or_else(|| corrupt(&call(), event)))
                    .collect::<Result<_>>()?;
                Ok(Trigger {
                    name: trigger.name,
                    destination_arn: trigger.destination_arn,
                    custom_data: trigger.custom_data.filter(|data| !data.is_empty()),
                    branches: trigger.branches.unwrap_or_default(),
                    events,
                })
            })
            .collect::<Result<_>>()?;
        Ok(TriggerSet {
            configuration_id: answer.configuration_id.unwrap_or_default(),
            triggers,
        })
    }

    async fn put_triggers(
        &self,
        repository: &RepositoryName,
        triggers: &[Trigger],
    ) -> Result<String> {
        let call = || ApiCall {
            subject: format!("the triggers of repository `{repository}`"),
            ..of_repository(
                "PutRepositoryTriggers",
                "codecommit:PutRepositoryTriggers",
                repository,
            )
        };
        let triggers = triggers
            .iter()
            .map(|trigger| {
                RepositoryTrigger::builder()
                    .name(&trigger.name)
                    .destination_arn(&trigger.destination_arn)
                    .set_custom_data(trigger.custom_data.clone())
                    // Sent even when empty, because the service requires the member.
                    .set_branches(Some(trigger.branches.clone()))
                    .set_events(Some(
                        trigger.events.iter().copied().map(event_to_sdk).collect(),
                    ))
                    .build()
                    .expect("because name, ARN and events are set")
            })
            .collect();
        let answer = self
            .client
            .put_repository_triggers()
            .repository_name(repository.as_str())
            .set_triggers(Some(triggers))
            .send()
            .await
            .map_err(|error| convert_in(&error, &call(), repository))?;
        required(&call, "configurationId", answer.configuration_id)
    }
}

fn described(
    call: &impl Fn() -> ApiCall,
    metadata: Option<RepositoryMetadata>,
) -> Result<Repository> {
    let metadata = required(call, "repositoryMetadata", metadata)?;
    Ok(Repository {
        name: parse(
            call,
            "repositoryName",
            metadata.repository_name,
            RepositoryName::new,
        )?,
        arn: required(call, "Arn", metadata.arn)?,
        clone_url_http: required(call, "cloneUrlHttp", metadata.clone_url_http)?,
        default_branch: metadata.default_branch.filter(|name| !name.is_empty()),
    })
}

/// Returns the name of an entry in its folder: the last segment of the service's path,
/// because the documentation does not define the folder that the path starts at.
fn entry_name(
    call: &impl Fn() -> ApiCall,
    relative: Option<String>,
    absolute: Option<String>,
) -> Result<String> {
    let path = relative.or(absolute).unwrap_or_default();
    let trimmed = path.trim_end_matches('/');
    let name = trimmed.rsplit_once('/').map_or(trimmed, |(_, name)| name);
    if name.is_empty() || name == "." || name == ".." || name.contains('\0') {
        let path = escaped_excerpt(path.as_bytes());
        return Err(corrupt(&call(), format!("`{path}` is not a tree entry")));
    }
    Ok(name.to_owned())
}

fn event_from_sdk(event: &RepositoryTriggerEventEnum) -> Option<TriggerEvent> {
    Some(match event {
        RepositoryTriggerEventEnum::All => TriggerEvent::All,
        RepositoryTriggerEventEnum::UpdateReference => TriggerEvent::UpdateReference,
        RepositoryTriggerEventEnum::CreateReference => TriggerEvent::CreateReference,
        RepositoryTriggerEventEnum::DeleteReference => TriggerEvent::DeleteReference,
        _ => return None,
    })
}

fn event_to_sdk(event: TriggerEvent) -> RepositoryTriggerEventEnum {
    match event {
        TriggerEvent::All => RepositoryTriggerEventEnum::All,
        TriggerEvent::UpdateReference => RepositoryTriggerEventEnum::UpdateReference,
        TriggerEvent::CreateReference => RepositoryTriggerEventEnum::CreateReference,
        TriggerEvent::DeleteReference => RepositoryTriggerEventEnum::DeleteReference,
    }
}
