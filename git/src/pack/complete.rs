//! Completion of thin packs with the bases of their deltas.

use std::io::Write as _;

use super::content::{missing_base, read_base};
use super::index::Entry;
use super::unresolved::UnresolvedPack;
use super::{Bases, EntryHeader, EntryKind, FileHasher, PACK_HEADER_BYTES, PackBytes, pack_header};
use crate::error::Result;
use crate::{ObjectId, corrupt};

/// The parts that complete a thin pack: the complete pack is `header`, then the thin pack's
/// bytes in `body`, then `tail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// The new header, with the new number of objects.
    pub header: [u8; 12],
    /// The range of the thin pack that is kept: all bytes between its header and its trailer.
    pub body: std::ops::Range<u64>,
    /// The entries of the added objects, and the new trailer.
    pub tail: Vec<u8>,
    /// The added objects.
    pub added: Vec<ObjectId>,
}

/// Bytes of the pack that are hashed at a time.
const HASH_CHUNK_BYTES: u64 = 1 << 20;

/// Adds objects to a pack. The bytes of the pack are read again for the new trailer.
pub(super) async fn complete(
    received: &mut UnresolvedPack,
    added: &[ObjectId],
    bytes: &dyn PackBytes,
    bases: &dyn Bases,
) -> Result<Completed> {
    let hash = received.hash;
    let body = PACK_HEADER_BYTES..received.size - hash.len_in_bytes() as u64;
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
            .expect("because writing to a Vec cannot fail");
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
    let header = pack_header(count);
    let mut hasher = FileHasher::new(hash);
    hasher.update(&header);
    let mut at = body.start;
    while at < body.end {
        let end = body.end.min(at + HASH_CHUNK_BYTES);
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
