//! Values of [`ObjectStore`](super::ObjectStore): what requests carry and answers hold.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, Range};

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;
use crate::name::{BucketName, ObjectKey};

/// Smallest size of a multipart upload's part, except for the last one: 5 MiB.
pub const MIN_PART_BYTES: usize = 5 * 1024 * 1024;

/// Maximum number of parts of a multipart upload.
pub const MAX_PARTS: u32 = 10_000;

/// Settings of S3 alone, which take precedence over those of all services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct S3Settings {
    /// Endpoint; that of all services when `None`.
    pub endpoint_url: Option<String>,
    /// Puts the bucket's name into the path of the URL instead of the host; with another
    /// endpoint than AWS's when `None`.
    pub path_style: Option<bool>,
}

/// Tags of an object: at most 10 names with their values.
pub type Tags = BTreeMap<String, String>;

/// Entity tag of an object, quotes included, as S3 sends it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ETag(Box<str>);

impl ETag {
    /// Accepts every text that can be sent as `If-Match`: not empty, no control characters.
    ///
    /// # Errors
    ///
    /// `Corrupt`, because entity tags are only received.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if text.is_empty() || text.chars().any(char::is_control) {
            let shown = escaped_excerpt(text.as_bytes());
            let message = format!("`{shown}` is not a valid entity tag");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(Self(text.into()))
    }

    /// Makes the placeholder for the tag of an object that is not written yet.
    pub fn unknown() -> Self {
        Self("".into())
    }

    /// Returns whether this is the placeholder.
    pub fn is_unknown(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the tag with its quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Id of one version of an object in a bucket that keeps versions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionId(Box<str>);

impl VersionId {
    /// Returns `None` for an empty id and for `null`, because S3 gives that to objects
    /// written while versioning is off.
    pub fn new(id: impl Into<String>) -> Option<Self> {
        let id = id.into();
        (!id.is_empty() && id != "null").then(|| Self(id.into()))
    }

    /// Returns the id as S3 sent it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for VersionId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<VersionId> for String {
    fn from(version: VersionId) -> Self {
        version.0.into()
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Condition of a write; the error is `Conflict` when it does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Precondition {
    /// No condition: the last writer wins.
    #[default]
    None,
    /// The key has no current object (`If-None-Match: *`).
    Absent,
    /// The current object has this ETag (`If-Match`).
    Matches(ETag),
}

/// Headers and user metadata that S3 stores with an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectMetadata {
    /// Media type; S3's own default when `None`.
    pub content_type: Option<String>,
    /// `Content-Disposition`: how a browser offers the object.
    pub content_disposition: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// User metadata, names in lower case without `x-amz-meta-`, values US-ASCII.
    pub user: BTreeMap<String, String>,
}

/// Encryption of objects, as a write requests it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Encryption {
    /// The bucket's default, without a header.
    #[default]
    Bucket,
    /// `AES256`: keys of S3 (SSE-S3).
    Aes256,
    /// `aws:kms`: this KMS key, or the account's key for S3; with a bucket key.
    Kms(Option<String>),
}

impl Encryption {
    /// Returns the encryption for the settings `SSE` (empty, `AES256` or `aws:kms`) and
    /// `KMS_KEY_ID`.
    ///
    /// # Errors
    /// `Config` for another text, and for a key with `AES256`.
    pub fn new(sse: Option<&str>, kms_key_id: Option<String>) -> Result<Self> {
        match (sse, kms_key_id) {
            (None, None) => Ok(Self::Bucket),
            (Some("aws:kms") | None, key) => Ok(Self::Kms(key)),
            (Some("AES256"), None) => Ok(Self::Aes256),
            (Some("AES256"), Some(_)) => Err(Error::new(
                ErrorKind::Config,
                "`SSE` is `AES256`, which does not use the key of `KMS_KEY_ID`",
            )
            .with_hint("set `SSE` to `aws:kms`, or leave one of the two out")),
            (Some(other), _) => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`SSE` is not valid: `{}`",
                    escaped_excerpt(other.as_bytes())
                ),
            )
            .with_hint("use `AES256` or `aws:kms`, or leave `SSE` out for the bucket's default")),
        }
    }

    /// Returns whether a KMS key is used.
    pub fn is_kms(&self) -> bool {
        matches!(self, Self::Kms(_))
    }

    /// Returns the chosen KMS key.
    pub fn into_kms_key(self) -> Option<String> {
        match self {
            Self::Kms(key) => key,
            Self::Bucket | Self::Aes256 => None,
        }
    }
}

/// Metadata, condition and encryption of a write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutOptions {
    /// Stored with the object.
    pub metadata: ObjectMetadata,
    /// Condition of the write.
    pub precondition: Precondition,
    /// KMS key to encrypt with, bucket key on; the store's default when `None`.
    pub kms_key_id: Option<String>,
}

/// Part of an object to read: all bytes of the current version by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GetOptions<'a> {
    /// Version to read; the current one when `None`.
    pub version: Option<&'a str>,
    /// Bytes to read, not empty; bytes after the object's end are left out.
    pub range: Option<Range<u64>>,
}

/// Version of an object to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion<'a> {
    /// The current object; a bucket with versions gets a delete marker.
    /// [`Precondition::Absent`] is not allowed.
    Current(&'a Precondition),
    /// One version, for good.
    Version(&'a str),
}

/// Bytes read from an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The object's bytes, or those of the requested range.
    pub body: Bytes,
    /// Entity tag of the whole object.
    pub etag: ETag,
}

/// Properties of an object without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are S3's")]
pub struct ObjectHead {
    pub etag: ETag,
    pub size_bytes: u64,
    pub version_id: Option<VersionId>,
    pub metadata: ObjectMetadata,
    /// Seconds since the epoch.
    pub last_modified: i64,
}

/// Answer to a write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are S3's")]
pub struct PutResult {
    pub etag: ETag,
    pub version_id: Option<VersionId>,
}

/// Object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are S3's")]
pub struct ObjectSummary {
    pub key: ObjectKey,
    pub etag: ETag,
    pub size_bytes: u64,
    /// Seconds since the epoch.
    pub last_modified: i64,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPage {
    /// At most 1,000 objects.
    pub objects: Vec<ObjectSummary>,
    /// Keys cut after the first delimiter behind the listed prefix, each once.
    pub common_prefixes: Vec<String>,
    /// Token of the next page; `None` on the last one.
    pub next: Option<String>,
}

/// Id of a multipart upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadId(pub String);

/// Multipart upload to open.
#[derive(Debug, Clone, Copy)]
pub enum UploadStart<'a> {
    /// Creates an upload. The precondition is not checked until
    /// [`complete`](super::MultipartUpload::complete), which gets it again.
    New(&'a PutOptions),
    /// Opens an upload that was created before, without a request.
    Existing(&'a UploadId),
}

/// Stored part of a multipart upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// From 1 to [`MAX_PARTS`].
    pub number: u32,
    /// Entity tag of the part.
    pub etag: ETag,
    /// CRC-32 of the part in base64, where the service returned it.
    pub checksum_crc32: Option<String>,
}

/// Object that a part is copied from: bucket, key and version.
pub type CopySource<'a> = (&'a BucketName, &'a ObjectKey, Option<&'a str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_any_text_that_fits_into_a_header() {
        for valid in ["\"0123\"", "W/\"1\"", "0123-2"] {
            assert_eq!(ETag::new(valid).expect(valid).as_str(), valid);
        }
        for invalid in ["", "\"1\"\r\nx: y"] {
            let error = ETag::new(invalid).expect_err("not a header value");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }

    #[test]
    fn the_null_version_has_no_id() {
        assert_eq!(VersionId::new("null"), None);
        assert_eq!(VersionId::new(""), None);
        let version = VersionId::new("v1");
        assert_eq!(version.as_deref(), Some("v1"));
    }
}
