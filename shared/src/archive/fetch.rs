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
use super::lfs_files::LfsFiles;
use super::listed_tree::Tree;
use super::memory_budget::{MemoryBudget, Reservation};
use super::packing::{ContentRecipe, PackedContents, pack};
use super::plan::{ArchiveItem, ArchivePlan};
use super::request::ArchiveRequest;
use super::streamed_entry::{
    LargeEntry, LargeFile, LargeFiles, MAX_CONVERTED_BYTES, read_into_memory,
};
use super::substitutions::Substitutions;
use super::tree_source::TreeSource;
use super::zip::{EntryDefaults, PackedEntry};
use crate::blocking;
use crate::codecommit::{BlobAdmission as _, MAX_BLOB_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::Commit;

/// Maximum size of compressed contents that are retained for later entries, in bytes.
const MAX_RETAINED_BYTES: usize = 8 * 1024 * 1024;

/// Maximum distance between the entry that is written and an entry that is fetched.
const MAX_ITEMS_AHEAD: usize = 4096;

/// Maximum size of a content that is compressed on the current thread, in bytes, because
/// moving a smaller one to the blocking pool takes longer than compressing it.
const MAX_INLINE_BYTES: usize = 4096;

/// Maximum size of an object of git LFS that is read once, into memory, in bytes. A larger one is
/// read twice, as a large file.
const MAX_LFS_BYTES_IN_MEMORY: u64 = MAX_BLOB_BYTES;

/// Identity of fetched bytes: a blob, or the object of git LFS that it names.
type SourceKey = (ObjectId, bool);

/// A blob that is being fetched or compressed.
struct PendingFetch {
    // The number of its reservation.
    number: u64,
}

struct FetchedBlob {
    item: usize,
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
    result: Result<PreparedContent>,
}

/// Content that is ready to be written.
enum PreparedContent {
    Packed(PackedContents, Reservation),
    Large(LargeEntry),
}

/// The content of an item.
pub(super) enum NextContent {
    Packed(PackedEntry),
    Large(LargeEntry),
}

/// Fetches the contents of a plan.
pub(super) struct Fetcher<'a> {
    files: &'a dyn TreeSource,
    large_files: Option<&'a dyn LargeFiles>,
    commits: Arc<Vec<Arc<Commit>>>,
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
    pending: HashMap<SourceKey, PendingFetch>,
    // Contents that are needed next, compressed, each with its part of the budget.
    ready: HashMap<u32, (PackedEntry, Reservation)>,
    // Large files by source, and the measured ones by content.
    opened: HashMap<SourceKey, Arc<dyn LargeFile>>,
    measured: HashMap<u32, LargeEntry>,
    retained: HashMap<u32, PackedEntry>,
    retained_bytes: usize,
    substitutions: Substitutions,
    lfs: LfsFiles,
    // The content of the item with the first `%(describe)`.
    describing: HashMap<u32, PackedEntry>,
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
        (tree, plan): (&'a Tree, &'a ArchivePlan),
        (substitutions, lfs): (Substitutions, LfsFiles),
    ) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            files,
            large_files: request.large_files.as_deref(),
            commits: Arc::new(tree.commits(&request.commit)),
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
            requests: substitutions.requests + lfs.requests,
            substitutions,
            lfs,
            describing: HashMap::new(),
            uses_left: plan.uses.clone(),
            cursor: 0,
            fetches_started: 0,
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

    /// Returns the `content` of `item` when it is ready, and counts the use.
    pub(super) fn take(&mut self, item: usize, content: u32) -> Option<NextContent> {
        let at = content as usize;
        if self.substitutions.describes(item) {
            let describing = self.describing.remove(&content)?;
            self.uses_left[at] -= 1;
            if self.uses_left[at] == 0 {
                self.ready.remove(&content);
            }
            return Some(NextContent::Packed(describing));
        }
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
            if let Some(fetch) = self.pending.get(&self.source(content)) {
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

    /// Returns the source of the bytes of `content`.
    fn source(&self, content: u32) -> SourceKey {
        let blob = self.plan.contents[content as usize].blob;
        (blob, self.lfs.has(content))
    }

    /// Returns the conversion of `content`; `None` if nothing is converted.
    fn conversion(&self, content: u32) -> Option<Conversion> {
        let index = self.plan.contents[content as usize].conversion;
        let conversion = (index != UNCHANGED).then(|| self.tree.conversions.get(index))?;
        Some(if self.lfs.has(content) {
            conversion.of_lfs_object()
        } else {
            conversion
        })
    }

    /// Fetches `content` unless it is ready or being fetched.
    fn fetch(&mut self, item: usize, content: u32) {
        let source = self.source(content);
        let blob = source.0;
        if self.ready.contains_key(&content)
            || self.retained.contains_key(&content)
            || self.measured.contains_key(&content)
            || self.pending.contains_key(&source)
        {
            return;
        }
        // A blob may be fetched twice, because only one of its contents was retained: so each
        // fetch has a number of its own, in the order of the items.
        self.fetches_started += 1;
        let number = ((item as u64) << 24) | (self.fetches_started & 0xff_ffff);
        self.pending.insert(source, PendingFetch { number });
        if let Some(file) = self.opened.get(&source) {
            let file = Arc::clone(file);
            self.prepare_large(item, content, number, file);
            return;
        }
        if let Some(object) = self.lfs.get(content) {
            self.fetch_object(item, number, object);
            return;
        }
        let pending = self.budget.reserve(number);
        let known = if blob.is_empty_blob() {
            Some(Bytes::new())
        } else {
            let kept = self.tree.kept.get(&blob);
            kept.or_else(|| self.substitutions.kept.get(&blob)).cloned()
        };
        if let Some(bytes) = known {
            let reservation = pending.into_reservation(bytes.len());
            self.compress(item, content, bytes, reservation);
            return;
        }
        let repository = self.plan.contents[content as usize].source;
        let files = self.tree.files(repository, self.files);
        self.requests += u64::from(!files.is_local());
        let large_files = match self.tree.submodule(repository) {
            None => self.large_files,
            Some(submodule) => submodule.large_files.as_deref(),
        };
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
            FetchedBlob { item, result }
        }));
    }

    /// Fetches an object of git LFS.
    fn fetch_object(&mut self, item: usize, number: u64, object: Arc<dyn LargeFile>) {
        let pending = self.budget.reserve(number);
        self.fetches.push(Box::pin(async move {
            let size = object.size_bytes();
            let result = if size > MAX_LFS_BYTES_IN_MEMORY {
                Ok(FetchResult::Large(object))
            } else {
                pending.admit(size).await;
                read_into_memory(object).await.map(|bytes| {
                    let reservation = pending.into_reservation(bytes.len());
                    FetchResult::InMemory(bytes, reservation)
                })
            };
            FetchedBlob { item, result }
        }));
    }

    /// Measures a large file, or reads it into memory when its conversion needs that.
    fn prepare_large(&mut self, item: usize, content: u32, number: u64, file: Arc<dyn LargeFile>) {
        let wanted = self.plan.contents[content as usize];
        let conversion = self.conversion(content).unwrap_or(Conversion::NONE);
        match conversion.of_large_file() {
            LargeConversion::LineEnds(digest) => {
                let reader = Arc::clone(&self.reader);
                let level = self.defaults.level();
                self.compressions.push(Box::pin(async move {
                    let _permit = reader.acquire_owned().await;
                    let large = LargeEntry::measure(file, wanted.mode, digest, level).await;
                    Compressed {
                        item,
                        content,
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
                    FetchedBlob { item, result }
                }));
            }
        }
    }

    fn fetched(&mut self, fetched: FetchedBlob) -> Result<()> {
        let FetchedBlob { item, result } = fetched;
        let ArchiveItem::File(_, _, content) = self.plan.items[item] else {
            return Err(Error::new(ErrorKind::Internal, "only files are fetched"));
        };
        match result.map_err(|error| self.with_path(item, error))? {
            FetchResult::InMemory(bytes, reservation) => {
                self.compress(item, content, bytes, reservation);
            }
            FetchResult::Large(file) => {
                let source = self.source(content);
                self.opened.insert(source, Arc::clone(&file));
                let number = self.pending.get(&source).map_or(0, |fetch| fetch.number);
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
        let source = self.source(content);
        let is_large = self.opened.contains_key(&source);
        let mut recipes = vec![];
        let mut sibling = content;
        loop {
            let wanted = self.plan.contents[sibling as usize];
            if sibling == content
                || (!is_large
                    && self.source(sibling) == source
                    && self.uses_left[sibling as usize] > 0
                    && !self.retained.contains_key(&sibling)
                    && !self.ready.contains_key(&sibling))
            {
                recipes.push(ContentRecipe {
                    content: sibling,
                    mode: wanted.mode,
                    conversion: self.conversion(sibling),
                    describes: self.substitutions.describe_content(sibling),
                    source: wanted.source,
                });
            }
            sibling = self.plan.siblings[sibling as usize];
            if sibling == content {
                break;
            }
        }
        let (commits, defaults) = (Arc::clone(&self.commits), self.defaults);
        let facts = self.substitutions.facts();
        let processors = Arc::clone(&self.processors);
        self.compressions.push(Box::pin(async move {
            let size = bytes.len();
            let work = move || pack(&recipes, blob, &bytes, (&commits, &facts), defaults);
            let result = if size <= MAX_INLINE_BYTES {
                work()
            } else {
                let _permit = processors.acquire_owned().await;
                blocking::try_run(work).await
            };
            let result = result.map(|packed| {
                reservation.shrink(packed.len() as u64);
                PreparedContent::Packed(packed, reservation)
            });
            Compressed {
                item,
                content,
                result,
            }
        }));
    }

    fn compressed(&mut self, compressed: Compressed, awaited: Option<u32>) -> Result<()> {
        let source = self.source(compressed.content);
        self.pending.remove(&source);
        if self.opened.contains_key(&source) {
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
        let PackedContents {
            contents: packed,
            describing,
        } = packed;
        self.describing.extend(describing);
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
