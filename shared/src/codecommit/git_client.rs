//! Git over HTTPS to a repository of CodeCommit.

use std::sync::Arc;

use super::Repository;
use crate::error::{Error, ErrorKind, Result};
use crate::git::smart_http::{CredentialSource, Http, RepositoryUrl, SmartHttp};

/// Makes a git client for the `cloneUrlHttp` of `repository`.
///
/// # Errors
/// `Corrupt` when `cloneUrlHttp` is not a URL of a repository.
pub(crate) fn git_client(
    repository: &Repository,
    http: &Http,
    credentials: &Arc<dyn CredentialSource>,
) -> Result<SmartHttp> {
    let url = repository.clone_url()?;
    Ok(SmartHttp::new(http.clone(), url, Arc::clone(credentials)))
}

impl Repository {
    /// Returns `cloneUrlHttp`, the URL for git.
    ///
    /// # Errors
    /// `Corrupt` when it is not a URL of a repository.
    pub fn clone_url(&self) -> Result<RepositoryUrl> {
        RepositoryUrl::new(&self.clone_url_http).map_err(|error| {
            Error::new(
                ErrorKind::Corrupt,
                format!(
                    "`cloneUrlHttp` of repository `{}` is not a valid URL",
                    self.name
                ),
            )
            .with_source(error)
        })
    }
}
