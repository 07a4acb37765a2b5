//! Tags and merge bases over the AWS SDK.

use aws_sdk_codecommit::Client;
use aws_sdk_codecommit::types::MergeOptionTypeEnum;

use super::client_error::convert_in;
use super::client_fields::{of_repository, parse};
use crate::aws::ApiCall;
use crate::error::Result;
use crate::name::{BranchName, CommitId, RepositoryName, TagName};

/// Resolves a tag with the root folder of its commit, because no operation reads a tag.
pub(super) async fn get_tag(
    client: &Client,
    repository: &RepositoryName,
    tag: &TagName,
) -> Result<CommitId> {
    let call = || ApiCall {
        subject: format!("tag `{tag}` of repository `{repository}`"),
        ..of_repository("GetFolder", "codecommit:GetFolder", repository)
    };
    let answer = client
        .get_folder()
        .repository_name(repository.as_str())
        .commit_specifier(tag.to_ref().as_str())
        .folder_path("")
        .send()
        .await
        .map_err(|error| convert_in(&error, &call(), repository))?;
    parse(&call, "commitId", Some(answer.commit_id), CommitId::new)
}

/// Reads `baseCommitId` of a merge that is not carried out.
pub(super) async fn get_merge_base(
    client: &Client,
    repository: &RepositoryName,
    commit: CommitId,
    branch: &BranchName,
) -> Result<Option<CommitId>> {
    let call = || ApiCall {
        subject: format!(
            "the merge base of commit {commit} and branch `{branch}` of repository `{repository}`"
        ),
        ..of_repository(
            "GetMergeConflicts",
            "codecommit:GetMergeConflicts",
            repository,
        )
    };
    let answer = client
        .get_merge_conflicts()
        .repository_name(repository.as_str())
        .source_commit_specifier(commit.to_string())
        .destination_commit_specifier(branch.to_ref().as_str())
        .merge_option(MergeOptionTypeEnum::ThreeWayMerge)
        .max_conflict_files(1)
        .send()
        .await
        .map_err(|error| convert_in(&error, &call(), repository));
    let answer = match answer {
        Ok(answer) => answer,
        // Branches may be too far apart for a merge, whose base alone is of interest.
        Err(error) if is_beyond_limits(error.aws_code()) => return Ok(None),
        Err(error) => return Err(error),
    };
    answer
        .base_commit_id
        .filter(|id| !id.is_empty())
        .map(|id| parse(&call, "baseCommitId", Some(id), CommitId::new))
        .transpose()
}

fn is_beyond_limits(code: Option<&str>) -> bool {
    matches!(
        code,
        Some(
            "TipsDivergenceExceededException"
                | "MaximumFileContentToLoadExceededException"
                | "MaximumItemsToCompareExceededException"
        )
    )
}
