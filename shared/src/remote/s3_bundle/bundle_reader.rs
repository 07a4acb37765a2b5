//! A bundle's bytes, where they lie.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use super::BundleLocation;
use super::keys::BundleFile;
use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::git::bundle::Header;
use crate::git::pack::{HEADER, PackBytes};
use crate::git::{HashKind, ObjectId};
use crate::storage::ObjectStoreExt as _;

/// How much of a bundle is read at first: longer than nearly every header.
const FIRST: u64 = 4 * 1024;
/// How much is read at once, and how many such reads are under way.
const PIECE: u64 = 8 << 20;
const READS: usize = 4;

/// A bundle whose header was read.
#[derive(Clone)]
pub(super) struct OpenBundle {
    pub(super) place: Arc<BundleLocation>,
    pub(super) file: BundleFile,
    pub(super) header: Header,
    /// Where the pack starts.
    pub(super) pack_start: u64,
}

impl OpenBundle {
    /// Reads the header.
    ///
    /// # Errors
    /// `Conflict` when the bundle is not there any more: its ref was moved.
    pub(super) async fn open(place: &Arc<BundleLocation>, file: &BundleFile) -> Result<Self> {
        let mut length = FIRST;
        loop {
            let end = file.size_bytes.min(length);
            let first = read(place, file, 0..end).await?;
            let parsed = Header::parse(&first);
            let parsed = parsed.map_err(|error| error.context(format!("`{}`", file.key)))?;
            if let Some((header, at)) = parsed {
                if header.filter.is_some() {
                    return Err(corrupt(format!("`{}` leaves objects out", file.key))
                        .with_hint("make a bundle without a filter of it"));
                }
                return Ok(Self {
                    place: Arc::clone(place),
                    file: file.clone(),
                    header,
                    pack_start: at as u64,
                });
            }
            if end == file.size_bytes {
                let message = format!("the header of `{}` is cut off", file.key);
                return Err(corrupt(message));
            }
            length = length.saturating_mul(4);
        }
    }

    /// Reads the last bytes of a bundle, by which its pack is called.
    pub(super) async fn trailer(
        place: &BundleLocation,
        file: &BundleFile,
        hash: HashKind,
    ) -> Result<ObjectId> {
        let length = hash.len_in_bytes() as u64;
        let start = file
            .size_bytes
            .checked_sub(length)
            .ok_or_else(|| corrupt(format!("`{}` is too short for a bundle", file.key)))?;
        let trailer = read(place, file, start..file.size_bytes).await?;
        Ok(ObjectId::from_bytes_or_panic(&trailer))
    }

    /// Whether it holds all that its commits need.
    pub(super) fn is_full(&self) -> bool {
        self.header.prerequisites.is_empty()
    }

    /// The length of its pack.
    pub(super) fn pack_bytes(&self) -> u64 {
        self.file.size_bytes.saturating_sub(self.pack_start)
    }

    /// Where in the bundle the entries of its pack lie.
    pub(super) fn entries(&self) -> Range<u64> {
        let trailer = self.header.hash.len_in_bytes() as u64;
        let start = self.pack_start + HEADER;
        start..self.file.size_bytes.saturating_sub(trailer).max(start)
    }
}

/// A pack of that length, piece after piece.
pub(super) fn pieces(
    bytes: Arc<dyn PackBytes>,
    size_bytes: u64,
) -> impl Stream<Item = crate::git::Result<Bytes>> + Send + use<> {
    futures_util::stream::iter(0..size_bytes.div_ceil(PIECE))
        .map(move |piece| {
            let bytes = Arc::clone(&bytes);
            let start = piece * PIECE;
            async move { bytes.read_range(start..size_bytes.min(start + PIECE)).await }
        })
        .buffered(READS)
}

#[async_trait]
impl PackBytes for OpenBundle {
    async fn read_range(&self, range: Range<u64>) -> crate::git::Result<Bytes> {
        let start = self.pack_start;
        read(
            &self.place,
            &self.file,
            start + range.start..start + range.end,
        )
        .await
        .map_err(Into::into)
    }
}

/// Reads exactly that range.
async fn read(place: &BundleLocation, file: &BundleFile, range: Range<u64>) -> Result<Bytes> {
    let length = range.end.saturating_sub(range.start);
    let got = place
        .store
        .get(&place.bucket, &file.key, None, Some(range))
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

/// A bundle that is not there any more, or is another one.
pub(super) fn replaced(file: &BundleFile, what: &str) -> Error {
    let message = format!("`{}` was replaced while it was {what}", file.key);
    Error::new(ErrorKind::Conflict, message).with_hint("fetch, and try again")
}

impl BundleLocation {
    /// Makes sure that a bundle still is the one that was listed, byte for byte.
    ///
    /// # Errors
    /// `Conflict` when it is not.
    pub(super) async fn is_unchanged(&self, file: &BundleFile) -> Result<()> {
        match self.store.head(&self.bucket, &file.key).await? {
            Some(head) if head.etag == file.etag => Ok(()),
            _ => Err(replaced(file, "copied")),
        }
    }
}
