//! First pass over a pack: reads its bytes as they arrive.

use bytes::Bytes;

use super::cache::Key;
use super::inflate::Inflater;
use super::unresolved::{BaseRef, UnresolvedPack, number};
use super::workers::{Finished, Job, JobContent, Workers};
use super::{
    EntryHeader, EntryKind, FileHasher, PACK_HEADER_BYTES, PackLimits, PackObject, SIGNATURE,
    Visitor, delta as deltas,
};
use crate::error::{Error, ErrorKind, Result};
use crate::object::{ObjectHasher, ObjectKind, id_of};
use crate::{HashKind, ObjectId, corrupt};

/// Finished jobs of other threads that are collected together.
const COLLECTED_JOBS: usize = 32;

/// Verifies a pack as it arrives, and computes the ids of its objects.
///
/// Does no I/O. [`push`](Self::push) every byte, then [`finish`](Self::finish).
pub struct PackIndexer {
    hash: HashKind,
    limits: PackLimits,
    state: State,
    // Bytes of an incomplete header or trailer.
    small: Vec<u8>,
    file: FileHasher,
    crc: crc32fast::Hasher,
    inflater: Inflater,
    received: UnresolvedPack,
    // Objects that have not arrived.
    left: u32,
}

enum State {
    Header,
    Entry,
    Data(Work),
    Trailer,
    Done,
}

/// The work for the content of the entry that is arriving.
enum Work {
    /// An undeltified object, which is hashed as it arrives; `held` unless it is a large blob.
    Whole {
        kind: ObjectKind,
        size: u64,
        hasher: ObjectHasher,
        held: Option<Vec<u8>>,
    },
    /// An undeltified object that is hashed by another thread.
    Held { kind: ObjectKind, content: Vec<u8> },
    /// A delta whose base is in memory.
    Delta {
        base: Base,
        reference: BaseRef,
        delta: Vec<u8>,
    },
    /// A delta for the second pass, and its first bytes.
    Later(BaseRef, Vec<u8>),
}

/// The base of a delta that is arriving.
enum Base {
    Known(ObjectKind, Bytes),
    /// The object of an entry that another thread makes.
    InProgress(u32),
}

impl PackIndexer {
    /// Creates an indexer for one pack.
    pub fn new(hash: HashKind, limits: PackLimits) -> Self {
        Self {
            hash,
            limits,
            state: State::Header,
            small: Vec::new(),
            file: FileHasher::new(hash),
            crc: crc32fast::Hasher::new(),
            inflater: Inflater::new(),
            received: UnresolvedPack::new(hash, limits),
            left: 0,
        }
    }

    /// Returns the number of bytes that have arrived.
    pub fn position(&self) -> u64 {
        self.received.size
    }

    /// Returns whether the trailer has arrived.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Reads `bytes`, and passes each object that they complete to `visitor`.
    ///
    /// # Errors
    /// `Corrupt` for bytes that contradict the format or follow the trailer; `FileTooLarge`
    /// beyond the limits; and errors of `visitor`. The indexer must not be used after an error.
    pub fn push(&mut self, bytes: &[u8], visitor: &mut dyn Visitor) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = match &mut self.state {
                State::Header => self.header(rest)?,
                State::Entry => self.entry(rest, visitor)?,
                State::Data(work) => {
                    let (used, ended) = self.inflater.push(rest, |piece| match work {
                        Work::Whole { hasher, held, .. } => {
                            hasher.update(piece);
                            if let Some(held) = held {
                                held.extend_from_slice(piece);
                            }
                        }
                        Work::Held { content, .. } => content.extend_from_slice(piece),
                        Work::Delta { delta, .. } => delta.extend_from_slice(piece),
                        Work::Later(_, start) => {
                            let room = deltas::MAX_SIZES - start.len();
                            start.extend_from_slice(&piece[..piece.len().min(room)]);
                        }
                    })?;
                    self.file.update(&rest[..used]);
                    self.crc.update(&rest[..used]);
                    self.received.size += used as u64;
                    if ended {
                        self.entry_ended(visitor)?;
                    }
                    used
                }
                State::Trailer => self.trailer(rest, visitor)?,
                State::Done => return Err(corrupt("bytes follow the trailer of a pack")),
            };
            rest = &rest[used..];
        }
        Ok(())
    }

    /// Returns the pack after its last byte.
    ///
    /// # Errors
    /// `Corrupt` when the pack is cut off.
    pub fn finish(self) -> Result<UnresolvedPack> {
        if self.is_done() {
            Ok(self.received)
        } else {
            Err(corrupt(format!(
                "a pack ends after {} bytes, {} objects short",
                self.received.size, self.left
            )))
        }
    }

    /// Collects a field of `length` bytes; returns the bytes used of `rest`, and whether the
    /// field is complete.
    fn field(&mut self, rest: &[u8], length: usize) -> (usize, bool) {
        let used = rest.len().min(length - self.small.len());
        self.small.extend_from_slice(&rest[..used]);
        self.received.size += used as u64;
        (used, self.small.len() == length)
    }

    fn header(&mut self, rest: &[u8]) -> Result<usize> {
        let length = usize::try_from(PACK_HEADER_BYTES).expect("because 12 fits");
        let (used, whole) = self.field(rest, length);
        if whole {
            let count = self
                .small
                .strip_prefix(&SIGNATURE)
                .and_then(|count| count.first_chunk())
                .ok_or_else(|| corrupt("expected the header of a pack of version 2"))?;
            self.left = u32::from_be_bytes(*count);
            if self.left > self.limits.objects {
                return Err(Error::new(
                    ErrorKind::FileTooLarge,
                    format!(
                        "a pack has {} objects, and {} are allowed",
                        self.left, self.limits.objects
                    ),
                )
                .with_hint("raise the memory limit, which bounds the number of objects"));
            }
            self.received.reserve(self.left);
            self.received.workers = Workers::start(self.hash, self.left, self.limits.memory);
            self.file.update(&self.small);
            self.small.clear();
            self.next_entry();
        }
        Ok(used)
    }

    fn next_entry(&mut self) {
        self.state = if self.left == 0 {
            State::Trailer
        } else {
            State::Entry
        };
    }

    fn trailer(&mut self, rest: &[u8], visitor: &mut dyn Visitor) -> Result<usize> {
        let (used, whole) = self.field(rest, self.hash.len_in_bytes());
        if whole {
            self.collect_all(None, visitor)?;
            let computed = std::mem::replace(&mut self.file, FileHasher::new(self.hash)).finish();
            if computed.as_slice() != self.small {
                return Err(corrupt("the trailer of a pack does not match its content"));
            }
            self.received.trailer = computed;
            self.state = State::Done;
        }
        Ok(used)
    }

    /// Reads the header of an entry.
    fn entry(&mut self, rest: &[u8], visitor: &mut dyn Visitor) -> Result<usize> {
        let before = self.small.len();
        let room = EntryHeader::MAX_BYTES - before;
        let (header, length) = if before == 0 {
            let Some(found) = EntryHeader::parse(self.hash, rest)? else {
                self.small.extend_from_slice(rest);
                return Ok(rest.len());
            };
            found
        } else {
            self.small.extend_from_slice(&rest[..rest.len().min(room)]);
            match EntryHeader::parse(self.hash, &self.small)? {
                Some(found) => found,
                None => return Ok(self.small.len() - before),
            }
        };
        let used = length - before;
        let bytes = if before == 0 { rest } else { &self.small };
        self.file.update(&bytes[..length]);
        self.crc.update(&bytes[..length]);
        self.small.clear();
        let offset = self.received.size;
        self.received.size += length as u64;
        let work = self.start(header, offset, visitor)?;
        self.received.add_entry(offset);
        self.inflater.start(header.size);
        self.state = State::Data(work);
        Ok(used)
    }

    fn start(
        &mut self,
        header: EntryHeader,
        offset: u64,
        visitor: &mut dyn Visitor,
    ) -> Result<Work> {
        let size = header.size;
        self.limits.check_object(size)?;
        let reference = match header.kind {
            EntryKind::Whole(kind) => return self.start_whole(kind, size),
            EntryKind::OffsetDelta(distance) => offset
                .checked_sub(distance)
                .and_then(|base| self.received.at_offset(base))
                .map(BaseRef::Entry)
                .ok_or_else(|| corrupt("no entry starts at the position of a delta's base"))?,
            EntryKind::IdDelta(id) => {
                if !self.received.ids().contains(id) {
                    // The base may be among the objects whose ids are being computed.
                    self.collect_all(None, visitor)?;
                }
                BaseRef::Id(id)
            }
        };
        let base = if size <= (self.limits.memory / 8) as u64 {
            self.base_in_memory(reference)
        } else {
            None
        };
        Ok(match base {
            Some(base) => Work::Delta {
                base,
                reference,
                delta: Vec::with_capacity(capacity(size)),
            },
            None => Work::Later(reference, Vec::with_capacity(deltas::MAX_SIZES)),
        })
    }

    fn start_whole(&self, kind: ObjectKind, size: u64) -> Result<Work> {
        let hold = if kind == ObjectKind::Blob {
            size <= (self.limits.memory / 8) as u64
        } else if size <= (self.limits.memory / 4) as u64 {
            true
        } else {
            return Err(self.limits.too_little_memory(size.saturating_mul(4)));
        };
        let workers = self.received.workers.as_ref();
        if hold && workers.is_some_and(|workers| workers.admits(Workers::cost(size))) {
            let content = Vec::with_capacity(capacity(size));
            return Ok(Work::Held { kind, content });
        }
        Ok(Work::Whole {
            kind,
            size,
            hasher: ObjectHasher::new(self.hash, kind, size),
            held: hold.then(|| Vec::with_capacity(capacity(size))),
        })
    }

    fn base_in_memory(&mut self, reference: BaseRef) -> Option<Base> {
        let received = &mut self.received;
        let entry = match reference {
            BaseRef::Entry(entry) => entry,
            BaseRef::Id(id) => received.ids().get(id).copied()?,
        };
        if let Some((kind, base)) = received.cache.get(Key::from(entry)) {
            return Some(Base::Known(kind, base));
        }
        let workers = received.workers.as_ref();
        let is_in_progress = workers.is_some_and(|workers| workers.has(entry));
        is_in_progress.then_some(Base::InProgress(entry))
    }

    fn entry_ended(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
        let State::Data(work) = std::mem::replace(&mut self.state, State::Entry) else {
            return Ok(());
        };
        let entry = number(self.received.entries.len() - 1);
        let crc = std::mem::take(&mut self.crc).finalize();
        self.received.entries[entry as usize].crc = crc;
        self.left -= 1;
        match work {
            Work::Whole {
                kind,
                size,
                hasher,
                held,
            } => {
                let id = hasher.finish()?;
                let content = held.map(Bytes::from);
                self.visit(entry, kind, id, size, content, visitor)?;
            }
            Work::Held { kind, content } => {
                let cost = Workers::cost(content.len() as u64);
                self.make_room(cost, None, visitor)?;
                let content = JobContent::Whole(content);
                self.submit(
                    Job {
                        entry,
                        kind,
                        content,
                    },
                    cost,
                    visitor,
                )?;
            }
            Work::Delta {
                base,
                reference,
                delta,
            } => self.delta_ended(entry, base, reference, delta, visitor)?,
            Work::Later(reference, start) => {
                // A delta without sizes is reported when it is resolved.
                let size = deltas::sizes(&start).ok().map(|(_, size, _)| size);
                self.received.add_pending(entry, reference, size);
            }
        }
        self.next_entry();
        Ok(())
    }

    fn delta_ended(
        &mut self,
        entry: u32,
        mut base: Base,
        reference: BaseRef,
        delta: Vec<u8>,
        visitor: &mut dyn Visitor,
    ) -> Result<()> {
        let (base_size, size, _) = deltas::sizes(&delta)?;
        self.limits.check_object(size)?;
        if size > (self.limits.memory / 4) as u64 {
            self.received.add_pending(entry, reference, Some(size));
            return Ok(());
        }
        self.received.add_expanded_bytes(size, self.received.size)?;
        let bytes = (delta.len() as u64).saturating_add(size);
        let cost = Workers::cost(bytes.saturating_add(base_size));
        let workers = self.received.workers.as_ref();
        if !workers.is_some_and(|workers| workers.admits(cost)) {
            self.collect_all(Some(&mut base), visitor)?;
            let Base::Known(kind, base) = base else {
                return Err(lost_base());
            };
            let mut content = Vec::with_capacity(capacity(size));
            deltas::apply(&base, &delta, |piece| content.extend_from_slice(piece))?;
            let id = id_of(self.hash, kind, &content)?;
            return self.visit(entry, kind, id, size, Some(content.into()), visitor);
        }
        self.make_room(cost, Some(&mut base), visitor)?;
        let mut delta = delta;
        if let (Base::InProgress(of), Some(workers)) = (&base, &mut self.received.workers) {
            match workers.submit_waiting(entry, *of, (delta, size), cost) {
                Ok(()) => return Ok(()),
                Err(unsubmitted) => delta = unsubmitted,
            }
            self.collect(Some(&mut base), visitor)?;
        }
        let Base::Known(kind, base) = base else {
            return Err(lost_base());
        };
        let content = JobContent::Delta { base, delta, size };
        let job = Job {
            entry,
            kind,
            content,
        };
        self.submit(job, cost, visitor)
    }

    fn submit(&mut self, job: Job, cost: usize, visitor: &mut dyn Visitor) -> Result<()> {
        let workers = self.received.workers.as_mut();
        let finished = workers.map_or(0, |workers| workers.submit(job, cost));
        if finished < COLLECTED_JOBS {
            return Ok(());
        }
        self.collect(None, visitor)
    }

    /// Waits until a job of this cost can be submitted.
    fn make_room(
        &mut self,
        cost: usize,
        mut base: Option<&mut Base>,
        visitor: &mut dyn Visitor,
    ) -> Result<()> {
        while let Some(workers) = &self.received.workers
            && !workers.has_room(cost)
        {
            workers.advance();
            self.collect(base.as_deref_mut(), visitor)?;
        }
        Ok(())
    }

    /// Waits for all jobs.
    fn collect_all(
        &mut self,
        mut base: Option<&mut Base>,
        visitor: &mut dyn Visitor,
    ) -> Result<()> {
        while let Some(workers) = &self.received.workers
            && workers.len() > 0
        {
            workers.advance();
            self.collect(base.as_deref_mut(), visitor)?;
        }
        Ok(())
    }

    /// Passes the objects of finished jobs to `visitor`. If `base` is one of them, it becomes
    /// known.
    fn collect(&mut self, mut base: Option<&mut Base>, visitor: &mut dyn Visitor) -> Result<()> {
        let workers = self.received.workers.as_mut();
        for done in workers.map(Workers::collect).unwrap_or_default() {
            let Finished {
                entry,
                kind,
                result,
            } = done;
            let (id, content) = result?;
            if let Some(base) = &mut base
                && matches!(base, Base::InProgress(of) if *of == entry)
            {
                **base = Base::Known(kind, content.clone());
            }
            let size = content.len() as u64;
            self.visit(entry, kind, id, size, Some(content), visitor)?;
        }
        Ok(())
    }

    fn visit(
        &mut self,
        entry: u32,
        kind: ObjectKind,
        id: ObjectId,
        size: u64,
        content: Option<Bytes>,
        visitor: &mut dyn Visitor,
    ) -> Result<()> {
        visitor.object(PackObject {
            id,
            kind,
            size,
            content: content.as_deref(),
        })?;
        self.received.resolved(entry, kind, id);
        if let Some(content) = content {
            self.received.cache.insert(Key::from(entry), kind, content);
        }
        Ok(())
    }
}

fn lost_base() -> Error {
    let message = "the base of a delta was neither kept nor passed on by the thread that made it";
    Error::new(ErrorKind::Internal, message)
}

/// Returns the capacity reserved for content whose size is not verified yet.
fn capacity(size: u64) -> usize {
    usize::try_from(size.min(1 << 20)).expect("because it is at most 1 MiB")
}
