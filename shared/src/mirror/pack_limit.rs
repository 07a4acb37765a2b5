//! Limits the bytes and the time that one pack may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, ErrorKind};
use crate::remote::PackBody;

/// Limits of one push; `None` means unlimited.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PushLimit {
    /// Maximum bytes of its pack.
    pub(super) max_bytes: Option<u64>,
    /// Deadline of the whole run; see [`PushLimit::max_time`].
    pub(super) deadline: Option<Instant>,
}

impl PushLimit {
    /// Returns true if nothing is limited.
    pub(super) fn is_unlimited(&self) -> bool {
        self.max_bytes.is_none() && self.deadline.is_none()
    }

    /// Returns the time that a pack fetched now may take: two fifths of the time left, because
    /// the target must still process it, and the rest of the push must follow if it did not
    /// fit.
    pub(super) fn max_time(&self) -> Option<Duration> {
        let left = self.deadline?.saturating_duration_since(Instant::now());
        Some(left * 2 / 5)
    }
}

/// Records whether a pack exceeded a limit, and how many of its bytes arrived.
#[derive(Debug, Clone, Default)]
pub(super) struct PackMeter(Arc<MeterState>);

#[derive(Debug, Default)]
struct MeterState {
    exceeded_limit: AtomicBool,
    exceeded_time: AtomicBool,
    is_complete: AtomicBool,
    completion: Notify,
    bytes: AtomicU64,
}

impl PackMeter {
    /// Returns true if the pack exceeded a limit, of bytes or time.
    pub(super) fn exceeded_limit(&self) -> bool {
        self.0.exceeded_limit.load(Ordering::Relaxed)
    }

    /// Returns true if the pack exceeded the time.
    pub(super) fn exceeded_time(&self) -> bool {
        self.0.exceeded_time.load(Ordering::Relaxed)
    }

    /// Bytes that arrived.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Returns true if the whole pack arrived.
    pub(super) fn is_complete(&self) -> bool {
        self.0.is_complete.load(Ordering::Relaxed)
    }

    /// Waits until the pack is complete. Only one task may wait.
    pub(super) async fn completed(&self) {
        while !self.is_complete() {
            self.0.completion.notified().await;
        }
    }

    fn set_complete(&self) {
        self.0.is_complete.store(true, Ordering::Relaxed);
        self.0.completion.notify_one();
    }

    /// Records that the pack exceeded the time.
    pub(super) fn set_exceeded_time(&self) {
        self.0.exceeded_time.store(true, Ordering::Relaxed);
        self.0.exceeded_limit.store(true, Ordering::Relaxed);
    }

    fn limit_error(&self, why: &str) -> Error {
        self.0.exceeded_limit.store(true, Ordering::Relaxed);
        let message = format!("a pack {why}");
        Error::new(ErrorKind::FileTooLarge, message)
    }
}

/// Wraps a pack stream so that it fails as soon as a limit is exceeded. The clock starts at the
/// first poll, because the time that the target spends before is not due to the pack's size.
pub(super) fn limited(
    body: PackBody,
    max_bytes: Option<u64>,
    max_time: Option<Duration>,
) -> (PackBody, PackMeter) {
    let meter = PackMeter::default();
    let state = Some((body, meter.clone(), None));
    let body = stream::unfold(state, move |state| async move {
        let (mut body, meter, until) = state?;
        let until = until.or_else(|| Some(Instant::now() + max_time?));
        let next = match until {
            None => Some(body.next().await),
            // Checked here too, because a timeout does not fire while chunks are always ready.
            Some(until) if Instant::now() >= until => None,
            Some(until) => timeout_at(until, body.next()).await.ok(),
        };
        let Some(next) = next else {
            meter.set_exceeded_time();
            return Some((Err(meter.limit_error("takes too long").into()), None));
        };
        let chunk = match next {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return Some((Err(error), None)),
            None => {
                meter.set_complete();
                return None;
            }
        };
        let arrived = chunk.len() as u64;
        let before = meter.0.bytes.fetch_add(arrived, Ordering::Relaxed);
        if max_bytes.is_some_and(|max_bytes| before + arrived > max_bytes) {
            return Some((Err(meter.limit_error("has too many bytes").into()), None));
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
    async fn a_pack_fails_at_the_first_chunk_beyond_the_limit() {
        for (chunks, exceeds) in [(3, false), (4, true)] {
            let (body, meter) = limited(pack(chunks), Some(39), None);
            let passed: Vec<_> = body.collect().await;
            assert_eq!(passed.iter().any(Result::is_err), exceeds);
            assert_eq!(
                (meter.exceeded_limit(), meter.bytes()),
                (exceeds, chunks as u64 * 10)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pack_that_is_read_too_slowly_fails_at_its_time_limit() {
        let time = Duration::from_secs(7);
        let (mut body, meter) = limited(pack(100), None, Some(time));
        // Time before the first poll does not count.
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
    async fn a_pack_that_stalls_fails_at_its_time_limit() {
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
