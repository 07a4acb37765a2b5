//! The log of calls into services, and what is planned for the k-th of them.
//!
//! [`CallPlan`] records calls and matches them with planned actions. It serves both
//! [`CallLog`], whose actions are hooks in a service in memory, and
//! [`FaultPlan`](super::FaultPlan), whose actions are errors.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// Recorded calls, and actions planned for some of the calls to come.
#[derive(Debug)]
pub(super) struct CallPlan<A> {
    calls: Vec<&'static str>,
    // Method (`None`: any), number of the call from 1, action.
    planned: Vec<(Option<&'static str>, usize, A)>,
}

impl<A> Default for CallPlan<A> {
    fn default() -> Self {
        Self {
            calls: Vec::new(),
            planned: Vec::new(),
        }
    }
}

impl<A> CallPlan<A> {
    /// Plans `action` for call `nth` (from 1) of `method`, or of all methods.
    pub(super) fn plan(&mut self, method: Option<&'static str>, nth: usize, action: A) {
        self.planned.push((method, nth, action));
    }

    /// Records a call of `method`; returns the actions planned for it.
    pub(super) fn record(&mut self, method: &'static str) -> Vec<A> {
        self.calls.push(method);
        let of_all = self.calls.len();
        let of_method = self.count(method);
        let is_due = |(planned, nth, _): &mut (Option<&'static str>, usize, A)| match planned {
            None => *nth == of_all,
            Some(planned) => *planned == method && *nth == of_method,
        };
        let due = self.planned.extract_if(.., is_due);
        due.map(|(_, _, action)| action).collect()
    }

    /// Returns the methods called, in order.
    pub(super) fn calls(&self) -> &[&'static str] {
        &self.calls
    }

    /// Returns the number of calls of `method`.
    pub(super) fn count(&self, method: &str) -> usize {
        self.calls.iter().filter(|call| **call == method).count()
    }
}

type Hook = Box<dyn FnOnce() + Send>;

/// Log of the calls into a service in memory, with hooks, latency and throttling.
#[derive(Default)]
pub struct CallLog(Mutex<State>);

#[derive(Default)]
struct State {
    calls: CallPlan<Hook>,
    bytes: HashMap<&'static str, u64>,
    latency: Duration,
    max_in_flight: Option<usize>,
    in_flight: usize,
    peak: usize,
}

impl fmt::Debug for CallLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallLog({} calls)", self.lock().calls.calls().len())
    }
}

impl CallLog {
    /// Runs `hook` just before call `nth` (from 1) of all methods, as another client's
    /// write.
    pub fn before_call(&self, nth: usize, hook: impl FnOnce() + Send + 'static) {
        self.lock().calls.plan(None, nth, Box::new(hook));
    }

    /// Runs `hook` just before call `nth` (from 1) of `method`.
    pub fn before(&self, method: &'static str, nth: usize, hook: impl FnOnce() + Send + 'static) {
        self.lock().calls.plan(Some(method), nth, Box::new(hook));
    }

    /// Delays each call by `latency` (tokio's time).
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Throttles each call made while `max` calls are in flight.
    pub fn set_max_in_flight(&self, max: Option<usize>) {
        self.lock().max_in_flight = max;
    }

    /// Returns the methods called, in order.
    pub fn calls(&self) -> Vec<&'static str> {
        self.lock().calls.calls().to_vec()
    }

    /// Returns the number of calls of `method`.
    pub fn count(&self, method: &str) -> usize {
        self.lock().calls.count(method)
    }

    /// Returns the bytes of objects that calls of `method` sent or received.
    pub fn bytes(&self, method: &str) -> u64 {
        self.lock().bytes.get(method).copied().unwrap_or_default()
    }

    /// Adds the bytes that one call of `method` sent or received.
    pub(super) fn record_bytes(&self, method: &'static str, bytes: usize) {
        *self.lock().bytes.entry(method).or_default() += bytes as u64;
    }

    /// Returns the maximum number of calls that were in flight together.
    pub fn peak(&self) -> usize {
        self.lock().peak
    }

    /// Starts a call of `method`, which is in flight until the result is dropped.
    pub(super) async fn enter(&self, method: &'static str) -> Result<InFlight<'_>> {
        let hooks = self.lock().calls.record(method);
        for hook in hooks {
            hook();
        }
        let (guard, latency) = {
            let mut state = self.lock();
            if state
                .max_in_flight
                .is_some_and(|max| state.in_flight >= max)
            {
                return Err(Error::new(
                    ErrorKind::Throttled,
                    format!("the service throttled `{method}`"),
                )
                .with_aws(Some("ThrottlingException"), None));
            }
            state.in_flight += 1;
            state.peak = state.peak.max(state.in_flight);
            (InFlight(self), state.latency)
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        Ok(guard)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call in flight.
pub(super) struct InFlight<'a>(&'a CallLog);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
    }
}
