//! Events of the account, and the trait of the bus that takes them.

use serde_json::Value;

/// An event, before the bus adds id, time, account and region.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The service or program that it comes from, `aws.codecommit`.
    pub source: String,
    /// Kind of event, `CodeCommit Pull Request State Change`.
    pub detail_type: String,
    /// ARNs of the resources that it is about.
    pub resources: Vec<String>,
    /// Content, a JSON object.
    pub detail: Value,
}

/// Taker of events.
///
/// Must return soon, because the caller's answer waits for it.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn put(&self, event: Event);
}

/// A sink that ignores all events.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEvents;

impl EventSink for NoEvents {
    fn put(&self, _: Event) {}
}
