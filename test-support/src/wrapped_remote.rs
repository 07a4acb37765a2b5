//! Remotes and credentials that stand between core and the real ones, to change or to record them.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use branchline_core::Result;
use branchline_core::git::smart_http::{CredentialSource, Credentials, RepositoryUrl};
use branchline_core::remote::{PackBody, PackRequest, Remote, Snapshot, Source, Target};
use bytes::Bytes;

type WrapSource = Box<dyn Fn(Box<dyn Source>) -> Box<dyn Source> + Send + Sync>;
type WrapTarget = Box<dyn Fn(Box<dyn Target>) -> Box<dyn Target> + Send + Sync>;

/// A remote whose opened sources or targets are wrapped.
pub struct WrappedRemote<R> {
    inner: R,
    wrap_source: Option<WrapSource>,
    wrap_target: Option<WrapTarget>,
}

impl<R: Remote> WrappedRemote<R> {
    /// Wraps nothing yet.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            wrap_source: None,
            wrap_target: None,
        }
    }

    /// Wraps each opened source by `wrap`.
    #[must_use]
    pub fn with_source(
        mut self,
        wrap: impl Fn(Box<dyn Source>) -> Box<dyn Source> + Send + Sync + 'static,
    ) -> Self {
        self.wrap_source = Some(Box::new(wrap));
        self
    }

    /// Wraps each opened target by `wrap`.
    #[must_use]
    pub fn with_target(
        mut self,
        wrap: impl Fn(Box<dyn Target>) -> Box<dyn Target> + Send + Sync + 'static,
    ) -> Self {
        self.wrap_target = Some(Box::new(wrap));
        self
    }

    /// Answers each request for a pack with the bytes `pack`.
    #[must_use]
    pub fn with_pack(self, pack: impl Into<Bytes>) -> Self {
        let pack = pack.into();
        self.with_source(move |source| {
            Box::new(FixedPackSource {
                snapshot: source.snapshot().clone(),
                pack: pack.clone(),
            })
        })
    }
}

impl<R: fmt::Debug> fmt::Debug for WrappedRemote<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WrappedRemote").field(&self.inner).finish()
    }
}

impl<R: fmt::Display> fmt::Display for WrappedRemote<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl<R: Remote> Remote for WrappedRemote<R> {
    async fn source(&self, prefixes: &[bstr::BString]) -> Result<Box<dyn Source>> {
        let source = self.inner.source(prefixes).await?;
        Ok(match &self.wrap_source {
            Some(wrap) => wrap(source),
            None => source,
        })
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        let target = self.inner.target().await?;
        Ok(match &self.wrap_target {
            Some(wrap) => wrap(target),
            None => target,
        })
    }
}

/// A source that answers every request with the same pack.
struct FixedPackSource {
    snapshot: Snapshot,
    pack: Bytes,
}

#[async_trait]
impl Source for FixedPackSource {
    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    async fn fetch(&self, _: &PackRequest) -> Result<PackBody> {
        let pack = self.pack.clone();
        Ok(Box::pin(futures_util::stream::once(async { Ok(pack) })))
    }
}

/// Credentials of another source, with a record of the repositories that they were requested for.
pub struct CountingCredentials<S> {
    inner: S,
    // Host and path of each request.
    requests: Mutex<Vec<String>>,
}

impl<S: CredentialSource> CountingCredentials<S> {
    /// Records the requests to `inner`.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            requests: Mutex::default(),
        }
    }

    /// Returns host and path of each request, in order.
    pub fn requests(&self) -> Vec<String> {
        let requests = self.requests.lock();
        requests.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<S> fmt::Debug for CountingCredentials<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountingCredentials")
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<S: CredentialSource> CredentialSource for CountingCredentials<S> {
    async fn credentials(
        &self,
        repository: &RepositoryUrl,
    ) -> branchline_core::git::Result<Option<Credentials>> {
        let name = format!("{}{}", repository.host(), repository.path());
        let requests = self.requests.lock();
        requests.unwrap_or_else(PoisonError::into_inner).push(name);
        self.inner.credentials(repository).await
    }
}

/// A new password for each request: `s3cret-0`, `s3cret-1`, ..
#[derive(Debug, Default)]
pub struct NumberedPasswords(AtomicUsize);

#[async_trait]
impl CredentialSource for NumberedPasswords {
    async fn credentials(
        &self,
        _: &RepositoryUrl,
    ) -> branchline_core::git::Result<Option<Credentials>> {
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Some(Credentials::new("user", format!("s3cret-{number}"))))
    }
}
