//! Sources of credentials, which are asked before each request.

use async_trait::async_trait;

use super::credentials::Credentials;
use super::url::RepositoryUrl;
use crate::error::Result;

/// A source of credentials.
#[async_trait]
pub trait CredentialSource: Send + Sync {
    /// Returns the credentials for the next request to `repository`; `None` for no login.
    ///
    /// Called for each request, because signatures are short-lived, and only for the host
    /// that the caller named, never for the target of a redirect to another host.
    async fn credentials(&self, repository: &RepositoryUrl) -> Result<Option<Credentials>>;
}

/// A source for requests without a login.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCredentials;

#[async_trait]
impl CredentialSource for NoCredentials {
    async fn credentials(&self, _repository: &RepositoryUrl) -> Result<Option<Credentials>> {
        Ok(None)
    }
}
