//! HTTP requests of git, over the connector that the AWS clients use.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Connector, ConnectorBuilder};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use bstr::ByteSlice;
use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::body::ResponseBody;
use super::{RepositoryUrl, SmartHttp};
use crate::error::{Error, ErrorKind, Result};
use crate::git::advertisement::{Service, Version};
use crate::git::{AGENT, escaped_excerpt};
use crate::settings::Settings;

/// How many redirects are followed.
pub(super) const REDIRECTS: usize = 5;
/// How much of an error's body is looked at.
const EXCERPT: usize = 4096;

/// How HTTP is spoken. All of it is given: nothing is read from the environment.
#[derive(Clone)]
pub struct HttpSettings {
    /// The longest wait for a connection, TLS included.
    pub connect_timeout: Duration,
    /// The longest silence within a request or an answer.
    pub idle_timeout: Duration,
    /// The longest wait for an answer to a request that was sent whole.
    pub answer_timeout: Duration,
    /// The proxy for `http` URLs, as `HTTP_PROXY`; it may hold a user and password.
    pub http_proxy: Option<String>,
    /// The proxy for `https` URLs, as `HTTPS_PROXY`; it may hold a user and password.
    pub https_proxy: Option<String>,
    /// Hosts without a proxy, as `NO_PROXY`.
    pub no_proxy: Option<String>,
    /// Certificates (PEM) that are trusted beside the system's.
    pub certificates: Vec<Vec<u8>>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(1),
            answer_timeout: Duration::from_mins(5),
            http_proxy: None,
            https_proxy: None,
            no_proxy: None,
            certificates: Vec::new(),
        }
    }
}

impl HttpSettings {
    /// Takes the proxies from the variables `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, or
    /// from the same in lower case, which go first as with git and curl.
    pub fn read(settings: &Settings) -> Self {
        let proxy = |name: &str| {
            let found = settings.get(&name.to_ascii_lowercase());
            found.or(settings.get(name)).map(str::to_owned)
        };
        Self {
            http_proxy: proxy("HTTP_PROXY"),
            https_proxy: proxy("HTTPS_PROXY"),
            no_proxy: proxy("NO_PROXY"),
            ..Self::default()
        }
    }
}

impl std::fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Proxies may hold passwords.
        f.debug_struct("HttpSettings")
            .field("connect_timeout", &self.connect_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("answer_timeout", &self.answer_timeout)
            .finish_non_exhaustive()
    }
}

/// Connections, kept alive and shared by all who clone this.
#[derive(Clone)]
pub struct Http {
    // One for each scheme, since each may have its own proxy.
    plain: Connection,
    secure: Connection,
    idle: Duration,
    answer: Duration,
}

/// Made when it is first needed: reading the system's certificates takes a while.
type Connection =
    Arc<LazyLock<SharedHttpConnector, Box<dyn FnOnce() -> SharedHttpConnector + Send>>>;

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").finish_non_exhaustive()
    }
}

impl Http {
    /// Connects as the settings say.
    ///
    /// # Errors
    /// `Config` for a proxy or certificate that is not valid.
    pub fn new(settings: &HttpSettings) -> Result<Self> {
        let bad = |what: &str| {
            // The cause would repeat the URL, and perhaps a password.
            Error::new(ErrorKind::Config, format!("the {what} is not valid"))
                .with_hint("it should look like `http://proxy.example:3128`")
        };
        let no_proxy = settings.no_proxy.as_deref();
        let proxy = |found: Option<ProxyConfig>| match (found, no_proxy) {
            (Some(proxy), Some(rules)) => proxy.no_proxy(rules),
            (Some(proxy), None) => proxy,
            (None, _) => ProxyConfig::disabled(),
        };
        let http = settings.http_proxy.as_ref().map(ProxyConfig::http);
        let http = proxy(http.transpose().map_err(|_| bad("proxy for `http`"))?);
        let https = settings.https_proxy.as_ref().map(ProxyConfig::https);
        let https = proxy(https.transpose().map_err(|_| bad("proxy for `https`"))?);
        let mut trusted = TrustStore::empty().with_native_roots(true);
        for pem in &settings.certificates {
            check_certificates(pem)?;
            trusted = trusted.with_pem_certificate(pem.as_slice());
        }
        let context = TlsContext::builder()
            .with_trust_store(trusted)
            .build()
            .map_err(|error| {
                Error::new(ErrorKind::Config, "a certificate is not valid").with_source(error)
            })?;
        let timeouts = HttpConnectorSettings::builder()
            .connect_timeout(settings.connect_timeout)
            .build();
        let builder = |proxy: ProxyConfig| -> ConnectorBuilder {
            Connector::builder()
                .connector_settings(timeouts.clone())
                .proxy_config(proxy)
        };
        let connect = |proxy| -> Connection {
            let builder = builder(proxy)
                .tls_provider(Provider::Rustls(CryptoMode::Ring))
                .tls_context(context.clone());
            let make = move || SharedHttpConnector::new(builder.build());
            Arc::new(LazyLock::new(Box::new(make)))
        };
        Ok(Self {
            plain: connect(http),
            secure: connect(https),
            idle: settings.idle_timeout,
            answer: settings.answer_timeout,
        })
    }

    /// Uses a connector that is there, such as a server in the same process.
    pub fn with_connector(connector: SharedHttpConnector, settings: &HttpSettings) -> Self {
        let there = move || -> SharedHttpConnector { connector };
        let there: Connection = Arc::new(LazyLock::new(Box::new(there)));
        Self {
            plain: Arc::clone(&there),
            secure: there,
            idle: settings.idle_timeout,
            answer: settings.answer_timeout,
        }
    }

    pub(super) fn idle(&self) -> Duration {
        self.idle
    }

    pub(super) async fn call(
        &self,
        url: &RepositoryUrl,
        request: Request<SdkBody>,
        upload: Option<&RequestBody>,
    ) -> Result<Response<SdkBody>> {
        let connector = if url.is_secure() {
            &self.secure
        } else {
            &self.plain
        };
        let request = HttpRequest::try_from(request).map_err(|error| {
            Error::new(ErrorKind::Internal, "a request could not be built").with_source(error)
        })?;
        let mut answer = connector.call(request);
        let mut sent = 0;
        loop {
            let sending = upload.is_some_and(|upload| !upload.is_sent());
            let wait = if sending { self.idle } else { self.answer };
            if let Ok(done) = tokio::time::timeout(wait, &mut answer).await {
                let response = done.map_err(|error| {
                    if let Some(error) = upload.and_then(RequestBody::failure) {
                        return error;
                    }
                    let what = if error.is_timeout() {
                        "could not be reached in time"
                    } else {
                        "could not be reached, or hung up"
                    };
                    Error::new(ErrorKind::Transport, format!("{url} {what}")).with_source(error)
                })?;
                return response.try_into_http1x().map_err(|error| {
                    let message = format!("the answer of {url} is broken");
                    Error::new(ErrorKind::Transport, message).with_source(error)
                });
            }
            let now = upload.map_or(0, RequestBody::sent);
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

/// Looks at certificates before the connector does, which would panic over bad ones.
fn check_certificates(pem: &[u8]) -> Result<()> {
    let bad = || Error::new(ErrorKind::Config, "a certificate is not valid PEM");
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        store
            .add(certificate.map_err(|error| bad().with_source(error))?)
            .map_err(|error| bad().with_source(error))?;
    }
    if store.is_empty() { Err(bad()) } else { Ok(()) }
}

/// A stream that is sent as it comes.
pub type Outgoing = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// What is posted.
pub(super) enum Payload {
    /// All of it.
    Bytes(Bytes),
    /// A start, and a stream whose length is not known.
    Stream(Bytes, Outgoing),
}

/// What is known of a body while it is sent.
#[derive(Clone, Default)]
pub(super) struct RequestBody(Arc<UploadState>);

#[derive(Default)]
struct UploadState {
    frames: AtomicU64,
    ended: AtomicU64,
    failure: Mutex<Option<Error>>,
}

impl RequestBody {
    fn sent(&self) -> u64 {
        self.0.frames.load(Ordering::Relaxed)
    }

    fn is_sent(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed) != 0
    }

    /// Why the stream itself failed.
    fn failure(&self) -> Option<Error> {
        let mut failure = self
            .0
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        failure.take()
    }
}

struct UploadBody {
    first: Option<Bytes>,
    // A body must be Sync, and a stream need not be; nobody locks it.
    rest: Mutex<Outgoing>,
    // What is left, where that is known.
    left: Option<u64>,
    upload: RequestBody,
}

/// A body that is sent as it comes, and what is known of it meanwhile.
pub(super) fn streamed(
    first: Option<Bytes>,
    rest: Outgoing,
    length: Option<u64>,
) -> (SdkBody, RequestBody) {
    let upload = RequestBody::default();
    let body = UploadBody {
        first,
        rest: Mutex::new(rest),
        left: length,
        upload: upload.clone(),
    };
    (SdkBody::from_body_1_x(body), upload)
}

impl http_body::Body for UploadBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let state = &this.upload.0;
        let next = if let Some(first) = this.first.take() {
            Some(Ok(first))
        } else {
            let rest = this.rest.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::task::ready!(rest.as_mut().poll_next(context))
        };
        state.frames.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(match next {
            Some(Ok(bytes)) => {
                if let Some(left) = &mut this.left {
                    *left = left.saturating_sub(bytes.len() as u64);
                    if *left == 0 {
                        // Nobody asks for the end of what has a length.
                        state.ended.store(1, Ordering::Relaxed);
                    }
                }
                Some(Ok(Frame::data(bytes)))
            }
            Some(Err(error)) => {
                *state.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Some(Err("what was to be sent could not be read".into()))
            }
            None => {
                state.ended.store(1, Ordering::Relaxed);
                None
            }
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Asks for the refs of a service; answers also where the repository is now.
pub(super) async fn get_info_refs(
    client: &SmartHttp,
    service: Service,
    version: Version,
) -> Result<(RepositoryUrl, ResponseBody)> {
    let asked = format!("info/refs?service={service}");
    let mut url = client.url.clone();
    for _ in 0..=REDIRECTS {
        let request = Request::builder()
            .method(Method::GET)
            .uri(url.below(&asked))
            .header(header::CACHE_CONTROL, "no-cache")
            .header(header::ACCEPT, "*/*");
        let request = finish(client, &url, version, request, SdkBody::empty()).await?;
        let response = client.http.call(&url, request, None).await?;
        if response.status().is_redirection() {
            let location = response.headers().get(header::LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            url = url.redirected(location.unwrap_or_default(), &asked)?;
            continue;
        }
        let expected = format!("application/x-{service}-advertisement");
        let body = check(client, &url, response, &expected).await?;
        return Ok((url, body));
    }
    Err(Error::new(
        ErrorKind::Transport,
        format!("{} redirects more than {REDIRECTS} times", client.url),
    ))
}

/// Posts to a service.
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
        Payload::Bytes(bytes) => (SdkBody::from(bytes), None),
        Payload::Stream(first, rest) => {
            let (body, upload) = streamed(Some(first), rest, None);
            (body, Some(upload))
        }
    };
    let request = finish(client, url, version, request, body).await?;
    let response = client.http.call(url, request, upload.as_ref()).await?;
    let expected = format!("application/x-{service}-result");
    check(client, url, response, &expected).await
}

async fn finish(
    client: &SmartHttp,
    url: &RepositoryUrl,
    version: Version,
    mut request: http::request::Builder,
    body: SdkBody,
) -> Result<Request<SdkBody>> {
    request = request
        // Some servers answer only to names that start so.
        .header(header::USER_AGENT, format!("git/2.0 ({AGENT})"))
        .header(header::ACCEPT_ENCODING, "gzip");
    if version == Version::V2 {
        request = request.header("git-protocol", "version=2");
    }
    if let Some(login) = client.login(url).await? {
        request = request.header(header::AUTHORIZATION, login);
    }
    request.body(body).map_err(|error| {
        Error::new(ErrorKind::Config, format!("{url} cannot be asked")).with_source(error)
    })
}

/// Takes an answer's body, if the answer is git's.
async fn check(
    client: &SmartHttp,
    url: &RepositoryUrl,
    response: Response<SdkBody>,
    expected: &str,
) -> Result<ResponseBody> {
    let (parts, body) = response.into_parts();
    let encoding = parts.headers.get(header::CONTENT_ENCODING);
    let gzip = encoding.is_some_and(|value| value == "gzip" || value == "x-gzip");
    let body = ResponseBody::new(body, client.http.idle, gzip, url.to_string());
    if parts.status != StatusCode::OK {
        let excerpt = body.excerpt(EXCERPT).await;
        return Err(status_error(url, parts.status, &parts.headers, &excerpt));
    }
    let media_type = parts.headers.get(header::CONTENT_TYPE);
    let media_type = media_type.map_or(&b""[..], header::HeaderValue::as_bytes);
    let media_type = media_type
        .split_once_str(";")
        .map_or(media_type, |found| found.0);
    if media_type.trim() == expected.as_bytes() {
        return Ok(body);
    }
    let shown = escaped_excerpt(media_type);
    Err(Error::new(
        ErrorKind::Config,
        format!("{url} answers with `{shown}` instead of `{expected}`"),
    )
    .with_hint("is this the URL of a git repository that speaks smart HTTP?"))
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
            "check the URL; private repositories may look missing without credentials",
        ),
        (429, _) => (ErrorKind::Throttled, "try again later"),
        (_, _) if body.contains_str("Rate Exceeded") => (ErrorKind::Throttled, "try again later"),
        (401, _) => (
            ErrorKind::AccessDenied,
            "give credentials, or check those that were given",
        ),
        (403 | 407, _) => (
            ErrorKind::AccessDenied,
            "check the credentials and what they allow",
        ),
        (413, _) => (ErrorKind::FileTooLarge, "push in smaller parts"),
        (300..=399, _) => (ErrorKind::Transport, "use the URL to which it redirects"),
        (408 | 425 | 500.., _) => (ErrorKind::Transport, "try again later"),
        _ => (ErrorKind::Config, "is this the URL of a git repository?"),
    };
    let mut message = format!("{url} answers {status}");
    let html = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().contains_str("html"));
    let text = body.trim();
    if !text.is_empty() && !html {
        message = format!("{message}: {}", escaped_excerpt(text));
    }
    let request_id = headers
        .get("x-amzn-requestid")
        .and_then(|value| value.to_str().ok());
    Error::new(kind, message)
        .with_hint(hint)
        .with_aws(exception.as_deref(), request_id)
}

/// The name of CodeCommit's XML errors: `<AccessDeniedException>..`.
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
