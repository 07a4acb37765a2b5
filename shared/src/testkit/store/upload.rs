//! Multipart uploads of a [`MemoryStore`].

use std::ops::Range;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::MemoryStore;
use super::state::{error, etag, new_version, refused, slice};
use crate::error::{ErrorKind, Result};
use crate::name::{BucketName, ObjectKey};
use crate::storage::{CopySource, MultipartUpload, Part, Precondition, PutResult, UploadId};

/// Multipart upload of one object.
pub(super) struct MemoryUpload {
    pub(super) store: MemoryStore,
    pub(super) bucket: BucketName,
    pub(super) key: ObjectKey,
    pub(super) id: UploadId,
}

#[async_trait]
impl MultipartUpload for MemoryUpload {
    fn id(&self) -> UploadId {
        self.id.clone()
    }

    async fn part(&self, number: u32, body: Bytes) -> Result<Part> {
        let _call = self.store.traffic.enter("upload_part").await?;
        self.store.traffic.record_bytes("upload_part", body.len());
        let mut state = self.store.lock();
        let bucket = state.bucket(&self.bucket)?;
        bucket.upload(&self.key, &self.id)?.add(number, body)
    }

    async fn part_copy(
        &self,
        number: u32,
        source: CopySource<'_>,
        range: Range<u64>,
    ) -> Result<Part> {
        let _call = self.store.traffic.enter("upload_part_copy").await?;
        let mut state = self.store.lock();
        let (from_bucket, from_key, from_version) = source;
        let from = state.bucket(from_bucket)?.find(from_key, from_version)?;
        let body = from.body.clone().unwrap_or_default();
        if range.is_empty() || range.end > body.len() as u64 {
            let message = format!("object `{from_key}` is shorter than the requested range");
            return Err(error(ErrorKind::Corrupt, "InvalidRange", message));
        }
        let body = slice(from_key, &body, &range)?;
        state
            .bucket(&self.bucket)?
            .upload(&self.key, &self.id)?
            .add(number, body)
    }

    async fn complete(&self, parts: &[Part], precondition: &Precondition) -> Result<PutResult> {
        let _call = self.store.traffic.enter("complete_upload").await?;
        let mut state = self.store.lock();
        let found = state.bucket(&self.bucket)?;
        found.upload(&self.key, &self.id)?;
        found.check(&self.key, precondition)?;
        let upload = found.upload(&self.key, &self.id)?;
        let mut body = BytesMut::new();
        let mut etags: Vec<&[u8]> = Vec::new();
        let mut last = 0;
        for (at, part) in parts.iter().enumerate() {
            let stored = upload.parts.get(&part.number);
            let (_, content) = stored
                .filter(|(etag, _)| *etag == part.etag && part.number > last)
                .ok_or_else(|| refused("InvalidPart", &self.key))?;
            if at + 1 < parts.len() && content.len() < self.store.options.min_part_bytes {
                return Err(refused("EntityTooSmall", &self.key));
            }
            last = part.number;
            etags.push(part.etag.as_str().as_bytes());
            body.extend_from_slice(content);
        }
        if parts.is_empty() {
            return Err(refused("MalformedXML", &self.key));
        }
        let etag = etag(&etags, &format!("-{}", parts.len()));
        let new = new_version(body.freeze(), etag, &upload.options);
        found.uploads.remove(&self.id.0);
        state.add((&self.bucket, &self.key), "complete", new)
    }

    async fn abort(&self) -> Result<()> {
        let _call = self.store.traffic.enter("abort_upload").await?;
        let mut state = self.store.lock();
        state.bucket(&self.bucket)?.uploads.remove(&self.id.0);
        Ok(())
    }
}
