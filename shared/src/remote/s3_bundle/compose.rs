//! The bytes of a new bundle, as far as possible copied inside S3 from an old one.
//!
//! The new pack is the old one's entries as they lie, then the new entries: distances
//! between entries stay what they are, so no delta changes. New are the header of the
//! bundle, the header of the pack (its count of objects) and the trailer, for which all
//! bytes are read once and hashed.
//!
//! S3 wants parts of at least 5 MiB. So the first part is the headers and as much of the old
//! entries as that takes; then parts are copied; what is new is the last part, which may be
//! short. Where nothing would be left to copy, all is sent.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use super::file::{OpenBundle, replaced};
use super::library::Book;
use super::publish::Body;
use super::{BundleOptions, Place};
use crate::error::{Error, ErrorKind, Result};
use crate::git::bundle::Header;
use crate::git::pack::{FileHasher, HEADER, Index, PackBytes};
use crate::git::{HashKind, ObjectId, corrupt};
use crate::remote::objects::{Database, Known, PackOptions, pack};
use crate::storage::upload::{Upload, part_bytes};

/// How much of an old pack is hashed at once.
const STEP: u64 = 8 << 20;

/// Which objects a bundle has.
#[derive(Clone)]
pub(super) struct Ids {
    index: Option<Index>,
    added: Vec<Arc<HashSet<ObjectId>>>,
    count: usize,
}

impl Ids {
    fn none() -> Self {
        Self {
            index: None,
            added: Vec::new(),
            count: 0,
        }
    }

    pub(super) fn contains(&self, id: ObjectId) -> bool {
        self.index
            .as_ref()
            .is_some_and(|index| index.find(id).is_some())
            || self.added.iter().any(|added| added.contains(&id))
    }

    /// These and others, none of which is among these.
    fn with(&self, ids: &[ObjectId]) -> Self {
        let mut all = self.clone();
        all.count += ids.len();
        all.added.push(Arc::new(ids.iter().copied().collect()));
        all
    }
}

/// A full bundle of which others can be composed.
#[derive(Clone)]
pub(super) struct Base {
    pub(super) bundle: OpenBundle,
    pub(super) ids: Ids,
    /// Its pack, where it is read the cheapest.
    pub(super) bytes: Arc<dyn PackBytes>,
}

impl Base {
    /// A bundle that was read; `None` when it is not full.
    pub(super) fn of(book: &Book) -> Option<Self> {
        let is_full = book.bundle.is_full();
        is_full.then(|| Self {
            bundle: book.bundle.clone(),
            ids: Ids {
                count: book.index.len(),
                index: Some(book.index.clone()),
                added: Vec::new(),
            },
            bytes: Arc::clone(&book.pack.bytes),
        })
    }
}

/// A bundle that another ref's is a copy of.
pub(super) struct Copied(pub(super) OpenBundle);

#[async_trait]
impl Body for Copied {
    async fn send(&self, upload: &Upload, check: &(dyn Fn() -> Result<()> + Sync)) -> Result<u64> {
        let size = self.0.file.size_bytes;
        copy(upload, &self.0, 0..size, 1, check).await?;
        Ok(0)
    }
}

/// A bundle made of another one and new objects, or of new objects alone.
pub(super) struct Composed {
    pub(super) hash: HashKind,
    pub(super) header: Header,
    pub(super) base: Option<Base>,
    /// Objects that the base does not have.
    pub(super) objects: Vec<ObjectId>,
    pub(super) database: Arc<Database>,
    /// What the base is known to have, for deltas on it.
    pub(super) known: Option<Arc<Known>>,
    pub(super) options: BundleOptions,
}

impl Composed {
    /// What the bundle will hold.
    pub(super) fn ids(&self) -> Ids {
        let base = self.base.as_ref().map(|base| base.ids.clone());
        base.unwrap_or_else(Ids::none).with(&self.objects)
    }

    fn count(&self) -> Result<u32> {
        let old = self.base.as_ref().map_or(0, |base| base.ids.count);
        u32::try_from(old + self.objects.len()).map_err(|_| {
            let message = "a bundle would have more objects than a pack can have";
            Error::new(ErrorKind::FileTooLarge, message)
        })
    }
}

/// What is sent of a bundle, part after part.
struct Parts<'a> {
    upload: &'a Upload,
    least: usize,
    held: BytesMut,
    number: u32,
    sent: u64,
    check: &'a (dyn Fn() -> Result<()> + Sync),
}

impl Parts<'_> {
    async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.held.extend_from_slice(bytes);
        loop {
            let size = part_bytes(self.number + 1).max(self.least);
            if self.held.len() < size {
                return Ok(());
            }
            let part = self.held.split_to(size).freeze();
            self.send(part).await?;
        }
    }

    async fn send(&mut self, part: Bytes) -> Result<()> {
        (self.check)()?;
        self.number += 1;
        self.sent += part.len() as u64;
        self.upload.part(self.number, part).await
    }

    async fn end(mut self) -> Result<u64> {
        if !self.held.is_empty() {
            let part = self.held.split().freeze();
            self.send(part).await?;
        }
        Ok(self.sent)
    }
}

#[async_trait]
impl Body for Composed {
    async fn send(&self, upload: &Upload, check: &(dyn Fn() -> Result<()> + Sync)) -> Result<u64> {
        let mut parts = Parts {
            upload,
            least: self.options.part_bytes,
            held: self.header.write()?.as_slice().into(),
            number: 0,
            sent: 0,
            check,
        };
        let mut head = *b"PACK\0\0\0\x02\0\0\0\0";
        head[8..].copy_from_slice(&self.count()?.to_be_bytes());
        parts.push(&head).await?;
        let mut hasher = FileHasher::new(self.hash);
        hasher.update(&head);
        if let Some(base) = &self.base {
            let entries = base.bundle.entries();
            let first = (self.options.part_bytes as u64).saturating_sub(parts.held.len() as u64);
            let rest = entries.end.min(entries.start.saturating_add(first))..entries.end;
            if rest.end - rest.start >= self.options.part_bytes as u64 {
                hasher = composed(base, hasher, rest, &mut parts).await?;
            } else {
                hasher = read(base, entries, hasher, Some(&mut parts)).await?;
            }
        }
        if !self.objects.is_empty() {
            hasher = self.send_new(hasher, &mut parts).await?;
        }
        parts.push(hasher.finish().as_slice()).await?;
        parts.end().await
    }
}

impl Composed {
    /// Sends the new entries.
    async fn send_new(&self, mut hasher: FileHasher, parts: &mut Parts<'_>) -> Result<FileHasher> {
        let options = PackOptions {
            known: self.known.clone(),
            offset_deltas: true,
        };
        let mut stream = pack(&self.database, self.objects.iter().copied(), options)?;
        let trailer = self.hash.len_in_bytes();
        let mut skip = usize::try_from(HEADER).expect("because it is twelve");
        let mut held = BytesMut::new();
        while let Some(bytes) = stream.next().await {
            held.extend_from_slice(&bytes?);
            let skipped = skip.min(held.len());
            let _ = held.split_to(skipped);
            skip -= skipped;
            if held.len() > trailer {
                let entries = held.split_to(held.len() - trailer);
                hasher.update(&entries);
                parts.push(&entries).await?;
            }
        }
        if held.len() == trailer && skip == 0 {
            Ok(hasher)
        } else {
            Err(corrupt("a pack was made too short"))
        }
    }
}

/// Sends the first of the old entries, copies the `rest`, and hashes all of them.
async fn composed(
    base: &Base,
    hasher: FileHasher,
    rest: Range<u64>,
    parts: &mut Parts<'_>,
) -> Result<FileHasher> {
    let entries = base.bundle.entries();
    let hasher = read(base, entries.start..rest.start, hasher, Some(parts)).await?;
    if !parts.held.is_empty() {
        // One that is a little larger than the others.
        let part = parts.held.split().freeze();
        parts.send(part).await?;
    }
    let check = parts.check;
    let copies = copy(
        parts.upload,
        &base.bundle,
        rest.clone(),
        parts.number + 1,
        check,
    );
    let reading = read(base, rest, hasher, None);
    let (number, hasher) = futures_util::future::try_join(copies, reading).await?;
    parts.number = number;
    Ok(hasher)
}

/// Reads old entries and hashes them; sends them, too, if there is somewhere to send.
async fn read(
    base: &Base,
    range: Range<u64>,
    mut hasher: FileHasher,
    mut parts: Option<&mut Parts<'_>>,
) -> Result<FileHasher> {
    let start = base.bundle.pack_start;
    let range = range.start - start..range.end - start;
    let pieces = (range.end - range.start).div_ceil(STEP);
    let bytes = &base.bytes;
    let mut pieces = futures_util::stream::iter(0..pieces)
        .map(|piece| {
            let from = range.start + piece * STEP;
            bytes.read_range(from..range.end.min(from + STEP))
        })
        .buffered(3);
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        hasher.update(&piece);
        if let Some(parts) = &mut parts {
            parts.push(&piece).await?;
        }
        tokio::task::yield_now().await;
    }
    Ok(hasher)
}

/// Copies a range of a bundle, in equal parts from `number` on; the last one's number.
///
/// # Errors
/// `Conflict` when the bundle was replaced meanwhile: the parts may be of another one.
async fn copy(
    upload: &Upload,
    bundle: &OpenBundle,
    range: Range<u64>,
    number: u32,
    check: &(dyn Fn() -> Result<()> + Sync),
) -> Result<u32> {
    let Place {
        bucket, options, ..
    } = &*bundle.place;
    let length = range.end - range.start;
    let count = length.div_ceil(options.copy_bytes).max(1);
    let size = length.div_ceil(count);
    let last = number - 1 + u32::try_from(count).map_err(|_| corrupt("a bundle is too large"))?;
    let copies = (number..=last).map(|number_of| {
        let from = range.start + u64::from(number_of - number) * size;
        let to = range.end.min(from + size);
        async move {
            check()?;
            let source = (bucket, &bundle.file.key, None);
            upload
                .copy(number_of, source, from..to)
                .await
                .map_err(|error| {
                    if error.kind() == ErrorKind::NotFound {
                        return replaced(&bundle.file, "copied").with_source(error);
                    }
                    error
                })
        }
    });
    let mut copies = futures_util::stream::iter(copies).buffer_unordered(4);
    while let Some(done) = copies.next().await {
        done?;
    }
    bundle.place.is_still(&bundle.file).await?;
    Ok(last)
}
