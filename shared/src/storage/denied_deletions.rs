//! Deletions that a store does not allow: of replaced and temporary objects, whose writers go on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Deletion, GetOptions, ListPage, MultipartUpload, Object, ObjectHead, ObjectStore, PutOptions,
    PutResult, Tags, UploadStart,
};
use crate::error::{ErrorKind, Result};
use crate::name::{BucketName, ObjectKey};

/// Record of denied deletions, by bucket. A clone is the same record.
#[derive(Debug, Clone, Default)]
pub struct DeniedDeletions(Arc<Mutex<BTreeMap<BucketName, String>>>);

impl DeniedDeletions {
    /// Returns the report of the first denied deletion in `bucket` since the last call.
    pub fn take(&self, bucket: &BucketName) -> Option<String> {
        self.lock().remove(bucket)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BucketName, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Store that records deletions which the service denies.
pub struct RecordingStore<S> {
    store: S,
    denied: DeniedDeletions,
}

impl<S> RecordingStore<S> {
    /// Wraps `store`.
    pub fn new(store: S, denied: DeniedDeletions) -> Self {
        Self { store, denied }
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for RecordingStore<S> {
    async fn is_versioned(&self, bucket: &BucketName) -> Result<bool> {
        self.store.is_versioned(bucket).await
    }

    async fn head(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<ObjectHead>> {
        self.store.head(bucket, key).await
    }

    async fn get_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &GetOptions<'_>,
    ) -> Result<Object> {
        self.store.get_object(bucket, key, options).await
    }

    async fn list(
        &self,
        bucket: &BucketName,
        prefix: &str,
        delimiter: Option<&str>,
        next: Option<&str>,
    ) -> Result<ListPage> {
        self.store.list(bucket, prefix, delimiter, next).await
    }

    async fn put(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutResult> {
        self.store.put(bucket, key, body, options).await
    }

    async fn delete_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        deletion: Deletion<'_>,
    ) -> Result<()> {
        let result = self.store.delete_object(bucket, key, deletion).await;
        if let Err(error) = &result
            && error.kind() == ErrorKind::AccessDenied
        {
            let report = error.report();
            self.denied.lock().entry(bucket.clone()).or_insert(report);
        }
        result
    }

    async fn open_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        start: UploadStart<'_>,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.open_upload(bucket, key, start).await
    }

    async fn tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        replacement: Option<&Tags>,
    ) -> Result<Tags> {
        self.store.tags(bucket, key, version, replacement).await
    }
}
