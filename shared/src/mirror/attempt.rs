//! Retry loop for work that re-reads its target on each attempt.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::MirrorResult;
use super::progress::RefProgress;
use crate::background;
use crate::error::Result;
use crate::remote::Remote;
use crate::retry::Backoff;

/// Maximum wait for the release of locks, which is less than the margin before a timeout.
const MAX_RELEASE: Duration = Duration::from_secs(10);

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
/// execution environment may freeze as soon as it has the result.
pub(super) async fn release(result: &MirrorResult) {
    if !result.stats.complete && !background::finished(MAX_RELEASE).await {
        tracing::warn!("locks or uploads of a cancelled push are not released yet");
    }
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
