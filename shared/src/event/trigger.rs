//! The record that a CodeCommit repository trigger sends to Lambda (AWS Lambda developer
//! guide, "Using Lambda with CodeCommit").

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Change, MAX_REFERENCES, RefEvent, Request, invalid_field};
use crate::arn::Origin;
use crate::error::Result;
use crate::name::{CommitId, RefName, RepositoryName};

/// The event of a trigger, for one push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeCommitRecord {
    /// The records; one in practice.
    #[serde(rename = "Records")]
    pub records: Vec<Record>,
}

/// One record. Fields that branchline does not use may be missing or null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The region, `us-west-2`.
    #[serde(default)]
    pub aws_region: Option<String>,
    /// The references of the push.
    #[serde(default)]
    pub codecommit: Option<References>,
    /// The trigger's static text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_data: Option<String>,
    /// The id of the event.
    #[serde(default)]
    pub event_id: Option<String>,
    /// `ReferenceChanges`, or `TriggerEventTest`.
    #[serde(default)]
    pub event_name: Option<String>,
    /// The part of the event, from 1.
    #[serde(default)]
    pub event_part_number: Option<u32>,
    /// `aws:codecommit`.
    #[serde(default)]
    pub event_source: Option<String>,
    /// The repository's ARN.
    #[serde(rename = "eventSourceARN")]
    pub event_source_arn: String,
    /// `2022-01-10T18:55:09.100+0000`.
    #[serde(default)]
    pub event_time: Option<String>,
    /// Number of parts of the event.
    #[serde(default)]
    pub event_total_parts: Option<u32>,
    /// The trigger set's `configurationId`.
    #[serde(default)]
    pub event_trigger_config_id: Option<String>,
    /// The trigger's name.
    #[serde(default)]
    pub event_trigger_name: Option<String>,
    /// `1.0`.
    #[serde(default)]
    pub event_version: Option<String>,
    /// The ARN of the user who pushed.
    #[serde(default, rename = "userIdentityARN")]
    pub user_identity_arn: Option<String>,
}

/// The references of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct References {
    /// One for each ref of the push.
    pub references: Vec<TriggerReference>,
}

/// One reference of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerReference {
    /// The commit; not documented for a deleted reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// True for a new reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<bool>,
    /// True for a deleted reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<bool>,
    /// True for a reference that lifecycle found without an event of its own; never sent by
    /// CodeCommit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<bool>,
    /// The full name.
    #[serde(rename = "ref")]
    pub reference: String,
}

/// Parses all references of all records.
pub(super) fn parse(event: &Value) -> Result<Vec<Result<Request>>> {
    let records = event
        .get("Records")
        .and_then(Value::as_array)
        .ok_or_else(|| invalid_field("Records", "it must be a list"))?;
    if records.is_empty() {
        return Err(invalid_field("Records", "it is empty"));
    }
    let mut requests = Vec::new();
    for (at, record) in records.iter().enumerate() {
        match parse_record(record, at) {
            Ok(found) => requests.extend(found),
            Err(error) => requests.push(Err(error)),
        }
        if requests.len() > MAX_REFERENCES {
            return Err(invalid_field(
                "Records",
                format!("it has more than {MAX_REFERENCES} references"),
            ));
        }
    }
    Ok(requests)
}

fn parse_record(record: &Value, at: usize) -> Result<Vec<Result<Request>>> {
    let field = |name: &str| format!("Records[{at}].{name}");
    if let Some(source) = record.get("eventSource").and_then(Value::as_str)
        && source != "aws:codecommit"
    {
        return Err(invalid_field(
            &field("eventSource"),
            format!("`{}` is not `aws:codecommit`", source.escape_debug()),
        ));
    }
    let record = Record::deserialize(record)
        .map_err(|error| invalid_field(&format!("Records[{at}]"), error))?;
    let repository = repository_of(&record.event_source_arn)
        .map_err(|why| invalid_field(&field("eventSourceARN"), why))?;
    if record.event_name.as_deref() == Some("TriggerEventTest") {
        return Ok(vec![Ok(Request::TriggerTest { repository })]);
    }
    let Some(references) = record.codecommit else {
        return Err(invalid_field(
            &field("codecommit.references"),
            "it is missing",
        ));
    };
    let requests = references
        .references
        .into_iter()
        .enumerate()
        .map(|(n, reference)| {
            let deleted = reference.deleted == Some(true);
            let name = format!("codecommit.references[{n}]");
            let commit = match &reference.commit {
                // Not used, because the commit of a deleted reference is not documented.
                Some(_) if deleted => None,
                Some(hex) if hex.bytes().all(|b| b == b'0') => None,
                Some(hex) => Some(
                    CommitId::new(hex)
                        .map_err(|error| invalid_field(&field(&format!("{name}.commit")), error))?,
                ),
                None => None,
            };
            Ok(Request::RefEvent(RefEvent {
                repository: repository.clone(),
                origin: Origin::of_arn(&record.event_source_arn),
                reference: RefName::new(&reference.reference)
                    .map_err(|error| invalid_field(&field(&format!("{name}.ref")), error))?,
                commit,
                change: match (deleted, reference.created) {
                    (true, _) => Change::Deleted,
                    (false, Some(true)) => Change::Created,
                    (false, _) => Change::Updated,
                },
                custom_data: record.custom_data.clone(),
                is_found: reference.existing == Some(true),
            }))
        });
    Ok(requests.collect())
}

/// Returns the repository of `arn:aws:codecommit:<region>:<account>:<name>`.
pub(super) fn repository_of(arn: &str) -> Result<RepositoryName, String> {
    match crate::arn::ArnParts::split(arn) {
        Some(parts) if parts.is_of_aws() && parts.service == "codecommit" => {
            RepositoryName::new(parts.resource).map_err(|error| error.to_string())
        }
        _ => Err(format!(
            "`{}` is not the ARN of a CodeCommit repository",
            arn.escape_debug()
        )),
    }
}
