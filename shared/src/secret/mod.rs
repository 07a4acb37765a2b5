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
use crate::git::smart_http::{Credentials, RepositoryUrl};

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

/// JSON object of a secret. Other members, such as those of rotated database secrets, are
/// ignored.
#[derive(Deserialize)]
struct SecretFields {
    host: Option<String>,
    #[serde(alias = "user")]
    username: Option<String>,
    #[serde(alias = "token")]
    password: Option<String>,
}

impl SecretText {
    /// Wraps a secret's text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the user and password for the server of `url`.
    ///
    /// The secret is a JSON object with `host`, `password` (or `token`) and `username` (or
    /// `user`; `git` if missing). `host` is the host of the URL, with the port if the URL has
    /// one, because a secret goes to one server only.
    ///
    /// # Errors
    /// `Config`, without the user and password, for a text of another form and for a secret of
    /// another host.
    pub fn credentials_for(&self, url: &RepositoryUrl) -> Result<Credentials> {
        let authority = url.authority();
        let refused = |why: &str| {
            Error::new(ErrorKind::Config, format!("the secret {why}")).with_hint(format!(
                "store a JSON object: {{\"host\": \"{authority}\", \"username\": \"..\", \
                 \"password\": \"..\"}}"
            ))
        };
        let fields: SecretFields = serde_json::from_str(self.0.trim())
            .map_err(|_| refused("is not a JSON object with `host`, `username` and `password`"))?;
        let host = fields
            .host
            .ok_or_else(|| refused("names no `host` that its password is for"))?;
        let password = fields
            .password
            .ok_or_else(|| refused("has no `password` or `token`"))?;
        let server = RepositoryUrl::new(&format!("{}://{host}", url.scheme()));
        let server = server
            .ok()
            .filter(|_| is_authority(&host))
            .ok_or_else(|| refused("has a `host` that is not a name and a port"))?;
        if !server.is_same_server(url) {
            let message = format!(
                "the secret is for the host `{}`, and not for `{authority}`",
                escaped_excerpt(host.as_bytes())
            );
            return Err(Error::new(ErrorKind::Config, message)
                .with_hint(format!("name a secret whose `host` is `{authority}`")));
        }
        let user = fields.username.unwrap_or_else(|| "git".to_owned());
        Ok(Credentials::new(user, password))
    }
}

/// Returns whether a text has the characters of a host and port. A URL, a path and a user have
/// others.
fn is_authority(text: &str) -> bool {
    let legal =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    !text.is_empty() && text.chars().all(legal)
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

    fn url(text: &str) -> RepositoryUrl {
        RepositoryUrl::new(text).expect("it is a URL")
    }

    #[test]
    fn a_secret_goes_to_the_host_that_it_names() {
        for (text, server, user, password) in [
            (
                r#"{"host":"git.example","username":"u","password":"p"}"#,
                "https://git.example/x",
                "u",
                "p",
            ),
            (
                r#"{"host":"Git.Example:8443","user":"u","token":"p:q","port":1}"#,
                "https://git.example:8443/x",
                "u",
                "p:q",
            ),
            (
                r#"{"host":"[::1]:443","token":"t"}"#,
                "https://[::1]/",
                "git",
                "t",
            ),
        ] {
            let read = SecretText::new(text).credentials_for(&url(server));
            let read = read.expect(text);
            assert_eq!((read.user(), read.password()), (user, password));
        }
    }

    #[test]
    fn a_secret_of_another_host_or_form_is_refused_and_never_shown() {
        let server = url("https://git.example/x");
        for (text, rule) in [
            (
                r#"{"host":"other.example","password":"hunter2"}"#,
                "is for the host `other.example`, and not for `git.example`",
            ),
            (
                r#"{"host":"git.example.evil","password":"hunter2"}"#,
                "and not for `git.example`",
            ),
            (
                r#"{"host":"git.example:8443","password":"hunter2"}"#,
                "and not for `git.example`",
            ),
            (
                r#"{"host":"https://git.example","password":"hunter2"}"#,
                "has a `host` that is not",
            ),
            (r#"{"host":"u:hunter2@git.example"}"#, "has no `password`"),
            (
                r#"{"host":"","token":"hunter2"}"#,
                "has a `host` that is not",
            ),
            (
                r#"{"username":"u","password":"hunter2"}"#,
                "names no `host`",
            ),
            (r#"{"host":"git.example"}"#, "has no `password` or `token`"),
            (r#"{"password":7}"#, "is not a JSON object"),
            (r#"{"hunter2"}"#, "is not a JSON object"),
            ("u:hunter2", "is not a JSON object"),
            ("hunter2", "is not a JSON object"),
            ("a\nhunter2", "is not a JSON object"),
            ("", "is not a JSON object"),
        ] {
            let secret = SecretText::new(text);
            let error = secret.credentials_for(&server).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Config);
            let report = error.report();
            assert!(report.contains(rule), "{text}: {report}");
            assert!(report.contains("git.example"), "{text}: {report}");
            assert!(!report.contains("hunter2"), "{text}: {report}");
            assert!(!format!("{secret:?}").contains("hunter2"));
        }
    }
}
