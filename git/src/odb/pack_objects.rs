//! Packs of chosen objects, made of what lies there.

use std::io::Write as _;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tracing::Instrument as _;

use super::loose::LooseDecoder;
use super::object_set::ReceiverObjects;
use super::{Database, ObjectLocation, missing};
use crate::error::{Error, ErrorKind, Result};
use crate::object::ObjectKind;
use crate::pack::{EntryHeader, EntryKind, FileHasher, Index, IndexBuilder, PackBody};
use crate::{ObjectId, corrupt};

/// How a pack is made.
#[derive(Debug, Clone, Default)]
pub struct PackOptions {
    /// What the receiver has, when its deltas may stand on that: a thin pack.
    pub known: Option<Arc<ReceiverObjects>>,
    /// Deltas may name their bases by distance.
    pub offset_deltas: bool,
}

/// Entries with no more bytes between them are read together.
const GAP: u64 = 128 * 1024;
/// The most that is read at once, and how many such reads are under way.
const PIECE: u64 = 4 << 20;
const READS: usize = 2;
/// How much is handed on at once.
const CHUNK: usize = 256 * 1024;

/// A pack of these objects, each once, in the order in which they lie.
///
/// What is compressed is copied as it is where it can be: whole objects, and deltas whose
/// bases are sent too or known to the receiver. Other deltas are made whole. No object of
/// a pack is held for that but those made whole.
///
/// # Errors
/// At once, for more objects than a pack can have. Later failures end the stream.
pub fn pack_objects(
    database: &Arc<Database>,
    objects: impl IntoIterator<Item = ObjectId>,
    options: PackOptions,
) -> Result<PackBody> {
    begin(database, objects, options, None)
}

/// The same, and its index, which is there once the pack was read to its end. It is one of
/// a thin pack where `known` made one.
pub fn indexed_pack(
    database: &Arc<Database>,
    objects: impl IntoIterator<Item = ObjectId>,
    options: PackOptions,
) -> Result<(PackBody, oneshot::Receiver<Index>)> {
    let (teller, index) = oneshot::channel();
    let body = begin(database, objects, options, Some(teller))?;
    Ok((body, index))
}

fn begin(
    database: &Arc<Database>,
    objects: impl IntoIterator<Item = ObjectId>,
    options: PackOptions,
    teller: Option<oneshot::Sender<Index>>,
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
        let out = Out::new(&plan.database, sender.clone(), teller);
        if let Err(error) = send(&plan, &loose, count, out).await
            && let SendError::Failed(error) = error
        {
            // Nobody may be listening any more.
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

/// A task that ends with its stream.
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

/// Why a pack was not sent.
enum SendError {
    Failed(Error),
    NobodyListens,
}

impl From<Error> for SendError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

type Sent = std::result::Result<(), SendError>;

/// What has been made of the pack.
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
        teller: Option<oneshot::Sender<Index>>,
    ) -> Self {
        Self {
            sender,
            held: BytesMut::new(),
            hasher: FileHasher::new(database.hash()),
            taken: 0,
            index: teller.map(|teller| (IndexBuilder::new(database.hash()), teller)),
        }
    }

    /// Says whose entry follows.
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
        if self.held.len() >= CHUNK {
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
        sent.map_err(|_| SendError::NobodyListens)
    }

    async fn finish(mut self) -> Sent {
        self.flush().await?;
        let trailer = self.hasher.clone().finish();
        if let Some((index, teller)) = self.index.take() {
            let _ = teller.send(index.finish(trailer));
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
        while let Some((_, _, bytes)) = pieces.next().await.transpose()? {
            out.forward(bytes).await?;
        }
        if let Some((_, teller)) = out.index.take() {
            let _ = teller.send(plan.database.layout(pack).index().clone());
        }
        return Ok(());
    }
    let mut header = *b"PACK\0\0\0\x02\0\0\0\0";
    header[8..].copy_from_slice(&count.to_be_bytes());
    out.push(&header).await?;
    let mut window = ReadBuffer {
        pieces: read(plan, plan.runs()),
        pack: 0,
        start: 0,
        bytes: Bytes::new(),
    };
    // Only those who name bases by distance need to know where they lie.
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

/// The bytes of ranges of packs, in pieces that follow each other: the pack, where the
/// piece starts, and its bytes.
type EntryChunks = Pin<Box<dyn Stream<Item = Result<(u32, u64, Bytes)>> + Send>>;

/// Reads ranges in pieces, ahead of what is asked for.
fn read(
    plan: &Arc<PackPlan>,
    runs: impl Iterator<Item = Result<(u32, Range<u64>)>> + Send + 'static,
) -> EntryChunks {
    let piece = (plan.database.limits.memory as u64 / 16).clamp(64 * 1024, PIECE);
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
    let reads = pieces.map(move |piece| {
        let database = Arc::clone(&database);
        let read = async move {
            let (pack, range) = piece?;
            let start = range.start;
            let bytes = database.read_raw(pack, range).await?;
            Ok((pack, start, bytes))
        };
        // As a task, it goes on while others compute.
        tokio::spawn(read.in_current_span())
    });
    let reads = futures_util::stream::iter(reads).buffered(READS);
    Box::pin(reads.map(|read| {
        read.unwrap_or_else(|error| {
            let message = "reading a pack failed";
            Err(Error::new(ErrorKind::Internal, message).with_source(error))
        })
    }))
}

impl PackPlan {
    /// The pack that is just what is to be sent.
    fn whole_pack(&self) -> Option<u32> {
        let (first, last) = (self.sent.first()?, self.sent.last()?);
        let is_all =
            first.pack == last.pack && self.sent.len() == self.database.layout(first.pack).len();
        // What kinds of deltas it has nobody knows yet.
        (is_all && self.options.offset_deltas).then_some(first.pack)
    }

    /// The ranges that hold all entries to be sent.
    fn runs(self: &Arc<Self>) -> impl Iterator<Item = Result<(u32, Range<u64>)>> + use<> {
        let plan = Arc::clone(self);
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
                    Ok(next) if next.start - range.end <= GAP => range.end = next.end,
                    // One that fails fails when its own turn comes.
                    _ => break,
                }
                at += 1;
            }
            Some(Ok((pack, range)))
        })
    }

    /// How an entry is to be written; `None` when it must be made whole.
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
                .ok_or_else(|| corrupt("no entry starts where a delta's base should"))?,
            EntryKind::IdDelta(id) => id,
        };
        let with = |kind| Some(EntryHeader { kind, ..header });
        // The base is sent from this pack or an earlier one, never from a later one: so
        // that deltas of several packs cannot form a circle.
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

    /// Sends one object of a pack.
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
        let most = (range.end - range.start).min(EntryHeader::MAX as u64);
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
        let mut head = Vec::with_capacity(EntryHeader::MAX);
        header.write(&mut head);
        out.push(&head).await?;
        let mut at = range.start + length as u64;
        while at < range.end {
            window.seek(slot.pack, at, 1).await?;
            let most = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let piece = window
                .bytes
                .slice(..window.bytes.len().min(most).min(CHUNK));
            crc.update(&piece);
            out.push(&piece).await?;
            at += piece.len() as u64;
        }
        if crc.finalize() == layout.crc(slot.entry) {
            Ok(())
        } else {
            Err(corrupt(format!("the bytes of {id} are not those that were indexed")).into())
        }
    }

    /// Sends one loose object, compressed anew.
    async fn loose(&self, id: ObjectId, out: &mut Out) -> Sent {
        let opened = match &self.database.loose {
            Some(loose) => loose.open(id).await?,
            None => None,
        };
        let mut body =
            opened.ok_or_else(|| corrupt(format!("object {id} is needed and not there")))?;
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

/// Sends an object that is held.
async fn write_undeltified(kind: ObjectKind, content: &[u8], out: &mut Out) -> Sent {
    push_header(kind, content.len() as u64, out).await?;
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    for piece in content.chunks(CHUNK) {
        deflate(&mut encoder, piece, out).await?;
    }
    end(encoder, out).await
}

async fn deflate(encoder: &mut ZlibEncoder<Vec<u8>>, content: &[u8], out: &mut Out) -> Sent {
    encoder
        .write_all(content)
        .expect("because a Vec takes all that is written");
    let made = std::mem::take(encoder.get_mut());
    out.push(&made).await
}

async fn end(encoder: ZlibEncoder<Vec<u8>>, out: &mut Out) -> Sent {
    let made = encoder
        .finish()
        .expect("because a Vec takes all that is written");
    out.push(&made).await
}

/// What was read and not yet used.
struct ReadBuffer {
    pieces: EntryChunks,
    pack: u32,
    start: u64,
    bytes: Bytes,
}

impl ReadBuffer {
    /// Goes forward until the window starts at `from` and holds at least `length` bytes.
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
            let next = self.pieces.next().await.transpose()?;
            let (next_pack, start, bytes) =
                next.ok_or_else(|| corrupt("a pack ends before its last entry"))?;
            let follows =
                is_there && next_pack == self.pack && start == self.start + self.bytes.len() as u64;
            if follows && !self.bytes.is_empty() {
                let joined = [&self.bytes[..], &bytes[..]].concat();
                self.bytes = joined.into();
            } else {
                (self.pack, self.start, self.bytes) = (next_pack, start, bytes);
            }
        }
    }
}
