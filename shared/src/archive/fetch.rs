//! Fetches, converts and compresses the next contents of an archive concurrently, and returns
//! them in order.
//!
//! Each distinct blob is fetched once. A content that is needed again later is retained
//! compressed, up to [`MAX_RETAINED_BYTES`] in all; beyond that the blob is fetched again
//! for the later entry.
//!
//! A file that the API refuses as too large is opened with [`LargeFiles`]. Of such a file
//! only the checksum and the sizes are computed ahead.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;

use super::convert::{Conversion, LargeConversion, UNCHANGED};
use super::memory_budget::{MemoryBudget, Reservation};
use super::plan::{ArchiveItem, ArchivePlan};
use super::request::ArchiveRequest;
use super::streamed_entry::{
    LargeEntry, LargeFile, LargeFiles, MAX_CONVERTED_BYTES, read_into_memory,
};
use super::tree_source::TreeSource;
use super::walk::Tree;
use super::zip::{EntryDefaults, PackedEntry};
use crate::codecommit::BlobAdmission as _;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::{Commit, EntryMode};

/// Maximum size of compressed contents that are retained for later entries, in bytes.
const MAX_RETAINED_BYTES: usize = 8 * 1024 * 1024;

/// Maximum distance between the entry that is written and an entry that is fetched.
const MAX_ITEMS_AHEAD: usize = 4096;

/// Maximum size of a content that is compressed on the current thread, in bytes, because
/// moving a smaller one to the blocking pool takes longer than compressing it.
const MAX_INLINE_BYTES: usize = 4096;

/// A blob that is being fetched or compressed.
struct PendingFetch {
    // The number of its reservation.
    number: u64,
}

struct FetchedBlob {
    item: usize,
    blob: ObjectId,
    result: Result<FetchResult>,
}

/// Result of a fetch.
enum FetchResult {
    InMemory(Bytes, Reservation),
    Large(Arc<dyn LargeFile>),
}

struct Compressed {
    item: usize,
    content: u32,
    blob: ObjectId,
    result: Result<PreparedContent>,
}

/// Content that is ready to be written.
enum PreparedContent {
    Packed(Vec<(u32, PackedEntry)>, Reservation),
    Large(LargeEntry),
}

/// The content of an item.
pub(super) enum NextContent {
    Packed(PackedEntry),
    Large(LargeEntry),
}

/// Instructions to make one content of a blob.
#[derive(Clone, Copy)]
struct ContentRecipe {
    content: u32,
    mode: EntryMode,
    conversion: Option<Conversion>,
}

/// Fetches the contents of a plan.
pub(super) struct Fetcher<'a> {
    files: &'a dyn TreeSource,
    large_files: Option<&'a dyn LargeFiles>,
    commit: Arc<Commit>,
    defaults: EntryDefaults,
    tree: &'a Tree,
    plan: &'a ArchivePlan,
    concurrency: usize,
    budget: Arc<MemoryBudget>,
    processors: Arc<Semaphore>,
    // Large files are measured one at a time.
    reader: Arc<Semaphore>,
    fetches: FuturesUnordered<BoxFuture<'a, FetchedBlob>>,
    compressions: FuturesUnordered<BoxFuture<'a, Compressed>>,
    pending: HashMap<ObjectId, PendingFetch>,
    // Contents that are needed next, compressed, each with its part of the budget.
    ready: HashMap<u32, (PackedEntry, Reservation)>,
    // Large files by blob, and the measured ones by content.
    opened: HashMap<ObjectId, Arc<dyn LargeFile>>,
    measured: HashMap<u32, LargeEntry>,
    retained: HashMap<u32, PackedEntry>,
    retained_bytes: usize,
    uses_left: Vec<u32>,
    cursor: usize,
    fetches_started: u64,
    requests: u64,
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(
        files: &'a dyn TreeSource,
        request: &'a ArchiveRequest,
        defaults: EntryDefaults,
        tree: &'a Tree,
        plan: &'a ArchivePlan,
    ) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            files,
            large_files: request.large_files.as_deref(),
            commit: Arc::new(request.commit.clone()),
            defaults,
            tree,
            plan,
            concurrency: request.concurrency.max(1),
            budget: MemoryBudget::new(request.memory_bytes),
            processors: Arc::new(Semaphore::new(processors)),
            reader: Arc::new(Semaphore::new(1)),
            fetches: FuturesUnordered::new(),
            compressions: FuturesUnordered::new(),
            pending: HashMap::new(),
            ready: HashMap::new(),
            opened: HashMap::new(),
            measured: HashMap::new(),
            retained: HashMap::new(),
            retained_bytes: 0,
            uses_left: plan.uses.clone(),
            cursor: 0,
            fetches_started: 0,
            requests: 0,
        }
    }

    /// Returns the number of requests so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests + self.large_files.map_or(0, LargeFiles::requests)
    }

    /// Returns the maximum size of the budget that was in use at any time, in bytes.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.budget.peak()
    }

    /// Returns `content` when it is ready, and counts the use.
    pub(super) fn take(&mut self, content: u32) -> Option<NextContent> {
        let at = content as usize;
        if let Some(large) = self.measured.get(&content) {
            self.uses_left[at] -= 1;
            return Some(NextContent::Large(large.clone()));
        }
        let packed = if let Some(packed) = self.retained.get(&content) {
            packed.clone()
        } else {
            self.ready.remove(&content)?.0
        };
        self.uses_left[at] -= 1;
        if self.uses_left[at] == 0 {
            if let Some(packed) = self.retained.remove(&content) {
                self.retained_bytes -= packed.len();
            }
        } else if !self.retained.contains_key(&content) && !self.retain(content, &packed) {
            // The content is fetched again later, so entries that were passed over are rechecked.
            self.cursor = 0;
        }
        Some(NextContent::Packed(packed))
    }

    /// Starts fetches for `next` and the items after it. `awaited` says that the archive
    /// cannot continue without the content of `next`.
    pub(super) fn start(&mut self, next: usize, awaited: bool) {
        if awaited && let Some(&ArchiveItem::File(_, _, content)) = self.plan.items.get(next) {
            self.fetch(next, content);
            let blob = self.plan.contents[content as usize].blob;
            if let Some(fetch) = self.pending.get(&blob) {
                self.budget.prioritize(fetch.number);
            }
        }
        self.cursor = self.cursor.max(next);
        let end = self.plan.items.len().min(next + MAX_ITEMS_AHEAD);
        while self.cursor < end && self.fetches.len() < self.concurrency {
            if let ArchiveItem::File(_, _, content) = self.plan.items[self.cursor] {
                self.fetch(self.cursor, content);
            }
            self.cursor += 1;
        }
    }

    /// Waits until a fetch or compression ends; `None` when none is running.
    pub(super) async fn progress(&mut self, awaited: Option<u32>) -> Option<Result<()>> {
        if self.fetches.is_empty() && self.compressions.is_empty() {
            return None;
        }
        let done = tokio::select! {
            Some(fetched) = self.fetches.next() => self.fetched(fetched),
            Some(compressed) = self.compressions.next() => self.compressed(compressed, awaited),
        };
        Some(done)
    }

    /// Fetches `content` unless it is ready or being fetched.
    fn fetch(&mut self, item: usize, content: u32) {
        let blob = self.plan.contents[content as usize].blob;
        if self.ready.contains_key(&content)
            || self.retained.contains_key(&content)
            || self.measured.contains_key(&content)
            || self.pending.contains_key(&blob)
        {
            return;
        }
        // A blob may be fetched twice, because only one of its contents was retained: so each
        // fetch has a number of its own, in the order of the items.
        self.fetches_started += 1;
        let number = ((item as u64) << 24) | (self.fetches_started & 0xff_ffff);
        self.pending.insert(blob, PendingFetch { number });
        if let Some(file) = self.opened.get(&blob) {
            let file = Arc::clone(file);
            self.prepare_large(item, content, number, file);
            return;
        }
        let pending = self.budget.reserve(number);
        let known = if blob.is_empty_blob() {
            Some(Bytes::new())
        } else {
            self.tree.kept.get(&blob).cloned()
        };
        if let Some(bytes) = known {
            let reservation = pending.into_reservation(bytes.len());
            self.compress(item, content, bytes, reservation);
            return;
        }
        self.requests += 1;
        let (files, large_files) = (self.files, self.large_files);
        self.fetches.push(Box::pin(async move {
            let result = files.file(blob, &pending).await;
            let result = match (result, large_files) {
                (Ok(bytes), _) => {
                    let reservation = pending.into_reservation(bytes.len());
                    Ok(FetchResult::InMemory(bytes, reservation))
                }
                (Err(error), Some(large)) if error.kind() == ErrorKind::FileTooLarge => {
                    large.open(blob).await.map(FetchResult::Large)
                }
                (Err(error), _) => Err(error),
            };
            FetchedBlob { item, blob, result }
        }));
    }

    /// Measures a large file, or reads it into memory when its conversion needs that.
    fn prepare_large(&mut self, item: usize, content: u32, number: u64, file: Arc<dyn LargeFile>) {
        let wanted = self.plan.contents[content as usize];
        let blob = wanted.blob;
        match self.tree.conversions.get(wanted.conversion).of_large_file() {
            LargeConversion::LineEnds(digest) => {
                let reader = Arc::clone(&self.reader);
                let level = self.defaults.level();
                self.compressions.push(Box::pin(async move {
                    let _permit = reader.acquire_owned().await;
                    let large = LargeEntry::measure(file, wanted.mode, digest, level).await;
                    Compressed {
                        item,
                        content,
                        blob,
                        result: large.map(PreparedContent::Large),
                    }
                }));
            }
            LargeConversion::InMemory(attribute) => {
                let pending = self.budget.reserve(number);
                self.fetches.push(Box::pin(async move {
                    let size = file.size_bytes();
                    let result = if size > MAX_CONVERTED_BYTES {
                        Err(cannot_convert(size, attribute))
                    } else {
                        pending.admit(size).await;
                        read_into_memory(file).await.map(|bytes| {
                            let reservation = pending.into_reservation(bytes.len());
                            FetchResult::InMemory(bytes, reservation)
                        })
                    };
                    FetchedBlob { item, blob, result }
                }));
            }
        }
    }

    fn fetched(&mut self, fetched: FetchedBlob) -> Result<()> {
        let FetchedBlob { item, blob, result } = fetched;
        let ArchiveItem::File(_, _, content) = self.plan.items[item] else {
            return Err(Error::new(ErrorKind::Internal, "only files are fetched"));
        };
        match result.map_err(|error| self.with_path(item, error))? {
            FetchResult::InMemory(bytes, reservation) => {
                self.compress(item, content, bytes, reservation);
            }
            FetchResult::Large(file) => {
                self.opened.insert(blob, Arc::clone(&file));
                let number = self.pending.get(&blob).map_or(0, |fetch| fetch.number);
                self.prepare_large(item, content, number, file);
            }
        }
        Ok(())
    }

    /// Adds the path of the file to an error.
    fn with_path(&self, item: usize, error: Error) -> Error {
        let ArchiveItem::File(folder, entry, _) = self.plan.items[item] else {
            return error;
        };
        let folder = &self.tree.folders[folder as usize];
        let path = folder.join(&folder.entries[entry as usize].name);
        error.context(format!("file `{}`", path.escape_debug()))
    }

    /// Compresses `content`, and the other contents of its blob that are still needed.
    fn compress(&mut self, item: usize, content: u32, bytes: Bytes, mut reservation: Reservation) {
        let blob = self.plan.contents[content as usize].blob;
        let is_large = self.opened.contains_key(&blob);
        let mut recipes = vec![];
        let mut sibling = content;
        loop {
            let wanted = self.plan.contents[sibling as usize];
            if sibling == content
                || (!is_large
                    && self.uses_left[sibling as usize] > 0
                    && !self.retained.contains_key(&sibling)
                    && !self.ready.contains_key(&sibling))
            {
                let conversion = wanted.conversion;
                recipes.push(ContentRecipe {
                    content: sibling,
                    mode: wanted.mode,
                    conversion: (conversion != UNCHANGED)
                        .then(|| self.tree.conversions.get(conversion)),
                });
            }
            sibling = self.plan.siblings[sibling as usize];
            if sibling == content {
                break;
            }
        }
        let (commit, defaults) = (Arc::clone(&self.commit), self.defaults);
        let processors = Arc::clone(&self.processors);
        self.compressions.push(Box::pin(async move {
            let size = bytes.len();
            let work = move || pack(&recipes, blob, &bytes, &commit, defaults);
            let result = if size <= MAX_INLINE_BYTES {
                work()
            } else {
                let _permit = processors.acquire_owned().await;
                let span = tracing::Span::current();
                tokio::task::spawn_blocking(move || span.in_scope(work))
                    .await
                    .unwrap_or_else(|error| {
                        Err(Error::new(ErrorKind::Internal, "compressing failed")
                            .with_source(error))
                    })
            };
            let result = result.map(|packed| {
                let held: usize = packed.iter().map(|(_, packed)| packed.len()).sum();
                reservation.shrink(held as u64);
                PreparedContent::Packed(packed, reservation)
            });
            Compressed {
                item,
                content,
                blob,
                result,
            }
        }));
    }

    fn compressed(&mut self, compressed: Compressed, awaited: Option<u32>) -> Result<()> {
        self.pending.remove(&compressed.blob);
        if self.opened.contains_key(&compressed.blob) {
            // The other contents of the blob are made one at a time, and were passed over.
            self.cursor = 0;
        }
        let made = compressed.result;
        let (packed, mut reservation) =
            match made.map_err(|error| self.with_path(compressed.item, error))? {
                PreparedContent::Packed(packed, reservation) => (packed, reservation),
                PreparedContent::Large(large) => {
                    self.measured.insert(compressed.content, large);
                    return Ok(());
                }
            };
        // The awaited content is never dropped, even if another content of the blob was the
        // reason for the fetch.
        let first = match awaited {
            Some(awaited) if packed.iter().any(|(content, _)| *content == awaited) => awaited,
            _ => compressed.content,
        };
        let mut kept = None;
        for (content, packed) in packed {
            if content == first {
                kept = Some(packed);
            } else if !self.retain(content, &packed) {
                self.cursor = 0;
            }
        }
        if let Some(packed) = kept {
            reservation.shrink(packed.len() as u64);
            self.ready.insert(first, (packed, reservation));
        }
        Ok(())
    }

    /// Keeps a compressed content for a later entry; returns false when there is no room.
    fn retain(&mut self, content: u32, packed: &PackedEntry) -> bool {
        let fits = self.retained_bytes + packed.len() <= MAX_RETAINED_BYTES;
        if fits {
            self.retained_bytes += packed.len();
            self.retained.insert(content, packed.clone());
        }
        fits
    }
}

fn cannot_convert(size: u64, attribute: &str) -> Error {
    Error::new(
        ErrorKind::FileTooLarge,
        format!(
            "has {size} bytes; files with the attribute `{attribute}` are converted in memory, \
             up to {MAX_CONVERTED_BYTES} bytes"
        ),
    )
    .with_hint(format!(
        "unset the attribute for the file in .gitattributes: `-{attribute}`"
    ))
}

fn pack(
    recipes: &[ContentRecipe],
    blob: ObjectId,
    bytes: &[u8],
    commit: &Commit,
    defaults: EntryDefaults,
) -> Result<Vec<(u32, PackedEntry)>> {
    recipes
        .iter()
        .map(|recipe| {
            let packed = match recipe.conversion {
                Some(conversion) => {
                    let bytes = conversion.apply(blob, bytes, commit)?;
                    PackedEntry::new(&bytes, recipe.mode, defaults)?
                }
                None => PackedEntry::new(bytes, recipe.mode, defaults)?,
            };
            Ok((recipe.content, packed))
        })
        .collect()
}
