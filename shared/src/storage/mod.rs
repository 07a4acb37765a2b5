//! An object store as a trait in plain types: what branchline uses of Amazon S3.

#[cfg(feature = "s3")]
pub mod client;
#[cfg(feature = "s3")]
mod error;
pub mod multipart;
mod retrying;
mod rfc2047;
pub mod spool;

pub use retrying::WRITE_ID;
pub use rfc2047::encode_rfc2047;

use std::collections::BTreeMap;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;
use crate::name::{BucketName, ObjectKey};

/// The smallest part of a multipart upload but the last, in bytes (5 MiB).
pub const MIN_PART_BYTES: usize = 5 * 1024 * 1024;

/// The most parts of a multipart upload.
pub const MAX_PARTS: u32 = 10_000;

/// What must hold for a write to happen; if it does not, the error is `Conflict`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Precondition {
    /// Nothing: the last writer wins.
    #[default]
    None,
    /// There is no current object of that key (`If-None-Match: *`).
    Absent,
    /// The current object has this ETag (`If-Match`).
    Matches(ETag),
}

/// The entity tag of an object, quotes included, as S3 gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ETag(pub String);

/// The id of one version of an object; `None` where the bucket is not versioned.
pub type VersionId = Option<String>;

/// What is stored beside an object's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectMetadata {
    /// The media type; S3's own default when `None`.
    pub content_type: Option<String>,
    /// How a browser should offer the object.
    pub content_disposition: Option<String>,
    /// How caches should treat the object.
    pub cache_control: Option<String>,
    /// User metadata, names in lower case without `x-amz-meta-`, values US-ASCII.
    pub user: BTreeMap<String, String>,
}

/// How an object is to be written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutOptions {
    /// What is stored beside the bytes.
    pub metadata: ObjectMetadata,
    /// What must hold for the write to happen.
    pub precondition: Precondition,
    /// The KMS key to encrypt with, bucket key on; the bucket's default when `None`.
    pub kms_key_id: Option<String>,
}

/// What is known of an object without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHead {
    /// Its entity tag.
    pub etag: ETag,
    /// Its size.
    pub size_bytes: u64,
    /// Its version.
    pub version_id: VersionId,
    /// What is stored beside its bytes.
    pub metadata: ObjectMetadata,
    /// When it was written, in seconds since the epoch.
    pub last_modified: i64,
}

/// What a write answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutResult {
    /// The object's entity tag.
    pub etag: ETag,
    /// The object's version.
    pub version_id: VersionId,
}

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectSummary {
    /// The object's key.
    pub key: ObjectKey,
    /// Its entity tag.
    pub etag: ETag,
    /// Its size.
    pub size_bytes: u64,
    /// When it was written, in seconds since the epoch.
    pub last_modified: i64,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPage {
    /// Objects, at most 1,000.
    pub objects: Vec<ObjectSummary>,
    /// Starts of keys that share a part up to the delimiter.
    pub common_prefixes: Vec<String>,
    /// What to ask the next page with; `None` on the last one.
    pub next: Option<String>,
}

/// A multipart upload under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadId(pub String);

/// A part that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number, from 1.
    pub number: u32,
    /// Its entity tag.
    pub etag: ETag,
    /// Its CRC-32 as the service named it, base64, when it did.
    pub checksum_crc32: Option<String>,
}

/// The operations of an object store that branchline uses.
///
/// Every method is one request. Errors: `NotFound` for a bucket or key that is not there,
/// `Conflict` for a precondition that does not hold.
#[async_trait]
pub trait ObjectStore: Send + Sync {
    /// Whether the bucket keeps versions.
    async fn is_versioned(&self, bucket: &BucketName) -> Result<bool>;

    /// Describes an object; `None` when there is none (or a delete marker), and `NotFound`
    /// only when the bucket is gone (which may cost a second request).
    async fn head(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<ObjectHead>>;

    /// Reads an object, or a range of its bytes: what of the range there is, nothing for an
    /// empty one, and `Corrupt` for one that starts behind the object's end.
    async fn get(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        range: Option<Range<u64>>,
    ) -> Result<Bytes>;

    /// Reads an object whole with its entity tag, for a write that shall replace just
    /// this; `None` when there is none, and `NotFound` only when the bucket is gone.
    async fn get_with_etag(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
    ) -> Result<Option<(Bytes, ETag)>>;

    /// Lists keys that start with `prefix`, in the order of their bytes.
    async fn list(
        &self,
        bucket: &BucketName,
        prefix: &str,
        delimiter: Option<&str>,
        next: Option<&str>,
    ) -> Result<ListPage>;

    /// Writes an object whole.
    async fn put(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutResult>;

    /// Deletes an object: with versions, a delete marker. A key that is not there is no
    /// error, unless the precondition is that it matches. [`Precondition::Absent`] is a
    /// defect of the caller.
    async fn delete(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        precondition: &Precondition,
    ) -> Result<()>;

    /// Removes one version of an object for good. One that is not there is no error.
    async fn delete_version(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: &str,
    ) -> Result<()>;

    /// Starts a multipart upload. The precondition in `options` is not looked at here: it is
    /// given again on completion, and checked then.
    async fn create_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &PutOptions,
    ) -> Result<UploadId>;

    /// Sends one part.
    async fn upload_part(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> Result<Part>;

    /// Makes a part of a range of another object.
    async fn upload_part_copy(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        source: (&BucketName, &ObjectKey, Option<&str>),
        range: Range<u64>,
    ) -> Result<Part>;

    /// Turns the parts into the object.
    async fn complete_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[Part],
        precondition: &Precondition,
    ) -> Result<PutResult>;

    /// Gives an upload up. One that is not there is no error.
    async fn abort_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<()>;

    /// Reads an object's tags.
    async fn get_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<BTreeMap<String, String>>;

    /// Replaces an object's tags.
    async fn put_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        tags: &BTreeMap<String, String>,
    ) -> Result<()>;
}
