//! Bundles that were read, and their objects.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use super::BundleLocation;
use super::bundle_reader::{OpenBundle, pieces};
use super::cached_pack::{CacheSuspects, CachedPackReader};
use super::completed_pack::Overlay;
use super::keys::BundleFile;
use crate::error::{Result, corrupt};
use crate::git::object::ObjectKind;
use crate::git::odb::{Database, DatabaseOptions, StoredPack};
use crate::git::pack::{Bases, Index, NoBases, PackBytes, PackIndexer};
use crate::git::{HashKind, ObjectId};
use crate::pack_cache::{CachedPack, PackExtension};

/// How many bundles are remembered.
const MAX_CACHED_BUNDLES: usize = 16;

/// A bundle whose objects are known.
pub(super) struct IndexedBundle {
    pub(super) bundle: OpenBundle,
    /// The pack; where it was thin, the completed one.
    pub(super) pack: StoredPack,
    /// The pack's own index: what a bundle composed of it would hold.
    pub(super) index: Index,
    /// The pack's copy on this machine's disk.
    pub(super) copy: Option<Arc<CachedPack>>,
    /// Whether the pack is read from there.
    pub(super) is_near: bool,
}

/// A bundle of which little was read.
pub(super) struct CandidateBundle {
    pub(super) bundle: OpenBundle,
    /// What its pack is called, where copies are kept.
    trailer: Option<ObjectId>,
}

/// Reads the bundles of one remote, each once.
pub(super) struct BundleCatalog {
    place: Arc<BundleLocation>,
    hash: HashKind,
    /// All bundles that there are.
    files: Vec<BundleFile>,
    books: Mutex<VecDeque<Arc<IndexedBundle>>>,
    pub(super) doubts: Arc<CacheSuspects>,
}

impl BundleCatalog {
    pub(super) fn new(place: &Arc<BundleLocation>, hash: HashKind, files: Vec<BundleFile>) -> Self {
        Self {
            place: Arc::clone(place),
            hash,
            files,
            books: Mutex::default(),
            doubts: Arc::new(CacheSuspects::new(place.options.copies.clone())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<IndexedBundle>>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bundles that are remembered.
    pub(super) fn cached_bundles(&self) -> Vec<Arc<IndexedBundle>> {
        self.lock().iter().cloned().collect()
    }

    /// All bundles that there are, the largest first, of those with the same id only one.
    pub(super) fn files(&self) -> Vec<&BundleFile> {
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|file| (file.id, std::cmp::Reverse(file.size_bytes)));
        files.dedup_by_key(|file| file.id);
        files.sort_by_key(|file| std::cmp::Reverse(file.size_bytes));
        files
    }

    /// Notes what a push changed.
    pub(super) fn replace(&mut self, gone: &[BundleFile], new: Option<BundleFile>) {
        self.files.retain(|file| !gone.contains(file));
        self.files.extend(new);
        let files = &self.files;
        self.books
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|book| files.contains(&book.bundle.file));
    }

    /// Reads a bundle and the ones that it stands on.
    pub(super) async fn read(&self, file: &BundleFile) -> Result<Arc<IndexedBundle>> {
        if let Some(book) = self.find_cached(file) {
            return Ok(book);
        }
        let opened = self.open(file).await?;
        let below = self.find(&prerequisites(&opened.bundle)).await?;
        self.index_on(opened, &below).await
    }

    /// Reads what tells a bundle from others, and finds the copy of its pack.
    pub(super) async fn open(&self, file: &BundleFile) -> Result<CandidateBundle> {
        let place = &self.place;
        let trailer = async {
            match &place.options.copies {
                None => Ok(None),
                Some(_) => OpenBundle::trailer(place, file, self.hash).await.map(Some),
            }
        };
        let bundle = OpenBundle::open(place, file);
        let (bundle, trailer) = futures_util::future::try_join(bundle, trailer).await?;
        if bundle.header.hash == self.hash {
            return Ok(CandidateBundle { bundle, trailer });
        }
        let message = format!("`{}` is not a bundle of {}", file.key, self.hash);
        Err(corrupt(message))
    }

    /// Indexes a bundle on those that it stands on, and remembers it.
    async fn index_on(
        &self,
        opened: CandidateBundle,
        below: &[Arc<IndexedBundle>],
    ) -> Result<Arc<IndexedBundle>> {
        let book = if !opened.bundle.is_full() {
            let below = database(&self.place, self.hash, below)?;
            self.index(opened.bundle, &*below).await?
        } else if let Some((near, index)) = self.copied(&opened).await {
            IndexedBundle {
                copy: Some(Arc::clone(&near.copy)),
                is_near: true,
                pack: StoredPack {
                    index: index.clone(),
                    size_bytes: opened.bundle.pack_bytes(),
                    bytes: near,
                },
                index,
                bundle: opened.bundle,
            }
        } else {
            self.index(opened.bundle, &NoBases).await?
        };
        let book = Arc::new(book);
        let mut books = self.lock();
        if books.len() == MAX_CACHED_BUNDLES {
            books.pop_front();
        }
        books.push_back(Arc::clone(&book));
        Ok(book)
    }

    fn find_cached(&self, file: &BundleFile) -> Option<Arc<IndexedBundle>> {
        let books = self.lock();
        books.iter().find(|book| book.bundle.file == *file).cloned()
    }

    /// Bundles that have these objects, read as far as is needed; with those that the
    /// incremental ones among them stand on.
    ///
    /// # Errors
    /// `Corrupt`, naming an object that no bundle has.
    pub(super) async fn find(&self, ids: &[ObjectId]) -> Result<Vec<Arc<IndexedBundle>>> {
        let mut search = BundleSearch::of(ids);
        let mut remembered = self.cached_bundles();
        // Large ones first, since they may have the others, too.
        let mut unread = self.files();
        // Incremental ones that are not called by what is missing: they may have it.
        let mut guesses: VecDeque<CandidateBundle> = VecDeque::new();
        loop {
            if let Some(at) = remembered.iter().position(|book| search.is_missing(book)) {
                search.take(remembered.swap_remove(at));
            } else if search.is_done(ids) {
                return Ok(search.found);
            } else if let Some(opened) = search.ready() {
                let book = self.index_on(opened, &search.found).await?;
                search.take(book);
            } else if let Some(at) = search.pop_candidate(&unread) {
                let file = unread.remove(at);
                if let Some(book) = self.find_cached(file) {
                    remembered.push(book);
                    continue;
                }
                let opened = self.open(file).await?;
                if opened.bundle.is_full() {
                    // It may be asked for only later.
                    remembered.push(self.index_on(opened, &[]).await?);
                } else if search.missing.contains(&file.id) {
                    search.wait(opened);
                } else {
                    guesses.push_back(opened);
                }
            } else if let Some(opened) = guesses.pop_front() {
                search.wait(opened);
            } else {
                let missing = search.first_missing(ids).map(|id| id.to_string());
                return Err(corrupt(format!(
                    "no bundle of `{}` has {}, which is needed",
                    self.place,
                    missing.unwrap_or_default()
                )));
            }
        }
    }

    /// Reads a bundle's pack once, verifying it, and keeps a copy of it.
    async fn index(&self, bundle: OpenBundle, bases: &dyn Bases) -> Result<IndexedBundle> {
        let file = &bundle.file;
        let named = |error: crate::git::Error| error.context(format!("reading `{}`", file.key));
        let options = &self.place.options;
        let size_bytes = bundle.pack_bytes();
        let mut receiver = PackIndexer::new(self.hash, options.limits);
        let mut held = (size_bytes <= self.memory() as u64).then(BytesMut::new);
        let copies = options.copies.as_ref().filter(|_| bundle.is_full());
        let mut writer = copies.map(|copies| copies.writer(size_bytes));
        let mut pieces = pieces(Arc::new(bundle.clone()), size_bytes);
        let mut visitor = |_: crate::git::pack::PackObject<'_>| Ok(());
        let mut at = bundle.pack_start;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            if let Some(writer) = &mut writer {
                let entries = bundle.entries();
                writer.push(overlap(&piece, at, &entries)).await;
            }
            at += piece.len() as u64;
            receiver.push(&piece, &mut visitor).map_err(named)?;
            if let Some(held) = &mut held {
                held.extend_from_slice(&piece);
            }
            tokio::task::yield_now().await;
        }
        drop(pieces);
        let arrived = receiver.finish().map_err(named)?;
        let pack = arrived.pack_id();
        let held = held.map(BytesMut::freeze);
        let bytes: Arc<dyn PackBytes> = match &held {
            Some(held) => Arc::new(held.clone()),
            None => Arc::new(bundle.clone()),
        };
        let resolved = arrived.resolve(&*bytes, bases, &mut visitor).await;
        let resolved = resolved.map_err(named)?;
        let mut copy = None;
        if let Some((copies, writer)) = copies.zip(writer)
            && resolved.completed.is_none()
            && let Some(written) = writer.finish().await
        {
            let addition = PackExtension {
                base: None,
                written,
                index: resolved.index.clone(),
                pack,
                replaces_base: false,
            };
            copy = copies.insert(addition).await;
        }
        let mut whole = Overlay::completed_thin_pack(bytes, size_bytes, &resolved);
        let near = copy.as_ref().filter(|_| held.is_none());
        if let Some(copy) = near {
            whole.bytes = Arc::new(CachedPackReader {
                copy: Arc::clone(copy),
                bundle: bundle.clone(),
            });
        }
        Ok(IndexedBundle {
            is_near: near.is_some(),
            pack: whole,
            index: resolved.index,
            copy,
            bundle,
        })
    }

    /// How much of one pack is held.
    fn memory(&self) -> usize {
        self.place.options.limits.memory / 4
    }

    /// The copy of a bundle's pack, with its index.
    pub(super) async fn copied(
        &self,
        opened: &CandidateBundle,
    ) -> Option<(Arc<CachedPackReader>, Index)> {
        let CandidateBundle { bundle, trailer } = opened;
        let copies = self.place.options.copies.as_ref()?;
        let (copy, index) = copies.find((*trailer)?, bundle.pack_bytes()).await?;
        self.doubts.record_read(copy.pack_id());
        let bundle = bundle.clone();
        Some((Arc::new(CachedPackReader { copy, bundle }), index))
    }
}

/// What of `piece`, which starts `at`, lies in `range`.
pub(super) fn overlap(piece: &Bytes, at: u64, range: &Range<u64>) -> Bytes {
    let within = |position: u64| {
        let within = position.saturating_sub(at).min(piece.len() as u64);
        usize::try_from(within).expect("because it is at most the length of what is held")
    };
    piece.slice(within(range.start)..within(range.end))
}

/// What an incremental bundle stands on.
fn prerequisites(bundle: &OpenBundle) -> Vec<ObjectId> {
    let needed = bundle.header.prerequisites.iter();
    needed.map(|(id, _)| *id).collect()
}

/// A search for bundles that have certain objects, and for what those stand on.
struct BundleSearch {
    found: Vec<Arc<IndexedBundle>>,
    /// What is in none of those found.
    missing: Vec<ObjectId>,
    /// Incremental ones that may have something of it, once what they need was found.
    waiting: Vec<CandidateBundle>,
}

impl BundleSearch {
    fn of(ids: &[ObjectId]) -> Self {
        Self {
            found: Vec::new(),
            missing: ids.to_vec(),
            waiting: Vec::new(),
        }
    }

    fn has(&self, id: ObjectId) -> bool {
        self.found.iter().any(|book| book.index.find(id).is_some())
    }

    /// Whether a bundle has something that is missing.
    fn is_missing(&self, book: &IndexedBundle) -> bool {
        let mut missing = self.missing.iter();
        missing.any(|id| book.index.find(*id).is_some())
    }

    fn take(&mut self, book: Arc<IndexedBundle>) {
        let needed = prerequisites(&book.bundle);
        self.found.push(book);
        self.want(needed);
    }

    fn wait(&mut self, opened: CandidateBundle) {
        self.want(prerequisites(&opened.bundle));
        self.waiting.push(opened);
    }

    fn want(&mut self, ids: Vec<ObjectId>) {
        let mut missing = std::mem::take(&mut self.missing);
        missing.extend(ids);
        missing.retain(|id| !self.has(*id));
        self.missing = missing;
    }

    /// One that can be indexed now.
    fn ready(&mut self) -> Option<CandidateBundle> {
        let is_ready =
            |opened: &CandidateBundle| prerequisites(&opened.bundle).iter().all(|id| self.has(*id));
        let at = self.waiting.iter().position(is_ready)?;
        Some(self.waiting.swap_remove(at))
    }

    /// The one to read next: one that is called by what is missing, else the first.
    fn pop_candidate(&self, unread: &[&BundleFile]) -> Option<usize> {
        let named = unread
            .iter()
            .position(|file| self.missing.contains(&file.id));
        named.or((!unread.is_empty()).then_some(0))
    }

    /// Whether all is there, and all that those found stand on. What was only guessed may
    /// still wait.
    fn is_done(&self, ids: &[ObjectId]) -> bool {
        self.first_missing(ids).is_none()
    }

    fn first_missing(&self, ids: &[ObjectId]) -> Option<ObjectId> {
        let below = self
            .found
            .iter()
            .flat_map(|book| prerequisites(&book.bundle));
        ids.iter().copied().chain(below).find(|id| !self.has(*id))
    }
}

/// A database of what these bundles hold.
pub(super) fn database(
    place: &BundleLocation,
    hash: HashKind,
    books: &[Arc<IndexedBundle>],
) -> Result<Arc<Database>> {
    database_with(place, hash, None, books)
}

/// A database of a pack that has arrived, and of what these bundles hold.
pub(super) fn database_with(
    place: &BundleLocation,
    hash: HashKind,
    arrived: Option<&StoredPack>,
    books: &[Arc<IndexedBundle>],
) -> Result<Arc<Database>> {
    let packs = arrived
        .into_iter()
        .cloned()
        .chain(books.iter().map(|book| book.pack.clone()));
    let options = DatabaseOptions {
        limits: place.options.limits,
        ..DatabaseOptions::default()
    };
    Ok(Arc::new(Database::new(hash, packs, None, options)?))
}

/// The objects on which a thin pack stands, in whichever bundle they are.
#[async_trait]
impl Bases for BundleCatalog {
    async fn base(&self, id: ObjectId) -> crate::git::Result<Option<(ObjectKind, Bytes)>> {
        let books = self.find(&[id]).await?;
        database(&self.place, self.hash, &books)?.read(id).await
    }
}
