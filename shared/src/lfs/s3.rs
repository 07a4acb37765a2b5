//! Objects in a bucket, beside a repository that lies there.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{LfsBody, LfsStore, Pointer, not_there};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, KeyPrefix, ObjectKey};
use crate::storage::multipart::{MultipartWriter, part_bytes};
use crate::storage::{MIN_PART_BYTES, ObjectMetadata, ObjectStore, PutOptions};

/// How many objects are looked for at once.
const CONCURRENT_HEADS: usize = 16;

/// How objects are called below the repository's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyScheme {
    /// `lfs/objects/aa/bb/<oid>`, as in a repository: beside files that git clones over
    /// plain HTTP. So mirror-git-to-s3 writes them, too.
    Fanned,
    /// `lfs/<oid>`: beside bundles, as git-remote-s3 has them.
    Flat,
}

/// The objects below a prefix of a bucket.
pub struct S3Lfs {
    store: Arc<dyn ObjectStore>,
    bucket: BucketName,
    prefix: KeyPrefix,
    keys: KeyScheme,
    kms_key_id: Option<String>,
}

impl S3Lfs {
    /// The objects of the repository below `prefix`; they are encrypted with `kms_key_id`,
    /// or as the bucket says.
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
        let looks = stream::iter(pointers.to_vec()).map(|pointer| async move {
            let key = self.key(&pointer)?;
            let head = self.store.head(&self.bucket, &key).await?;
            let is_there = head.is_some_and(|head| head.size_bytes == pointer.size_bytes);
            Ok::<_, Error>((!is_there).then_some(pointer))
        });
        let looks = looks.buffered(CONCURRENT_HEADS);
        looks
            .try_filter_map(async |missing| Ok(missing))
            .try_collect()
            .await
    }

    async fn read(&self, pointer: &Pointer) -> Result<LfsBody> {
        let reading = Reading {
            store: Arc::clone(&self.store),
            bucket: self.bucket.clone(),
            key: self.key(pointer)?,
            size: pointer.size_bytes,
            position: 0,
        };
        // The first piece tells whether there is anything.
        let first = reading.next().await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => not_there(pointer, self).with_source(error),
            _ => error,
        })?;
        let Some((bytes, rest)) = first else {
            return Ok(Box::pin(stream::empty()));
        };
        let rest = stream::try_unfold(rest, Reading::next);
        Ok(Box::pin(stream::iter([Ok(bytes)]).chain(rest)))
    }

    async fn write(&self, pointer: &Pointer, content: LfsBody) -> Result<()> {
        let key = self.key(pointer)?;
        let upload = MultipartWriter::new(Arc::clone(&self.store), self.bucket.clone(), key);
        let mut upload = upload.with_options(self.options());
        let mut pieces = ObjectReader {
            content,
            rest: BytesMut::new(),
        };
        match send(&upload, &mut pieces).await {
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

/// An object that is read in pieces.
struct Reading {
    store: Arc<dyn ObjectStore>,
    bucket: BucketName,
    key: ObjectKey,
    size: u64,
    position: u64,
}

impl Reading {
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

/// Content in pieces of a given size.
struct ObjectReader {
    content: LfsBody,
    rest: BytesMut,
}

impl ObjectReader {
    /// So many bytes; fewer at the end.
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

/// Sends parts, one while the next one arrives. What is small is put whole, at the end.
async fn send(upload: &MultipartWriter, pieces: &mut ObjectReader) -> Result<()> {
    let mut number = 1;
    let mut piece = pieces.next(part_bytes(number)).await?;
    while piece.len() == part_bytes(number) {
        let size = part_bytes(number + 1);
        let sent = upload.part(number, piece);
        ((), piece) = tokio::try_join!(sent, pieces.next(size))?;
        number += 1;
    }
    upload.complete(number, piece).await?;
    Ok(())
}
