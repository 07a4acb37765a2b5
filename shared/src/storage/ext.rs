//! Shorter forms of [`ObjectStore`]'s methods, for callers.

use std::ops::Range;

use bytes::Bytes;

use super::{
    Deletion, ETag, GetOptions, MultipartUpload, Object, ObjectStore, Precondition, PutOptions,
    Tags, UploadId, UploadStart,
};
use crate::error::{ErrorKind, Result};
use crate::name::{BucketName, ObjectKey};

/// Convenience methods of every [`ObjectStore`].
pub trait ObjectStoreExt: ObjectStore {
    /// Reads an object, or a range of its bytes; an empty range makes no request.
    fn get(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        range: Option<Range<u64>>,
    ) -> impl Future<Output = Result<Bytes>> + Send {
        async move {
            if range.as_ref().is_some_and(Range::is_empty) {
                return Ok(Bytes::new());
            }
            let options = GetOptions { version, range };
            Ok(self.get_object(bucket, key, &options).await?.body)
        }
    }

    /// Reads an object with its ETag, for a conditional replacement; `None` if absent,
    /// `NotFound` if the bucket is missing.
    fn get_with_etag(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
    ) -> impl Future<Output = Result<Option<(Bytes, ETag)>>> + Send {
        async move {
            match self.get_object(bucket, key, &GetOptions::default()).await {
                Ok(Object { body, etag }) => Ok(Some((body, etag))),
                // S3 reports a delete marker in a header, without a code.
                Err(error)
                    if error.kind() == ErrorKind::NotFound
                        && matches!(error.aws_code(), None | Some("NoSuchKey")) =>
                {
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        }
    }

    /// Deletes the current object; see [`Deletion::Current`].
    fn delete(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        precondition: &Precondition,
    ) -> impl Future<Output = Result<()>> + Send {
        async move {
            self.delete_object(bucket, key, Deletion::Current(precondition))
                .await
        }
    }

    /// Deletes one version for good; see [`Deletion::Version`].
    fn delete_version(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: &str,
    ) -> impl Future<Output = Result<()>> + Send {
        async move {
            self.delete_object(bucket, key, Deletion::Version(version))
                .await
        }
    }

    /// Creates a multipart upload; see [`UploadStart::New`].
    fn create_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &PutOptions,
    ) -> impl Future<Output = Result<Box<dyn MultipartUpload>>> + Send {
        async move {
            self.open_upload(bucket, key, UploadStart::New(options))
                .await
        }
    }

    /// Aborts the multipart upload with the id `upload`, which another process may have
    /// created.
    fn abort_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> impl Future<Output = Result<()>> + Send {
        async move {
            let start = UploadStart::Existing(upload);
            self.open_upload(bucket, key, start).await?.abort().await
        }
    }

    /// Reads an object's tags.
    fn get_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> impl Future<Output = Result<Tags>> + Send {
        async move { self.tags(bucket, key, version, None).await }
    }

    /// Replaces an object's tags.
    fn put_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        tags: &Tags,
    ) -> impl Future<Output = Result<()>> + Send {
        async move {
            let replaced = self.tags(bucket, key, version, Some(tags)).await;
            replaced.map(drop)
        }
    }
}

impl<S: ObjectStore + ?Sized> ObjectStoreExt for S {}
