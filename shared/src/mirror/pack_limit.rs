//! A pack that may not have more than so many bytes, nor take longer than so long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, ErrorKind};
use crate::remote::PackBody;

/// What one push may come to; whatever it takes where both are `None`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PushLimit {
    /// The most bytes of its pack.
    pub(super) bytes: Option<u64>,
    /// When the whole run ends: see [`PushLimit::time`].
    pub(super) deadline: Option<Instant>,
}

impl PushLimit {
    /// Whether it is whatever it takes.
    pub(super) fn is_unlimited(&self) -> bool {
        self.bytes.is_none() && self.deadline.is_none()
    }

    /// How long what begins now may take: two fifths of the time that is left, since it is
    /// still to be worked on then, and so is what did not fit.
    pub(super) fn time(&self) -> Option<Duration> {
        let left = self.deadline?.saturating_duration_since(Instant::now());
        Some(left * 2 / 5)
    }
}

/// Tells whether a pack was too much, and how much of it came.
#[derive(Debug, Clone, Default)]
pub(super) struct PackMeter(Arc<MeterState>);

#[derive(Debug, Default)]
struct MeterState {
    is_over: AtomicBool,
    is_slow: AtomicBool,
    has_passed: AtomicBool,
    passing: Notify,
    bytes: AtomicU64,
}

impl PackMeter {
    /// Whether it was too much.
    pub(super) fn exceeded_limit(&self) -> bool {
        self.0.is_over.load(Ordering::Relaxed)
    }

    /// Whether it took too long.
    pub(super) fn exceeded_time(&self) -> bool {
        self.0.is_slow.load(Ordering::Relaxed)
    }

    /// The bytes that came.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Whether all of it came.
    pub(super) fn is_complete(&self) -> bool {
        self.0.has_passed.load(Ordering::Relaxed)
    }

    /// Waits until all of it has come. For one who waits.
    pub(super) async fn completed(&self) {
        while !self.is_complete() {
            self.0.passing.notified().await;
        }
    }

    fn pass(&self) {
        self.0.has_passed.store(true, Ordering::Relaxed);
        self.0.passing.notify_one();
    }

    /// Notes that it took too long.
    pub(super) fn late(&self) {
        self.0.is_slow.store(true, Ordering::Relaxed);
        self.0.is_over.store(true, Ordering::Relaxed);
    }

    fn raise(&self, why: &str) -> Error {
        self.0.is_over.store(true, Ordering::Relaxed);
        let message = format!("a batch {why}");
        Error::new(ErrorKind::FileTooLarge, message)
    }
}

/// A pack that fails on its way as soon as it is too much, so that nobody takes it in. Its
/// time begins when it is first asked for: what a target does before is no fault of its size.
pub(super) fn limited(
    body: PackBody,
    bytes: Option<u64>,
    time: Option<Duration>,
) -> (PackBody, PackMeter) {
    let meter = PackMeter::default();
    let state = Some((body, meter.clone(), None));
    let body = stream::unfold(state, move |state| async move {
        let (mut body, meter, until) = state?;
        let until = until.or_else(|| Some(Instant::now() + time?));
        let next = match until {
            None => Some(body.next().await),
            // A pack that is there faster than it is taken never lets a timeout look.
            Some(until) if Instant::now() >= until => None,
            Some(until) => timeout_at(until, body.next()).await.ok(),
        };
        let Some(next) = next else {
            meter.late();
            return Some((Err(meter.raise("takes too long").into()), None));
        };
        let chunk = match next {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return Some((Err(error), None)),
            None => {
                meter.pass();
                return None;
            }
        };
        let came = chunk.len() as u64;
        let before = meter.0.bytes.fetch_add(came, Ordering::Relaxed);
        if bytes.is_some_and(|most| before + came > most) {
            return Some((Err(meter.raise("has too many bytes").into()), None));
        }
        Some((Ok(chunk), Some((body, meter, until))))
    });
    (body.boxed(), meter)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn pack(chunks: usize) -> PackBody {
        let chunks = (0..chunks).map(|_| Ok(Bytes::from_static(b"ten bytes.")));
        stream::iter(chunks).boxed()
    }

    #[tokio::test]
    async fn a_pack_of_the_most_bytes_passes_and_one_more_fails() {
        for (chunks, over) in [(3, false), (4, true)] {
            let (body, meter) = limited(pack(chunks), Some(39), None);
            let passed: Vec<_> = body.collect().await;
            assert_eq!(passed.iter().any(Result::is_err), over);
            assert_eq!(
                (meter.exceeded_limit(), meter.bytes()),
                (over, chunks as u64 * 10)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pack_that_is_taken_too_slowly_fails_when_its_time_is_over() {
        let time = Duration::from_secs(7);
        let (mut body, meter) = limited(pack(100), None, Some(time));
        // The target does something else before.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let mut taken = 0;
        while let Some(Ok(_)) = body.next().await {
            taken += 1;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        assert!(meter.exceeded_limit() && meter.exceeded_time());
        assert_eq!(taken, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pack_that_stalls_fails_when_its_time_is_over() {
        let begin = Instant::now();
        let stalled = pack(1).chain(stream::pending()).boxed();
        let (body, meter) = limited(stalled, None, Some(Duration::from_secs(7)));
        let passed: Vec<_> = body.collect().await;
        assert_eq!((passed.len(), passed[1].is_err()), (2, true));
        assert!(meter.exceeded_limit() && meter.exceeded_time());
        assert_eq!(meter.bytes(), 10);
        assert_eq!(begin.elapsed(), Duration::from_secs(7));
    }
}
