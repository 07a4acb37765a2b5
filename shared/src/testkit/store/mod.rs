//! [`ObjectStore`] in memory: versions, atomic preconditions, delete markers, tags and
//! multipart uploads.

mod state;
mod upload;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use self::state::{State, etag, new_version, slice};
use self::upload::MemoryUpload;
use super::call_log::CallLog;
use super::faults_store::{deletion_name, tags_name};
use crate::error::Result;
use crate::name::{BucketName, ObjectKey};
use crate::storage::{
    Deletion, ETag, GetOptions, ListPage, MIN_PART_BYTES, MultipartUpload, Object, ObjectHead,
    ObjectMetadata, ObjectStore, ObjectSummary, PutOptions, PutResult, Tags, UploadStart,
    VersionId,
};

/// Limits of a [`MemoryStore`] in which stores may differ.
#[derive(Debug, Clone)]
pub struct MemoryStoreOptions {
    /// Maximum number of objects and common prefixes in a page.
    pub page: usize,
    /// Smallest part of an upload, except for the last one.
    pub min_part_bytes: usize,
}

impl Default for MemoryStoreOptions {
    fn default() -> Self {
        Self {
            page: 2,
            min_part_bytes: MIN_PART_BYTES,
        }
    }
}

/// Stored version of an object, for assertions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVersion {
    /// Id of the version; `None` where the bucket keeps none.
    pub id: Option<VersionId>,
    /// Bytes of the object; `None` for a delete marker.
    pub body: Option<Bytes>,
    /// Entity tag of the object.
    pub etag: ETag,
    /// Metadata of the object.
    pub metadata: ObjectMetadata,
    /// KMS key of the write.
    pub kms_key_id: Option<String>,
    /// Tags of the version.
    pub tags: Tags,
    last_modified: i64,
}

/// Store in memory. A clone has the same contents.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    options: MemoryStoreOptions,
    state: Arc<Mutex<State>>,
    traffic: Arc<CallLog>,
}

impl MemoryStore {
    /// Makes a store without buckets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a store without buckets, with these limits.
    pub fn with_options(options: MemoryStoreOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Returns the log of calls, which has latency, throttling and hooks.
    pub fn traffic(&self) -> &CallLog {
        &self.traffic
    }

    /// Creates a bucket, or changes whether it keeps versions.
    pub fn create_bucket(&self, bucket: &BucketName, versioned: bool) {
        let mut state = self.lock();
        state.buckets.entry(bucket.clone()).or_default().versioned = versioned;
    }

    /// Deletes a bucket with its objects.
    pub fn delete_bucket(&self, bucket: &BucketName) {
        self.lock().buckets.remove(bucket);
    }

    /// Advances the clock that dates the objects; each write advances it by a second, too.
    pub fn advance(&self, seconds: i64) {
        self.lock().advance(seconds);
    }

    /// Returns the versions of an object, oldest first.
    pub fn versions(&self, bucket: &BucketName, key: &str) -> Vec<StoredVersion> {
        let state = self.lock();
        state
            .buckets
            .get(bucket)
            .and_then(|bucket| bucket.objects.get(key).cloned())
            .unwrap_or_default()
    }

    /// Returns the keys of the uploads that are neither complete nor aborted.
    pub fn uploads(&self) -> Vec<String> {
        let state = self.lock();
        let uploads = state.buckets.values().flat_map(|b| b.uploads.values());
        uploads.map(|upload| upload.key.to_string()).collect()
    }

    /// Returns the writes, in order: `put bucket/key`, `complete ..`, `delete ..`, `tag ..`.
    pub fn journal(&self) -> Vec<String> {
        self.lock().journal.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn is_versioned(&self, bucket: &BucketName) -> Result<bool> {
        let _call = self.traffic.enter("is_versioned").await?;
        Ok(self.lock().bucket(bucket)?.versioned)
    }

    async fn head(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<ObjectHead>> {
        let _call = self.traffic.enter("head").await?;
        let mut state = self.lock();
        let current = state.bucket(bucket)?.current(key);
        Ok(current.map(|version| ObjectHead {
            etag: version.etag.clone(),
            size_bytes: version.body.as_ref().map_or(0, Bytes::len) as u64,
            version_id: version.id.clone(),
            metadata: version.metadata.clone(),
            last_modified: version.last_modified,
        }))
    }

    async fn get_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &GetOptions<'_>,
    ) -> Result<Object> {
        let _call = self.traffic.enter("get").await?;
        let mut state = self.lock();
        let found = state.bucket(bucket)?.find(key, options.version)?;
        let body = found.body.clone().unwrap_or_default();
        let body = match &options.range {
            None => body,
            Some(range) => slice(key, &body, range)?,
        };
        self.traffic.record_bytes("get", body.len());
        Ok(Object {
            body,
            etag: found.etag.clone(),
        })
    }

    async fn list(
        &self,
        bucket: &BucketName,
        prefix: &str,
        delimiter: Option<&str>,
        next: Option<&str>,
    ) -> Result<ListPage> {
        let _call = self.traffic.enter("list").await?;
        let mut state = self.lock();
        let found = state.bucket(bucket)?;
        let mut page = ListPage {
            objects: Vec::new(),
            common_prefixes: Vec::new(),
            next: None,
        };
        // The token is the last key or common prefix of the page before.
        let mut last = next.map(str::to_owned);
        for (key, versions) in &found.objects {
            let Some(version) = versions.last().filter(|v| v.body.is_some()) else {
                continue;
            };
            let Some(rest) = key.strip_prefix(prefix) else {
                continue;
            };
            let common = delimiter
                .and_then(|delimiter| rest.find(delimiter).map(|at| at + delimiter.len()))
                .map(|length| &key[..prefix.len() + length]);
            let item = common.unwrap_or(key);
            if last.as_deref().is_some_and(|last| item <= last) {
                continue;
            }
            if page.objects.len() + page.common_prefixes.len() == self.options.page {
                page.next = last;
                break;
            }
            last = Some(item.to_owned());
            match common {
                Some(common) => page.common_prefixes.push(common.to_owned()),
                None => page.objects.push(ObjectSummary {
                    key: ObjectKey::new(key)?,
                    etag: version.etag.clone(),
                    size_bytes: version.body.as_ref().map_or(0, Bytes::len) as u64,
                    last_modified: version.last_modified,
                }),
            }
        }
        Ok(page)
    }

    async fn put(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutResult> {
        let _call = self.traffic.enter("put").await?;
        let mut state = self.lock();
        state.bucket(bucket)?.check(key, &options.precondition)?;
        let etag = etag(
            &[
                &body,
                options.kms_key_id.as_deref().unwrap_or("").as_bytes(),
            ],
            "",
        );
        state.add((bucket, key), "put", new_version(body, etag, options))
    }

    async fn delete_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        deletion: Deletion<'_>,
    ) -> Result<()> {
        let _call = self.traffic.enter(deletion_name(deletion)).await?;
        let mut state = self.lock();
        match deletion {
            Deletion::Current(precondition) => state.delete(bucket, key, precondition),
            Deletion::Version(version) => state.delete_version(bucket, key, version),
        }
    }

    async fn open_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        start: UploadStart<'_>,
    ) -> Result<Box<dyn MultipartUpload>> {
        let id = match start {
            UploadStart::New(options) => {
                let _call = self.traffic.enter("create_upload").await?;
                self.lock().create_upload(bucket, key, options)?
            }
            UploadStart::Existing(id) => id.clone(),
        };
        Ok(Box::new(MemoryUpload {
            store: self.clone(),
            bucket: bucket.clone(),
            key: key.clone(),
            id,
        }))
    }

    async fn tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        replacement: Option<&Tags>,
    ) -> Result<Tags> {
        let _call = self.traffic.enter(tags_name(replacement)).await?;
        let mut state = self.lock();
        let found = state.bucket(bucket)?.find(key, version)?;
        let Some(tags) = replacement else {
            return Ok(found.tags.clone());
        };
        found.tags.clone_from(tags);
        state.journal.push(format!("tag {bucket}/{key}"));
        Ok(tags.clone())
    }
}
