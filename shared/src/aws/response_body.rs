//! Response bodies: idle timeout, and admission before reading.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextMut;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use super::connection_pool::Connections;

/// Fails an answer that pauses longer than a limit while it is being read, and discards the pooled
/// connections, because the others may have been cut, too.
#[derive(Debug, Clone)]
pub(crate) struct IdleTimeout {
    limit: Duration,
    connections: Connections,
}

impl IdleTimeout {
    pub(super) fn new(limit: Duration, connections: Connections) -> Self {
        Self { limit, connections }
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for IdleTimeout {
    fn name(&self) -> &'static str {
        "IdleTimeout"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response_mut().body_mut();
        let inner = std::mem::replace(body, SdkBody::taken());
        *body = SdkBody::from_body_1_x(IdleBody {
            inner: Box::pin(inner),
            timeout: self.clone(),
            pause: None,
        });
        Ok(())
    }
}

struct IdleBody {
    inner: Pin<Box<SdkBody>>,
    timeout: IdleTimeout,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Body for IdleBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = this.inner.as_mut().poll_frame(cx) {
            this.pause = None;
            return Poll::Ready(frame);
        }
        let limit = this.timeout.limit;
        let pause = this.pause.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(pause.as_mut().poll(cx));
        this.timeout.connections.discard();
        let error = io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the answer paused for {} s", limit.as_secs_f32()),
        );
        Poll::Ready(Some(Err(error.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Delays the body of one successful answer until the caller admits it.
///
/// The body is part of the SDK's future and must be `'static`, but the caller's admission
/// is borrowed. Therefore the two communicate over channels: the gate sends the answer's
/// length and waits; the caller admits the answer and opens the gate.
#[derive(Debug)]
pub(crate) struct BodyGate(Mutex<Option<GateChannels>>);

type GateChannels = (oneshot::Sender<Option<u64>>, oneshot::Receiver<()>);

/// Caller's side of a [`BodyGate`].
#[derive(Debug)]
pub(crate) struct BodyAdmitter {
    /// Receives the answer's length in bytes; `None` if its headers lack it.
    pub(crate) length: oneshot::Receiver<Option<u64>>,
    /// Opens the gate.
    pub(crate) open: oneshot::Sender<()>,
}

impl BodyGate {
    pub(crate) fn new() -> (Self, BodyAdmitter) {
        let (send_length, length) = oneshot::channel();
        let (open, opened) = oneshot::channel();
        let gate = Self(Mutex::new(Some((send_length, opened))));
        (gate, BodyAdmitter { length, open })
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for BodyGate {
    fn name(&self) -> &'static str {
        "BodyGate"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        // The body of an error is small, and the caller does not wait to admit it.
        if !response.status().is_success() {
            return Ok(());
        }
        let channels = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((send_length, opened)) = channels else {
            return Ok(());
        };
        let length = response
            .headers()
            .get("content-length")
            .and_then(|text| text.parse().ok());
        // Fails when the call was dropped; then this body is dropped too.
        let _ = send_length.send(length);
        let body = response.body_mut();
        let inner = std::mem::replace(body, SdkBody::taken());
        *body = SdkBody::from_body_1_x(GatedBody {
            inner: Box::pin(inner),
            opened: Some(opened),
        });
        Ok(())
    }
}

struct GatedBody {
    inner: Pin<Box<SdkBody>>,
    opened: Option<oneshot::Receiver<()>>,
}

impl Body for GatedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(opened) = &mut this.opened {
            ready!(Pin::new(opened).poll(cx))?;
            this.opened = None;
        }
        this.inner.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
