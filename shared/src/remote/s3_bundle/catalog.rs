//! The bundles of a remote, read as far as their objects are needed.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use super::bundle_reader::{OpenBundle, pieces, replaced};
use super::completed_pack::CompletedPack;
use super::indexed_bundle::{IndexedBundle, ObjectIdSet, pack_bytes};
use super::keys::BundleFile;
use super::options::BundleLocation;
use crate::error::{Result, corrupt};
use crate::git::object::ObjectKind;
use crate::git::odb::{Database, DatabaseOptions, StoredPack};
use crate::git::pack::{Bases, Index, NoBases, PackBytes, PackIndexer};
use crate::git::{HashKind, ObjectId};
use crate::name::ObjectKey;
use crate::pack_cache::{CachedPack, PackExtension};
use crate::remote::PackBody;
use crate::storage::ETag;

/// Maximum number of bundles whose indexes stay in memory.
const MAX_INDEXED_BUNDLES: usize = 16;

/// Bundles of one remote. Each is read once.
pub(super) struct BundleCatalog {
    location: Arc<BundleLocation>,
    hash: HashKind,
    files: Vec<BundleFile>,
    indexed: Mutex<VecDeque<Arc<IndexedBundle>>>,
}

impl BundleCatalog {
    pub(super) fn new(
        location: &Arc<BundleLocation>,
        hash: HashKind,
        files: Vec<BundleFile>,
    ) -> Self {
        Self {
            location: Arc::clone(location),
            hash,
            files,
            indexed: Mutex::default(),
        }
    }

    pub(super) fn location(&self) -> &Arc<BundleLocation> {
        &self.location
    }

    pub(super) fn hash(&self) -> HashKind {
        self.hash
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<IndexedBundle>>> {
        self.indexed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists the bundles, the largest first, and only one for each id.
    pub(super) fn files(&self) -> Vec<&BundleFile> {
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|file| (file.id, std::cmp::Reverse(file.size_bytes)));
        files.dedup_by_key(|file| file.id);
        files.sort_by_key(|file| std::cmp::Reverse(file.size_bytes));
        files
    }

    /// Removes the bundles that a push deleted, and adds the bundle that it wrote.
    pub(super) fn replace(&mut self, deleted: &[BundleFile], new: Option<BundleFile>) {
        self.files.retain(|file| !deleted.contains(file));
        self.files.extend(new);
        let files = &self.files;
        self.indexed
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|indexed| files.contains(&indexed.bundle.file));
    }

    /// Reads a bundle and its prerequisite bundles.
    pub(super) async fn read(&self, file: &BundleFile) -> Result<Arc<IndexedBundle>> {
        if let Some(indexed) = self.find_indexed(file) {
            return Ok(indexed);
        }
        let bundle = self.open(file).await?;
        let prerequisites = self.find(&prerequisites(&bundle)).await?;
        self.index_with(bundle, &prerequisites).await
    }

    /// Reads the header of a bundle; with a pack cache also the trailer of the pack, which is
    /// the pack's key there.
    async fn open(&self, file: &BundleFile) -> Result<OpenBundle> {
        let location = &self.location;
        let pack_id = async {
            if location.options.pack_cache.is_none() {
                return Ok(None);
            }
            let pack_id = OpenBundle::read_trailer(location, file, self.hash);
            pack_id.await.map(Some)
        };
        let bundle = OpenBundle::open(location, file);
        let (bundle, pack_id) = futures_util::future::try_join(bundle, pack_id).await?;
        if bundle.header.hash == self.hash {
            return Ok(OpenBundle { pack_id, ..bundle });
        }
        let message = format!("`{}` is not a bundle of {}", file.key, self.hash);
        Err(corrupt(message))
    }

    /// Indexes a bundle, given its prerequisite bundles.
    async fn index_with(
        &self,
        bundle: OpenBundle,
        prerequisites: &[Arc<IndexedBundle>],
    ) -> Result<Arc<IndexedBundle>> {
        let indexed = if !bundle.is_full() {
            let bases = self.database(None, prerequisites)?;
            self.index(bundle, &*bases).await?
        } else if let Some((cached, index)) = self.find_pack(&bundle).await {
            let bytes = pack_bytes(&bundle, Some(&cached));
            let pack = StoredPack {
                index: index.clone(),
                size_bytes: bundle.pack_bytes(),
                bytes: Arc::clone(&bytes),
            };
            IndexedBundle {
                bundle,
                objects: ObjectIdSet::of_index(index),
                bytes,
                cached: Some(cached),
                pack: Some(pack),
            }
        } else {
            self.index(bundle, &NoBases).await?
        };
        let indexed = Arc::new(indexed);
        let mut bundles = self.lock();
        if bundles.len() == MAX_INDEXED_BUNDLES {
            bundles.pop_front();
        }
        bundles.push_back(Arc::clone(&indexed));
        Ok(indexed)
    }

    fn find_indexed(&self, file: &BundleFile) -> Option<Arc<IndexedBundle>> {
        let indexed = self.lock();
        let mut indexed = indexed.iter();
        indexed.find(|found| found.bundle.file == *file).cloned()
    }

    /// Finds the bundles that contain these objects, with their prerequisites.
    ///
    /// # Errors
    /// `Corrupt`, naming an object that is not in any bundle; `Conflict` when bundles were replaced
    /// since they were listed, because the object may be in a newer one.
    pub(super) async fn find(&self, ids: &[ObjectId]) -> Result<Vec<Arc<IndexedBundle>>> {
        let mut search = BundleSearch::new(ids);
        let mut indexed: Vec<_> = self.lock().iter().cloned().collect();
        // Large bundles first, because they may contain the other objects, too.
        let mut unread = self.files();
        // Incremental bundles that no missing object names; they may contain some.
        let mut guesses: VecDeque<OpenBundle> = VecDeque::new();
        loop {
            if let Some(at) = indexed
                .iter()
                .position(|bundle| search.has_missing_object(bundle))
            {
                search.add_found(indexed.swap_remove(at));
            } else if search.is_done(ids) {
                return Ok(search.found);
            } else if let Some(bundle) = search.pop_ready() {
                let bundle = self.index_with(bundle, &search.found).await?;
                search.add_found(bundle);
            } else if let Some(at) = search.next_candidate(&unread) {
                let file = unread.remove(at);
                if let Some(bundle) = self.find_indexed(file) {
                    indexed.push(bundle);
                    continue;
                }
                let bundle = self.open(file).await?;
                if bundle.is_full() {
                    // Its objects may become prerequisites only later in the search.
                    indexed.push(self.index_with(bundle, &[]).await?);
                } else if search.missing.contains(&file.id) {
                    search.add_waiting(bundle);
                } else {
                    guesses.push_back(bundle);
                }
            } else if let Some(bundle) = guesses.pop_front() {
                search.add_waiting(bundle);
            } else {
                self.ensure_current().await?;
                let missing = search.first_missing(ids).map(|id| id.to_string());
                return Err(corrupt(format!(
                    "no bundle of `{}` has {}, which is needed",
                    self.location,
                    missing.unwrap_or_default()
                )));
            }
        }
    }

    /// Checks that none of the bundles was deleted or replaced since they were listed.
    async fn ensure_current(&self) -> Result<()> {
        let folders = self.location.folders("refs/".into()).await?;
        let present: HashSet<(&ObjectKey, &ETag)> = folders
            .values()
            .flat_map(|folder| &folder.bundles)
            .map(|file| (&file.key, &file.etag))
            .collect();
        match self
            .files
            .iter()
            .find(|file| !present.contains(&(&file.key, &file.etag)))
        {
            Some(file) => Err(replaced(file, "read")),
            None => Ok(()),
        }
    }

    /// Reads and verifies a bundle's pack once, and adds it to the pack cache if it is full.
    async fn index(&self, bundle: OpenBundle, bases: &dyn Bases) -> Result<IndexedBundle> {
        let file = &bundle.file;
        let named = |error: crate::git::Error| error.context(format!("reading `{}`", file.key));
        let options = &self.location.options;
        let size_bytes = bundle.pack_bytes();
        let max_held_bytes = options.limits.memory / 4;
        let mut indexer = PackIndexer::new(self.hash, options.limits);
        let mut held = (size_bytes <= max_held_bytes as u64).then(BytesMut::new);
        let cache = options.pack_cache.as_ref().filter(|_| bundle.is_full());
        let mut writer = cache.map(|cache| cache.writer(size_bytes));
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
            indexer.push(&piece, &mut visitor).map_err(named)?;
            if let Some(held) = &mut held {
                held.extend_from_slice(&piece);
            }
            tokio::task::yield_now().await;
        }
        drop(pieces);
        let received = indexer.finish().map_err(named)?;
        let pack = received.pack_id();
        let held = held.map(BytesMut::freeze);
        let mut bytes: Arc<dyn PackBytes> = match &held {
            Some(held) => Arc::new(held.clone()),
            None => Arc::new(bundle.clone()),
        };
        let resolved = received.resolve(&*bytes, bases, &mut visitor).await;
        let resolved = resolved.map_err(named)?;
        let mut cached = None;
        if let Some((cache, writer)) = cache.zip(writer)
            && resolved.completed.is_none()
            && let Some(written) = writer.finish().await
        {
            let extension = PackExtension {
                base: None,
                written,
                index: resolved.index.clone(),
                pack,
                replaces_base: false,
            };
            cached = cache.insert(extension).await;
        }
        if held.is_none() && cached.is_some() {
            bytes = pack_bytes(&bundle, cached.as_ref());
        }
        let pack = CompletedPack::stored_pack(Arc::clone(&bytes), size_bytes, &resolved);
        Ok(IndexedBundle {
            bundle,
            objects: ObjectIdSet::of_index(resolved.index),
            bytes,
            cached,
            pack: Some(pack),
        })
    }

    /// Finds the pack of a bundle in the pack cache.
    async fn find_pack(&self, bundle: &OpenBundle) -> Option<(Arc<CachedPack>, Index)> {
        let cache = self.location.options.pack_cache.as_ref()?;
        cache.find(bundle.pack_id?, bundle.pack_bytes()).await
    }

    /// Streams the pack of a bundle unchanged; `None` when the bundle is not full.
    pub(super) async fn cached_or_remote_pack(
        &self,
        file: &BundleFile,
    ) -> Result<Option<PackBody>> {
        let bundle = self.open(file).await?;
        if !bundle.is_full() {
            return Ok(None);
        }
        let cached = self.find_pack(&bundle).await.map(|(cached, _)| cached);
        let bytes = pack_bytes(&bundle, cached.as_ref());
        Ok(Some(pieces(bytes, bundle.pack_bytes()).boxed()))
    }

    /// Opens a database of the objects in `received` and in `bundles`.
    pub(super) fn database(
        &self,
        received: Option<&StoredPack>,
        bundles: &[Arc<IndexedBundle>],
    ) -> Result<Arc<Database>> {
        let packs = received
            .cloned()
            .into_iter()
            .chain(bundles.iter().filter_map(|bundle| bundle.pack.clone()));
        let options = DatabaseOptions {
            limits: self.location.options.limits,
            ..DatabaseOptions::default()
        };
        Ok(Arc::new(Database::new(self.hash, packs, None, options)?))
    }
}

/// Returns the part of `piece` (at offset `at`) that overlaps `range`.
fn overlap(piece: &Bytes, at: u64, range: &Range<u64>) -> Bytes {
    let within = |position: u64| {
        let within = position.saturating_sub(at).min(piece.len() as u64);
        usize::try_from(within).expect("because it is at most the length of a piece in memory")
    };
    piece.slice(within(range.start)..within(range.end))
}

/// Returns the prerequisites of an incremental bundle.
fn prerequisites(bundle: &OpenBundle) -> Vec<ObjectId> {
    let prerequisites = bundle.header.prerequisites.iter();
    prerequisites.map(|(id, _)| *id).collect()
}

/// State of a search for certain objects and for the prerequisites of their bundles.
struct BundleSearch {
    found: Vec<Arc<IndexedBundle>>,
    /// Objects not found yet.
    missing: Vec<ObjectId>,
    /// Incremental bundles that may contain missing objects, until their prerequisites are
    /// found.
    waiting: Vec<OpenBundle>,
}

impl BundleSearch {
    fn new(ids: &[ObjectId]) -> Self {
        Self {
            found: Vec::new(),
            missing: ids.to_vec(),
            waiting: Vec::new(),
        }
    }

    fn has(&self, id: ObjectId) -> bool {
        self.found.iter().any(|bundle| bundle.objects.contains(id))
    }

    /// Whether the bundle contains a missing object.
    fn has_missing_object(&self, bundle: &IndexedBundle) -> bool {
        let mut missing = self.missing.iter();
        missing.any(|id| bundle.objects.contains(*id))
    }

    fn add_found(&mut self, bundle: Arc<IndexedBundle>) {
        let prerequisites = prerequisites(&bundle.bundle);
        self.found.push(bundle);
        self.require(prerequisites);
    }

    fn add_waiting(&mut self, bundle: OpenBundle) {
        self.require(prerequisites(&bundle));
        self.waiting.push(bundle);
    }

    fn require(&mut self, ids: Vec<ObjectId>) {
        let mut missing = std::mem::take(&mut self.missing);
        missing.extend(ids);
        missing.retain(|id| !self.has(*id));
        self.missing = missing;
    }

    /// Removes and returns a bundle whose prerequisites were all found.
    fn pop_ready(&mut self) -> Option<OpenBundle> {
        let is_ready = |bundle: &OpenBundle| prerequisites(bundle).iter().all(|id| self.has(*id));
        let at = self.waiting.iter().position(is_ready)?;
        Some(self.waiting.swap_remove(at))
    }

    /// Returns the position of the bundle to read next: one that a missing object names, else
    /// the first.
    fn next_candidate(&self, unread: &[&BundleFile]) -> Option<usize> {
        let named = unread
            .iter()
            .position(|file| self.missing.contains(&file.id));
        named.or((!unread.is_empty()).then_some(0))
    }

    /// Whether all objects and all prerequisites were found; guesses may be pending.
    fn is_done(&self, ids: &[ObjectId]) -> bool {
        self.first_missing(ids).is_none()
    }

    fn first_missing(&self, ids: &[ObjectId]) -> Option<ObjectId> {
        let prerequisites = self
            .found
            .iter()
            .flat_map(|bundle| prerequisites(&bundle.bundle));
        ids.iter()
            .copied()
            .chain(prerequisites)
            .find(|id| !self.has(*id))
    }
}

/// Serves bases of thin packs from any bundle.
#[async_trait]
impl Bases for BundleCatalog {
    async fn base(&self, id: ObjectId) -> crate::git::Result<Option<(ObjectKind, Bytes)>> {
        let bundles = self.find(&[id]).await?;
        self.database(None, &bundles)?.read(id).await
    }
}
