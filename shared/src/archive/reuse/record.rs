//! Record of an archive's listing, kept with the archive for the next one.
//!
//! The record names the writer that made the bytes, the `.gitattributes` that were read, and a
//! sum over all entries. The sum of a new listing follows from the old one by the differences,
//! so it is known before the first byte is sent; that of a read archive follows from its bytes.

use std::io::Write as _;
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use crate::archive::listed_tree::{Tree, WalkedEntry};
use crate::archive::plan::{ArchiveItem, ArchivePlan};
use crate::archive::request::ArchiveRequest;
use crate::archive::zip::DEFLATE_LEVEL;
use crate::git::ObjectId;
use crate::git::object::EntryMode;

/// Version of the record and of what it sums.
const RECORD_VERSION: u32 = 1;

/// Name of the files with attributes.
pub(super) const ATTRIBUTES_FILE: &str = ".gitattributes";

/// A `.gitattributes`: the path of its folder, and its blob.
pub(super) type AttributesFile = (String, ObjectId);

/// Record of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::archive) struct ListingRecord {
    /// Digest of everything but the commit that decides the bytes of an archive.
    pub(super) writer: String,
    /// Sum over the files, the links, the submodules, and the folders below which nothing is
    /// archived.
    pub(super) sum: EntrySum,
    /// The commit has entries that are not archived.
    pub(super) hides: bool,
    /// The `.gitattributes` that are not empty; `None` when they did not fit.
    pub(super) attributes: Option<Vec<AttributesFile>>,
}

/// Sum of digests, one for each entry, modulo 2^256: independent of their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct EntrySum([u64; 4]);

impl EntrySum {
    /// Digests one entry. Of a file whose bytes depend on more than its blob, and of a
    /// submodule, the id is `None`, because an archive does not contain it.
    pub(super) fn of(path: &str, mode: EntryMode, id: Option<ObjectId>) -> Self {
        let mut digest = Sha256::new();
        digest.update(mode.as_octal_str());
        digest.update(b"\0");
        digest.update(path);
        digest.update(b"\0");
        if let Some(id) = &id {
            digest.update(id.as_bytes());
        }
        let bytes: [u8; 32] = digest.finalize().into();
        Self::from_bytes(bytes)
    }

    fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut limbs = [0; 4];
        for (limb, bytes) in limbs.iter_mut().zip(bytes.chunks_exact(8)) {
            let bytes: [u8; 8] = bytes.try_into().expect("because chunks have eight bytes");
            *limb = u64::from_le_bytes(bytes);
        }
        Self(limbs)
    }

    pub(super) fn add(&mut self, other: Self) {
        let mut carry = false;
        for (limb, other) in self.0.iter_mut().zip(other.0) {
            let (sum, first) = limb.overflowing_add(other);
            let (sum, second) = sum.overflowing_add(carry.into());
            *limb = sum;
            carry = first || second;
        }
    }

    pub(super) fn subtract(&mut self, other: Self) {
        let mut borrow = false;
        for (limb, other) in self.0.iter_mut().zip(other.0) {
            let (rest, first) = limb.overflowing_sub(other);
            let (rest, second) = rest.overflowing_sub(borrow.into());
            *limb = rest;
            borrow = first || second;
        }
    }

    fn encode(self) -> String {
        hex::encode(self.0.map(u64::to_le_bytes).concat())
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 32] = hex::decode(text).ok()?.try_into().ok()?;
        Some(Self::from_bytes(bytes))
    }
}

impl ListingRecord {
    /// Records a full archive.
    pub(in crate::archive) fn of_plan(
        tree: &Tree,
        plan: &ArchivePlan,
        request: &ArchiveRequest,
    ) -> Self {
        let mut sum = EntrySum::default();
        let mut archived = 0_usize;
        for item in &plan.items {
            let (ArchiveItem::File(folder, entry, _) | ArchiveItem::Submodule(folder, entry)) =
                *item
            else {
                continue;
            };
            archived += 1;
            let folder = &tree.folders[folder as usize];
            let entry = &folder.entries[entry as usize];
            if let WalkedEntry::Blob(mode, id, conversion) = entry.node {
                let path = folder.join(&entry.name);
                let is_blob = tree.conversions.get(conversion).is_identity();
                sum.add(EntrySum::of(&path, mode, is_blob.then_some(id)));
            }
        }
        sum.add(sum_of_bare_folders(tree, plan));
        let mut leaves = 0;
        let mut hides = false;
        let mut attributes = Vec::new();
        for folder in &tree.folders {
            for entry in &folder.entries {
                hides |= entry.ignored;
                match entry.node {
                    WalkedEntry::Folder(..) => continue,
                    WalkedEntry::Blob(_, id, _)
                        if &*entry.name == ATTRIBUTES_FILE && !id.is_empty_blob() =>
                    {
                        attributes.push((folder.path.to_string(), id));
                    }
                    WalkedEntry::Blob(..) | WalkedEntry::Submodule(_) => {}
                }
                leaves += 1;
            }
        }
        attributes.sort_unstable();
        Self {
            writer: writer_of(request),
            sum,
            hides: hides || leaves != archived,
            attributes: Some(attributes),
        }
    }

    /// Encodes the record as user metadata; `None` if it does not fit into `max_bytes` even
    /// without its list of `.gitattributes`.
    pub(in crate::archive) fn encode(&self, max_bytes: usize) -> Option<String> {
        let start = format!(
            "{RECORD_VERSION};{};{};{};",
            self.writer,
            self.sum.encode(),
            u8::from(self.hides)
        );
        let list = self.attributes.as_ref().map(|files| {
            let file = |(folder, id): &AttributesFile| {
                format!("{id}:{}", utf8_percent_encode(folder, ESCAPED))
            };
            files.iter().map(file).collect::<Vec<_>>().join(",")
        });
        let list = list.filter(|list| start.len() + list.len() <= max_bytes);
        let text = start + list.as_deref().unwrap_or(TOO_MANY);
        (text.len() <= max_bytes).then_some(text)
    }

    /// Decodes a record; `None` for another text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        let version: u32 = parts.next()?.parse().ok()?;
        let writer = parts.next()?.to_owned();
        let sum = EntrySum::parse(parts.next()?)?;
        let hides = match parts.next()? {
            "0" => false,
            "1" => true,
            _ => return None,
        };
        let list = parts.next()?;
        if version != RECORD_VERSION || parts.next().is_some() {
            return None;
        }
        let file = |text: &str| {
            let (id, folder) = text.split_once(':')?;
            let id = ObjectId::from_hex(id.as_bytes()).ok()?;
            let folder = percent_decode_str(folder).decode_utf8().ok()?;
            Some((folder.into_owned(), id))
        };
        let attributes = match list {
            TOO_MANY => None,
            "" => Some(Vec::new()),
            list => Some(list.split(',').map(file).collect::<Option<_>>()?),
        };
        Some(Self {
            writer,
            sum,
            hides,
            attributes,
        })
    }
}

/// Returns the sum over the submodules and the folders below which nothing is archived. A zip
/// does not distinguish the two.
pub(super) fn sum_of_bare_folders(tree: &Tree, plan: &ArchivePlan) -> EntrySum {
    let folder_of = |item: &ArchiveItem| match *item {
        ArchiveItem::Folder(folder)
        | ArchiveItem::Submodule(folder, _)
        | ArchiveItem::File(folder, ..)
        | ArchiveItem::Reused(folder, ..) => Some(&*tree.folders[folder as usize].path),
        ArchiveItem::Prefix | ArchiveItem::Extra(_) => None,
    };
    let mut sum = EntrySum::default();
    for (at, item) in plan.items.iter().enumerate() {
        let path = match *item {
            ArchiveItem::Submodule(folder, entry) => {
                let folder = &tree.folders[folder as usize];
                folder.join(&folder.entries[entry as usize].name)
            }
            ArchiveItem::Folder(folder) => {
                let path = &tree.folders[folder as usize].path;
                let next = plan.items.get(at + 1).and_then(folder_of);
                let below = next.and_then(|next| next.strip_prefix(&**path));
                if below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
                    continue;
                }
                path.to_string()
            }
            _ => continue,
        };
        sum.add(EntrySum::of(&path, EntryMode::Commit, None));
    }
    sum
}

/// List of `.gitattributes` that did not fit.
const TOO_MANY: &str = "*";

/// Bytes that are percent-encoded in paths.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b',').add(b';').add(b':');

/// Returns a digest of the program's version, of how it deflates, and of the settings that
/// decide an archive's bytes.
pub(super) fn writer_of(request: &ArchiveRequest) -> String {
    let mut digest = Sha256::new();
    for part in [env!("CARGO_PKG_VERSION"), &request.prefix] {
        digest.update(part);
        digest.update(b"\0");
    }
    for file in &request.extra_files {
        digest.update(&file.path);
        digest.update(b"\0");
    }
    if !request.export_ignore {
        digest.update(b"\0export-ignore=false\0");
    }
    if request.submodules.is_some() {
        digest.update(b"\0submodules=true\0");
    }
    if request.lfs.is_some() {
        digest.update(b"\0lfs=true\0");
    }
    digest.update(deflate_sample());
    hex::encode(&digest.finalize()[..8])
}

/// Deflates a fixed text. The bytes differ between implementations and levels of deflate.
fn deflate_sample() -> &'static [u8] {
    /// Number of words of the text, which is long enough for matches and lazy evaluation.
    const WORDS: u32 = 4096;
    static SAMPLE: OnceLock<Vec<u8>> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let mut state = 1_u32;
        let mut words = Vec::new();
        for _ in 0..WORDS {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            words.push(format!("{:x} ", (state >> 16) % 300));
        }
        let text = words.concat();
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(DEFLATE_LEVEL));
        let written = encoder.write_all(text.as_bytes());
        let deflated = written.and_then(|()| encoder.finish());
        deflated.expect("because writing to memory does not fail")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: &str) -> ObjectId {
        ObjectId::from_hex(digit.repeat(40).as_bytes()).unwrap()
    }

    fn record() -> ListingRecord {
        ListingRecord {
            writer: "0123456789abcdef".into(),
            sum: EntrySum([1, u64::MAX, 0, 7]),
            hides: true,
            attributes: Some(vec![
                (String::new(), id("a")),
                ("ü/a b,c;d:e%".into(), id("b")),
            ]),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_encoded() {
        let record = record();
        let text = record.encode(1000).unwrap();
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
        assert_eq!(ListingRecord::parse(&text), Some(record.clone()));
        let short = record.encode(text.len() - 1).unwrap();
        assert_eq!(
            ListingRecord::parse(&short),
            Some(ListingRecord {
                attributes: None,
                ..record.clone()
            }),
            "a list that does not fit is left out"
        );
        assert_eq!(record.encode(short.len() - 1), None);
        for odd in ["", "x", "2;a;b;0;", &text[..90], &format!("{text};")] {
            assert_eq!(ListingRecord::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_sum_does_not_depend_on_the_order_and_parts_can_be_subtracted() {
        let parts: Vec<_> = (0..50)
            .map(|number| EntrySum::of(&number.to_string(), EntryMode::Blob, None))
            .collect();
        let mut forward = EntrySum::default();
        for part in &parts {
            forward.add(*part);
        }
        let mut backward = EntrySum::default();
        parts.iter().rev().for_each(|part| backward.add(*part));
        assert_eq!(forward, backward);
        parts[1..].iter().for_each(|part| backward.subtract(*part));
        assert_eq!(backward, parts[0]);
        let mut none = EntrySum::default();
        none.subtract(parts[0]);
        none.add(parts[0]);
        assert_eq!(none, EntrySum::default());
    }
}
