//! The event `CodeCommit Pull Request State Change` of Amazon EventBridge (CodeCommit user guide,
//! "Monitoring CodeCommit events in Amazon EventBridge").

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{PullRequestChange, Request, invalid_field};
use crate::arn::Origin;
use crate::error::Result;
use crate::filter::PullRequestEvent;
use crate::name::{PullRequestId, RepositoryName};

/// The whole event. Fields that branchline does not use may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequestStateChange {
    /// `CodeCommit Pull Request State Change`.
    #[serde(rename = "detail-type")]
    pub detail_type: String,
    /// The account, 12 digits.
    #[serde(default)]
    pub account: Option<String>,
    /// The region.
    #[serde(default)]
    pub region: Option<String>,
    /// The repository's ARN.
    #[serde(default)]
    pub resources: Vec<String>,
    /// The change.
    pub detail: PullRequestStateChangeDetail,
}

/// The change of a pull request. Its commits are not read, because they may have moved since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PullRequestStateChangeDetail {
    /// `pullRequestCreated`, `pullRequestSourceBranchUpdated`, ..
    pub event: String,
    /// The id of the pull request.
    pub pull_request_id: String,
    /// `Open` or `Closed`.
    #[serde(default)]
    pub pull_request_status: Option<String>,
    /// `True` or `False`.
    #[serde(default)]
    pub is_merged: Option<String>,
    /// The repositories; one in practice.
    #[serde(default)]
    pub repository_names: Vec<String>,
}

/// The `detail-type` of this event.
pub(super) const DETAIL_TYPE: &str = "CodeCommit Pull Request State Change";

/// Parses the event.
pub(super) fn parse(event: &Value) -> Result<Request> {
    let event = PullRequestStateChange::deserialize(event)
        .map_err(|error| invalid_field("detail", error))?;
    let origin = match (event.account, event.region) {
        (Some(account), Some(region)) => Some(Origin { account, region }),
        _ => event.resources.iter().find_map(|arn| Origin::of_arn(arn)),
    };
    let detail = event.detail;
    let is_closed = detail.pull_request_status.as_deref() == Some("Closed");
    let change = match detail.event.as_str() {
        "pullRequestCreated" => Some(PullRequestEvent::Open),
        "pullRequestSourceBranchUpdated" => Some(PullRequestEvent::Updated),
        "pullRequestStatusChanged" | "pullRequestMergeStatusUpdated" if is_closed => {
            Some(PullRequestEvent::Closed)
        }
        // Approvals, their rules, and titles.
        _ => None,
    };
    let [repository] = detail.repository_names.as_slice() else {
        return Err(invalid_field(
            "detail.repositoryNames",
            "it must name one repository",
        ));
    };
    Ok(Request::PullRequest(PullRequestChange {
        repository: RepositoryName::new(repository)
            .map_err(|error| invalid_field("detail.repositoryNames[0]", error))?,
        origin,
        id: PullRequestId::new(&detail.pull_request_id)
            .map_err(|error| invalid_field("detail.pullRequestId", error))?,
        change,
    }))
}
