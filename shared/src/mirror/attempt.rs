//! Retry loop for work that re-reads its target on each attempt.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::MirrorResult;
use super::progress::RefProgress;
use crate::background;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::Remote;
use crate::retry::Backoff;

/// Maximum wait for the release of locks and uploads after a deadline. It must be shorter than the
/// time that the caller has then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseLimit(pub Duration);

impl Default for ReleaseLimit {
    fn default() -> Self {
        Self(Duration::from_secs(10))
    }
}

/// Work that derives what remains from the target, so that it can be attempted again.
#[async_trait]
pub(super) trait Attempt: Send {
    /// The remote whose refs change.
    fn target(&self) -> &dyn Remote;

    /// Reads the target and does the remaining work.
    async fn attempt(&mut self, progress: &mut RefProgress) -> Result<()>;
}

/// Attempts `work` until it is done, fails permanently, or `deadline` has come. Attempts that
/// changed refs do not count against the limit of retries.
pub(super) async fn run_until_done(
    work: &mut dyn Attempt,
    deadline: Option<Instant>,
) -> MirrorResult {
    let mut progress = RefProgress::default();
    let mut attempts = 0;
    let error = loop {
        let before = progress.changes_made();
        let error = match before_deadline(deadline, work.attempt(&mut progress)).await {
            None => return progress.into_result(false, None),
            Some(Ok(())) => return progress.into_result(true, None),
            Some(Err(error)) => error,
        };
        attempts = if progress.changes_made() > before {
            1
        } else {
            attempts + 1
        };
        match Backoff::for_kind_with_conflict(error.kind()) {
            Some(backoff) if attempts < backoff.tries => {
                tracing::debug!(attempts, error = %error.report(), "attempting again");
                let wait = tokio::time::sleep(backoff.wait(attempts, rand::random()));
                if before_deadline(deadline, wait).await.is_none() {
                    return progress.into_result(false, None);
                }
            }
            Some(_) => break error.context(format!("failed {attempts} times in a row")),
            None => break error,
        }
    };
    // The last request may have taken effect although its report was lost.
    if progress.has_pending()
        && let Some(Ok(target)) = before_deadline(deadline, work.target().target()).await
    {
        progress.reconcile_pending(target.snapshot());
    }
    progress.into_result(false, Some(error))
}

/// Waits until the locks and uploads of an unfinished mirroring are released: the caller's
/// execution environment may freeze as soon as it has the result. A mirroring that still holds a
/// lock is not incomplete, but failed.
pub(super) async fn release(result: &mut MirrorResult, limit: ReleaseLimit) {
    if result.stats.complete || background::finished(limit.0).await {
        return;
    }
    let message = format!(
        "locks or uploads were not released within {} ms after the deadline",
        limit.0.as_millis()
    );
    if result.error.is_some() {
        tracing::warn!("{message}");
        return;
    }
    let hint = "repeat the run; a lock that stays is taken over after a minute. In a function, a \
                larger `DEADLINE_MARGIN_SECONDS` leaves more time";
    result.error = Some(Error::new(ErrorKind::Deadline, message).with_hint(hint));
}

/// Runs `work`; `None` if the deadline comes first.
pub(super) async fn before_deadline<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = T>,
) -> Option<T> {
    match deadline {
        None => Some(work.await),
        Some(deadline) => tokio::time::timeout_at(deadline, work).await.ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::MirrorStats;

    fn unfinished() -> MirrorResult {
        MirrorResult {
            stats: MirrorStats::default(),
            error: None,
        }
    }

    /// "`incomplete` means that the function ran out of time, and holds no lock."
    #[tokio::test(start_paused = true)]
    async fn a_mirroring_that_holds_a_lock_longer_than_its_limit_is_not_incomplete() {
        background::spawn(tokio::time::sleep(Duration::from_secs(2)));
        let mut result = unfinished();
        release(&mut result, ReleaseLimit(Duration::from_secs(1))).await;
        let error = result.error.expect("the lock is held");
        assert_eq!(error.kind(), ErrorKind::Deadline, "{}", error.report());
        let mut result = unfinished();
        release(&mut result, ReleaseLimit::default()).await;
        assert!(result.error.is_none(), "the lock is released");
    }
}
