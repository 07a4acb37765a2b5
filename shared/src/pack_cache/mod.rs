//! Copies of packs on this machine's disk, so that what was written or read once need not
//! be read again from afar. A Lambda function keeps them in `/tmp` as long as its
//! environment lives.
//!
//! A copy is found by its pack's trailer. It is made of **segments**, each a file that is
//! written once, and of a **record** that names them and holds the pack's index. A pack
//! that has all entries of another one and some more shares its segments, so its copy costs
//! what is new and the index. The pack's header and trailer are not kept: they follow from
//! the index.
//!
//! Nothing here is taken for whole. Lengths and checksums are looked at whenever a byte is
//! read: one that was torn, cut off, changed or swapped is not there any more. That finds
//! accidents. Who may write to this user's folder may forge checksums, too: who copies a pack
//! inside S3 because of what lies here compares it to the pack's trailer first.
//!
//! Segments have random names and records are renamed into their place, so several processes
//! may use one folder, and may be killed at any time: what is half done is named by no
//! record, and goes after an hour. Copies take at most a quarter of what would be free
//! without them, and 4 GiB; what was not used for the longest goes first. A disk that is
//! full, or any other failure, costs the copy and nothing else.
//!
//! Memory: a copy that is read holds four bytes for each 64 KiB. While one is kept, and that
//! is one at a time, there are about 105 bytes for each object of it.

mod directory;
mod manifest;
mod segment;
mod writer;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;

use self::directory::CacheDir;
use self::manifest::{MOST_SEGMENTS, Manifest};
use self::segment::{Segment, SegmentWriter, broken, is_transient};
pub(crate) use self::writer::{Writer, WrittenEntries};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::pack::{HEADER, Index};

/// How much of a segment is copied at once.
const COPY_CHUNK_BYTES: u64 = 4 << 20;

/// Copies of packs in one folder.
pub struct PackCache {
    folder: Arc<CacheDir>,
    /// One is kept at a time: that takes memory.
    keeping: Semaphore,
}

impl std::fmt::Debug for PackCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copies")
            .field("folder", &self.folder.path)
            .finish_non_exhaustive()
    }
}

/// A pack as what it adds to another one.
pub(crate) struct PackExtension {
    /// The other one's copy; without it the pack has nothing else.
    pub(crate) base: Option<Arc<CachedPack>>,
    /// The entries that are new.
    pub(crate) written: WrittenEntries,
    /// The index of a pack of these alone.
    pub(crate) index: Index,
    /// What the whole pack is called.
    pub(crate) pack: ObjectId,
    /// The base's bundle is gone.
    pub(crate) replaces_base: bool,
}

impl PackCache {
    /// Copies in `folder`, which is created if it is not there.
    ///
    /// # Errors
    /// `Config` when the folder is not this user's alone, or cannot be created.
    pub fn open(folder: &Path) -> Result<Self> {
        let opened = CacheDir::open(folder).map_err(|error| {
            let message = format!("`{}` cannot hold copies of packs", folder.display());
            Error::new(ErrorKind::Config, message).with_source(error)
        })?;
        Ok(Self {
            folder: Arc::new(opened),
            keeping: Semaphore::new(1),
        })
    }

    /// The same, taking at most so many bytes of the disk.
    #[must_use]
    pub fn with_max_bytes(self, most_bytes: u64) -> Self {
        Self {
            folder: Arc::new(self.folder.holding(most_bytes)),
            ..self
        }
    }

    /// The copy of a pack of that length, with its index.
    pub(crate) async fn find(
        &self,
        pack: ObjectId,
        size_bytes: u64,
    ) -> Option<(Arc<CachedPack>, Index)> {
        let folder = Arc::clone(&self.folder);
        blocking(move || {
            let (copy, index) = match CachedPack::open(&folder, pack) {
                Ok(found) => found,
                Err(error) if is_transient(&error) => return Err(error),
                Err(_) if !manifest::path(&folder.path, pack).exists() => return Ok(None),
                Err(error) => {
                    log_and_remove(&folder, pack, &error);
                    return Ok(None);
                }
            };
            Ok((copy.size_bytes == size_bytes).then_some((Arc::new(copy), index)))
        })
        .await
        .flatten()
    }

    /// Removes the copy of a pack: it is not what it should be.
    pub(crate) async fn discard(&self, pack: ObjectId, why: &str) {
        give_up(&self.folder, pack, why).await;
    }

    /// Takes entries of a pack, about so many bytes, to be kept once it is known to be good.
    pub(crate) fn writer(&self, expected: u64) -> Writer {
        Writer::new(&self.folder, expected)
    }

    /// Keeps the copy of a pack that is known to be good; `None` when that cannot be.
    pub(crate) async fn insert(&self, addition: PackExtension) -> Option<Arc<CachedPack>> {
        let base = addition.base.as_ref();
        if base.is_some_and(|base| base.is_dropped.load(Ordering::Relaxed)) {
            return None;
        }
        let _one = self.keeping.acquire().await.ok()?;
        let folder = Arc::clone(&self.folder);
        let kept = blocking(move || keep(&folder, addition)).await;
        kept.flatten().map(Arc::new)
    }
}

/// Does what waits for the disk; `None` when it failed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Option<T> {
    match crate::blocking::run(work).await {
        Ok(Ok(done)) => Some(done),
        Ok(Err(error)) => {
            tracing::info!(%error, "a copy of a pack was given up");
            None
        }
        Err(_) => None,
    }
}

async fn give_up(folder: &Arc<CacheDir>, pack: ObjectId, why: &str) {
    let (folder, error) = (Arc::clone(folder), broken(why));
    blocking(move || {
        log_and_remove(&folder, pack, &error);
        Ok(())
    })
    .await;
}

fn log_and_remove(folder: &CacheDir, pack: ObjectId, error: &io::Error) {
    tracing::info!(pack.id = %pack, %error, "a copy of a pack was dropped");
    folder.remove(pack);
}

/// A pack that lies here.
pub(crate) struct CachedPack {
    pack: ObjectId,
    size_bytes: u64,
    header: Bytes,
    segments: Vec<Segment>,
    folder: Arc<CacheDir>,
    is_dropped: AtomicBool,
}

impl CachedPack {
    fn open(folder: &Arc<CacheDir>, pack: ObjectId) -> io::Result<(Self, Index)> {
        let Manifest { segments, index } = Manifest::read(&folder.path, pack)?;
        let segments = segments
            .into_iter()
            .map(|id| Segment::open(&folder.path, id))
            .collect::<io::Result<_>>()?;
        let copy = Self::of(folder, segments, &index)?;
        Ok((copy, index))
    }

    fn of(folder: &Arc<CacheDir>, segments: Vec<Segment>, index: &Index) -> io::Result<Self> {
        let pack = index.pack_id();
        let entries = segments
            .iter()
            .try_fold(HEADER, |end, segment| end.checked_add(segment.id.size))
            .ok_or_else(|| broken("a record names too many bytes"))?;
        if (0..index.len()).any(|at| index.offset(at) >= entries) {
            return Err(broken("the index does not fit the entries"));
        }
        let count = u32::try_from(index.len()).map_err(io::Error::other)?;
        let mut header = b"PACK\0\0\0\x02".to_vec();
        header.extend_from_slice(&count.to_be_bytes());
        Ok(Self {
            pack,
            size_bytes: entries + pack.as_slice().len() as u64,
            header: header.into(),
            segments,
            folder: Arc::clone(folder),
            is_dropped: AtomicBool::new(false),
        })
    }

    /// What the pack is called.
    pub(crate) fn pack_id(&self) -> ObjectId {
        self.pack
    }

    /// The pack's header.
    pub(crate) fn header(&self) -> &Bytes {
        &self.header
    }

    /// Where the entries end.
    fn end(&self) -> u64 {
        self.size_bytes - self.pack.as_slice().len() as u64
    }

    /// Removes it: it is not what it should be.
    pub(crate) async fn give_up(&self, why: &str) {
        if !self.is_dropped.swap(true, Ordering::Relaxed) {
            give_up(&self.folder, self.pack, why).await;
        }
    }

    /// Reads exactly that range of the pack; `None` when the copy is of no use any more.
    pub(crate) async fn read_range(self: &Arc<Self>, range: Range<u64>) -> Option<Bytes> {
        if self.is_dropped.load(Ordering::Relaxed) {
            return None;
        }
        let copy = Arc::clone(self);
        let read = crate::blocking::run(move || copy.read(range)).await;
        let error = match read {
            Ok(Ok(bytes)) => return Some(bytes),
            Ok(Err(error)) if is_transient(&error) => return None,
            Ok(Err(error)) => error,
            Err(error) => io::Error::other(error),
        };
        self.give_up(&error.to_string()).await;
        None
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let mut pieces = Vec::new();
        if range.start < HEADER {
            pieces.push(part(&self.header, range.start..range.end.min(HEADER))?);
        }
        let mut start = HEADER;
        for segment in &self.segments {
            let end = start + segment.id.size;
            let both = range.start.max(start)..range.end.min(end);
            if both.start < both.end {
                pieces.push(segment.read(both.start - start..both.end - start)?);
            }
            start = end;
        }
        if range.end > start {
            let trailer = Bytes::copy_from_slice(self.pack.as_slice());
            pieces.push(part(
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

fn part(bytes: &Bytes, range: Range<u64>) -> io::Result<Bytes> {
    let at = |position: u64| usize::try_from(position).map_err(io::Error::other);
    let range = at(range.start)?..at(range.end)?;
    if range.end <= bytes.len() {
        Ok(bytes.slice(range))
    } else {
        Err(broken("a pack has no such range"))
    }
}

fn keep(folder: &Arc<CacheDir>, addition: PackExtension) -> io::Result<Option<CachedPack>> {
    let PackExtension {
        base,
        written,
        index,
        pack,
        replaces_base,
    } = addition;
    let gone = base.as_ref().map(|base| base.pack);
    let gone = gone.filter(|base| replaces_base && *base != pack);
    let (mut segments, index) = match base {
        None => (Vec::new(), index),
        Some(base) => {
            let known = Manifest::read(&folder.path, base.pack)?;
            let shift = base.end() - HEADER;
            let index = known.index.followed_by(&index, shift, pack);
            (known.segments, index)
        }
    };
    if index.pack_id() != pack {
        return Err(broken("the index is one of another pack"));
    }
    let mut pending = vec![written];
    if segments.len() >= MOST_SEGMENTS {
        // The first one is the largest by far where many pushes follow one.
        let mut merged = SegmentWriter::create(&folder.path)?;
        let old = segments.split_off(1).into_iter();
        let all = old.chain(pending[0].segment());
        for id in all {
            if !folder.evict_for(id.size)? {
                return Ok(None);
            }
            let segment = Segment::open(&folder.path, id)?;
            let mut at = 0;
            while at < id.size {
                let end = id.size.min(at + COPY_CHUNK_BYTES);
                merged.push(&segment.read(at..end)?)?;
                at = end;
            }
        }
        pending = vec![WrittenEntries::of(folder, merged)?];
    }
    segments.extend(pending.iter().filter_map(WrittenEntries::segment));
    let record = Manifest { segments, index };
    if !folder.evict_for(record.file_bytes())? {
        return Ok(None);
    }
    // That may have been made by removing the base.
    let opened = record
        .segments
        .iter()
        .map(|id| Segment::open(&folder.path, *id))
        .collect::<io::Result<_>>()?;
    let copy = CachedPack::of(folder, opened, &record.index)?;
    record.write(&folder.path)?;
    for written in pending {
        written.keep_file();
    }
    if let Some(base) = gone {
        folder.remove(base);
    }
    Ok(Some(copy))
}
