//! Peels annotated tags, which the layout does not record.
//!
//! A tag's object is near one end of its bundle: git writes tags before older commits, and a bundle
//! that is composed of another one ends with its new objects. Only these parts are read. What is
//! found is kept in the pack cache, because it never changes.

use std::collections::HashMap;

use bstr::BString;
use flate2::{Decompress, FlushDecompress, Status};
use futures_util::StreamExt as _;

use super::bundle_reader::read;
use super::keys::BundleFile;
use super::options::BundleLocation;
use crate::error::Result;
use crate::git::bundle::Header;
use crate::git::object::{ObjectKind, Reference, id_of, references};
use crate::git::pack::{EntryHeader, EntryKind, PACK_HEADER_BYTES, apply_delta};
use crate::git::refs::Refs;
use crate::git::{HashKind, ObjectId};

/// Bytes that are read first, at the start of a bundle: a tag of a branch's tip is among them.
const FIRST_BYTES: u64 = 8 * 1024;
/// Bytes that are read at the start of a bundle.
const HEAD_BYTES: u64 = 64 * 1024;
/// Bytes that are read at the end of a bundle.
const TAIL_BYTES: u64 = 8 * 1024;
/// The largest object that is inflated, in bytes.
const MAX_OBJECT_BYTES: u64 = 256 * 1024;
/// Bytes of objects of a bundle that are held as bases of deltas.
const MAX_KEPT_BYTES: usize = 1 << 20;
/// Maximum number of bundles that are read for one listing.
const MAX_BUNDLES: usize = 1000;
/// Number of bundles that are read at once.
const CONCURRENT_READS: usize = 16;

/// Commits and tags of a bundle.
#[derive(Default)]
struct Found {
    /// For a tag, the object that it names and its type.
    targets: HashMap<ObjectId, Option<(ObjectId, ObjectKind)>>,
    /// Bases of deltas, by position in the bundle: git stores a tag as a delta of a similar one.
    contents: HashMap<u64, Content>,
    kept_bytes: usize,
}

/// A commit or a tag.
struct Content {
    kind: ObjectKind,
    id: ObjectId,
    bytes: Vec<u8>,
}

/// The result of peeling an object.
enum Peeled {
    To(ObjectId),
    NotATag,
}

/// Sets the peeled ids of the tags in `refs` that can be found. `files` are the bundles of tags
/// without one.
pub(super) async fn peel_tags(
    location: &BundleLocation,
    hash: HashKind,
    files: Vec<(BString, BundleFile)>,
    refs: &mut Refs,
) {
    let cache = location.options.pack_cache.as_ref();
    let mut known = match cache {
        Some(cache) => cache.peeled_ids().await,
        None => HashMap::new(),
    };
    let unread = files
        .iter()
        .filter(|(_, file)| !known.contains_key(&file.id));
    let unread = unread.map(|(_, file)| file.clone()).take(MAX_BUNDLES);
    let reads = futures_util::stream::iter(unread.collect::<Vec<BundleFile>>())
        .map(|file| async move { (file.id, peel(location, hash, &file).await) })
        .buffer_unordered(CONCURRENT_READS);
    let found: Vec<_> = reads.collect().await;
    let mut new = Vec::new();
    for (id, peeled) in found {
        match peeled {
            Ok(Some(Peeled::To(peeled))) => new.push((id, Some(peeled))),
            Ok(Some(Peeled::NotATag)) => new.push((id, None)),
            Ok(None) => {}
            // The tag is listed without its peeled id, as by the Python client.
            Err(error) => tracing::debug!(
                object.id = %id, error = %error.report(), "a tag cannot be peeled"
            ),
        }
    }
    if let Some(cache) = cache.filter(|_| !new.is_empty()) {
        cache.record_peeled_ids(new.clone()).await;
    }
    known.extend(new);
    for (name, file) in files {
        if let Some(target) = refs.get_mut(&name).filter(|target| target.id == file.id) {
            target.peeled = known.get(&file.id).copied().flatten();
        }
    }
}

/// Peels the tip of a bundle; `None` when its objects were not found.
async fn peel(
    location: &BundleLocation,
    hash: HashKind,
    file: &BundleFile,
) -> Result<Option<Peeled>> {
    let mut head = Vec::new();
    let mut found = Found::default();
    let mut at = 0;
    for bytes in [FIRST_BYTES, HEAD_BYTES] {
        let end = file.size_bytes.min(bytes);
        if end > head.len() as u64 {
            head.extend_from_slice(&read(location, file, head.len() as u64..end).await?);
        }
        if at == 0
            && let Some((_, start)) = Header::parse(&head)?
        {
            at = start + usize::try_from(PACK_HEADER_BYTES).expect("because 12 fits");
        }
        while (1..head.len()).contains(&at) {
            let Some(length) = object_at(hash, at as u64, &head[at..], &mut found) else {
                break;
            };
            at += length;
        }
        if let Some(peeled) = resolve(file.id, &found) {
            return Ok(Some(peeled));
        }
    }
    if at == 0 {
        return Ok(None);
    }
    let start = file.size_bytes.saturating_sub(TAIL_BYTES).max(HEAD_BYTES);
    if start < file.size_bytes {
        let tail = read(location, file, start..file.size_bytes).await?;
        // Where an entry starts is not known; the id of an object proves it.
        for at in 0..tail.len() {
            object_at(hash, start + at as u64, &tail[at..], &mut found);
        }
    }
    Ok(resolve(file.id, &found))
}

/// Follows tags from `id` to an object that is not a tag.
fn resolve(id: ObjectId, found: &Found) -> Option<Peeled> {
    let mut at = id;
    // A tag contains the hash of the object that it names, so there are no circles.
    loop {
        match found.targets.get(&at)? {
            None => return Some(Peeled::NotATag),
            Some((target, ObjectKind::Tag)) => at = *target,
            Some((target, _)) => return Some(Peeled::To(*target)),
        }
    }
}

/// Inflates the entry at the start of `bytes`, which is at `position` of the bundle, and returns its
/// length; records a commit or a tag. `None` when `bytes` do not start with a whole entry.
fn object_at(hash: HashKind, position: u64, bytes: &[u8], found: &mut Found) -> Option<usize> {
    let (header, length) = EntryHeader::parse(hash, bytes).ok()??;
    if header.size > MAX_OBJECT_BYTES {
        return None;
    }
    let size = usize::try_from(header.size).ok()?;
    // One byte more, so that the end of the stream is reached.
    let mut content = Vec::with_capacity(size + 1);
    let mut inflate = Decompress::new(true);
    let status = inflate
        .decompress_vec(&bytes[length..], &mut content, FlushDecompress::Finish)
        .ok()?;
    if status != Status::StreamEnd || content.len() != size {
        return None;
    }
    let object = match header.kind {
        EntryKind::Whole(kind) => Some((kind, content)),
        EntryKind::OffsetDelta(distance) => {
            let base = position.checked_sub(distance);
            let base = base.and_then(|base| found.contents.get(&base));
            base.and_then(|base| base.with_delta(&content))
        }
        EntryKind::IdDelta(id) => {
            let base = found.contents.values().find(|base| base.id == id);
            base.and_then(|base| base.with_delta(&content))
        }
    };
    if let Some((kind @ (ObjectKind::Commit | ObjectKind::Tag), content)) = object {
        found.record(hash, position, kind, content)?;
    }
    Some(length + usize::try_from(inflate.total_in()).ok()?)
}

impl Content {
    /// Applies a delta.
    fn with_delta(&self, delta: &[u8]) -> Option<(ObjectKind, Vec<u8>)> {
        let mut content = Vec::new();
        let size = apply_delta(&self.bytes, delta, |piece| {
            if (content.len() + piece.len()) as u64 <= MAX_OBJECT_BYTES {
                content.extend_from_slice(piece);
            }
        });
        (size.ok()? == content.len() as u64).then_some((self.kind, content))
    }
}

impl Found {
    /// Records a commit or a tag; `None` if it cannot be parsed.
    fn record(
        &mut self,
        hash: HashKind,
        position: u64,
        kind: ObjectKind,
        bytes: Vec<u8>,
    ) -> Option<()> {
        let id = id_of(hash, kind, &bytes).ok()?;
        let mut target = None;
        if kind == ObjectKind::Tag {
            let read = references(hash, kind, &bytes, |reference| {
                if let Reference::Target(id, kind) = reference {
                    target = Some((id, kind));
                }
            });
            read.ok()?;
        }
        self.targets.insert(id, target);
        if self.kept_bytes + bytes.len() <= MAX_KEPT_BYTES {
            self.kept_bytes += bytes.len();
            self.contents.insert(position, Content { kind, id, bytes });
        }
        Some(())
    }
}
