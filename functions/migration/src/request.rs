//! The request: an event's mappings and batch limits.

use std::num::NonZeroU64;

use branchline_core::event;
use branchline_core::mirror::BatchLimits;
use branchline_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::fields::{invalid_field, read_fields};
use crate::mapping::Mapping;

/// Maximum number of mappings in one request.
const MAX_MAPPINGS: usize = 1000;

/// The mappings to mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Mappings in the order of the event. An invalid one does not hide the others.
    pub mappings: Vec<Mapping>,
    /// Commits and bytes of one push.
    pub batch: BatchLimits,
}

impl Request {
    /// Adds the mappings of another request, each once: several records of one trigger carry
    /// equal custom data.
    fn add(&mut self, other: Self) {
        for mapping in other.mappings {
            if !self.mappings.contains(&mapping) {
                self.mappings.push(mapping);
            }
        }
    }
}

/// The fields of a request. Mappings are read one by one, so that each has its own error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestFields {
    mappings: Option<Vec<Value>>,
    batch: Option<Value>,
    plan: Option<bool>,
}

/// The fields of `batch`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchFields {
    commits: Option<NonZeroU64>,
    bytes: Option<NonZeroU64>,
}

/// Reads an event; `None` for the test event of a trigger.
///
/// # Errors
/// `InvalidEvent`, naming the field, when the event as a whole cannot be read.
pub(crate) fn parse(event: &Value) -> Result<Option<Request>> {
    let mut merged: Option<Request> = None;
    let events = event::unwrapped(event);
    let is_single = events.len() == 1;
    for event in events {
        let request = match event.and_then(|event| parse_one(&event)) {
            Ok(Some(request)) => request,
            Ok(None) => continue,
            Err(error) if is_single => return Err(error),
            // One message that cannot be read does not stop the others.
            Err(error) => Request {
                mappings: vec![Mapping::unreadable(&error)],
                batch: BatchLimits::default(),
            },
        };
        match &mut merged {
            None => merged = Some(request),
            Some(merged) => merged.add(request),
        }
    }
    Ok(merged)
}

fn parse_one(event: &Value) -> Result<Option<Request>> {
    match event.get("Records") {
        Some(records) => from_records(records),
        None => from_value(event).map(Some),
    }
}

/// Reads the requests that trigger records carry in their `customData`.
fn from_records(records: &Value) -> Result<Option<Request>> {
    let records = records
        .as_array()
        .ok_or_else(|| unknown_shape("`Records` must be a list"))?;
    let is_test = |record: &Value| {
        record.get("eventName").and_then(Value::as_str) == Some("TriggerEventTest")
    };
    if !records.is_empty() && records.iter().all(is_test) {
        return Ok(None);
    }
    let mut merged: Option<Request> = None;
    for record in records.iter().filter(|record| !is_test(record)) {
        let value = record
            .get("customData")
            .and_then(Value::as_str)
            .and_then(|text| serde_json::from_str::<Value>(text).ok())
            .filter(Value::is_object)
            .ok_or_else(|| {
                unknown_shape("the record's `customData` must be a JSON object with `mappings`")
            })?;
        let request = from_value(&value)?;
        match &mut merged {
            None => merged = Some(request),
            Some(merged) => merged.add(request),
        }
    }
    merged
        .map(Some)
        .ok_or_else(|| unknown_shape("`Records` is empty"))
}

fn from_value(value: &Value) -> Result<Request> {
    if !value.is_object() {
        return Err(unknown_shape("it must be a JSON object"));
    }
    let fields: RequestFields =
        read_fields("", value).map_err(|error| error.with_hint(example()))?;
    let mappings = fields
        .mappings
        .ok_or_else(|| unknown_shape("`mappings` is missing"))?;
    if mappings.is_empty() {
        return Err(invalid_field(
            "mappings",
            "it must have at least one mapping",
        ));
    }
    if mappings.len() > MAX_MAPPINGS {
        return Err(invalid_field(
            "mappings",
            &format!(
                "it has {} mappings, and {MAX_MAPPINGS} are allowed",
                mappings.len()
            ),
        )
        .with_hint("run a fleet of functions over them with Step Functions"));
    }
    let plan = fields.plan.unwrap_or(false);
    Ok(Request {
        batch: match &fields.batch {
            None => BatchLimits::default(),
            Some(batch) => read_batch(batch)?,
        },
        mappings: mappings
            .iter()
            .enumerate()
            .map(|(index, mapping)| Mapping::read(&format!("mappings[{index}]"), mapping, plan))
            .collect(),
    })
}

fn read_batch(value: &Value) -> Result<BatchLimits> {
    let fields: BatchFields = read_fields("batch", value).map_err(|error| {
        error.with_hint("`batch` has `commits` and `bytes`, whole numbers above 0")
    })?;
    let default = BatchLimits::default();
    Ok(BatchLimits {
        commits: fields.commits.map_or(default.commits, NonZeroU64::get),
        bytes: fields.bytes.map(NonZeroU64::get).or(default.bytes),
    })
}

/// The smallest request, as the hint of an event that cannot be read.
fn example() -> &'static str {
    "send {\"mappings\":[{\"source\":\"codecommit://repo\",\
     \"target\":\"s3://bucket/prefix\",\"layout\":\"dumb\"}]}"
}

fn unknown_shape(why: &str) -> Error {
    Error::new(
        ErrorKind::InvalidEvent,
        format!("the event is not understood: {why}"),
    )
    .with_hint(example())
}

#[cfg(test)]
mod tests;
