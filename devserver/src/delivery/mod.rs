//! Triggers and EventBridge events, from pushes to functions.
//!
//! Nothing is ordered and nothing is awaited, as at AWS: a push is answered before its
//! events are sent. The faults of `events` act here.

mod shapes;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use branchline_core::codecommit::{Trigger, TriggerEvent, TriggerSet};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use shapes::{TestEvent, state_change, test_record, trigger_record};

use crate::account::Account;
use crate::faults::{Fault, Faults, Service};
use crate::lambda::AsyncInvocations;
use crate::ref_observer::{RefObserver, RefUpdate};

/// Source of the triggers of repositories.
pub trait TriggerSource: Send + Sync {
    /// Returns the triggers of a repository; `None` if it does not exist.
    fn triggers(&self, repository: &str) -> Option<TriggerSet>;

    /// Returns the UUID of a repository.
    fn repository_id(&self, repository: &str) -> Option<String>;
}

/// A rule on the default event bus: CodeCommit's state changes, to one function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRule {
    /// The function, by name or ARN.
    pub function: String,
    /// Values of `detail.event` that match; empty: all.
    pub events: BTreeSet<String>,
}

impl std::str::FromStr for EventRule {
    type Err = String;

    /// Reads `FUNCTION` or `FUNCTION=event,event`.
    fn from_str(text: &str) -> Result<Self, String> {
        const KNOWN: [&str; 3] = ["referenceCreated", "referenceUpdated", "referenceDeleted"];
        let (function, events) = text.split_once('=').unwrap_or((text, ""));
        if function.is_empty() {
            return Err(format!("`{text}` names no function"));
        }
        let events: BTreeSet<String> = events
            .split(',')
            .filter(|event| !event.is_empty())
            .map(str::to_owned)
            .collect();
        if let Some(event) = events.iter().find(|event| !KNOWN.contains(&event.as_str())) {
            return Err(format!("unknown event `{event}`: use {}", KNOWN.join(", ")));
        }
        Ok(Self {
            function: function.to_owned(),
            events,
        })
    }
}

/// Sends the events that a change of refs causes.
#[derive(Clone)]
pub struct Delivery(Arc<Inner>);

struct Inner {
    account: Account,
    faults: Arc<Faults>,
    queue: AsyncInvocations,
    rules: Vec<EventRule>,
    source: OnceLock<Arc<dyn TriggerSource>>,
    runtime: tokio::runtime::Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    sent: Arc<Notify>,
}

impl Delivery {
    /// Creates a delivery without triggers until [`set_source`](Self::set_source) is called.
    /// Must be called within a tokio runtime.
    pub fn new(
        account: Account,
        faults: Arc<Faults>,
        queue: AsyncInvocations,
        rules: Vec<EventRule>,
    ) -> Self {
        Self(Arc::new(Inner {
            account,
            faults,
            queue,
            rules,
            source: OnceLock::new(),
            runtime: tokio::runtime::Handle::current(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            sent: Arc::default(),
        }))
    }

    /// Sets the source of triggers; only the first call counts.
    pub fn set_source(&self, source: Arc<dyn TriggerSource>) {
        let _ = self.0.source.set(source);
    }

    /// Returns the number of events that wait to be sent: delayed, reordered, or in transit.
    pub fn pending(&self) -> usize {
        self.0.tasks.len()
    }

    /// Drops the delayed events.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Sends a `TriggerEventTest` to a trigger's destination. Faults do not apply, because
    /// a test asks whether the trigger can work.
    ///
    /// Errors: a sentence for `failureMessage`.
    pub fn test(&self, event: &TestEvent<'_>) -> Result<(), String> {
        let record = test_record(&self.0.account, event);
        self.0.submit(&event.trigger.destination_arn, &record)
    }

    fn send(&self, kind: &'static str, function: &str, payload: Bytes) {
        let fault = self.0.faults.decide(Service::Events, kind).fault;
        let inner = Arc::clone(&self.0);
        let function = function.to_owned();
        let hold = match fault {
            Some(Fault::Lose) => {
                tracing::info!(
                    function.name = function,
                    "fault: {kind} for `{function}` lost"
                );
                return;
            }
            Some(Fault::Delay(ms) | Fault::Reorder(ms)) => Duration::from_millis(ms),
            _ => Duration::ZERO,
        };
        let copies = if fault == Some(Fault::Double) { 2 } else { 1 };
        if let Some(fault) = fault {
            let what = fault.name();
            tracing::info!(
                function.name = function,
                "fault: {kind} for `{function}`: {what}"
            );
        }
        if hold.is_zero() {
            for _ in 0..copies {
                let _ = inner.submit(&function, &payload);
            }
            // The events that waited to be overtaken were overtaken.
            inner.sent.notify_waiters();
            return;
        }
        // Registered before sending, so that the very next event counts.
        let overtaken = matches!(fault, Some(Fault::Reorder(_)))
            .then(|| Arc::clone(&inner.sent).notified_owned());
        let runtime = inner.runtime.clone();
        let tasks = inner.tasks.clone();
        let task = async move {
            let overtaken = async {
                match overtaken {
                    Some(notified) => notified.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = inner.stop.cancelled() => return,
                () = tokio::time::sleep(hold) => {}
                () = overtaken => {}
            }
            let _ = inner.submit(&function, &payload);
        };
        runtime.spawn(tasks.track_future(task));
    }
}

impl Inner {
    fn submit(&self, function: &str, payload: &Bytes) -> Result<(), String> {
        let _guard = self.runtime.enter();
        match self.queue.submit(function, payload) {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::error!(
                    function.name = function,
                    "an event could not be queued: {error}"
                );
                Err(error.to_string())
            }
        }
    }
}

impl RefObserver for Delivery {
    fn refs_changed(&self, repository: &str, principal_arn: &str, updates: &[RefUpdate]) {
        for update in updates {
            let what = match (&update.old, &update.new) {
                (None, _) => "created",
                (_, None) => "deleted",
                _ => "updated",
            };
            let new = update.new.as_deref().unwrap_or("-");
            tracing::info!(
                repository.name = repository,
                reference.name = update.name,
                commit.id = new,
                principal.arn = principal_arn,
                "push to `{repository}`: {} {what}{}",
                update.name,
                update
                    .new
                    .as_deref()
                    .map(|id| format!(" at {id:.10}"))
                    .unwrap_or_default()
            );
        }
        let Some(source) = self.0.source.get() else {
            return;
        };
        let set = source.triggers(repository).unwrap_or(TriggerSet {
            configuration_id: String::new(),
            triggers: Vec::new(),
        });
        for trigger in &set.triggers {
            let matching: Vec<&RefUpdate> = updates
                .iter()
                .filter(|update| fires(trigger, update))
                .collect();
            if matching.is_empty() {
                continue;
            }
            tracing::info!(
                repository.name = repository,
                trigger.name = trigger.name,
                "trigger `{}` of `{repository}` calls {}",
                trigger.name,
                trigger.destination_arn
            );
            let record = trigger_record(
                &self.0.account,
                repository,
                principal_arn,
                &set.configuration_id,
                trigger,
                &matching,
            );
            self.send("trigger", &trigger.destination_arn, record);
        }
        if self.0.rules.is_empty() {
            return;
        }
        let id = source.repository_id(repository);
        for update in updates {
            let (event, payload) = state_change(
                &self.0.account,
                repository,
                id.clone(),
                principal_arn,
                update,
            );
            for rule in &self.0.rules {
                if rule.events.is_empty() || rule.events.contains(event) {
                    self.send("eventbridge", &rule.function, payload.clone());
                }
            }
        }
    }
}

/// Returns true if a trigger watches this change. Only triggers for all branches cover tags,
/// because a trigger names branches.
fn fires(trigger: &Trigger, update: &RefUpdate) -> bool {
    let event = match (&update.old, &update.new) {
        (None, _) => TriggerEvent::CreateReference,
        (_, None) => TriggerEvent::DeleteReference,
        _ => TriggerEvent::UpdateReference,
    };
    let of_event = trigger
        .events
        .iter()
        .any(|wanted| matches!(wanted, TriggerEvent::All) || *wanted == event);
    let of_branch = trigger.branches.is_empty()
        || update
            .name
            .strip_prefix("refs/heads/")
            .is_some_and(|name| trigger.branches.iter().any(|branch| branch == name));
    of_event && of_branch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trigger(branches: &[&str], events: &[TriggerEvent]) -> Trigger {
        Trigger {
            name: "t".into(),
            destination_arn: "arn".into(),
            custom_data: None,
            branches: branches.iter().map(ToString::to_string).collect(),
            events: events.to_vec(),
        }
    }

    fn update(name: &str, old: bool, new: bool) -> RefUpdate {
        let id = |there: bool| there.then(|| "a".repeat(40));
        RefUpdate {
            name: name.into(),
            old: id(old),
            new: id(new),
        }
    }

    #[test]
    fn a_trigger_fires_for_its_branches_and_events_only() {
        use TriggerEvent::{All, CreateReference, DeleteReference, UpdateReference};
        let created = update("refs/heads/feature/a", false, true);
        let moved = update("refs/heads/feature/a", true, true);
        let deleted = update("refs/heads/feature/a", true, false);
        let tag = update("refs/tags/feature/a", false, true);
        for (branches, events, expected) in [
            (&[][..], &[All][..], [true, true, true, true]),
            (&["feature/a"], &[All], [true, true, true, false]),
            (&["a", "feature"], &[All], [false, false, false, false]),
            (&[], &[CreateReference], [true, false, false, true]),
            (
                &["feature/a"],
                &[UpdateReference],
                [false, true, false, false],
            ),
            (
                &[],
                &[DeleteReference, UpdateReference],
                [false, true, true, false],
            ),
        ] {
            let trigger = trigger(branches, events);
            let fired = [&created, &moved, &deleted, &tag].map(|update| fires(&trigger, update));
            assert_eq!(fired, expected, "{branches:?} {events:?}");
        }
    }

    #[test]
    fn a_rule_reads_its_function_and_events() {
        let rule: EventRule = "lifecycle=referenceCreated,referenceDeleted"
            .parse()
            .unwrap();
        assert_eq!(rule.function, "lifecycle");
        assert_eq!(rule.events.len(), 2);
        assert!("lifecycle".parse::<EventRule>().unwrap().events.is_empty());
        assert!("lifecycle=created".parse::<EventRule>().is_err());
        assert!("=referenceCreated".parse::<EventRule>().is_err());
    }
}
