//! Uploads of large objects to S3 that outlive a run: a run that ends before the object is whole
//! leaves the parts that were sent, and the next run sends the rest.
//!
//! The progress is an object alongside the repository: the id of the multipart upload, its parts,
//! and the state of the SHA-256 after them, because parts cannot be read back.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use serde::{Deserialize, Serialize};
use sha2::digest::common::hazmat::{SerializableState as _, SerializedState};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::part_reader::PartReader;
use super::{LfsBody, Pointer, ResumableUpload};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, ObjectKey};
use crate::storage::multipart::part_bytes;
use crate::storage::{
    ETag, MultipartUpload, ObjectMetadata, ObjectStore, ObjectStoreExt as _, Part, Precondition,
    PutOptions, UploadId, UploadStart,
};

/// Size from which the upload of an object is resumed, in bytes.
pub(super) const MIN_RESUMABLE_BYTES: u64 = 64 << 20;
/// Number of parts that are sent before the progress is written.
const PARTS_BETWEEN_WRITES: u32 = 8;
/// Time after which the progress is written, also after fewer parts.
const TIME_BETWEEN_WRITES: Duration = Duration::from_secs(20);
/// Form of the progress; a progress of another form is not resumed.
const FORM: &str = "sha2-0.11";

/// Content of the progress object.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    form: String,
    upload: String,
    /// State of the SHA-256 after the parts, in hexadecimal digits.
    state: String,
    parts: Vec<SentPart>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SentPart {
    etag: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crc32: Option<String>,
}

/// Place of an object and of the progress of its upload.
#[derive(Clone)]
pub(super) struct UploadPlace {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) bucket: BucketName,
    pub(super) key: ObjectKey,
    pub(super) progress_key: ObjectKey,
    pub(super) options: PutOptions,
    /// Number of parts that are sent at once.
    pub(super) parallel_parts: usize,
}

/// A part that was sent.
struct Sent {
    part: Part,
    size_bytes: u64,
    /// State of the SHA-256 after the part.
    hasher: Sha256,
}

/// The upload of one large object.
pub(super) struct S3Upload {
    place: UploadPlace,
    pointer: Pointer,
    upload: Option<Arc<dyn MultipartUpload>>,
    parts: Vec<Part>,
    hasher: Sha256,
    position: u64,
}

impl S3Upload {
    /// Opens the upload that an earlier run began; a new one if there is none.
    pub(super) async fn open(place: UploadPlace, pointer: &Pointer) -> Result<Self> {
        let stored = place
            .store
            .get_with_etag(&place.bucket, &place.progress_key)
            .await;
        let stored = match stored {
            // S3 answers so for a missing object if its reader may not list the bucket.
            Err(error) if error.kind() == ErrorKind::AccessDenied => None,
            stored => stored?,
        };
        let resumed = stored.and_then(|(bytes, _)| Resumed::parse(&bytes, pointer));
        let Some(Resumed { id, parts, hasher }) = resumed else {
            return Ok(Self {
                place,
                pointer: pointer.clone(),
                upload: None,
                parts: Vec::new(),
                hasher: Sha256::new(),
                position: 0,
            });
        };
        let start = UploadStart::Existing(&id);
        let upload = place.store.open_upload(&place.bucket, &place.key, start);
        let upload = upload.await?;
        Ok(Self {
            position: position_after(&parts),
            upload: Some(Arc::from(upload)),
            pointer: pointer.clone(),
            place,
            parts,
            hasher,
        })
    }

    /// Returns the upload, begun if it is new. Its id is written at once, so that the upload is
    /// never lost.
    async fn upload(&mut self) -> Result<Arc<dyn MultipartUpload>> {
        if self.upload.is_none() {
            let UploadPlace {
                store,
                bucket,
                key,
                options,
                ..
            } = &self.place;
            let upload = store.create_upload(bucket, key, options).await?;
            self.upload = Some(Arc::from(upload));
            self.write_progress().await?;
        }
        self.upload
            .clone()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "an upload was ended while it was used"))
    }

    async fn write_progress(&self) -> Result<()> {
        let Some(upload) = &self.upload else {
            return Ok(());
        };
        let parts = self.parts.iter().map(|part| SentPart {
            etag: part.etag.to_string(),
            crc32: part.checksum_crc32.clone(),
        });
        let progress = Progress {
            form: FORM.to_owned(),
            upload: upload.id().0,
            state: hex::encode(self.hasher.serialize()),
            parts: parts.collect(),
        };
        let body = serde_json::to_vec(&progress).expect("because it is plain text");
        let options = PutOptions {
            metadata: ObjectMetadata {
                content_type: Some("application/json".into()),
                ..ObjectMetadata::default()
            },
            precondition: Precondition::None,
            ..self.place.options.clone()
        };
        let UploadPlace {
            store,
            bucket,
            progress_key,
            ..
        } = &self.place;
        let written = store.put(bucket, progress_key, body.into(), &options);
        written.await.map(drop)
    }

    async fn delete_progress(&self) -> Result<()> {
        let UploadPlace {
            store,
            bucket,
            progress_key,
            ..
        } = &self.place;
        store
            .delete(bucket, progress_key, &Precondition::None)
            .await
    }

    /// Returns the number of the next part, from 1.
    fn next_number(&self) -> u32 {
        u32::try_from(self.parts.len()).unwrap_or(u32::MAX - 1) + 1
    }

    /// Sends all parts but the last, several at once, while the next one is received; returns the
    /// last.
    async fn send(
        &mut self,
        parts: &mut PartReader,
        count: &(dyn Fn(u64) + Sync),
    ) -> Result<Bytes> {
        let mut sending = FuturesOrdered::new();
        let mut written = (self.parts.len(), Instant::now());
        // Of what was received, in contrast to what was sent.
        let (mut hasher, mut position) = (self.hasher.clone(), self.position);
        loop {
            let number = self.next_number() + u32::try_from(sending.len()).unwrap_or(u32::MAX / 2);
            let part = {
                let mut received = std::pin::pin!(parts.next(part_bytes(number)));
                loop {
                    tokio::select! {
                        part = &mut received => break part?,
                        Some(sent) = sending.next() => {
                            self.record(sent?, &mut written, count).await?;
                        }
                    }
                }
            };
            position += part.len() as u64;
            if position > self.pointer.size_bytes {
                return Err(self.mismatch("more bytes were received"));
            }
            hasher.update(&part);
            let is_last = part.len() < part_bytes(number);
            while !sending.is_empty() && (is_last || sending.len() >= self.place.parallel_parts) {
                if let Some(sent) = sending.next().await {
                    self.record(sent?, &mut written, count).await?;
                }
            }
            if is_last {
                self.hasher = hasher;
                return Ok(part);
            }
            let (upload, hasher) = (self.upload().await?, hasher.clone());
            sending.push_back(async move {
                let size_bytes = part.len() as u64;
                let part = upload.part(number, part).await?;
                Ok::<_, Error>(Sent {
                    part,
                    size_bytes,
                    hasher,
                })
            });
        }
    }

    /// Records the next part in the order of their numbers, and writes the progress now and then.
    async fn record(
        &mut self,
        sent: Sent,
        written: &mut (usize, Instant),
        count: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        self.parts.push(sent.part);
        self.hasher = sent.hasher;
        self.position += sent.size_bytes;
        count(sent.size_bytes);
        let unwritten = self.parts.len() - written.0;
        if unwritten >= PARTS_BETWEEN_WRITES as usize || written.1.elapsed() >= TIME_BETWEEN_WRITES
        {
            self.write_progress().await?;
            *written = (self.parts.len(), Instant::now());
        }
        Ok(())
    }

    async fn finish(&mut self, last: Bytes) -> Result<()> {
        if self.position + (last.len() as u64) < self.pointer.size_bytes {
            return Err(self.mismatch("fewer bytes were received"));
        }
        if hex::encode(self.hasher.clone().finalize()) != self.pointer.oid {
            return Err(self.mismatch("the SHA-256 of its content does not match"));
        }
        let number = self.next_number();
        if !last.is_empty() {
            let sent = self.upload().await?.part(number, last).await?;
            self.parts.push(sent);
        }
        let parts = self.parts.clone();
        let upload = self.upload().await?;
        upload.complete(&parts, &Precondition::None).await?;
        self.delete_progress().await
    }

    fn mismatch(&self, found: &str) -> Error {
        super::verify::mismatch(&self.pointer, found)
    }

    /// Aborts the upload, and deletes its progress.
    pub(super) async fn delete(&self) -> Result<()> {
        if let Some(upload) = &self.upload {
            upload.abort().await?;
        }
        self.delete_progress().await
    }

    /// Gives the upload up: its progress is wrong, or its parts are gone.
    async fn abandon(&self) {
        if let Err(error) = self.delete().await {
            tracing::warn!(
                lfs.oid = self.pointer.oid,
                error = %error.report(),
                "an unfinished upload could not be deleted"
            );
        }
    }
}

#[async_trait]
impl ResumableUpload for S3Upload {
    fn position(&self) -> u64 {
        self.position
    }

    async fn write(
        mut self: Box<Self>,
        content: LfsBody,
        count: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        if self.position > 0 {
            tracing::info!(
                lfs.oid = self.pointer.oid,
                size_bytes = self.pointer.size_bytes,
                sent_bytes = self.position,
                "resuming the upload of an LFS object"
            );
        }
        let mut parts = PartReader::new(content);
        let written = match self.send(&mut parts, count).await {
            Ok(last) => {
                let size = last.len() as u64;
                self.finish(last).await.map(|()| count(size))
            }
            Err(error) => Err(error),
        };
        match &written {
            Err(error) if error.kind() == ErrorKind::Corrupt => self.abandon().await,
            // The bucket's lifecycle rule removed the parts.
            Err(error) if error.kind() == ErrorKind::NotFound && !self.parts.is_empty() => {
                self.abandon().await;
                let message = format!("the upload of LFS object {} has vanished", self.pointer.oid);
                return Err(Error::new(ErrorKind::Transport, message));
            }
            // What was sent is not sent again.
            Err(_) => {
                if let Err(error) = self.write_progress().await {
                    tracing::debug!(error = %error.report(), "the progress was not written");
                }
            }
            Ok(()) => {}
        }
        written
    }
}

/// An upload as its progress describes it.
struct Resumed {
    id: UploadId,
    parts: Vec<Part>,
    hasher: Sha256,
}

impl Resumed {
    /// Parses a progress; `None` for a text of another form, because the upload can start from the beginning.
    fn parse(bytes: &[u8], pointer: &Pointer) -> Option<Self> {
        let progress: Progress = serde_json::from_slice(bytes).ok()?;
        if progress.form != FORM || progress.upload.is_empty() {
            return None;
        }
        let state = hex::decode(&progress.state).ok()?;
        let state = SerializedState::<Sha256>::try_from(state.as_slice()).ok()?;
        let hasher = Sha256::deserialize(&state).ok()?;
        let parts = (1..).zip(progress.parts).map(|(number, part)| {
            Some(Part {
                number,
                etag: ETag::new(part.etag).ok()?,
                checksum_crc32: part.crc32,
            })
        });
        let parts: Vec<Part> = parts.collect::<Option<_>>()?;
        (position_after(&parts) <= pointer.size_bytes).then_some(Self {
            id: UploadId(progress.upload),
            parts,
            hasher,
        })
    }
}

fn position_after(parts: &[Part]) -> u64 {
    parts
        .iter()
        .map(|part| part_bytes(part.number) as u64)
        .sum()
}

/// Drops the first `skipped` bytes of a content.
pub(crate) fn skip(content: LfsBody, skipped: u64) -> LfsBody {
    let rest = content.scan(skipped, |left, piece| {
        let piece = piece.map(|mut bytes| {
            let dropped = usize::try_from(*left)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            *left -= dropped as u64;
            bytes.split_off(dropped)
        });
        std::future::ready(Some(piece))
    });
    Box::pin(rest)
}
