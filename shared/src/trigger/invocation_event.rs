//! The event that invokes the update function for newly covered branches, because the pushes
//! that created them came before their triggers.
//!
//! The event equals the ones that the triggers would have sent, in one. A manual request carries
//! no custom data, so that the first artifact would get another key than the later ones, and it
//! fails if the branch is deleted by then.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::policy::{DesiredTriggers, Policy};
use crate::event::{CodeCommitRecord, Record, References, TriggerReference};
use crate::name::{BranchName, RepositoryName};

/// Maximum number of branches in one event. Update archives the branches of an event one after
/// the other, within one timeout.
pub const MAX_BRANCHES: usize = 50;

/// Builds the event for these branches, at most [`MAX_BRANCHES`]: one record for each trigger,
/// without commit ids, because update reads the tips. Branches that `is_found` selects were found
/// without an event of their own, and may be older than the stack.
pub fn event(
    policy: &Policy,
    repository: &RepositoryName,
    branches: &[BranchName],
    desired: &DesiredTriggers,
    is_found: impl Fn(&BranchName) -> bool,
) -> Bytes {
    let trigger_of = |branch: &BranchName| {
        let covers =
            |names: &[String]| names.is_empty() || names.iter().any(|name| name == branch.as_str());
        let mut triggers = desired.triggers.iter();
        triggers.find(|trigger| covers(&trigger.branches))
    };
    let mut by_trigger: BTreeMap<Option<&str>, Vec<TriggerReference>> = BTreeMap::new();
    for branch in branches {
        let trigger = trigger_of(branch).map(|trigger| trigger.name.as_str());
        by_trigger
            .entry(trigger)
            .or_default()
            .push(TriggerReference {
                commit: None,
                created: None,
                deleted: None,
                existing: is_found(branch).then_some(true),
                reference: branch.to_ref().as_str().to_owned(),
            });
    }
    let records = by_trigger
        .into_iter()
        .map(|(trigger, references)| record(policy, repository, trigger, references));
    let event = CodeCommitRecord {
        records: records.collect(),
    };
    let text = serde_json::to_vec(&event).expect("because the event holds only text");
    Bytes::from(text)
}

fn record(
    policy: &Policy,
    repository: &RepositoryName,
    trigger: Option<&str>,
    references: Vec<TriggerReference>,
) -> Record {
    // A trigger and its function are in one region and account.
    let function = &policy.destination;
    let arn = format!(
        "arn:{}:codecommit:{}:{}:{repository}",
        function.partition(),
        function.region(),
        function.account()
    );
    Record {
        aws_region: Some(function.region().to_owned()),
        codecommit: Some(References { references }),
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
        event_trigger_name: trigger.map(str::to_owned),
        event_version: Some("1.0".to_owned()),
        user_identity_arn: None,
    }
}
