//! Bodies of requests that are sent while they are made.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};

use super::connector::RequestBody;
use crate::error::{BoxError, Error, Result};

/// The state of a body while it is sent.
#[derive(Clone, Default)]
pub(super) struct Upload(Arc<UploadState>);

#[derive(Default)]
struct UploadState {
    chunks: AtomicU64,
    is_sent: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl Upload {
    /// Wraps `chunks`, which have `length` bytes in all where that is known.
    pub(super) fn new(
        chunks: BoxStream<'static, Result<Bytes>>,
        length: Option<u64>,
    ) -> (RequestBody, Self) {
        let upload = Self::default();
        let chunks = UploadStream {
            chunks,
            left: length,
            state: Arc::clone(&upload.0),
        };
        let chunks = chunks.boxed();
        (RequestBody::Stream { chunks, length }, upload)
    }

    /// Returns how many chunks the connector has taken.
    pub(super) fn chunks(&self) -> u64 {
        self.0.chunks.load(Ordering::Relaxed)
    }

    /// Returns whether the connector has taken the last chunk.
    pub(super) fn is_sent(&self) -> bool {
        self.0.is_sent.load(Ordering::Relaxed)
    }

    /// Takes the error by which the stream itself ended.
    pub(super) fn failure(&self) -> Option<Error> {
        self.0.lock_failure().take()
    }
}

impl UploadState {
    fn lock_failure(&self) -> std::sync::MutexGuard<'_, Option<Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct UploadStream {
    chunks: BoxStream<'static, Result<Bytes>>,
    // Bytes that are still to come, where the length is known.
    left: Option<u64>,
    state: Arc<UploadState>,
}

impl Stream for UploadStream {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let next = ready!(this.chunks.as_mut().poll_next(context));
        this.state.chunks.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(match next {
            Some(Ok(bytes)) => {
                if let Some(left) = &mut this.left {
                    *left = left.saturating_sub(bytes.len() as u64);
                    if *left == 0 {
                        // A body with a length is not polled for its end.
                        this.state.is_sent.store(true, Ordering::Relaxed);
                    }
                }
                Some(Ok(bytes))
            }
            Some(Err(error)) => {
                *this.state.lock_failure() = Some(error);
                Some(Err("the body of the request could not be read".into()))
            }
            None => {
                this.state.is_sent.store(true, Ordering::Relaxed);
                None
            }
        })
    }
}
