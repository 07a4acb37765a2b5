//! Injected faults, and counts of the requests to the server.
//!
//! Every decision is derived from one seed, the rule and the number of the rule's call, not
//! from one stream that all services share: the k-th matching call gets the same decision in
//! every run with that seed, whatever calls to other services happen in between.

mod requests;
mod rule;

pub use requests::{InFlight, RequestLine, RequestLog};
pub use rule::{Fault, Rule, Service, When};

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;

/// Maximum number of traces whose faults are counted, because not every trace is an invocation.
const MAX_TRACES: usize = 1_000;

/// Decision about one call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FaultDecision {
    /// Delay before anything else.
    pub latency: Duration,
    /// Fault that follows the delay.
    pub fault: Option<Fault>,
}

/// A rule with its number, and its counts so far.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct RuleState {
    /// Number of the rule; stable when other rules are removed.
    pub id: u64,
    /// The rule.
    #[serde(flatten)]
    pub rule: Rule,
    /// Number of calls that it matched.
    pub calls: u64,
    /// Number of matched calls that it made fail.
    pub hits: u64,
}

/// All active rules.
#[derive(Debug)]
pub struct Faults {
    seed: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    rules: Vec<RuleState>,
    /// Faults that hit the requests of each trace, with their numbers.
    counts: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Faults {
    /// Creates an empty set of rules that decides by `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            state: Mutex::default(),
        }
    }

    /// Returns the seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Adds a rule; returns its number.
    pub fn add(&self, rule: Rule) -> u64 {
        let mut state = self.state();
        state.next_id += 1;
        let id = state.next_id;
        state.rules.push(RuleState {
            id,
            rule,
            calls: 0,
            hits: 0,
        });
        id
    }

    /// Removes all rules. Numbers restart at 1, so that the same rules added
    /// again repeat the same faults.
    pub fn clear(&self) {
        let mut state = self.state();
        state.next_id = 0;
        state.rules.clear();
    }

    /// Removes one rule; returns whether it existed.
    pub fn remove(&self, id: u64) -> bool {
        let mut state = self.state();
        let before = state.rules.len();
        state.rules.retain(|rule| rule.id != id);
        state.rules.len() < before
    }

    /// Returns the active rules.
    pub fn rules(&self) -> Vec<RuleState> {
        self.state().rules.clone()
    }

    /// Counts a fault that hit a request of a trace, until [`take_counts`](Self::take_counts);
    /// returns false for more traces than are kept.
    pub fn count(&self, trace: &str, fault: &str) -> bool {
        let mut state = self.state();
        if state.counts.len() >= MAX_TRACES && !state.counts.contains_key(trace) {
            return false;
        }
        let counts = state.counts.entry(trace.to_owned()).or_default();
        *counts.entry(fault.to_owned()).or_default() += 1;
        true
    }

    /// Takes the counts of a trace.
    pub fn take_counts(&self, trace: &str) -> BTreeMap<String, u64> {
        self.state().counts.remove(trace).unwrap_or_default()
    }

    /// Decides about one call. Latencies add up; of the other faults the first that
    /// applies is taken, but every matching rule counts the call.
    pub fn decide(&self, service: Service, operation: &str) -> FaultDecision {
        let mut decision = FaultDecision::default();
        for state in &mut self.state().rules {
            if !state.rule.matches(service, operation) {
                continue;
            }
            state.calls += 1;
            let strikes = match state.rule.when {
                When::Always => true,
                When::Rate(rate) => self.draw(state.id, state.calls) < rate,
                When::Every(n) => state.calls.is_multiple_of(n.max(1)),
                When::Nth(k) => state.calls == k,
            };
            if !strikes {
                continue;
            }
            match state.rule.fault {
                Fault::Latency(ms) => {
                    state.hits += 1;
                    decision.latency += Duration::from_millis(ms);
                }
                fault if decision.fault.is_none() => {
                    state.hits += 1;
                    decision.fault = Some(fault);
                }
                _ => {}
            }
        }
        decision
    }

    /// Returns a number in 0..1 that depends only on seed, rule and call.
    fn draw(&self, rule: u64, call: u64) -> f64 {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&rule.to_le_bytes());
        seed[16..24].copy_from_slice(&call.to_le_bytes());
        StdRng::from_seed(seed).random()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64) -> Vec<bool> {
        let faults = Faults::new(seed);
        faults.add("s3:throttle,rate=0.3".parse().unwrap());
        (0..400)
            .map(|n| {
                if n % 3 == 0 {
                    faults.decide(Service::CodeCommit, "GetFolder");
                }
                faults.decide(Service::S3, "PutObject").fault.is_some()
            })
            .collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_calls_fail() {
        assert_eq!(run(7), run(7), "a seed repeats its run");
        assert_ne!(run(7), run(8), "another seed gives different faults");
        let share = run(7).iter().filter(|hit| **hit).count();
        assert!(
            (80..=160).contains(&share),
            "a rate of 0.3 strikes about 120 of 400 calls, not {share}"
        );
    }

    #[test]
    fn every_and_nth_count_only_calls_that_match() {
        let faults = Faults::new(1);
        faults.add("codecommit/GetBlob:error,every=2".parse().unwrap());
        faults.add("codecommit/GetBlob:drop,nth=3".parse().unwrap());
        faults.add("codecommit:latency,ms=5".parse().unwrap());
        let mut seen = Vec::new();
        for _ in 0..4 {
            assert_eq!(
                faults.decide(Service::CodeCommit, "GetFolder").fault,
                None,
                "another operation is left alone"
            );
            let decision = faults.decide(Service::CodeCommit, "GetBlob");
            assert_eq!(decision.latency, Duration::from_millis(5));
            seen.push(decision.fault);
        }
        assert_eq!(
            seen,
            [
                None,
                Some(Fault::Error),
                Some(Fault::Drop),
                Some(Fault::Error)
            ]
        );
        let hits: Vec<u64> = faults.rules().iter().map(|rule| rule.hits).collect();
        assert_eq!(hits, [2, 1, 8], "each rule counts the calls that it failed");
        assert!(faults.remove(1) && !faults.remove(1));
    }
}
