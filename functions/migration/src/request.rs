//! The request: an event's mappings and batch limits.

use branchline_core::event;
use branchline_core::mirror::{
    self, BatchLimits, Mapping, MirrorRequest as Request, RequestOrigin,
};
use branchline_core::{Error, Result};
use serde_json::Value;

/// Adds the mappings of another request, each once: several records of one trigger carry equal
/// custom data.
fn add(merged: &mut Request, other: Request) {
    for mapping in other.mappings {
        if !merged.mappings.contains(&mapping) {
            merged.mappings.push(mapping);
        }
    }
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
            Some(merged) => add(merged, request),
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
            Some(merged) => add(merged, request),
        }
    }
    merged
        .map(Some)
        .ok_or_else(|| unknown_shape("`Records` is empty"))
}

fn from_value(value: &Value) -> Result<Request> {
    Request::read(RequestOrigin::Event, value)
}

fn unknown_shape(why: &str) -> Error {
    mirror::unknown_shape(RequestOrigin::Event, why)
}

#[cfg(test)]
mod tests;
