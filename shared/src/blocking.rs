//! Blocking work on tokio's blocking pool.

use tokio::task::JoinHandle;
use tracing::Instrument as _;

use crate::error::{Error, ErrorKind, Result};

/// Runs `work` on the blocking pool, within the current span.
///
/// # Errors
/// `Internal` when `work` panics.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = spawn(work).in_current_span().await;
    done.map_err(|error| Error::new(ErrorKind::Internal, "blocking work failed").with_source(error))
}

/// Starts `work` within the current span; it runs to its end, also if the handle is dropped.
pub(crate) fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
}

/// Like [`run`], for work that can fail.
pub(crate) async fn try_run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    run(work).await?
}
