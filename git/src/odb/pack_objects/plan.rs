//! The objects of a new pack: which ranges of stored packs are read, and how each entry is copied.

use std::ops::Range;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use futures_util::StreamExt as _;

use super::super::loose::LooseDecoder;
use super::super::{Database, ObjectLocation, missing};
use super::PackOptions;
use super::output::{CHUNK_BYTES, Out, Sent, deflate, end, push_header, write_undeltified};
use super::stored_entries::ReadBuffer;
use crate::error::Result;
use crate::object::ObjectKind;
use crate::pack::{EntryHeader, EntryKind};
use crate::{ObjectId, corrupt};

/// The most bytes between two entries that are read together.
const MAX_GAP_BYTES: u64 = 128 * 1024;
/// The most bytes between two entries that are always read together.
const MIN_GAP_BYTES: u64 = 4 * 1024;
/// All entries have this many times the bytes that are read between them, except for gaps of up
/// to [`MIN_GAP_BYTES`].
const GAPS_DIVISOR: u64 = 4;

/// The packed objects of a new pack, and how they are read and written.
pub(super) struct PackPlan {
    pub(super) database: Arc<Database>,
    // Sorted.
    pub(super) sent: Vec<ObjectLocation>,
    pub(super) options: PackOptions,
}

impl PackPlan {
    /// Returns the pack that consists of exactly the objects to be sent.
    pub(super) fn whole_pack(&self) -> Option<u32> {
        let (first, last) = (self.sent.first()?, self.sent.last()?);
        let is_all =
            first.pack == last.pack && self.sent.len() == self.database.layout(first.pack).len();
        // The kinds of its deltas are unknown, so the receiver must accept all.
        (is_all && self.options.offset_deltas).then_some(first.pack)
    }

    /// Returns the most bytes between two entries that are read together: as many as keep all
    /// gaps small beside the entries.
    fn max_gap_bytes(&self) -> u64 {
        let mut used = 0;
        // Sums of the gaps of each power of two.
        let mut gaps = [0; u64::BITS as usize];
        let mut last: Option<(u32, u64)> = None;
        for slot in &self.sent {
            // An invalid range is reported when it is read.
            let Ok(range) = self.layout_range(*slot) else {
                continue;
            };
            used += range.end - range.start;
            if let Some((pack, end)) = last
                && pack == slot.pack
                && let Some(gap) = range.start.checked_sub(end).filter(|gap| *gap > 0)
            {
                gaps[gap.ilog2() as usize] += gap;
            }
            last = Some((slot.pack, range.end));
        }
        let mut sum = 0;
        let mut max = MIN_GAP_BYTES;
        for (power, gaps) in gaps.iter().enumerate() {
            let end = 2_u64 << power.min(62);
            if end <= MIN_GAP_BYTES {
                continue;
            }
            sum += gaps;
            if sum > used / GAPS_DIVISOR || end > MAX_GAP_BYTES {
                break;
            }
            max = end;
        }
        max
    }

    fn layout_range(&self, slot: ObjectLocation) -> Result<Range<u64>> {
        self.database.layout(slot.pack).range(slot.entry)
    }

    /// Returns ranges that contain all entries to be sent.
    pub(super) fn runs(
        self: &Arc<Self>,
    ) -> impl Iterator<Item = Result<(u32, Range<u64>)>> + use<> {
        let plan = Arc::clone(self);
        let max_gap = self.max_gap_bytes();
        let mut at = 0;
        std::iter::from_fn(move || {
            let ObjectLocation { pack, entry } = *plan.sent.get(at)?;
            let layout = plan.database.layout(pack);
            let mut range = match layout.range(entry) {
                Ok(range) => range,
                Err(error) => {
                    at = plan.sent.len();
                    return Some(Err(error));
                }
            };
            at += 1;
            while let Some(next) = plan.sent.get(at).filter(|next| next.pack == pack) {
                match layout.range(next.entry) {
                    Ok(next) if next.start - range.end <= max_gap => range.end = next.end,
                    // An invalid range is reported when it is the next one.
                    _ => break,
                }
                at += 1;
            }
            Some(Ok((pack, range)))
        })
    }

    /// Returns the header with which an entry is copied; `None` when it must be expanded.
    fn header(
        &self,
        slot: ObjectLocation,
        start: u64,
        header: EntryHeader,
        offsets: &[u64],
        position: u64,
    ) -> Result<Option<EntryHeader>> {
        let layout = self.database.layout(slot.pack);
        let base = match header.kind {
            EntryKind::Whole(_) => return Ok(Some(header)),
            EntryKind::OffsetDelta(distance) => start
                .checked_sub(distance)
                .and_then(|offset| layout.entry_at(offset))
                .map(|entry| layout.id(entry))
                .ok_or_else(|| corrupt("no entry starts at the position of a delta's base"))?,
            EntryKind::IdDelta(id) => id,
        };
        let with = |kind| Some(EntryHeader { kind, ..header });
        // The base is sent from this pack or an earlier one, so that deltas of several packs
        // cannot form a circle.
        let found = self.database.find(base);
        if let Some(found) = found.filter(|found| found.pack <= slot.pack)
            && let Ok(at) = self.sent.binary_search(&found)
        {
            let before = offsets.get(at).filter(|offset| **offset < position);
            return Ok(match before {
                Some(offset) => with(EntryKind::OffsetDelta(position - offset)),
                None => with(EntryKind::IdDelta(base)),
            });
        }
        let known = self.options.known.as_ref();
        if known.is_some_and(|known| known.contains(base)) {
            return Ok(with(EntryKind::IdDelta(base)));
        }
        Ok(None)
    }

    /// Sends an object of a pack.
    pub(super) async fn entry(
        &self,
        slot: ObjectLocation,
        window: &mut ReadBuffer,
        offsets: &[u64],
        out: &mut Out,
    ) -> Sent {
        let layout = self.database.layout(slot.pack);
        let id = layout.id(slot.entry);
        let range = layout.range(slot.entry)?;
        let most = (range.end - range.start).min(EntryHeader::MAX_BYTES as u64);
        window.seek(slot.pack, range.start, most).await?;
        let hash = self.database.hash();
        let (header, length) = EntryHeader::parse(hash, &window.bytes)?
            .filter(|(_, length)| *length as u64 <= most)
            .ok_or_else(|| corrupt(format!("the entry of {id} is cut off")))?;
        let Some(header) = self.header(slot, range.start, header, offsets, out.position())? else {
            let found = self.database.read(id).await?;
            let (kind, content) = found.ok_or_else(|| missing(id, ObjectKind::Blob))?;
            return write_undeltified(kind, &content, out).await;
        };
        let mut crc = crc32fast::Hasher::new();
        crc.update(&window.bytes[..length]);
        let mut head = Vec::with_capacity(EntryHeader::MAX_BYTES);
        header.write(&mut head);
        out.push(&head).await?;
        let mut at = range.start + length as u64;
        while at < range.end {
            window.seek(slot.pack, at, 1).await?;
            let most = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let piece = window
                .bytes
                .slice(..window.bytes.len().min(most).min(CHUNK_BYTES));
            crc.update(&piece);
            out.push(&piece).await?;
            at += piece.len() as u64;
        }
        if crc.finalize() == layout.crc(slot.entry) {
            Ok(())
        } else {
            Err(corrupt(format!(
                "the bytes of {id} do not match the checksum in the index"
            ))
            .into())
        }
    }

    /// Sends a loose object, which is recompressed.
    pub(super) async fn loose(&self, id: ObjectId, out: &mut Out) -> Sent {
        let opened = match &self.database.loose {
            Some(loose) => loose.open(id).await?,
            None => None,
        };
        let mut body =
            opened.ok_or_else(|| corrupt(format!("object {id} is needed and missing")))?;
        let mut decoder = LooseDecoder::new(id);
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        let mut started = false;
        let mut content = Vec::new();
        while let Some(bytes) = body.next().await.transpose()? {
            let mut rest = &bytes[..];
            loop {
                content.clear();
                let used = decoder.push(rest, &mut content)?;
                rest = &rest[used..];
                if !started && let Some((kind, size)) = decoder.header() {
                    started = true;
                    push_header(kind, size, out).await?;
                }
                deflate(&mut encoder, &content, out).await?;
                if rest.is_empty() && content.is_empty() {
                    break;
                }
            }
        }
        decoder.finish()?;
        end(encoder, out).await
    }
}
