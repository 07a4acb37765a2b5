//! Triggers and EventBridge events, from pushes and services to functions and pipelines.
//!
//! Nothing is ordered and nothing is awaited, as at AWS: a push is answered before its
//! events are sent. The faults of `events` act here.

mod bus;
mod pattern;
mod rule;
mod shapes;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use branchline_core::codecommit::{Trigger, TriggerEvent, TriggerSet};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use pattern::EventPattern;
pub use rule::EventRule;
pub use shapes::{TestEvent, state_change, test_record, trigger_record};

use crate::account::Account;
use crate::aws_json::ApiResult;
use crate::event::{Event, EventSink};
use crate::faults::{Fault, Faults, Service};
use crate::lambda::AsyncInvocations;
use crate::ref_observer::{RefObserver, RefUpdate};

use bus::{Buses, DEFAULT, Destination};

/// Source of the triggers of repositories.
pub trait TriggerSource: Send + Sync {
    /// Returns the triggers of a repository; `None` if it does not exist.
    fn triggers(&self, repository: &str) -> Option<TriggerSet>;

    /// Returns the UUID of a repository.
    fn repository_id(&self, repository: &str) -> Option<String>;
}

/// Starts an execution of a pipeline, by its name and what a rule's target sends.
///
/// Errors: a sentence.
pub type PipelineStarter = dyn Fn(&str, &Value) -> Result<(), String> + Send + Sync;

/// Sends events: those that a change of refs causes, and those of the buses.
#[derive(Clone)]
pub struct Delivery(Arc<Inner>);

struct Inner {
    account: Account,
    faults: Arc<Faults>,
    queue: AsyncInvocations,
    buses: Buses,
    source: OnceLock<Arc<dyn TriggerSource>>,
    pipelines: OnceLock<Box<PipelineStarter>>,
    runtime: tokio::runtime::Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    sent: Arc<Notify>,
}

impl Delivery {
    /// Opens a delivery, which keeps buses and rules in `folder`. It is without triggers until
    /// [`set_source`](Self::set_source) is called. Must be called within a tokio runtime.
    pub fn open(
        account: Account,
        faults: Arc<Faults>,
        queue: AsyncInvocations,
        rules: &[EventRule],
        folder: &Path,
    ) -> std::io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            buses: Buses::open(account.clone(), folder, rules)?,
            account,
            faults,
            queue,
            source: OnceLock::new(),
            pipelines: OnceLock::new(),
            runtime: tokio::runtime::Handle::current(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            sent: Arc::default(),
        })))
    }

    /// Sets the source of triggers; only the first call counts.
    pub fn set_source(&self, source: Arc<dyn TriggerSource>) {
        let _ = self.0.source.set(source);
    }

    /// Sets the starter of pipelines that are targets of rules; only the first call counts.
    pub fn set_pipelines(&self, pipelines: Box<PipelineStarter>) {
        let _ = self.0.pipelines.set(pipelines);
    }

    /// Answers one operation of EventBridge.
    pub fn call(&self, operation: &str, input: &Value) -> ApiResult {
        if operation != "PutEvents" {
            return self.0.buses.call(operation, input);
        }
        let mut results = Vec::new();
        let mut failed = 0;
        for entry in self.0.buses.entries(input)? {
            results.push(match entry {
                Ok((bus, event)) => {
                    let event = shapes::enveloped(&self.0.account, &event);
                    let id = event["id"].clone();
                    self.route(&bus, &event);
                    json!({ "EventId": id })
                }
                Err(refused) => {
                    failed += 1;
                    refused
                }
            });
        }
        Ok(json!({ "FailedEntryCount": failed, "Entries": results }))
    }

    /// Returns the last 1,000 events of all buses, the oldest first, each with its bus.
    pub fn events(&self) -> Vec<Value> {
        self.0.buses.seen()
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
        let function = Destination::Function(event.trigger.destination_arn.clone());
        self.0.submit(&function, &record)
    }

    /// Puts an event on a bus, and sends it to the targets of the rules that it matches.
    fn route(&self, bus: &str, event: &Value) {
        for dispatch in self.0.buses.put(bus, event) {
            self.send(
                "eventbridge",
                &dispatch.destination,
                dispatch.payload.into(),
            );
        }
    }

    fn send(&self, kind: &'static str, destination: &Destination, payload: Bytes) {
        let fault = self.0.faults.decide(Service::Events, kind).fault;
        let inner = Arc::clone(&self.0);
        let destination = destination.clone();
        let hold = match fault {
            Some(Fault::Lose) => {
                tracing::info!("fault: {kind} for {destination} lost");
                return;
            }
            Some(Fault::Delay(ms) | Fault::Reorder(ms)) => Duration::from_millis(ms),
            _ => Duration::ZERO,
        };
        let copies = if fault == Some(Fault::Double) { 2 } else { 1 };
        if let Some(fault) = fault {
            let what = fault.name();
            tracing::info!("fault: {kind} for {destination}: {what}");
        }
        if hold.is_zero() {
            for _ in 0..copies {
                let _ = inner.submit(&destination, &payload);
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
            let _ = inner.submit(&destination, &payload);
        };
        runtime.spawn(tasks.track_future(task));
    }
}

impl Inner {
    fn submit(&self, destination: &Destination, payload: &Bytes) -> Result<(), String> {
        let _guard = self.runtime.enter();
        let sent = match destination {
            Destination::Function(function) => match self.queue.submit(function, payload) {
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
            Destination::Pipeline(name) => {
                let input = serde_json::from_slice(payload).unwrap_or_default();
                match self.pipelines.get() {
                    Some(start) => start(name, &input),
                    None => Err("there are no pipelines".to_owned()),
                }
            }
        };
        if let Err(error) = &sent {
            tracing::error!("an event for {destination} could not be delivered: {error}");
        }
        sent
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
            let function = Destination::Function(trigger.destination_arn.clone());
            self.send("trigger", &function, record);
        }
        let id = source.repository_id(repository);
        for update in updates {
            let event = state_change(
                &self.0.account,
                repository,
                id.clone(),
                principal_arn,
                update,
            );
            self.route(DEFAULT, &event);
        }
    }
}

impl EventSink for Delivery {
    fn put(&self, event: Event) {
        self.route(DEFAULT, &shapes::enveloped(&self.0.account, &event));
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
}
