//! Scans a pack while it streams through, for entries that CodeCommit does not accept.
//!
//! The entries of a pack have no index: to find the next one, the present one must be
//! inflated. The inflated bytes are discarded, so memory does not grow with the pack.

use flate2::{Decompress, FlushDecompress, Status};

/// Reason to refuse a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PackError {
    /// The pack contains an `OFS_DELTA` entry.
    OffsetDelta,
    /// The bytes are not a pack, or are inconsistent.
    Corrupt(&'static str),
}

impl PackError {
    /// Returns the text that a server sends after `unpack `.
    pub(super) fn message(self) -> String {
        match self {
            Self::OffsetDelta => {
                "error: protocol error (offset deltas are not supported)".to_owned()
            }
            Self::Corrupt(why) => format!("error: protocol error ({why})"),
        }
    }
}

#[derive(Debug)]
enum State {
    /// `PACK`, the version and the count: 12 bytes.
    Header {
        have: usize,
        bytes: [u8; 12],
    },
    /// Type and size of an entry, 7 bits of size a byte after the first.
    Entry {
        kind: Option<u8>,
        size: u64,
        shift: u32,
    },
    /// Id of a `REF_DELTA`'s base.
    Base {
        left: usize,
        size: u64,
    },
    /// Deflated data of an entry; `left` inflated bytes are missing.
    Data {
        left: u64,
    },
    /// SHA-1 of all bytes before.
    Trailer {
        left: usize,
    },
    Done,
}

/// Scanner of one pack, fed in pieces.
pub(super) struct PackScanner {
    state: State,
    entries_left: u32,
    inflate: Decompress,
    sink: Box<[u8]>,
}

impl PackScanner {
    pub(super) fn new() -> Self {
        Self {
            state: State::Header {
                have: 0,
                bytes: [0; 12],
            },
            entries_left: 0,
            inflate: Decompress::new(true),
            sink: vec![0; 64 * 1024].into(),
        }
    }

    /// Returns true when the pack has ended.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Scans the next piece.
    pub(super) fn feed(&mut self, mut piece: &[u8]) -> Result<(), PackError> {
        while !piece.is_empty() {
            let used = self.step(piece)?;
            piece = piece.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    /// Consumes part of `piece`, which is not empty, or makes other progress.
    fn step(&mut self, piece: &[u8]) -> Result<usize, PackError> {
        let first = piece.first().copied().unwrap_or_default();
        match &mut self.state {
            State::Header { have, bytes } => {
                if let Some(slot) = bytes.get_mut(*have) {
                    *slot = first;
                }
                *have += 1;
                if *have == bytes.len() {
                    let (magic, count) = bytes.split_at(8);
                    if magic != b"PACK\0\0\0\x02" && magic != b"PACK\0\0\0\x03" {
                        return Err(PackError::Corrupt("not a pack of version 2 or 3"));
                    }
                    let count = count.first_chunk::<4>().copied().unwrap_or_default();
                    self.entries_left = u32::from_be_bytes(count);
                    self.next_entry();
                }
                Ok(1)
            }
            State::Entry { kind, size, shift } => {
                let (bits, width) = if kind.is_none() {
                    *kind = Some((first >> 4) & 7);
                    (u64::from(first & 0x0f), 4)
                } else {
                    (u64::from(first & 0x7f), 7)
                };
                if *shift > 60 {
                    return Err(PackError::Corrupt("an entry's size has too many digits"));
                }
                *size |= bits << *shift;
                *shift += width;
                if first & 0x80 == 0 {
                    let (kind, size) = (kind.unwrap_or_default(), *size);
                    self.state = match kind {
                        1..=4 => State::Data { left: size },
                        6 => return Err(PackError::OffsetDelta),
                        7 => State::Base { left: 20, size },
                        _ => return Err(PackError::Corrupt("an entry has an unknown type")),
                    };
                }
                Ok(1)
            }
            State::Base { left, size } => {
                let used = piece.len().min(*left);
                *left -= used;
                if *left == 0 {
                    self.state = State::Data { left: *size };
                }
                Ok(used)
            }
            State::Data { .. } => self.inflate(piece),
            State::Trailer { left } => {
                let used = piece.len().min(*left);
                *left -= used;
                if *left == 0 {
                    self.state = State::Done;
                }
                Ok(used)
            }
            State::Done => Err(PackError::Corrupt("unexpected bytes after the pack's end")),
        }
    }

    fn inflate(&mut self, piece: &[u8]) -> Result<usize, PackError> {
        let (in_before, out_before) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self
            .inflate
            .decompress(piece, &mut self.sink, FlushDecompress::None)
            .map_err(|_| PackError::Corrupt("an entry does not inflate"))?;
        let taken = self.inflate.total_in() - in_before;
        let made = self.inflate.total_out() - out_before;
        let State::Data { left } = &mut self.state else {
            return Err(PackError::Corrupt("an entry has no data"));
        };
        *left = left
            .checked_sub(made)
            .ok_or(PackError::Corrupt("an entry is larger than it says"))?;
        if status == Status::StreamEnd {
            if *left != 0 {
                return Err(PackError::Corrupt("an entry is smaller than it says"));
            }
            self.inflate.reset(true);
            self.entries_left -= 1;
            self.next_entry();
        } else if taken == 0 && made == 0 {
            return Err(PackError::Corrupt("an entry does not inflate"));
        }
        usize::try_from(taken).map_err(|_| PackError::Corrupt("an entry does not inflate"))
    }

    fn next_entry(&mut self) {
        self.state = if self.entries_left == 0 {
            State::Trailer { left: 20 }
        } else {
            State::Entry {
                kind: None,
                size: 0,
                shift: 0,
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn deflated(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    /// Builds a pack of entries of `kinds`, each of 20 bytes of data.
    fn pack(kinds: &[u8]) -> Vec<u8> {
        let mut raw = b"PACK\0\0\0\x02".to_vec();
        raw.extend_from_slice(&u32::try_from(kinds.len()).unwrap().to_be_bytes());
        for kind in kinds {
            raw.extend_from_slice(&[0x80 | (kind << 4) | 4, 1]);
            if *kind == 7 {
                raw.extend_from_slice(&[0xee; 20]);
            }
            raw.extend(deflated(b"twenty bytes of data"));
        }
        raw.extend_from_slice(&[0; 20]);
        raw
    }

    fn scan(raw: &[u8], piece: usize) -> Result<bool, PackError> {
        let mut scanner = PackScanner::new();
        for piece in raw.chunks(piece) {
            scanner.feed(piece)?;
        }
        Ok(scanner.is_done())
    }

    #[test]
    fn every_way_to_split_a_pack_gives_the_same_verdict() {
        let good = pack(&[1, 2, 3, 4, 7]);
        let offset = pack(&[1, 7, 6, 2]);
        for piece in [1, 2, 3, 7, 20, 1000] {
            assert_eq!(scan(&good, piece), Ok(true), "pieces of {piece} bytes");
            assert_eq!(scan(&offset, piece), Err(PackError::OffsetDelta));
        }
        assert_eq!(scan(&pack(&[]), 5), Ok(true), "an empty pack is a pack");
    }

    #[test]
    fn a_pack_that_is_cut_off_is_not_done() {
        let good = pack(&[1, 7]);
        for length in 0..good.len() {
            assert_eq!(scan(&good[..length], 16), Ok(false), "{length} bytes of it");
        }
    }

    #[test]
    fn bytes_that_are_not_a_pack_are_refused() {
        let mut long = pack(&[1]);
        long.push(0);
        let mut lying = pack(&[1]);
        lying[12] -= 1;
        for raw in [
            &b"PACK\0\0\0\x09\0\0\0\0"[..],
            b"GARBAGE GARBAGE",
            &pack(&[5]),
            &pack(&[0]),
            &long,
            &lying,
        ] {
            assert!(
                matches!(scan(raw, 9), Err(PackError::Corrupt(_))),
                "{raw:?} is not a pack"
            );
        }
    }
}
