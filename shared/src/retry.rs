//! What is tried again, when, and how many requests may be in flight meanwhile.
//!
//! The decision is made here, by [`ErrorKind`], for all services alike; nothing above
//! retries by itself, and the SDK's own retries are switched off.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::{ErrorKind, Result};

/// How often a call is tried and how long it waits in between.
///
/// The wait before try `n + 1` is drawn evenly from zero to `base * 2^n`, at most `cap`
/// ("full jitter"), so that callers throttled together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Tries in all, the first one included.
    pub tries: u32,
    /// The longest wait after the first try.
    pub base: Duration,
    /// The longest wait after any try.
    pub cap: Duration,
}

impl Backoff {
    /// For a service that asks for fewer requests: patient, since it will serve us once
    /// we are slow enough.
    pub const THROTTLED: Self = Self {
        tries: 12,
        base: Duration::from_millis(100),
        cap: Duration::from_secs(5),
    };
    /// For requests that got lost and for failures of the service (5xx).
    pub const TRANSPORT: Self = Self {
        tries: 5,
        base: Duration::from_millis(50),
        cap: Duration::from_secs(2),
    };

    /// The policy for a kind of failure; `None` where trying again cannot help.
    pub fn for_kind(kind: ErrorKind) -> Option<Self> {
        match kind {
            ErrorKind::Throttled => Some(Self::THROTTLED),
            ErrorKind::Transport => Some(Self::TRANSPORT),
            _ => None,
        }
    }

    /// The policy for work that looks at everything anew each time: there a conflict is
    /// worth another look, too.
    pub fn for_kind_with_conflict(kind: ErrorKind) -> Option<Self> {
        match kind {
            ErrorKind::Conflict => Some(Self::TRANSPORT),
            _ => Self::for_kind(kind),
        }
    }

    /// The wait after `tries` failed tries; `share` lies in `0.0..1.0`.
    pub fn wait(&self, tries: u32, share: f64) -> Duration {
        let doubled = self
            .base
            .saturating_mul(1_u32 << tries.saturating_sub(1).min(16));
        doubled.min(self.cap).mul_f64(share)
    }
}

/// A limit on requests in flight that falls when the service throttles and recovers
/// when it does not: additive increase, multiplicative decrease.
///
/// Requests are let in strictly in the order in which they asked.
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
    // Counts decreases, so that one burst of refusals lowers the limit once.
    generation: u64,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// The right to have one request in flight; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<Limiter>,
    generation: u64,
    released: AtomicBool,
}

impl Limiter {
    /// A limiter that starts at, and never exceeds, `max` (at least 1).
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

    /// Waits for a place in flight.
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

    /// How many requests may be in flight now.
    pub fn limit(&self) -> usize {
        self.lock().limit_as_usize()
    }

    /// How many requests were made, and how many of them were throttled.
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

    /// Lets in as many as there is room for.
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
            // Nobody waits any more: the permit comes back in the error, and its drop
            // lets the next one in.
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
    /// Gives the place back before the call is over: the service has answered, and only
    /// the reading of the answer is delayed by us.
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

/// Runs calls under a [`Limiter`], and again as [`Backoff::for_kind`] says.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    limiter: Arc<Limiter>,
}

impl RetryPolicy {
    /// A pace with at most `max` requests in flight.
    pub fn new(max: usize) -> Self {
        Self {
            limiter: Limiter::new(max),
        }
    }

    /// The limiter, to look at.
    pub fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// Runs `call` until it succeeds, cannot be helped, or its tries are used up.
    pub async fn run<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.run_with_permit(|_permit| call()).await
    }

    /// Runs `call` under the limit, once: for a write whose caller must look again before
    /// it may be repeated.
    pub async fn run_once<T, F>(&self, call: impl FnOnce() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.once(|_permit| call()).await
    }

    /// As [`run`](Self::run), for a call that may give its place back early.
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
                        "trying again"
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

/// A service whose calls run under a [`RetryPolicy`].
///
/// Implements the same trait as the service it wraps.
#[derive(Debug, Clone)]
pub struct Retrying<T> {
    pub(crate) inner: T,
    pub(crate) pace: RetryPolicy,
}

impl<T> Retrying<T> {
    /// Wraps `inner`.
    pub fn new(inner: T, pace: RetryPolicy) -> Self {
        Self { inner, pace }
    }

    /// The pace, to look at.
    pub fn pace(&self) -> &RetryPolicy {
        &self.pace
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
    async fn a_throttled_call_is_tried_again_until_it_succeeds() {
        let pace = RetryPolicy::new(4);
        let tries = AtomicUsize::new(0);
        let value = pace
            .run(|| async {
                match tries.fetch_add(1, Ordering::SeqCst) {
                    0..3 => Err(throttled()),
                    n => Ok(n),
                }
            })
            .await
            .expect("the fourth try succeeds");
        assert_eq!(value, 3);
        assert_eq!(pace.limiter().request_and_throttle_counts(), (4, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_helped_is_tried_once() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::AccessDenied,
            ErrorKind::Conflict,
        ] {
            let pace = RetryPolicy::new(4);
            let result: Result<()> = pace.run(|| async { Err(Error::new(kind, "no")) }).await;
            assert_eq!(result.expect_err("it never succeeds").kind(), kind);
            assert_eq!(pace.limiter().request_and_throttle_counts().0, 1);
        }
    }

    #[tokio::test]
    async fn a_call_that_is_made_once_counts_and_lowers_the_limit_as_others_do() {
        let pace = RetryPolicy::new(4);
        let result: Result<()> = pace.run_once(|| async { Err(throttled()) }).await;
        assert_eq!(
            result.expect_err("it was throttled").to_string(),
            "slow down"
        );
        assert_eq!(pace.limiter().request_and_throttle_counts(), (1, 1));
        assert_eq!(pace.limiter().limit(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_succeeds_ends_with_its_own_kind() {
        let pace = RetryPolicy::new(1);
        let result: Result<()> = pace.run(|| async { Err(throttled()) }).await;
        let error = result.expect_err("it never succeeds");
        assert_eq!(error.kind(), ErrorKind::Throttled);
        assert_eq!(error.to_string(), "gave up after 12 tries: slow down");
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_falls_under_throttling_and_recovers() {
        // A service that serves five at once and refuses the sixth.
        let pace = RetryPolicy::new(32);
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
        let calls = (0..400).map(|_| pace.run(call));
        for result in futures_util::future::join_all(calls).await {
            result.expect("every call succeeds in the end");
        }
        let (calls, throttles) = pace.limiter().request_and_throttle_counts();
        assert!(
            throttles > 0 && calls < 1000,
            "{calls} calls, {throttles} throttled"
        );
        assert!(pace.limiter().limit() < 16, "the limit came down");

        for _ in 0..2000 {
            pace.run(|| async { Ok(()) })
                .await
                .expect("nothing refuses");
        }
        assert_eq!(pace.limiter().limit(), 32, "the limit came back");
    }

    #[tokio::test]
    async fn places_are_given_in_the_order_of_asking_and_survive_cancelled_waiters() {
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
