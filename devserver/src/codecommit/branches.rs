//! The operations on branches.

use std::sync::Arc;

use branchline_core::name::BranchName;
use serde_json::json;

use super::git::{self, GitError};
use super::input::Input;
use super::{CodeCommitService, Repository, page};
use crate::aws_json::{ApiError, ApiResult};

/// "No object" in `git update-ref`.
const ZERO_ID: &str = "0000000000000000000000000000000000000000";

impl CodeCommitService {
    pub(super) async fn get_branch(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        let branch = input.branch_name("branchName")?;
        let commit = tip(&repository, &branch).await?;
        let commit = commit.ok_or_else(|| does_not_exist(&branch))?;
        Ok(json!({ "branch": { "branchName": branch.as_str(), "commitId": commit } }))
    }

    pub(super) async fn list_branches(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        let token = input.text("nextToken")?;
        let names = repository.branches().await?;
        let (names, next) = page::by_name(names, token, self.0.limits.branches_page)?;
        let mut output = json!({ "branches": names });
        if let Some(next) = next {
            output["nextToken"] = next.into();
        }
        Ok(output)
    }

    pub(super) async fn create_branch(&self, input: Input<'_>, principal_arn: &str) -> ApiResult {
        let repository = self.named(input)?;
        let branch = input.branch_name("branchName")?;
        let commit = input.commit_id()?;
        // Must be the id of a commit; the id of a tag that points to one is not accepted.
        let found = repository.commit_and_tree(&commit).await?;
        if found.is_none_or(|(id, _)| id != commit) {
            return Err(ApiError::new(
                "CommitDoesNotExistException",
                format!("{commit} does not exist"),
            ));
        }
        let reference = branch.to_ref();
        let arguments = [
            "update-ref",
            "--no-deref",
            reference.as_str(),
            &commit,
            ZERO_ID,
        ];
        self.change_refs(&repository, &arguments, principal_arn)
            .await
            .map_err(|error| {
                if git::is_name_taken(&error.message) {
                    let message = format!(
                        "Branch {branch} cannot be created: it or a branch in its way exists"
                    );
                    ApiError::new("BranchNameExistsException", message)
                } else {
                    error.into()
                }
            })?;
        Ok(json!({}))
    }

    /// Deletes a branch. A missing branch is not an error, because the service's model lists
    /// none.
    pub(super) async fn delete_branch(&self, input: Input<'_>, principal_arn: &str) -> ApiResult {
        let repository = self.named(input)?;
        let branch = input.branch_name("branchName")?;
        if repository.default_branch().as_deref() == Some(branch.as_str()) {
            return Err(ApiError::new(
                "DefaultBranchCannotBeDeletedException",
                format!("{branch} is the default branch and cannot be deleted"),
            ));
        }
        let Some(commit) = tip(&repository, &branch).await? else {
            return Ok(json!({}));
        };
        let reference = branch.to_ref();
        let arguments = ["update-ref", "--no-deref", "-d", reference.as_str()];
        self.change_refs(&repository, &arguments, principal_arn)
            .await?;
        Ok(json!({ "deletedBranch": { "branchName": branch.as_str(), "commitId": commit } }))
    }

    pub(super) async fn update_default_branch(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        let branch = input.branch_name("defaultBranchName")?;
        let _refs = repository.refs_lock.lock().await;
        if tip(&repository, &branch).await?.is_none() {
            return Err(does_not_exist(&branch));
        }
        repository.set_default_branch(branch.as_str()).await?;
        Ok(json!({}))
    }

    /// Runs `git update-ref` and reports the change to the observer, even if the caller goes
    /// away.
    async fn change_refs(
        &self,
        repository: &Arc<Repository>,
        arguments: &[&str],
        principal_arn: &str,
    ) -> Result<(), GitError> {
        let mut command = git::command(&repository.dir);
        command.args(arguments);
        let (service, repository) = (self.clone(), Arc::clone(repository));
        let principal_arn = principal_arn.to_owned();
        let change = async move {
            let change = service.begin_ref_change(&repository).await?;
            let ran = git::run("update-ref", &mut command).await;
            change.finish(&principal_arn).await?;
            ran.map(|_| ())
        };
        let joined = tokio::spawn(change).await;
        joined.map_err(|error| GitError::new("update-ref", error))?
    }
}

/// Returns the commit at the tip of `branch`.
async fn tip(repository: &Repository, branch: &BranchName) -> Result<Option<String>, GitError> {
    let found = repository.commit_and_tree(branch.to_ref().as_str()).await?;
    Ok(found.map(|(commit, _)| commit))
}

fn does_not_exist(branch: &BranchName) -> ApiError {
    ApiError::new(
        "BranchDoesNotExistException",
        format!("Branch {branch} does not exist"),
    )
}
