//! What happens to calls on their way into a service in memory: they are logged, delayed,
//! throttled, and something else may happen just before one of them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

type Hook = Box<dyn FnOnce() + Send>;

/// The way into a service in memory.
#[derive(Default)]
pub struct CallLog(Mutex<State>);

#[derive(Default)]
struct State {
    calls: Vec<&'static str>,
    bytes: HashMap<&'static str, u64>,
    hooks: Vec<(Option<&'static str>, usize, Hook)>,
    latency: Duration,
    max_in_flight: Option<usize>,
    in_flight: usize,
    peak: usize,
}

impl fmt::Debug for CallLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Traffic({} calls)", self.lock().calls.len())
    }
}

impl CallLog {
    /// Runs `hook` just before call `nth` (from 1, of all calls): another writer.
    pub fn before_call(&self, nth: usize, hook: impl FnOnce() + Send + 'static) {
        self.lock().hooks.push((None, nth, Box::new(hook)));
    }

    /// Runs `hook` just before call `nth` (from 1) of the method `name`.
    pub fn before(&self, name: &'static str, nth: usize, hook: impl FnOnce() + Send + 'static) {
        self.lock().hooks.push((Some(name), nth, Box::new(hook)));
    }

    /// Makes each call take this long (tokio's time).
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Throttles each call that finds this many in flight.
    pub fn set_max_in_flight(&self, max: Option<usize>) {
        self.lock().max_in_flight = max;
    }

    /// The methods called, in order.
    pub fn calls(&self) -> Vec<&'static str> {
        self.lock().calls.clone()
    }

    /// How often the method `name` was called.
    pub fn count(&self, name: &str) -> usize {
        let state = self.lock();
        state.calls.iter().filter(|call| **call == name).count()
    }

    /// How many bytes of objects the calls of the method `name` carried.
    pub fn bytes(&self, name: &str) -> u64 {
        self.lock().bytes.get(name).copied().unwrap_or_default()
    }

    /// Notes how many bytes a call carried.
    pub(super) fn record_bytes(&self, name: &'static str, bytes: usize) {
        *self.lock().bytes.entry(name).or_default() += bytes as u64;
    }

    /// The most calls that were in flight at once.
    pub fn peak(&self) -> usize {
        self.lock().peak
    }

    /// Takes a call in; it is in flight until the answer is dropped.
    pub(super) async fn enter(&self, name: &'static str) -> Result<InFlight<'_>> {
        for hook in self.log(name) {
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
                    format!("the service throttled `{name}`"),
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

    fn log(&self, name: &'static str) -> Vec<Hook> {
        let mut state = self.lock();
        state.calls.push(name);
        let (all, of_name) = (
            state.calls.len(),
            state.calls.iter().filter(|call| **call == name).count(),
        );
        let due = |(hook_name, nth, _): &mut (Option<&'static str>, usize, Hook)| match hook_name {
            None => *nth == all,
            Some(hook_name) => *hook_name == name && *nth == of_name,
        };
        let due = state.hooks.extract_if(.., due);
        due.map(|(_, _, hook)| hook).collect()
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
