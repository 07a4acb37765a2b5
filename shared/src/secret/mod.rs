//! Secrets, as a trait in plain types: AWS Secrets Manager and the Parameter Store of AWS
//! Systems Manager. [`client`] calls the services.

#[cfg(feature = "secrets")]
pub mod client;

use std::fmt;

use async_trait::async_trait;
use serde::Deserialize;

use crate::arn::ArnParts;
use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;

/// Service that stores a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretStore {
    /// `arn:<partition>:secretsmanager:<region>:<account>:secret:<name>`
    SecretsManager,
    /// `arn:<partition>:ssm:<region>:<account>:parameter/<name>`
    ParameterStore,
}

/// ARN of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretArn {
    text: Box<str>,
    region: Box<str>,
}

impl SecretArn {
    /// Validates `text`. Errors: `Config`, saying which part is wrong.
    pub fn new(text: &str) -> Result<Self> {
        let is_printable = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        let rule = match ArnParts::split(text) {
            Some(arn) => {
                let name = match arn.service {
                    "secretsmanager" => arn.resource.strip_prefix("secret:"),
                    "ssm" => arn.resource.strip_prefix("parameter/"),
                    _ => None,
                };
                if !arn.is_of_aws() {
                    "it must start with `arn:aws:`"
                } else if name.is_none() {
                    "it must name a `secretsmanager` `secret:..` or an `ssm` `parameter/..`"
                } else if !arn.has_region() {
                    "its region is missing"
                } else if !arn.has_account() {
                    "its account must have 12 digits"
                } else if name.is_none_or(|name| name.is_empty() || !is_printable(name))
                    || text.len() > 2048
                {
                    "its name is empty, too long, or has an invalid character"
                } else {
                    return Ok(Self {
                        text: text.into(),
                        region: arn.region.into(),
                    });
                }
            }
            None => "it must be `arn:aws:secretsmanager:<region>:<account>:secret:<name>`",
        };
        // Other text is not shown, because it may be the secret itself.
        let shown = if text.starts_with("arn:") {
            format!("`{}`", escaped_excerpt(text.as_bytes()))
        } else {
            "the value".to_owned()
        };
        Err(Error::new(
            ErrorKind::Config,
            format!("{shown} is not an ARN of a secret: {rule}"),
        ))
    }

    /// Returns the ARN as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the region.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Returns the service that stores the secret.
    pub fn store(&self) -> SecretStore {
        if ArnParts::split(&self.text).is_some_and(|arn| arn.service == "ssm") {
            SecretStore::ParameterStore
        } else {
            SecretStore::SecretsManager
        }
    }
}

impl fmt::Display for SecretArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Text of a secret. `Debug` does not show the text.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

#[derive(Deserialize)]
struct UserAndPassword {
    #[serde(alias = "user")]
    username: Option<String>,
    #[serde(alias = "token")]
    password: String,
}

impl SecretText {
    /// Wraps a secret's text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Parses user and password: a JSON object with `username` (or `user`) and `password` (or
    /// `token`), `user:password`, or only a token, whose user is `git`.
    ///
    /// # Errors
    /// `Config`, without the text.
    pub fn user_and_password(&self) -> Result<(String, String)> {
        let text = self.0.trim();
        if text.starts_with('{') {
            let read: UserAndPassword = serde_json::from_str(text).map_err(|_| {
                Error::new(ErrorKind::Config, "the secret has no user and password").with_hint(
                    "store a JSON object with `username` and `password`, or only a token",
                )
            })?;
            let user = read.username.unwrap_or_else(|| "git".to_owned());
            return Ok((user, read.password));
        }
        if text.is_empty() || text.contains(char::is_control) {
            return Err(Error::new(
                ErrorKind::Config,
                "the secret is empty, or has more than one line",
            ));
        }
        Ok(match text.split_once(':') {
            Some((user, password)) => (user.to_owned(), password.to_owned()),
            None => ("git".to_owned(), text.to_owned()),
        })
    }
}

/// Service that stores secrets. Every call is one request.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// Reads the current text of a secret.
    async fn read(&self, arn: &SecretArn) -> Result<SecretText>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_its_service_and_region() {
        let arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:git/x-AbCdEf";
        let arn = SecretArn::new(arn).expect("it is valid");
        assert_eq!(
            (arn.region(), arn.store()),
            ("eu-west-1", SecretStore::SecretsManager)
        );
        let arn = "arn:aws-cn:ssm:cn-north-1:111122223333:parameter/git/token";
        let arn = SecretArn::new(arn).expect("it is valid");
        assert_eq!(
            (arn.region(), arn.store()),
            ("cn-north-1", SecretStore::ParameterStore)
        );
        for invalid in [
            "",
            "hunter2",
            "arn:aws:s3:eu-west-1:111122223333:secret:x",
            "arn:aws:ssm:eu-west-1:111122223333:secret:x",
            "arn:aws:ssm::111122223333:parameter/x",
            "arn:aws:ssm:eu-west-1:1111:parameter/x",
            "arn:aws:ssm:eu-west-1:111122223333:parameter/",
            "arn:aws:ssm:eu-west-1:111122223333:parameter/a b",
        ] {
            let error = SecretArn::new(invalid).expect_err(invalid);
            assert_eq!(error.kind(), ErrorKind::Config);
            // The text may be the secret itself.
            assert!(!error.report().contains("hunter2"), "{}", error.report());
        }
    }

    #[test]
    fn a_secret_is_parsed_in_each_form_and_never_shown() {
        for (text, user, password) in [
            (r#"{"username":"u","password":"p"}"#, "u", "p"),
            (r#"{"user":"u","token":"p:q"}"#, "u", "p:q"),
            (r#"{"token":"t"}"#, "git", "t"),
            ("u:p:q\n", "u", "p:q"),
            ("t0ken", "git", "t0ken"),
        ] {
            let read = SecretText::new(text).user_and_password().expect(text);
            assert_eq!(read, (user.to_owned(), password.to_owned()));
        }
        for bad in ["", r#"{"password":7}"#, r#"{"hunter2"}"#, "a\nhunter2"] {
            let secret = SecretText::new(bad);
            let error = secret.user_and_password().expect_err(bad);
            assert!(!error.report().contains("hunter2"), "{}", error.report());
            assert!(!format!("{secret:?}").contains("hunter2"));
        }
    }
}
