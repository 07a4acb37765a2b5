//! Work that looks at everything anew each time that it is tried.

use async_trait::async_trait;
use tokio::time::Instant;

use super::MirrorResult;
use super::progress::RefProgress;
use crate::error::Result;
use crate::remote::Remote;
use crate::retry::Backoff;

/// What reads off its target what is still to be done.
#[async_trait]
pub(super) trait Attempt: Send {
    /// Where refs are changed.
    fn target(&self) -> &dyn Remote;

    /// Looks, and does what is to be done.
    async fn attempt(&mut self, tally: &mut RefProgress) -> Result<()>;
}

/// Tries until it is done, cannot be helped, or `deadline` has come. Tries that have
/// brought it forward were not in vain, and do not count.
pub(super) async fn run_until_done(
    work: &mut dyn Attempt,
    deadline: Option<Instant>,
) -> MirrorResult {
    let mut tally = RefProgress::default();
    let mut tries = 0;
    let error = loop {
        let before = tally.changes_made();
        let error = match sleep_until_or_forever(deadline, work.attempt(&mut tally)).await {
            None => return tally.into_result(false, None),
            Some(Ok(())) => return tally.into_result(true, None),
            Some(Err(error)) => error,
        };
        tries = if tally.changes_made() > before {
            1
        } else {
            tries + 1
        };
        match Backoff::for_kind_with_conflict(error.kind()) {
            Some(backoff) if tries < backoff.tries => {
                tracing::debug!(tries, error = %error.report(), "looking at both sides again");
                let wait = tokio::time::sleep(backoff.wait(tries, rand::random()));
                if sleep_until_or_forever(deadline, wait).await.is_none() {
                    return tally.into_result(false, None);
                }
            }
            Some(_) => break error.context(format!("gave up after {tries} tries")),
            None => break error,
        }
    };
    // What was asked for last may have been done all the same.
    if tally.is_open()
        && let Some(Ok(target)) = sleep_until_or_forever(deadline, work.target().target()).await
    {
        tally.reconcile_pending(target.snapshot());
    }
    tally.into_result(false, Some(error))
}

/// Waits for `work`; `None` when the deadline came first.
async fn sleep_until_or_forever<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = T>,
) -> Option<T> {
    match deadline {
        None => Some(work.await),
        Some(deadline) => tokio::time::timeout_at(deadline, work).await.ok(),
    }
}
