//! Blocking work on tokio's blocking pool.

use tracing::Instrument as _;

use crate::error::{Error, ErrorKind, Result};

/// Runs `work` on the blocking pool, within the current span. Errors: `Internal` when
/// `work` panics.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let span = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(work));
    done.in_current_span()
        .await
        .map_err(|error| Error::new(ErrorKind::Internal, "blocking work failed").with_source(error))
}

/// Like [`run`], for work that can fail.
pub(crate) async fn try_run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    run(work).await?
}
