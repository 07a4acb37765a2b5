//! Names that are validated by their constructors, so that functions need not check them.
//!
//! Limits are CodeCommit's own (user guide, "Quotas in AWS CodeCommit") and those of
//! `git check-ref-format`.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use gix_hash::ObjectId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::arn::ArnParts;
use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;

/// Implements the common traits of validated texts.
macro_rules! text_name {
    ($type:ident) => {
        impl $type {
            /// Returns the name as text.
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

fn invalid(noun: &str, text: &str, rule: &str) -> Error {
    // Cut, because a hostile name must not fill the log.
    let shown = escaped_excerpt(text.as_bytes());
    Error::new(
        ErrorKind::InvalidEvent,
        format!("`{shown}` is not a valid {noun}: {rule}"),
    )
}

/// Name of a CodeCommit repository: 1 to 100 of `[A-Za-z0-9._-]`, not ending in `.git`.
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

/// Short name of a branch (`feature/x`): 1 to 256 characters, legal for git as
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

    /// Returns the full name, `refs/heads/<name>`.
    pub fn to_ref(&self) -> RefName {
        RefName(format!("refs/heads/{}", self.0).into())
    }
}

/// Full name of a ref (`refs/heads/main`), legal for `git check-ref-format`.
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

    /// Returns the branch name, if this ref is below `refs/heads/` and the name is legal.
    pub fn branch(&self) -> Option<BranchName> {
        let short = self.0.strip_prefix("refs/heads/")?;
        BranchName::new(short).ok()
    }

    /// Returns whether this ref is a tag.
    pub fn is_tag(&self) -> bool {
        self.0.starts_with("refs/tags/")
    }

    /// Returns the tag's name, if this ref is below `refs/tags/` and the name is legal.
    pub fn tag(&self) -> Option<TagName> {
        let short = self.0.strip_prefix("refs/tags/")?;
        TagName::new(short).ok()
    }
}

/// Short name of a tag (`v1.0`): 1 to 250 characters, and legal for git as `refs/tags/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagName(Box<str>);
text_name!(TagName);

impl TagName {
    /// Validates `text`.
    pub fn new(text: &str) -> Result<Self> {
        let rule = if text.is_empty() || text.chars().count() > 250 {
            "it must have 1 to 250 characters"
        } else if !is_legal_ref(&format!("refs/tags/{text}")) {
            "git refuses it (see `git check-ref-format`)"
        } else if text.starts_with('-') {
            "`git tag` refuses it"
        } else {
            return Ok(Self(text.into()));
        };
        Err(invalid("tag name", text, rule))
    }

    /// Returns the full name, `refs/tags/<name>`.
    pub fn to_ref(&self) -> RefName {
        RefName(format!("refs/tags/{}", self.0).into())
    }
}

/// Id of a pull request, a number of at most 20 digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PullRequestId(Box<str>);
text_name!(PullRequestId);

impl PullRequestId {
    /// Validates `text`.
    pub fn new(text: &str) -> Result<Self> {
        let is_number = text.bytes().all(|digit| digit.is_ascii_digit());
        if !is_number || !(1..=20).contains(&text.len()) {
            let rule = "it must be a number of 1 to 20 digits";
            return Err(invalid("pull request id", text, rule));
        }
        Ok(Self(text.into()))
    }
}

fn is_legal_ref(full: &str) -> bool {
    gix_validate::reference::name(full.into()).is_ok()
}

/// Implements the common traits of object ids.
macro_rules! object_id {
    ($type:ident, $what:literal) => {
        impl $type {
            /// Parses 40 (SHA-1) or 64 (SHA-256) hexadecimal digits.
            pub fn new(hex: &str) -> Result<Self> {
                ObjectId::from_hex(hex.as_bytes())
                    .map(Self)
                    .map_err(|_| invalid($what, hex, "it must be 40 or 64 hexadecimal digits"))
            }

            /// Returns the id without its kind.
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

/// Id of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(ObjectId);
object_id!(CommitId, "commit id");

/// Id of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(ObjectId);
object_id!(TreeId, "tree id");

/// Id of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(ObjectId);
object_id!(BlobId, "blob id");

/// Name of an S3 bucket: 3 to 63 of `[a-z0-9.-]`. Names up to 255 characters, capitals and
/// `_` are accepted too, because older buckets have them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketName(Box<str>);
text_name!(BucketName);

impl BucketName {
    /// Validates `text`: the name of a bucket, the alias of an access point, or the ARN of an
    /// access point (`arn:aws:s3:<region>:<account>:accesspoint/<name>`).
    pub fn new(text: &str) -> Result<Self> {
        if text.starts_with("arn:") {
            return Self::access_point(text);
        }
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

    fn access_point(text: &str) -> Result<Self> {
        let name = ArnParts::split(text)
            .filter(|arn| arn.is_of_aws() && arn.service == "s3")
            .filter(|arn| arn.has_region() && arn.has_account())
            .and_then(|arn| arn.resource.strip_prefix("accesspoint"))
            .and_then(|name| name.strip_prefix(['/', ':']));
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        match name {
            Some(name) if (3..=50).contains(&name.len()) && name.chars().all(legal) => {
                Ok(Self(text.into()))
            }
            _ => Err(invalid(
                "bucket name",
                text,
                "an ARN must be `arn:aws:s3:<region>:<account>:accesspoint/<name>`",
            )),
        }
    }

    /// Returns whether this is the ARN of an access point.
    pub fn is_access_point(&self) -> bool {
        self.0.starts_with("arn:")
    }

    /// Returns the ARN, as policies name it.
    pub fn arn(&self) -> String {
        if self.is_access_point() {
            self.0.to_string()
        } else {
            format!("arn:aws:s3:::{}", self.0)
        }
    }

    /// Returns the ARN of an object, or of the objects that a pattern matches.
    pub fn object_arn(&self, key: &str) -> String {
        let separator = if self.is_access_point() {
            "/object/"
        } else {
            "/"
        };
        format!("{}{separator}{key}", self.arn())
    }
}

/// Key of an S3 object: 1 to 1024 bytes of UTF-8, no control characters, and no path
/// segment that is `.` or `..` (because several clients remove those).
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

/// Start of S3 keys: empty, or ending in `/`, so that `repo1` never covers `repo10`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPrefix(Box<str>);
text_name!(KeyPrefix);

impl KeyPrefix {
    /// Validates `text`; adds the final `/` where it is missing.
    pub fn new(text: &str) -> Result<Self> {
        let trimmed = text.trim_matches('/');
        if trimmed.is_empty() {
            return Ok(Self("".into()));
        }
        let key = ObjectKey::new(trimmed)?;
        Ok(Self(format!("{key}/").into()))
    }
}

/// Name of a pipeline: 1 to 100 of `[A-Za-z0-9.@_-]`.
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

/// Key of SSE-KMS: the id of a key, `alias/<name>`, or the ARN of either.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KmsKey(Box<str>);
text_name!(KmsKey);

impl KmsKey {
    /// Validates `text`.
    pub fn new(text: &str) -> Result<Self> {
        const ARN: &str =
            "an ARN of KMS is `arn:aws:kms:<region>:<account>:key/<id>` or `..:alias/<name>`";
        let name = match ArnParts::split(text) {
            Some(arn)
                if arn.is_of_aws()
                    && arn.service == "kms"
                    && arn.has_region()
                    && arn.has_account() =>
            {
                let resource = arn.resource;
                resource.strip_prefix("key/").or_else(|| alias(resource))
            }
            None if !text.contains(':') => alias(text).or(Some(text)),
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

    /// Returns the region of an ARN.
    pub fn region(&self) -> Option<&str> {
        ArnParts::split(&self.0).map(|arn| arn.region)
    }

    /// Refuses a key of another region than `region`, because S3 uses only keys of its own
    /// region.
    pub fn check_region(self, region: Option<&str>) -> Result<Self> {
        match (self.region(), region) {
            (Some(key_region), Some(bucket_region)) if key_region != bucket_region => {
                let rule =
                    format!("it is in region `{key_region}`, the buckets are in `{bucket_region}`");
                Err(invalid("KMS key for these buckets", &self.0, &rule))
            }
            _ => Ok(self),
        }
    }
}

/// Returns the name after `alias/`.
fn alias(text: &str) -> Option<&str> {
    text.strip_prefix("alias/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kms_key_is_an_id_an_alias_or_the_arn_of_either() {
        for valid in [
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "mrk-1234abcd12ab34cd56ef1234567890ab",
            "alias/artifacts",
            "alias/aws/s3",
            "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws-cn:kms:cn-north-1:111122223333:alias/artifacts",
        ] {
            assert_eq!(KmsKey::new(valid).expect(valid).as_str(), valid);
        }
        for invalid in [
            "",
            "alias/",
            "a key",
            "arn:aws:kms:eu-west-1:111122223333:key/",
            "arn:aws:kms:eu-west-1:1111:key/k",
            "arn:aws:kms::111122223333:key/k",
            "arn:aws:s3:eu-west-1:111122223333:key/k",
            "arn:aws:kms:eu-west-1:111122223333:grant/k",
        ] {
            let error = KmsKey::new(invalid).expect_err(invalid);
            assert!(
                error.to_string().contains("is not a valid KMS key"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_kms_key_of_another_region_is_refused() {
        let key = |text| KmsKey::new(text).expect("it is a key");
        let western = || key("arn:aws:kms:eu-west-1:111122223333:key/k");
        assert!(western().check_region(Some("eu-west-1")).is_ok());
        assert!(western().check_region(None).is_ok());
        assert!(key("alias/k").check_region(Some("us-east-1")).is_ok());
        let error = western().check_region(Some("us-east-1"));
        let error = error.expect_err("it is in another region").to_string();
        for part in ["`eu-west-1`", "`us-east-1`"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
