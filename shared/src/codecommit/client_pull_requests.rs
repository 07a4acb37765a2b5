//! `GetPullRequest` and `ListPullRequests` over the AWS SDK.

use aws_sdk_codecommit::Client;
use aws_sdk_codecommit::types::{PullRequestStatusEnum, PullRequestTarget as SdkTarget};

use super::client_error::{convert, convert_in};
use super::client_fields::{of_repository, parse, required};
use super::{Page, PullRequest, PullRequestTarget};
use crate::aws::{ApiCall, corrupt};
use crate::error::Result;
use crate::git::escaped_excerpt;
use crate::name::{CommitId, PullRequestId, RefName, RepositoryName};

/// Describes a pull request.
pub(super) async fn get_pull_request(client: &Client, id: &PullRequestId) -> Result<PullRequest> {
    let call = || ApiCall {
        service: "CodeCommit",
        operation: "GetPullRequest",
        permission: "codecommit:GetPullRequest",
        subject: format!("pull request {id}"),
        resource: "the repository of the pull request".to_owned(),
    };
    let answer = client
        .get_pull_request()
        .pull_request_id(id.as_str())
        .send()
        .await
        .map_err(|error| convert(&error, &call()))?;
    let pull = required(&call, "pullRequest", answer.pull_request)?;
    let is_open = is_open(&call, pull.pull_request_status)?;
    let targets = pull.pull_request_targets.unwrap_or_default();
    Ok(PullRequest {
        id: id.clone(),
        is_open,
        targets: targets
            .into_iter()
            .map(|target| parse_target(&call, target))
            .collect::<Result<_>>()?,
    })
}

/// Lists the ids of the open pull requests of a repository.
pub(super) async fn list_open(
    client: &Client,
    repository: &RepositoryName,
    next: Option<&str>,
) -> Result<Page<PullRequestId>> {
    let call = || ApiCall {
        subject: format!("the pull requests of repository `{repository}`"),
        ..of_repository(
            "ListPullRequests",
            "codecommit:ListPullRequests",
            repository,
        )
    };
    let answer = client
        .list_pull_requests()
        .repository_name(repository.as_str())
        .pull_request_status(PullRequestStatusEnum::Open)
        .set_next_token(next.map(str::to_owned))
        .send()
        .await
        .map_err(|error| convert_in(&error, &call(), repository))?;
    let ids = answer.pull_request_ids.into_iter();
    Ok(Page {
        items: ids
            .map(|id| parse(&call, "pullRequestIds", Some(id), PullRequestId::new))
            .collect::<Result<_>>()?,
        next: answer.next_token.filter(|token| !token.is_empty()),
    })
}

/// Returns whether the status of a pull request is open.
pub(super) fn is_open(
    call: &impl Fn() -> ApiCall,
    status: Option<PullRequestStatusEnum>,
) -> Result<bool> {
    match status {
        Some(PullRequestStatusEnum::Open) => Ok(true),
        Some(PullRequestStatusEnum::Closed) => Ok(false),
        status => {
            let status = status.as_ref().map_or("", PullRequestStatusEnum::as_str);
            let status = escaped_excerpt(status.as_bytes());
            Err(corrupt(&call(), format!("the status `{status}`")))
        }
    }
}

fn parse_target(call: &impl Fn() -> ApiCall, target: SdkTarget) -> Result<PullRequestTarget> {
    let merge_base = target.merge_base.filter(|id| !id.is_empty());
    Ok(PullRequestTarget {
        repository: parse(
            call,
            "repositoryName",
            target.repository_name,
            RepositoryName::new,
        )?,
        source: parse(call, "sourceReference", target.source_reference, full_name)?,
        destination: parse(
            call,
            "destinationReference",
            target.destination_reference,
            full_name,
        )?,
        source_commit: parse(call, "sourceCommit", target.source_commit, CommitId::new)?,
        destination_commit: parse(
            call,
            "destinationCommit",
            target.destination_commit,
            CommitId::new,
        )?,
        merge_base: merge_base
            .map(|id| parse(call, "mergeBase", Some(id), CommitId::new))
            .transpose()?,
        is_merged: target
            .merge_metadata
            .is_some_and(|metadata| metadata.is_merged),
    })
}

/// Reads a branch's name, which may be short or full.
fn full_name(name: &str) -> Result<RefName> {
    if name.starts_with("refs/") {
        return RefName::new(name);
    }
    RefName::new(&format!("refs/heads/{name}"))
}
