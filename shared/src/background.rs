//! Tasks that finish the work of a cancelled caller: releases of locks, aborts of uploads,
//! deletions of temporary objects.
//!
//! A program that answers or ends after a cancellation waits for them first, because Lambda
//! freezes an execution environment right after the answer.

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
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

/// Runs `task` to its end, also if this future is dropped, and returns its result; `None` if it
/// panicked. A result that nobody waits for is dropped before the task counts as ended, so that
/// its destructor may begin further tasks.
pub async fn complete<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let task = async move {
        let result = task.await;
        // A result that is not received is returned, and dropped here.
        drop(sender.send(result));
    };
    RUNNING.spawn(task.in_current_span());
    receiver.await.ok()
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

    /// Begins work when it is dropped.
    struct Unreleased(Option<oneshot::Sender<()>>);

    impl Drop for Unreleased {
        fn drop(&mut self) {
            let sender = self.0.take();
            spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let _ = sender.map(|sender| sender.send(()));
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_of_a_dropped_caller_is_released_before_the_end() {
        let (sender, receiver) = oneshot::channel();
        let caller = complete(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Unreleased(Some(sender))
        });
        let dropped = tokio::time::timeout(Duration::from_millis(1), caller).await;
        assert!(dropped.is_err(), "the caller was dropped before the end");
        assert!(finished(Duration::from_mins(1)).await);
        receiver.await.expect("the result was released");
    }

    #[tokio::test]
    async fn a_caller_that_waits_gets_the_result() {
        assert_eq!(complete(async { 7 }).await, Some(7));
    }
}
