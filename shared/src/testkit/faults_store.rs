//! [`ObjectStore`] for [`Failing`] and for an [`Arc`] of a store.
//!
//! Calls are logged by the names of [`ObjectStoreExt`](crate::storage::ObjectStoreExt),
//! one name for each operation of S3.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::faults::{Failing, FaultPlan};
use crate::error::Result;
use crate::name::{BucketName, ObjectKey};
use crate::storage::{
    CopySource, Deletion, GetOptions, ListPage, MultipartUpload, Object, ObjectHead, ObjectStore,
    Part, Precondition, PutOptions, PutResult, Tags, UploadId, UploadStart,
};

#[async_trait]
impl<T: ObjectStore> ObjectStore for Failing<T> {
    async fn is_versioned(&self, bucket: &BucketName) -> Result<bool> {
        let call = self.inner.is_versioned(bucket);
        self.plan.run("is_versioned", call).await
    }

    async fn head(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<ObjectHead>> {
        let call = self.inner.head(bucket, key);
        self.plan.run("head", call).await
    }

    async fn get_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &GetOptions<'_>,
    ) -> Result<Object> {
        let call = self.inner.get_object(bucket, key, options);
        self.plan.run("get", call).await
    }

    async fn list(
        &self,
        bucket: &BucketName,
        prefix: &str,
        delimiter: Option<&str>,
        next: Option<&str>,
    ) -> Result<ListPage> {
        let call = self.inner.list(bucket, prefix, delimiter, next);
        self.plan.run("list", call).await
    }

    async fn put(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutResult> {
        let call = self.inner.put(bucket, key, body, options);
        self.plan.run("put", call).await
    }

    async fn delete_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        deletion: Deletion<'_>,
    ) -> Result<()> {
        let call = self.inner.delete_object(bucket, key, deletion);
        self.plan.run(deletion_name(deletion), call).await
    }

    async fn tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        replacement: Option<&Tags>,
    ) -> Result<Tags> {
        let call = self.inner.tags(bucket, key, version, replacement);
        self.plan.run(tags_name(replacement), call).await
    }

    async fn open_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        start: UploadStart<'_>,
    ) -> Result<Box<dyn MultipartUpload>> {
        let open = self.inner.open_upload(bucket, key, start);
        let inner = match start {
            UploadStart::New(_) => self.plan.run("create_upload", open).await?,
            UploadStart::Existing(_) => open.await?,
        };
        let plan = self.plan.clone();
        Ok(Box::new(FailingUpload { inner, plan }))
    }
}

/// Returns the logged name of a deletion.
pub(super) fn deletion_name(deletion: Deletion<'_>) -> &'static str {
    match deletion {
        Deletion::Current(_) => "delete",
        Deletion::Version(_) => "delete_version",
    }
}

/// Returns the logged name of a call of [`ObjectStore::tags`].
pub(super) fn tags_name(replacement: Option<&Tags>) -> &'static str {
    match replacement {
        None => "get_tags",
        Some(_) => "put_tags",
    }
}

/// Multipart upload of a [`Failing`] store.
struct FailingUpload {
    inner: Box<dyn MultipartUpload>,
    plan: FaultPlan,
}

#[async_trait]
impl MultipartUpload for FailingUpload {
    fn id(&self) -> UploadId {
        self.inner.id()
    }

    async fn part(&self, number: u32, body: Bytes) -> Result<Part> {
        let call = self.inner.part(number, body);
        self.plan.run("upload_part", call).await
    }

    async fn part_copy(
        &self,
        number: u32,
        source: CopySource<'_>,
        range: Range<u64>,
    ) -> Result<Part> {
        let call = self.inner.part_copy(number, source, range);
        self.plan.run("upload_part_copy", call).await
    }

    async fn complete(&self, parts: &[Part], precondition: &Precondition) -> Result<PutResult> {
        let call = self.inner.complete(parts, precondition);
        self.plan.run("complete_upload", call).await
    }

    async fn abort(&self) -> Result<()> {
        self.plan.run("abort_upload", self.inner.abort()).await
    }
}

#[async_trait]
impl<T: ObjectStore + ?Sized> ObjectStore for Arc<T> {
    async fn is_versioned(&self, bucket: &BucketName) -> Result<bool> {
        (**self).is_versioned(bucket).await
    }

    async fn head(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<ObjectHead>> {
        (**self).head(bucket, key).await
    }

    async fn get_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &GetOptions<'_>,
    ) -> Result<Object> {
        (**self).get_object(bucket, key, options).await
    }

    async fn list(
        &self,
        bucket: &BucketName,
        prefix: &str,
        delimiter: Option<&str>,
        next: Option<&str>,
    ) -> Result<ListPage> {
        (**self).list(bucket, prefix, delimiter, next).await
    }

    async fn put(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutResult> {
        (**self).put(bucket, key, body, options).await
    }

    async fn delete_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        deletion: Deletion<'_>,
    ) -> Result<()> {
        (**self).delete_object(bucket, key, deletion).await
    }

    async fn tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        replacement: Option<&Tags>,
    ) -> Result<Tags> {
        (**self).tags(bucket, key, version, replacement).await
    }

    async fn open_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        start: UploadStart<'_>,
    ) -> Result<Box<dyn MultipartUpload>> {
        (**self).open_upload(bucket, key, start).await
    }
}
