//! Reading secrets, as a trait in plain types: AWS Secrets Manager and the Parameter Store
//! of AWS Systems Manager. [`client`] speaks to the services.

#[cfg(feature = "secrets")]
pub mod client;

use std::fmt;

use async_trait::async_trait;
use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

/// Where a secret lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretStore {
    /// `arn:<partition>:secretsmanager:<region>:<account>:secret:<name>`
    SecretsManager,
    /// `arn:<partition>:ssm:<region>:<account>:parameter/<name>`
    ParameterStore,
}

/// The ARN of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretArn {
    text: Box<str>,
    region: Box<str>,
}

impl SecretArn {
    /// Validates `text`. Errors: `Config`, saying which part is wrong.
    pub fn new(text: &str) -> Result<Self> {
        let word = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let printable = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let rule = match parts.as_slice() {
            ["arn", partition, service, region, account, resource] => {
                let resource = match *service {
                    "secretsmanager" => resource.strip_prefix("secret:"),
                    "ssm" => resource.strip_prefix("parameter/"),
                    _ => None,
                };
                if !partition.starts_with("aws") || !word(partition) {
                    "it must start with `arn:aws:`"
                } else if resource.is_none() {
                    "it must name a `secretsmanager` `secret:..` or an `ssm` `parameter/..`"
                } else if !word(region) {
                    "its region is missing"
                } else if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
                    "its account must have 12 digits"
                } else if resource.is_none_or(|name| name.is_empty() || !printable(name))
                    || text.len() > 2048
                {
                    "its name is empty, too long, or holds a character that no name has"
                } else {
                    return Ok(Self {
                        text: text.into(),
                        region: (*region).into(),
                    });
                }
            }
            _ => "it must look like `arn:aws:secretsmanager:<region>:<account>:secret:<name>`",
        };
        // What is no ARN may be the secret itself, which is never shown.
        let shown = if text.starts_with("arn:") {
            let shown: String = text.chars().take(160).collect();
            format!("`{}`", shown.escape_debug())
        } else {
            "this".to_owned()
        };
        Err(Error::new(
            ErrorKind::Config,
            format!("{shown} is no ARN of a secret: {rule}"),
        ))
    }

    /// The ARN as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The region.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The service that keeps it.
    pub fn store(&self) -> SecretStore {
        if self.text.split(':').nth(2) == Some("ssm") {
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

/// The text of a secret. `Debug` does not show it.
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
    /// A secret that was read.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The user and password that it holds: a JSON object with `username` (or `user`) and
    /// `password` (or `token`), `user:password`, or a token alone, which goes with the user
    /// `git`.
    ///
    /// # Errors
    /// `Config`, without the text.
    pub fn user_and_password(&self) -> Result<(String, String)> {
        let text = self.0.trim();
        if text.starts_with('{') {
            let read: UserAndPassword = serde_json::from_str(text).map_err(|_| {
                Error::new(ErrorKind::Config, "a secret holds no user and password").with_hint(
                    "store a JSON object with `username` and `password`, or a token alone",
                )
            })?;
            let user = read.username.unwrap_or_else(|| "git".to_owned());
            return Ok((user, read.password));
        }
        if text.is_empty() || text.contains(char::is_control) {
            return Err(Error::new(
                ErrorKind::Config,
                "a secret is empty, or more than one line",
            ));
        }
        Ok(match text.split_once(':') {
            Some((user, password)) => (user.to_owned(), password.to_owned()),
            None => ("git".to_owned(), text.to_owned()),
        })
    }
}

/// Reads secrets. Every call is one request.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// Reads the current text of a secret.
    async fn read(&self, arn: &SecretArn) -> Result<SecretText>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_of_both_services_are_told_apart() {
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
        for bad in [
            "",
            "hunter2",
            "arn:aws:s3:eu-west-1:111122223333:secret:x",
            "arn:aws:ssm:eu-west-1:111122223333:secret:x",
            "arn:aws:ssm::111122223333:parameter/x",
            "arn:aws:ssm:eu-west-1:1111:parameter/x",
            "arn:aws:ssm:eu-west-1:111122223333:parameter/",
            "arn:aws:ssm:eu-west-1:111122223333:parameter/a b",
        ] {
            let error = SecretArn::new(bad).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Config);
            // Someone may have written the secret itself.
            assert!(!error.report().contains("hunter2"), "{}", error.report());
        }
    }

    #[test]
    fn a_secret_is_read_in_each_of_its_forms_and_never_shown() {
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
