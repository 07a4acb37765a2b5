//! Requests that are none of git's own protocol, over the same connections: what a server
//! offers beside it, and addresses that it names.

use std::fmt;

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};

use super::body::ResponseBody;
use super::connector::{RequestBody, ResponseStream};
use super::transport::REDIRECTS;
use super::upload::Upload;
use super::{Http, RepositoryUrl, SmartHttp};
use crate::AGENT;
use crate::error::{Error, ErrorKind, Result};

/// An `http` or `https` URL with its query.
///
/// `Display` and `Debug` leave user, password and query out: a query may be a signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    url: RepositoryUrl,
    // As it is asked for.
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
    /// Validates `text`; a fragment is dropped.
    ///
    /// # Errors
    /// `Config`; the message does not repeat the text, which may hold a secret.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.split('#').next().unwrap_or_default();
        let base = text.split('?').next().unwrap_or_default();
        let url = RepositoryUrl::new(base)?;
        let bad = || Error::new(ErrorKind::Config, format!("an address at {url} is no URL"));
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

    /// It without its query.
    pub fn url(&self) -> &RepositoryUrl {
        &self.url
    }

    /// Where a redirect leads.
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
        let to = Self::new(&absolute).map_err(|_| refused("to something that is no URL"))?;
        if to.url.credentials().is_some() {
            return Err(refused("to a URL with a user"));
        }
        if self.url.is_secure() && !to.url.is_secure() {
            return Err(refused("from `https` to `http`"));
        }
        Ok(to)
    }
}

/// A request.
pub struct HttpRequestSpec {
    /// Its method.
    pub method: Method,
    /// Where it goes.
    pub to: Address,
    /// Headers that may be secrets: they go to the origin of `to`, and nowhere else,
    /// wherever that redirects.
    pub private: HeaderMap,
    /// Headers that anyone may see.
    pub headers: HeaderMap,
    /// What is sent.
    pub body: CallBody,
}

/// The body of a request.
pub enum CallBody {
    /// All of it.
    Bytes(Bytes),
    /// As it comes, so many bytes when that is known. It can be sent once: a redirect is
    /// an error.
    Stream(BoxStream<'static, Result<Bytes>>, Option<u64>),
}

impl fmt::Debug for HttpRequestSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method)
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

/// An answer of any status, but for redirects that were followed.
pub struct HttpResponse {
    from: Address,
    status: StatusCode,
    headers: HeaderMap,
    body: ResponseBody,
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("from", &self.from)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl HttpResponse {
    /// Who answered, after redirects.
    pub fn from(&self) -> &Address {
        &self.from
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// A header that is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The whole body.
    ///
    /// # Errors
    /// `Corrupt` when it is longer than `most`.
    pub async fn read(mut self, most: usize) -> Result<Bytes> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.body.chunk().await? {
            if whole.len() + chunk.len() > most {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("{} answers with more than {most} bytes", self.from),
                ));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// The start of the body, as far as it arrives.
    pub async fn excerpt(self, most: usize) -> Vec<u8> {
        self.body.excerpt(most).await
    }

    /// The body as it comes.
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
    /// Sends a request that needs no login but what it brings along. Redirects are
    /// followed with the same method.
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
        for _ in 0..=REDIRECTS {
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
            let all = request.headers_mut();
            all.extend(headers.clone());
            all.extend(private.clone());
            all.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
            if let Some((_, Some(length))) = &upload {
                all.insert(header::CONTENT_LENGTH, HeaderValue::from(*length));
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
                    format!("{at} redirects what was sent to it"),
                ));
            }
            let location = response.headers().get(header::LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            at = at.redirected(location.unwrap_or_default())?;
        }
        Err(Error::new(
            ErrorKind::Transport,
            format!("{origin} redirects more than {REDIRECTS} times"),
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
    /// The connections that it uses.
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// What to log in with at `url`; `None` where that is not the repository's own origin,
    /// or there is nothing to log in with.
    pub async fn login(&self, url: &RepositoryUrl) -> Result<Option<HeaderValue>> {
        if !self.origin.trusts(url) {
            return Ok(None);
        }
        let credentials = match self.origin.credentials() {
            Some(credentials) => Some(credentials.clone()),
            None => self.credentials.credentials(url).await?,
        };
        credentials
            .map(|credentials| credentials.header())
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_query_and_shows_none_of_it() {
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
