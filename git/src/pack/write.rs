//! Packs that are written as streams.

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};

use super::index::Entry;
use super::{EntryHeader, EntryKind, FileHasher, Index, pack_header};
use crate::error::{Error, ErrorKind, Result};
use crate::object::ObjectKind;
use crate::{HashKind, ObjectId};

/// Writes a pack of undeltified objects and deltas that name their bases by id (which every
/// server accepts).
///
/// Does no I/O: the caller [takes](Self::take) the written bytes. The number of objects must
/// be known at the start, because the header contains it.
pub struct PackWriter {
    hash: HashKind,
    count: u32,
    entries: Vec<Entry>,
    out: Vec<u8>,
    // The number of bytes that were taken.
    taken: u64,
    file: FileHasher,
    zlib: Compress,
    // The length of `out` that the CRC of the current entry covers.
    counted: usize,
    crc: crc32fast::Hasher,
}

impl std::fmt::Debug for PackWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackWriter")
            .field("count", &self.count)
            .field("written", &self.entries.len())
            .finish_non_exhaustive()
    }
}

impl PackWriter {
    /// Starts a pack of `count` objects.
    pub fn new(hash: HashKind, count: u32) -> Self {
        let out = pack_header(count).to_vec();
        Self {
            hash,
            count,
            entries: Vec::new(),
            counted: out.len(),
            out,
            taken: 0,
            file: FileHasher::new(hash),
            zlib: Compress::new(Compression::default(), true),
            crc: crc32fast::Hasher::new(),
        }
    }

    /// Adds an undeltified object whose content is in memory.
    pub fn object(&mut self, id: ObjectId, kind: ObjectKind, content: &[u8]) {
        self.start(id, kind, content.len() as u64);
        self.data(content);
        self.end();
    }

    /// Adds an object as a delta, whose base is in this pack or at the reader (a thin pack).
    pub fn delta(&mut self, id: ObjectId, base: ObjectId, delta: &[u8]) {
        self.start_entry(id, EntryKind::IdDelta(base), delta.len() as u64);
        self.data(delta);
        self.end();
    }

    /// Adds an entry whose zlib stream is copied from another pack.
    ///
    /// # Errors
    /// `Internal` for an offset delta, because some servers refuse them.
    pub fn copy(&mut self, id: ObjectId, header: EntryHeader, compressed: &[u8]) -> Result<()> {
        self.start_copy(id, header)?;
        self.copy_data(compressed);
        self.end_copy();
        Ok(())
    }

    /// Starts an entry whose zlib stream is copied in pieces.
    ///
    /// # Errors
    /// `Internal` for an offset delta, as [`copy`](Self::copy).
    pub fn start_copy(&mut self, id: ObjectId, header: EntryHeader) -> Result<()> {
        if matches!(header.kind, EntryKind::OffsetDelta(_)) {
            let message = format!("{id} cannot be written as an offset delta");
            return Err(Error::new(ErrorKind::Internal, message));
        }
        self.begin(id, header);
        Ok(())
    }

    /// Adds the next piece of the copied zlib stream.
    pub fn copy_data(&mut self, compressed: &[u8]) {
        self.out.extend_from_slice(compressed);
    }

    /// Ends the copied entry.
    pub fn end_copy(&mut self) {
        self.close();
    }

    /// Starts an undeltified object, whose `size` bytes of content follow in pieces.
    pub fn start(&mut self, id: ObjectId, kind: ObjectKind, size: u64) {
        self.start_entry(id, EntryKind::Whole(kind), size);
    }

    fn start_entry(&mut self, id: ObjectId, kind: EntryKind, size: u64) {
        self.begin(id, EntryHeader { kind, size });
        self.zlib.reset();
    }

    /// Adds the next piece of the started object.
    pub fn data(&mut self, content: &[u8]) {
        let mut rest = content;
        while !rest.is_empty() {
            rest = &rest[self.deflate(rest, FlushCompress::None).0..];
        }
    }

    /// Ends the started object.
    pub fn end(&mut self) {
        while self.deflate(&[], FlushCompress::Finish).1 != Status::StreamEnd {}
        self.close();
    }

    /// Returns the bytes that were written since the last call.
    pub fn take(&mut self) -> Bytes {
        self.count_crc();
        self.file.update(&self.out);
        self.taken += self.out.len() as u64;
        self.counted = 0;
        std::mem::take(&mut self.out).into()
    }

    /// Returns the number of bytes to be taken.
    pub fn waiting(&self) -> usize {
        self.out.len()
    }

    /// Ends the pack; returns its last bytes and its index.
    ///
    /// # Errors
    /// `Internal` when the number of objects does not match `count`, or an object was added
    /// twice.
    pub fn finish(mut self) -> Result<(Bytes, Index)> {
        let wrong = |what: &str| Err(Error::new(ErrorKind::Internal, what));
        if self.entries.len() != self.count as usize {
            return wrong("the number of objects written to a pack does not match its header");
        }
        let last = self.take();
        let trailer = self.file.finish();
        let mut out = Vec::with_capacity(last.len() + self.hash.len_in_bytes());
        out.extend_from_slice(&last);
        out.extend_from_slice(trailer.as_slice());
        self.entries.sort_unstable_by_key(|entry| entry.id);
        if self.entries.windows(2).any(|pair| pair[0].id == pair[1].id) {
            return wrong("an object was written twice to a pack");
        }
        let index = Index::build(self.hash, &self.entries, trailer);
        Ok((out.into(), index))
    }

    fn begin(&mut self, id: ObjectId, header: EntryHeader) {
        self.entries.push(Entry {
            offset: self.taken + self.out.len() as u64,
            crc: 0,
            kind: None,
            id,
        });
        self.counted = self.out.len();
        header.write(&mut self.out);
    }

    fn close(&mut self) {
        self.count_crc();
        let crc = std::mem::take(&mut self.crc).finalize();
        if let Some(entry) = self.entries.last_mut() {
            entry.crc = crc;
        }
    }

    fn count_crc(&mut self) {
        self.crc.update(&self.out[self.counted..]);
        self.counted = self.out.len();
    }

    fn deflate(&mut self, input: &[u8], flush: FlushCompress) -> (usize, Status) {
        self.out.reserve(4096);
        let before = self.zlib.total_in();
        let status = self
            .zlib
            .compress_vec(input, &mut self.out, flush)
            .expect("because any bytes can be deflated");
        let used = usize::try_from(self.zlib.total_in() - before);
        (
            used.expect("because it is at most the length of a slice"),
            status,
        )
    }
}
