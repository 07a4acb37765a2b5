//! Ctrl-C, and the requests that clean up.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::exit::ExitStatus;

/// Pause between two checks whether all requests have ended.
const CHECK_INTERVAL: Duration = Duration::from_millis(2);

/// Runs `work` to its end, or until SIGINT or SIGTERM. Then waits at most `limit` for the tasks
/// that release locks and abort uploads, which values start when they are dropped. A second signal
/// ends the wait.
pub(crate) async fn run_or_interrupt(
    work: impl Future<Output = ExitStatus>,
    limit: Duration,
) -> ExitStatus {
    let mut signals = Signals::new();
    let status = tokio::select! {
        status = work => status,
        () = signals.next() => ExitStatus::Interrupted,
    };
    // `work` is dropped, and with it the clients whose connections are tasks, too.
    tokio::select! {
        () = tasks_end(limit) => {}
        () = signals.next() => {}
    }
    status
}

/// Waits until no task is alive, at most `limit`.
async fn tasks_end(limit: Duration) {
    let deadline = Instant::now() + limit;
    let metrics = Handle::current().metrics();
    while metrics.num_alive_tasks() > 0 && Instant::now() < deadline {
        sleep(CHECK_INTERVAL).await;
    }
}

/// SIGINT and SIGTERM.
struct Signals(Vec<Signal>);

impl Signals {
    fn new() -> Self {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
        Self(
            kinds
                .into_iter()
                .filter_map(|kind| signal(kind).ok())
                .collect(),
        )
    }

    async fn next(&mut self) {
        let each = self.0.iter_mut().map(|signal| Box::pin(signal.recv()));
        if each.len() == 0 {
            std::future::pending::<()>().await;
        }
        futures_util::future::select_all(each).await;
    }
}
