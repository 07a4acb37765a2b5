//! Retries of failed requests, and the limit on requests in flight.
//!
//! Whether to retry is decided here, by [`ErrorKind`], for all services; the layers above do
//! not retry single requests, and the SDK's own retries are switched off.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::{ErrorKind, Result};

/// Number of tries of a call, and the waits between them.
///
/// The wait after try `n` is drawn evenly from zero to `base * 2^(n - 1)`, at most `cap`
/// ("full jitter"), so that callers throttled together do not retry together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Maximum number of tries, including the first one.
    pub tries: u32,
    /// Longest wait after the first try.
    pub base: Duration,
    /// Longest wait after any try.
    pub cap: Duration,
}

impl Backoff {
    /// Backoff for throttled requests; long, because the service answers once requests are
    /// slow enough.
    pub const THROTTLED: Self = Self {
        tries: 12,
        base: Duration::from_millis(100),
        cap: Duration::from_secs(5),
    };
    /// Backoff for lost requests and for failures of the service (5xx).
    pub const TRANSPORT: Self = Self {
        tries: 5,
        base: Duration::from_millis(50),
        cap: Duration::from_secs(2),
    };

    /// Returns the backoff for a kind of failure; `None` where a retry cannot succeed.
    pub fn for_kind(kind: ErrorKind) -> Option<Self> {
        match kind {
            ErrorKind::Throttled => Some(Self::THROTTLED),
            ErrorKind::Transport => Some(Self::TRANSPORT),
            _ => None,
        }
    }

    /// Returns the backoff for work that re-reads its state in each try: conflicts are
    /// retried too.
    pub fn for_kind_with_conflict(kind: ErrorKind) -> Option<Self> {
        match kind {
            ErrorKind::Conflict => Some(Self::TRANSPORT),
            _ => Self::for_kind(kind),
        }
    }

    /// Returns the wait after `tries` failed tries; `share`, in `0.0..1.0`, is the random
    /// part of the longest wait.
    pub fn wait(&self, tries: u32, share: f64) -> Duration {
        let doubled = self
            .base
            .saturating_mul(1_u32 << tries.saturating_sub(1).min(16));
        doubled.min(self.cap).mul_f64(share)
    }
}

/// Limit on requests in flight: additive increase, and multiplicative decrease when the
/// service throttles.
///
/// Requests are admitted in the order of their calls of [`acquire`](Self::acquire).
#[derive(Debug)]
pub struct Limiter {
    max: usize,
    state: Mutex<LimiterState>,
    calls: AtomicU64,
    throttles: AtomicU64,
}

#[derive(Debug)]
struct LimiterState {
    limit: f64,
    in_flight: usize,
    // Number of decreases, so that one burst of throttled requests lowers the limit once.
    generation: u64,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// Right to have one request in flight; released when dropped.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<Limiter>,
    generation: u64,
    released: AtomicBool,
}

impl Limiter {
    /// Makes a limiter that starts at `max` (at least 1) and never exceeds it.
    pub fn new(max: usize) -> Arc<Self> {
        let max = max.max(1);
        Arc::new(Self {
            max,
            state: Mutex::new(LimiterState {
                #[expect(clippy::cast_precision_loss, reason = "limits are small")]
                limit: max as f64,
                in_flight: 0,
                generation: 0,
                waiting: VecDeque::new(),
            }),
            calls: AtomicU64::new(0),
            throttles: AtomicU64::new(0),
        })
    }

    /// Waits until one more request may be in flight.
    pub async fn acquire(self: &Arc<Self>) -> Permit {
        let receiver = {
            let mut state = self.lock();
            if state.waiting.is_empty() && state.has_room() {
                state.in_flight += 1;
                return self.permit(state.generation);
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back(sender);
            receiver
        };
        receiver
            .await
            .expect("because a sender leaves the queue only by sending")
    }

    /// Returns the current limit on requests in flight.
    pub fn limit(&self) -> usize {
        self.lock().limit_as_usize()
    }

    /// Returns the number of requests made, and the number of throttled ones among them.
    pub fn request_and_throttle_counts(&self) -> (u64, u64) {
        (
            self.calls.load(Ordering::Relaxed),
            self.throttles.load(Ordering::Relaxed),
        )
    }

    fn permit(self: &Arc<Self>, generation: u64) -> Permit {
        Permit {
            limiter: Arc::clone(self),
            generation,
            released: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, LimiterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits waiting requests up to the limit.
    fn admit(self: &Arc<Self>) {
        loop {
            let (sender, generation) = {
                let mut state = self.lock();
                if !state.has_room() {
                    return;
                }
                let Some(sender) = state.waiting.pop_front() else {
                    return;
                };
                state.in_flight += 1;
                (sender, state.generation)
            };
            // When the receiver was dropped, the permit is returned in the error, and its
            // drop admits the next request.
            drop(sender.send(self.permit(generation)));
        }
    }
}

impl LimiterState {
    fn limit_as_usize(&self) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "1.0 <= limit <= max"
        )]
        let whole = self.limit as usize;
        whole.max(1)
    }

    fn has_room(&self) -> bool {
        self.in_flight < self.limit_as_usize()
    }
}

impl Permit {
    /// Releases the permit before the call has ended: for a caller that has an answer and
    /// delays reading its body.
    pub fn release(&self) {
        if !self.released.swap(true, Ordering::AcqRel) {
            self.limiter.lock().in_flight -= 1;
            self.limiter.admit();
        }
    }

    fn succeeded(&self) {
        {
            let mut state = self.limiter.lock();
            #[expect(clippy::cast_precision_loss, reason = "limits are small")]
            let max = self.limiter.max as f64;
            state.limit = (state.limit + 1.0 / state.limit).min(max);
        }
        self.limiter.admit();
    }

    fn throttled(&self) {
        self.limiter.throttles.fetch_add(1, Ordering::Relaxed);
        let mut state = self.limiter.lock();
        if self.generation == state.generation {
            state.generation += 1;
            state.limit = (state.limit / 2.0).max(1.0);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release();
    }
}

/// Runs calls under a [`Limiter`], and retries them by [`Backoff::for_kind`].
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    limiter: Arc<Limiter>,
}

impl RetryPolicy {
    /// Makes a policy with at most `max` requests in flight.
    pub fn new(max: usize) -> Self {
        Self {
            limiter: Limiter::new(max),
        }
    }

    /// Returns the limiter, whose counts are reported as metrics.
    pub fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// Runs `call` until it succeeds, fails in a way that a retry cannot mend, or has no
    /// tries left.
    pub async fn run<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.run_with_permit(|_permit| call()).await
    }

    /// Runs `call` once under the limit, for a write whose caller must re-read the state
    /// before a retry.
    pub async fn run_once<T, F>(&self, call: impl FnOnce() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.once(|_permit| call()).await
    }

    /// Like [`run`](Self::run), for a call that may release its permit early.
    pub async fn run_with_permit<T, F>(&self, mut call: impl FnMut(Arc<Permit>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut tries = 0;
        loop {
            let error = match self.once(&mut call).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            tries += 1;
            match Backoff::for_kind(error.kind()) {
                Some(backoff) if tries < backoff.tries => {
                    let wait = backoff.wait(tries, rand::random());
                    tracing::debug!(
                        tries,
                        wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                        error = %error,
                        "retrying"
                    );
                    tokio::time::sleep(wait).await;
                }
                Some(_) => return Err(error.context(format!("gave up after {tries} tries"))),
                None => return Err(error),
            }
        }
    }

    async fn once<T, F>(&self, call: impl FnOnce(Arc<Permit>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let permit = Arc::new(self.limiter.acquire().await);
        self.limiter.calls.fetch_add(1, Ordering::Relaxed);
        let result = call(Arc::clone(&permit)).await;
        match &result {
            Ok(_) => permit.succeeded(),
            Err(error) if error.kind() == ErrorKind::Throttled => permit.throttled(),
            Err(_) => {}
        }
        result
    }
}

/// Service whose calls run under a [`RetryPolicy`]. Implements the trait of the wrapped
/// service.
#[derive(Debug, Clone)]
pub struct Retrying<T> {
    pub(crate) inner: T,
    pub(crate) policy: RetryPolicy,
}

impl<T> Retrying<T> {
    /// Wraps `inner`.
    pub fn new(inner: T, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }

    /// Returns the policy, whose limiter reports counts.
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::error::Error;

    fn throttled() -> Error {
        Error::new(ErrorKind::Throttled, "slow down")
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_call_is_retried_until_it_succeeds() {
        let policy = RetryPolicy::new(4);
        let tries = AtomicUsize::new(0);
        let value = policy
            .run(|| async {
                match tries.fetch_add(1, Ordering::SeqCst) {
                    0..3 => Err(throttled()),
                    n => Ok(n),
                }
            })
            .await
            .expect("the fourth try succeeds");
        assert_eq!(value, 3);
        assert_eq!(policy.limiter().request_and_throttle_counts(), (4, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_of_another_kind_is_not_retried() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::AccessDenied,
            ErrorKind::Conflict,
        ] {
            let policy = RetryPolicy::new(4);
            let result: Result<()> = policy.run(|| async { Err(Error::new(kind, "no")) }).await;
            assert_eq!(result.expect_err("it never succeeds").kind(), kind);
            assert_eq!(policy.limiter().request_and_throttle_counts().0, 1);
        }
    }

    #[tokio::test]
    async fn a_throttled_call_of_run_once_is_counted_and_lowers_the_limit() {
        let policy = RetryPolicy::new(4);
        let result: Result<()> = policy.run_once(|| async { Err(throttled()) }).await;
        assert_eq!(
            result.expect_err("it was throttled").to_string(),
            "slow down"
        );
        assert_eq!(policy.limiter().request_and_throttle_counts(), (1, 1));
        assert_eq!(policy.limiter().limit(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_after_the_last_try_keeps_its_kind() {
        let policy = RetryPolicy::new(1);
        let result: Result<()> = policy.run(|| async { Err(throttled()) }).await;
        let error = result.expect_err("it never succeeds");
        assert_eq!(error.kind(), ErrorKind::Throttled);
        assert_eq!(error.to_string(), "gave up after 12 tries: slow down");
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_falls_under_throttling_and_recovers() {
        // A service that throttles the sixth concurrent call.
        let policy = RetryPolicy::new(32);
        let busy = Arc::new(AtomicUsize::new(0));
        let call = || {
            let busy = Arc::clone(&busy);
            async move {
                let now = busy.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
                busy.fetch_sub(1, Ordering::SeqCst);
                if now > 5 { Err(throttled()) } else { Ok(()) }
            }
        };
        let calls = (0..400).map(|_| policy.run(call));
        for result in futures_util::future::join_all(calls).await {
            result.expect("every call succeeds in the end");
        }
        let (calls, throttles) = policy.limiter().request_and_throttle_counts();
        assert!(
            throttles > 0 && calls < 1000,
            "{calls} calls, {throttles} throttled"
        );
        assert!(policy.limiter().limit() < 16, "the limit fell");

        for _ in 0..2000 {
            policy
                .run(|| async { Ok(()) })
                .await
                .expect("nothing refuses");
        }
        assert_eq!(policy.limiter().limit(), 32, "the limit recovered");
    }

    #[tokio::test]
    async fn permits_are_granted_in_order_after_a_waiter_was_cancelled() {
        let limiter = Limiter::new(1);
        let first = limiter.acquire().await;
        let mut second = Box::pin(limiter.acquire());
        let mut third = Box::pin(limiter.acquire());
        assert!(futures_util::poll!(&mut second).is_pending());
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(second);
        drop(first);
        let third = third.await;
        assert_eq!(limiter.limit(), 1);
        third.release();
        drop(third);
        let _fourth = limiter.acquire().await;
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let waits: Vec<_> = (1..=8)
            .map(|tries| Backoff::THROTTLED.wait(tries, 1.0).as_millis())
            .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }
}
