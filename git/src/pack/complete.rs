//! Thin packs, made whole by the objects on which they stand.

use std::io::Write as _;

use super::content::{missing_base, read_base};
use super::index::Entry;
use super::receive::UnresolvedPack;
use super::{Bases, EntryHeader, EntryKind, FileHasher, HEADER, PackBytes};
use crate::error::Result;
use crate::{ObjectId, corrupt};

/// What turns a thin pack into a whole one: the whole pack is `header`, then the thin
/// pack's bytes in `body`, then `tail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// Replaces the pack's header: the count of objects is another.
    pub header: [u8; 12],
    /// What of the thin pack stays as it is: all between its header and its trailer.
    pub body: std::ops::Range<u64>,
    /// The objects that were added, and the new trailer.
    pub tail: Vec<u8>,
    /// The objects that were added.
    pub added: Vec<ObjectId>,
}

const STEP: u64 = 1 << 20;

/// Adds objects to a pack. Its bytes are read once more, for the new trailer.
pub(super) async fn complete(
    received: &mut UnresolvedPack,
    added: &[ObjectId],
    bytes: &dyn PackBytes,
    bases: &dyn Bases,
) -> Result<Completed> {
    let hash = received.hash;
    let body = HEADER..received.size - hash.len_in_bytes() as u64;
    let mut tail = Vec::new();
    for id in added {
        let found = read_base(hash, bases, *id).await?;
        let (kind, content) = found.ok_or_else(|| missing_base(*id))?;
        let start = tail.len();
        EntryHeader {
            kind: EntryKind::Whole(kind),
            size: content.len() as u64,
        }
        .write(&mut tail);
        let level = flate2::Compression::default();
        let mut encoder = flate2::write::ZlibEncoder::new(&mut tail, level);
        encoder
            .write_all(&content)
            .and_then(|()| encoder.finish().map(drop))
            .expect("because a Vec takes all that is written");
        received.entries.push(Entry {
            offset: body.end + start as u64,
            crc: crc32fast::hash(&tail[start..]),
            kind: Some(kind),
            id: *id,
        });
        let held = tail.len() + content.len();
        if held > received.limits.memory {
            return Err(received.limits.too_little_memory(held as u64));
        }
    }
    let count = u32::try_from(received.entries.len())
        .map_err(|_| corrupt("a pack has more objects than a pack can have"))?;
    let mut header = *b"PACK\0\0\0\x02\0\0\0\0";
    header[8..].copy_from_slice(&count.to_be_bytes());
    let mut hasher = FileHasher::new(hash);
    hasher.update(&header);
    let mut at = body.start;
    while at < body.end {
        let end = body.end.min(at + STEP);
        hasher.update(&bytes.read_range(at..end).await?);
        at = end;
        tokio::task::yield_now().await;
    }
    hasher.update(&tail);
    received.trailer = hasher.finish();
    tail.extend_from_slice(received.trailer.as_slice());
    received.size = body.end + tail.len() as u64;
    Ok(Completed {
        header,
        body,
        tail,
        added: added.to_vec(),
    })
}
