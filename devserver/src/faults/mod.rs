//! What goes wrong on purpose, and what was asked of the server.
//!
//! Every decision comes from one seed. It is drawn per rule and per call of that rule, not
//! from one stream that all services share: the k-th matching call meets the same fate in
//! every run with that seed, however calls to other services fall between.

mod requests;
mod rule;

pub use requests::{InFlight, RequestLine, RequestLog};
pub use rule::{Fault, Rule, Service, When};

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;

/// What is to happen to one call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FaultDecision {
    /// Wait so long before anything else.
    pub latency: Duration,
    /// Then do this, if anything.
    pub fault: Option<Fault>,
}

/// A rule with its number and what it has done so far.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct RuleState {
    /// Its number, which stays when others go.
    pub id: u64,
    /// The rule.
    #[serde(flatten)]
    pub rule: Rule,
    /// How many calls it matched.
    pub calls: u64,
    /// How many of them it made fail.
    pub hits: u64,
}

/// All rules in force.
#[derive(Debug)]
pub struct Faults {
    seed: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    rules: Vec<RuleState>,
}

impl Faults {
    /// No rules yet; decisions will come from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            state: Mutex::default(),
        }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Puts a rule in force; returns its number.
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

    /// Takes all rules out of force. Numbers start anew, so that the same rules added
    /// again repeat the same faults.
    pub fn clear(&self) {
        *self.state() = State::default();
    }

    /// Takes one rule out of force; whether it was there.
    pub fn remove(&self, id: u64) -> bool {
        let mut state = self.state();
        let before = state.rules.len();
        state.rules.retain(|rule| rule.id != id);
        state.rules.len() < before
    }

    /// The rules in force.
    pub fn rules(&self) -> Vec<RuleState> {
        self.state().rules.clone()
    }

    /// Decides about one call. Latencies add up; of the other faults the first that
    /// strikes wins, but every matching rule counts the call.
    pub fn decide(&self, service: Service, operation: &str) -> FaultDecision {
        let mut verdict = FaultDecision::default();
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
                    verdict.latency += Duration::from_millis(ms);
                }
                fault if verdict.fault.is_none() => {
                    state.hits += 1;
                    verdict.fault = Some(fault);
                }
                _ => {}
            }
        }
        verdict
    }

    /// A number in 0..1 that depends on the seed, the rule and the call alone.
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
        assert_ne!(run(7), run(8), "another seed is another run");
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
            let verdict = faults.decide(Service::CodeCommit, "GetBlob");
            assert_eq!(verdict.latency, Duration::from_millis(5));
            seen.push(verdict.fault);
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
        assert_eq!(hits, [2, 1, 8], "each rule tells how often it struck");
        assert!(faults.remove(1) && !faults.remove(1));
    }
}
