//! An object store as a trait in plain types: the part of Amazon S3 that branchline uses.
//!
//! | file | job |
//! |---|---|
//! | `types` | values of requests and answers |
//! | `ext` | [`ObjectStoreExt`]: shorter forms of the trait's methods |
//! | `client`, `client_upload`, `client_region`, `error` | Amazon S3 over the AWS SDK |
//! | `retrying` | limits and retries; recognises writes whose answer was lost |
//! | `multipart` | writes an object part by part |
//! | `leftovers` | deletes temporary objects of runs that were killed |
//! | `spool` | keeps a pack that is read again in memory or in S3 |
//! | `rfc2047` | text in user metadata |

#[cfg(feature = "s3")]
pub mod client;
#[cfg(feature = "s3")]
mod client_convert;
#[cfg(feature = "s3")]
mod client_region;
#[cfg(feature = "s3")]
mod client_upload;
mod denied_deletions;
#[cfg(feature = "s3")]
mod error;
mod ext;
mod leftovers;
pub mod multipart;
mod retrying;
mod rfc2047;
pub mod spool;
mod types;

pub use denied_deletions::{DeniedDeletions, RecordingStore};
pub use ext::ObjectStoreExt;
pub use leftovers::{MIN_LEFTOVER_AGE_SECONDS, delete_leftovers};
pub use retrying::WRITE_ID;
pub use rfc2047::encode_rfc2047;
pub use types::{
    CopySource, Deletion, ETag, Encryption, GetOptions, ListPage, MAX_PARTS, MIN_PART_BYTES,
    Object, ObjectHead, ObjectMetadata, ObjectSummary, Part, Precondition, PutOptions, PutResult,
    S3Settings, Tags, UploadId, UploadStart, VersionId,
};

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;
use crate::name::{BucketName, ObjectKey};

/// Operations of an object store that branchline uses.
///
/// Every method is at most one request, except where noted. Errors: `NotFound` for a missing
/// bucket or key, `Conflict` for a precondition that does not hold. [`ObjectStoreExt`] has
/// shorter forms for callers.
#[async_trait]
pub trait ObjectStore: Send + Sync {
    /// Returns whether the bucket keeps versions.
    async fn is_versioned(&self, bucket: &BucketName) -> Result<bool>;

    /// Describes an object; `None` if absent or hidden by a delete marker, `NotFound` if
    /// the bucket is missing (which may cost a second request).
    async fn head(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<ObjectHead>>;

    /// Reads an object, a version of an object, or a range of either. Errors: `NotFound`,
    /// and `Corrupt` for a range that starts behind the object's end.
    async fn get_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &GetOptions<'_>,
    ) -> Result<Object>;

    /// Lists keys that start with `prefix`, ordered by their bytes, one page from the token
    /// `next`.
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

    /// Deletes an object or one of its versions. Deleting a missing key or version succeeds
    /// unless the precondition is `Matches`.
    async fn delete_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        deletion: Deletion<'_>,
    ) -> Result<()>;

    /// Creates a multipart upload, or opens one by its id.
    async fn open_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        start: UploadStart<'_>,
    ) -> Result<Box<dyn MultipartUpload>>;

    /// Replaces an object's tags where `replacement` is given, else reads them; returns the
    /// tags after that.
    async fn tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        replacement: Option<&Tags>,
    ) -> Result<Tags>;
}

/// Multipart upload of one object. Every method but [`id`](Self::id) is one request.
///
/// An upload that is neither completed nor aborted stays in the bucket: dropping this sends
/// nothing.
#[async_trait]
pub trait MultipartUpload: Send + Sync {
    /// Returns the id by which [`ObjectStore::open_upload`] opens this upload again.
    fn id(&self) -> UploadId;

    /// Sends one part. A second part of one number replaces the first.
    async fn part(&self, number: u32, body: Bytes) -> Result<Part>;

    /// Copies a range of another object into a part, at most 5 GiB.
    async fn part_copy(
        &self,
        number: u32,
        source: CopySource<'_>,
        range: Range<u64>,
    ) -> Result<Part>;

    /// Turns `parts`, in the order of their numbers, into the object.
    async fn complete(&self, parts: &[Part], precondition: &Precondition) -> Result<PutResult>;

    /// Aborts the upload. Aborting an unknown upload succeeds.
    async fn abort(&self) -> Result<()>;
}
