//! Segments: immutable files of pack entries, which several packs share.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::os;

/// Number of bytes that share a checksum.
const BLOCK_BYTES: usize = 64 * 1024;
/// Length of a CRC-32.
const CHECKSUM_BYTES: u64 = 4;

/// Description of a segment in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentId {
    /// Random number, which is the file's name in hexadecimal.
    pub(super) name: u128,
    /// Length of the pack entries in bytes.
    pub(super) size: u64,
    /// CRC-32 of the blocks' checksums.
    pub(super) check: u32,
}

impl SegmentId {
    pub(super) fn file_name(&self) -> String {
        file_name(self.name)
    }

    /// Returns the length of the file: the entries, then a checksum for each block.
    pub(super) fn file_bytes(&self) -> u64 {
        self.size.saturating_add(
            self.size
                .div_ceil(BLOCK_BYTES as u64)
                .saturating_mul(CHECKSUM_BYTES),
        )
    }
}

/// File extension of segments.
const EXTENSION: &str = "entries";

fn file_name(name: u128) -> String {
    format!("{name:032x}.{EXTENSION}")
}

pub(super) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Opens an existing regular file, without following a link.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let file = os::open_without_link(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(broken("not a regular file"))
    }
}

/// Creates a file that only this user can read.
pub(super) fn create_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).read(true).create_new(true);
    os::only_for_this_user(&mut options).open(path)
}

/// A segment to read. Each read opens the file, because there may be more segments than a
/// process may have open files.
pub(super) struct Segment {
    pub(super) id: SegmentId,
    path: PathBuf,
    /// CRC-32 of each block. They stay in memory, so that a block that changes on the disk
    /// afterwards is never read.
    sums: Vec<u8>,
}

impl Segment {
    /// Reads the checksums of a segment, and checks them against the record's.
    pub(super) fn open(directory: &Path, id: SegmentId) -> io::Result<Self> {
        let path = directory.join(id.file_name());
        let mut file = open_file(&path)?;
        if file.metadata()?.len() != id.file_bytes() {
            return Err(broken("segment length mismatch"));
        }
        file.seek(SeekFrom::Start(id.size))?;
        let mut sums = Vec::new();
        file.read_to_end(&mut sums)?;
        if crc32fast::hash(&sums) != id.check {
            return Err(broken("segment checksum mismatch"));
        }
        Ok(Self { id, path, sums })
    }

    /// Reads exactly `range`, whose blocks must match their checksums.
    pub(super) fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        if range.start > range.end || range.end > self.id.size {
            return Err(broken("the range is outside the segment"));
        }
        let block = BLOCK_BYTES as u64;
        let start = range.start / block * block;
        let end = range.end.div_ceil(block) * block;
        let end = end.min(self.id.size);
        let length = |bytes: u64| usize::try_from(bytes).map_err(io::Error::other);
        let mut bytes = vec![0; length(end - start)?];
        os::read_exact_at(&open_file(&self.path)?, &mut bytes, start)?;
        let first = length(start / block * CHECKSUM_BYTES)?;
        let sums = self.sums[first..].chunks_exact(4);
        for (piece, sum) in bytes.chunks(BLOCK_BYTES).zip(sums) {
            if crc32fast::hash(piece).to_be_bytes() != *sum {
                return Err(broken("block checksum mismatch"));
            }
        }
        let within = length(range.start - start)?..length(range.end - start)?;
        Ok(Bytes::from(bytes).slice(within))
    }
}

/// A segment that is being written. The file is removed when this is dropped before
/// [`finish`](Self::finish).
pub(super) struct SegmentWriter {
    path: PathBuf,
    name: u128,
    file: File,
    size: u64,
    block: crc32fast::Hasher,
    filled: usize,
    sums: Vec<u8>,
    is_done: bool,
}

impl SegmentWriter {
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        let name = rand::random::<u128>();
        let path = directory.join(file_name(name));
        Ok(Self {
            file: create_file(&path)?,
            path,
            name,
            size: 0,
            block: crc32fast::Hasher::new(),
            filled: 0,
            sums: Vec::new(),
            is_done: false,
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece;
            (piece, rest) = rest.split_at(rest.len().min(BLOCK_BYTES - self.filled));
            self.block.update(piece);
            self.filled += piece.len();
            if self.filled == BLOCK_BYTES {
                self.end_block();
            }
        }
        Ok(())
    }

    fn end_block(&mut self) {
        let sum = std::mem::take(&mut self.block).finalize();
        self.sums.extend_from_slice(&sum.to_be_bytes());
        self.filled = 0;
    }

    /// Appends the checksums. The file then stays until it is removed.
    pub(super) fn finish(mut self) -> io::Result<SegmentId> {
        if self.filled > 0 {
            self.end_block();
        }
        self.file.write_all(&self.sums)?;
        self.is_done = true;
        Ok(SegmentId {
            name: self.name,
            size: self.size,
            check: crc32fast::hash(&self.sums),
        })
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
