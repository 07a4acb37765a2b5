//! LFS objects in a bucket, alongside a repository.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::part_reader::PartReader;
use super::pointer::parse_oid;
use super::resumable::{MIN_RESUMABLE_BYTES, S3Upload, UploadPlace};
use super::{
    LfsBody, LfsStore, ListedStore, Pointer, RecordStore, ResumableUpload, StoredObjects,
    missing_object,
};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, KeyPrefix, ObjectKey};
use crate::storage::multipart::{MultipartWriter, part_bytes};
use crate::storage::{
    ETag, MIN_PART_BYTES, ObjectMetadata, ObjectStore, ObjectStoreExt as _, Precondition,
    PutOptions,
};

/// Maximum number of concurrent `HeadObject` requests.
const CONCURRENT_HEADS: usize = 16;

/// Size in bytes up to which an object is sent without a request for its existence before.
const MAX_UNCHECKED_BYTES: u64 = 128 << 10;

/// Key of the record below the repository's prefix.
const RECORD: &str = "branchline/lfs-record";

/// Start of the keys of unfinished uploads below the repository's prefix.
const PROGRESS: &str = "branchline/lfs-upload-";

/// Keys of objects below the repository's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyScheme {
    /// `lfs/objects/aa/bb/<oid>`, as in a repository and as mirror-git-to-s3 writes them:
    /// for repositories that git clones over plain HTTP.
    Fanned,
    /// `lfs/<oid>`, as git-remote-s3 writes them: for repositories of bundles.
    Flat,
}

/// LFS objects below a prefix of a bucket.
#[derive(Clone)]
pub struct S3Lfs {
    store: Arc<dyn ObjectStore>,
    bucket: BucketName,
    prefix: KeyPrefix,
    keys: KeyScheme,
    kms_key_id: Option<String>,
    parallel_parts: usize,
}

impl S3Lfs {
    /// Makes the store of the repository below `prefix`. Objects are encrypted with
    /// `kms_key_id`, or by the bucket's default.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        bucket: BucketName,
        prefix: KeyPrefix,
        keys: KeyScheme,
        kms_key_id: Option<String>,
    ) -> Self {
        Self {
            store,
            bucket,
            prefix,
            keys,
            kms_key_id,
            parallel_parts: 1,
        }
    }

    /// Sends, and reads, at most `parts` parts of an object at once, each of which is in memory: 5
    /// MiB, of an object of more than 25 GB up to 15. One more is read meanwhile.
    #[must_use]
    pub fn with_parallel_parts(self, parts: usize) -> Self {
        Self {
            parallel_parts: parts.max(1),
            ..self
        }
    }

    /// Returns the store of the same objects under the keys of another scheme.
    #[must_use]
    pub(super) fn with_keys(self, keys: KeyScheme) -> Self {
        Self { keys, ..self }
    }

    /// Reads an object of the repository beside its LFS objects, `name` below its prefix; returns
    /// whether it exists.
    pub(super) async fn has_file(&self, name: &str) -> Result<bool> {
        let key = ObjectKey::new(&format!("{}{name}", self.prefix))?;
        Ok(self.store.head(&self.bucket, &key).await?.is_some())
    }

    fn key(&self, pointer: &Pointer) -> Result<ObjectKey> {
        let prefix = &self.prefix;
        ObjectKey::new(&match self.keys {
            KeyScheme::Fanned => format!("{prefix}lfs/objects/{}", pointer.path()),
            KeyScheme::Flat => format!("{prefix}lfs/{}", pointer.oid),
        })
    }

    /// Returns the start of the keys of objects whose ids start with `digits`.
    fn start_of_keys(&self, digits: &str) -> String {
        let prefix = &self.prefix;
        match (self.keys, digits.split_at_checked(2)) {
            (KeyScheme::Flat, _) => format!("{prefix}lfs/{digits}"),
            (KeyScheme::Fanned, Some((folder, rest))) => {
                format!("{prefix}lfs/objects/{folder}/{rest}")
            }
            (KeyScheme::Fanned, None) => format!("{prefix}lfs/objects/{digits}"),
        }
    }

    fn record_key(&self) -> Result<ObjectKey> {
        ObjectKey::new(&format!("{}{RECORD}", self.prefix))
    }

    fn options(&self) -> PutOptions {
        PutOptions {
            metadata: ObjectMetadata {
                content_type: Some("application/octet-stream".into()),
                cache_control: Some("public, max-age=31536000, immutable".into()),
                ..ObjectMetadata::default()
            },
            kms_key_id: self.kms_key_id.clone(),
            ..PutOptions::default()
        }
    }
}

impl fmt::Display for S3Lfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}lfs", self.bucket, self.prefix)
    }
}

#[async_trait]
impl LfsStore for S3Lfs {
    async fn missing(&self, pointers: &[Pointer]) -> Result<Vec<Pointer>> {
        let checks = stream::iter(pointers.to_vec()).map(|pointer| async move {
            let key = self.key(&pointer)?;
            let head = self.store.head(&self.bucket, &key).await?;
            let is_stored = head.is_some_and(|head| head.size_bytes == pointer.size_bytes);
            Ok::<_, Error>((!is_stored).then_some(pointer))
        });
        let checks = checks.buffered(CONCURRENT_HEADS);
        checks
            .try_filter_map(async |missing| Ok(missing))
            .try_collect()
            .await
    }

    async fn read(&self, pointer: &Pointer) -> Result<LfsBody> {
        self.read_from(pointer, 0).await
    }

    async fn read_from(&self, pointer: &Pointer, position: u64) -> Result<LfsBody> {
        let key = self.key(pointer)?;
        let mut ranges = ranges(position, pointer.size_bytes);
        let Some(first) = ranges.next() else {
            return Ok(Box::pin(stream::empty()));
        };
        // Read now, because only the first request shows whether the object exists.
        let first = self.store.get(&self.bucket, &key, None, Some(first)).await;
        let first = first.map_err(|error| match error.kind() {
            ErrorKind::NotFound => missing_object(pointer, self).with_source(error),
            _ => error,
        })?;
        let (store, bucket) = (Arc::clone(&self.store), self.bucket.clone());
        let rest = stream::iter(ranges).map(move |range| {
            let (store, bucket, key) = (Arc::clone(&store), bucket.clone(), key.clone());
            async move { store.get(&bucket, &key, None, Some(range)).await }
        });
        let rest = rest.buffered(self.parallel_parts);
        Ok(Box::pin(stream::iter([Ok(first)]).chain(rest)))
    }

    async fn write(&self, pointer: &Pointer, content: LfsBody) -> Result<()> {
        let key = self.key(pointer)?;
        let upload = MultipartWriter::new(Arc::clone(&self.store), self.bucket.clone(), key);
        let mut upload = upload.with_options(self.options());
        let mut parts = PartReader::new(content);
        match send(&upload, &mut parts, self.parallel_parts).await {
            Ok(()) => {
                upload.disarm();
                Ok(())
            }
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }

    /// Puts a small object under the condition that it does not exist, in one request. No size
    /// needs the permission to list the bucket.
    async fn write_if_missing(&self, pointer: &Pointer, content: LfsBody) -> Result<bool> {
        if pointer.size_bytes > MAX_UNCHECKED_BYTES {
            match self.missing(std::slice::from_ref(pointer)).await {
                Ok(missing) if missing.is_empty() => return Ok(false),
                Ok(_) => {}
                // S3 answers so for a missing object if its reader may not list the bucket.
                Err(error) if error.kind() == ErrorKind::AccessDenied => {}
                Err(error) => return Err(error),
            }
        }
        if pointer.size_bytes >= MIN_PART_BYTES as u64 {
            return self.write(pointer, content).await.map(|()| true);
        }
        let key = self.key(pointer)?;
        let body = PartReader::new(content).next(MIN_PART_BYTES).await?;
        let options = PutOptions {
            precondition: Precondition::Absent,
            ..self.options()
        };
        let put = self.store.put(&self.bucket, &key, body.clone(), &options);
        match put.await {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
        let head = self.store.head(&self.bucket, &key).await?;
        if head.is_some_and(|head| head.size_bytes == pointer.size_bytes) {
            return Ok(false);
        }
        // Half of an object, which another program left.
        let options = self.options();
        let put = self.store.put(&self.bucket, &key, body, &options);
        put.await.map(|_| true)
    }

    async fn resume(&self, pointer: &Pointer) -> Result<Option<Box<dyn ResumableUpload>>> {
        if pointer.size_bytes < MIN_RESUMABLE_BYTES {
            return Ok(None);
        }
        let upload = S3Upload::open(self.upload_place(pointer)?, pointer).await?;
        Ok(Some(Box::new(upload)))
    }

    fn records(&self) -> Option<&dyn RecordStore> {
        Some(self)
    }

    fn listed(&self) -> Option<&dyn ListedStore> {
        Some(self)
    }
}

#[async_trait]
impl RecordStore for S3Lfs {
    async fn read_record(&self) -> Result<Option<(Bytes, ETag)>> {
        let key = self.record_key()?;
        self.store.get_with_etag(&self.bucket, &key).await
    }

    async fn write_record(&self, record: Bytes, read: Option<&ETag>) -> Result<Option<ETag>> {
        let options = PutOptions {
            metadata: ObjectMetadata {
                content_type: Some("text/plain; charset=utf-8".into()),
                cache_control: Some("no-cache, must-revalidate".into()),
                ..ObjectMetadata::default()
            },
            precondition: read.map_or(Precondition::Absent, |etag| {
                Precondition::Matches(etag.clone())
            }),
            kms_key_id: self.kms_key_id.clone(),
        };
        let key = self.record_key()?;
        let written = self.store.put(&self.bucket, &key, record, &options).await;
        match written {
            Ok(written) => Ok(Some(written.etag)),
            // It was deleted since it was read.
            Err(error) if error.kind() == ErrorKind::NotFound && read.is_some() => {
                let message = format!("the record of LFS objects of {self} has vanished");
                Err(Error::new(ErrorKind::Conflict, message).with_source(error))
            }
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl ListedStore for S3Lfs {
    async fn list(&self, digits: &str) -> Result<StoredObjects> {
        let start = self.start_of_keys(digits);
        let page = self.store.list(&self.bucket, &start, None, None).await?;
        let objects = page.objects.into_iter().filter_map(|found| {
            let (_, last) = found.key.as_str().rsplit_once('/')?;
            let pointer = Pointer {
                oid: parse_oid(last.as_bytes())?.to_owned(),
                size_bytes: found.size_bytes,
            };
            // Keys of the other scheme, and foreign ones, are left out.
            (self.key(&pointer).ok()? == found.key).then_some(pointer)
        });
        Ok(StoredObjects {
            objects: objects.collect(),
            is_complete: page.next.is_none(),
        })
    }

    async fn delete_unfinished(&self) -> Result<()> {
        let start = format!("{}{PROGRESS}", self.prefix);
        // More than one page of large uploads is left to the next call.
        let page = self.store.list(&self.bucket, &start, None, None).await?;
        for found in page.objects {
            let oid = found.key.as_str().strip_prefix(&start);
            if let Some(oid) = oid.and_then(|oid| parse_oid(oid.as_bytes())) {
                let pointer = Pointer {
                    oid: oid.to_owned(),
                    size_bytes: u64::MAX,
                };
                let place = self.upload_place(&pointer)?;
                S3Upload::open(place, &pointer).await?.delete().await?;
            }
        }
        Ok(())
    }
}

impl S3Lfs {
    fn upload_place(&self, pointer: &Pointer) -> Result<UploadPlace> {
        let progress_key = format!("{}{PROGRESS}{}", self.prefix, pointer.oid);
        Ok(UploadPlace {
            store: Arc::clone(&self.store),
            bucket: self.bucket.clone(),
            key: self.key(pointer)?,
            progress_key: ObjectKey::new(&progress_key)?,
            options: self.options(),
            parallel_parts: self.parallel_parts,
        })
    }
}

/// Returns the ranges of one part each from `position` to `size`.
fn ranges(position: u64, size: u64) -> impl Iterator<Item = Range<u64>> + Send {
    let starts = (position..size).step_by(MIN_PART_BYTES);
    starts.map(move |start| start..size.min(start + MIN_PART_BYTES as u64))
}

/// Sends parts, at most `parallel` at once, while the next one is received. A small object is put
/// whole.
async fn send(upload: &MultipartWriter, parts: &mut PartReader, parallel: usize) -> Result<()> {
    let mut sending = FuturesUnordered::new();
    let mut number = 1;
    loop {
        let size = part_bytes(number);
        let part = {
            let mut received = std::pin::pin!(parts.next(size));
            loop {
                tokio::select! {
                    part = &mut received => break part?,
                    Some(sent) = sending.next() => { let () = sent?; }
                }
            }
        };
        if part.len() < size {
            while let Some(sent) = sending.next().await {
                let () = sent?;
            }
            upload.complete(number, part).await?;
            return Ok(());
        }
        while sending.len() >= parallel {
            if let Some(sent) = sending.next().await {
                let () = sent?;
            }
        }
        sending.push(upload.part(number, part));
        number += 1;
    }
}
