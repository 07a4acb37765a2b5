//! The bytes of a new bundle, as far as possible copied inside S3 from an old one.
//!
//! The new pack is the old one's entries as they lie, then the new entries: distances
//! between entries stay what they are, so no delta changes. New are the header of the
//! bundle, the header of the pack (its count of objects) and the trailer, for which all
//! bytes are read once and hashed.
//!
//! S3 wants parts of at least 5 MiB. So the first part is the headers and as much of the old
//! entries as that takes; then parts are copied; what is new is the last part, which may be
//! short. Where nothing would be left to copy, all is sent. Parts are sent and copied while
//! the next ones are made.
//!
//! Where the old pack is read from a copy on this machine's disk, its own trailer is computed
//! beside the new one, of the same bytes. When it comes out as another one, the copy is dropped,
//! and all is done again with what S3 has.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::{try_join, try_join3};
use tokio::sync::mpsc;

use super::bundle_reader::{OpenBundle, replaced};
use super::catalog::IndexedBundle;
use super::checksum::OldAndNewChecksum;
use super::publish::{BodySent, BundleBody};
use super::{BundleLocation, BundleOptions};
use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::git::bundle::Header;
use crate::git::odb::{Database, PackOptions, ReceiverObjects, indexed_pack};
use crate::git::pack::{HEADER, Index, PackBytes};
use crate::git::{HashKind, ObjectId};
use crate::pack_cache::{CachedPack, PackExtension, Writer, WrittenEntries};
use crate::storage::multipart::{MultipartWriter, part_bytes};

/// Asks whether it is worth going on.
pub(super) type LockCheck<'a> = &'a (dyn Fn() -> Result<()> + Sync);

/// How many parts are on their way at once, where there is memory for them.
const PARTS_AT_ONCE: usize = 3;
/// How many are copied at once.
const COPIES_AT_ONCE: usize = 8;
/// The least that is copied as one part, as long as a thousand parts hold the bundle: S3
/// copies several parts faster than one.
const COPY: u64 = 64 << 20;
/// The number of the part that precedes what is copied.
const FIRST: u32 = 1;
/// How much of an old pack is hashed at once.
const STEP: u64 = 8 << 20;

/// Which objects a bundle has.
#[derive(Clone)]
pub(super) struct ObjectIdSet {
    index: Option<Index>,
    added: Vec<Arc<HashSet<ObjectId>>>,
    count: usize,
}

impl ObjectIdSet {
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
pub(super) struct CopyBase {
    pub(super) bundle: OpenBundle,
    pub(super) ids: ObjectIdSet,
    /// Its pack, where it is read the cheapest.
    pub(super) bytes: Arc<dyn PackBytes>,
    /// The pack's copy on this machine's disk.
    pub(super) copy: Option<Arc<CachedPack>>,
    /// Whether that is where it is read.
    pub(super) is_near: bool,
}

impl CopyBase {
    /// A bundle that was read; `None` when it is not full.
    pub(super) fn of(book: &IndexedBundle) -> Option<Self> {
        let is_full = book.bundle.is_full();
        is_full.then(|| Self {
            bundle: book.bundle.clone(),
            ids: ObjectIdSet {
                count: book.index.len(),
                index: Some(book.index.clone()),
                added: Vec::new(),
            },
            bytes: Arc::clone(&book.pack.bytes),
            copy: book.copy.clone(),
            is_near: book.is_near,
        })
    }

    /// The same, read from S3.
    fn without_cache(&self) -> Self {
        Self {
            bytes: Arc::new(self.bundle.clone()),
            copy: None,
            is_near: false,
            ..self.clone()
        }
    }
}

/// A bundle that another ref's is a copy of.
pub(super) struct CopyOfBundle(pub(super) OpenBundle);

#[async_trait]
impl BundleBody for CopyOfBundle {
    async fn send(&self, upload: &MultipartWriter, check: LockCheck<'_>) -> Result<BodySent> {
        let size = self.0.file.size_bytes;
        copy(upload, &self.0, 0..size, 1, check).await?;
        Ok(BodySent::default())
    }
}

/// A bundle made of another one and new objects, or of new objects alone.
pub(super) struct Composed {
    pub(super) hash: HashKind,
    pub(super) header: Header,
    pub(super) base: Option<CopyBase>,
    /// Objects that the base does not have.
    pub(super) objects: Vec<ObjectId>,
    pub(super) database: Arc<Database>,
    /// What the base is known to have, for deltas on it.
    pub(super) known: Option<Arc<ReceiverObjects>>,
    pub(super) options: BundleOptions,
}

impl Composed {
    /// What the bundle will hold.
    pub(super) fn ids(&self) -> ObjectIdSet {
        let base = self.base.as_ref().map(|base| base.ids.clone());
        base.unwrap_or_else(ObjectIdSet::none).with(&self.objects)
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
struct Parts {
    sender: mpsc::Sender<(u32, Bytes)>,
    least: usize,
    held: BytesMut,
    number: u32,
    sent: u64,
}

impl Parts {
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
        self.number += 1;
        self.sent += part.len() as u64;
        let sent = self.sender.send((self.number, part)).await;
        sent.map_err(|_| Error::new(ErrorKind::Internal, "nobody sends the parts of a bundle"))
    }

    /// Sends what is left.
    async fn flush(&mut self) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let part = self.held.split().freeze();
        self.send(part).await
    }
}

/// Sends parts as they are made.
async fn send_parts(
    upload: &MultipartWriter,
    parts: mpsc::Receiver<(u32, Bytes)>,
    at_once: usize,
    check: LockCheck<'_>,
) -> Result<()> {
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
            .buffer_unordered(at_once)
    );
    while let Some(done) = sent.next().await {
        done?;
    }
    Ok(())
}

/// What came of sending a bundle.
struct PartsSent {
    sent: BodySent,
    /// The old pack was the one that it should be.
    is_good: bool,
}

#[async_trait]
impl BundleBody for Composed {
    async fn send(&self, upload: &MultipartWriter, check: LockCheck<'_>) -> Result<BodySent> {
        let first = self.attempt(self.base.as_ref(), upload, check).await?;
        if first.is_good {
            return Ok(first.sent);
        }
        upload.discard_parts();
        let base = self.base.as_ref();
        if let Some(copy) = base.and_then(|base| base.copy.as_ref()) {
            copy.give_up("its trailer is another").await;
        }
        let base = base.map(CopyBase::without_cache);
        let again = self.attempt(base.as_ref(), upload, check).await?;
        Ok(BodySent {
            bytes: first.sent.bytes + again.sent.bytes,
            ..again.sent
        })
    }
}

impl Composed {
    async fn attempt(
        &self,
        base: Option<&CopyBase>,
        upload: &MultipartWriter,
        check: LockCheck<'_>,
    ) -> Result<PartsSent> {
        let (sender, parts) = mpsc::channel(1);
        let parts_at_once = self.options.limits.memory / 4 / part_bytes(FIRST);
        let sending = send_parts(upload, parts, parts_at_once.clamp(1, PARTS_AT_ONCE), check);
        let mut parts = Parts {
            sender,
            least: self.options.part_bytes,
            held: self.header.write()?.as_slice().into(),
            number: 0,
            sent: 0,
        };
        let mut head = *b"PACK\0\0\0\x02\0\0\0\0";
        head[8..].copy_from_slice(&self.count()?.to_be_bytes());
        parts.push(&head).await?;
        let trailers = OldAndNewChecksum::new(self.hash, &head, base).await?;
        let Some(base) = base else {
            let making = self.build_parts(None, 0..0, trailers, parts);
            return Ok(try_join(sending, making).await?.1);
        };
        let entries = base.bundle.entries();
        let first = (self.options.part_bytes as u64).saturating_sub(parts.held.len() as u64);
        let rest = entries.end.min(entries.start.saturating_add(first))..entries.end;
        if rest.end - rest.start < self.options.part_bytes as u64 {
            let making = self.build_parts(Some(base), entries.end..entries.end, trailers, parts);
            return Ok(try_join(sending, making).await?.1);
        }
        let copies = copy(upload, &base.bundle, rest.clone(), FIRST + 1, check);
        let making = self.build_parts(Some(base), rest, trailers, parts);
        Ok(try_join3(sending, copies, making).await?.2)
    }

    /// Makes what is sent: all but the `copied` range of the old bundle, which is hashed.
    async fn build_parts(
        &self,
        base: Option<&CopyBase>,
        copied: Range<u64>,
        mut trailers: OldAndNewChecksum,
        mut parts: Parts,
    ) -> Result<PartsSent> {
        if let Some(base) = base {
            let start = base.bundle.entries().start;
            trailers = read(base, start..copied.start, trailers, Some(&mut parts)).await?;
            if !copied.is_empty() {
                parts.flush().await?;
                if parts.number != FIRST {
                    let message = "the start of a bundle takes more than one part";
                    return Err(Error::new(ErrorKind::Internal, message));
                }
                parts.number += copied_parts(&self.options, &copied)?;
                trailers = read(base, copied, trailers, None).await?;
            }
        }
        let mut attempt = PartsSent {
            is_good: trailers.old_matches(),
            sent: BodySent::default(),
        };
        if attempt.is_good {
            let mut new = None;
            if !self.objects.is_empty() {
                (trailers, new) = self.write_new_entries(base, trailers, &mut parts).await?;
            }
            let pack = trailers.finish();
            parts.push(pack.as_slice()).await?;
            parts.flush().await?;
            attempt.sent.addition = new.map(|(written, index)| PackExtension {
                base: base.and_then(|base| base.copy.clone()),
                written,
                index,
                pack,
                replaces_base: false,
            });
            attempt.sent.base = base.map(|base| base.bundle.file.clone());
        }
        attempt.sent.bytes = parts.sent;
        Ok(attempt)
    }

    /// Where a copy of the new entries goes: only what stands on nothing, or on what has a
    /// copy, can have one.
    fn writer(&self, base: Option<&CopyBase>) -> Option<Writer> {
        let copies = self.options.copies.as_ref()?;
        let can_have = base.is_none_or(|base| base.copy.is_some());
        can_have.then(|| copies.writer(0))
    }

    /// Makes the new entries.
    async fn write_new_entries(
        &self,
        base: Option<&CopyBase>,
        mut trailers: OldAndNewChecksum,
        parts: &mut Parts,
    ) -> Result<(OldAndNewChecksum, Option<(WrittenEntries, Index)>)> {
        let options = PackOptions {
            known: self.known.clone(),
            offset_deltas: true,
        };
        let objects = self.objects.iter().copied();
        let (mut stream, index) = indexed_pack(&self.database, objects, options)?;
        let mut writer = self.writer(base);
        let trailer = self.hash.len_in_bytes();
        let mut skip = usize::try_from(HEADER).expect("because it is twelve");
        let mut held = BytesMut::new();
        while let Some(bytes) = stream.next().await {
            held.extend_from_slice(&bytes?);
            let skipped = skip.min(held.len());
            let _ = held.split_to(skipped);
            skip -= skipped;
            if held.len() > trailer {
                let entries = held.split_to(held.len() - trailer).freeze();
                trailers.update_new(&entries);
                parts.push(&entries).await?;
                if let Some(writer) = &mut writer {
                    writer.push(entries).await;
                }
            }
        }
        if held.len() != trailer || skip > 0 {
            return Err(corrupt("a pack was made too short"));
        }
        let written = match writer {
            Some(writer) => writer.finish().await,
            None => None,
        };
        Ok((trailers, written.zip(index.await.ok())))
    }
}

/// Reads old entries and hashes them; sends them, too, if there is somewhere to send.
async fn read(
    base: &CopyBase,
    range: Range<u64>,
    mut trailers: OldAndNewChecksum,
    mut parts: Option<&mut Parts>,
) -> Result<OldAndNewChecksum> {
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
        if let Some(parts) = &mut parts {
            parts.push(&piece).await?;
        }
        trailers = trailers.update(piece).await?;
    }
    Ok(trailers)
}

/// How many parts a copied range is.
fn copied_parts(options: &BundleOptions, range: &Range<u64>) -> Result<u32> {
    let length = range.end - range.start;
    let size = COPY.max(length.div_ceil(1000)).min(options.copy_bytes);
    u32::try_from(length.div_ceil(size).max(1)).map_err(|_| corrupt("a bundle is too large"))
}

/// Copies a range of a bundle, in equal parts from `number` on.
///
/// # Errors
/// `Conflict` when the bundle was replaced meanwhile: the parts may be of another one.
async fn copy(
    upload: &MultipartWriter,
    bundle: &OpenBundle,
    range: Range<u64>,
    number: u32,
    check: LockCheck<'_>,
) -> Result<()> {
    let BundleLocation {
        bucket, options, ..
    } = &*bundle.place;
    let count = copied_parts(options, &range)?;
    let size = (range.end - range.start).div_ceil(count.into());
    let copies = (0..count).map(|at| {
        let from = range.start + u64::from(at) * size;
        let to = range.end.min(from + size);
        async move {
            check()?;
            let source = (bucket, &bundle.file.key, None);
            upload
                .copy(number + at, source, from..to)
                .await
                .map_err(|error| {
                    if error.kind() == ErrorKind::NotFound {
                        return replaced(&bundle.file, "copied").with_source(error);
                    }
                    error
                })
        }
    });
    let mut copies = futures_util::stream::iter(copies).buffer_unordered(COPIES_AT_ONCE);
    while let Some(done) = copies.next().await {
        done?;
    }
    bundle.place.is_unchanged(&bundle.file).await
}
