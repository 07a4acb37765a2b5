//! Reads bundles in S3: header, trailer and ranges of the pack.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use super::keys::BundleFile;
use super::options::BundleLocation;
use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::git::bundle::Header;
use crate::git::pack::{PACK_HEADER_BYTES, PackBytes};
use crate::git::{HashKind, ObjectId};
use crate::storage::ObjectStoreExt as _;

/// Number of bytes that are read to parse the header, which is longer than nearly every header.
const HEADER_CHUNK_BYTES: u64 = 4 * 1024;
/// Size of a ranged read.
const READ_CHUNK_BYTES: u64 = 8 << 20;
/// Number of concurrent ranged reads.
const CONCURRENT_READS: usize = 4;

/// A bundle whose header was read.
#[derive(Clone)]
pub(super) struct OpenBundle {
    pub(super) location: Arc<BundleLocation>,
    pub(super) file: BundleFile,
    pub(super) header: Header,
    /// Offset of the pack.
    pub(super) pack_start: u64,
    /// Trailer of the pack, which is its key in the pack cache; `None` if it was not read.
    pub(super) pack_id: Option<ObjectId>,
}

impl OpenBundle {
    /// Reads the header of a bundle.
    ///
    /// # Errors
    /// `Conflict` when the bundle was deleted, because its ref was moved.
    pub(super) async fn open(location: &Arc<BundleLocation>, file: &BundleFile) -> Result<Self> {
        let mut length = HEADER_CHUNK_BYTES;
        loop {
            let end = file.size_bytes.min(length);
            let first = read(location, file, 0..end).await?;
            let parsed = Header::parse(&first);
            let parsed = parsed.map_err(|error| error.context(format!("`{}`", file.key)))?;
            if let Some((header, at)) = parsed {
                if header.filter.is_some() {
                    return Err(corrupt(format!(
                        "`{}` leaves out objects (it has a filter)",
                        file.key
                    ))
                    .with_hint("replace it with a bundle without a filter"));
                }
                return Ok(Self {
                    location: Arc::clone(location),
                    file: file.clone(),
                    header,
                    pack_start: at as u64,
                    pack_id: None,
                });
            }
            if end == file.size_bytes {
                let message = format!("the header of `{}` is cut off", file.key);
                return Err(corrupt(message));
            }
            length = length.saturating_mul(4);
        }
    }

    /// Reads the trailer of a bundle's pack, without the header.
    pub(super) async fn read_trailer(
        location: &BundleLocation,
        file: &BundleFile,
        hash: HashKind,
    ) -> Result<ObjectId> {
        let length = hash.len_in_bytes() as u64;
        let start = file
            .size_bytes
            .checked_sub(length)
            .ok_or_else(|| corrupt(format!("`{}` is too short for a bundle", file.key)))?;
        let trailer = read(location, file, start..file.size_bytes).await?;
        Ok(ObjectId::from_bytes_or_panic(&trailer))
    }

    /// Whether the bundle has no prerequisites.
    pub(super) fn is_full(&self) -> bool {
        self.header.prerequisites.is_empty()
    }

    /// Returns the length of the pack.
    pub(super) fn pack_bytes(&self) -> u64 {
        self.file.size_bytes.saturating_sub(self.pack_start)
    }

    /// Returns the range of the bundle that holds the entries of the pack.
    pub(super) fn entries(&self) -> Range<u64> {
        let trailer = self.header.hash.len_in_bytes() as u64;
        let start = self.pack_start + PACK_HEADER_BYTES;
        start..self.file.size_bytes.saturating_sub(trailer).max(start)
    }
}

/// Streams a pack of `size_bytes`.
pub(super) fn pieces(
    bytes: Arc<dyn PackBytes>,
    size_bytes: u64,
) -> impl Stream<Item = crate::git::Result<Bytes>> + Send + use<> {
    futures_util::stream::iter(0..size_bytes.div_ceil(READ_CHUNK_BYTES))
        .map(move |piece| {
            let bytes = Arc::clone(&bytes);
            let start = piece * READ_CHUNK_BYTES;
            async move {
                bytes
                    .read_range(start..size_bytes.min(start + READ_CHUNK_BYTES))
                    .await
            }
        })
        .buffered(CONCURRENT_READS)
}

#[async_trait]
impl PackBytes for OpenBundle {
    async fn read_range(&self, range: Range<u64>) -> crate::git::Result<Bytes> {
        let start = self.pack_start;
        read(
            &self.location,
            &self.file,
            start + range.start..start + range.end,
        )
        .await
        .map_err(Into::into)
    }
}

/// Reads exactly `range`.
pub(super) async fn read(
    location: &BundleLocation,
    file: &BundleFile,
    range: Range<u64>,
) -> Result<Bytes> {
    let length = range.end.saturating_sub(range.start);
    let got = location
        .store
        .get(&location.bucket, &file.key, None, Some(range))
        .await;
    match got {
        Ok(bytes) if bytes.len() as u64 == length => Ok(bytes),
        Ok(_) => Err(replaced(file, "read")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(replaced(file, "read").with_source(error))
        }
        Err(error) => Err(error),
    }
}

/// Returns the error of a bundle that was deleted or replaced while it was `what`.
pub(super) fn replaced(file: &BundleFile, what: &str) -> Error {
    let message = format!("`{}` was replaced while it was {what}", file.key);
    Error::new(ErrorKind::Conflict, message).with_hint("fetch, and try again")
}

impl BundleLocation {
    /// Checks that a bundle was not replaced since it was listed.
    ///
    /// # Errors
    /// `Conflict` when it was.
    pub(super) async fn ensure_unchanged(&self, file: &BundleFile) -> Result<()> {
        match self.store.head(&self.bucket, &file.key).await? {
            Some(head) if head.etag == file.etag => Ok(()),
            _ => Err(replaced(file, "copied")),
        }
    }
}
