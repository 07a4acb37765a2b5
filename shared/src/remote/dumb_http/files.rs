//! Files of a repository on a web server.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::git::foreign_message;
use crate::git::smart_http::{Address, CallBody, HttpRequestSpec, HttpResponse, SmartHttp};
use crate::remote::PackBody;
use crate::remote::dumb_files::RepositoryFiles;
use crate::retry::RetryPolicy;

/// Maximum number of concurrent requests to one server.
const CONCURRENT_REQUESTS: usize = 8;
/// Bytes of an error's body that are read.
const EXCERPT_BYTES: usize = 4096;

/// Files below the URL of a repository.
pub(in crate::remote) struct HttpFiles {
    client: SmartHttp,
    policy: RetryPolicy,
    max_bytes: usize,
    // Files that a server without range requests sent whole, within `max_bytes`.
    whole: Mutex<HashMap<String, Bytes>>,
}

impl fmt::Display for HttpFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.url().fmt(f)
    }
}

impl HttpFiles {
    /// Makes the files of the repository of `client`, which reads files of at most `max_bytes`
    /// bytes whole.
    pub(in crate::remote) fn new(client: SmartHttp, max_bytes: usize) -> Self {
        Self {
            client,
            policy: RetryPolicy::new(CONCURRENT_REQUESTS),
            max_bytes,
            whole: Mutex::default(),
        }
    }

    /// Requests a file, or a range of it; `None` if the file is missing.
    async fn get(&self, path: &str, range: Option<&Range<u64>>) -> Result<Option<HttpResponse>> {
        let to = Address::new(&format!("{}/{path}", self.client.url()))?;
        let mut private = HeaderMap::new();
        if let Some(login) = self.client.login(to.url()).await? {
            private.insert(header::AUTHORIZATION, login);
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        if let Some(range) = range {
            let text = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
            let value = HeaderValue::try_from(text).expect("because it has digits only");
            headers.insert(header::RANGE, value);
        }
        let call = HttpRequestSpec {
            method: Method::GET,
            to,
            private,
            headers,
            body: CallBody::Bytes(Bytes::new()),
        };
        let answer = self.client.http().send(call).await?;
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            // A bucket that its readers may not list answers so for a missing file, and these may
            // be missing.
            StatusCode::FORBIDDEN if path.starts_with("objects/info/") => return Ok(None),
            _ => return Err(failure(answer).await),
        }
        if let Some(encoding) = answer.header("content-encoding")
            && encoding != "identity"
        {
            let from = answer.from();
            let encoding = foreign_message(encoding.as_bytes());
            let message = format!("{from} is served compressed (`{encoding}`), unasked");
            return Err(Error::new(ErrorKind::Config, message)
                .with_hint("turn off compression at the server for the repository's files"));
        }
        Ok(Some(answer))
    }

    /// Reads a body of at most `max_bytes` bytes.
    async fn body(&self, answer: HttpResponse) -> Result<Bytes> {
        let from = answer.from().clone();
        let mut chunks = answer.into_stream();
        let mut whole = BytesMut::new();
        while let Some(chunk) = chunks.try_next().await? {
            if whole.len() + chunk.len() > self.max_bytes {
                let message = format!("{from} has more than {} bytes", self.max_bytes);
                return Err(Error::new(ErrorKind::FileTooLarge, message)
                    .with_hint("raise the memory limit, or serve it with range requests"));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    fn cached(&self, path: &str, range: &Range<u64>) -> Option<Bytes> {
        let whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.get(path).map(|bytes| cut(bytes, range))
    }

    /// Caches a file, and drops others to stay within `max_bytes`.
    fn insert(&self, path: &str, bytes: Bytes) {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: usize = whole.values().map(Bytes::len).sum();
        if kept + bytes.len() > self.max_bytes {
            whole.clear();
        }
        whole.insert(path.to_owned(), bytes);
    }

    async fn range_once(&self, path: &str, range: &Range<u64>) -> Result<Bytes> {
        if let Some(kept) = self.cached(path, range) {
            return Ok(kept);
        }
        let answer = self.get(path, Some(range)).await?;
        let answer = answer.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("`{path}` of {self} does not exist"),
            )
        })?;
        if answer.status() == StatusCode::OK {
            let bytes = self.body(answer).await?;
            let found = cut(&bytes, range);
            self.insert(path, bytes);
            return Ok(found);
        }
        let sent = answer.header("content-range").and_then(ContentRange::parse);
        if sent.is_none_or(|sent| sent.start != range.start) {
            return Err(other_range(&answer));
        }
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        Ok(answer.read(length).await?)
    }

    /// Opens a file from byte `range.start` on; returns its bytes, and the number of those before
    /// the range that a server without range requests sends, too.
    pub(super) async fn open_range(
        &self,
        path: &str,
        range: Range<u64>,
    ) -> Result<Option<(PackBody, u64)>> {
        let opened = self.policy.run(|| self.get(path, Some(&range))).await?;
        let Some(answer) = opened else {
            return Ok(None);
        };
        if answer.status() == StatusCode::OK {
            return Ok(Some((answer.into_stream(), range.start)));
        }
        let sent = answer.header("content-range").and_then(ContentRange::parse);
        if sent.is_none_or(|sent| sent.start != range.start) {
            return Err(other_range(&answer));
        }
        Ok(Some((answer.into_stream(), 0)))
    }

    async fn size_once(&self, path: &str) -> Result<Option<u64>> {
        let Some(answer) = self.get(path, Some(&(0..1))).await? else {
            return Ok(None);
        };
        let size = match answer.status() {
            StatusCode::OK => answer
                .header("content-length")
                .and_then(|length| length.parse().ok()),
            _ => answer
                .header("content-range")
                .and_then(ContentRange::parse)
                .and_then(|range| range.size),
        };
        match size {
            Some(size) => Ok(Some(size)),
            None => Err(Error::new(
                ErrorKind::Config,
                format!("{} is served without its size", answer.from()),
            )
            .with_hint("serve it as a file, with `Content-Length` or range requests")),
        }
    }
}

#[async_trait]
impl RepositoryFiles for HttpFiles {
    async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        let read = || async {
            match self.get(path, None).await? {
                Some(answer) => self.body(answer).await.map(Some),
                None => Ok(None),
            }
        };
        self.policy.run(read).await
    }

    async fn open(&self, path: &str) -> Result<Option<PackBody>> {
        let opened = self.policy.run(|| self.get(path, None)).await?;
        Ok(opened.map(HttpResponse::into_stream))
    }

    async fn size(&self, path: &str) -> Result<Option<u64>> {
        self.policy.run(|| self.size_once(path)).await
    }

    async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.policy.run(|| self.range_once(path, &range)).await
    }

    async fn may_have_loose(&self) -> Result<bool> {
        // A web server has no list of its files.
        Ok(true)
    }
}

fn other_range(answer: &HttpResponse) -> Error {
    let from = answer.from();
    corrupt(format!("{from} returned another range than was requested"))
}

/// Returns a range of bytes, shorter where they end before.
fn cut(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    let within = |at: u64| usize::try_from(at).map_or(bytes.len(), |at| at.min(bytes.len()));
    bytes.slice(within(range.start)..within(range.end))
}

/// `Content-Range` of a response with status 206 (RFC 9110, section 14.4).
struct ContentRange {
    start: u64,
    size: Option<u64>,
}

impl ContentRange {
    /// Parses `bytes <first>-<last>/<size or *>`.
    fn parse(text: &str) -> Option<Self> {
        let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        Some(Self {
            start: range.split_once('-')?.0.trim().parse().ok()?,
            size: size.trim().parse().ok(),
        })
    }
}

/// Converts a response with another status to an error.
async fn failure(answer: HttpResponse) -> Error {
    let (status, from) = (answer.status(), answer.from().clone());
    let (kind, hint) = match status.as_u16() {
        401 => (
            ErrorKind::AccessDenied,
            "provide credentials, or check the provided ones",
        ),
        403 | 407 => (
            ErrorKind::AccessDenied,
            "check the credentials; a bucket answers so for a missing file, unless its readers have \
             `s3:ListBucket`",
        ),
        416 => (
            ErrorKind::Corrupt,
            "the file is shorter than its index says",
        ),
        429 => (ErrorKind::Throttled, "try again later"),
        408 | 425 | 500.. => (ErrorKind::Transport, "try again later"),
        300..=399 => (ErrorKind::Transport, "use the URL to which it redirects"),
        _ => (ErrorKind::Config, "is this the URL of a git repository?"),
    };
    let is_html = answer
        .header("content-type")
        .is_some_and(|kind| kind.contains("html"));
    let text = foreign_message(&answer.excerpt(EXCERPT_BYTES).await);
    let mut message = format!("{from} returned {status}");
    if !text.is_empty() && !is_html {
        message = format!("{message}: {text}");
    }
    Error::new(kind, message).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_has_a_start_and_perhaps_a_size() {
        let parse = |text| ContentRange::parse(text).map(|range| (range.start, range.size));
        assert_eq!(parse("bytes 0-0/12"), Some((0, Some(12))));
        assert_eq!(parse("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes */12", "bytes x-1/2", "items 0-0/1", "bytes 0-0"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_range_ends_with_the_bytes() {
        let bytes = Bytes::from_static(b"abcdef");
        assert_eq!(cut(&bytes, &(1..3)), "bc");
        assert_eq!(cut(&bytes, &(4..9)), "ef");
        assert_eq!(cut(&bytes, &(7..u64::MAX)), "");
    }
}
