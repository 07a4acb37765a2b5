//! S3's protocol over the store, by way of the crate `s3s`.

mod access;
mod backend;
mod body;
mod bucket;
mod claims;
mod conditions;
mod convert;
mod copy;
mod error;
mod hosts;
mod list;
mod multipart;
mod object;
mod operations;
mod tagging;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use s3s::service::S3ServiceBuilder;

use crate::account::Account;
use crate::http_body::BoxError;
use crate::s3::store::Store;

use self::access::Access;
use self::backend::Backend;
use self::hosts::Hosts;

/// Body of a response: bytes as they are read from the disk. An error in it means that
/// the object could not be read to its end, and must cut the connection.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// Maximum bytes of a refused body that are read.
const MAX_DRAINED_BYTES: usize = 256 * 1024 * 1024;

/// Builds the service over a store, for the credentials of an account.
pub fn service(store: Store, account: Account) -> S3Service {
    let mut builder = S3ServiceBuilder::new(Backend::new(store.clone(), &account));
    builder.set_host(Hosts::new(store.clone(), &account));
    builder.set_auth(Access::new(account.clone(), store.clone()));
    builder.set_access(Access::new(account, store));
    S3Service {
        inner: builder.build(),
    }
}

/// S3 as a function from requests to responses; clones share the store.
#[derive(Debug, Clone)]
pub struct S3Service {
    inner: s3s::service::S3Service,
}

impl S3Service {
    /// Answers any request; failures are S3's error documents.
    pub async fn call<B>(&self, request: Request<B>) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let progress = Arc::new(Progress::default());
        let method = request.method().clone();
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(Arc::clone(&progress));
        let body = s3s::Body::http_body_unsync(Watched {
            drain: !parts.headers.contains_key(header::EXPECT) && !body.is_end_stream(),
            inner: Some(Box::pin(body)),
            progress: Arc::clone(&progress),
        });
        let response = match self.inner.call(Request::from_parts(parts, body)).await {
            Ok(response) => finish(response, &method, &progress),
            Err(_) => failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        };
        identified(response)
    }
}

/// State of a request that is stored in its extensions.
#[derive(Debug, Default)]
struct Progress {
    /// The connection closed within the body.
    cut: AtomicBool,
    /// The store itself failed.
    failed: AtomicBool,
}

/// A body that records whether its connection closed early.
///
/// A request can be refused before its body is read. Clients that send without waiting
/// see the refusal only if the body is read, so dropping it reads on, up to a limit.
struct Watched<B>
where
    B: Body<Data = Bytes> + Send + 'static,
{
    inner: Option<Pin<Box<B>>>,
    drain: bool,
    progress: Arc<Progress>,
}

impl<B> Body for Watched<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let frame = ready!(inner.as_mut().poll_frame(context));
        match frame {
            Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(Err(error)) => {
                self.drain = false;
                self.progress.cut.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                self.drain = false;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        (self.inner.as_ref()).map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> Drop for Watched<B>
where
    B: Body<Data = Bytes> + Send + 'static,
{
    fn drop(&mut self) {
        let Some(mut body) = self
            .inner
            .take()
            .filter(|body| self.drain && !body.is_end_stream())
        else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            let mut left = MAX_DRAINED_BYTES;
            while let Some(Ok(frame)) = body.frame().await {
                let count = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(count) {
                    Some(rest) => left = rest,
                    None => return,
                }
            }
        });
    }
}

fn finish(
    response: Response<s3s::Body>,
    method: &Method,
    progress: &Progress,
) -> Response<ResponseBody> {
    // `s3s` reports a body that it could not read, or whose digest is wrong, as an internal
    // error, but the client caused it.
    if response.status() == StatusCode::INTERNAL_SERVER_ERROR
        && !progress.failed.load(Ordering::Relaxed)
    {
        let code = if progress.cut.load(Ordering::Relaxed) {
            "IncompleteBody"
        } else {
            "InvalidRequest"
        };
        return failure(StatusCode::BAD_REQUEST, code);
    }
    let mut response = response.map(http_body_util::BodyExt::boxed_unsync);
    if *method == Method::HEAD || response.status() == StatusCode::NOT_MODIFIED {
        *response.body_mut() = empty();
    }
    if response.status() == StatusCode::NOT_MODIFIED {
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    response
}

fn failure(status: StatusCode, code: &str) -> Response<ResponseBody> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>The request could not be processed.</Message></Error>"
    );
    let mut response = Response::new(
        http_body_util::Full::new(Bytes::from(text))
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/xml"),
    );
    response
}

fn empty() -> ResponseBody {
    http_body_util::Empty::new()
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn identified(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    let id = uuid::Uuid::new_v4().simple().to_string().to_uppercase();
    if let Ok(value) = HeaderValue::from_str(&id[..16]) {
        response
            .headers_mut()
            .insert(HeaderName::from_static("x-amz-request-id"), value);
    }
    response
}
