//! The HTTP stack of the AWS clients as the connector of git's protocol, so that one stack
//! and one TLS configuration are linked.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Connector, ConnectorBuilder};
use aws_smithy_runtime_api::client::http::{
    HttpConnector as SmithyConnector, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use branchline_git::error::BoxError;
use branchline_git::smart_http::{
    ConnectError, Http, HttpConnector, HttpTimeouts, RepositoryUrl, RequestBody, ResponseStream,
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::connection_pool::{ConnectionPool, RequestGuard};
use super::server_address::{AddressPolicy, CheckedResolver, forbidden_address};
use crate::error::{Error, ErrorKind, Result};
use crate::settings::Settings;

/// Timeouts, proxies and certificates of git over HTTP. Nothing is read from the
/// environment.
#[derive(Clone)]
pub struct HttpSettings {
    /// The longest wait for a connection, TLS included.
    pub connect_timeout: Duration,
    /// The longest silence within a request or a response.
    pub idle_timeout: Duration,
    /// The longest wait for a response after a request was sent whole.
    pub answer_timeout: Duration,
    /// The proxy for `http` URLs, as `HTTP_PROXY`; it may contain a user and password.
    pub http_proxy: Option<String>,
    /// The proxy for `https` URLs, as `HTTPS_PROXY`; it may contain a user and password.
    pub https_proxy: Option<String>,
    /// Hosts without a proxy, as `NO_PROXY`.
    pub no_proxy: Option<String>,
    /// Certificates (PEM) that are trusted in addition to the system's.
    pub certificates: Vec<Vec<u8>>,
    /// Connects to servers at loopback addresses. Link-local addresses and metadata services
    /// are never connected to.
    pub loopback: bool,
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
            loopback: true,
        }
    }
}

impl HttpSettings {
    /// Takes the proxies from the variables `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, or
    /// from their names in lower case, which take precedence as with git and curl.
    ///
    /// In Lambda (`AWS_LAMBDA_RUNTIME_API`) servers at loopback addresses are refused, because
    /// the runtime's own API and extensions listen there, unless `AWS_ENDPOINT_URL` is a
    /// loopback URL, as on the development server.
    pub fn read(settings: &Settings) -> Self {
        let proxy = |name: &str| {
            let found = settings.get(&name.to_ascii_lowercase());
            found.or(settings.get(name)).map(str::to_owned)
        };
        Self {
            http_proxy: proxy("HTTP_PROXY"),
            https_proxy: proxy("HTTPS_PROXY"),
            no_proxy: proxy("NO_PROXY"),
            loopback: settings.get("AWS_LAMBDA_RUNTIME_API").is_none()
                || settings
                    .get("AWS_ENDPOINT_URL")
                    .is_some_and(is_loopback_url),
            ..Self::default()
        }
    }
}

impl HttpSettings {
    /// Returns whether there are no proxies and no further certificates.
    pub(super) fn is_direct(&self) -> bool {
        self.http_proxy.is_none() && self.https_proxy.is_none() && self.certificates.is_empty()
    }
}

impl std::fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Proxies may contain passwords.
        f.debug_struct("HttpSettings")
            .field("connect_timeout", &self.connect_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("answer_timeout", &self.answer_timeout)
            .finish_non_exhaustive()
    }
}

fn is_loopback_url(url: &str) -> bool {
    RepositoryUrl::new(url).is_ok_and(|url| url.is_loopback())
}

/// Makes the connections of git's protocol.
///
/// # Errors
/// `Config` for a proxy or certificate that is not valid.
pub fn git_http(settings: &HttpSettings) -> Result<Http> {
    let (http, https) = proxies(settings)?;
    let context = tls_context(settings)?;
    let timeouts = HttpConnectorSettings::builder()
        .connect_timeout(settings.connect_timeout)
        .build();
    let builder = |proxy: ProxyConfig| -> ConnectorBuilder {
        Connector::builder()
            .connector_settings(timeouts.clone())
            .proxy_config(proxy)
    };
    let policy = AddressPolicy {
        loopback: settings.loopback,
    };
    let connect = |proxy, url: Option<&String>| -> Arc<ConnectionPool<SharedHttpConnector>> {
        let builder = builder(proxy)
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(context.clone());
        let resolver = CheckedResolver {
            policy,
            proxy: url.and_then(|url| Some(url.parse::<Uri>().ok()?.host()?.to_owned())),
        };
        ConnectionPool::new(move || {
            let connector = builder.clone().build_with_resolver(resolver.clone());
            SharedHttpConnector::new(connector)
        })
    };
    let connector = GitConnector {
        policy,
        plain: connect(http, settings.http_proxy.as_ref()),
        secure: connect(https, settings.https_proxy.as_ref()),
    };
    let timeouts = HttpTimeouts {
        idle: settings.idle_timeout,
        answer: settings.answer_timeout,
    };
    Ok(Http::new(Arc::new(connector), timeouts))
}

/// Returns the proxies for `http` and for `https` URLs.
///
/// # Errors
/// `Config` for a proxy that is not valid.
pub(super) fn proxies(settings: &HttpSettings) -> Result<(ProxyConfig, ProxyConfig)> {
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
    Ok((http, https))
}

/// Returns the system's certificates together with those of `settings`.
///
/// # Errors
/// `Config` for a certificate that is not valid.
pub(super) fn tls_context(settings: &HttpSettings) -> Result<TlsContext> {
    let mut trusted = TrustStore::empty().with_native_roots(true);
    for pem in &settings.certificates {
        check_certificates(pem)?;
        trusted = trusted.with_pem_certificate(pem.as_slice());
    }
    TlsContext::builder()
        .with_trust_store(trusted)
        .build()
        .map_err(|error| {
            Error::new(ErrorKind::Config, "a certificate is not valid").with_source(error)
        })
}

/// Checks certificates before the connector reads them, because it panics on bad ones.
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

/// Connectors for the two schemes, because each scheme may have its own proxy.
struct GitConnector {
    policy: AddressPolicy,
    plain: Arc<ConnectionPool<SharedHttpConnector>>,
    secure: Arc<ConnectionPool<SharedHttpConnector>>,
}

#[async_trait]
impl HttpConnector for GitConnector {
    async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> std::result::Result<Response<ResponseStream>, ConnectError> {
        let pool = if request.uri().scheme() == Some(&Scheme::HTTPS) {
            &self.secure
        } else {
            &self.plain
        };
        if let Some(host) = request.uri().host() {
            let checked = self.policy.check_host(host);
            checked.map_err(|error| ConnectError::Refused(error.into()))?;
        }
        let request = HttpRequest::try_from(request.map(sdk_body))
            .map_err(|error| ConnectError::InvalidRequest(error.into()))?;
        let (connector, guard) = pool.client();
        let response = connector.call(request).await.map_err(|error| {
            if let Some(forbidden) = forbidden_address(&error) {
                ConnectError::Refused(forbidden.into())
            } else if error.is_timeout() {
                ConnectError::TimedOut(error.into())
            } else {
                ConnectError::Failed(error.into())
            }
        })?;
        let response = response
            .try_into_http1x()
            .map_err(|error| ConnectError::InvalidResponse(error.into()))?;
        Ok(response.map(|body| {
            let body = BodyData {
                body: Box::pin(body),
                guard: Some(guard),
                is_awaited: false,
            };
            body.boxed()
        }))
    }
}

fn sdk_body(body: RequestBody) -> SdkBody {
    match body {
        RequestBody::Bytes(bytes) => SdkBody::from(bytes),
        RequestBody::Stream { chunks, length } => SdkBody::from_body_1_x(StreamBody {
            chunks: Mutex::new(chunks),
            length,
        }),
    }
}

/// A stream of chunks as a body.
struct StreamBody {
    // A body must be `Sync`, and a stream need not be; the mutex is never locked.
    chunks: Mutex<BoxStream<'static, std::result::Result<Bytes, BoxError>>>,
    // Bytes that are still to come, where the length is known.
    length: Option<u64>,
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let chunks = this
            .chunks
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let next = ready!(chunks.as_mut().poll_next(context)).transpose()?;
        if let (Some(bytes), Some(length)) = (&next, &mut this.length) {
            *length = length.saturating_sub(bytes.len() as u64);
        }
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The data of a body as a stream of chunks; trailers are dropped.
struct BodyData {
    body: Pin<Box<SdkBody>>,
    /// Not completed if the body fails or its reader gives up waiting.
    guard: Option<RequestGuard<SharedHttpConnector>>,
    is_awaited: bool,
}

impl Drop for BodyData {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take_if(|_| !self.is_awaited) {
            guard.complete();
        }
    }
}

impl futures_util::Stream for BodyData {
    type Item = std::result::Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            self.is_awaited = true;
            let frame = ready!(self.body.as_mut().poll_frame(context)).transpose();
            let Ok(frame) = frame else {
                self.guard = None;
                return Poll::Ready(frame.err().map(Err));
            };
            self.is_awaited = false;
            match frame.map(Frame::into_data) {
                None => return Poll::Ready(None),
                Some(Ok(data)) => return Poll::Ready(Some(Ok(data))),
                Some(Err(_trailers)) => {}
            }
        }
    }
}
