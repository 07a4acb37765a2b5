//! Bodies of answers: cut when they fall silent, held back until they are admitted.

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

/// Fails an answer that sends nothing for this long while it is being read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdleTimeout(pub(crate) Duration);

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
            limit: self.0,
            silence: None,
        });
        Ok(())
    }
}

struct IdleBody {
    inner: Pin<Box<SdkBody>>,
    limit: Duration,
    silence: Option<Pin<Box<Sleep>>>,
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
            this.silence = None;
            return Poll::Ready(frame);
        }
        let limit = this.limit;
        let silence = this.silence.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(silence.as_mut().poll(cx));
        let error = io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the answer fell silent for {} s", limit.as_secs_f32()),
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

/// Holds the body of one successful answer back until its reader is told to go on.
///
/// The body lives inside the SDK's future and must be `'static`; who admits it is only
/// borrowed. So the two talk over channels: the gate sends the answer's length and waits,
/// the caller admits and opens.
#[derive(Debug)]
pub(crate) struct BodyGate(Mutex<Option<GateChannels>>);

type GateChannels = (oneshot::Sender<Option<u64>>, oneshot::Receiver<()>);

/// The caller's side of a [`BodyGate`].
#[derive(Debug)]
pub(crate) struct BodyAdmitter {
    /// Receives the answer's length in bytes, `None` when its headers do not tell.
    pub(crate) length: oneshot::Receiver<Option<u64>>,
    /// Opens the gate.
    pub(crate) open: oneshot::Sender<()>,
}

impl BodyGate {
    pub(crate) fn new() -> (Self, BodyAdmitter) {
        let (tell, length) = oneshot::channel();
        let (open, opened) = oneshot::channel();
        let gate = Self(Mutex::new(Some((tell, opened))));
        (gate, BodyAdmitter { length, open })
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for BodyGate {
    fn name(&self) -> &'static str {
        "Gate"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        // An error's answer is small, and nobody waits to admit it.
        if !response.status().is_success() {
            return Ok(());
        }
        let ends = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((tell, opened)) = ends else {
            return Ok(());
        };
        let length = response
            .headers()
            .get("content-length")
            .and_then(|text| text.parse().ok());
        // Fails when the call is gone: then its future, and this body with it, is about to
        // be dropped.
        let _ = tell.send(length);
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
