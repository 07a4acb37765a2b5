//! Packs made entry by entry out of any bytes, and what has to come of them.
//!
//! Chance alone makes no zlib stream and no trailer, so a fuzzer would never get past
//! them. Here it says what the entries are; framing is right, and what the receiver has to
//! make of them is worked out in the plainest way.

use std::collections::{HashMap, HashSet};
use std::io::Write as _;

use async_trait::async_trait;
use branchline_git::Result;
use branchline_git::object::{ObjectKind, id_of};
use branchline_git::pack::{Bases, EntryHeader, EntryKind, apply_delta, pack_header};
use branchline_git::{HashKind, ObjectId};
use bytes::Bytes;
use sha1::Digest as _;

use crate::byte_source::ByteSource;

/// The most entries of a pack.
const MAX_ENTRIES: usize = 24;

/// More than any limit allows, and little enough to be made.
const TOO_LARGE: usize = 8 << 20;

/// One entry of a pack to be made.
#[derive(Debug)]
struct Entry {
    header: EntryHeader,
    content: Vec<u8>,
}

/// The base of a delta.
#[derive(Debug, Clone, Copy)]
enum Base {
    Entry(usize),
    Id(ObjectId),
    Nothing,
}

/// A pack, and what it holds.
#[derive(Debug)]
pub(crate) struct BuiltPack {
    /// The bytes, with a valid trailer.
    pub(crate) bytes: Vec<u8>,
    /// The objects that it holds in the end, with their kinds; `None` when it is broken.
    pub(crate) objects: Option<HashMap<ObjectId, ObjectKind>>,
    /// The number of objects of [`ExternalBase`] that are bases and not in the pack.
    pub(crate) added: usize,
}

/// Objects outside of the pack.
#[derive(Debug, Clone)]
pub(crate) struct ExternalBase(Vec<(ObjectId, ObjectKind, Bytes)>);

impl ExternalBase {
    pub(crate) fn new(hash: HashKind) -> Self {
        let objects = [
            (ObjectKind::Blob, &b"a blob that is elsewhere\n"[..]),
            (ObjectKind::Blob, b""),
            (ObjectKind::Tag, b"a tag that is no tag\n"),
        ];
        let with_id = |(kind, content): (ObjectKind, &'static [u8])| {
            let id =
                id_of(hash, kind, content).expect("because the content is not part of a collision");
            (id, kind, Bytes::from_static(content))
        };
        Self(objects.into_iter().map(with_id).collect())
    }

    fn find(&self, id: ObjectId) -> Option<(ObjectKind, Bytes)> {
        let found = self.0.iter().find(|(other, _, _)| *other == id)?;
        Some((found.1, found.2.clone()))
    }
}

#[async_trait]
impl Bases for ExternalBase {
    async fn base(&self, id: ObjectId) -> Result<Option<(ObjectKind, Bytes)>> {
        Ok(self.find(id))
    }
}

/// Replaces the trailer of a pack by the valid one.
pub(crate) fn with_trailer(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len().saturating_sub(20));
    let trailer = sha1::Sha1::digest(&bytes);
    bytes.extend_from_slice(&trailer);
    bytes
}

/// Builds a pack from choices. Each entry is a byte for its type, a byte for its base, a byte
/// for the length of its content, and the content.
pub(crate) fn make(mut choices: ByteSource<'_>, outside: &ExternalBase) -> BuiltPack {
    let mut entries: Vec<Entry> = Vec::new();
    let mut bases = Vec::new();
    let mut offsets: Vec<u64> = Vec::new();
    let mut bytes = pack_header(0).to_vec();
    let mut framed = true;
    while !choices.is_empty() && entries.len() < MAX_ENTRIES {
        let (what, which, length) = (choices.byte(), choices.byte(), choices.byte());
        let content = choices.take(usize::from(length)).to_vec();
        let offset = bytes.len() as u64;
        let earlier = |which: u8| usize::from(which) % entries.len().max(1);
        let (kind, base) = match what & 7 {
            0 => (EntryKind::Whole(ObjectKind::Blob), None),
            1 => (EntryKind::Whole(ObjectKind::Tree), None),
            2 => (EntryKind::Whole(ObjectKind::Commit), None),
            3 => (EntryKind::Whole(ObjectKind::Tag), None),
            4 if !entries.is_empty() => {
                let at = earlier(which);
                let distance = offset - offsets[at];
                (EntryKind::OffsetDelta(distance), Some(Base::Entry(at)))
            }
            4 => {
                let distance = u64::from(which);
                (EntryKind::OffsetDelta(distance), Some(Base::Nothing))
            }
            5 => {
                let at = usize::from(which) % outside.0.len();
                let id = outside.0[at].0;
                (EntryKind::IdDelta(id), Some(Base::Id(id)))
            }
            6 if !entries.is_empty() => {
                let at = earlier(which);
                let known = ResolvedObjects::new(&entries, &bases, outside);
                let found = known.found[at].as_ref();
                let id = found.map_or(ObjectId::null(HashKind::Sha1), |object| object.0);
                (EntryKind::IdDelta(id), Some(Base::Id(id)))
            }
            _ => {
                // An object that may still come: the id of what follows, as a blob.
                let id = id_of(HashKind::Sha1, ObjectKind::Blob, &[which])
                    .expect("because the content is not part of a collision");
                (EntryKind::IdDelta(id), Some(Base::Id(id)))
            }
        };
        let size = match what >> 3 {
            // Sizes that are not those of the content.
            31 => content.len() as u64 + 1,
            30 => (content.len() as u64).saturating_sub(1),
            29 => u64::MAX >> 1,
            _ => content.len() as u64,
        };
        framed &= size == content.len() as u64;
        let header = EntryHeader { kind, size };
        header.write(&mut bytes);
        let level = flate2::Compression::new(u32::from(what >> 3) % 3);
        let mut zlib = flate2::write::ZlibEncoder::new(&mut bytes, level);
        zlib.write_all(&content)
            .and_then(|()| zlib.finish().map(drop))
            .expect("because writing to a Vec cannot fail");
        offsets.push(offset);
        bases.push(base);
        entries.push(Entry { header, content });
    }
    let count = u32::try_from(entries.len()).expect("because there are few");
    bytes[8..12].copy_from_slice(&count.to_be_bytes());
    bytes.extend_from_slice(&[0; 20]);
    let known = ResolvedObjects::new(&entries, &bases, outside);
    BuiltPack {
        bytes: with_trailer(bytes),
        objects: known.all().filter(|_| framed && known.stands_alone()),
        added: known.needed().len(),
    }
}

type Object = (ObjectId, ObjectKind, Vec<u8>);

/// Works out what entries are, with no regard to speed.
struct ResolvedObjects<'a> {
    entries: &'a [Entry],
    bases: &'a [Option<Base>],
    outside: &'a ExternalBase,
    found: Vec<Option<Object>>,
    // Bases outside of the pack that were used.
    used: HashSet<ObjectId>,
}

impl<'a> ResolvedObjects<'a> {
    fn new(entries: &'a [Entry], bases: &'a [Option<Base>], outside: &'a ExternalBase) -> Self {
        let mut this = Self {
            entries,
            bases,
            outside,
            found: entries.iter().map(|_| None).collect(),
            used: HashSet::new(),
        };
        // As long as something new is found: what is in the pack goes before what is not.
        loop {
            let before = this.count();
            while this.round(false) {}
            this.round(true);
            if this.count() == before {
                return this;
            }
        }
    }

    fn count(&self) -> usize {
        self.found.iter().flatten().count()
    }

    fn round(&mut self, outside: bool) -> bool {
        let before = self.count();
        for at in 0..self.entries.len() {
            if self.found[at].is_none() {
                self.found[at] = self.work_out(at, outside);
                if outside && self.found[at].is_some() {
                    if let Some(Base::Id(id)) = self.bases[at] {
                        self.used.insert(id);
                    }
                    return true;
                }
            }
        }
        self.count() != before
    }

    fn work_out(&self, at: usize, outside: bool) -> Option<Object> {
        let entry = &self.entries[at];
        let (kind, base) = match (entry.header.kind, self.bases[at]) {
            (EntryKind::Whole(kind), _) => {
                let id = id_of(HashKind::Sha1, kind, &entry.content).ok()?;
                return Some((id, kind, entry.content.clone()));
            }
            (_, Some(Base::Entry(base))) => {
                let (_, kind, content) = self.found[base].as_ref()?;
                (*kind, content.clone())
            }
            (_, Some(Base::Id(id))) => {
                let inside = self
                    .found
                    .iter()
                    .flatten()
                    .find(|(other, _, _)| *other == id);
                match inside {
                    Some((_, kind, content)) => (*kind, content.clone()),
                    None if outside => {
                        let (kind, content) = self.outside.find(id)?;
                        (kind, content.to_vec())
                    }
                    None => return None,
                }
            }
            (_, Some(Base::Nothing) | None) => return None,
        };
        let mut content = Vec::new();
        let size = apply_delta(&base, &entry.content, |piece| {
            if content.len() <= TOO_LARGE {
                content.extend_from_slice(piece);
            }
        });
        // Such a pack is refused for its size before this is looked at.
        if size.ok()? != content.len() as u64 {
            return None;
        }
        let id = id_of(HashKind::Sha1, kind, &content).ok()?;
        Some((id, kind, content))
    }

    /// Returns the external bases that the pack needs and does not contain.
    fn needed(&self) -> HashSet<ObjectId> {
        let objects = self.found.iter().flatten();
        let inside: HashSet<_> = objects.map(|object| object.0).collect();
        self.used.difference(&inside).copied().collect()
    }

    /// Whether everything is found with nothing from outside but what is needed: an object
    /// of the pack may have been made out of the same one from outside.
    fn stands_alone(&self) -> bool {
        let needed = self.needed();
        let outside = self.outside.0.iter();
        let outside = ExternalBase(outside.filter(|o| needed.contains(&o.0)).cloned().collect());
        ResolvedObjects::new(self.entries, self.bases, &outside)
            .all()
            .is_some()
    }

    /// All objects, if each is known and is there once.
    fn all(&self) -> Option<HashMap<ObjectId, ObjectKind>> {
        let found: Option<Vec<&Object>> = self.found.iter().map(Option::as_ref).collect();
        let found = found?;
        let ids: HashSet<_> = found.iter().map(|object| object.0).collect();
        let pairs = found.iter().map(|object| (object.0, object.1));
        (ids.len() == found.len()).then(|| pairs.collect())
    }
}
