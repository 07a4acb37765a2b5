//! Packs of chosen objects, made of stored entries.

use std::io::Write as _;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::Instrument as _;

use super::loose::LooseDecoder;
use super::object_set::ReceiverObjects;
use super::{Database, ObjectLocation, missing};
use crate::error::{Error, ErrorKind, Result};
use crate::object::ObjectKind;
use crate::pack::{EntryHeader, EntryKind, FileHasher, Index, IndexBuilder, PackBody, pack_header};
use crate::{ObjectId, corrupt};

/// Options for making a pack.
#[derive(Debug, Clone, Default)]
pub struct PackOptions {
    /// Objects of the receiver that may be bases of deltas, for a thin pack.
    pub known: Option<Arc<ReceiverObjects>>,
    /// Allows deltas that name their bases by distance.
    pub offset_deltas: bool,
}

/// The most bytes between two entries that are read together.
const MAX_GAP_BYTES: u64 = 128 * 1024;
/// The most bytes between two entries that are always read together.
const MIN_GAP_BYTES: u64 = 4 * 1024;
/// All entries have this many times the bytes that are read between them, except for gaps of up
/// to [`MIN_GAP_BYTES`].
const GAPS_DIVISOR: u64 = 4;
/// The most bytes of a read.
const MAX_READ_BYTES: u64 = 4 << 20;
/// Concurrent reads of a pack, of as many bytes together as two of the largest ones.
const CONCURRENT_READS: usize = 8;
/// Bytes of a permit to hold bytes that were read.
const PERMIT_BYTES: u64 = 64 * 1024;
/// Bytes of a chunk of the new pack.
const CHUNK_BYTES: usize = 256 * 1024;

/// Returns a pack of `objects`, each once, in the order in which they are stored.
///
/// Entries are copied compressed: undeltified objects, and deltas whose bases are sent too or
/// are in `known`. Other deltas are expanded, one at a time in memory.
///
/// # Errors
/// `FileTooLarge` for more objects than a pack can have. Later failures end the stream.
pub fn pack_objects(
    database: &Arc<Database>,
    objects: impl IntoIterator<Item = ObjectId>,
    options: PackOptions,
) -> Result<PackBody> {
    begin(database, objects, options, None)
}

/// Returns a pack like [`pack_objects`], and its index, which is sent when the pack was read to
/// its end. The index of a thin pack does not contain the bases.
pub fn indexed_pack(
    database: &Arc<Database>,
    objects: impl IntoIterator<Item = ObjectId>,
    options: PackOptions,
) -> Result<(PackBody, oneshot::Receiver<Index>)> {
    let (index_sender, index) = oneshot::channel();
    let body = begin(database, objects, options, Some(index_sender))?;
    Ok((body, index))
}

fn begin(
    database: &Arc<Database>,
    objects: impl IntoIterator<Item = ObjectId>,
    options: PackOptions,
    index_sender: Option<oneshot::Sender<Index>>,
) -> Result<PackBody> {
    let mut sent = Vec::new();
    let mut loose = Vec::new();
    for id in objects {
        match database.find(id) {
            Some(slot) => sent.push(slot),
            None => loose.push(id),
        }
    }
    sent.sort_unstable();
    sent.dedup();
    loose.sort_unstable();
    loose.dedup();
    let count = u32::try_from(sent.len() + loose.len()).map_err(|_| {
        let message = "more objects are to be sent than a pack can have";
        Error::new(ErrorKind::FileTooLarge, message)
    })?;
    let plan = Arc::new(PackPlan {
        database: Arc::clone(database),
        sent,
        options,
    });
    let (sender, receiver) = mpsc::channel(2);
    let work = async move {
        let out = Out::new(&plan.database, sender.clone(), index_sender);
        if let Err(error) = send(&plan, &loose, count, out).await
            && let SendError::Failed(error) = error
        {
            // Fails when the stream was dropped.
            let _ = sender.send(Err(error)).await;
        }
    };
    let task = Task(tokio::spawn(work.in_current_span()));
    Ok(Box::pin(futures_util::stream::unfold(
        (receiver, task),
        |(mut receiver, task)| async move {
            let next = receiver.recv().await?;
            Some((next, (receiver, task)))
        },
    )))
}

/// A task that is aborted when its stream is dropped.
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct PackPlan {
    database: Arc<Database>,
    // Sorted.
    sent: Vec<ObjectLocation>,
    options: PackOptions,
}

/// The reason why a pack was not sent.
enum SendError {
    Failed(Error),
    Dropped,
}

impl From<Error> for SendError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

type Sent = std::result::Result<(), SendError>;

/// The output of a new pack.
struct Out {
    sender: mpsc::Sender<Result<Bytes>>,
    held: BytesMut,
    hasher: FileHasher,
    taken: u64,
    index: Option<(IndexBuilder, oneshot::Sender<Index>)>,
}

impl Out {
    fn new(
        database: &Database,
        sender: mpsc::Sender<Result<Bytes>>,
        index_sender: Option<oneshot::Sender<Index>>,
    ) -> Self {
        Self {
            sender,
            held: BytesMut::new(),
            hasher: FileHasher::new(database.hash()),
            taken: 0,
            index: index_sender
                .map(|index_sender| (IndexBuilder::new(database.hash()), index_sender)),
        }
    }

    /// Starts the entry of an object.
    fn begin(&mut self, id: ObjectId) {
        let position = self.position();
        if let Some((index, _)) = &mut self.index {
            index.begin(id, position);
        }
    }

    fn position(&self) -> u64 {
        self.taken + self.held.len() as u64
    }

    async fn push(&mut self, bytes: &[u8]) -> Sent {
        self.held.extend_from_slice(bytes);
        if let Some((index, _)) = &mut self.index {
            index.update(bytes);
        }
        if self.held.len() >= CHUNK_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Sent {
        if self.held.is_empty() {
            return Ok(());
        }
        let bytes = self.held.split().freeze();
        self.hasher.update(&bytes);
        self.taken += bytes.len() as u64;
        self.forward(bytes).await
    }

    async fn forward(&self, bytes: Bytes) -> Sent {
        let sent = self.sender.send(Ok(bytes)).await;
        sent.map_err(|_| SendError::Dropped)
    }

    async fn finish(mut self) -> Sent {
        self.flush().await?;
        let trailer = self.hasher.clone().finish();
        if let Some((index, index_sender)) = self.index.take() {
            let _ = index_sender.send(index.finish(trailer));
        }
        self.forward(Bytes::copy_from_slice(trailer.as_slice()))
            .await
    }
}

async fn send(plan: &Arc<PackPlan>, loose: &[ObjectId], count: u32, mut out: Out) -> Sent {
    if loose.is_empty()
        && let Some(pack) = plan.whole_pack()
    {
        let size = plan.database.layout(pack).size_bytes();
        let mut pieces = read(plan, std::iter::once(Ok((pack, 0..size))));
        while let Some(piece) = pieces.next().await.transpose()? {
            out.forward(piece.bytes).await?;
        }
        if let Some((_, index_sender)) = out.index.take() {
            let _ = index_sender.send(plan.database.layout(pack).index().clone());
        }
        return Ok(());
    }
    out.push(&pack_header(count)).await?;
    let mut window = ReadBuffer {
        pieces: read(plan, plan.runs()),
        pack: 0,
        start: 0,
        bytes: Bytes::new(),
        permit: None,
    };
    // Only distances need the positions of entries.
    let mut offsets = Vec::new();
    for slot in &plan.sent {
        if plan.options.offset_deltas {
            offsets.push(out.position());
        }
        out.begin(plan.database.layout(slot.pack).id(slot.entry));
        plan.entry(*slot, &mut window, &offsets, &mut out).await?;
    }
    for id in loose {
        out.begin(*id);
        plan.loose(*id, &mut out).await?;
    }
    out.finish().await
}

/// A piece of a range of a pack.
struct Piece {
    pack: u32,
    start: u64,
    bytes: Bytes,
    // Until the next piece is used.
    permit: Option<OwnedSemaphorePermit>,
}

/// Consecutive pieces of ranges of packs.
type EntryChunks = Pin<Box<dyn Stream<Item = Result<Piece>> + Send>>;

/// Reads ranges in pieces, ahead of their use.
fn read(
    plan: &Arc<PackPlan>,
    runs: impl Iterator<Item = Result<(u32, Range<u64>)>> + Send + 'static,
) -> EntryChunks {
    let piece = (plan.database.limits.memory as u64 / 16).clamp(PERMIT_BYTES, MAX_READ_BYTES);
    let permits = usize::try_from(2 * piece.div_ceil(PERMIT_BYTES)).unwrap_or(usize::MAX);
    let permits = Arc::new(Semaphore::new(permits));
    let database = Arc::clone(&plan.database);
    let pieces = runs.flat_map(move |run| {
        let (pack, range, failed) = match run {
            Ok((pack, range)) => (pack, range, None),
            Err(error) => (0, 0..0, Some(Err(error))),
        };
        let starts = (range.start..range.end).step_by(usize::try_from(piece).unwrap_or(1 << 20));
        failed
            .into_iter()
            .chain(starts.map(move |start| Ok((pack, start..range.end.min(start + piece)))))
    });
    // In order, because the first piece must not wait for what later ones hold.
    let permitted = futures_util::stream::iter(pieces).then(move |piece| {
        let permits = Arc::clone(&permits);
        async move {
            let size = piece
                .as_ref()
                .map_or(0, |(_, range)| range.end - range.start);
            let count = u32::try_from(size.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
            (piece, permits.acquire_many_owned(count).await.ok())
        }
    });
    let reads = permitted.map(move |(piece, permit)| {
        let database = Arc::clone(&database);
        let read = async move {
            let (pack, range) = piece?;
            let start = range.start;
            let bytes = database.read_raw(pack, range).await?;
            Ok(Piece {
                pack,
                start,
                bytes,
                permit,
            })
        };
        // A task, so that the read continues while another piece is processed.
        tokio::spawn(read.in_current_span())
    });
    let reads = reads.buffered(CONCURRENT_READS);
    Box::pin(reads.map(|read| {
        read.unwrap_or_else(|error| {
            let message = "reading a pack failed";
            Err(Error::new(ErrorKind::Internal, message).with_source(error))
        })
    }))
}

impl PackPlan {
    /// Returns the pack that consists of exactly the objects to be sent.
    fn whole_pack(&self) -> Option<u32> {
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
    fn runs(self: &Arc<Self>) -> impl Iterator<Item = Result<(u32, Range<u64>)>> + use<> {
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
    async fn entry(
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
    async fn loose(&self, id: ObjectId, out: &mut Out) -> Sent {
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

async fn push_header(kind: ObjectKind, size: u64, out: &mut Out) -> Sent {
    let mut head = Vec::new();
    EntryHeader {
        kind: EntryKind::Whole(kind),
        size,
    }
    .write(&mut head);
    out.push(&head).await
}

/// Sends an object whose content is in memory.
async fn write_undeltified(kind: ObjectKind, content: &[u8], out: &mut Out) -> Sent {
    push_header(kind, content.len() as u64, out).await?;
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    for piece in content.chunks(CHUNK_BYTES) {
        deflate(&mut encoder, piece, out).await?;
    }
    end(encoder, out).await
}

async fn deflate(encoder: &mut ZlibEncoder<Vec<u8>>, content: &[u8], out: &mut Out) -> Sent {
    encoder
        .write_all(content)
        .expect("because writing to a Vec cannot fail");
    let made = std::mem::take(encoder.get_mut());
    out.push(&made).await
}

async fn end(encoder: ZlibEncoder<Vec<u8>>, out: &mut Out) -> Sent {
    let made = encoder
        .finish()
        .expect("because writing to a Vec cannot fail");
    out.push(&made).await
}

/// Bytes that were read and not used yet.
struct ReadBuffer {
    pieces: EntryChunks,
    pack: u32,
    start: u64,
    bytes: Bytes,
    permit: Option<OwnedSemaphorePermit>,
}

impl ReadBuffer {
    /// Advances until the buffer starts at `from` and contains at least `length` bytes.
    async fn seek(&mut self, pack: u32, from: u64, length: u64) -> Result<()> {
        loop {
            if self.pack == pack && self.start <= from {
                let skip = usize::try_from(from - self.start)
                    .unwrap_or(usize::MAX)
                    .min(self.bytes.len());
                let _ = self.bytes.split_to(skip);
                self.start += skip as u64;
            }
            let is_there = self.pack == pack && self.start == from;
            if is_there && self.bytes.len() as u64 >= length {
                return Ok(());
            }
            // What is kept is a part of one entry's header.
            self.permit = None;
            let next = self.pieces.next().await.transpose()?;
            let next = next.ok_or_else(|| corrupt("a pack ends before its last entry"))?;
            let end = self.start + self.bytes.len() as u64;
            if is_there && next.pack == self.pack && next.start == end && !self.bytes.is_empty() {
                let joined = [&self.bytes[..], &next.bytes[..]].concat();
                self.bytes = joined.into();
            } else {
                (self.pack, self.start, self.bytes) = (next.pack, next.start, next.bytes);
            }
            self.permit = next.permit;
        }
    }
}
