//! LFS objects in a bucket, alongside a repository.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::part_reader::PartReader;
use super::pointer::parse_oid;
use super::resumable::{MIN_RESUMABLE_BYTES, S3Upload, UploadPlace};
use super::{
    LfsBody, LfsStore, Pointer, RecordStore, ResumableUpload, StoredObjects, missing_object,
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
pub struct S3Lfs {
    store: Arc<dyn ObjectStore>,
    bucket: BucketName,
    prefix: KeyPrefix,
    keys: KeyScheme,
    kms_key_id: Option<String>,
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
        }
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
        let reader = RangeReader {
            store: Arc::clone(&self.store),
            bucket: self.bucket.clone(),
            key: self.key(pointer)?,
            size: pointer.size_bytes,
            position,
        };
        // Read now, because only the first request shows whether the object exists.
        let first = reader.next().await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => missing_object(pointer, self).with_source(error),
            _ => error,
        })?;
        let Some((bytes, rest)) = first else {
            return Ok(Box::pin(stream::empty()));
        };
        let rest = stream::try_unfold(rest, RangeReader::next);
        Ok(Box::pin(stream::iter([Ok(bytes)]).chain(rest)))
    }

    async fn write(&self, pointer: &Pointer, content: LfsBody) -> Result<()> {
        let key = self.key(pointer)?;
        let upload = MultipartWriter::new(Arc::clone(&self.store), self.bucket.clone(), key);
        let mut upload = upload.with_options(self.options());
        let mut parts = PartReader::new(content);
        match send(&upload, &mut parts).await {
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
}

#[async_trait]
impl RecordStore for S3Lfs {
    async fn read_record(&self) -> Result<Option<(Bytes, ETag)>> {
        let key = self.record_key()?;
        self.store.get_with_etag(&self.bucket, &key).await
    }

    async fn write_record(&self, record: Bytes, read: Option<&ETag>) -> Result<ETag> {
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
            Ok(written) => Ok(written.etag),
            // It was deleted since it was read.
            Err(error) if error.kind() == ErrorKind::NotFound && read.is_some() => {
                let message = format!("the record of LFS objects of {self} has vanished");
                Err(Error::new(ErrorKind::Conflict, message).with_source(error))
            }
            Err(error) => Err(error),
        }
    }

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
        })
    }
}

/// Reads an object range by range.
struct RangeReader {
    store: Arc<dyn ObjectStore>,
    bucket: BucketName,
    key: ObjectKey,
    size: u64,
    position: u64,
}

impl RangeReader {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        if self.position >= self.size {
            return Ok(None);
        }
        let end = self.size.min(self.position + MIN_PART_BYTES as u64);
        let range = Some(self.position..end);
        let bytes = self.store.get(&self.bucket, &self.key, None, range).await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.position += bytes.len() as u64;
        Ok(Some((bytes, self)))
    }
}

/// Sends parts, each while the next one is received. A small object is put whole.
async fn send(upload: &MultipartWriter, parts: &mut PartReader) -> Result<()> {
    let mut number = 1;
    let mut part = parts.next(part_bytes(number)).await?;
    while part.len() == part_bytes(number) {
        let size = part_bytes(number + 1);
        let sent = upload.part(number, part);
        ((), part) = tokio::try_join!(sent, parts.next(size))?;
        number += 1;
    }
    upload.complete(number, part).await?;
    Ok(())
}
