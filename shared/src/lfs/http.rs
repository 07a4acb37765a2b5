//! LFS objects on servers with git-lfs's batch API and its basic transfers.
//!
//! Only expired actions are retried here.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use serde::Deserialize;

use super::batch::{self, Action, MEDIA_TYPE, ObjectResponse, Operation};
use super::resumable::skip;
use super::{LfsBody, LfsStore, MAX_BATCH_OBJECTS, Pointer, missing_object};
use crate::error::{Error, ErrorKind, Result};
use crate::git::smart_http::{
    Address, CallBody, HttpRequestSpec, HttpResponse, RepositoryUrl, SmartHttp,
};
use crate::git::{escaped_excerpt, foreign_message};

/// Maximum size of the answer to a batch, in bytes: 100 objects with two addresses and
/// their headers.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Bytes of an error's body that are read.
const EXCERPT_BYTES: usize = 4096;
/// Maximum wait that a server can request.
const MAX_WAIT: Duration = Duration::from_mins(2);

/// Answers for single objects by their ids; a refusal is returned when the object is
/// transferred.
type Offers = Mutex<HashMap<String, Result<ObjectResponse>>>;

/// LFS objects of a repository on a server.
pub struct HttpLfs {
    client: SmartHttp,
    batch: Address,
    // Answers to the last batches that are not used yet.
    downloads: Offers,
    uploads: Offers,
}

impl fmt::Display for HttpLfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.batch.fmt(f)
    }
}

/// Returns git-lfs's default URL of the batch API of a repository.
fn batch_url(url: &RepositoryUrl) -> Result<Address> {
    let path = url.path();
    let base = match path.rsplit_once('.') {
        Some((_, "git")) => url.to_string(),
        _ if path.is_empty() => format!("{url}/.git"),
        _ => format!("{url}.git"),
    };
    Ok(Address::new(&format!("{base}/info/lfs/objects/batch"))?)
}

/// Returns whether an expired address may cause this failure.
fn may_be_expired(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::AccessDenied | ErrorKind::NotFound | ErrorKind::Config
    )
}

impl HttpLfs {
    /// Makes the store of the repository that `client` is for.
    ///
    /// # Errors
    /// `Config` when the URL of the batch API is invalid.
    pub fn new(client: SmartHttp) -> Result<Self> {
        Ok(Self {
            batch: batch_url(client.url())?,
            client,
            downloads: Mutex::default(),
            uploads: Mutex::default(),
        })
    }

    /// Makes the store of an LFS server at the URL of `client`, as `lfs.url` names it.
    ///
    /// # Errors
    /// `Config` when the URL of the batch API is invalid.
    pub fn at_server(client: SmartHttp) -> Result<Self> {
        Ok(Self {
            batch: Address::new(&format!("{}/objects/batch", client.url()))?,
            client,
            downloads: Mutex::default(),
            uploads: Mutex::default(),
        })
    }

    async fn request_batch(
        &self,
        operation: Operation,
        pointers: &[Pointer],
    ) -> Result<Vec<Result<ObjectResponse>>> {
        let mut headers = unencoded();
        headers.insert(header::ACCEPT, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        let call = HttpRequestSpec {
            method: Method::POST,
            to: self.batch.clone(),
            private: self.login(&self.batch, HeaderMap::new()).await?,
            headers,
            body: CallBody::Bytes(batch::request(operation, pointers).into()),
        };
        let answer = self.client.http().send(call).await?;
        if answer.status() != StatusCode::OK {
            let status = answer.status();
            let error = failure(answer).await;
            if !matches!(status.as_u16(), 404 | 405 | 410 | 501) {
                return Err(error);
            }
            let first = pointers.first().map_or("", |pointer| &pointer.oid);
            let message = format!("{self} does not serve LFS objects, such as {first}");
            return Err(Error::new(ErrorKind::NotFound, message)
                .with_source(error)
                .with_hint(
                    "check the credentials, or mirror without LFS objects: `\"lfs\": false`",
                ));
        }
        // The address after redirects, because actions must be as secure as that one.
        let from = answer.from().clone();
        check_encoding(&answer)?;
        let body = answer.read(MAX_ANSWER_BYTES).await?;
        batch::parse(&from, pointers, &body)
    }

    /// Requests a batch of one object.
    async fn request_object(
        &self,
        operation: Operation,
        pointer: &Pointer,
    ) -> Result<ObjectResponse> {
        let mut offers = self
            .request_batch(operation, std::slice::from_ref(pointer))
            .await?;
        offers.pop().unwrap_or_else(|| {
            Err(Error::new(
                ErrorKind::Internal,
                "the answer to a batch is empty",
            ))
        })
    }

    /// Adds the credentials for `to` to the headers, if there are any and the headers have none.
    async fn login(&self, to: &Address, mut headers: HeaderMap) -> Result<HeaderMap> {
        if !headers.contains_key(header::AUTHORIZATION)
            && let Some(login) = self.client.login(to.url()).await?
        {
            headers.insert(header::AUTHORIZATION, login);
        }
        Ok(headers)
    }

    /// Makes the request of an action.
    async fn perform(
        &self,
        action: Action,
        method: Method,
        headers: HeaderMap,
        body: CallBody,
    ) -> Result<HttpResponse> {
        let Action {
            to,
            headers: private,
            authenticated,
            ..
        } = action;
        let private = if authenticated {
            private
        } else {
            self.login(&to, private).await?
        };
        // Headers of the action take precedence over the default ones.
        let missing = |name: &header::HeaderName| !private.contains_key(name);
        let headers = headers
            .into_iter()
            .filter_map(|(name, value)| Some((name?, value)))
            .filter(|(name, _)| missing(name))
            .collect();
        let call = HttpRequestSpec {
            method,
            to,
            private,
            headers,
            body,
        };
        let answer = self.client.http().send(call).await?;
        if answer.status().is_success() {
            Ok(answer)
        } else {
            Err(failure(answer).await)
        }
    }

    /// Downloads an object from byte `position` on.
    async fn download(
        &self,
        pointer: &Pointer,
        mut offer: ObjectResponse,
        position: u64,
    ) -> Result<LfsBody> {
        let action = offer.actions.remove("download").ok_or_else(|| {
            let message = format!("{self} sent no address of LFS object {}", pointer.oid);
            Error::new(ErrorKind::NotFound, message)
        })?;
        let empty = CallBody::Bytes(bytes::Bytes::new());
        let mut headers = unencoded();
        if position > 0 {
            let range = HeaderValue::try_from(format!("bytes={position}-"));
            headers.insert(header::RANGE, range.expect("because it is plain text"));
        }
        let answer = self.perform(action, Method::GET, headers, empty).await?;
        check_encoding(&answer)?;
        let is_partial = answer.status() == StatusCode::PARTIAL_CONTENT;
        let start = format!("bytes {position}-");
        let range = answer.header("content-range").unwrap_or_default();
        if is_partial && !range.starts_with(&start) {
            let message = format!("{} sent another range than `{start}`", answer.from());
            return Err(Error::new(ErrorKind::Config, message));
        }
        let content = answer.into_stream().map_err(Into::into).boxed();
        // A server may ignore the range.
        let skipped = if is_partial { 0 } else { position };
        Ok(skip(content, skipped))
    }

    async fn upload(
        &self,
        pointer: &Pointer,
        mut offer: ObjectResponse,
        content: LfsBody,
    ) -> Result<()> {
        if let Some(action) = offer.actions.remove("upload") {
            let mut headers = HeaderMap::new();
            let octets = HeaderValue::from_static("application/octet-stream");
            headers.insert(header::CONTENT_TYPE, octets);
            let length = (!action.chunked).then_some(pointer.size_bytes);
            let body = CallBody::Stream(content.map_err(Into::into).boxed(), length);
            self.perform(action, Method::PUT, headers, body).await?;
        }
        if let Some(action) = offer.actions.remove("verify") {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(MEDIA_TYPE));
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
            let body = CallBody::Bytes(batch::verification(pointer).into());
            self.perform(action, Method::POST, headers, body).await?;
        }
        Ok(())
    }

    /// Removes the answer for an object from an earlier batch; `None` if it has expired.
    ///
    /// # Errors
    /// The server's refusal of this object.
    fn take_valid(offers: &Offers, pointer: &Pointer) -> Result<Option<ObjectResponse>> {
        let Some(offer) = lock(offers).remove(&pointer.oid).transpose()? else {
            return Ok(None);
        };
        let expired = offer.actions.values().any(Action::is_expired);
        Ok((!expired).then_some(offer))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl LfsStore for HttpLfs {
    async fn missing(&self, pointers: &[Pointer]) -> Result<Vec<Pointer>> {
        debug_assert!(
            pointers.len() <= MAX_BATCH_OBJECTS,
            "servers accept no more"
        );
        let offers = self.request_batch(Operation::Upload, pointers).await?;
        let mut missing = Vec::new();
        let mut uploads = lock(&self.uploads);
        for (pointer, offer) in pointers.iter().zip(offers) {
            let is_stored = offer
                .as_ref()
                .is_ok_and(|offer| !offer.actions.contains_key("upload"));
            if !is_stored {
                uploads.insert(pointer.oid.clone(), offer);
                missing.push(pointer.clone());
            }
        }
        Ok(missing)
    }

    async fn prepare(&self, pointers: &[Pointer]) -> Result<Vec<Pointer>> {
        debug_assert!(
            pointers.len() <= MAX_BATCH_OBJECTS,
            "servers accept no more"
        );
        let offers = self.request_batch(Operation::Download, pointers).await?;
        let mut refused = Vec::new();
        let offers = pointers.iter().zip(offers).map(|(pointer, offer)| {
            let offer = offer.map_err(|error| match error.kind() {
                // Of this object only, so that it does not end the run.
                ErrorKind::AccessDenied => missing_object(pointer, self).with_source(error),
                _ => self.with_object(pointer, error),
            });
            if matches!(&offer, Err(error) if error.kind() == ErrorKind::NotFound) {
                refused.push(pointer.clone());
            }
            (pointer.oid.clone(), offer)
        });
        lock(&self.downloads).extend(offers);
        Ok(refused)
    }

    async fn read(&self, pointer: &Pointer) -> Result<LfsBody> {
        self.read_from(pointer, 0).await
    }

    async fn read_from(&self, pointer: &Pointer, position: u64) -> Result<LfsBody> {
        if let Some(offer) = Self::take_valid(&self.downloads, pointer)? {
            match self.download(pointer, offer, position).await {
                // Retried below, because the address may have expired early.
                Err(error) if may_be_expired(&error) => {}
                done => return done,
            }
        }
        let read = async {
            let offer = self.request_object(Operation::Download, pointer).await?;
            self.download(pointer, offer, position).await
        };
        read.await.map_err(|error| self.with_object(pointer, error))
    }

    async fn write(&self, pointer: &Pointer, content: LfsBody) -> Result<()> {
        if let Some(offer) = Self::take_valid(&self.uploads, pointer)? {
            let done = self.upload(pointer, offer, content).await;
            return done.map_err(|error| {
                if may_be_expired(&error) {
                    // Not retried here, because the content is consumed. `Transport` makes
                    // the caller retry, which requests a new address.
                    let message = format!("{self} refused LFS object {}", pointer.oid);
                    Error::new(ErrorKind::Transport, message).with_source(error)
                } else {
                    error
                }
            });
        }
        let offer = self.request_object(Operation::Upload, pointer).await?;
        self.upload(pointer, offer, content)
            .await
            .map_err(|error| error.context(format!("LFS object {}", pointer.oid)))
    }
}

impl HttpLfs {
    /// Adds the object to the error of a read.
    fn with_object(&self, pointer: &Pointer, error: Error) -> Error {
        if error.kind() == ErrorKind::NotFound {
            missing_object(pointer, self).with_source(error)
        } else {
            error.context(format!("LFS object {}", pointer.oid))
        }
    }
}

/// Makes headers that request bytes as they are stored.
fn unencoded() -> HeaderMap {
    let identity = HeaderValue::from_static("identity");
    HeaderMap::from_iter([(header::ACCEPT_ENCODING, identity)])
}

/// Refuses an answer that is compressed, although that was not requested.
fn check_encoding(answer: &HttpResponse) -> Result<()> {
    let encoding = answer.header("content-encoding").unwrap_or("identity");
    if encoding.trim().eq_ignore_ascii_case("identity") {
        return Ok(());
    }
    let encoding = escaped_excerpt(encoding.as_bytes());
    let message = format!(
        "{} compresses its answers (`Content-Encoding: {encoding}`), although they were requested \
         uncompressed",
        answer.from()
    );
    Err(Error::new(ErrorKind::Config, message)
        .with_hint("turn off compression for LFS objects in that server or the proxy before it"))
}

/// Converts an answer to an error, after the wait that the server requests.
async fn failure(answer: HttpResponse) -> Error {
    #[derive(Deserialize)]
    struct ErrorBody {
        message: String,
    }
    let (status, from) = (answer.status(), answer.from().clone());
    let wait = answer
        .header("retry-after")
        .and_then(|text| parse_retry_after(text, Timestamp::now()));
    let number = status.as_u16();
    let (kind, hint) = match number {
        404 | 410 => (ErrorKind::NotFound, "check the URL and the credentials"),
        401 => (
            ErrorKind::AccessDenied,
            "provide credentials, or check the provided ones",
        ),
        403 | 407 => (
            ErrorKind::AccessDenied,
            "check the credentials and their permissions",
        ),
        413 => (
            ErrorKind::FileTooLarge,
            "the object is larger than the server accepts",
        ),
        507 | 509 => (
            ErrorKind::AccessDenied,
            "the server's quota for LFS objects is used up",
        ),
        429 => (ErrorKind::Throttled, "try again later"),
        300..=399 => (ErrorKind::Transport, "use the URL of the redirect"),
        408 | 425 | 500.. => (ErrorKind::Transport, "try again later"),
        _ => (
            ErrorKind::Config,
            "check that this is a server with git-lfs's batch API",
        ),
    };
    let body = answer.excerpt(EXCERPT_BYTES).await;
    let mut message = format!("{from} answers {status}");
    if let Ok(error) = serde_json::from_slice::<ErrorBody>(&body) {
        message = format!("{message}: {}", foreign_message(error.message.as_bytes()));
    }
    if let Some(wait) = wait
        && matches!(kind, ErrorKind::Throttled | ErrorKind::Transport)
    {
        tokio::time::sleep(wait.min(MAX_WAIT)).await;
    }
    Error::new(kind, message).with_hint(hint)
}

/// Parses `Retry-After`: seconds, or a date.
fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    let left = at.as_second().saturating_sub(now.as_second());
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_url_is_the_default_of_git_lfs() {
        for (repository, batch) in [
            ("https://h/a/b", "https://h/a/b.git"),
            ("https://h/a/b.git", "https://h/a/b.git"),
            ("https://h/a/b.git/", "https://h/a/b.git"),
            ("https://u:p@h:8443/a/b/", "https://h:8443/a/b.git"),
            ("https://h", "https://h/.git"),
        ] {
            let url = RepositoryUrl::new(repository).unwrap();
            let expected = format!("{batch}/info/lfs/objects/batch");
            assert_eq!(batch_url(&url).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let wait = |text| parse_retry_after(text, now).map(|wait| wait.as_secs());
        assert_eq!(wait("7"), Some(7));
        assert_eq!(wait("Tue, 14 Nov 2023 22:13:27 GMT"), Some(7));
        assert_eq!(wait("Tue, 14 Nov 2023 22:13:17 GMT"), Some(0));
        assert_eq!((wait("soon"), wait("-3")), (None, None));
    }
}
