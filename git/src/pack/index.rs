//! Pack indexes, version 2.

use std::ops::Range;

use bytes::Bytes;

use super::FileHasher;
use crate::error::Result;
use crate::object::ObjectKind;
use crate::{HashKind, ObjectId, corrupt};

const MAGIC: &[u8; 8] = b"\xfftOc\0\0\0\x02";
const FANOUT: usize = 8;
const IDS: usize = FANOUT + 256 * 4;

/// An object of a pack.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// The position of the entry in the pack.
    pub(super) offset: u64,
    /// The CRC-32 of the entry, header included.
    pub(super) crc: u32,
    /// The type; `None` for an unresolved delta.
    pub(super) kind: Option<ObjectKind>,
    /// The id; null for an unresolved delta.
    pub(super) id: ObjectId,
}

/// The index of a pack, in the form of its file.
#[derive(Clone, PartialEq, Eq)]
pub struct Index {
    hash: HashKind,
    count: usize,
    bytes: Bytes,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index")
            .field("hash", &self.hash)
            .field("count", &self.count)
            .field("pack", &self.pack_id())
            .finish_non_exhaustive()
    }
}

impl Index {
    /// Builds the index of the pack `pack` from entries that are sorted by id.
    pub(super) fn build(hash: HashKind, entries: &[Entry], pack: ObjectId) -> Self {
        let length = hash.len_in_bytes();
        let mut out = Vec::with_capacity(IDS + entries.len() * (length + 8) + 2 * length);
        out.extend_from_slice(MAGIC);
        let mut at = 0;
        for first in 0..=255 {
            at += entries[at..].partition_point(|entry| entry.id.first_byte() <= first);
            out.extend_from_slice(&number(at).to_be_bytes());
        }
        for entry in entries {
            out.extend_from_slice(entry.id.as_slice());
        }
        for entry in entries {
            out.extend_from_slice(&entry.crc.to_be_bytes());
        }
        let mut large = Vec::new();
        for entry in entries {
            let offset = match u32::try_from(entry.offset) {
                Ok(offset) if offset < 1 << 31 => offset,
                _ => {
                    large.push(entry.offset);
                    (1 << 31) | number(large.len() - 1)
                }
            };
            out.extend_from_slice(&offset.to_be_bytes());
        }
        for offset in large {
            out.extend_from_slice(&offset.to_be_bytes());
        }
        out.extend_from_slice(pack.as_slice());
        let mut hasher = FileHasher::new(hash);
        hasher.update(&out);
        out.extend_from_slice(hasher.finish().as_slice());
        Self {
            hash,
            count: entries.len(),
            bytes: out.into(),
        }
    }

    /// Builds the index of the pack `pack`, which consists of this pack's entries, followed by
    /// those of `added` at positions increased by `shift` bytes. No object is in both.
    pub fn followed_by(&self, added: &Self, shift: u64, pack: ObjectId) -> Self {
        let mut entries = Vec::with_capacity(self.count + added.count);
        let mut more = (0..added.count)
            .map(|at| {
                let entry = added.entry(at);
                Entry {
                    offset: entry.offset + shift,
                    ..entry
                }
            })
            .peekable();
        for at in 0..self.count {
            let entry = self.entry(at);
            while let Some(before) = more.next_if(|other| other.id < entry.id) {
                entries.push(before);
            }
            entries.push(entry);
        }
        entries.extend(more);
        Self::build(self.hash, &entries, pack)
    }

    fn entry(&self, position: usize) -> Entry {
        Entry {
            offset: self.offset(position),
            crc: self.crc(position),
            kind: None,
            id: self.id(position),
        }
    }

    /// Parses an index, and verifies its structure and its trailer.
    ///
    /// # Errors
    /// `Corrupt` when a check fails.
    pub fn parse(hash: HashKind, bytes: Bytes) -> Result<Self> {
        let broken = |what: &str| corrupt(format!("the index of a pack is broken: {what}"));
        let length = hash.len_in_bytes();
        if bytes.len() < IDS + 2 * length || !bytes.starts_with(MAGIC) {
            return Err(broken("it does not start as one of version 2"));
        }
        let (file, trailer) = bytes.split_at(bytes.len() - length);
        let mut hasher = FileHasher::new(hash);
        hasher.update(file);
        if hasher.finish().as_slice() != trailer {
            return Err(broken("its checksum does not match"));
        }
        let mut index = Self {
            hash,
            count: 0,
            bytes,
        };
        let fanout: Vec<usize> = (0..256).map(|at| index.u32_at(FANOUT + at * 4)).collect();
        if !fanout.is_sorted() {
            return Err(broken("its fanout is not sorted"));
        }
        index.count = fanout[255];
        let small = index
            .count
            .checked_mul(length + 8)
            .and_then(|size| size.checked_add(IDS + 2 * length))
            .ok_or_else(|| broken("its number of objects is too large"))?;
        let large = index
            .bytes
            .len()
            .checked_sub(small)
            .filter(|rest| rest % 8 == 0 && rest / 8 <= index.count)
            .ok_or_else(|| broken("its length does not match its number of objects"))?
            / 8;
        for n in 0..index.count {
            let id = index.id_bytes(n);
            let ordered = n == 0 || index.id_bytes(n - 1) < id;
            let first = usize::from(id[0]);
            if !ordered || n >= fanout[first] || (first > 0 && n < fanout[first - 1]) {
                return Err(broken("its ids are not in order"));
            }
            let offset = index.u32_at(index.offsets() + n * 4);
            if offset >> 31 == 1 && offset & !(1 << 31) >= large {
                return Err(broken("an offset is missing"));
            }
        }
        Ok(index)
    }

    /// Returns the bytes of the index file.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the number of objects in the pack.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns whether the pack has no objects.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the hash function of the ids.
    pub fn hash(&self) -> HashKind {
        self.hash
    }

    /// Returns the trailer of the pack, which is its id.
    pub fn pack_id(&self) -> ObjectId {
        let length = self.hash.len_in_bytes();
        let at = self.bytes.len() - 2 * length;
        ObjectId::from_bytes_or_panic(&self.bytes[at..at + length])
    }

    /// Returns the id at `position`, which is below [`len`](Self::len), in the order of ids.
    pub fn id(&self, position: usize) -> ObjectId {
        ObjectId::from_bytes_or_panic(self.id_bytes(position))
    }

    /// Returns where the entry of the object at `position` starts in the pack.
    pub fn offset(&self, position: usize) -> u64 {
        let offset = self.u32_at(self.offsets() + position * 4);
        if offset >> 31 == 0 {
            return offset as u64;
        }
        let at = self.offsets() + self.count * 4 + (offset & !(1 << 31)) * 8;
        let bytes = *self.bytes[at..]
            .first_chunk()
            .expect("because `parse` checked the number of large offsets");
        u64::from_be_bytes(bytes)
    }

    /// Returns the CRC-32 of the entry of the object at `position`, header included.
    pub fn crc(&self, position: usize) -> u32 {
        let at = IDS + self.count * self.hash.len_in_bytes() + position * 4;
        number(self.u32_at(at))
    }

    /// Returns the position of an id.
    pub fn find(&self, id: ObjectId) -> Option<usize> {
        if id.kind() != self.hash {
            return None;
        }
        let first = usize::from(id.first_byte());
        let mut range = Range {
            start: match first {
                0 => 0,
                _ => self.u32_at(FANOUT + (first - 1) * 4),
            },
            end: self.u32_at(FANOUT + first * 4),
        };
        while !range.is_empty() {
            let middle = usize::midpoint(range.start, range.end);
            match self.id_bytes(middle).cmp(id.as_slice()) {
                std::cmp::Ordering::Less => range.start = middle + 1,
                std::cmp::Ordering::Greater => range.end = middle,
                std::cmp::Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    /// Returns all ids in their order.
    pub fn ids(&self) -> impl Iterator<Item = ObjectId> {
        (0..self.count).map(|position| self.id(position))
    }

    fn id_bytes(&self, position: usize) -> &[u8] {
        let length = self.hash.len_in_bytes();
        &self.bytes[IDS + position * length..][..length]
    }

    fn offsets(&self) -> usize {
        IDS + self.count * (self.hash.len_in_bytes() + 4)
    }

    fn u32_at(&self, at: usize) -> usize {
        let bytes = *self.bytes[at..]
            .first_chunk()
            .expect("because `parse` checked the length");
        u32::from_be_bytes(bytes) as usize
    }
}

/// Builds the index of a pack while its entries are written.
pub(crate) struct IndexBuilder {
    hash: HashKind,
    entries: Vec<Entry>,
    crc: crc32fast::Hasher,
}

impl IndexBuilder {
    pub(crate) fn new(hash: HashKind) -> Self {
        Self {
            hash,
            entries: Vec::new(),
            crc: crc32fast::Hasher::new(),
        }
    }

    /// Starts the entry of `id` at `offset`.
    pub(crate) fn begin(&mut self, id: ObjectId, offset: u64) {
        self.end();
        self.entries.push(Entry {
            offset,
            crc: 0,
            kind: None,
            id,
        });
    }

    /// Adds the next bytes of the entry, header included.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
    }

    fn end(&mut self) {
        let crc = std::mem::take(&mut self.crc).finalize();
        if let Some(entry) = self.entries.last_mut() {
            entry.crc = crc;
        }
    }

    /// Returns the index of the pack `pack`, after the last entry.
    pub(crate) fn finish(mut self, pack: ObjectId) -> Index {
        self.end();
        self.entries.sort_unstable_by_key(|entry| entry.id);
        Index::build(self.hash, &self.entries, pack)
    }
}

fn number(value: usize) -> u32 {
    u32::try_from(value).expect("because a pack has at most 2^32 objects")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn offsets_beyond_31_bits_are_encoded_as_git_reads_them() {
        let entries: Vec<Entry> = [12, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40]
            .into_iter()
            .zip(0_u8..)
            .map(|(offset, n)| Entry {
                offset,
                crc: 0x0a0b_0c00 + u32::from(n),
                kind: None,
                id: ObjectId::from_bytes_or_panic(&[n * 60; 20]),
            })
            .collect();
        let index = Index::build(HashKind::Sha1, &entries, ObjectId::null(HashKind::Sha1));
        let read = Index::parse(HashKind::Sha1, index.bytes().clone()).unwrap();
        let mut git = Command::new("git")
            .args(["show-index", "--object-format=sha1"])
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        git.stdin.take().unwrap().write_all(index.bytes()).unwrap();
        let shown = String::from_utf8(git.wait_with_output().unwrap().stdout).unwrap();
        let ours: Vec<_> = entries
            .iter()
            .map(|entry| format!("{} {} ({:08x})\n", entry.offset, entry.id, entry.crc))
            .collect();
        assert_eq!(shown, ours.concat());
        for entry in &entries {
            let at = read.find(entry.id).unwrap();
            assert_eq!((read.offset(at), read.crc(at)), (entry.offset, entry.crc));
        }
        assert_eq!(read.find(ObjectId::from_bytes_or_panic(&[1; 20])), None);
    }
}
