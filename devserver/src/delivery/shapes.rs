//! The events as AWS shapes them, in core's types.

use branchline_core::codecommit::Trigger;
use branchline_core::event::{
    CodeCommitRecord, Record, References, StateChange, StateChangeDetail, TriggerReference,
};
use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::account::Account;
use crate::event::Event;
use crate::ref_observer::RefUpdate;

/// Data of a `TestRepositoryTriggers` event.
#[derive(Debug, Clone, Copy)]
pub struct TestEvent<'a> {
    /// The repository.
    pub repository: &'a str,
    /// ARN of the principal that requests the test.
    pub principal_arn: &'a str,
    /// The id of the trigger set.
    pub configuration_id: &'a str,
    /// The trigger.
    pub trigger: &'a Trigger,
    /// The default branch, `refs/heads/main`.
    pub reference: &'a str,
    /// Tip of the default branch, or 40 zeros.
    pub commit: &'a str,
}

/// Builds one record for one trigger and one push, with the refs that match it.
///
/// A deleted ref carries the last commit that it named. AWS documents neither that nor
/// another value; readers must not depend on it.
pub fn trigger_record(
    account: &Account,
    repository: &str,
    principal_arn: &str,
    configuration_id: &str,
    trigger: &Trigger,
    updates: &[&RefUpdate],
) -> Bytes {
    let references = updates
        .iter()
        .map(|update| TriggerReference {
            commit: update.new.clone().or_else(|| update.old.clone()),
            created: update.old.is_none().then_some(true),
            deleted: update.new.is_none().then_some(true),
            existing: None,
            reference: update.name.clone(),
        })
        .collect();
    let event = TestEvent {
        repository,
        principal_arn,
        configuration_id,
        trigger,
        reference: "",
        commit: "",
    };
    record(account, "ReferenceChanges", &event, references)
}

/// Builds the record of a trigger under test.
pub fn test_record(account: &Account, event: &TestEvent<'_>) -> Bytes {
    let references = vec![TriggerReference {
        commit: Some(event.commit.to_owned()),
        created: None,
        deleted: None,
        existing: None,
        reference: event.reference.to_owned(),
    }];
    record(account, "TriggerEventTest", event, references)
}

fn record(
    account: &Account,
    event_name: &str,
    event: &TestEvent<'_>,
    references: Vec<TriggerReference>,
) -> Bytes {
    let record = Record {
        aws_region: Some(account.region.clone()),
        codecommit: Some(References { references }),
        custom_data: event.trigger.custom_data.clone(),
        event_id: Some(Uuid::new_v4().to_string()),
        event_name: Some(event_name.to_owned()),
        event_part_number: Some(1),
        event_source: Some("aws:codecommit".to_owned()),
        event_source_arn: account.repository_arn(event.repository),
        // EventBridge has milliseconds, and a zone without a colon.
        event_time: Some(
            Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%S%.3f+0000")
                .to_string(),
        ),
        event_total_parts: Some(1),
        event_trigger_config_id: Some(event.configuration_id.to_owned()),
        event_trigger_name: Some(event.trigger.name.clone()),
        event_version: Some("1.0".to_owned()),
        user_identity_arn: Some(event.principal_arn.to_owned()),
    };
    to_json(&CodeCommitRecord {
        records: vec![record],
    })
}

/// Builds the EventBridge event of one ref.
pub fn state_change(
    account: &Account,
    repository: &str,
    repository_id: Option<String>,
    principal_arn: &str,
    update: &RefUpdate,
) -> Value {
    let event = match (&update.old, &update.new) {
        (None, _) => "referenceCreated",
        (_, None) => "referenceDeleted",
        _ => "referenceUpdated",
    };
    let (kind, short) = if let Some(short) = update.name.strip_prefix("refs/heads/") {
        ("branch", short)
    } else if let Some(short) = update.name.strip_prefix("refs/tags/") {
        ("tag", short)
    } else {
        ("branch", update.name.as_str())
    };
    let change = StateChange {
        version: Some("0".to_owned()),
        id: Some(Uuid::new_v4().to_string()),
        detail_type: "CodeCommit Repository State Change".to_owned(),
        source: Some("aws.codecommit".to_owned()),
        account: Some(account.id.clone()),
        time: Some(now()),
        region: Some(account.region.clone()),
        resources: vec![account.repository_arn(repository)],
        detail: StateChangeDetail {
            caller_user_arn: Some(principal_arn.to_owned()),
            event: event.to_owned(),
            repository_name: repository.to_owned(),
            repository_id,
            reference_type: Some(kind.to_owned()),
            reference_name: Some(short.to_owned()),
            reference_full_name: Some(update.name.clone()),
            commit_id: update.new.clone(),
            old_commit_id: update.old.clone(),
        },
    };
    serde_json::to_value(&change).expect("because this type holds nothing but texts")
}

/// Adds the envelope that EventBridge puts around an event.
pub(super) fn enveloped(account: &Account, event: &Event) -> Value {
    json!({
        "version": "0",
        "id": Uuid::new_v4().to_string(),
        "detail-type": event.detail_type,
        "source": event.source,
        "account": account.id,
        "time": now(),
        "region": account.region,
        "resources": event.resources,
        "detail": event.detail,
    })
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn to_json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value)
        .expect("because these types hold nothing but texts and numbers")
        .into()
}
