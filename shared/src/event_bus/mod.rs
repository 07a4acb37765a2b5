//! The functions' events on an event bus, for other programs.
//!
//! | module | content |
//! |---|---|
//! | this one | the bus as a trait, and the outbox |
//! | `announcement` | the events |
//! | `client` | EventBridge |
//!
//! A bus that fails never fails the work: the failure is logged, and the events are lost.

mod announcement;
#[cfg(feature = "event-bus")]
pub mod client;
mod retrying;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

pub use announcement::{Announcement, ArchivedArtifact, BranchCommit, MirrorCounts, SOURCE};

use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;

/// Maximum number of events of one request (API reference, `PutEvents`).
pub const MAX_BATCH_EVENTS: usize = 10;

/// Longest time that the events of an invocation may take.
const MAX_FLUSH_TIME: Duration = Duration::from_secs(4);

/// Name or ARN of an event bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusName(Box<str>);

impl BusName {
    /// Validates `text`.
    ///
    /// # Errors
    /// `Config` for other characters than letters, digits, `.`, `_`, `-` and `/`, which ARNs have
    /// `:` in addition to.
    pub fn new(text: &str) -> Result<Self> {
        let is_arn = text.starts_with("arn:");
        let is_legal = |c: char| {
            c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/') || (is_arn && c == ':')
        };
        if (1..=1600).contains(&text.len()) && text.chars().all(is_legal) {
            return Ok(Self(text.into()));
        }
        let shown = escaped_excerpt(text.as_bytes());
        Err(Error::new(
            ErrorKind::Config,
            format!("`{shown}` is not the name or ARN of an event bus"),
        ))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for BusName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A bus that takes events.
#[async_trait]
pub trait EventBus: Send + Sync {
    /// Puts at most [`MAX_BATCH_EVENTS`] events. After an error, some of them may be on the bus.
    async fn put(&self, events: &[Announcement]) -> Result<()>;
}

/// Events of an invocation, until they are put on the bus at its end.
#[derive(Default)]
pub struct Outbox {
    bus: Option<Arc<dyn EventBus>>,
    waiting: Mutex<Vec<Announcement>>,
}

impl Outbox {
    /// Makes an outbox; without a bus it keeps nothing.
    pub fn new(bus: Option<Arc<dyn EventBus>>) -> Self {
        Self {
            bus,
            waiting: Mutex::default(),
        }
    }

    /// Adds the event that `make` returns, if there is a bus.
    pub fn add(&self, make: impl FnOnce() -> Announcement) {
        if self.bus.is_some() {
            self.waiting().push(make());
        }
    }

    /// Puts the waiting events on the bus. A failure is logged.
    pub async fn flush(&self) {
        let events = std::mem::take(&mut *self.waiting());
        let Some(bus) = self.bus.as_ref().filter(|_| !events.is_empty()) else {
            return;
        };
        let put = async {
            for batch in events.chunks(MAX_BATCH_EVENTS) {
                bus.put(batch).await?;
            }
            Ok::<_, Error>(())
        };
        let outcome = match tokio::time::timeout(MAX_FLUSH_TIME, put).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::new(
                ErrorKind::Transport,
                format!(
                    "the event bus took longer than {} seconds",
                    MAX_FLUSH_TIME.as_secs()
                ),
            )),
        };
        if let Err(error) = outcome {
            tracing::warn!(
                events = events.len(),
                "events are missing on the event bus: {}",
                error.report()
            );
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Announcement>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_arns_of_buses_are_accepted_and_nothing_else() {
        for name in [
            "default",
            "team/ci",
            "arn:aws:events:eu-west-1:111122223333:event-bus/ci",
        ] {
            assert_eq!(BusName::new(name).expect(name).as_str(), name);
        }
        for name in ["", "a b", "a:b", "\u{e9}"] {
            let error = BusName::new(name).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Config);
        }
    }
}
