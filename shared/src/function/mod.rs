//! Lambda functions as traits in plain types: their invocations, and those that are deployed.
//! [`client`] calls the service; the testkit has invocations in memory.

#[cfg(feature = "invoke")]
pub mod client;
#[cfg(feature = "invoke")]
mod client_inventory;
mod deployed;
mod retrying;

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use bytes::Bytes;
pub use deployed::{DeployedFunction, FunctionInventory, FunctionPage, all_functions};

use crate::arn::{ArnParts, Origin};
use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;

/// Account of the ARN that AWS's Runtime Interface Emulator makes up.
const EMULATED_ACCOUNT: &str = "012345678912";

/// ARN of a Lambda function, with or without a qualifier:
/// `arn:<partition>:lambda:<region>:<account>:function:<name>[:<version or alias>]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FunctionArn {
    text: Box<str>,
    parts: [Box<str>; 3],
}

impl FunctionArn {
    /// Validates `text`. Errors: `Config`, saying which part is wrong.
    pub fn new(text: &str) -> Result<Self> {
        let name_like = |text: &str, max: usize| {
            (1..=max).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let rule = match ArnParts::split(text) {
            Some(arn) if arn.resource.contains(':') => {
                let resource: Vec<&str> = arn.resource.split(':').collect();
                let (kind, name, qualifier) = (resource[0], resource[1], &resource[2..]);
                if !arn.is_of_aws() {
                    "it must start with `arn:aws:`"
                } else if arn.service != "lambda" {
                    "its service must be `lambda`"
                } else if !arn.has_region() {
                    "its region is missing"
                } else if !arn.has_account() {
                    "its account must have 12 digits"
                } else if kind != "function" {
                    "its resource must be a `function`"
                } else if !name_like(name, 64) {
                    "its function's name must be 1 to 64 letters, digits, `-` and `_`"
                } else if !match qualifier {
                    [] => true,
                    [qualifier] => *qualifier == "$LATEST" || name_like(qualifier, 128),
                    _ => false,
                } {
                    "the function's name may be followed by one version or alias"
                } else {
                    return Ok(Self {
                        text: text.into(),
                        parts: [arn.partition, arn.region, arn.account].map(Into::into),
                    });
                }
            }
            _ => "it must be `arn:aws:lambda:<region>:<account>:function:<name>`",
        };
        let shown = escaped_excerpt(text.as_bytes());
        Err(Error::new(
            ErrorKind::Config,
            format!("`{shown}` is not an ARN of a Lambda function: {rule}"),
        ))
    }

    /// Returns the ARN as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns true if `other` is an ARN of the same function, with any version or alias.
    pub fn is_same_function(&self, other: &str) -> bool {
        Self::new(other).is_ok_and(|other| other.unqualified() == self.unqualified())
    }

    /// Returns the ARN without version and alias.
    pub fn unqualified(&self) -> &str {
        let mut colons = self.text.match_indices(':').map(|(at, _)| at);
        // `arn:<partition>:lambda:<region>:<account>:function:<name>` has six colons.
        colons.nth(6).map_or(&self.text, |end| &self.text[..end])
    }

    /// Returns the partition, `aws` in most regions.
    pub fn partition(&self) -> &str {
        &self.parts[0]
    }

    /// Returns the region.
    pub fn region(&self) -> &str {
        &self.parts[1]
    }

    /// Returns the account, 12 digits.
    pub fn account(&self) -> &str {
        &self.parts[2]
    }

    /// Returns account and region; `None` in AWS's Runtime Interface Emulator.
    pub fn origin(&self) -> Option<Origin> {
        (self.account() != EMULATED_ACCOUNT).then(|| Origin {
            account: self.account().to_owned(),
            region: self.region().to_owned(),
        })
    }
}

impl fmt::Display for FunctionArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for FunctionArn {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

/// Answer of a run of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// JSON text: the function's answer, or `errorType` and `errorMessage`.
    pub payload: Bytes,
    /// Whether the run failed.
    pub has_failed: bool,
}

/// Operations of Lambda that branchline uses.
///
/// Every method is one request. Errors: `NotFound` for a missing function; `AccessDenied`,
/// `Throttled`, `Transport` as everywhere.
#[async_trait]
pub trait Functions: Send + Sync {
    /// Adds `payload`, a JSON text, to the function's queue, without waiting for the
    /// function to run.
    async fn invoke_async(&self, function: &FunctionArn, payload: Bytes) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_an_arn_are_returned() {
        let arn = "arn:aws-cn:lambda:cn-north-1:111122223333:function:branchline-update:live";
        let arn = FunctionArn::new(arn).expect("it is valid");
        assert_eq!(
            (arn.partition(), arn.region(), arn.account()),
            ("aws-cn", "cn-north-1", "111122223333")
        );
        for valid in ["f", "f:$LATEST", "f:7", "F_x-1:prod"] {
            let arn = format!("arn:aws:lambda:us-east-1:111122223333:function:{valid}");
            assert_eq!(FunctionArn::new(&arn).expect("it is valid").as_str(), arn);
        }
    }

    #[test]
    fn an_invalid_arn_is_refused_with_the_invalid_part() {
        for (invalid, rule) in [
            ("update", "must be `arn:aws:lambda"),
            ("", "must be `arn:aws:lambda"),
            (
                "arn:aws:sns:us-east-1:111122223333:topic",
                "must be `arn:aws:lambda",
            ),
            (
                "arn:aws:sns:us-east-1:111122223333:function:f",
                "must be `lambda`",
            ),
            (
                "arn:gcp:lambda:us-east-1:111122223333:function:f",
                "start with `arn:aws:`",
            ),
            (
                "arn:aws:lambda::111122223333:function:f",
                "region is missing",
            ),
            ("arn:aws:lambda:us-east-1:1111:function:f", "12 digits"),
            (
                "arn:aws:lambda:us-east-1:111122223333:layer:f",
                "a `function`",
            ),
            (
                "arn:aws:lambda:us-east-1:111122223333:function:a b",
                "1 to 64 letters",
            ),
            (
                "arn:aws:lambda:us-east-1:111122223333:function:f:",
                "one version or alias",
            ),
            (
                "arn:aws:lambda:us-east-1:111122223333:function:f:a:b",
                "one version or alias",
            ),
            (
                " arn:aws:lambda:us-east-1:111122223333:function:f",
                "start with `arn:aws:`",
            ),
        ] {
            let error = FunctionArn::new(invalid).expect_err(invalid);
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(rule), "{invalid}: {error}");
        }
    }
}
