//! CodeCommit repositories: found and created through the API, read and written by git over
//! HTTPS.
//!
//! CodeCommit has no LFS store: mirrors leave LFS objects out, with a warning.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bstr::{BString, ByteSlice as _};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Either, ready, select};

use super::smart_http::{HttpSource, HttpTarget};
use super::url::CodeCommitUrl;
use super::{
    BatchPolicy, Head, Push, PushReport, Remote, Snapshot, Source, Target, TargetCapabilities,
};
use crate::codecommit::{CodeCommit, Repository, git_client};
use crate::error::{ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::smart_http::{CredentialSource, Http, RepositoryUrl, SmartHttp};
use crate::name::{BranchName, RepositoryName};

/// Base of the clone URLs of each region, from earlier `GetRepository` answers. With it the URL of
/// a further repository is predicted, so that it can be opened while `GetRepository` runs.
#[derive(Debug, Clone, Default)]
pub struct CloneUrlCache(Arc<Mutex<HashMap<String, String>>>);

impl CloneUrlCache {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, region: &str, repository: &Repository) {
        let name = repository.name.as_str();
        if let Some(base) = repository.clone_url_http.strip_suffix(name) {
            self.lock().insert(region.to_owned(), base.to_owned());
        }
    }

    /// Predicts the clone URL of a repository; `None` without an earlier answer of the region.
    fn predict_url(&self, region: &str, name: &RepositoryName) -> Option<RepositoryUrl> {
        let url = format!("{}{name}", self.lock().get(region)?);
        RepositoryUrl::new(&url).ok()
    }
}

/// A repository of CodeCommit.
#[derive(Clone)]
pub struct CodeCommitRemote {
    url: CodeCommitUrl,
    service: Arc<dyn CodeCommit>,
    http: Http,
    credentials: Arc<dyn CredentialSource>,
    clone_urls: CloneUrlCache,
    create: bool,
}

impl fmt::Debug for CodeCommitRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeCommitRemote")
            .field("url", &self.url)
            .field("create", &self.create)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for CodeCommitRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl CodeCommitRemote {
    /// Names the repository at `url`. `service` and `credentials` must be for its region and
    /// profile; the clone URL is the one that the service returns.
    pub fn new(
        url: CodeCommitUrl,
        service: Arc<dyn CodeCommit>,
        http: Http,
        credentials: Arc<dyn CredentialSource>,
    ) -> Self {
        Self {
            url,
            service,
            http,
            credentials,
            clone_urls: CloneUrlCache::default(),
            create: false,
        }
    }

    /// As a target, creates a missing repository, and sets the default branch to the `HEAD` of a
    /// push. Without `create` the default branch is not changed.
    #[must_use]
    pub fn with_create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Shares a clone-URL cache with other remotes of the same endpoint.
    #[must_use]
    pub fn with_url_cache(mut self, clone_urls: CloneUrlCache) -> Self {
        self.clone_urls = clone_urls;
        self
    }

    /// Calls `GetRepository` and opens the repository; concurrently if the URL is predictable.
    async fn open_repository<T>(
        &self,
        create: bool,
        open: impl Fn(SmartHttp) -> BoxFuture<'static, Result<T>>,
    ) -> Result<(Repository, T)>
    where
        T: Send + 'static,
    {
        let region = self.url.region.as_deref().unwrap_or_default();
        let name = &self.url.repository;
        let predicted = self.clone_urls.predict_url(region, name);
        let early = predicted.clone().map(|url| {
            let credentials = Arc::clone(&self.credentials);
            open(SmartHttp::new(self.http.clone(), url, credentials))
        });
        let get = self.service.get_repository(name);
        // The early result counts only if GetRepository succeeds and returns the predicted URL.
        let (found, early) = match early {
            None => (get.await, None),
            Some(early) => match select(get, early).await {
                Either::Left((found, early)) => (found, Some(early)),
                Either::Right((opened, get)) => (get.await, Some(ready(opened).boxed())),
            },
        };
        let (repository, early) = match found {
            Err(error) if error.kind() == ErrorKind::NotFound && create => {
                (self.create().await?, None)
            }
            found => (found?, early),
        };
        self.clone_urls.insert(region, &repository);
        let client = git_client(&repository, &self.http, &self.credentials)?;
        let is_right = predicted.as_ref() == Some(client.url());
        if let Some(early) = early.filter(|_| is_right) {
            match early.await {
                // The repository was created after the early request.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                opened => return Ok((repository, opened?)),
            }
        }
        let opened = open(client).await?;
        Ok((repository, opened))
    }

    async fn create(&self) -> Result<Repository> {
        let name = &self.url.repository;
        match self.service.create_repository(name).await {
            // Created by another client, or by an earlier request whose answer was lost.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                self.service.get_repository(name).await
            }
            created => created,
        }
    }
}

fn default_branch(repository: &Repository) -> Option<Head> {
    let branch = BranchName::new(repository.default_branch.as_ref()?).ok()?;
    Some(Head::Symbolic(branch.to_ref().as_str().into()))
}

/// Returns the branch that `head` names; `None` if detached or not a branch.
fn branch(head: &Head) -> Option<BranchName> {
    let Head::Symbolic(name) = head else {
        return None;
    };
    let short = name.strip_prefix(b"refs/heads/")?.to_str().ok()?;
    BranchName::new(short).ok()
}

#[async_trait]
impl Remote for CodeCommitRemote {
    async fn source(&self, prefixes: &[BString]) -> Result<Box<dyn Source>> {
        let open = |client: SmartHttp| {
            let prefixes = prefixes.to_vec();
            async move { HttpSource::open(&client, &prefixes).await }.boxed()
        };
        let (repository, mut source) = self.open_repository(false, open).await?;
        if !source.advertises_symref_head() {
            source.snapshot.head = default_branch(&repository).or(source.snapshot.head);
        }
        Ok(Box::new(source))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        let open = |client: SmartHttp| async move { HttpTarget::open(&client).await }.boxed();
        let opened = self.open_repository(self.create, open).await;
        let (repository, mut target) = opened.map_err(|error| {
            if error.is_repository_missing() {
                error.with_hint(
                    "set `\"create\": true` to create it, or check the name, the region and the \
                     account",
                )
            } else {
                error
            }
        })?;
        target.snapshot.head = default_branch(&repository);
        Ok(Box::new(CodeCommitTarget {
            target,
            service: Arc::clone(&self.service),
            repository: self.url.repository.clone(),
            sets_head: self.create,
        }))
    }
}

struct CodeCommitTarget {
    target: HttpTarget,
    service: Arc<dyn CodeCommit>,
    repository: RepositoryName,
    sets_head: bool,
}

#[async_trait]
impl Target for CodeCommitTarget {
    fn snapshot(&self) -> &Snapshot {
        self.target.snapshot()
    }

    fn capabilities(&self) -> TargetCapabilities {
        TargetCapabilities {
            head: self.sets_head,
            batches: BatchPolicy::ByCommits,
            ..self.target.capabilities()
        }
    }

    fn accepts_head(&self, head: &Head) -> bool {
        self.sets_head && branch(head).is_some()
    }

    async fn haves(&self) -> Result<Vec<ObjectId>> {
        self.target.haves().await
    }

    async fn push(&mut self, mut push: Push) -> Result<PushReport> {
        let head = push.head.take().filter(|head| self.accepts_head(head));
        let report = self.target.push(push).await?;
        let snapshot = &mut self.target.snapshot;
        // The default branch must exist. The source's `HEAD` may name a missing branch, and the
        // push of the branch may have been rejected.
        if let Some(head) = head
            && let Head::Symbolic(name) = &head
            && snapshot.refs.contains_key(name)
            && let Some(branch) = branch(&head)
            && snapshot.head.as_ref() != Some(&head)
        {
            self.service
                .update_default_branch(&self.repository, &branch)
                .await?;
            snapshot.head = Some(head);
        }
        Ok(report)
    }
}
