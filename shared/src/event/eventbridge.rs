//! The event `CodeCommit Repository State Change` of Amazon EventBridge (CodeCommit user
//! guide, "Monitoring CodeCommit events in Amazon EventBridge").

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Change, RefEvent, Request, invalid_field};
use crate::arn::Origin;
use crate::error::Result;
use crate::name::{CommitId, RefName, RepositoryName};

/// The whole event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    /// `0`.
    #[serde(default)]
    pub version: Option<String>,
    /// The id of the event.
    #[serde(default)]
    pub id: Option<String>,
    /// `CodeCommit Repository State Change`.
    #[serde(rename = "detail-type")]
    pub detail_type: String,
    /// `aws.codecommit`.
    #[serde(default)]
    pub source: Option<String>,
    /// The account, 12 digits.
    #[serde(default)]
    pub account: Option<String>,
    /// `2019-06-12T10:23:43Z`.
    #[serde(default)]
    pub time: Option<String>,
    /// The region.
    #[serde(default)]
    pub region: Option<String>,
    /// The repository's ARN.
    #[serde(default)]
    pub resources: Vec<String>,
    /// The change.
    pub detail: StateChangeDetail,
}

/// The change of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateChangeDetail {
    /// The ARN of the user.
    #[serde(default)]
    pub caller_user_arn: Option<String>,
    /// `referenceCreated`, `referenceUpdated`, `referenceDeleted`, ..
    pub event: String,
    /// The repository.
    pub repository_name: String,
    /// The repository's UUID.
    #[serde(default)]
    pub repository_id: Option<String>,
    /// `branch` or `tag`.
    #[serde(default)]
    pub reference_type: Option<String>,
    /// The short name.
    #[serde(default)]
    pub reference_name: Option<String>,
    /// The full name.
    #[serde(default)]
    pub reference_full_name: Option<String>,
    /// The commit after the change; missing for a deleted reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_id: Option<String>,
    /// The commit before the change; missing for a new reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_commit_id: Option<String>,
}

/// The `detail-type` of this event.
pub(super) const DETAIL_TYPE: &str = "CodeCommit Repository State Change";

/// Parses the event.
pub(super) fn parse(event: &Value) -> Result<Request> {
    match event.get("detail-type").and_then(Value::as_str) {
        Some(DETAIL_TYPE) => {}
        Some(other) => {
            return Err(invalid_field(
                "detail-type",
                format!(
                    "`{}` is not `{DETAIL_TYPE}` or `{}`",
                    other.escape_debug(),
                    super::pull_request::DETAIL_TYPE
                ),
            ));
        }
        None => return Err(invalid_field("detail-type", "it is missing")),
    }
    let event = StateChange::deserialize(event).map_err(|error| invalid_field("detail", error))?;
    let origin = match (event.account, event.region) {
        (Some(account), Some(region)) => Some(Origin { account, region }),
        _ => event.resources.iter().find_map(|arn| Origin::of_arn(arn)),
    };
    let detail = event.detail;
    let change = match detail.event.as_str() {
        "referenceCreated" => Change::Created,
        "referenceUpdated" => Change::Updated,
        "referenceDeleted" => Change::Deleted,
        other => {
            return Err(invalid_field(
                "detail.event",
                format!(
                    "`{}` is not `referenceCreated`, `referenceUpdated` or `referenceDeleted`",
                    other.escape_debug()
                ),
            )
            .with_hint("narrow the rule's pattern to those three"));
        }
    };
    let repository = RepositoryName::new(&detail.repository_name)
        .map_err(|error| invalid_field("detail.repositoryName", error))?;
    let full_name = match (detail.reference_full_name, detail.reference_name) {
        (Some(full), _) => full,
        (None, Some(short)) => match detail.reference_type.as_deref() {
            Some("tag") => format!("refs/tags/{short}"),
            _ => format!("refs/heads/{short}"),
        },
        (None, None) => {
            return Err(invalid_field("detail.referenceFullName", "it is missing"));
        }
    };
    let commit = detail
        .commit_id
        .filter(|_| change != Change::Deleted)
        .map(|hex| CommitId::new(&hex))
        .transpose()
        .map_err(|error| invalid_field("detail.commitId", error))?;
    Ok(Request::RefEvent(RefEvent {
        repository,
        origin,
        reference: RefName::new(&full_name)
            .map_err(|error| invalid_field("detail.referenceFullName", error))?,
        commit,
        change,
        custom_data: None,
        is_found: false,
    }))
}
