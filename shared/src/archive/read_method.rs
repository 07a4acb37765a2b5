//! Choice between the two ways to read a whole commit: a request for each folder and each file,
//! or one shallow fetch by git.
//!
//! The API needs about `requests / concurrency` rounds of its latency; git needs three requests
//! and the time in which the service packs the commit, whatever its size. So few files are read
//! by the API, and many by git. Both latencies are measured by the archives of the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::name::RepositoryName;
use crate::retry::Limiter;

/// Time of a fetch by git in rounds of the API, until both are measured.
const ASSUMED_ROUNDS: f64 = 4.0;

/// Limits of the measured rounds, so that one slow answer does not decide everything.
const MIN_ROUNDS: f64 = 2.0;
const MAX_ROUNDS: f64 = 32.0;

/// Share of the newest measurement in the mean.
const NEWEST_SHARE: f64 = 0.25;

/// Time after which git is tried again for a repository for which it failed, because permissions
/// or the network may have changed.
const FAILURE_LASTS: Duration = Duration::from_mins(15);

/// Maximum number of repositories whose failure is remembered.
const MAX_FAILURES: usize = 10_000;

/// Way to read a commit that is archived in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadMethod {
    /// `auto`: by git where the API would need many requests, or more time.
    #[default]
    Auto,
    /// `api`: a request for each folder and each file; git only for files that the API refuses.
    Api,
    /// `git`: one shallow fetch.
    Git,
}

impl ReadMethod {
    /// Parses `auto`, `api` or `git`.
    ///
    /// # Errors
    /// `Config` for any other text.
    pub fn new(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "api" => Ok(Self::Api),
            "git" => Ok(Self::Git),
            other => Err(Error::new(
                ErrorKind::Config,
                format!("`{}` is not `auto`, `api` or `git`", other.escape_debug()),
            )),
        }
    }
}

/// Measured times of both ways, and the repositories for which git failed; shared by all archives
/// of a process.
#[derive(Debug, Default)]
pub struct ReadCosts {
    limiter: Option<Arc<Limiter>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Mean time of a request to the API, in seconds.
    api: Option<f64>,
    /// Mean time until a pack begins to arrive, in seconds.
    git: Option<f64>,
    /// Time of the last failure of git.
    failures: HashMap<RepositoryName, Instant>,
}

impl ReadCosts {
    /// Makes costs without measurements. `limiter` is that of the requests to the API: while
    /// the service throttles them, fewer are worth their time.
    pub fn new(limiter: Arc<Limiter>) -> Self {
        Self {
            limiter: Some(limiter),
            state: Mutex::default(),
        }
    }

    /// Returns the number of requests, `concurrency` of them at once, from which on a fetch by
    /// git is faster.
    pub(super) fn max_api_requests(&self, concurrency: usize) -> u64 {
        let limit = self
            .limiter
            .as_ref()
            .map_or(concurrency, |limiter| concurrency.min(limiter.limit()));
        let rounds = {
            let state = self.lock();
            match (state.git, state.api) {
                (Some(git), Some(api)) if api > 0.0 => git / api,
                _ => ASSUMED_ROUNDS,
            }
        };
        let rounds = rounds.clamp(MIN_ROUNDS, MAX_ROUNDS);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "the product of two small positive numbers"
        )]
        let requests = (limit as f64 * rounds) as u64;
        requests
    }

    /// Returns whether a commit of `files` files is fetched by git where the choice is free,
    /// rather than read by the API with `concurrency` requests at once.
    pub fn prefers_git(&self, files: u64, concurrency: usize) -> bool {
        files > self.max_api_requests(concurrency)
    }

    /// Records the time of one request to the API.
    pub(super) fn record_api(&self, took: Duration) {
        add(&mut self.lock().api, took);
    }

    /// Records the time until a pack began to arrive.
    pub(super) fn record_git(&self, took: Duration) {
        add(&mut self.lock().git, took);
    }

    /// Returns whether git failed for `repository` a short time ago.
    pub(super) fn has_failed(&self, repository: &RepositoryName) -> bool {
        let mut state = self.lock();
        let is_recent = |at: &Instant| at.elapsed() < FAILURE_LASTS;
        if state.failures.get(repository).is_some_and(is_recent) {
            return true;
        }
        state.failures.remove(repository);
        false
    }

    /// Remembers that git failed for `repository`.
    pub(super) fn record_failure(&self, repository: &RepositoryName) {
        let mut state = self.lock();
        if state.failures.len() >= MAX_FAILURES {
            state.failures.clear();
        }
        state.failures.insert(repository.clone(), Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(mean: &mut Option<f64>, took: Duration) {
    let newest = took.as_secs_f64();
    *mean = Some(match *mean {
        None => newest,
        Some(mean) => mean + (newest - mean) * NEWEST_SHARE,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> RepositoryName {
        RepositoryName::new("r").expect("it is valid")
    }

    #[test]
    fn slow_requests_make_git_worth_its_time_earlier_and_a_slow_git_later() {
        let costs = ReadCosts::default();
        assert_eq!(costs.max_api_requests(32), 128, "nothing is measured");
        costs.record_api(Duration::from_millis(10));
        assert_eq!(costs.max_api_requests(32), 128, "git is not measured");
        costs.record_git(Duration::from_millis(80));
        assert_eq!(costs.max_api_requests(32), 256);
        for _ in 0..100 {
            costs.record_api(Duration::from_secs(1));
        }
        assert_eq!(costs.max_api_requests(32), 64, "at least two rounds");
        for _ in 0..100 {
            costs.record_git(Duration::from_secs(500));
        }
        assert_eq!(costs.max_api_requests(32), 1024, "at most 32 rounds");
        assert_eq!(costs.max_api_requests(1), 32);
    }

    #[tokio::test]
    async fn throttled_requests_make_git_worth_its_time_earlier() {
        let policy = crate::retry::RetryPolicy::new(32);
        let costs = ReadCosts::new(Arc::clone(policy.limiter()));
        assert_eq!(costs.max_api_requests(32), 128);
        let throttled: Result<()> = policy
            .run_once(|| async { Err(Error::new(ErrorKind::Throttled, "too many requests")) })
            .await;
        assert!(throttled.is_err());
        assert_eq!(costs.max_api_requests(32), 64);
    }

    #[test]
    fn a_failure_is_remembered_for_its_repository() {
        let costs = ReadCosts::default();
        assert!(!costs.has_failed(&repository()));
        costs.record_failure(&repository());
        assert!(costs.has_failed(&repository()));
        let other = RepositoryName::new("other").expect("it is valid");
        assert!(!costs.has_failed(&other));
    }

    #[test]
    fn another_method_is_refused_and_named() {
        assert_eq!(ReadMethod::new("git").ok(), Some(ReadMethod::Git));
        let error = ReadMethod::new("GIT").expect_err("it is not valid");
        assert_eq!(error.to_string(), "`GIT` is not `auto`, `api` or `git`");
    }
}
