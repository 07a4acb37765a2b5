//! Names of things, valid by construction: a function that takes one of these need not
//! check it again.
//!
//! Limits are CodeCommit's own (user guide, "Quotas in AWS CodeCommit") and those of
//! `git check-ref-format`.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use gix_hash::ObjectId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};

/// Implements what every validated text has in common.
macro_rules! text_name {
    ($type:ident) => {
        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

fn invalid(what: &str, text: &str, rule: &str) -> Error {
    // A hostile name must not flood the log.
    let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    let dots = if text.chars().count() > 80 { ".." } else { "" };
    Error::new(
        ErrorKind::InvalidEvent,
        format!("`{shown}{dots}` is no {what}: {rule}"),
    )
}

/// The name of a CodeCommit repository: 1 to 100 of `[A-Za-z0-9._-]`, not ending in `.git`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(Box<str>);
text_name!(RepositoryName);

impl RepositoryName {
    /// Validates `text`.
    pub fn new(text: &str) -> Result<Self> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        #[expect(
            clippy::case_sensitive_file_extension_comparisons,
            reason = "CodeCommit's rule is case-sensitive"
        )]
        let rule = if text.is_empty() || text.len() > 100 {
            "it must have 1 to 100 characters"
        } else if !text.chars().all(legal) {
            "only letters, digits, `.`, `_` and `-` are allowed"
        } else if text.ends_with(".git") {
            "it must not end in `.git`"
        } else if text == "." || text == ".." {
            "it must not be a path"
        } else {
            return Ok(Self(text.into()));
        };
        Err(invalid("repository name", text, rule))
    }
}

/// The short name of a branch (`feature/x`): 1 to 256 characters, legal for git as
/// `refs/heads/<name>`, and not 40 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchName(Box<str>);
text_name!(BranchName);

impl BranchName {
    /// Validates `text`.
    pub fn new(text: &str) -> Result<Self> {
        let rule = if text.is_empty() || text.chars().count() > 256 {
            "it must have 1 to 256 characters"
        } else if text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            "40 hexadecimal digits would be read as a commit id"
        } else if !is_legal_ref(&format!("refs/heads/{text}")) {
            "git refuses it (see `git check-ref-format`)"
        } else if text.starts_with('-') || text == "HEAD" {
            "`git branch` refuses it"
        } else {
            return Ok(Self(text.into()));
        };
        Err(invalid("branch name", text, rule))
    }

    /// The full name, `refs/heads/<name>`.
    pub fn to_ref(&self) -> RefName {
        RefName(format!("refs/heads/{}", self.0).into())
    }
}

/// The full name of a ref (`refs/heads/main`), legal for `git check-ref-format`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName(Box<str>);
text_name!(RefName);

impl RefName {
    /// Validates `text`.
    pub fn new(text: &str) -> Result<Self> {
        let rule = if !text.starts_with("refs/") {
            "it must start with `refs/`"
        } else if text.len() > 1024 {
            "it is longer than 1024 bytes"
        } else if !is_legal_ref(text) {
            "git refuses it (see `git check-ref-format`)"
        } else {
            return Ok(Self(text.into()));
        };
        Err(invalid("ref name", text, rule))
    }

    /// The branch that this ref is, when it lies under `refs/heads/` and is a legal
    /// branch name.
    pub fn branch(&self) -> Option<BranchName> {
        let short = self.0.strip_prefix("refs/heads/")?;
        BranchName::new(short).ok()
    }

    /// Whether this ref is a tag.
    pub fn is_tag(&self) -> bool {
        self.0.starts_with("refs/tags/")
    }
}

fn is_legal_ref(full: &str) -> bool {
    gix_validate::reference::name(full.into()).is_ok()
}

/// Implements what every object id has in common.
macro_rules! object_id {
    ($type:ident, $what:literal) => {
        impl $type {
            /// Parses 40 (SHA-1) or 64 (SHA-256) hexadecimal digits.
            pub fn new(hex: &str) -> Result<Self> {
                ObjectId::from_hex(hex.as_bytes())
                    .map(Self)
                    .map_err(|_| invalid($what, hex, "it must be 40 or 64 hexadecimal digits"))
            }

            /// The id as git's plumbing takes it.
            pub fn object_id(self) -> ObjectId {
                self.0
            }
        }
        impl From<ObjectId> for $type {
            fn from(id: ObjectId) -> Self {
                Self(id)
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

/// The id of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(ObjectId);
object_id!(CommitId, "commit id");

/// The id of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(ObjectId);
object_id!(TreeId, "tree id");

/// The id of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(ObjectId);
object_id!(BlobId, "blob id");

/// The name of an S3 bucket: 3 to 63 of `[a-z0-9.-]` (older ones may be longer and have
/// capitals and `_`; those are accepted too, since they exist).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketName(Box<str>);
text_name!(BucketName);

impl BucketName {
    /// Validates `text`.
    pub fn new(text: &str) -> Result<Self> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let rule = if text.len() < 3 || text.len() > 255 {
            "it must have 3 to 255 characters"
        } else if !text.chars().all(legal) {
            "only letters, digits, `.`, `_` and `-` are allowed"
        } else {
            return Ok(Self(text.into()));
        };
        Err(invalid("bucket name", text, rule))
    }
}

/// The key of an S3 object: 1 to 1024 bytes of UTF-8, no control characters, and no path
/// segment that is `.` or `..` (several clients fold those away).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Box<str>);
text_name!(ObjectKey);

impl ObjectKey {
    /// Validates `text`.
    pub fn new(text: &str) -> Result<Self> {
        let rule = if text.is_empty() || text.len() > 1024 {
            "it must have 1 to 1024 bytes"
        } else if text.chars().any(char::is_control) {
            "control characters are not allowed"
        } else if text.split('/').any(|part| part == "." || part == "..") {
            "`.` and `..` are not allowed as path segments"
        } else {
            return Ok(Self(text.into()));
        };
        Err(invalid("object key", text, rule))
    }
}

/// The start of S3 keys: empty, or ending in `/` so that `repo1` never covers `repo10`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPrefix(Box<str>);
text_name!(KeyPrefix);

impl KeyPrefix {
    /// Validates `text` and adds the final `/` where it is missing.
    pub fn new(text: &str) -> Result<Self> {
        let trimmed = text.trim_matches('/');
        if trimmed.is_empty() {
            return Ok(Self("".into()));
        }
        let key = ObjectKey::new(trimmed)?;
        Ok(Self(format!("{key}/").into()))
    }
}

/// The name of a pipeline: 1 to 100 of `[A-Za-z0-9.@_-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipelineName(Box<str>);
text_name!(PipelineName);

impl PipelineName {
    /// Validates `text`.
    pub fn new(text: &str) -> Result<Self> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '@' | '_' | '-');
        let rule = if text.is_empty() || text.len() > 100 {
            "it must have 1 to 100 characters"
        } else if !text.chars().all(legal) {
            "only letters, digits, `.`, `@`, `_` and `-` are allowed"
        } else {
            return Ok(Self(text.into()));
        };
        Err(invalid("pipeline name", text, rule))
    }
}

/// What SSE-KMS takes as its key: the id of a key, `alias/<name>`, or the ARN of either.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KmsKey(Box<str>);
text_name!(KmsKey);

impl KmsKey {
    /// Validates `text`.
    pub fn new(text: &str) -> Result<Self> {
        const ARN: &str =
            "an ARN of KMS is `arn:aws:kms:<region>:<account>:key/<id>` or `..:alias/<name>`";
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let name = match parts.as_slice() {
            ["arn", partition, "kms", region, account, name]
                if partition.starts_with("aws")
                    && !region.is_empty()
                    && account.len() == 12
                    && account.bytes().all(|b| b.is_ascii_digit()) =>
            {
                name.strip_prefix("key/").or_else(|| alias(name))
            }
            [id] => alias(id).or(Some(*id)),
            _ => return Err(invalid("KMS key", text, ARN)),
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/');
        let rule = match name {
            None => ARN,
            Some(name) if name.is_empty() || text.len() > 2048 => {
                "it must have 1 to 2048 characters"
            }
            Some(name) if !name.chars().all(legal) => {
                "a key is its id, `alias/<name>`, or the ARN of either"
            }
            Some(_) => return Ok(Self(text.into())),
        };
        Err(invalid("KMS key", text, rule))
    }

    /// The region that an ARN names.
    pub fn region(&self) -> Option<&str> {
        self.0.strip_prefix("arn:")?.split(':').nth(2)
    }

    /// Refuses the key of another region than S3 is asked in: S3 uses only its own's.
    pub fn check_region(self, region: Option<&str>) -> Result<Self> {
        match (self.region(), region) {
            (Some(of_key), Some(own)) if of_key != own => {
                let rule = format!("it lies in region `{of_key}`, the buckets in `{own}`");
                Err(invalid("KMS key for these buckets", &self.0, &rule))
            }
            _ => Ok(self),
        }
    }
}

/// The name behind `alias/`.
fn alias(text: &str) -> Option<&str> {
    text.strip_prefix("alias/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kms_key_is_an_id_an_alias_or_the_arn_of_either() {
        for good in [
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "mrk-1234abcd12ab34cd56ef1234567890ab",
            "alias/artifacts",
            "alias/aws/s3",
            "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws-cn:kms:cn-north-1:111122223333:alias/artifacts",
        ] {
            assert_eq!(KmsKey::new(good).expect(good).as_str(), good);
        }
        for bad in [
            "",
            "alias/",
            "a key",
            "arn:aws:kms:eu-west-1:111122223333:key/",
            "arn:aws:kms:eu-west-1:1111:key/k",
            "arn:aws:kms::111122223333:key/k",
            "arn:aws:s3:eu-west-1:111122223333:key/k",
            "arn:aws:kms:eu-west-1:111122223333:grant/k",
        ] {
            let error = KmsKey::new(bad).expect_err(bad);
            assert!(error.to_string().contains("is no KMS key"), "{error}");
        }
    }

    #[test]
    fn a_kms_key_of_another_region_is_refused() {
        let key = |text| KmsKey::new(text).expect("it is a key");
        let of_west = || key("arn:aws:kms:eu-west-1:111122223333:key/k");
        assert!(of_west().check_region(Some("eu-west-1")).is_ok());
        assert!(of_west().check_region(None).is_ok());
        assert!(key("alias/k").check_region(Some("us-east-1")).is_ok());
        let error = of_west().check_region(Some("us-east-1"));
        let error = error.expect_err("it lies elsewhere").to_string();
        for part in ["`eu-west-1`", "`us-east-1`"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
