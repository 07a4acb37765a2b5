//! User and password for HTTP Basic, requested before each request.

use std::fmt;

use async_trait::async_trait;
use base64::Engine as _;
use http::HeaderValue;

use super::RepositoryUrl;
use crate::error::{Error, ErrorKind, Result};

/// A user and a password. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// Creates credentials from a user and a password without any encoding.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            password: password.into(),
        }
    }

    /// Returns the user.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the password.
    pub fn password(&self) -> &str {
        &self.password
    }

    pub(super) fn header(&self) -> Result<HeaderValue> {
        if self.user.contains(':') {
            return Err(Error::new(
                ErrorKind::Config,
                "a user name must not contain `:`",
            ));
        }
        let pair = format!("{}:{}", self.user, self.password);
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        let mut value =
            HeaderValue::try_from(format!("Basic {encoded}")).expect("because base64 is printable");
        value.set_sensitive(true);
        Ok(value)
    }
}

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
