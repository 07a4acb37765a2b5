//! Requests outside of git's protocol over its connections, as git LFS needs them.

use std::fmt;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};

use super::body::ResponseBody;
use super::connector::ResponseStream;
use super::transport::MAX_REDIRECTS;
use super::upload::{RequestBody, Upload};
use super::{Http, RepositoryUrl, SmartHttp};
use crate::AGENT;
use crate::error::{Error, ErrorKind, Result};

/// An `http` or `https` URL with its query.
///
/// `Display` and `Debug` omit user, password and query: a query may contain a signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    url: RepositoryUrl,
    // The request's URI, with the query.
    uri: Uri,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Address {
    /// Parses a URL and drops its fragment.
    ///
    /// # Errors
    /// `Config` when `text` is not a URL. The message does not repeat `text`, which may
    /// contain a secret.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.split('#').next().unwrap_or_default();
        let base = text.split('?').next().unwrap_or_default();
        let url = RepositoryUrl::new(base)?;
        let bad = || {
            Error::new(
                ErrorKind::Config,
                format!("an address at {url} is not a URL"),
            )
        };
        let given: Uri = text.parse().map_err(|_| bad())?;
        let path = given.path_and_query().map_or("/", |path| path.as_str());
        let uri = Uri::builder()
            .scheme(url.scheme())
            .authority(url.authority())
            .path_and_query(path)
            .build()
            .map_err(|_| bad())?;
        Ok(Self { url, uri })
    }

    /// Returns the URL without the query.
    pub fn url(&self) -> &RepositoryUrl {
        &self.url
    }

    /// Resolves the target of a redirect.
    fn redirected(&self, location: &str) -> Result<Self> {
        let refused =
            |why: &str| Error::new(ErrorKind::Transport, format!("{self} redirects {why}"));
        let absolute = if location.starts_with("//") {
            format!("{}:{location}", self.url.scheme())
        } else if location.starts_with('/') {
            format!("{}://{}{location}", self.url.scheme(), self.url.authority())
        } else {
            location.to_owned()
        };
        let to = Self::new(&absolute).map_err(|_| refused("to an invalid URL"))?;
        if to.url.credentials().is_some() {
            return Err(refused("to a URL with a user"));
        }
        if self.url.is_secure() && !to.url.is_secure() {
            return Err(refused("from `https` to `http`"));
        }
        Ok(to)
    }
}

/// A request outside of git's protocol.
pub struct HttpRequestSpec {
    /// The method.
    pub method: Method,
    /// The address.
    pub to: Address,
    /// Headers that may contain secrets: they are sent to the origin of `to` only, and not to
    /// the target of a redirect to another origin.
    pub private: HeaderMap,
    /// Headers without secrets.
    pub headers: HeaderMap,
    /// The body.
    pub body: CallBody,
}

/// The body of a request.
pub enum CallBody {
    /// A body in memory.
    Bytes(Bytes),
    /// A body that is sent once, while it arrives, and its length where that is known. A
    /// redirect is an error.
    Stream(BoxStream<'static, Result<Bytes>>, Option<u64>),
}

impl fmt::Debug for HttpRequestSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequestSpec")
            .field("method", &self.method)
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

/// A response of any status; redirects were followed.
pub struct HttpResponse {
    from: Address,
    status: StatusCode,
    headers: HeaderMap,
    body: ResponseBody,
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpResponse")
            .field("from", &self.from)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl HttpResponse {
    /// Returns the address that responded, after redirects.
    pub fn from(&self) -> &Address {
        &self.from
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns a header whose value is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// `Corrupt` when it has more than `max_bytes` bytes.
    pub async fn read(self, max_bytes: usize) -> Result<Bytes> {
        self.body.read(max_bytes).await
    }

    /// Reads at most `max_bytes` bytes of the body, up to the first error.
    pub async fn excerpt(self, max_bytes: usize) -> Vec<u8> {
        self.body.excerpt(max_bytes).await
    }

    /// Returns the body as a stream.
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        Box::pin(futures_util::stream::try_unfold(
            self.body,
            |mut body| async {
                let chunk = body.chunk().await?;
                Ok(chunk.map(|chunk| (chunk, body)))
            },
        ))
    }
}

impl Http {
    /// Sends a request with the login in its headers, or in its address. Redirects are
    /// followed with an unchanged method.
    pub async fn send(&self, call: HttpRequestSpec) -> Result<HttpResponse> {
        let HttpRequestSpec {
            method,
            to,
            mut private,
            headers,
            mut body,
        } = call;
        let origin = to.url.clone();
        let mut at = to;
        for _ in 0..=MAX_REDIRECTS {
            if !origin.trusts(&at.url) {
                private.clear();
            } else if let Some(credentials) = origin.credentials()
                && !private.contains_key(header::AUTHORIZATION)
            {
                private.insert(header::AUTHORIZATION, credentials.header()?);
            }
            let (bytes, stream) = match &mut body {
                CallBody::Bytes(bytes) => (bytes.clone(), None),
                CallBody::Stream(stream, length) => {
                    let empty: BoxStream<_> = Box::pin(futures_util::stream::empty());
                    let stream = std::mem::replace(stream, empty);
                    (Bytes::new(), Some((stream, *length)))
                }
            };
            let is_stream = stream.is_some();
            let (sent, upload) = match stream {
                None => (RequestBody::Bytes(bytes), None),
                Some((stream, length)) => {
                    let (sent, upload) = Upload::new(stream, length);
                    (sent, Some((upload, length)))
                }
            };
            let mut request = Request::new(sent);
            *request.method_mut() = method.clone();
            *request.uri_mut() = at.uri.clone();
            let sent_headers = request.headers_mut();
            sent_headers.extend(headers.clone());
            sent_headers.extend(private.clone());
            sent_headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
            if let Some((_, Some(length))) = &upload {
                sent_headers.insert(header::CONTENT_LENGTH, HeaderValue::from(*length));
            }
            let upload = upload.as_ref().map(|(upload, _)| upload);
            let response = self.call(&at.url, request, upload).await?;
            let follow = matches!(response.status().as_u16(), 301 | 302 | 307 | 308)
                || (response.status() == StatusCode::SEE_OTHER && method == Method::GET);
            if !follow {
                return Ok(self.answer(at, response));
            }
            if is_stream {
                return Err(Error::new(
                    ErrorKind::Transport,
                    format!("{at} redirects a streamed request"),
                ));
            }
            let location = response.headers().get(header::LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            at = at.redirected(location.unwrap_or_default())?;
        }
        Err(Error::new(
            ErrorKind::Transport,
            format!("{origin} redirects more than {MAX_REDIRECTS} times"),
        ))
    }

    fn answer(&self, from: Address, response: Response<ResponseStream>) -> HttpResponse {
        let (parts, body) = response.into_parts();
        let body = ResponseBody::new(body, self.idle_timeout(), false, from.to_string());
        HttpResponse {
            from,
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }
}

impl SmartHttp {
    /// Returns the connections of the client.
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// Returns the `Authorization` header for `url`; `None` when `url` is not of the
    /// repository's origin, or when there are no credentials.
    ///
    /// # Errors
    /// `Config` when credentials would be sent without encryption, except to this machine.
    pub async fn login(&self, url: &RepositoryUrl) -> Result<Option<HeaderValue>> {
        if !self.origin.trusts(url) {
            return Ok(None);
        }
        let credentials = match self.origin.credentials() {
            Some(credentials) => Some(credentials.clone()),
            None => self.credentials.credentials(url).await?,
        };
        let Some(credentials) = credentials else {
            return Ok(None);
        };
        if !url.is_secure() && !url.is_loopback() {
            let message = format!("a password would be sent to {url} without encryption");
            return Err(Error::new(ErrorKind::Config, message).with_hint("use `https://`"));
        }
        credentials.header().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_sends_its_query_and_never_shows_it() {
        let address = Address::new("https://u:p@S3.example/a%20b/?sig=secret&x=/y#z").unwrap();
        assert_eq!(address.to_string(), "https://s3.example/a%20b");
        assert_eq!(format!("{address:?}"), "https://s3.example/a%20b");
        assert_eq!(address.uri, "https://s3.example/a%20b/?sig=secret&x=/y");
        for text in ["", "ftp://h/secret", "/secret", "https://h/ secret"] {
            let report = Address::new(text).unwrap_err().report();
            assert!(!report.contains("secret"), "{report}");
        }
    }

    #[test]
    fn redirects_may_leave_the_host_but_not_https() {
        let at = Address::new("https://h/a?b").unwrap();
        let to = |location: &str| at.redirected(location).map(|to| to.uri.to_string());
        assert_eq!(to("/c?d").unwrap(), "https://h/c?d");
        assert_eq!(to("//o/c").unwrap(), "https://o/c");
        assert_eq!(to("https://o:8443/c?d").unwrap(), "https://o:8443/c?d");
        for location in [
            "http://h/a",
            "https://u:p@h/",
            "c",
            "",
            "file:///etc/passwd",
        ] {
            assert!(to(location).is_err(), "{location} is refused");
        }
    }
}
