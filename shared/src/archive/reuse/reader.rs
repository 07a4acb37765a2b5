//! Reads the entries of a previous archive once, from start to end, and checks those that are
//! copied: the checksum of the content, and the blob's id where the content is the blob.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};

use super::Fault;
use super::directory::{RANGE_BYTES, StoredEntry, ZipDirectory, header_length, read_range};
use super::full_run::{FullRun, damaged};
use super::record::EntrySum;
use super::tree_check::root_id;
use crate::archive::listed_tree::Tree;
use crate::archive::plan::ArchivePlan;
use crate::archive::previous_archive::PreviousArchive;
use crate::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::git::object::{Commit, ObjectHasher, ObjectKind};
use crate::git::{HashKind, ObjectId};
use crate::storage::ObjectStore;

/// Maximum number of ranges that are read concurrently.
const CONCURRENT_RANGES: usize = 2;

/// Memory for the ranges that are read and checked, in bytes.
pub(in crate::archive) const READER_BYTES: u64 = RANGE_BYTES * (CONCURRENT_RANGES as u64 + 2);

/// Size of the buffer for inflated bytes, which are only checked.
const INFLATED_BYTES: usize = 32 * 1024;

/// Use of an entry of the previous archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryUse {
    /// Passed over.
    Skip,
    /// Copied; the content is not the blob.
    Copy,
    /// Copied; the content is the blob of the file at the path from this byte of the name on.
    CopyBlob(u32),
}

/// Compressed bytes of an entry.
#[derive(Debug)]
pub(in crate::archive) struct ReusedPiece {
    entry: u32,
    pub(in crate::archive) bytes: Bytes,
    /// The entry has no more bytes.
    pub(in crate::archive) ends: bool,
    /// Blob of the whole entry, at its end.
    id: Option<ObjectId>,
}

/// The entries of a previous archive that are copied, in order.
pub(in crate::archive) struct ReusedEntries {
    directory: Arc<ZipDirectory>,
    batches: BoxStream<'static, Result<Vec<ReusedPiece>, FullRun>>,
    queue: VecDeque<ReusedPiece>,
    ended: bool,
    /// Blobs of the entries that were taken, by their numbers.
    ids: Vec<Option<ObjectId>>,
    /// The new archive contains all files of its commit.
    is_complete: bool,
    fault: Fault,
}

impl ReusedEntries {
    /// Reads the entries of `archive` by `uses`; the blobs that are copied must add up to
    /// `expected`. `is_complete` says that the new archive contains all files of its commit. A
    /// fault is stored in `fault` beside the error.
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        archive: Arc<PreviousArchive>,
        directory: Arc<ZipDirectory>,
        uses: Vec<EntryUse>,
        expected: EntrySum,
        is_complete: bool,
        fault: Fault,
    ) -> Self {
        let scanner = Scanner {
            hash: archive.commit.object_id().kind(),
            directory: Arc::clone(&directory),
            uses,
            next: 0,
            position: 0,
            partial: Vec::new(),
            left: None,
            content: ContentCheck::default(),
            sum: EntrySum::default(),
            expected,
        };
        let data_end = directory.start - directory.tail.len() as u64;
        let starts = (0..data_end).step_by(usize::try_from(RANGE_BYTES).unwrap_or(usize::MAX));
        let ranges =
            stream::iter(starts.map(move |start| start..data_end.min(start + RANGE_BYTES)));
        let reads = ranges.map(move |range| {
            let (store, archive) = (Arc::clone(&store), Arc::clone(&archive));
            async move { read_range(&store, &archive, range).await }
        });
        let tail = directory.tail.clone();
        let tail = stream::once(async move { Ok(tail) });
        let ranges = reads.buffered(CONCURRENT_RANGES).chain(tail).boxed();
        let batches = stream::try_unfold(Some((ranges, scanner)), |state| async move {
            let Some((mut ranges, mut scanner)) = state else {
                return Ok(None);
            };
            let Some(bytes) = ranges.next().await.transpose()? else {
                scanner.finish()?;
                return Ok(None);
            };
            let pending = blocking::run(move || {
                let pieces = scanner.scan(&bytes);
                (pieces, scanner)
            });
            let (pieces, scanner) = pending
                .await
                .map_err(|error| FullRun::after("the previous archive cannot be checked", error))?;
            Ok(Some((pieces?, Some((ranges, scanner)))))
        });
        Self {
            ids: vec![None; directory.entries.len()],
            directory,
            batches: batches.boxed(),
            queue: VecDeque::new(),
            ended: false,
            is_complete,
            fault,
        }
    }

    /// Returns entry `number`.
    pub(in crate::archive) fn entry(&self, number: u32) -> &StoredEntry {
        &self.directory.entries[number as usize]
    }

    /// Returns whether the archive was read and checked to its end.
    pub(in crate::archive) fn ended(&self) -> bool {
        self.ended
    }

    /// Returns whether [`read`](Self::read) is to be called.
    pub(in crate::archive) fn is_hungry(&self) -> bool {
        !self.ended && self.queue.is_empty()
    }

    /// Returns the next bytes of entry `number`; `None` if they are not read yet.
    pub(in crate::archive) fn take(&mut self, number: u32) -> Result<Option<ReusedPiece>> {
        let Some(piece) = self.queue.pop_front() else {
            return Ok(None);
        };
        if piece.entry != number {
            let message = "the entries of the previous archive are read out of order";
            return Err(Error::new(ErrorKind::Internal, message));
        }
        if let Some(id) = self.ids.get_mut(number as usize) {
            *id = piece.id;
        }
        Ok(Some(piece))
    }

    /// Reads more bytes. May be dropped and called again.
    pub(in crate::archive) async fn read(&mut self) -> Result<()> {
        match self.batches.next().await {
            None => self.ended = true,
            Some(Ok(pieces)) => self.queue.extend(pieces),
            Some(Err(reason)) => return Err(self.fail(reason)),
        }
        Ok(())
    }

    /// Checks that the files of the new archive make up the tree of its commit, as far as the
    /// archive determines it.
    pub(in crate::archive) fn check_tree(
        &self,
        tree: &Tree,
        plan: &ArchivePlan,
        commit: &Commit,
    ) -> Result<()> {
        if !self.is_complete {
            return Ok(());
        }
        match root_id(tree, plan, commit.tree.kind(), &self.ids)? {
            Some(id) if id != commit.tree => Err(self.fail(FullRun::because(
                "the copied and the fetched files are not the tree of the commit",
            ))),
            _ => Ok(()),
        }
    }

    /// Stores a reason; returns the error that ends the archive.
    fn fail(&self, reason: FullRun) -> Error {
        let error = Error::new(ErrorKind::Corrupt, reason.to_string());
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        *fault = Some(reason);
        error
    }
}

/// The failed check of a content that was to be copied.
#[derive(Debug)]
struct DamagedContent;

/// Splits the bytes of an archive into its entries.
struct Scanner {
    hash: HashKind,
    directory: Arc<ZipDirectory>,
    uses: Vec<EntryUse>,
    /// Number of the next or current entry.
    next: usize,
    position: u64,
    /// Start of a header whose end is in the next range.
    partial: Vec<u8>,
    /// Bytes that the current entry still has; `None` before its header.
    left: Option<u64>,
    content: ContentCheck,
    sum: EntrySum,
    expected: EntrySum,
}

impl Scanner {
    fn scan(&mut self, bytes: &Bytes) -> Result<Vec<ReusedPiece>, FullRun> {
        let mut pieces = Vec::new();
        let mut at = 0;
        let directory = Arc::clone(&self.directory);
        while let Some(entry) = directory.entries.get(self.next) {
            let left = if let Some(left) = self.left {
                left
            } else {
                let Some(length) = self.header(&bytes[at..], entry)? else {
                    return Ok(pieces);
                };
                at += length;
                self.start(entry)?
            };
            let length = usize::try_from(left).unwrap_or(usize::MAX);
            let length = length.min(bytes.len() - at);
            let piece = bytes.slice(at..at + length);
            at += length;
            self.position += length as u64;
            let left = left - length as u64;
            let ends = left == 0;
            self.left = (!ends).then_some(left);
            let used = self.uses[self.next];
            if used != EntryUse::Skip {
                let checked = self.content.push(&piece, entry);
                let id = checked.and_then(|()| {
                    if ends {
                        self.finish_entry(entry)
                    } else {
                        Ok(None)
                    }
                });
                let id = id.map_err(|DamagedContent| {
                    damaged(format!("the content of `{}`", entry.name.escape_debug()))
                })?;
                if ends || !piece.is_empty() {
                    pieces.push(ReusedPiece {
                        entry: u32::try_from(self.next)
                            .expect("because an archive below 4 GiB has fewer entries"),
                        bytes: piece,
                        ends,
                        id,
                    });
                }
            }
            if !ends {
                return Ok(pieces);
            }
            self.next += 1;
        }
        if at < bytes.len() {
            return Err(damaged("there are bytes after its last entry"));
        }
        Ok(pieces)
    }

    /// Reads the header of `entry`; returns the number of bytes taken from `bytes`, or `None`
    /// when the header continues in the next range.
    fn header(&mut self, bytes: &[u8], entry: &StoredEntry) -> Result<Option<usize>, FullRun> {
        if self.partial.is_empty() && entry.offset != self.position {
            return Err(damaged("there are bytes between its entries"));
        }
        if self.partial.is_empty() {
            if let Some(length) = header_length(bytes, entry)? {
                self.position += length as u64;
                return Ok(Some(length));
            }
            self.partial.extend_from_slice(bytes);
            return Ok(None);
        }
        let known = self.partial.len();
        // More than the longest header.
        let more = &bytes[..bytes.len().min(30 + 2 * usize::from(u16::MAX))];
        self.partial.extend_from_slice(more);
        let Some(length) = header_length(&self.partial, entry)? else {
            return Ok(None);
        };
        self.partial.clear();
        self.position += length as u64;
        Ok(Some(length - known))
    }

    /// Starts the content of `entry`; returns its length.
    fn start(&mut self, entry: &StoredEntry) -> Result<u64, FullRun> {
        let hasher = match self.uses[self.next] {
            EntryUse::CopyBlob(_) => Some(ObjectHasher::new(
                self.hash,
                ObjectKind::Blob,
                entry.sizes.size,
            )),
            EntryUse::Copy | EntryUse::Skip => None,
        };
        self.content.start(hasher);
        if entry.offset + entry.sizes.packed_size > self.directory.start {
            return Err(damaged("an entry is out of range"));
        }
        Ok(entry.sizes.packed_size)
    }

    /// Checks the content of `entry` at its end, and adds its blob to the sum; returns the blob
    /// if its id was computed.
    fn finish_entry(&mut self, entry: &StoredEntry) -> Result<Option<ObjectId>, DamagedContent> {
        let id = self.content.finish(entry)?;
        if let EntryUse::CopyBlob(path_at) = self.uses[self.next] {
            let path = entry.name.get(path_at as usize..).ok_or(DamagedContent)?;
            let blob = id.ok_or(DamagedContent)?;
            self.sum.add(EntrySum::of(path, entry.mode, Some(blob)));
        }
        Ok(id)
    }

    fn finish(&self) -> Result<(), FullRun> {
        if self.next < self.directory.entries.len() {
            return Err(damaged("it is truncated"));
        }
        if self.sum != self.expected {
            return Err(damaged("its files are not those of its commit"));
        }
        Ok(())
    }
}

/// Checks the content of one entry after the other.
struct ContentCheck {
    inflate: Decompress,
    inflated: Vec<u8>,
    crc: crc32fast::Hasher,
    size: u64,
    hasher: Option<ObjectHasher>,
    ended: bool,
}

impl Default for ContentCheck {
    fn default() -> Self {
        Self {
            inflate: Decompress::new(/* zlib header */ false),
            inflated: vec![0; INFLATED_BYTES],
            crc: crc32fast::Hasher::new(),
            size: 0,
            hasher: None,
            ended: false,
        }
    }
}

impl ContentCheck {
    fn start(&mut self, hasher: Option<ObjectHasher>) {
        self.inflate.reset(/* zlib header */ false);
        self.crc = crc32fast::Hasher::new();
        self.size = 0;
        self.hasher = hasher;
        self.ended = false;
    }

    /// Checks the next bytes.
    fn push(&mut self, mut bytes: &[u8], entry: &StoredEntry) -> Result<(), DamagedContent> {
        if !entry.sizes.deflated {
            self.add_content_of(bytes);
            return Ok(());
        }
        while !bytes.is_empty() {
            if self.ended {
                return Err(DamagedContent);
            }
            let (taken, made) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(bytes, &mut self.inflated, FlushDecompress::None)
                .map_err(|_| DamagedContent)?;
            let taken =
                usize::try_from(self.inflate.total_in() - taken).map_err(|_| DamagedContent)?;
            let made =
                usize::try_from(self.inflate.total_out() - made).map_err(|_| DamagedContent)?;
            bytes = &bytes[taken..];
            let inflated = std::mem::take(&mut self.inflated);
            self.add_content_of(&inflated[..made]);
            self.inflated = inflated;
            self.ended = status == Status::StreamEnd;
            // A content must not be larger than recorded, nor inflate for ever.
            if self.size > entry.sizes.size || taken == 0 && made == 0 {
                return Err(DamagedContent);
            }
        }
        Ok(())
    }

    fn add_content_of(&mut self, content: &[u8]) {
        self.crc.update(content);
        self.size += content.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(content);
        }
    }

    /// Checks the whole content, and returns the id of the blob if it was computed.
    fn finish(&mut self, entry: &StoredEntry) -> Result<Option<ObjectId>, DamagedContent> {
        let sizes = &entry.sizes;
        // The end of the stream may be left inside of the inflater while its output was full.
        if sizes.deflated && !self.ended {
            let made = self.inflate.total_out();
            let status = self
                .inflate
                .decompress(&[], &mut self.inflated, FlushDecompress::Finish)
                .map_err(|_| DamagedContent)?;
            let made =
                usize::try_from(self.inflate.total_out() - made).map_err(|_| DamagedContent)?;
            let inflated = std::mem::take(&mut self.inflated);
            self.add_content_of(&inflated[..made]);
            self.inflated = inflated;
            if status != Status::StreamEnd {
                return Err(DamagedContent);
            }
        }
        let crc = std::mem::take(&mut self.crc).finalize();
        if crc != sizes.crc || self.size != sizes.size {
            return Err(DamagedContent);
        }
        let id = self.hasher.take().map(ObjectHasher::finish);
        id.transpose().map_err(|_| DamagedContent)
    }
}
