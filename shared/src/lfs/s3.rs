//! LFS objects in a bucket, alongside a repository.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{LfsBody, LfsStore, Pointer, missing_object};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, KeyPrefix, ObjectKey};
use crate::storage::multipart::{MultipartWriter, part_bytes};
use crate::storage::{
    MIN_PART_BYTES, ObjectMetadata, ObjectStore, ObjectStoreExt as _, PutOptions,
};

/// Maximum number of concurrent `HeadObject` requests.
const CONCURRENT_HEADS: usize = 16;

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
        let reader = RangeReader {
            store: Arc::clone(&self.store),
            bucket: self.bucket.clone(),
            key: self.key(pointer)?,
            size: pointer.size_bytes,
            position: 0,
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
        let mut parts = PartReader {
            content,
            rest: BytesMut::new(),
        };
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

/// Splits content into parts.
struct PartReader {
    content: LfsBody,
    rest: BytesMut,
}

impl PartReader {
    /// Returns the next `size` bytes, or fewer at the end.
    async fn next(&mut self, size: usize) -> Result<Bytes> {
        while self.rest.len() < size {
            let Some(bytes) = self.content.next().await.transpose()? else {
                break;
            };
            self.rest.extend_from_slice(&bytes);
        }
        let size = size.min(self.rest.len());
        Ok(self.rest.split_to(size).freeze())
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
