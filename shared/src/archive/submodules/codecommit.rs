//! Submodules in CodeCommit: repositories of the account and region of the archived one, named by
//! relative URLs or by URLs of CodeCommit.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::{SubmoduleCommit, SubmoduleRepositories};
use crate::archive::history::{CodeCommitHistory, History};
use crate::archive::large_files_over_git::{GitAccess, GitLargeFiles};
use crate::archive::streamed_entry::LargeFiles;
use crate::codecommit::CodeCommit;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::lfs::LfsStore;
use crate::name::RepositoryName;

/// Opens the LFS objects of a repository.
type OpenLfs = dyn Fn(&RepositoryName) -> Result<Arc<dyn LfsStore>> + Send + Sync;

/// The repositories of an account and region.
pub struct CodeCommitSubmodules {
    service: Arc<dyn CodeCommit>,
    repository: RepositoryName,
    access: Option<GitAccess>,
    lfs: Option<Box<OpenLfs>>,
    // Clone URL of the archived repository, up to its name.
    base: OnceCell<String>,
    requests: AtomicU64,
}

impl fmt::Debug for CodeCommitSubmodules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeCommitSubmodules")
            .field("repository", &self.repository)
            .finish_non_exhaustive()
    }
}

impl CodeCommitSubmodules {
    /// Opens submodules of `repository`. Files that the API refuses are read with `access`.
    pub fn new(
        service: Arc<dyn CodeCommit>,
        repository: RepositoryName,
        access: Option<GitAccess>,
    ) -> Self {
        Self {
            service,
            repository,
            access,
            lfs: None,
            base: OnceCell::new(),
            requests: AtomicU64::new(0),
        }
    }

    /// Opens the LFS objects of each submodule by `lfs`.
    #[must_use]
    pub fn with_lfs(
        mut self,
        lfs: impl Fn(&RepositoryName) -> Result<Arc<dyn LfsStore>> + Send + Sync + 'static,
    ) -> Self {
        self.lfs = Some(Box::new(lfs));
        self
    }

    fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    async fn base(&self) -> Result<&str> {
        let base = self.base.get_or_try_init(|| async {
            self.count();
            let found = self.service.get_repository(&self.repository).await?;
            let url = found.clone_url_http;
            let end = url.rfind('/').map_or(0, |slash| slash + 1);
            Ok::<_, Error>(url[..end].to_owned())
        });
        base.await.map(String::as_str)
    }

    /// Finds the repository that `url` names.
    async fn repository(&self, url: &str) -> Result<RepositoryName> {
        // A relative URL is resolved against the URL of CodeCommit: `../name`.
        let name = match url.strip_prefix("../") {
            Some(name) => Some(name),
            None => named(url, self.base().await?),
        };
        let name = name.map(|name| name.trim_end_matches('/'));
        let name = name.map(|name| name.strip_suffix(".git").unwrap_or(name));
        let found = name.and_then(|name| RepositoryName::new(name).ok());
        found.ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                format!(
                    "`{}` is not a CodeCommit repository of this account and region",
                    shown(url)
                ),
            )
            .with_hint(
                "give it a relative URL in `.gitmodules` (`../name`), or archive without submodules",
            )
        })
    }
}

/// Returns a URL for messages, without a user and password.
fn shown(url: &str) -> String {
    let shown = match (url.split_once("://"), url.split_once('@')) {
        (Some((scheme, rest)), Some(_)) if !scheme.starts_with("codecommit") => {
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{host}")
        }
        _ => url.to_owned(),
    };
    shown
        .chars()
        .take(200)
        .collect::<String>()
        .escape_debug()
        .to_string()
}

/// Returns the name of the repository that an absolute URL names. `base` is the URL of the
/// repositories of the account and region, such as
/// `https://git-codecommit.eu-west-1.amazonaws.com/v1/repos/`.
fn named<'a>(url: &'a str, base: &str) -> Option<&'a str> {
    if let Some(name) = url.strip_prefix(base) {
        return Some(name);
    }
    let host = base.split_once("://")?.1.split('/').next()?;
    let region = host
        .strip_prefix("git-codecommit.")
        .and_then(|rest| rest.split('.').next());
    if let Some(rest) = url.strip_prefix("ssh://") {
        let (authority, path) = rest.split_once('/')?;
        let other = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        return (other == host).then(|| path.strip_prefix("v1/repos/"))?;
    }
    if let Some(rest) = url.strip_prefix("https://") {
        let (authority, path) = rest.split_once('/')?;
        let other = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        return (other == host).then(|| path.strip_prefix("v1/repos/"))?;
    }
    if let Some(rest) = url.strip_prefix("codecommit::") {
        let (other, name) = rest.split_once("://")?;
        let name = name.rsplit_once('@').map_or(name, |(_, name)| name);
        return (Some(other) == region).then_some(name);
    }
    let name = url.strip_prefix("codecommit://")?;
    Some(name.rsplit_once('@').map_or(name, |(_, name)| name))
}

#[async_trait]
impl SubmoduleRepositories for CodeCommitSubmodules {
    fn root(&self) -> &str {
        self.repository.as_str()
    }

    async fn open(&self, _parent: &str, url: &str, commit: ObjectId) -> Result<SubmoduleCommit> {
        let repository = self.repository(url).await?;
        self.count();
        let found = self.service.get_commit(&repository, commit.into()).await;
        let found = found.map_err(|error| {
            let error = match error.kind() {
                ErrorKind::NotFound => error.with_hint(
                    "push the commit to the submodule's repository, in the same account and region",
                ),
                ErrorKind::AccessDenied => error.with_hint(
                    "allow the role to read the submodule's repository as it may read this one",
                ),
                _ => error,
            };
            error.context(format!("reading commit {commit} of `{repository}`"))
        })?;
        let large_files = self.access.clone().map(|access| {
            let files = GitLargeFiles::new(access, repository.clone(), commit.into(), None);
            Arc::new(files) as Arc<dyn LargeFiles>
        });
        let history = self.access.clone().map(|access| {
            let history = CodeCommitHistory::new(access, repository.clone());
            Arc::new(history) as Arc<dyn History>
        });
        let lfs = self
            .lfs
            .as_ref()
            .map(|open| open(&repository))
            .transpose()?;
        let opened = SubmoduleCommit::in_codecommit(Arc::clone(&self.service), repository, found);
        Ok(opened
            .with_large_files(large_files)
            .with_history(history)
            .with_lfs(lfs))
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_repositories_of_the_account_and_region_are_named() {
        let base = "https://git-codecommit.eu-west-1.amazonaws.com/v1/repos/";
        let host = "git-codecommit.eu-west-1.amazonaws.com";
        for (url, name) in [
            (format!("{base}a"), Some("a")),
            (format!("https://user@{host}/v1/repos/a"), Some("a")),
            (format!("ssh://{host}/v1/repos/a"), Some("a")),
            (format!("ssh://APKA@{host}/v1/repos/a"), Some("a")),
            ("codecommit://a".into(), Some("a")),
            ("codecommit://profile@a".into(), Some("a")),
            ("codecommit::eu-west-1://a".into(), Some("a")),
            ("codecommit::us-east-1://a".into(), None),
            (
                "https://git-codecommit.us-east-1.amazonaws.com/v1/repos/a".into(),
                None,
            ),
            ("https://example.com/a.git".into(), None),
            (format!("https://{host}@example.com/v1/repos/a"), None),
            ("git@example.com:a.git".into(), None),
            ("./a".into(), None),
            ("/srv/a".into(), None),
        ] {
            assert_eq!(named(&url, base), name, "{url}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(shown("https://u:secret@h/x"), "https://h/x");
        assert_eq!(shown("codecommit://me@x"), "codecommit://me@x");
    }
}
