//! Connections, behind a trait: the caller brings the HTTP stack, proxies and certificates.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::{Request, Response};

use super::RepositoryUrl;
use super::upload::{RequestBody, Upload};
use crate::error::{BoxError, Error, ErrorKind, Result};

/// The body of a response. It ends after the first error.
pub type ResponseStream = BoxStream<'static, Result<Bytes, BoxError>>;

/// The reason why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The request is not one that the connector can send.
    #[error(transparent)]
    InvalidRequest(BoxError),
    /// The connector does not connect to the server's address.
    #[error(transparent)]
    Refused(BoxError),
    /// The connection was not established in time.
    #[error(transparent)]
    TimedOut(BoxError),
    /// The connection failed, or ended before the response.
    #[error(transparent)]
    Failed(BoxError),
    /// The response is not valid HTTP.
    #[error(transparent)]
    InvalidResponse(BoxError),
}

/// Sends HTTP requests over connections that it keeps.
///
/// Implementations follow no redirect, retry no request whose body is a stream, and decode
/// no content encoding. They bound the time for a connection; the time for a response is
/// bounded by [`Http`].
#[async_trait]
pub trait HttpConnector: Send + Sync {
    /// Sends a request and returns the head of its response, with the body as it arrives.
    async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<ResponseStream>, ConnectError>;
}

/// Bounds of the time that a request may take.
#[derive(Debug, Clone, Copy)]
pub struct HttpTimeouts {
    /// The longest silence within a request or a response.
    pub idle: Duration,
    /// The longest wait for a response after a request was sent whole.
    pub answer: Duration,
}

/// HTTP connections with their timeouts, shared by all clones.
#[derive(Clone)]
pub struct Http {
    connector: Arc<dyn HttpConnector>,
    timeouts: HttpTimeouts,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

impl Http {
    /// Sends requests through `connector`.
    pub fn new(connector: Arc<dyn HttpConnector>, timeouts: HttpTimeouts) -> Self {
        Self {
            connector,
            timeouts,
        }
    }

    /// Returns the longest silence within a response.
    pub(super) fn idle_timeout(&self) -> Duration {
        self.timeouts.idle
    }

    /// Sends a request to `url`; `upload` is the state of its body, if that is a stream.
    pub(super) async fn call(
        &self,
        url: &RepositoryUrl,
        request: Request<RequestBody>,
        upload: Option<&Upload>,
    ) -> Result<Response<ResponseStream>> {
        let mut response = self.connector.send(request);
        let mut sent = 0;
        loop {
            let sending = upload.is_some_and(|upload| !upload.is_sent());
            let wait = if sending {
                self.timeouts.idle
            } else {
                self.timeouts.answer
            };
            if let Ok(done) = tokio::time::timeout(wait, &mut response).await {
                return done.map_err(|error| {
                    let failure = upload.and_then(Upload::failure);
                    failure.unwrap_or_else(|| connect_error(url, error))
                });
            }
            let now = upload.map_or(0, Upload::chunks);
            if now == sent {
                return Err(Error::new(
                    ErrorKind::Transport,
                    format!("{url} was silent for {} seconds", wait.as_secs_f32()),
                ));
            }
            sent = now;
        }
    }
}

fn connect_error(url: &RepositoryUrl, error: ConnectError) -> Error {
    let transport = |what: &str, cause: BoxError| {
        Error::new(ErrorKind::Transport, format!("{url} {what}")).with_source(cause)
    };
    match error {
        ConnectError::InvalidRequest(cause) => {
            Error::new(ErrorKind::Internal, "a request could not be built").with_source(cause)
        }
        ConnectError::Refused(cause) => {
            let message = format!("{url} is not connected to");
            Error::new(ErrorKind::Config, message)
                .with_source(cause)
                .with_hint("use the URL of a git server")
        }
        ConnectError::TimedOut(cause) => transport("could not be reached in time", cause),
        ConnectError::Failed(cause) => transport("could not be reached, or hung up", cause),
        ConnectError::InvalidResponse(cause) => {
            let message = format!("the answer of {url} is broken");
            Error::new(ErrorKind::Transport, message).with_source(cause)
        }
    }
}
