//! The operations on approval states. There are no approval rules, so every pull request may be
//! merged.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::CodeCommitService;
use super::super::input::Input;
use super::already_closed;
use super::model::{Approval, PullRequest};
use super::notices::Notice;
use crate::aws_json::{ApiError, ApiResult};

impl CodeCommitService {
    pub(super) fn update_approval_state(&self, input: Input<'_>, principal_arn: &str) -> ApiResult {
        let id = Self::pull_request_id(input)?;
        let revision = revision_id(input)?.to_owned();
        let state = input.required("approvalState", "ApprovalStateRequiredException")?;
        if !matches!(state, "APPROVE" | "REVOKE") {
            return Err(ApiError::new(
                "InvalidApprovalStateException",
                "approvalState must be APPROVE or REVOKE",
            ));
        }
        let (changed, is_new) = self.0.pull_requests.update_one(id, |found| {
            if !found.is_open {
                return Err(already_closed(found));
            }
            check_current(found, &revision)?;
            if found.author_arn == principal_arn {
                return Err(ApiError::new(
                    "PullRequestCannotBeApprovedByAuthorException",
                    "The approval cannot be applied because the user approving the pull request \
                     matches the user who created the pull request. You cannot approve a pull \
                     request that you created",
                ));
            }
            Ok(set(found, &revision, principal_arn, state))
        })?;
        if is_new {
            let notice = Notice::ApprovalStateChanged(state);
            self.notify(&changed, principal_arn, notice);
        }
        Ok(Value::Null)
    }

    pub(super) fn get_approval_states(&self, input: Input<'_>) -> ApiResult {
        let found = self.pull_request(input)?;
        let revision = revision_id(input)?;
        let of_revision = found
            .approvals
            .iter()
            .filter(|one| one.revision_id == revision);
        let states: Vec<Value> = of_revision
            .map(|one| json!({ "userArn": one.user_arn, "approvalState": one.state }))
            .collect();
        Ok(json!({ "approvals": states }))
    }

    pub(super) fn evaluate_approval_rules(&self, input: Input<'_>) -> ApiResult {
        let found = self.pull_request(input)?;
        check_current(&found, revision_id(input)?)?;
        Ok(json!({ "evaluation": {
            "approved": true,
            "overridden": false,
            "approvalRulesSatisfied": [],
            "approvalRulesNotSatisfied": [],
        }}))
    }
}

/// Keeps the state of a user for a revision; returns whether that is a change.
fn set(found: &mut PullRequest, revision: &str, user_arn: &str, state: &str) -> bool {
    let mut of_user = found.approvals.iter_mut();
    match of_user.find(|one| one.revision_id == revision && one.user_arn == user_arn) {
        Some(one) if one.state == state => return false,
        Some(one) => state.clone_into(&mut one.state),
        None => found.approvals.push(Approval {
            revision_id: revision.to_owned(),
            user_arn: user_arn.to_owned(),
            state: state.to_owned(),
        }),
    }
    let metadata = json!({ "revisionId": revision, "approvalStatus": state });
    found.record(
        Timestamp::now().as_millisecond(),
        "PULL_REQUEST_APPROVAL_STATE_CHANGED",
        user_arn,
        ("approvalStateChangedEventMetadata", metadata),
    );
    true
}

/// Reads `revisionId`: 64 hexadecimal digits.
fn revision_id(input: Input<'_>) -> Result<&str, ApiError> {
    let id = input.required("revisionId", "RevisionIdRequiredException")?;
    if id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(id);
    }
    Err(ApiError::new(
        "InvalidRevisionIdException",
        "The revision ID is not valid. Use GetPullRequest to determine the value",
    ))
}

fn check_current(found: &PullRequest, revision: &str) -> Result<(), ApiError> {
    if found.revision_id == revision {
        return Ok(());
    }
    Err(ApiError::new(
        "RevisionNotCurrentException",
        "The revision ID provided in the request does not match the current revision ID. Use \
         GetPullRequest to retrieve the current revision ID",
    ))
}
