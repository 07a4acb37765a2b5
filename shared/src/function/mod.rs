//! Calling Lambda functions, as a trait in plain types; [`client`] speaks to the service,
//! the testkit has an implementation in memory.

#[cfg(feature = "invoke")]
pub mod client;
mod retrying;

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};

/// The ARN of a Lambda function, with a qualifier or without:
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
        let word = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let parts: Vec<&str> = text.split(':').collect();
        let rule = match parts.as_slice() {
            [
                arn,
                partition,
                service,
                region,
                account,
                kind,
                name,
                qualifier @ ..,
            ] => {
                if *arn != "arn" || !partition.starts_with("aws") || !word(partition) {
                    "it must start with `arn:aws:`"
                } else if *service != "lambda" {
                    "its service must be `lambda`"
                } else if !word(region) {
                    "its region is missing"
                } else if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
                    "its account must have 12 digits"
                } else if *kind != "function" {
                    "its resource must be a `function`"
                } else if !name_like(name, 64) {
                    "its function's name must be 1 to 64 letters, digits, `-` and `_`"
                } else if !match qualifier {
                    [] => true,
                    [one] => *one == "$LATEST" || name_like(one, 128),
                    _ => false,
                } {
                    "what follows the function's name must be one version or alias"
                } else {
                    return Ok(Self {
                        text: text.into(),
                        parts: [*partition, *region, *account].map(Into::into),
                    });
                }
            }
            _ => "it must be `arn:aws:lambda:<region>:<account>:function:<name>`",
        };
        let shown: String = text
            .chars()
            .take(160)
            .flat_map(char::escape_debug)
            .collect();
        Err(Error::new(
            ErrorKind::Config,
            format!("`{shown}` is no ARN of a Lambda function: {rule}"),
        ))
    }

    /// The ARN as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The partition, `aws` in most regions.
    pub fn partition(&self) -> &str {
        &self.parts[0]
    }

    /// The region.
    pub fn region(&self) -> &str {
        &self.parts[1]
    }

    /// The account, 12 digits.
    pub fn account(&self) -> &str {
        &self.parts[2]
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

/// The operations of Lambda that branchline uses.
///
/// Every method is one request. Errors: `NotFound` when the function is not there;
/// `AccessDenied`, `Throttled`, `Transport` as everywhere.
#[async_trait]
pub trait Functions: Send + Sync {
    /// Hands `payload`, a JSON text, to the function's queue, and does not wait for the
    /// function.
    async fn invoke_async(&self, function: &FunctionArn, payload: Bytes) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arn_of_a_function_is_taken_apart() {
        let arn = "arn:aws-cn:lambda:cn-north-1:111122223333:function:branchline-update:live";
        let arn = FunctionArn::new(arn).expect("it is valid");
        assert_eq!(
            (arn.partition(), arn.region(), arn.account()),
            ("aws-cn", "cn-north-1", "111122223333")
        );
        for good in ["f", "f:$LATEST", "f:7", "F_x-1:prod"] {
            let arn = format!("arn:aws:lambda:us-east-1:111122223333:function:{good}");
            assert_eq!(FunctionArn::new(&arn).expect("it is valid").as_str(), arn);
        }
    }

    #[test]
    fn what_is_no_arn_of_a_function_is_refused_with_the_part_that_is_wrong() {
        for (bad, why) in [
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
            let error = FunctionArn::new(bad).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(why), "{bad}: {error}");
        }
    }
}
