//! Parts of a bundle's multipart upload, sent or copied inside S3.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::bundle_reader::{OpenBundle, replaced};
use super::lock::LockCheck;
use super::options::{BundleLocation, BundleOptions};
use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::storage::CopySource;
use crate::storage::multipart::{MultipartWriter, part_bytes};

/// Maximum number of parts that are sent at once, if the memory limit allows.
const MAX_CONCURRENT_PARTS: usize = 3;
/// Number of parts that are copied at once.
const CONCURRENT_COPIES: usize = 8;
/// Size of a copied part, as long as a thousand parts hold the bundle: S3 copies several parts
/// faster than one.
const COPY_PART_BYTES: u64 = 64 << 20;
/// Number of the first part.
pub(super) const FIRST_PART: u32 = 1;

/// Collects bytes into parts, and passes them to [`send_parts`].
pub(super) struct Parts {
    sender: mpsc::Sender<(u32, Bytes)>,
    min_part_bytes: usize,
    pending: BytesMut,
    /// Number of the last part.
    pub(super) number: u32,
    pub(super) sent_bytes: u64,
}

impl Parts {
    /// Starts with bytes that belong to the first part.
    pub(super) fn new(
        sender: mpsc::Sender<(u32, Bytes)>,
        options: &BundleOptions,
        start: &[u8],
    ) -> Self {
        Self {
            sender,
            min_part_bytes: options.min_part_bytes,
            pending: start.into(),
            number: 0,
            sent_bytes: 0,
        }
    }

    /// Returns the number of bytes that do not fill a part yet.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    pub(super) async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.pending.extend_from_slice(bytes);
        loop {
            let size = part_bytes(self.number + 1).max(self.min_part_bytes);
            if self.pending.len() < size {
                return Ok(());
            }
            let part = self.pending.split_to(size).freeze();
            self.send(part).await?;
        }
    }

    async fn send(&mut self, part: Bytes) -> Result<()> {
        self.number += 1;
        self.sent_bytes += part.len() as u64;
        let sent = self.sender.send((self.number, part)).await;
        sent.map_err(|_| Error::new(ErrorKind::Internal, "the sender of a bundle's parts ended"))
    }

    /// Sends the pending bytes as a part.
    pub(super) async fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let part = self.pending.split().freeze();
        self.send(part).await
    }
}

/// Sends parts as they are made.
pub(super) async fn send_parts(
    upload: &MultipartWriter,
    parts: mpsc::Receiver<(u32, Bytes)>,
    options: &BundleOptions,
    check: LockCheck<'_>,
) -> Result<()> {
    let concurrent = options.limits.memory / 4 / part_bytes(FIRST_PART);
    let parts = futures_util::stream::unfold(parts, |mut parts| async move {
        let part = parts.recv().await?;
        Some((part, parts))
    });
    let mut sent = std::pin::pin!(
        parts
            .map(|(number, bytes)| async move {
                check()?;
                upload.part(number, bytes).await
            })
            .buffer_unordered(concurrent.clamp(1, MAX_CONCURRENT_PARTS))
    );
    while let Some(done) = sent.next().await {
        done?;
    }
    Ok(())
}

/// Returns the number of parts that `range` is copied as.
pub(super) fn copied_parts(options: &BundleOptions, range: &Range<u64>) -> Result<u32> {
    let length = range.end - range.start;
    let size = COPY_PART_BYTES
        .max(length.div_ceil(1000))
        .min(options.max_copy_bytes);
    u32::try_from(length.div_ceil(size).max(1)).map_err(|_| corrupt("a bundle is too large"))
}

/// Copies a range of a bundle, in equal parts from `number` on.
///
/// # Errors
/// `Conflict` when the bundle was replaced meanwhile, because the parts may then hold bytes of
/// the replacement.
pub(super) async fn copy(
    upload: &MultipartWriter,
    bundle: &OpenBundle,
    range: Range<u64>,
    number: u32,
    check: LockCheck<'_>,
) -> Result<()> {
    let BundleLocation {
        bucket, options, ..
    } = &*bundle.location;
    let source = (bucket, &bundle.file.key, None);
    let copied = copy_range(upload, options, source, range, number, check).await;
    copied.map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            return replaced(&bundle.file, "copied").with_source(error);
        }
        error
    })?;
    bundle.location.ensure_unchanged(&bundle.file).await
}

/// Copies a range of an object, in equal parts from `number` on.
pub(super) async fn copy_range(
    upload: &MultipartWriter,
    options: &BundleOptions,
    source: CopySource<'_>,
    range: Range<u64>,
    number: u32,
    check: LockCheck<'_>,
) -> Result<()> {
    let count = copied_parts(options, &range)?;
    let size = (range.end - range.start).div_ceil(count.into());
    let copies = (0..count).map(|at| {
        let from = range.start + u64::from(at) * size;
        let to = range.end.min(from + size);
        async move {
            check()?;
            upload.copy(number + at, source, from..to).await
        }
    });
    let mut copies = futures_util::stream::iter(copies).buffer_unordered(CONCURRENT_COPIES);
    while let Some(done) = copies.next().await {
        done?;
    }
    Ok(())
}
