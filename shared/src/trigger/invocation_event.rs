//! The event that invokes the update function for a newly covered branch, because the push
//! that created the branch came before its trigger.
//!
//! The event equals the one that the trigger would have sent. A manual request carries no
//! custom data, so that the first artifact would get another key than the later ones, and it
//! fails if the branch is deleted by then.

use bytes::Bytes;

use super::policy::{DesiredTriggers, Policy};
use crate::event::{CodeCommitRecord, Record, References, TriggerReference};
use crate::name::{BranchName, RepositoryName};

/// Builds the event for one branch, without a commit id: update reads the tip.
pub fn event(
    policy: &Policy,
    repository: &RepositoryName,
    branch: &BranchName,
    desired: &DesiredTriggers,
) -> Bytes {
    // A trigger and its function are in one region. The account may differ from the
    // repository's; update reads only the repository's name.
    let function = &policy.destination;
    let arn = format!(
        "arn:{}:codecommit:{}:{}:{repository}",
        function.partition(),
        function.region(),
        function.account()
    );
    let covers = |branches: &[String]| {
        branches.is_empty() || branches.iter().any(|name| name == branch.as_str())
    };
    let trigger = desired
        .triggers
        .iter()
        .find(|trigger| covers(&trigger.branches));
    let record = Record {
        aws_region: Some(function.region().to_owned()),
        codecommit: Some(References {
            references: vec![TriggerReference {
                commit: None,
                created: None,
                deleted: None,
                reference: branch.to_ref().as_str().to_owned(),
            }],
        }),
        custom_data: policy
            .custom_data
            .as_ref()
            .map(|data| data.as_str().to_owned()),
        event_id: None,
        event_name: Some("ReferenceChanges".to_owned()),
        event_part_number: Some(1),
        event_source: Some("aws:codecommit".to_owned()),
        event_source_arn: arn,
        event_time: None,
        event_total_parts: Some(1),
        event_trigger_config_id: None,
        event_trigger_name: trigger.map(|trigger| trigger.name.clone()),
        event_version: Some("1.0".to_owned()),
        user_identity_arn: None,
    };
    let event = CodeCommitRecord {
        records: vec![record],
    };
    let text = serde_json::to_vec(&event).expect("because the event holds only text");
    Bytes::from(text)
}
