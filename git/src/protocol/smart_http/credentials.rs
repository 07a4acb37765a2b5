//! User and password for HTTP Basic, asked for anew for each request.

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
    /// A user and a password, not encoded in any way.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            password: password.into(),
        }
    }

    /// The user.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password.
    pub fn password(&self) -> &str {
        &self.password
    }

    pub(super) fn header(&self) -> Result<HeaderValue> {
        if self.user.contains(':') {
            return Err(Error::new(
                ErrorKind::Config,
                "a user name must not hold `:`",
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

/// Knows what to log in with.
#[async_trait]
pub trait CredentialSource: Send + Sync {
    /// The credentials for the next request to `repository`; `None` to go without.
    ///
    /// Asked for each request, since signatures are short-lived. Never asked for another
    /// host than the one that the caller named, wherever that redirects.
    async fn credentials(&self, repository: &RepositoryUrl) -> Result<Option<Credentials>>;
}

/// Goes without.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCredentials;

#[async_trait]
impl CredentialSource for NoCredentials {
    async fn credentials(&self, _repository: &RepositoryUrl) -> Result<Option<Credentials>> {
        Ok(None)
    }
}
