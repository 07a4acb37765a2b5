//! Objects and their versions as data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::blob::Segment;
use super::checksum::Checksum;
use super::error::{Error, Result};

/// Version id of objects written while versioning was off or suspended.
pub(super) const NULL_VERSION: &str = "null";

/// Maximum length of a key, in bytes.
pub(super) const MAX_KEY_BYTES: usize = 1024;

/// Maximum size of user metadata, names and values, in bytes.
const MAX_METADATA_BYTES: usize = 2048;

/// An object's tags.
pub type Tags = BTreeMap<String, String>;

/// Versioning state of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Versioning {
    /// Never enabled.
    #[default]
    Off,
    /// Every write creates a version.
    Enabled,
    /// Writes replace the version `null`; older versions are kept.
    Suspended,
}

/// Encryption of an object, as its writer requested it; bytes on disk are plain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// `AES256`, `aws:kms` or `aws:kms:dsse`.
    pub algorithm: String,
    /// The KMS key, if one was named.
    pub kms_key_id: Option<String>,
    /// Whether a bucket key is used.
    pub bucket_key: Option<bool>,
}

/// Attributes that are stored with an object's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// The media type.
    pub content_type: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Expires`, an HTTP date.
    pub expires: Option<String>,
    /// User metadata, names in lower case without `x-amz-meta-`.
    pub user: BTreeMap<String, String>,
    /// Encryption; S3's own `AES256` when `None`.
    pub encryption: Option<Encryption>,
    /// The storage class; `STANDARD` when `None`.
    pub storage_class: Option<String>,
    /// Target of a website redirect.
    pub website_redirect: Option<String>,
}

impl Attributes {
    pub(super) fn check(&self) -> Result<()> {
        let bytes: usize = self
            .user
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if bytes > MAX_METADATA_BYTES {
            return Err(Error::MetadataTooLarge);
        }
        Ok(())
    }
}

/// Refuses keys that are empty or too long.
pub(super) fn check_key(key: &str) -> Result<()> {
    if key.is_empty() {
        return Err(Error::InvalidArgument("the key is empty".into()));
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(Error::KeyTooLong);
    }
    Ok(())
}

/// Refuses tag sets that S3 does not accept.
pub(super) fn check_tags(tags: &Tags) -> Result<()> {
    if tags.len() > 10 {
        return Err(Error::TooManyTags);
    }
    for (key, value) in tags {
        if key.is_empty() || key.chars().count() > 128 {
            return Err(Error::InvalidTag(
                "The TagKey you have provided is invalid".into(),
            ));
        }
        if value.chars().count() > 256 {
            return Err(Error::InvalidTag(
                "The TagValue you have provided is invalid".into(),
            ));
        }
        if key.starts_with("aws:") {
            return Err(Error::InvalidTag(
                "System tags cannot be added/updated by requester".into(),
            ));
        }
    }
    Ok(())
}

/// One version of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Version {
    /// `null`, or opaque.
    pub(super) id: String,
    /// Time of writing, in seconds since the epoch.
    pub(super) modified: i64,
    /// The object; `None` for a delete marker.
    pub(super) object: Option<Object>,
}

/// An object's description and its blobs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Object {
    pub(super) etag: String,
    pub(super) size: u64,
    /// One for a single put; one for each part of a multipart upload.
    pub(super) segments: Vec<Segment>,
    /// The multipart upload that created it.
    pub(super) upload: Option<String>,
    pub(super) attributes: Attributes,
    pub(super) tags: Tags,
    pub(super) checksum: Option<Checksum>,
}

/// An object without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Object key.
    pub key: String,
    /// Version; `None` where the bucket never had versions.
    pub version_id: Option<String>,
    /// Entity tag, without quotes: the MD5 in hex, or `<md5 of md5s>-<parts>`.
    pub etag: String,
    /// Size in bytes.
    pub size: u64,
    /// Time of writing, in seconds since the epoch.
    pub last_modified: i64,
    /// Attributes that are stored with the bytes.
    pub attributes: Attributes,
    /// Object tags.
    pub tags: Tags,
    /// Checksum.
    pub checksum: Option<Checksum>,
    /// Sizes of the parts, when a multipart upload created it.
    pub parts: Option<Vec<u64>>,
}

impl Head {
    pub(super) fn new(
        key: &str,
        version: &Version,
        object: &Object,
        versioning: Versioning,
    ) -> Self {
        Self {
            key: key.to_owned(),
            version_id: shown(version, versioning),
            etag: object.etag.clone(),
            size: object.size,
            last_modified: version.modified,
            attributes: object.attributes.clone(),
            tags: object.tags.clone(),
            checksum: object.checksum.clone(),
            parts: object
                .upload
                .is_some()
                .then(|| object.segments.iter().map(|segment| segment.size).collect()),
        }
    }
}

/// Returns the version id as clients see it.
pub(super) fn shown(version: &Version, versioning: Versioning) -> Option<String> {
    (versioning != Versioning::Off).then(|| version.id.clone())
}

/// An entity tag to compare with, or `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Any object.
    Any,
    /// This entity tag, without quotes.
    ETag(String),
}

impl Condition {
    /// Returns true if an object of this entity tag meets the condition.
    pub fn matches(&self, etag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::ETag(wanted) => wanted == etag,
        }
    }
}

/// Preconditions of a write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Precondition {
    /// `If-Match`: the current object is this one.
    pub if_match: Option<Condition>,
    /// `If-None-Match: *`: there is no current object.
    pub if_absent: bool,
}

impl Precondition {
    /// Compares with the current object's entity tag; `None` when there is none.
    pub(super) fn check(&self, key: &str, current: Option<&str>) -> Result<()> {
        match (&self.if_match, current) {
            (Some(_), None) => return Err(Error::NoSuchKey(key.to_owned())),
            (Some(wanted), Some(etag)) if !wanted.matches(etag) => {
                return Err(Error::PreconditionFailed("If-Match"));
            }
            _ => {}
        }
        if self.if_absent && current.is_some() {
            return Err(Error::PreconditionFailed("If-None-Match"));
        }
        Ok(())
    }
}

/// Options of a write.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// Attributes that are stored with the bytes.
    pub attributes: Attributes,
    /// The object's tags.
    pub tags: Tags,
    /// Preconditions.
    pub precondition: Precondition,
}

/// Result of a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// The version that was removed, or that the new delete marker has.
    pub version_id: Option<String>,
    /// True if that version is a delete marker.
    pub marker: bool,
}
