//! [`ObjectStore`] in memory: versions, atomic preconditions, delete markers, tags and
//! multipart uploads.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::call_log::CallLog;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, ObjectKey};
use crate::storage::{
    ETag, ListPage, MAX_PARTS, MIN_PART_BYTES, ObjectHead, ObjectMetadata, ObjectStore,
    ObjectSummary, Part, Precondition, PutOptions, PutResult, UploadId, VersionId,
};

/// How a [`MemoryStore`] behaves where stores may differ.
#[derive(Debug, Clone)]
pub struct MemoryStoreOptions {
    /// Objects and common prefixes of a page.
    pub page: usize,
    /// The smallest part of an upload but the last.
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

/// A version of an object, as a test looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVersion {
    /// Its id.
    pub id: VersionId,
    /// Its bytes; `None` for a delete marker.
    pub body: Option<Bytes>,
    /// Its entity tag.
    pub etag: ETag,
    /// What is stored beside its bytes.
    pub metadata: ObjectMetadata,
    /// The KMS key that it was asked to be encrypted with.
    pub kms_key_id: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    last_modified: i64,
}

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    options: MemoryStoreOptions,
    state: Mutex<State>,
    traffic: CallLog,
}

#[derive(Debug, Default)]
struct State {
    buckets: BTreeMap<BucketName, Bucket>,
    journal: Vec<String>,
    clock: i64,
}

#[derive(Debug, Default)]
struct Bucket {
    versioned: bool,
    // Versions in the order of writing; the last one is the current one.
    objects: BTreeMap<String, Vec<StoredVersion>>,
    uploads: BTreeMap<String, Upload>,
}

#[derive(Debug)]
struct Upload {
    key: ObjectKey,
    options: PutOptions,
    parts: BTreeMap<u32, (ETag, Bytes)>,
}

impl MemoryStore {
    /// A store without buckets.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store without buckets.
    pub fn with_options(options: MemoryStoreOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// The way into the store: its log, latency, throttling and hooks.
    pub fn traffic(&self) -> &CallLog {
        &self.traffic
    }

    /// Creates a bucket, or changes whether it keeps versions.
    pub fn create_bucket(&self, bucket: &BucketName, versioned: bool) {
        let mut state = self.lock();
        state.buckets.entry(bucket.clone()).or_default().versioned = versioned;
    }

    /// Deletes a bucket with all that is in it.
    pub fn delete_bucket(&self, bucket: &BucketName) {
        self.lock().buckets.remove(bucket);
    }

    /// The versions of an object, oldest first.
    pub fn versions(&self, bucket: &BucketName, key: &str) -> Vec<StoredVersion> {
        let state = self.lock();
        state
            .buckets
            .get(bucket)
            .and_then(|bucket| bucket.objects.get(key).cloned())
            .unwrap_or_default()
    }

    /// The keys of the uploads that are neither complete nor aborted.
    pub fn uploads(&self) -> Vec<String> {
        let state = self.lock();
        let uploads = state.buckets.values().flat_map(|b| b.uploads.values());
        uploads.map(|upload| upload.key.to_string()).collect()
    }

    /// What was written, in order: `put bucket/key`, `complete ..`, `delete ..`, `tag ..`.
    pub fn journal(&self) -> Vec<String> {
        self.lock().journal.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn bucket(&mut self, name: &BucketName) -> Result<&mut Bucket> {
        self.buckets.get_mut(name).ok_or_else(|| {
            error(
                ErrorKind::NotFound,
                "NoSuchBucket",
                format!("bucket `{name}` does not exist"),
            )
        })
    }

    /// Adds a version, or replaces the only one.
    fn add(
        &mut self,
        place: (&BucketName, &ObjectKey),
        verb: &str,
        mut new: StoredVersion,
    ) -> Result<PutResult> {
        let (bucket, key) = place;
        self.clock += 1;
        let clock = self.clock;
        let found = self.bucket(bucket)?;
        new.last_modified = 1_700_000_000 + clock;
        new.id = found.versioned.then(|| format!("v{clock}"));
        let written = PutResult {
            etag: new.etag.clone(),
            version_id: new.id.clone(),
        };
        let versions = found.objects.entry(key.to_string()).or_default();
        if !found.versioned {
            versions.clear();
        }
        versions.push(new);
        self.journal.push(format!("{verb} {bucket}/{key}"));
        Ok(written)
    }
}

impl Bucket {
    fn current(&self, key: &ObjectKey) -> Option<&StoredVersion> {
        let versions = self.objects.get(key.as_str())?;
        versions.last().filter(|version| version.body.is_some())
    }

    fn check(&self, key: &ObjectKey, precondition: &Precondition) -> Result<()> {
        let current = self.current(key);
        let (holds, code) = match precondition {
            Precondition::None => (true, ""),
            Precondition::Absent => (current.is_none(), "PreconditionFailed"),
            Precondition::Matches(etag) => match current {
                Some(version) => (version.etag == *etag, "PreconditionFailed"),
                None => (false, "NoSuchKey"),
            },
        };
        if holds {
            return Ok(());
        }
        let message = format!("object `{key}` was changed by someone else");
        Err(error(ErrorKind::Conflict, code, message))
    }

    fn find(&mut self, key: &ObjectKey, version: Option<&str>) -> Result<&mut StoredVersion> {
        let versions = self.objects.get_mut(key.as_str());
        let found = versions.and_then(|versions| match version {
            None => versions.last_mut(),
            Some(id) => versions.iter_mut().find(|v| v.id.as_deref() == Some(id)),
        });
        found
            .filter(|version| version.body.is_some())
            .ok_or_else(|| {
                let code = if version.is_some() {
                    "NoSuchVersion"
                } else {
                    "NoSuchKey"
                };
                error(
                    ErrorKind::NotFound,
                    code,
                    format!("object `{key}` does not exist"),
                )
            })
    }

    fn upload(&mut self, key: &ObjectKey, upload: &UploadId) -> Result<&mut Upload> {
        let found = self.uploads.get_mut(&upload.0);
        found.filter(|found| found.key == *key).ok_or_else(|| {
            let message = format!(
                "multipart upload `{}` of object `{key}` does not exist",
                upload.0
            );
            error(ErrorKind::NotFound, "NoSuchUpload", message)
        })
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

    async fn get(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        range: Option<Range<u64>>,
    ) -> Result<Bytes> {
        let _call = self.traffic.enter("get").await?;
        let mut state = self.lock();
        let found = state.bucket(bucket)?.find(key, version)?;
        let body = found.body.clone().unwrap_or_default();
        let body = match range {
            None => body,
            Some(range) => slice(key, &body, &range)?,
        };
        self.traffic.record_bytes("get", body.len());
        Ok(body)
    }

    async fn get_with_etag(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
    ) -> Result<Option<(Bytes, ETag)>> {
        let _call = self.traffic.enter("read").await?;
        let mut state = self.lock();
        let current = state.bucket(bucket)?.current(key);
        Ok(current.map(|version| {
            let body = version.body.clone().unwrap_or_default();
            (body, version.etag.clone())
        }))
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
        // The token is what was given last: a key, or a common prefix.
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

    async fn delete(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        precondition: &Precondition,
    ) -> Result<()> {
        let _call = self.traffic.enter("delete").await?;
        if *precondition == Precondition::Absent {
            let message =
                format!("object `{key}` cannot be deleted on the condition that it is absent");
            return Err(Error::new(ErrorKind::Internal, message));
        }
        let mut state = self.lock();
        let found = state.bucket(bucket)?;
        found.check(key, precondition)?;
        if found.versioned {
            let mut marker = new_version(Bytes::new(), etag(&[], ""), &PutOptions::default());
            marker.body = None;
            state.add((bucket, key), "delete", marker)?;
        } else {
            found.objects.remove(key.as_str());
            state.journal.push(format!("delete {bucket}/{key}"));
        }
        Ok(())
    }

    async fn delete_version(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: &str,
    ) -> Result<()> {
        let _call = self.traffic.enter("delete_version").await?;
        let mut state = self.lock();
        let found = state.bucket(bucket)?;
        if let Some(versions) = found.objects.get_mut(key.as_str()) {
            versions.retain(|other| other.id.as_deref() != Some(version));
            if versions.is_empty() {
                found.objects.remove(key.as_str());
            }
        }
        let entry = format!("delete {bucket}/{key} version {version}");
        state.journal.push(entry);
        Ok(())
    }

    async fn create_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &PutOptions,
    ) -> Result<UploadId> {
        let _call = self.traffic.enter("create_upload").await?;
        let mut state = self.lock();
        state.clock += 1;
        let id = format!("upload-{}", state.clock);
        let upload = Upload {
            key: key.clone(),
            options: options.clone(),
            parts: BTreeMap::new(),
        };
        state.bucket(bucket)?.uploads.insert(id.clone(), upload);
        Ok(UploadId(id))
    }

    async fn upload_part(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> Result<Part> {
        let _call = self.traffic.enter("upload_part").await?;
        self.traffic.record_bytes("upload_part", body.len());
        let mut state = self.lock();
        state.bucket(bucket)?.upload(key, upload)?.add(number, body)
    }

    async fn upload_part_copy(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        source: (&BucketName, &ObjectKey, Option<&str>),
        range: Range<u64>,
    ) -> Result<Part> {
        let _call = self.traffic.enter("upload_part_copy").await?;
        let mut state = self.lock();
        let (from_bucket, from_key, from_version) = source;
        let from = state.bucket(from_bucket)?.find(from_key, from_version)?;
        let body = from.body.clone().unwrap_or_default();
        if range.is_empty() || range.end > body.len() as u64 {
            let message = format!("object `{from_key}` is shorter than the range asked for");
            return Err(error(ErrorKind::Corrupt, "InvalidRange", message));
        }
        let body = slice(from_key, &body, &range)?;
        state.bucket(bucket)?.upload(key, upload)?.add(number, body)
    }

    async fn complete_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[Part],
        precondition: &Precondition,
    ) -> Result<PutResult> {
        let _call = self.traffic.enter("complete_upload").await?;
        let mut state = self.lock();
        let found = state.bucket(bucket)?;
        found.upload(key, upload)?;
        found.check(key, precondition)?;
        let under_way = found.upload(key, upload)?;
        let mut body = BytesMut::new();
        let mut tags: Vec<&[u8]> = Vec::new();
        let mut last = 0;
        for (at, part) in parts.iter().enumerate() {
            let stored = under_way.parts.get(&part.number);
            let (_, content) = stored
                .filter(|(etag, _)| *etag == part.etag && part.number > last)
                .ok_or_else(|| refused("InvalidPart", key))?;
            if at + 1 < parts.len() && content.len() < self.options.min_part_bytes {
                return Err(refused("EntityTooSmall", key));
            }
            last = part.number;
            tags.push(part.etag.0.as_bytes());
            body.extend_from_slice(content);
        }
        if parts.is_empty() {
            return Err(refused("MalformedXML", key));
        }
        let etag = etag(&tags, &format!("-{}", parts.len()));
        let new = new_version(body.freeze(), etag, &under_way.options);
        found.uploads.remove(&upload.0);
        state.add((bucket, key), "complete", new)
    }

    async fn abort_upload(
        &self,
        bucket: &BucketName,
        _key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<()> {
        let _call = self.traffic.enter("abort_upload").await?;
        self.lock().bucket(bucket)?.uploads.remove(&upload.0);
        Ok(())
    }

    async fn get_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<BTreeMap<String, String>> {
        let _call = self.traffic.enter("get_tags").await?;
        let mut state = self.lock();
        Ok(state.bucket(bucket)?.find(key, version)?.tags.clone())
    }

    async fn put_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        tags: &BTreeMap<String, String>,
    ) -> Result<()> {
        let _call = self.traffic.enter("put_tags").await?;
        let mut state = self.lock();
        let found = state.bucket(bucket)?.find(key, version)?;
        found.tags.clone_from(tags);
        state.journal.push(format!("tag {bucket}/{key}"));
        Ok(())
    }
}

impl Upload {
    fn add(&mut self, number: u32, body: Bytes) -> Result<Part> {
        if !(1..=MAX_PARTS).contains(&number) {
            return Err(refused("InvalidArgument", &self.key));
        }
        let part = Part {
            number,
            etag: etag(&[&body], ""),
            checksum_crc32: None,
        };
        self.parts.insert(number, (part.etag.clone(), body));
        Ok(part)
    }
}

fn new_version(body: Bytes, etag: ETag, options: &PutOptions) -> StoredVersion {
    StoredVersion {
        id: None,
        body: Some(body),
        etag,
        metadata: options.metadata.clone(),
        kms_key_id: options.kms_key_id.clone(),
        tags: BTreeMap::new(),
        last_modified: 0,
    }
}

/// An entity tag: opaque, and the same for the same bytes.
fn etag(bytes: &[&[u8]], suffix: &str) -> ETag {
    let mut hasher = Sha256::new();
    for bytes in bytes {
        hasher.update(bytes);
    }
    ETag(format!(
        "\"{}{suffix}\"",
        hex::encode(&hasher.finalize()[..16])
    ))
}

fn slice(key: &ObjectKey, body: &Bytes, range: &Range<u64>) -> Result<Bytes> {
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    let length = body.len() as u64;
    if range.start >= length {
        let message = format!("object `{key}` is shorter than the range asked for");
        return Err(error(ErrorKind::Corrupt, "InvalidRange", message));
    }
    let index = |at: u64| usize::try_from(at.min(length)).unwrap_or(body.len());
    Ok(body.slice(index(range.start)..index(range.end)))
}

fn refused(code: &str, key: &ObjectKey) -> Error {
    let message = format!("S3 refused a part or the completion of object `{key}`");
    error(ErrorKind::Internal, code, message)
}

fn error(kind: ErrorKind, code: &str, message: String) -> Error {
    Error::new(kind, message).with_aws(Some(code), None)
}
