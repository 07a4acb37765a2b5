//! The requests of git's protocol: the refs of a service, and posts to it.

use bstr::ByteSlice;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};

use super::body::ResponseBody;
use super::connector::ResponseStream;
use super::upload::{RequestBody, Upload};
use super::{RepositoryUrl, SmartHttp};
use crate::advertisement::{Service, Version};
use crate::error::{Error, ErrorKind, Result};
use crate::pack::PackBody;
use crate::{AGENT, escaped_excerpt, foreign_message};

/// The most redirects of a request that are followed.
pub(super) const MAX_REDIRECTS: usize = 5;
/// The bytes of an error response that are read for its message.
const EXCERPT_BYTES: usize = 4096;

/// The body of a POST.
pub(super) enum Payload {
    /// A body in memory.
    Bytes(Bytes),
    /// The start of a body, and a pack of unknown length that follows.
    Stream(Bytes, PackBody),
}

/// The response to a request for the refs of a service.
pub(super) struct InfoRefs {
    /// The URL of the repository after redirects.
    pub(super) url: RepositoryUrl,
    pub(super) body: ResponseBody,
    /// The error of a media type that is not the service's: `body` may be the file of a server
    /// that does not speak git's protocol.
    pub(super) other_type: Option<Error>,
}

/// Requests the refs of a service.
pub(super) async fn get_info_refs(
    client: &SmartHttp,
    service: Service,
    version: Version,
) -> Result<InfoRefs> {
    let asked = format!("info/refs?service={service}");
    let mut url = client.url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let request = Request::builder()
            .method(Method::GET)
            .uri(url.below(&asked))
            .header(header::CACHE_CONTROL, "no-cache")
            .header(header::ACCEPT, "*/*");
        let request = finish(
            client,
            &url,
            version,
            request,
            RequestBody::Bytes(Bytes::new()),
        )
        .await?;
        let response = client.http.call(&url, request, None).await?;
        if response.status().is_redirection() {
            let location = response.headers().get(header::LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            url = url.redirected(location.unwrap_or_default(), &asked)?;
            continue;
        }
        let expected = format!("application/x-{service}-advertisement");
        let (body, other_type) = check(client, &url, response, &expected).await?;
        return Ok(InfoRefs {
            url,
            body,
            other_type,
        });
    }
    Err(Error::new(
        ErrorKind::Transport,
        format!("{} redirects more than {MAX_REDIRECTS} times", client.url),
    ))
}

/// Sends a POST to a service.
pub(super) async fn post(
    client: &SmartHttp,
    service: Service,
    version: Version,
    payload: Payload,
) -> Result<ResponseBody> {
    let url = &client.url;
    let request = Request::builder()
        .method(Method::POST)
        .uri(url.below(service.name()))
        .header(
            header::CONTENT_TYPE,
            format!("application/x-{service}-request"),
        )
        .header(header::ACCEPT, format!("application/x-{service}-result"));
    let (body, upload) = match payload {
        Payload::Bytes(bytes) => (RequestBody::Bytes(bytes), None),
        Payload::Stream(first, rest) => {
            let first = futures_util::stream::once(async { Ok(first) });
            let (body, upload) = Upload::new(first.chain(rest).boxed(), None);
            (body, Some(upload))
        }
    };
    let request = finish(client, url, version, request, body).await?;
    let response = client.http.call(url, request, upload.as_ref()).await?;
    let expected = format!("application/x-{service}-result");
    match check(client, url, response, &expected).await? {
        (body, None) => Ok(body),
        (_, Some(error)) => Err(error),
    }
}

async fn finish(
    client: &SmartHttp,
    url: &RepositoryUrl,
    version: Version,
    mut request: http::request::Builder,
    body: RequestBody,
) -> Result<Request<RequestBody>> {
    request = request
        // Some servers require an agent of this form.
        .header(header::USER_AGENT, format!("git/2.0 ({AGENT})"))
        .header(header::ACCEPT_ENCODING, "gzip");
    if version == Version::V2 {
        request = request.header("git-protocol", "version=2");
    }
    if let Some(login) = client.login(url).await? {
        request = request.header(header::AUTHORIZATION, login);
    }
    request.body(body).map_err(|error| {
        Error::new(
            ErrorKind::Config,
            format!("a request to {url} could not be built"),
        )
        .with_source(error)
    })
}

/// Returns the body of a response, if its status is 200, and the error of its media type if that
/// is not `expected`.
async fn check(
    client: &SmartHttp,
    url: &RepositoryUrl,
    response: Response<ResponseStream>,
    expected: &str,
) -> Result<(ResponseBody, Option<Error>)> {
    let (parts, body) = response.into_parts();
    let encoding = parts.headers.get(header::CONTENT_ENCODING);
    let gzip = encoding.is_some_and(|value| value == "gzip" || value == "x-gzip");
    let body = ResponseBody::new(body, client.http.idle_timeout(), gzip, url.to_string());
    if parts.status != StatusCode::OK {
        let excerpt = body.excerpt(EXCERPT_BYTES).await;
        return Err(status_error(url, parts.status, &parts.headers, &excerpt));
    }
    let media_type = parts.headers.get(header::CONTENT_TYPE);
    let media_type = media_type.map_or(&b""[..], header::HeaderValue::as_bytes);
    let media_type = media_type
        .split_once_str(";")
        .map_or(media_type, |found| found.0);
    if media_type.trim_ascii() == expected.as_bytes() {
        return Ok((body, None));
    }
    let shown = escaped_excerpt(media_type);
    let error = Error::new(
        ErrorKind::Config,
        format!("{url} returned the media type `{shown}` instead of `{expected}`"),
    )
    .with_hint("is this the URL of a git repository that speaks smart HTTP?");
    Ok((body, Some(error)))
}

fn status_error(
    url: &RepositoryUrl,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Error {
    let exception = exception_name(body);
    let number = status.as_u16();
    let (kind, hint) = match (number, exception.as_deref()) {
        (_, Some("RepositoryDoesNotExistException")) | (404 | 410, _) => (
            ErrorKind::NotFound,
            "check the URL; a private repository may be reported as missing without credentials",
        ),
        (429, _) => (ErrorKind::Throttled, "try again later"),
        (_, _) if body.contains_str("Rate Exceeded") => (ErrorKind::Throttled, "try again later"),
        (401, _) => (
            ErrorKind::AccessDenied,
            "provide credentials, or check the provided ones",
        ),
        (403 | 407, _) => (
            ErrorKind::AccessDenied,
            "check the credentials and their permissions",
        ),
        (413, _) => (ErrorKind::FileTooLarge, "push in smaller parts"),
        (300..=399, _) => (ErrorKind::Transport, "use the URL to which it redirects"),
        (408 | 425 | 500.., _) => (ErrorKind::Transport, "try again later"),
        _ => (ErrorKind::Config, "is this the URL of a git repository?"),
    };
    let mut message = format!("{url} returned {status}");
    let html = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().contains_str("html"));
    let text = foreign_message(body);
    if !text.is_empty() && !html {
        message = format!("{message}: {text}");
    }
    let request_id = headers
        .get("x-amzn-requestid")
        .and_then(|value| value.to_str().ok());
    Error::new(kind, message)
        .with_hint(hint)
        .with_server(exception.as_deref(), request_id)
}

/// Returns the name of an XML error of CodeCommit: `<AccessDeniedException>..`.
fn exception_name(body: &[u8]) -> Option<String> {
    let start = body.find_byte(b'<')? + 1;
    let name: String = body[start..]
        .iter()
        .take(100)
        .take_while(|byte| byte.is_ascii_alphanumeric())
        .map(|byte| char::from(*byte))
        .collect();
    name.ends_with("Exception").then_some(name)
}
