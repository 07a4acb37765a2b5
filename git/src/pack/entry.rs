//! Headers of a pack's entries.

use crate::error::Result;
use crate::object::ObjectKind;
use crate::{HashKind, ObjectId, corrupt};

/// The content of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A whole object.
    Whole(ObjectKind),
    /// A delta whose base is the entry that starts this many bytes before.
    OffsetDelta(u64),
    /// A delta whose base is the object with this id.
    IdDelta(ObjectId),
}

/// The header of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHeader {
    /// The content of the entry.
    pub kind: EntryKind,
    /// The inflated size of the object or of the delta, in bytes.
    pub size: u64,
}

impl EntryHeader {
    /// The longest header: ten bytes of size, and an id of SHA-256 or ten bytes of distance.
    pub const MAX_BYTES: usize = 10 + 32;

    /// Reads a header and its length in bytes; `None` when more bytes are needed.
    ///
    /// # Errors
    /// `Corrupt` for an unknown type, and for a size or distance beyond 64 bits.
    pub fn parse(hash: HashKind, bytes: &[u8]) -> Result<Option<(Self, usize)>> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        let mut size = u64::from(first & 0x0f);
        let mut shift = 4;
        let mut at = 1;
        let mut byte = first;
        while byte & 0x80 != 0 {
            let Some(&next) = bytes.get(at) else {
                return Ok(None);
            };
            byte = next;
            at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift > 60 || bits.leading_zeros() < shift {
                return Err(corrupt("the size of a pack's entry exceeds 64 bits"));
            }
            size |= bits << shift;
            shift += 7;
        }
        let kind = match (first >> 4) & 7 {
            1 => EntryKind::Whole(ObjectKind::Commit),
            2 => EntryKind::Whole(ObjectKind::Tree),
            3 => EntryKind::Whole(ObjectKind::Blob),
            4 => EntryKind::Whole(ObjectKind::Tag),
            6 => match parse_distance(&bytes[at..])? {
                Some((distance, length)) => {
                    at += length;
                    EntryKind::OffsetDelta(distance)
                }
                None => return Ok(None),
            },
            7 => match bytes.get(at..at + hash.len_in_bytes()) {
                Some(id) => {
                    at += id.len();
                    EntryKind::IdDelta(ObjectId::from_bytes_or_panic(id))
                }
                None => return Ok(None),
            },
            other => return Err(corrupt(format!("unknown entry type {other} in a pack"))),
        };
        Ok(Some((Self { kind, size }, at)))
    }

    /// Appends the header to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let kind = match self.kind {
            EntryKind::Whole(ObjectKind::Commit) => 1_u8,
            EntryKind::Whole(ObjectKind::Tree) => 2,
            EntryKind::Whole(ObjectKind::Blob) => 3,
            EntryKind::Whole(ObjectKind::Tag) => 4,
            EntryKind::OffsetDelta(_) => 6,
            EntryKind::IdDelta(_) => 7,
        };
        let mut size = self.size >> 4;
        let mut byte = (kind << 4) | low_bits(self.size, 0x0f);
        while size != 0 {
            out.push(byte | 0x80);
            byte = low_bits(size, 0x7f);
            size >>= 7;
        }
        out.push(byte);
        match self.kind {
            EntryKind::Whole(_) => {}
            EntryKind::IdDelta(id) => out.extend_from_slice(id.as_slice()),
            EntryKind::OffsetDelta(distance) => write_distance(distance, out),
        }
    }
}

fn low_bits(value: u64, mask: u8) -> u8 {
    u8::try_from(value & u64::from(mask)).expect("because the mask is a byte")
}

fn parse_distance(bytes: &[u8]) -> Result<Option<(u64, usize)>> {
    let mut distance = 0_u64;
    for (at, byte) in bytes.iter().enumerate() {
        if at > 0 {
            distance += 1;
        }
        if distance >> 57 != 0 {
            return Err(corrupt("the distance to a delta's base exceeds 64 bits"));
        }
        distance = (distance << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok(Some((distance, at + 1)));
        }
    }
    Ok(None)
}

fn write_distance(distance: u64, out: &mut Vec<u8>) {
    let mut bytes = vec![low_bits(distance, 0x7f)];
    let mut rest = distance >> 7;
    while rest != 0 {
        rest -= 1;
        bytes.push(0x80 | low_bits(rest, 0x7f));
        rest >>= 7;
    }
    out.extend(bytes.iter().rev());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    proptest! {
        #[test]
        fn written_headers_are_parsed_unchanged(size: u64, distance in 0..1_u64 << 62, kind in 0..6) {
            let kind = match kind {
                0 => EntryKind::Whole(ObjectKind::Commit),
                1 => EntryKind::Whole(ObjectKind::Tree),
                2 => EntryKind::Whole(ObjectKind::Blob),
                3 => EntryKind::Whole(ObjectKind::Tag),
                4 => EntryKind::OffsetDelta(distance),
                _ => EntryKind::IdDelta(ObjectId::empty_tree(HashKind::Sha1)),
            };
            let header = EntryHeader { kind, size };
            let mut bytes = Vec::new();
            header.write(&mut bytes);
            prop_assert!(bytes.len() <= EntryHeader::MAX_BYTES);
            for cut in 0..bytes.len() {
                prop_assert_eq!(EntryHeader::parse(HashKind::Sha1, &bytes[..cut]).unwrap(), None);
            }
            bytes.push(0x78);
            let read = EntryHeader::parse(HashKind::Sha1, &bytes).unwrap();
            prop_assert_eq!(read, Some((header, bytes.len() - 1)));
        }
    }

    #[test]
    fn sizes_beyond_64_bits_are_corrupt() {
        for bytes in [[0xb0 | 0x80; 12], [0xff; 12], [0xe0; 12]] {
            let error = EntryHeader::parse(HashKind::Sha1, &bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}
