//! [`EventBus`] over EventBridge's `PutEvents`.
//!
//! The one operation is sent as a signed request, because the SDK's crate of EventBridge would add
//! its endpoint rules and serialisers to each function, and so to their cold start.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Announcement, BusName, EventBus, SOURCE};
use crate::aws::{Aws, JsonEndpoint, JsonService};
use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;

/// EventBridge of one account and region.
#[derive(Debug)]
pub struct SdkEventBus {
    service: JsonService,
    name: BusName,
}

impl SdkEventBus {
    /// Makes a client for one bus.
    pub fn new(aws: &Aws, name: BusName) -> Self {
        let service = JsonService::new(
            aws,
            JsonEndpoint {
                id: "EventBridge",
                host: "events",
                signing_name: "events",
                target: "AWSEvents",
            },
        );
        Self { service, name }
    }
}

#[async_trait]
impl EventBus for SdkEventBus {
    async fn put(&self, events: &[Announcement]) -> Result<()> {
        let entries: Vec<Value> = events
            .iter()
            .map(|event| {
                json!({
                    "Source": SOURCE,
                    "DetailType": event.detail_type(),
                    "Detail": event.detail().to_string(),
                    "EventBusName": self.name.as_str(),
                })
            })
            .collect();
        let input = json!({ "Entries": entries });
        let name = &self.name;
        let answer = self.service.call("PutEvents", &input).await;
        let answer = answer.map_err(|failure| {
            let kind = kind_of(failure.status, &failure.code);
            let code = Some(failure.code.as_str()).filter(|code| !code.is_empty());
            let error = Error::new(kind, format!("event bus `{name}`: {}", failure.message));
            let error = error.with_aws(code, None);
            if kind == ErrorKind::AccessDenied {
                error.with_hint(format!("grant `events:PutEvents` on event bus `{name}`"))
            } else {
                error
            }
        })?;
        let mut entries = answer["Entries"].as_array().into_iter().flatten();
        let refused = entries.find_map(|entry| entry["ErrorCode"].as_str());
        match refused {
            None => Ok(()),
            Some(code) => {
                let shown = escaped_excerpt(code.as_bytes());
                let message = format!("event bus `{name}` refused an event: {shown}");
                Err(Error::new(kind_of(200, code), message).with_aws(Some(code), None))
            }
        }
    }
}

fn kind_of(status: u16, code: &str) -> ErrorKind {
    match code {
        "ThrottlingException" | "ThrottledException" | "LimitExceededException" => {
            ErrorKind::Throttled
        }
        "InternalException" | "InternalFailure" | "ServiceUnavailable" => ErrorKind::Transport,
        "AccessDeniedException" | "NotAuthorizedForSourceException" => ErrorKind::AccessDenied,
        "ResourceNotFoundException" => ErrorKind::NotFound,
        _ if status == 429 => ErrorKind::Throttled,
        // No answer, or a failing service.
        _ if status == 0 || status >= 500 => ErrorKind::Transport,
        _ => ErrorKind::Config,
    }
}
