//! User and password for HTTP Basic.

use std::fmt;

use base64::Engine as _;
use http::HeaderValue;

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
