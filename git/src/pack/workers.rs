//! Threads that apply deltas and compute the ids of objects, beside the one that reads a pack.
//!
//! The reader submits [`Job`]s and collects [`Finished`] ones. A delta whose base is not finished
//! waits for it. The reader bounds the memory: it submits a job only if there is
//! [room](Workers::has_room), and else does a job itself or waits for one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use bytes::Bytes;

use super::delta as deltas;
use crate::error::{Error, ErrorKind, Result};
use crate::object::{ObjectKind, id_of};
use crate::{HashKind, ObjectId};

/// The fewest objects of a pack for which threads are started.
const MIN_OBJECTS: u32 = 256;

/// The most threads beside the reader, which itself inflates all entries.
const MAX_WORKERS: usize = 7;

/// The most bytes of jobs, whatever the memory limit: more would not keep more threads busy.
const MAX_JOB_BYTES: usize = 64 << 20;

/// Bytes that a job costs in addition to its content.
const OVERHEAD_BYTES: usize = 300;

/// An object whose id is to be computed.
pub(super) struct Job {
    pub(super) entry: u32,
    pub(super) kind: ObjectKind,
    pub(super) content: JobContent,
}

/// The content of a [`Job`]'s object.
pub(super) enum JobContent {
    Whole(Vec<u8>),
    Delta {
        base: Bytes,
        delta: Vec<u8>,
        /// The size of the result in bytes, as the delta states it.
        size: u64,
    },
}

/// An object whose id was computed, with its content.
pub(super) struct Finished {
    pub(super) entry: u32,
    pub(super) kind: ObjectKind,
    pub(super) result: Result<(ObjectId, Bytes)>,
}

/// A delta whose base is not finished.
struct WaitingDelta {
    entry: u32,
    delta: Vec<u8>,
    size: u64,
}

/// Jobs of one pack, and the threads that do them.
pub(super) struct Workers {
    hash: HashKind,
    shared: Arc<Shared>,
    max_bytes: usize,
    /// Costs of the jobs that were submitted and not collected.
    costs: HashMap<u32, usize>,
    held_bytes: usize,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Signals threads that a job is ready.
    work: Condvar,
    /// Signals the reader that a job is finished.
    finished: Condvar,
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<Job>,
    /// Deltas by the entry of their base.
    waiting: HashMap<u32, Vec<WaitingDelta>>,
    /// Entries of jobs that are ready, being done, or waiting.
    unfinished: HashSet<u32>,
    finished: Vec<Finished>,
    idle_threads: usize,
    is_reader_waiting: bool,
    is_closed: bool,
}

impl Workers {
    /// Starts threads for a pack of `objects` objects; `None` if they would not pay, because the
    /// pack is small or the machine has one processor. Jobs take at most a quarter of
    /// `memory` bytes.
    pub(super) fn start(hash: HashKind, objects: u32, memory: usize) -> Option<Self> {
        if objects < MIN_OBJECTS {
            return None;
        }
        let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::with_threads(hash, (processors - 1).min(MAX_WORKERS), memory)
    }

    fn with_threads(hash: HashKind, threads: usize, memory: usize) -> Option<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            finished: Condvar::new(),
        });
        let started = (0..threads).filter(|_| {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new().name("branchline-pack".to_owned());
            thread.spawn(move || shared.run_jobs(hash)).is_ok()
        });
        (started.count() > 0).then(|| Self {
            hash,
            shared,
            max_bytes: (memory / 4).min(MAX_JOB_BYTES),
            costs: HashMap::new(),
            held_bytes: 0,
        })
    }

    /// Returns the bytes that a job with `bytes` bytes of content counts.
    pub(super) fn cost(bytes: u64) -> usize {
        usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .saturating_add(OVERHEAD_BYTES)
    }

    /// Returns whether a job of this cost may be among others.
    pub(super) fn admits(&self, cost: usize) -> bool {
        cost <= self.max_bytes
    }

    /// Returns whether a job of this cost can be submitted now.
    pub(super) fn has_room(&self, cost: usize) -> bool {
        self.held_bytes.saturating_add(cost) <= self.max_bytes
    }

    /// Returns the bytes of the jobs that were not collected.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Returns the number of jobs that were not collected.
    pub(super) fn len(&self) -> usize {
        self.costs.len()
    }

    /// Returns whether the job of an entry was submitted and not collected.
    pub(super) fn has(&self, entry: u32) -> bool {
        self.costs.contains_key(&entry)
    }

    /// Submits a job; returns how many finished ones wait to be collected.
    pub(super) fn submit(&mut self, job: Job, cost: usize) -> usize {
        self.add_cost(job.entry, cost);
        let mut queue = self.shared.lock();
        queue.unfinished.insert(job.entry);
        queue.ready.push_back(job);
        self.shared.wake_thread(&queue);
        queue.finished.len()
    }

    /// Submits a delta whose base is the object of another job; returns the delta if that job is
    /// finished already.
    pub(super) fn submit_waiting(
        &mut self,
        entry: u32,
        base: u32,
        (delta, size): (Vec<u8>, u64),
        cost: usize,
    ) -> std::result::Result<(), Vec<u8>> {
        let mut queue = self.shared.lock();
        if !queue.unfinished.contains(&base) {
            return Err(delta);
        }
        queue.unfinished.insert(entry);
        let waiting = queue.waiting.entry(base).or_default();
        waiting.push(WaitingDelta { entry, delta, size });
        drop(queue);
        self.add_cost(entry, cost);
        Ok(())
    }

    fn add_cost(&mut self, entry: u32, cost: usize) {
        self.costs.insert(entry, cost);
        self.held_bytes += cost;
    }

    /// Does a job, unless some are finished, or waits until one is.
    pub(super) fn advance(&self) {
        let mut queue = self.shared.lock();
        while queue.finished.is_empty() && !queue.unfinished.is_empty() {
            if let Some(job) = queue.ready.pop_front() {
                drop(queue);
                let finished = job.run(self.hash);
                queue = self.shared.lock();
                self.shared.finish(&mut queue, finished);
            } else {
                queue.is_reader_waiting = true;
                queue = wait(&self.shared.finished, queue);
                queue.is_reader_waiting = false;
            }
        }
    }

    /// Takes the finished jobs.
    pub(super) fn collect(&mut self) -> Vec<Finished> {
        let finished = std::mem::take(&mut self.shared.lock().finished);
        for done in &finished {
            if let Some(cost) = self.costs.remove(&done.entry) {
                self.held_bytes -= cost;
            }
        }
        finished
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.is_closed = true;
        queue.ready.clear();
        queue.waiting.clear();
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_thread(&self, queue: &Queue) {
        if queue.idle_threads > 0 && !queue.ready.is_empty() {
            self.work.notify_one();
        }
    }

    /// Does jobs until the reader is dropped.
    fn run_jobs(&self, hash: HashKind) {
        let mut queue = self.lock();
        while !queue.is_closed {
            if let Some(job) = queue.ready.pop_front() {
                drop(queue);
                let finished = job.run(hash);
                queue = self.lock();
                self.finish(&mut queue, finished);
            } else {
                queue.idle_threads += 1;
                queue = wait(&self.work, queue);
                queue.idle_threads -= 1;
            }
        }
    }

    /// Records a finished job, and makes the deltas ready that waited for it.
    fn finish(&self, queue: &mut Queue, finished: Finished) {
        queue.unfinished.remove(&finished.entry);
        let waiting = queue.waiting.remove(&finished.entry).unwrap_or_default();
        if let Ok((_, base)) = &finished.result {
            // First, because their base is in the processor's cache.
            for WaitingDelta { entry, delta, size } in waiting.into_iter().rev() {
                let base = base.clone();
                queue.ready.push_front(Job {
                    entry,
                    kind: finished.kind,
                    content: JobContent::Delta { base, delta, size },
                });
            }
        }
        queue.finished.push(finished);
        if queue.is_reader_waiting {
            self.finished.notify_one();
        }
        self.wake_thread(queue);
    }
}

fn wait<'a>(condition: &Condvar, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
    condition
        .wait(queue)
        .unwrap_or_else(PoisonError::into_inner)
}

impl Job {
    fn run(self, hash: HashKind) -> Finished {
        let Self {
            entry,
            kind,
            content,
        } = self;
        // The reader waits for each job, also for one that panics.
        let result = catch_unwind(AssertUnwindSafe(|| content.compute(hash, kind)));
        let panicked = |_| {
            let message = "the thread that computes the id of an object panicked";
            Err(Error::new(ErrorKind::Internal, message))
        };
        Finished {
            entry,
            kind,
            result: result.unwrap_or_else(panicked),
        }
    }
}

impl JobContent {
    fn compute(self, hash: HashKind, kind: ObjectKind) -> Result<(ObjectId, Bytes)> {
        let content = match self {
            Self::Whole(content) => content,
            Self::Delta { base, delta, size } => {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                let mut content = Vec::with_capacity(size);
                deltas::apply(&base, &delta, |piece| content.extend_from_slice(piece))?;
                content
            }
        };
        Ok((id_of(hash, kind, &content)?, content.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: ObjectKind = ObjectKind::Blob;

    fn whole(entry: u32) -> Job {
        Job {
            entry,
            kind: KIND,
            content: JobContent::Whole(vec![u8::try_from(entry % 251).unwrap(); 10]),
        }
    }

    /// A delta that copies ten bytes and adds one.
    fn delta(more: u8) -> Vec<u8> {
        vec![10, 11, 0x90, 10, 1, more]
    }

    fn all(workers: &mut Workers) -> Vec<Finished> {
        let mut all = Vec::new();
        while workers.len() > 0 {
            workers.advance();
            all.extend(workers.collect());
        }
        all
    }

    #[test]
    fn each_job_is_finished_once_and_deltas_after_their_bases() {
        let mut workers = Workers::with_threads(HashKind::Sha1, 3, 1 << 20).unwrap();
        let mut expected = HashMap::new();
        for entry in 0..200_u32 {
            workers.submit(whole(2 * entry), 10);
            let mut content = vec![u8::try_from(2 * entry % 251).unwrap(); 10];
            expected.insert(2 * entry, content.clone());
            let child = (delta(9), 11);
            // The base may be finished, which the reader then finds among the collected.
            if workers
                .submit_waiting(2 * entry + 1, 2 * entry, child, 10)
                .is_ok()
            {
                content.push(9);
                expected.insert(2 * entry + 1, content);
            }
        }
        assert_eq!(workers.held_bytes(), 10 * expected.len());
        let finished = all(&mut workers);
        assert_eq!((workers.held_bytes(), finished.len()), (0, expected.len()));
        for done in finished {
            let (id, content) = done.result.unwrap();
            assert_eq!(content, expected[&done.entry]);
            assert_eq!(id, id_of(HashKind::Sha1, KIND, &content).unwrap());
        }
    }

    #[test]
    fn a_broken_delta_is_an_error_and_what_waits_for_it_never_ends_the_reader() {
        let mut workers = Workers::with_threads(HashKind::Sha1, 1, 1 << 20).unwrap();
        let broken = JobContent::Delta {
            base: Bytes::from_static(&[1; 10]),
            delta: vec![10, 11, 0],
            size: 11,
        };
        workers.submit(
            Job {
                entry: 1,
                kind: KIND,
                content: broken,
            },
            10,
        );
        let _ = workers.submit_waiting(2, 1, (delta(1), 11), 10);
        workers.advance();
        let finished = workers.collect();
        let error = finished[0].result.as_ref().unwrap_err();
        assert_eq!((finished.len(), error.kind()), (1, ErrorKind::Corrupt));
    }

    #[test]
    fn jobs_take_a_quarter_of_the_memory() {
        let workers = Workers::with_threads(HashKind::Sha1, 1, 4000).unwrap();
        assert!(workers.admits(1000) && !workers.admits(1001));
        let unbounded = Workers::with_threads(HashKind::Sha1, 1, usize::MAX).unwrap();
        assert!(!unbounded.admits(MAX_JOB_BYTES + 1));
        assert!(Workers::start(HashKind::Sha1, MIN_OBJECTS - 1, 4000).is_none());
    }
}
