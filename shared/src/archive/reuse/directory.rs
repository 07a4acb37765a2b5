//! The central directory of a previous archive (APPNOTE 4.3.12 and 4.3.16), as `zip` wrote it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::full_run::{FullRun, damaged};
use crate::archive::previous_archive::PreviousArchive;
use crate::archive::zip::EntrySizes;
use crate::git::object::EntryMode;
use crate::storage::{GetOptions, ObjectStore};

/// Size of the ranges that are read of an archive, in bytes.
pub(super) const RANGE_BYTES: u64 = 2 * 1024 * 1024;

/// Length of the record at an archive's end, without its comment.
const END_BYTES: usize = 22;

/// Length of the two 64-bit records before it, which archives with many entries have.
const END_64_BYTES: u64 = 56 + 20;

/// Length of an entry's record, without its name and fields.
const RECORD_BYTES: usize = 46;

/// Modes of entries by their external attributes.
const MODES: [(u32, EntryMode); 4] = [
    (0, EntryMode::Blob),
    (0x10, EntryMode::Tree),
    (0o100_755 << 16, EntryMode::BlobExecutable),
    (0o120_777 << 16, EntryMode::Link),
];

/// An entry of a previous archive.
#[derive(Debug)]
pub(in crate::archive) struct StoredEntry {
    /// Path in the archive; that of a folder or submodule ends in a slash.
    pub(super) name: Box<str>,
    /// [`EntryMode::Tree`] for folders and submodules.
    pub(in crate::archive) mode: EntryMode,
    pub(in crate::archive) sizes: EntrySizes,
    /// Position of the header.
    pub(super) offset: u64,
}

/// The entries of a previous archive.
#[derive(Debug)]
pub(super) struct ZipDirectory {
    pub(super) entries: Vec<StoredEntry>,
    /// Position of the directory, where the data ends.
    pub(super) start: u64,
    /// Data before the directory that was read with it.
    pub(super) tail: Bytes,
}

/// Reads a range of `archive`, which must still have the entity tag that it is known by.
pub(super) async fn read_range(
    store: &Arc<dyn ObjectStore>,
    archive: &PreviousArchive,
    range: std::ops::Range<u64>,
) -> Result<Bytes, FullRun> {
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    let length = range.end - range.start;
    let options = GetOptions {
        version: None,
        range: Some(range),
    };
    let read = store.get_object(&archive.bucket, &archive.key, &options);
    let object = read
        .await
        .map_err(|error| FullRun::after("the previous archive cannot be read", error))?;
    if object.etag != archive.etag {
        return Err(FullRun::because("the previous archive was replaced"));
    }
    if object.body.len() as u64 != length {
        return Err(damaged("it is truncated"));
    }
    Ok(object.body)
}

impl ZipDirectory {
    /// Reads the directory of `archive`.
    pub(super) async fn read(
        store: &Arc<dyn ObjectStore>,
        archive: &PreviousArchive,
    ) -> Result<Self, FullRun> {
        let size = archive.size_bytes;
        if size >= u64::from(u32::MAX) {
            return Err(FullRun::because("the previous archive has 4 GiB or more"));
        }
        let tail_start = size.saturating_sub(RANGE_BYTES);
        let tail = read_range(store, archive, tail_start..size).await?;
        let end = EndRecord::find(&tail, &archive.commit.to_string())?;
        let end_of_directory = end.start + end.length;
        let after = size - end.size;
        let is_64_bit = end.entries == u16::MAX && end_of_directory + END_64_BYTES == after;
        if end_of_directory != after && !is_64_bit {
            return Err(damaged(
                "its directory does not end where the records after it start",
            ));
        }
        let position = |at: u64| usize::try_from(at - tail_start).unwrap_or(usize::MAX);
        if end.start >= tail_start {
            let (start, end_at) = (position(end.start), position(end_of_directory));
            let entries = parse(&tail[start..end_at], end.entries)?;
            return Ok(Self {
                entries,
                start: end.start,
                tail: Bytes::copy_from_slice(&tail[..start]),
            });
        }
        let mut directory = BytesMut::new();
        let mut at = end.start;
        while at < tail_start {
            let next = tail_start.min(at + RANGE_BYTES);
            directory.extend_from_slice(&read_range(store, archive, at..next).await?);
            at = next;
        }
        let end_at = position(end_of_directory.max(tail_start));
        directory.extend_from_slice(&tail[..end_at]);
        drop(tail);
        let length = usize::try_from(end.length).unwrap_or(usize::MAX);
        let directory = directory
            .get(..length)
            .ok_or_else(|| damaged("its directory is out of range"))?;
        Ok(Self {
            entries: parse(directory, end.entries)?,
            start: end.start,
            tail: Bytes::new(),
        })
    }
}

/// The record at the end of an archive.
struct EndRecord {
    /// Position and length of the directory.
    start: u64,
    length: u64,
    /// Number of entries; 65,535 for that many or more.
    entries: u16,
    /// Size of the record itself.
    size: u64,
}

impl EndRecord {
    fn find(tail: &[u8], comment: &str) -> Result<Self, FullRun> {
        let found = tail.len().checked_sub(END_BYTES + comment.len());
        let end = found.map_or(&tail[..0], |at| &tail[at..]);
        if !end.starts_with(b"PK\x05\x06") || !end.ends_with(comment.as_bytes()) {
            return Err(damaged("it does not end in the id of its commit"));
        }
        let field = |at| u64::from(long(end, at));
        if usize::from(short(end, 20)) != comment.len() {
            return Err(damaged("its comment has another length"));
        }
        Ok(Self {
            start: field(16),
            length: field(12),
            entries: short(end, 10),
            size: end.len() as u64,
        })
    }
}

fn parse(mut bytes: &[u8], count: u16) -> Result<Vec<StoredEntry>, FullRun> {
    let mut entries = Vec::with_capacity(usize::from(count));
    while !bytes.is_empty() {
        let (entry, length) = parse_entry(bytes)
            .ok_or_else(|| damaged(format!("record {} of its directory", entries.len() + 1)))?;
        entries.push(entry);
        bytes = &bytes[length..];
    }
    if entries.len() != usize::from(count) && (count != u16::MAX || entries.len() < 0xffff) {
        return Err(damaged("its directory has another number of entries"));
    }
    Ok(entries)
}

/// Reads the first record of `bytes`; returns its length.
fn parse_entry(bytes: &[u8]) -> Option<(StoredEntry, usize)> {
    let record = bytes.get(..RECORD_BYTES)?;
    if !record.starts_with(b"PK\x01\x02") {
        return None;
    }
    let name_end = RECORD_BYTES + usize::from(short(record, 28));
    let length = name_end + usize::from(short(record, 30)) + usize::from(short(record, 32));
    let name = std::str::from_utf8(bytes.get(RECORD_BYTES..name_end)?).ok()?;
    bytes.get(name_end..length)?;
    let attributes = long(record, 38);
    let (_, mode) = *MODES.iter().find(|(known, _)| *known == attributes)?;
    let sizes = EntrySizes {
        crc: long(record, 16),
        packed_size: long(record, 20).into(),
        size: long(record, 24).into(),
        deflated: match short(record, 10) {
            0 => false,
            8 => true,
            _ => return None,
        },
    };
    let is_folder = mode == EntryMode::Tree;
    if name.ends_with('/') != is_folder
        || is_folder && sizes.packed_size != 0
        || !sizes.deflated && sizes.packed_size != sizes.size
    {
        return None;
    }
    let entry = StoredEntry {
        name: name.into(),
        mode,
        sizes,
        offset: long(record, 42).into(),
    };
    Some((entry, length))
}

/// Returns the length of the local header (APPNOTE 4.3.7) of `entry` at the start of `bytes`;
/// `None` while `bytes` is too short.
pub(super) fn header_length(bytes: &[u8], entry: &StoredEntry) -> Result<Option<usize>, FullRun> {
    /// Length of the header, without its name and fields.
    const HEADER_BYTES: usize = 30;
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        return Ok(None);
    };
    let name_length = usize::from(short(header, 26));
    let length = HEADER_BYTES + name_length + usize::from(short(header, 28));
    let Some(name) = bytes.get(HEADER_BYTES..length) else {
        return Ok(None);
    };
    let sizes = &entry.sizes;
    let is_equal = header.starts_with(b"PK\x03\x04")
        && name[..name_length] == *entry.name.as_bytes()
        && short(header, 8) == if sizes.deflated { 8 } else { 0 }
        && long(header, 14) == sizes.crc
        && u64::from(long(header, 18)) == sizes.packed_size
        && u64::from(long(header, 22)) == sizes.size;
    if !is_equal {
        let name = entry.name.escape_debug();
        return Err(damaged(format!("the header of `{name}`")));
    }
    Ok(Some(length))
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
