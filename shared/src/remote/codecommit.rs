//! Repositories of CodeCommit: found and created by its API, read and written by git over
//! HTTPS.
//!
//! CodeCommit has no place for objects of git LFS: mirrors leave them out, and say so.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bstr::{BString, ByteSlice as _};

use super::http::{HttpSource, HttpTarget};
use super::url::CodeCommitUrl;
use super::{Accepts, Batches, Head, Push, PushReport, Remote, Snapshot, Source, Target};
use crate::codecommit::{CodeCommit, Repository};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::smart_http::{CredentialSource, Http, RepositoryUrl, SmartHttp};
use crate::name::{BranchName, RepositoryName};

/// A repository of CodeCommit.
#[derive(Clone)]
pub struct CodeCommitRemote {
    url: CodeCommitUrl,
    service: Arc<dyn CodeCommit>,
    http: Http,
    credentials: Arc<dyn CredentialSource>,
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
    /// The repository at `url`, whose region and profile `service` and `credentials` are
    /// for. Git goes to the address that the service tells.
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
            create: false,
        }
    }

    /// As a target: creates the repository if it is not there, and sets its default branch
    /// to what a push says. Else the default branch stays as it is.
    #[must_use]
    pub fn creating(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    fn client(&self, repository: &Repository) -> Result<SmartHttp> {
        git_client(repository, &self.http, &self.credentials)
    }

    async fn create(&self) -> Result<Repository> {
        let name = &self.url.repository;
        match self.service.create_repository(name).await {
            // Someone else was faster, or an earlier answer was lost.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                self.service.get_repository(name).await
            }
            created => created,
        }
    }
}

/// Git at the address that the service tells.
pub(crate) fn git_client(
    repository: &Repository,
    http: &Http,
    credentials: &Arc<dyn CredentialSource>,
) -> Result<SmartHttp> {
    let url = RepositoryUrl::new(&repository.clone_url_http).map_err(|error| {
        Error::new(
            ErrorKind::Corrupt,
            format!(
                "CodeCommit tells no URL of repository `{}`",
                repository.name
            ),
        )
        .with_source(error)
    })?;
    Ok(SmartHttp::new(http.clone(), url, Arc::clone(credentials)))
}

fn default_branch(repository: &Repository) -> Option<Head> {
    let branch = BranchName::new(repository.default_branch.as_ref()?).ok()?;
    Some(Head::Symbolic(branch.to_ref().as_str().into()))
}

/// The branch that `HEAD` would name.
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
        let repository = self.service.get_repository(&self.url.repository).await?;
        let mut source = HttpSource::open(&self.client(&repository)?, prefixes).await?;
        if !source.tells_head() {
            source.snapshot.head = default_branch(&repository).or(source.snapshot.head);
        }
        Ok(Box::new(source))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        let found = self.service.get_repository(&self.url.repository).await;
        let repository = match found {
            Err(error) if error.kind() == ErrorKind::NotFound && self.create => {
                self.create().await?
            }
            found => found?,
        };
        let mut target = HttpTarget::open(&self.client(&repository)?).await?;
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

    fn accepts(&self) -> Accepts {
        Accepts {
            head: self.sets_head,
            batches: Batches::ByCommits,
            ..self.target.accepts()
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
        // The default branch must be there: `HEAD` of the source may name one that is not,
        // and the push of one may have been refused.
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
