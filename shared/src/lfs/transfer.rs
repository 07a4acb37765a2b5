//! Transfers the LFS objects that new pointers name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

use super::inventory::Inventory;
use super::{LfsStore, MAX_BATCH_OBJECTS, Pointer, PointerScanner, verify_stream};
use crate::error::{Error, ErrorKind, Result};
use crate::git::pack::incoming::{PublishHook, ReceivedObjects};
use crate::retry::RetryPolicy;

/// Maximum number of concurrent transfers.
const MAX_TRANSFERS: usize = 32;
/// Memory of one transfer of a large object, in bytes: the part that is sent, the part that is
/// received meanwhile, and buffers between them.
const TRANSFER_BYTES: u64 = 16 << 20;
/// Unit of the memory of transfers, in bytes: the buffers of a connection.
const MEMORY_UNIT_BYTES: u64 = 256 << 10;
/// Number of objects from which a list of the target is requested instead of each object's size.
const MIN_LISTED: usize = 16;
/// Number of batches that are requested ahead of the transfers.
const BATCHES_AHEAD: usize = 2;

/// Maximum number of missing objects that a report, a log or an error names.
pub const MAX_NAMED_OBJECTS: usize = 20;

/// Counts of a transfer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TransferReport {
    /// Objects copied.
    pub objects: u64,
    /// Bytes of the copied objects.
    pub bytes: u64,
    /// Objects that the target lacks, because the source could not provide them.
    pub missing: u64,
    /// Ids of the first [`MAX_NAMED_OBJECTS`] missing objects.
    pub missing_oids: Vec<String>,
    /// Objects left out because one side cannot store LFS objects.
    pub left_out: u64,
    /// Ids of the first [`MAX_NAMED_OBJECTS`] objects that were left out.
    pub left_out_oids: Vec<String>,
}

/// Copies the objects that new pointers name, before refs move. Objects that the target has
/// are not copied, so that an interrupted transfer is resumed. Objects that the source cannot
/// provide are recorded at the target.
pub struct LfsTransfer {
    pub(super) source: Option<Arc<dyn LfsStore>>,
    has_place: OnceCell<bool>,
    pub(super) target: Option<Inventory>,
    is_required: bool,
    // In units of `MEMORY_UNIT_BYTES`.
    memory: Semaphore,
    memory_units: u32,
    pub(super) retry: RetryPolicy,
    objects: AtomicU64,
    bytes: AtomicU64,
    // Objects in work, with the begin of their transfers; also those of transfers that were dropped.
    in_work: Mutex<BTreeMap<Pointer, Instant>>,
    // The target's objects are not compared with its record.
    skips_comparison: AtomicBool,
    // Objects for which the target has no store. A set, because a push that is retried leaves the
    // same objects out.
    left_out: Mutex<BTreeSet<Pointer>>,
}

impl fmt::Debug for LfsTransfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LfsTransfer")
            .field("memory_units", &self.memory_units)
            .field("objects", &self.objects)
            .finish_non_exhaustive()
    }
}

/// Result of the copy of one object.
enum CopyResult {
    Copied,
    /// The source cannot provide the object, for this reason.
    Unavailable(Error),
}

impl LfsTransfer {
    /// Copies from `source` to `target`, holding about `memory` bytes. If one of them is
    /// `None`, all objects are left out, with a warning.
    pub fn new(
        source: Option<Arc<dyn LfsStore>>,
        target: Option<Arc<dyn LfsStore>>,
        memory: usize,
    ) -> Self {
        let units = memory as u64 / MEMORY_UNIT_BYTES;
        let memory_units = u32::try_from(units).unwrap_or(u32::MAX).clamp(1, 1 << 16);
        Self {
            source,
            has_place: OnceCell::new(),
            target: target.map(Inventory::new),
            is_required: false,
            memory: Semaphore::new(memory_units as usize),
            memory_units,
            retry: RetryPolicy::new(MAX_TRANSFERS),
            objects: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            in_work: Mutex::default(),
            skips_comparison: AtomicBool::new(false),
            left_out: Mutex::default(),
        }
    }

    pub(super) fn is_required(&self) -> bool {
        self.is_required
    }

    /// Makes a missing object an error.
    #[must_use]
    pub fn with_required(self, is_required: bool) -> Self {
        Self {
            is_required,
            ..self
        }
    }

    /// Leaves out the comparison of the target's objects with its record in this run.
    pub fn skip_comparison(&self) {
        self.skips_comparison.store(true, Ordering::Relaxed);
    }

    pub(super) fn skips_comparison(&self) -> bool {
        self.skips_comparison.load(Ordering::Relaxed)
    }

    /// Returns the store of the source; `None` if the source has no place of LFS objects.
    pub(super) async fn source(&self) -> Result<Option<&Arc<dyn LfsStore>>> {
        let Some(source) = &self.source else {
            return Ok(None);
        };
        let find = || self.retry.run(|| source.has_place());
        let has_place = *self.has_place.get_or_try_init(find).await?;
        Ok(has_place.then_some(source))
    }

    fn left_out(&self) -> MutexGuard<'_, BTreeSet<Pointer>> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the numbers of objects and bytes that were copied so far.
    pub fn copied(&self) -> (u64, u64) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (of(&self.objects), of(&self.bytes))
    }

    /// Returns the counts so far.
    pub async fn report(&self) -> TransferReport {
        let mut report = TransferReport {
            objects: self.objects.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            ..TransferReport::default()
        };
        let Some(target) = &self.target else {
            (report.left_out, report.left_out_oids) = named(&self.left_out());
            return report;
        };
        let missing = target.if_loaded(|record| named(&record.missing));
        let has_source = self.source.is_some() && self.has_place.get() != Some(&false);
        match (missing.await, has_source) {
            (None, _) => {}
            (Some((count, named)), false) => {
                (report.left_out, report.left_out_oids) = (count, named);
            }
            (Some((count, named)), true) => {
                (report.missing, report.missing_oids) = (count, named);
            }
        }
        report
    }

    /// Copies those of `pointers` that the target lacks, and records the result at the target.
    /// An object that the source cannot provide does not stop the others.
    ///
    /// # Errors
    /// Failures of the target, and of the source as a whole. The failure of an object, after all
    /// others were copied, if objects are required.
    pub async fn copy(&self, pointers: &[Pointer]) -> Result<()> {
        // Empty objects are not copied, because git-lfs does not store them either.
        let pointers: Vec<Pointer> = pointers
            .iter()
            .filter(|pointer| pointer.size_bytes > 0)
            .cloned()
            .collect();
        if pointers.is_empty() {
            return Ok(());
        }
        let (Some(source), Some(target)) = (self.source().await?, &self.target) else {
            return self.leave_out(pointers).await;
        };
        let unavailable = match self.lacking(target, &pointers).await? {
            Some(lacking) => self.replace(source, &*target.store, &lacking).await?,
            None => self.copy_lacking(source, &*target.store, &pointers).await?,
        };
        self.record_copies(target, &pointers, &unavailable).await
    }

    /// Records the result of copies.
    ///
    /// # Errors
    /// If objects are unavailable and required; nothing is recorded then, because no ref moves.
    pub(super) async fn record_copies(
        &self,
        target: &Inventory,
        pointers: &[Pointer],
        unavailable: &BTreeMap<Pointer, Error>,
    ) -> Result<()> {
        for (pointer, error) in unavailable.iter().take(MAX_NAMED_OBJECTS) {
            tracing::warn!(
                lfs.oid = pointer.oid,
                size_bytes = pointer.size_bytes,
                error = %error.report(),
                "the source does not provide an LFS object"
            );
        }
        if self.is_required && !unavailable.is_empty() {
            return Err(missing_error(unavailable));
        }
        let update = target.update(|record| {
            for pointer in pointers {
                if unavailable.contains_key(pointer) {
                    record.set_missing(pointer.clone());
                } else {
                    record.set_stored(pointer.clone());
                }
            }
        });
        update.await
    }

    /// Leaves objects out, because one side cannot store LFS objects. The target records them, so
    /// that a later run copies them if the source can provide them then.
    pub(super) async fn leave_out(&self, pointers: Vec<Pointer>) -> Result<()> {
        tracing::warn!(
            lfs.left_out = pointers.len(),
            "LFS objects are left out, because one side (such as CodeCommit) cannot store them"
        );
        let Some(target) = &self.target else {
            self.left_out().extend(pointers);
            return Ok(());
        };
        let update = target.update(|record| {
            for pointer in &pointers {
                if !record.stored.contains(pointer) {
                    record.set_missing(pointer.clone());
                }
            }
        });
        update.await
    }

    /// Returns those of `pointers` that the target lacks, if one list shows all of its objects and
    /// costs less than one request for each pointer.
    async fn lacking(
        &self,
        target: &Inventory,
        pointers: &[Pointer],
    ) -> Result<Option<Vec<Pointer>>> {
        let Some(store) = target.store.listed() else {
            return Ok(None);
        };
        if pointers.len() < MIN_LISTED {
            return Ok(None);
        }
        let listed = self.retry.run(|| store.list("")).await?;
        if !listed.is_complete {
            return Ok(None);
        }
        let stored: BTreeSet<Pointer> = listed.objects.into_iter().collect();
        let lacking = pointers.iter().filter(|pointer| !stored.contains(pointer));
        Ok(Some(lacking.cloned().collect()))
    }

    /// Copies those of `pointers` that the target lacks; returns those that the source cannot
    /// provide, with the reasons.
    async fn copy_lacking(
        &self,
        source: &Arc<dyn LfsStore>,
        target: &dyn LfsStore,
        pointers: &[Pointer],
    ) -> Result<BTreeMap<Pointer, Error>> {
        let unavailable = Mutex::default();
        let refused = &unavailable;
        let batches = batches(pointers).map(|batch| async move {
            let missing = self.retry.run(|| target.missing(&batch)).await?;
            self.prepare(source, missing, refused).await
        });
        self.copy_batches(batches, source, target, refused).await?;
        Ok(unavailable
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner))
    }

    /// Copies objects that the target is known to lack, or to store with wrong content; returns
    /// those that the source cannot provide, with the reasons.
    pub(super) async fn replace(
        &self,
        source: &Arc<dyn LfsStore>,
        target: &dyn LfsStore,
        pointers: &[Pointer],
    ) -> Result<BTreeMap<Pointer, Error>> {
        let unavailable = Mutex::default();
        let batches = batches(pointers).map(|batch| self.prepare(source, batch, &unavailable));
        self.copy_batches(batches, source, target, &unavailable)
            .await?;
        Ok(unavailable
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner))
    }

    /// Prepares reading a batch; returns the objects to copy.
    async fn prepare(
        &self,
        source: &Arc<dyn LfsStore>,
        batch: Vec<Pointer>,
        unavailable: &Mutex<BTreeMap<Pointer, Error>>,
    ) -> Result<Vec<Pointer>> {
        if batch.is_empty() {
            return Ok(batch);
        }
        match self.retry.run(|| source.prepare(&batch)).await {
            Ok(_) => Ok(batch),
            // The source serves no LFS objects at all.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let reason = error.report();
                let failures = batch.into_iter().map(|pointer| {
                    let error = Error::new(ErrorKind::NotFound, reason.clone());
                    (pointer, error)
                });
                lock(unavailable).extend(failures);
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    async fn copy_batches<F>(
        &self,
        batches: impl stream::Stream<Item = F>,
        source: &Arc<dyn LfsStore>,
        target: &dyn LfsStore,
        unavailable: &Mutex<BTreeMap<Pointer, Error>>,
    ) -> Result<()>
    where
        F: Future<Output = Result<Vec<Pointer>>>,
    {
        let prepared = batches.buffered(BATCHES_AHEAD);
        let objects = prepared
            .map_ok(|batch| stream::iter(batch.into_iter().map(Ok::<_, Error>)))
            .try_flatten();
        let copies = objects.try_for_each_concurrent(MAX_TRANSFERS, |pointer| async move {
            match self.copy_one(&**source, target, &pointer).await? {
                CopyResult::Copied => {
                    self.objects.fetch_add(1, Ordering::Relaxed);
                }
                CopyResult::Unavailable(error) => {
                    lock(unavailable).insert(pointer, error);
                }
            }
            Ok(())
        });
        copies.await
    }

    async fn copy_one(
        &self,
        source: &dyn LfsStore,
        target: &dyn LfsStore,
        pointer: &Pointer,
    ) -> Result<CopyResult> {
        let bytes = pointer.size_bytes.min(TRANSFER_BYTES) + MEMORY_UNIT_BYTES;
        let units = u32::try_from(bytes / MEMORY_UNIT_BYTES).unwrap_or(u32::MAX);
        let permits = self.memory.acquire_many(units.min(self.memory_units));
        let _permits = permits
            .await
            .expect("because the semaphore is never closed");
        lock(&self.in_work).insert(pointer.clone(), Instant::now());
        let result = self
            .retry
            .run(|| self.transfer_object(source, target, pointer))
            .await;
        lock(&self.in_work).remove(pointer);
        result
    }

    /// Returns the error for an object whose transfer took at least half of the time since `begin`
    /// and did not end, if this run copied nothing: further runs would not copy it either.
    pub fn stuck_object_error(&self, begin: Instant) -> Option<Error> {
        if self.bytes.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let took = begin.elapsed();
        let in_work = lock(&self.in_work);
        let (pointer, since) = in_work.iter().min_by_key(|(_, since)| **since)?;
        if since.elapsed() < took / 2 {
            return None;
        }
        let message = format!(
            "LFS object {} of {} bytes takes longer than one run: it did not arrive in {} seconds",
            pointer.oid,
            pointer.size_bytes,
            since.elapsed().as_secs()
        );
        let hint = "raise the function's timeout or its memory, which brings network, or copy the \
                    object with `git lfs push`";
        Some(Error::new(ErrorKind::FileTooLarge, message).with_hint(hint))
    }

    async fn transfer_object(
        &self,
        source: &dyn LfsStore,
        target: &dyn LfsStore,
        pointer: &Pointer,
    ) -> Result<CopyResult> {
        let upload = target.resume(pointer).await?;
        let position = upload.as_ref().map_or(0, |upload| upload.position());
        let content = match source.read_from(pointer, position).await {
            Ok(content) => content,
            Err(error) if is_of_one_object(error.kind()) => {
                return Ok(CopyResult::Unavailable(error));
            }
            Err(error) => return Err(error),
        };
        // A failure of the source reaches the target as the end of its input.
        let source_failure = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&source_failure);
        let note = move |error: &Error| *lock(&noted) = Some(error.kind());
        let count = |bytes| {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        };
        let written = if let Some(upload) = upload {
            let content = Box::pin(content.inspect_err(note));
            upload.write(content, &count).await
        } else {
            let content = verify_stream(pointer, content).inspect_err(note);
            let written = target.write(pointer, Box::pin(content)).await;
            written.map(|()| count(pointer.size_bytes))
        };
        let Err(error) = written else {
            return Ok(CopyResult::Copied);
        };
        let is_of_one_object = match *lock(&source_failure) {
            Some(kind) => is_of_one_object(kind),
            // Its content is wrong, or the target accepts smaller objects.
            None => matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::FileTooLarge),
        };
        if is_of_one_object {
            Ok(CopyResult::Unavailable(error))
        } else {
            Err(error)
        }
    }
}

/// Returns the number of objects, and the ids of the first [`MAX_NAMED_OBJECTS`].
fn named(objects: &BTreeSet<Pointer>) -> (u64, Vec<String>) {
    let named = objects.iter().take(MAX_NAMED_OBJECTS);
    let named = named.map(|pointer| pointer.oid.clone()).collect();
    (objects.len() as u64, named)
}

/// Splits objects into batches that servers accept.
fn batches(pointers: &[Pointer]) -> impl stream::Stream<Item = Vec<Pointer>> + use<> {
    let batches: Vec<Vec<Pointer>> = pointers
        .chunks(MAX_BATCH_OBJECTS)
        .map(<[Pointer]>::to_vec)
        .collect();
    stream::iter(batches)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether a failure of the source concerns one object, and a retry cannot mend it.
fn is_of_one_object(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::FileTooLarge | ErrorKind::Config
    )
}

/// Makes the error for required objects that are missing.
pub(super) fn missing_error(unavailable: &BTreeMap<Pointer, Error>) -> Error {
    let mut named: Vec<&str> = unavailable
        .keys()
        .take(MAX_NAMED_OBJECTS)
        .map(|pointer| pointer.oid.as_str())
        .collect();
    let more = format!("and {} more", unavailable.len() - named.len());
    if unavailable.len() > named.len() {
        named.push(&more);
    }
    let first = unavailable.values().next();
    let reason = first.map(Error::report);
    Error::new(
        first.map_or(ErrorKind::NotFound, Error::kind),
        format!(
            "{} required LFS objects are missing: {} ({})",
            unavailable.len(),
            named.join(", "),
            reason.unwrap_or_default()
        ),
    )
    .with_hint(
        "push them to the source with `git lfs push --all`, or mirror the rest without them: \
         `\"lfs\": true`",
    )
}

#[async_trait]
impl PublishHook for LfsTransfer {
    async fn before_publish(&self, objects: &ReceivedObjects) -> crate::git::Result<()> {
        let scanner = objects.scanner::<PointerScanner>();
        let pointers = scanner.map(PointerScanner::pointers).unwrap_or_default();
        Ok(self.copy(&pointers).await?)
    }
}
