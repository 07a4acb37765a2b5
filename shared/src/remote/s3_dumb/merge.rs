//! Several packs made into one, entry by entry, without inflating anything.
//!
//! Memory: the indexes, one piece of a pack, and what the [`SpoolWriter`] holds.

use bytes::Bytes;

use crate::error::{Result, corrupt};
use crate::git::pack::{EntryHeader, EntryKind, HEADER, Index, PackBytes, PackWriter};
use crate::git::{HashKind, ObjectId};
use crate::remote::{Spool, SpoolWriter};

/// How much of a pack is read at once.
const STEP: u64 = 8 << 20;
/// How much is written at once.
const PIECE: usize = 1 << 20;

/// A pack to be merged; its deltas stand on nothing outside of it.
pub(super) struct Whole<'a> {
    pub(super) index: &'a Index,
    pub(super) size: u64,
    pub(super) bytes: &'a dyn PackBytes,
}

/// Merges packs. An object that is in several of them is taken from the first one that
/// has it; since the base of a delta is in the same pack, what it stands on is then in
/// that pack or in an earlier one, and no circle can come about.
pub(super) async fn merge(
    hash: HashKind,
    packs: &[Whole<'_>],
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

/// Reads a pack from its start to its end.
struct Reader<'a> {
    hash: HashKind,
    pack: &'a Whole<'a>,
    // Positions in the index, in the order of the pack.
    order: Vec<usize>,
    end: u64,
    held: Bytes,
    // Where `held` starts.
    start: u64,
}

impl<'a> Reader<'a> {
    fn new(hash: HashKind, pack: &'a Whole<'a>) -> Result<Self> {
        let mut order: Vec<usize> = (0..pack.index.len()).collect();
        order.sort_unstable_by_key(|position| pack.index.offset(*position));
        let end = pack.size.saturating_sub(hash.len_in_bytes() as u64);
        let offsets = order.iter().map(|position| pack.index.offset(*position));
        let fits = |first: Option<u64>, last: Option<u64>| {
            first.is_none_or(|first| first >= HEADER) && last.is_none_or(|last| last < end)
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

    /// Bytes from `position` on: at least `least`, if the pack has them, and at most
    /// `most`.
    async fn bytes(&mut self, position: u64, least: u64, most: u64) -> Result<Bytes> {
        let least = least.min(self.end - position);
        let held = self.start..self.start + self.held.len() as u64;
        if !held.contains(&position) || held.end - position < least {
            let end = self.end.min(position + STEP);
            self.held = self.pack.bytes.read_range(position..end).await?;
            self.start = position;
            if self.held.len() as u64 != end - position {
                return Err(corrupt("a range of a pack was read short"));
            }
        }
        let from = usize::try_from(position - self.start).expect("because it lies in what is held");
        let rest = self.held.slice(from..);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(rest.slice(..rest.len().min(most)))
    }

    /// Writes an entry as it is, but names the base of a delta by its id.
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
        let most = (EntryHeader::MAX_BYTES as u64).min(end - offset);
        let start = self.bytes(offset, most, most).await?;
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
            let piece = self.bytes(at, 1, (end - at).min(PIECE as u64)).await?;
            crc.update(&piece);
            out.copy_data(&piece);
            at += piece.len() as u64;
            if out.waiting() >= PIECE {
                writer.push(out.take()).await?;
            }
        }
        out.end_copy();
        if crc.finalize() == index.crc(position) {
            Ok(())
        } else {
            Err(corrupt(format!(
                "the entry of {} in a pack was changed since it was indexed",
                index.id(position)
            )))
        }
    }
}

fn size_mismatch() -> crate::Error {
    corrupt("the index of a pack does not fit the pack")
}
