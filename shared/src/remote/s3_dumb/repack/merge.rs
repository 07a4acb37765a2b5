//! Merges packs into one, entry by entry, without inflating them.
//!
//! Memory: the indexes, one chunk of a pack, and the buffer of the [`SpoolWriter`].

use bytes::Bytes;

use crate::error::{Result, corrupt};
use crate::git::pack::{EntryHeader, EntryKind, Index, PACK_HEADER_BYTES, PackBytes, PackWriter};
use crate::git::{HashKind, ObjectId};
use crate::storage::spool::{Spool, SpoolWriter};

/// Bytes of a pack that are read at once.
const READ_CHUNK_BYTES: u64 = 8 << 20;
/// Bytes that are written at once.
const WRITE_CHUNK_BYTES: usize = 1 << 20;

/// Pack to merge, which contains the bases of all its deltas.
pub(in crate::remote::s3_dumb) struct MergeInput<'a> {
    pub(in crate::remote::s3_dumb) index: &'a Index,
    pub(in crate::remote::s3_dumb) size: u64,
    pub(in crate::remote::s3_dumb) bytes: &'a dyn PackBytes,
}

/// Merges packs. An object in several packs is copied from the first one. Because the base of
/// a delta is in the delta's pack, the copied base is from that pack or an earlier one, so
/// that deltas never form a circle.
pub(in crate::remote::s3_dumb) async fn merge(
    hash: HashKind,
    packs: &[MergeInput<'_>],
    mut writer: SpoolWriter,
) -> Result<(Index, Spool)> {
    let is_first = |at: usize, id: ObjectId| {
        let mut earlier = packs[..at].iter();
        !earlier.any(|pack| pack.index.find(id).is_some())
    };
    let count: usize = packs
        .iter()
        .enumerate()
        .map(|(at, pack)| pack.index.ids().filter(|id| is_first(at, *id)).count())
        .sum();
    let count = u32::try_from(count)
        .map_err(|_| corrupt("merged packs have more objects than a pack can have"))?;
    let mut out = PackWriter::new(hash, count);
    for (at, pack) in packs.iter().enumerate() {
        let mut reader = Reader::new(hash, pack)?;
        for entry in 0..reader.order.len() {
            let position = reader.order[entry];
            if is_first(at, pack.index.id(position)) {
                reader.copy(entry, &mut out, &mut writer).await?;
            }
        }
    }
    let (last, index) = out.finish()?;
    writer.push(last).await?;
    Ok((index, writer.finish().await?))
}

/// Reads a pack in the order of its entries.
struct Reader<'a> {
    hash: HashKind,
    pack: &'a MergeInput<'a>,
    // Positions in the index, in the order of the pack.
    order: Vec<usize>,
    end: u64,
    held: Bytes,
    // Where `held` starts.
    start: u64,
}

impl<'a> Reader<'a> {
    fn new(hash: HashKind, pack: &'a MergeInput<'a>) -> Result<Self> {
        let mut order: Vec<usize> = (0..pack.index.len()).collect();
        order.sort_unstable_by_key(|position| pack.index.offset(*position));
        let end = pack.size.saturating_sub(hash.len_in_bytes() as u64);
        let offsets = order.iter().map(|position| pack.index.offset(*position));
        let fits = |first: Option<u64>, last: Option<u64>| {
            first.is_none_or(|first| first >= PACK_HEADER_BYTES)
                && last.is_none_or(|last| last < end)
        };
        if pack.index.hash() != hash || !fits(offsets.clone().next(), offsets.last()) {
            return Err(size_mismatch());
        }
        Ok(Self {
            hash,
            pack,
            order,
            end,
            held: Bytes::new(),
            start: 0,
        })
    }

    /// Returns bytes from `position` on: at least `min_bytes`, if the pack has them, and at
    /// most `max_bytes`.
    async fn bytes(&mut self, position: u64, min_bytes: u64, max_bytes: u64) -> Result<Bytes> {
        let min_bytes = min_bytes.min(self.end - position);
        let held = self.start..self.start + self.held.len() as u64;
        if !held.contains(&position) || held.end - position < min_bytes {
            let end = self.end.min(position + READ_CHUNK_BYTES);
            self.held = self.pack.bytes.read_range(position..end).await?;
            self.start = position;
            if self.held.len() as u64 != end - position {
                return Err(corrupt("a pack is shorter than its recorded size"));
            }
        }
        let from =
            usize::try_from(position - self.start).expect("because it is within the held bytes");
        let rest = self.held.slice(from..);
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        Ok(rest.slice(..rest.len().min(max_bytes)))
    }

    /// Copies an entry unchanged, except that a delta names its base by id.
    async fn copy(
        &mut self,
        entry: usize,
        out: &mut PackWriter,
        writer: &mut SpoolWriter,
    ) -> Result<()> {
        let index = self.pack.index;
        let position = self.order[entry];
        let offset = index.offset(position);
        let end = match self.order.get(entry + 1) {
            Some(next) => index.offset(*next),
            None => self.end,
        };
        if offset >= end {
            return Err(size_mismatch());
        }
        let header_bytes = (EntryHeader::MAX_BYTES as u64).min(end - offset);
        let start = self.bytes(offset, header_bytes, header_bytes).await?;
        let (mut header, length) =
            EntryHeader::parse(self.hash, &start)?.ok_or_else(size_mismatch)?;
        if let EntryKind::OffsetDelta(distance) = header.kind {
            let base = offset.checked_sub(distance).ok_or_else(size_mismatch)?;
            let at = self
                .order
                .binary_search_by_key(&base, |position| index.offset(*position))
                .map_err(|_| size_mismatch())?;
            header.kind = EntryKind::IdDelta(index.id(self.order[at]));
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&start[..length]);
        out.start_copy(index.id(position), header)?;
        let mut at = offset + length as u64;
        while at < end {
            let chunk = self
                .bytes(at, 1, (end - at).min(WRITE_CHUNK_BYTES as u64))
                .await?;
            crc.update(&chunk);
            out.copy_data(&chunk);
            at += chunk.len() as u64;
            if out.waiting() >= WRITE_CHUNK_BYTES {
                writer.push(out.take()).await?;
            }
        }
        out.end_copy();
        if crc.finalize() == index.crc(position) {
            Ok(())
        } else {
            Err(corrupt(format!(
                "the checksum of the entry of {} in a pack does not match its index",
                index.id(position)
            )))
        }
    }
}

fn size_mismatch() -> crate::Error {
    corrupt("the index of a pack does not match the pack")
}
