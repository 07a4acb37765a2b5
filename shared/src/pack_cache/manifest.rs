//! What a copy is made of: the segments that hold the entries of its pack, in their order,
//! and the pack's index, in one file that is called by the pack's trailer.
//!
//! ```text
//! "branchline copy 1\n", a byte: the number of segments
//! for each: 16 bytes of its name, 8 of its length, 4 of the checksum of its checksums
//! CRC-32 of all that
//! the index, as git writes it
//! ```

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::segment::{SegmentId, broken, create_file, open_file};
use crate::git::ObjectId;
use crate::git::pack::Index;

const MAGIC: &[u8] = b"branchline copy 1\n";
const SEGMENT: usize = 16 + 8 + 4;
/// What records' files end in.
pub(super) const EXTENSION: &str = "copy";
/// The most segments of one copy.
pub(super) const MOST_SEGMENTS: usize = 16;

/// The content of the file.
pub(super) struct Manifest {
    pub(super) segments: Vec<SegmentId>,
    pub(super) index: Index,
}

/// The file of a pack's record.
pub(super) fn path(folder: &Path, pack: ObjectId) -> PathBuf {
    folder.join(format!("{pack}.{EXTENSION}"))
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

/// Reads the segments off the start of a record; with the length of what was read.
fn parse(bytes: &[u8]) -> io::Result<(Vec<SegmentId>, usize)> {
    let torn = || broken("a record is torn");
    let count = *bytes.get(MAGIC.len()).ok_or_else(torn)?;
    let length = MAGIC.len() + 1 + usize::from(count) * SEGMENT;
    let (said, rest) = bytes.split_at_checked(length).ok_or_else(torn)?;
    let check: [u8; 4] = *rest.first_chunk().ok_or_else(torn)?;
    if !said.starts_with(MAGIC) || crc32fast::hash(said).to_be_bytes() != check {
        return Err(torn());
    }
    let segments = said[MAGIC.len() + 1..].chunks_exact(SEGMENT).map(|said| {
        let (name, rest) = said.split_first_chunk().ok_or_else(torn)?;
        let (size, check) = rest.split_first_chunk().ok_or_else(torn)?;
        Ok(SegmentId {
            name: u128::from_be_bytes(*name),
            size: u64::from_be_bytes(*size),
            check: u32::from_be_bytes(*check.first_chunk().ok_or_else(torn)?),
        })
    });
    Ok((segments.collect::<io::Result<_>>()?, length + check.len()))
}

/// Reads which segments a record names, without its index.
pub(super) fn read_segments(path: &Path) -> io::Result<Vec<SegmentId>> {
    let longest = MAGIC.len() + 1 + usize::from(u8::MAX) * SEGMENT + 4;
    let mut start = Vec::new();
    open_file(path)?
        .take(longest as u64)
        .read_to_end(&mut start)?;
    Ok(parse(&start)?.0)
}

impl Manifest {
    /// Reads the record of a pack, and marks it as used now.
    pub(super) fn read(folder: &Path, pack: ObjectId) -> io::Result<Self> {
        let mut file = open_file(&path(folder, pack))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (segments, length) = parse(&bytes)?;
        let index = Bytes::from(bytes).slice(length..);
        let index = Index::parse(pack.kind(), index).map_err(io::Error::other)?;
        if index.pack_id() != pack {
            return Err(broken("a record is one of another pack"));
        }
        file.set_modified(std::time::SystemTime::now())?;
        Ok(Self { segments, index })
    }

    /// How long its file is, about.
    pub(super) fn file_bytes(&self) -> u64 {
        (MAGIC.len() + self.segments.len() * SEGMENT + self.index.bytes().len()) as u64
    }

    /// Writes it, whole or not at all.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let temporary = folder.join(format!("{:032x}.new", rand::random::<u128>()));
        let written = create_file(&temporary).and_then(|mut file| {
            file.write_all(&head(&self.segments)?)?;
            file.write_all(self.index.bytes())?;
            std::fs::rename(&temporary, path(folder, self.index.pack_id()))
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }
}
