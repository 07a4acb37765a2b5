//! Record of a cached pack: its segments in order, and the pack's index, in one file that is
//! named after the pack's trailer.
//!
//! ```text
//! "branchline copy 1\n", a byte: the number of segments
//! for each: 16 bytes of its name, 8 of its length, 4 of the checksum of its checksums
//! CRC-32 of everything above
//! the index, as git writes it
//! ```

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::segment::{SegmentId, broken, create_file, open_file};
use crate::git::ObjectId;
use crate::git::pack::Index;

const MAGIC: &[u8] = b"branchline copy 1\n";
/// Length of a segment's description.
const SEGMENT_BYTES: usize = 16 + 8 + 4;
/// File extension of records.
pub(super) const EXTENSION: &str = "copy";
/// Maximum number of segments of one pack.
pub(super) const MAX_SEGMENTS: usize = 16;

/// Content of a record.
pub(super) struct Manifest {
    pub(super) segments: Vec<SegmentId>,
    pub(super) index: Index,
}

/// Returns the path of a pack's record.
pub(super) fn path(directory: &Path, pack: ObjectId) -> PathBuf {
    directory.join(format!("{pack}.{EXTENSION}"))
}

fn head(segments: &[SegmentId]) -> io::Result<Vec<u8>> {
    let count = u8::try_from(segments.len()).map_err(io::Error::other)?;
    let mut out = MAGIC.to_vec();
    out.push(count);
    for segment in segments {
        out.extend_from_slice(&segment.name.to_be_bytes());
        out.extend_from_slice(&segment.size.to_be_bytes());
        out.extend_from_slice(&segment.check.to_be_bytes());
    }
    let check = crc32fast::hash(&out);
    out.extend_from_slice(&check.to_be_bytes());
    Ok(out)
}

/// Parses the segments at the start of a record; returns them with the parsed length.
fn parse(bytes: &[u8]) -> io::Result<(Vec<SegmentId>, usize)> {
    let corrupt = || broken("the record is truncated or corrupt");
    let count = *bytes.get(MAGIC.len()).ok_or_else(corrupt)?;
    let length = MAGIC.len() + 1 + usize::from(count) * SEGMENT_BYTES;
    let (described, rest) = bytes.split_at_checked(length).ok_or_else(corrupt)?;
    let check: [u8; 4] = *rest.first_chunk().ok_or_else(corrupt)?;
    if !described.starts_with(MAGIC) || crc32fast::hash(described).to_be_bytes() != check {
        return Err(corrupt());
    }
    let segments = described[MAGIC.len() + 1..]
        .chunks_exact(SEGMENT_BYTES)
        .map(|segment| {
            let (name, rest) = segment.split_first_chunk().ok_or_else(corrupt)?;
            let (size, check) = rest.split_first_chunk().ok_or_else(corrupt)?;
            Ok(SegmentId {
                name: u128::from_be_bytes(*name),
                size: u64::from_be_bytes(*size),
                check: u32::from_be_bytes(*check.first_chunk().ok_or_else(corrupt)?),
            })
        });
    Ok((segments.collect::<io::Result<_>>()?, length + check.len()))
}

/// Reads the segments of a record, without its index.
pub(super) fn read_segments(path: &Path) -> io::Result<Vec<SegmentId>> {
    let max_bytes = MAGIC.len() + 1 + usize::from(u8::MAX) * SEGMENT_BYTES + 4;
    let mut start = Vec::new();
    open_file(path)?
        .take(max_bytes as u64)
        .read_to_end(&mut start)?;
    Ok(parse(&start)?.0)
}

impl Manifest {
    /// Reads the record of a pack, and marks it as used now.
    pub(super) fn read(directory: &Path, pack: ObjectId) -> io::Result<Self> {
        let mut file = open_file(&path(directory, pack))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (segments, length) = parse(&bytes)?;
        let index = Bytes::from(bytes).slice(length..);
        let index = Index::parse(pack.kind(), index).map_err(io::Error::other)?;
        if index.pack_id() != pack {
            return Err(broken(
                "the index does not belong to the pack of this record",
            ));
        }
        file.set_modified(std::time::SystemTime::now())?;
        Ok(Self { segments, index })
    }

    /// Returns the approximate length of the file.
    pub(super) fn file_bytes(&self) -> u64 {
        (MAGIC.len() + self.segments.len() * SEGMENT_BYTES + self.index.bytes().len()) as u64
    }

    /// Writes the record to a temporary file and renames it into place.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let temporary = directory.join(format!("{:032x}.new", rand::random::<u128>()));
        let written = create_file(&temporary).and_then(|mut file| {
            file.write_all(&head(&self.segments)?)?;
            file.write_all(self.index.bytes())?;
            std::fs::rename(&temporary, path(directory, self.index.pack_id()))
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }
}
