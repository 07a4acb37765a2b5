//! Local cache of packs, so that what was read or written once is not read from S3 again. In
//! Lambda it is stored in `/tmp` for the lifetime of the environment.
//!
//! A pack is found by its trailer. It consists of **segments**, each a file that is written
//! once, and of a **record** that names them and holds the pack's index. A pack that has all
//! entries of another pack and some more shares its segments, so that caching it costs the
//! new entries and the index. The pack's header and trailer are not stored, because they
//! follow from the index.
//!
//! A pack that this process has not written is read once when it is opened, and compared with
//! its trailer. Then lengths and checksums of blocks are verified on each read; a damaged pack
//! counts as absent, and the caller reads S3. The checksums find accidents only: another
//! process of this user can forge them, which nothing but the trailer reveals.
//!
//! Segments have random names and records are renamed into place, so several processes may
//! share the directory and be killed at any time; files that no record names are removed after
//! an hour. The cache uses at most 4 GiB and a quarter of the space that would be free without
//! it; least recently used packs are evicted first. A full disk, or any other failure, costs
//! the cached pack and nothing else.
//!
//! Memory: 4 bytes for each 64 KiB of an open pack, and while a pack is inserted (one at a
//! time) about 105 bytes for each of its objects.

mod directory;
mod manifest;
mod peeled;
mod received;
mod segment;
mod writer;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;

use self::directory::{CacheDir, MAX_PACKS};
use self::manifest::{MAX_SEGMENTS, Manifest};
pub(crate) use self::peeled::PeeledIds;
pub(crate) use self::received::{PackCopy, PackCopyReader};
use self::segment::{Segment, SegmentId, SegmentWriter, broken};
pub(crate) use self::writer::{EntryWriter, WrittenEntries};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::pack::{FileHasher, Index, PACK_HEADER_BYTES, pack_header};
use crate::os::is_transient;

/// Number of bytes that are read at once to verify or to merge segments.
const READ_CHUNK_BYTES: u64 = 4 << 20;

/// Cache of packs in one directory.
pub struct PackCache {
    directory: Arc<CacheDir>,
    /// Segments of the packs that this process has written or compared with their trailers.
    verified: Mutex<HashMap<ObjectId, Vec<SegmentId>>>,
    /// One permit, because an insertion needs memory for the whole index.
    insertion: Semaphore,
}

impl std::fmt::Debug for PackCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackCache")
            .field("directory", &self.directory.path)
            .finish_non_exhaustive()
    }
}

/// A pack to insert: the entries that it adds to another cached pack, or all its entries.
pub(crate) struct PackExtension {
    /// Cached pack whose entries come first; `None` if there are no other entries.
    pub(crate) base: Option<Arc<CachedPack>>,
    /// Entries that follow those of `base`.
    pub(crate) written: WrittenEntries,
    /// Index of a pack that consists of `written` only.
    pub(crate) index: Index,
    /// Trailer of the whole pack.
    pub(crate) pack: ObjectId,
    /// Whether the bundle of `base` was deleted, so that `base` is not needed any more.
    pub(crate) replaces_base: bool,
}

impl PackCache {
    /// Opens the cache in `directory`, which is created if it is missing.
    ///
    /// # Errors
    /// `Config` when other users may access the directory, or it cannot be created.
    pub fn open(directory: &Path) -> Result<Self> {
        let opened = CacheDir::open(directory).map_err(|error| {
            let message = format!("`{}` cannot be used as a pack cache", directory.display());
            Error::new(ErrorKind::Config, message).with_source(error)
        })?;
        Ok(Self {
            directory: Arc::new(opened),
            verified: Mutex::default(),
            insertion: Semaphore::new(1),
        })
    }

    /// Limits the cache to `max_bytes`.
    #[must_use]
    pub fn with_max_bytes(self, max_bytes: u64) -> Self {
        Self {
            directory: Arc::new(self.directory.with_max_bytes(max_bytes)),
            ..self
        }
    }

    /// Returns the peeled ids of tags that were recorded.
    pub(crate) async fn peeled_ids(&self) -> PeeledIds {
        let directory = Arc::clone(&self.directory);
        blocking(move || Ok(peeled::read(&directory.path)))
            .await
            .unwrap_or_default()
    }

    /// Records the peeled ids of tags, and of objects that are not tags.
    pub(crate) async fn record_peeled_ids(&self, ids: Vec<(ObjectId, Option<ObjectId>)>) {
        let directory = Arc::clone(&self.directory);
        blocking(move || peeled::append(&directory.path, &ids)).await;
    }

    fn verified(&self) -> MutexGuard<'_, HashMap<ObjectId, Vec<SegmentId>>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record_verified(&self, pack: &CachedPack) {
        let mut verified = self.verified();
        if verified.len() >= MAX_PACKS {
            verified.clear();
        }
        verified.insert(pack.pack, pack.segment_ids());
    }

    /// Finds a pack of `size_bytes`, and its index. The first time, all of it is read and
    /// compared with its trailer.
    pub(crate) async fn find(
        &self,
        pack: ObjectId,
        size_bytes: u64,
    ) -> Option<(Arc<CachedPack>, Index)> {
        let directory = Arc::clone(&self.directory);
        let verified = self.verified().get(&pack).cloned();
        let found = blocking(move || {
            let opened = CachedPack::open(&directory, pack).and_then(|(cached, index)| {
                if cached.size_bytes != size_bytes {
                    return Ok(None);
                }
                if verified != Some(cached.segment_ids()) {
                    cached.verify()?;
                }
                Ok(Some((cached, index)))
            });
            match opened {
                Ok(found) => Ok(found),
                Err(error) if is_transient(&error) => Err(error),
                Err(_) if !manifest::path(&directory.path, pack).exists() => Ok(None),
                Err(error) => {
                    log_and_remove(&directory, pack, &error);
                    Ok(None)
                }
            }
        });
        let (cached, index) = found.await.flatten()?;
        self.record_verified(&cached);
        Some((Arc::new(cached), index))
    }

    /// Starts to write entries of a pack of about `expected_bytes`, which may be inserted once
    /// the pack is known to be correct.
    pub(crate) fn writer(&self, expected_bytes: u64) -> EntryWriter {
        EntryWriter::new(&self.directory, expected_bytes)
    }

    /// Inserts a correct pack; `None` if that fails.
    pub(crate) async fn insert(&self, extension: PackExtension) -> Option<Arc<CachedPack>> {
        let base = extension.base.as_ref();
        if base.is_some_and(|base| base.is_discarded.load(Ordering::Relaxed)) {
            return None;
        }
        let _permit = self.insertion.acquire().await.ok()?;
        let directory = Arc::clone(&self.directory);
        let inserted = blocking(move || insert(&directory, extension)).await;
        let cached = inserted.flatten()?;
        self.record_verified(&cached);
        Some(Arc::new(cached))
    }
}

/// Runs `work` on a thread that may wait for the disk; `None` when it failed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Option<T> {
    match crate::blocking::run(work).await {
        Ok(Ok(done)) => Some(done),
        Ok(Err(error)) => {
            tracing::info!(%error, "a pack could not be cached");
            None
        }
        Err(_) => None,
    }
}

fn log_and_remove(directory: &CacheDir, pack: ObjectId, error: &io::Error) {
    tracing::info!(pack.id = %pack, %error, "discarded a cached pack");
    directory.remove(pack);
}

/// A verified pack in the cache.
pub(crate) struct CachedPack {
    pack: ObjectId,
    size_bytes: u64,
    header: Bytes,
    segments: Vec<Segment>,
    directory: Arc<CacheDir>,
    is_discarded: AtomicBool,
}

impl CachedPack {
    fn open(directory: &Arc<CacheDir>, pack: ObjectId) -> io::Result<(Self, Index)> {
        let Manifest { segments, index } = Manifest::read(&directory.path, pack)?;
        let cached = Self::new(directory, &segments, &index)?;
        Ok((cached, index))
    }

    fn new(directory: &Arc<CacheDir>, segments: &[SegmentId], index: &Index) -> io::Result<Self> {
        let pack = index.pack_id();
        let segments = segments
            .iter()
            .map(|id| Segment::open(&directory.path, *id))
            .collect::<io::Result<Vec<_>>>()?;
        let entries_end = segments
            .iter()
            .try_fold(PACK_HEADER_BYTES, |end, segment| {
                end.checked_add(segment.id.size)
            })
            .ok_or_else(|| broken("the segments of a pack are too long"))?;
        if (0..index.len()).any(|at| index.offset(at) >= entries_end) {
            return Err(broken("the index does not match the entries"));
        }
        let count = u32::try_from(index.len()).map_err(io::Error::other)?;
        Ok(Self {
            pack,
            size_bytes: entries_end + pack.as_slice().len() as u64,
            header: Bytes::copy_from_slice(&pack_header(count)),
            segments,
            directory: Arc::clone(directory),
            is_discarded: AtomicBool::new(false),
        })
    }

    /// Compares header and entries with the pack's trailer.
    fn verify(&self) -> io::Result<()> {
        let mut hasher = FileHasher::new(self.pack.kind());
        let mut at = 0;
        while at < self.entries_end() {
            let end = self.entries_end().min(at + READ_CHUNK_BYTES);
            hasher.update(&self.read(at..end)?);
            at = end;
        }
        if hasher.finish() == self.pack {
            Ok(())
        } else {
            Err(broken("its checksum does not match"))
        }
    }

    fn segment_ids(&self) -> Vec<SegmentId> {
        self.segments.iter().map(|segment| segment.id).collect()
    }

    fn entries_end(&self) -> u64 {
        self.size_bytes - self.pack.as_slice().len() as u64
    }

    /// Reads exactly `range`; `None` if the pack is not usable any more.
    pub(crate) async fn read_range(self: &Arc<Self>, range: Range<u64>) -> Option<Bytes> {
        if self.is_discarded.load(Ordering::Relaxed) {
            return None;
        }
        let cached = Arc::clone(self);
        let read = crate::blocking::run(move || cached.read(range)).await;
        let error = match read {
            Ok(Ok(bytes)) => return Some(bytes),
            Ok(Err(error)) if is_transient(&error) => return None,
            Ok(Err(error)) => error,
            Err(error) => io::Error::other(error),
        };
        if !self.is_discarded.swap(true, Ordering::Relaxed) {
            let (directory, pack) = (Arc::clone(&self.directory), self.pack);
            blocking(move || {
                log_and_remove(&directory, pack, &error);
                Ok(())
            })
            .await;
        }
        None
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let mut pieces = Vec::new();
        if range.start < PACK_HEADER_BYTES {
            pieces.push(slice(
                &self.header,
                range.start..range.end.min(PACK_HEADER_BYTES),
            )?);
        }
        let mut start = PACK_HEADER_BYTES;
        for segment in &self.segments {
            let end = start + segment.id.size;
            let overlap = range.start.max(start)..range.end.min(end);
            if overlap.start < overlap.end {
                pieces.push(segment.read(overlap.start - start..overlap.end - start)?);
            }
            start = end;
        }
        if range.end > start {
            let trailer = Bytes::copy_from_slice(self.pack.as_slice());
            pieces.push(slice(
                &trailer,
                range.start.max(start) - start..range.end - start,
            )?);
        }
        if let [piece] = &mut pieces[..] {
            return Ok(std::mem::take(piece));
        }
        let mut out = BytesMut::new();
        for piece in pieces {
            out.extend_from_slice(&piece);
        }
        Ok(out.freeze())
    }
}

fn slice(bytes: &Bytes, range: Range<u64>) -> io::Result<Bytes> {
    let at = |position: u64| usize::try_from(position).map_err(io::Error::other);
    let range = at(range.start)?..at(range.end)?;
    if range.end <= bytes.len() {
        Ok(bytes.slice(range))
    } else {
        Err(broken("the range is outside the pack"))
    }
}

fn insert(directory: &Arc<CacheDir>, extension: PackExtension) -> io::Result<Option<CachedPack>> {
    let PackExtension {
        base,
        written,
        index,
        pack,
        replaces_base,
    } = extension;
    let obsolete = base.as_ref().map(|base| base.pack);
    let obsolete = obsolete.filter(|base| replaces_base && *base != pack);
    let (mut segments, index) = match base {
        None => (Vec::new(), index),
        Some(base) => {
            let known = Manifest::read(&directory.path, base.pack)?;
            let shift = base.entries_end() - PACK_HEADER_BYTES;
            let index = known.index.followed_by(&index, shift, pack);
            (base.segment_ids(), index)
        }
    };
    if index.pack_id() != pack {
        return Err(broken("the index does not belong to the pack"));
    }
    let mut pending = vec![written];
    if segments.len() >= MAX_SEGMENTS {
        // The first segment is not merged, because it is by far the largest after many pushes.
        let mut merged = SegmentWriter::create(&directory.path)?;
        let old = segments.split_off(1).into_iter();
        for id in old.chain(pending[0].segment()) {
            if !directory.evict_for(id.size)? {
                return Ok(None);
            }
            let segment = Segment::open(&directory.path, id)?;
            let mut at = 0;
            while at < id.size {
                let end = id.size.min(at + READ_CHUNK_BYTES);
                merged.push(&segment.read(at..end)?)?;
                at = end;
            }
        }
        pending = vec![WrittenEntries::finish(directory, merged)?];
    }
    segments.extend(pending.iter().filter_map(WrittenEntries::segment));
    let record = Manifest { segments, index };
    if !directory.evict_for(record.file_bytes())? {
        return Ok(None);
    }
    // Opened only now, because the eviction may have removed segments of the base.
    let cached = CachedPack::new(directory, &record.segments, &record.index)?;
    record.write(&directory.path)?;
    for written in pending {
        written.keep_file();
    }
    if let Some(base) = obsolete {
        directory.remove(base);
    }
    Ok(Some(cached))
}
