//! Tasks that finish the work of a cancelled caller: releases of locks, aborts of uploads,
//! deletions of temporary objects.
//!
//! A program that answers or ends after a cancellation waits for them first, because Lambda
//! freezes an execution environment right after the answer.

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// Tasks of this process that have not ended.
static RUNNING: LazyLock<TaskTracker> = LazyLock::new(|| {
    let tracker = TaskTracker::new();
    // `wait` returns only for a closed tracker, which accepts tasks nevertheless.
    tracker.close();
    tracker
});

/// Runs `task` even if the caller is cancelled. Without a runtime, nothing is run.
pub fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        RUNNING.spawn_on(task.in_current_span(), &runtime);
    }
}

/// Runs `task` to its end, also if this future is dropped, and waits for the end.
pub async fn complete(task: impl Future<Output = ()> + Send + 'static) {
    // A panic of the task was printed, and there is nothing to return.
    let _ = RUNNING.spawn(task.in_current_span()).await;
}

/// Waits until all tasks have ended, for at most `limit`; returns true if they have.
pub async fn finished(limit: Duration) -> bool {
    tokio::time::timeout(limit, RUNNING.wait()).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_of_a_dropped_caller_is_finished() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let caller = complete(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let _ = sender.send(());
        });
        let dropped = tokio::time::timeout(Duration::from_millis(1), caller).await;
        assert!(dropped.is_err(), "the caller was dropped before the end");
        assert!(finished(Duration::from_mins(1)).await);
        receiver.await.expect("the task has ended");
    }
}
