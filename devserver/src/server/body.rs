//! Bodies of answers: boxed, counted until they end, and cut if a fault requires it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};

use crate::faults::InFlight;
use crate::http_body::BoxError;

/// Body of an answer.
pub(super) type ServerBody = UnsyncBoxBody<Bytes, BoxError>;

/// Creates a body of these bytes.
pub(super) fn full(bytes: impl Into<Bytes>) -> ServerBody {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body that keeps its request in flight until its end.
pub(super) struct TrackedBody {
    inner: ServerBody,
    /// Remaining bytes before the connection is cut.
    cut_after: Option<u64>,
    /// True once the bytes so far had a chance to be flushed.
    flushed: bool,
    _in_flight: InFlight,
}

impl TrackedBody {
    /// Wraps `inner`; with `cut`, the connection is cut after about half of it.
    pub(super) fn new(inner: ServerBody, cut: bool, in_flight: InFlight) -> Self {
        let cut_after = cut.then(|| inner.size_hint().exact().unwrap_or(1024) / 2);
        Self {
            inner,
            cut_after,
            flushed: false,
            _in_flight: in_flight,
        }
    }
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.cut_after == Some(0) {
            if !self.flushed {
                // An immediate error would discard the first half, too: a pending body
                // makes the connection flush.
                self.flushed = true;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(Some(Err("cut by a fault".into())));
        }
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        let Some(left) = self.cut_after else {
            return polled;
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
                    self.cut_after = Some(left - take as u64);
                    Poll::Ready(Some(Ok(Frame::data(data.slice(..take)))))
                }
                Err(_) => Poll::Ready(Some(Err("cut by a fault".into()))),
            },
            // A body that ends before it was cut is cut at its end.
            Poll::Ready(None) => Poll::Ready(Some(Err("cut by a fault".into()))),
            other => other,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
