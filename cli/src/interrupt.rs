//! Ctrl-C, and the requests that clean up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use branchline_core::background;
use tokio::time::Instant;

use crate::exit::ExitStatus;
use crate::system::Signals;

/// Time after a signal in which another one is the same interruption: on Ctrl-C, the terminal
/// signals git and the helper, and git then signals its helper once more.
const SAME_INTERRUPTION: Duration = Duration::from_millis(500);

/// Runs `work` to its end, or until SIGINT or SIGTERM. Then waits at most `limit` for the tasks
/// that release locks and abort uploads, which values start when they are dropped. A second
/// interruption ends the wait.
pub(crate) async fn run_or_interrupt(
    work: impl Future<Output = ExitStatus>,
    limit: Duration,
) -> ExitStatus {
    let mut signals = Signals::new();
    let interrupted = async {
        signals.next().await;
        // Before `work` is dropped, which this statement does when it ends.
        INTERRUPTED.store(true, Ordering::Relaxed);
    };
    let status = tokio::select! {
        status = work => status,
        () = interrupted => ExitStatus::Interrupted,
    };
    tokio::select! {
        _ = background::finished(limit) => {}
        () = next_interruption(&mut signals) => {}
    }
    status
}

/// Work that a later run resumes. If it is dropped by an interruption, it prints how.
pub(crate) struct Resumable {
    hint: &'static str,
}

impl Resumable {
    pub(crate) fn new(hint: &'static str) -> Self {
        Self { hint }
    }
}

impl Drop for Resumable {
    fn drop(&mut self) {
        if INTERRUPTED.load(Ordering::Relaxed) {
            eprintln!("interrupted: {}", self.hint);
        }
    }
}

/// Set before the work is dropped by an interruption.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Waits for a signal that is not a repetition of one that was just received.
async fn next_interruption(signals: &mut Signals) {
    let last = Instant::now();
    loop {
        signals.next().await;
        if last.elapsed() >= SAME_INTERRUPTION {
            return;
        }
    }
}
