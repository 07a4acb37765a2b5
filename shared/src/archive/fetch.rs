//! Fetches, converts and compresses what an archive needs next, many at once, and hands
//! it out in order.
//!
//! Each distinct blob is fetched once. What is needed again later is kept compressed, up
//! to [`RETAINED_BYTES`]; what does not fit is fetched again when its turn comes.
//!
//! A file that the API refuses as too large is opened elsewhere, if there is such a place.
//! Only what a header needs to know of it is made ready ahead.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use gix_hash::ObjectId;
use tokio::sync::Semaphore;

use super::convert::{Conversion, Streamed, UNCHANGED};
use super::memory_budget::{MemoryBudget, Reservation};
use super::plan::{ArchiveItem, ArchivePlan};
use super::streamed_entry::{
    LargeEntry, LargeFile, LargeFiles, MAX_CONVERTED_BYTES, read_into_memory,
};
use super::tree_source::TreeSource;
use super::walk::Tree;
use super::zip::{EntryDefaults, PackedEntry};
use crate::codecommit::{BlobAdmission as _, Commit, EntryMode};
use crate::error::{Error, ErrorKind, Result};
use crate::name::BlobId;

/// How many compressed bytes are kept for entries that come again.
const RETAINED_BYTES: usize = 8 * 1024 * 1024;

/// How far ahead of the archive entries are looked at.
const LOOK_AHEAD: usize = 4096;

/// Contents up to this size are compressed in place: handing them over takes longer.
const INLINE_BYTES: usize = 4096;

/// One fetch under way.
struct PendingFetch {
    ticket: u64,
}

struct FetchedBlob {
    item: usize,
    blob: ObjectId,
    result: Result<FetchResult>,
}

/// What a fetch led to.
enum FetchResult {
    Held(Bytes, Reservation),
    Large(Arc<dyn LargeFile>),
}

struct Compressed {
    item: usize,
    content: u32,
    blob: ObjectId,
    result: Result<PreparedContent>,
}

/// What is ready to be written.
enum PreparedContent {
    Packed(Vec<(u32, PackedEntry)>, Reservation),
    Large(LargeEntry),
}

/// The content of an item.
pub(super) enum NextContent {
    Packed(PackedEntry),
    Large(LargeEntry),
}

/// How one content of a blob is made.
#[derive(Clone, Copy)]
struct ContentRecipe {
    content: u32,
    kind: EntryMode,
    conversion: Option<Conversion>,
}

/// Gets the contents of a plan.
pub(super) struct Fetcher<'a> {
    files: &'a dyn TreeSource,
    large_files: Option<&'a dyn LargeFiles>,
    commit: Arc<Commit>,
    stamp: EntryDefaults,
    tree: &'a Tree,
    plan: &'a ArchivePlan,
    concurrency: usize,
    budget: Arc<MemoryBudget>,
    processors: Arc<Semaphore>,
    // Large files are read through one after the other.
    reader: Arc<Semaphore>,
    fetches: FuturesUnordered<BoxFuture<'a, FetchedBlob>>,
    compressions: FuturesUnordered<BoxFuture<'a, Compressed>>,
    flights: HashMap<ObjectId, PendingFetch>,
    // What the archive needs next, packed, with the bytes it holds of the budget.
    ready: HashMap<u32, (PackedEntry, Reservation)>,
    // Large files by blob, and those that are ready by content.
    opened: HashMap<ObjectId, Arc<dyn LargeFile>>,
    measured: HashMap<u32, LargeEntry>,
    retained: HashMap<u32, PackedEntry>,
    retained_bytes: usize,
    uses_left: Vec<u32>,
    cursor: usize,
    tickets: u64,
    requests: u64,
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(
        (files, large_files): (&'a dyn TreeSource, Option<&'a dyn LargeFiles>),
        commit: &Commit,
        stamp: EntryDefaults,
        (tree, plan): (&'a Tree, &'a ArchivePlan),
        (concurrency, memory_bytes): (usize, u64),
    ) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            files,
            large_files,
            commit: Arc::new(commit.clone()),
            stamp,
            tree,
            plan,
            concurrency: concurrency.max(1),
            budget: MemoryBudget::new(memory_bytes),
            processors: Arc::new(Semaphore::new(processors)),
            reader: Arc::new(Semaphore::new(1)),
            fetches: FuturesUnordered::new(),
            compressions: FuturesUnordered::new(),
            flights: HashMap::new(),
            ready: HashMap::new(),
            opened: HashMap::new(),
            measured: HashMap::new(),
            retained: HashMap::new(),
            retained_bytes: 0,
            uses_left: plan.uses.clone(),
            cursor: 0,
            tickets: 0,
            requests: 0,
        }
    }

    /// How many requests were made so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests + self.large_files.map_or(0, LargeFiles::requests)
    }

    /// The most bytes of the budget that were held at once.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.budget.peak()
    }

    /// The content of `item`, when it is there; it counts as used then.
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
            // It will be fetched again: look once more at what was passed over.
            self.cursor = 0;
        }
        Some(NextContent::Packed(packed))
    }

    /// Starts what can be started; the archive has come to item `next`, and waits for it
    /// when `awaited`.
    pub(super) fn start(&mut self, next: usize, awaited: bool) {
        if awaited && let Some(&ArchiveItem::File(_, _, content)) = self.plan.items.get(next) {
            self.fetch(next, content);
            let blob = self.plan.contents[content as usize].blob;
            if let Some(flight) = self.flights.get(&blob) {
                self.budget.prioritize(flight.ticket);
            }
        }
        self.cursor = self.cursor.max(next);
        let end = self.plan.items.len().min(next + LOOK_AHEAD);
        while self.cursor < end && self.fetches.len() < self.concurrency {
            if let ArchiveItem::File(_, _, content) = self.plan.items[self.cursor] {
                self.fetch(self.cursor, content);
            }
            self.cursor += 1;
        }
    }

    /// Waits for one step of progress; `None` when nothing is under way.
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

    /// Fetches `content` unless it is there or on its way.
    fn fetch(&mut self, item: usize, content: u32) {
        let blob = self.plan.contents[content as usize].blob;
        if self.ready.contains_key(&content)
            || self.retained.contains_key(&content)
            || self.measured.contains_key(&content)
            || self.flights.contains_key(&blob)
        {
            return;
        }
        // A blob of which one content is there may have lost another: so numbers are new
        // each time, and still in the order of need.
        self.tickets += 1;
        let number = ((item as u64) << 24) | (self.tickets & 0xff_ffff);
        self.flights.insert(blob, PendingFetch { ticket: number });
        if let Some(file) = self.opened.get(&blob) {
            let file = Arc::clone(file);
            self.stream(item, content, number, file);
            return;
        }
        let ticket = self.budget.ticket(number);
        let known = if blob.is_empty_blob() {
            Some(Bytes::new())
        } else {
            self.tree.kept.get(&blob).cloned()
        };
        if let Some(bytes) = known {
            let grant = ticket.into_grant(bytes.len());
            self.compress(item, content, bytes, grant);
            return;
        }
        self.requests += 1;
        let (files, large_files) = (self.files, self.large_files);
        self.fetches.push(Box::pin(async move {
            let result = files.file(BlobId::from(blob), &ticket).await;
            let result = match (result, large_files) {
                (Ok(bytes), _) => {
                    let grant = ticket.into_grant(bytes.len());
                    Ok(FetchResult::Held(bytes, grant))
                }
                (Err(error), Some(large)) if error.kind() == ErrorKind::FileTooLarge => {
                    large.open(blob).await.map(FetchResult::Large)
                }
                (Err(error), _) => Err(error),
            };
            FetchedBlob { item, blob, result }
        }));
    }

    /// Makes a large file ready.
    fn stream(&mut self, item: usize, content: u32, number: u64, file: Arc<dyn LargeFile>) {
        let wanted = self.plan.contents[content as usize];
        let blob = wanted.blob;
        match self.tree.conversions.get(wanted.conversion).streamed() {
            Streamed::LineEnds(digest) => {
                let reader = Arc::clone(&self.reader);
                self.compressions.push(Box::pin(async move {
                    let _turn = reader.acquire_owned().await;
                    let large = LargeEntry::measure(file, wanted.kind, digest).await;
                    Compressed {
                        item,
                        content,
                        blob,
                        result: large.map(PreparedContent::Large),
                    }
                }));
            }
            Streamed::Held(attribute) => {
                let ticket = self.budget.ticket(number);
                self.fetches.push(Box::pin(async move {
                    let size = file.size_bytes();
                    let result = if size > MAX_CONVERTED_BYTES {
                        Err(cannot_convert(size, attribute))
                    } else {
                        ticket.admit(size).await;
                        read_into_memory(file).await.map(|bytes| {
                            let grant = ticket.into_grant(bytes.len());
                            FetchResult::Held(bytes, grant)
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
            FetchResult::Held(bytes, grant) => self.compress(item, content, bytes, grant),
            FetchResult::Large(file) => {
                self.opened.insert(blob, Arc::clone(&file));
                let number = self.flights.get(&blob).map_or(0, |flight| flight.ticket);
                self.stream(item, content, number, file);
            }
        }
        Ok(())
    }

    /// Says which file an error is about.
    fn with_path(&self, item: usize, error: Error) -> Error {
        let ArchiveItem::File(folder, entry, _) = self.plan.items[item] else {
            return error;
        };
        let folder = &self.tree.folders[folder as usize];
        let path = folder.join(&folder.entries[entry as usize].name);
        error.context(format!("file `{}`", path.escape_debug()))
    }

    /// Makes every content of a blob that is still needed; `content` is one of them.
    fn compress(&mut self, item: usize, content: u32, bytes: Bytes, mut grant: Reservation) {
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
                    kind: wanted.kind,
                    conversion: (conversion != UNCHANGED)
                        .then(|| self.tree.conversions.get(conversion)),
                });
            }
            sibling = self.plan.siblings[sibling as usize];
            if sibling == content {
                break;
            }
        }
        let (commit, stamp) = (Arc::clone(&self.commit), self.stamp);
        let processors = Arc::clone(&self.processors);
        self.compressions.push(Box::pin(async move {
            let size = bytes.len();
            let work = move || pack(&recipes, blob, &bytes, &commit, stamp);
            let result = if size <= INLINE_BYTES {
                work()
            } else {
                let _turn = processors.acquire_owned().await;
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
                grant.shrink(held as u64);
                PreparedContent::Packed(packed, grant)
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
        self.flights.remove(&compressed.blob);
        if self.opened.contains_key(&compressed.blob) {
            // Its other contents are made one by one, and were passed over meanwhile.
            self.cursor = 0;
        }
        let made = compressed.result;
        let (packed, mut grant) =
            match made.map_err(|error| self.with_path(compressed.item, error))? {
                PreparedContent::Packed(packed, grant) => (packed, grant),
                PreparedContent::Large(large) => {
                    self.measured.insert(compressed.content, large);
                    return Ok(());
                }
            };
        // What the archive waits for stays for sure, even if another content of the same
        // blob was the reason for the fetch.
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
            grant.shrink(packed.len() as u64);
            self.ready.insert(first, (packed, grant));
        }
        Ok(())
    }

    fn retain(&mut self, content: u32, packed: &PackedEntry) -> bool {
        let fits = self.retained_bytes + packed.len() <= RETAINED_BYTES;
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
            "has {size} bytes and the attribute `{attribute}`, for which it must be held, and \
             {MAX_CONVERTED_BYTES} bytes are the most that is"
        ),
    )
    .with_hint(format!(
        "take the attribute off the file in .gitattributes: `-{attribute}`"
    ))
}

fn pack(
    recipes: &[ContentRecipe],
    blob: ObjectId,
    bytes: &[u8],
    commit: &Commit,
    stamp: EntryDefaults,
) -> Result<Vec<(u32, PackedEntry)>> {
    recipes
        .iter()
        .map(|recipe| {
            let packed = match recipe.conversion {
                Some(conversion) => {
                    let bytes = conversion.apply(blob, bytes, commit)?;
                    PackedEntry::new(&bytes, recipe.kind, stamp)?
                }
                None => PackedEntry::new(bytes, recipe.kind, stamp)?,
            };
            Ok((recipe.content, packed))
        })
        .collect()
}
