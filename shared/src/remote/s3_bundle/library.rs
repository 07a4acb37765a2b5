//! Bundles that were read, and their objects.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use super::Place;
use super::file::OpenBundle;
use super::layout::BundleFile;
use super::overlay::Overlay;
use crate::error::{Error, Result};
use crate::git::object::ObjectKind;
use crate::git::pack::{Bases, Index, NoBases, PackBytes, Receiver};
use crate::git::{HashKind, ObjectId, corrupt};
use crate::remote::objects::{Database, DatabaseOptions, PackAt};

/// How many bundles are remembered.
const REMEMBERED: usize = 16;
/// How long a chain of incremental bundles may be.
const MAX_CHAIN: usize = 64;

/// A bundle whose objects are known.
pub(super) struct Book {
    pub(super) bundle: OpenBundle,
    /// The pack; where it was thin, the completed one.
    pub(super) pack: PackAt,
    /// The pack's own index: what a bundle composed of it would hold.
    pub(super) index: Index,
}

/// Reads the bundles of one remote, each once.
pub(super) struct Library {
    place: Arc<Place>,
    hash: HashKind,
    /// All bundles that there are.
    files: Vec<BundleFile>,
    books: Mutex<VecDeque<Arc<Book>>>,
}

impl Library {
    pub(super) fn new(place: &Arc<Place>, hash: HashKind, files: Vec<BundleFile>) -> Self {
        Self {
            place: Arc::clone(place),
            hash,
            files,
            books: Mutex::default(),
        }
    }

    fn books(&self) -> MutexGuard<'_, VecDeque<Arc<Book>>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bundles that are remembered.
    pub(super) fn read_ones(&self) -> Vec<Arc<Book>> {
        self.books().iter().cloned().collect()
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
    pub(super) async fn read(&self, file: &BundleFile) -> Result<Arc<Book>> {
        self.read_at(file, 0).await
    }

    async fn read_at(&self, file: &BundleFile, depth: usize) -> Result<Arc<Book>> {
        if let Some(book) = self.remembered(file) {
            return Ok(book);
        }
        let bundle = OpenBundle::open(&self.place, file).await?;
        if bundle.header.hash != self.hash {
            let message = format!("`{}` is not a bundle of {}", file.key, self.hash);
            return Err(corrupt(message));
        }
        let book = if bundle.is_full() {
            self.index(bundle, &NoBases).await?
        } else {
            if depth == MAX_CHAIN {
                return Err(corrupt("the chain of incremental bundles has no end"));
            }
            let needed: Vec<_> = bundle
                .header
                .prerequisites
                .iter()
                .map(|(id, _)| *id)
                .collect();
            let below = Box::pin(self.find_at(&needed, Some(file), depth + 1)).await?;
            self.index(bundle, &*database(&self.place, self.hash, &below)?)
                .await?
        };
        let book = Arc::new(book);
        let mut books = self.books();
        if books.len() == REMEMBERED {
            books.pop_front();
        }
        books.push_back(Arc::clone(&book));
        Ok(book)
    }

    fn remembered(&self, file: &BundleFile) -> Option<Arc<Book>> {
        let books = self.books();
        books.iter().find(|book| book.bundle.file == *file).cloned()
    }

    /// Bundles that have these objects, read as far as is needed; with those that the
    /// incremental ones among them stand on.
    ///
    /// # Errors
    /// `Corrupt`, naming an object that no bundle has.
    pub(super) async fn find(&self, ids: &[ObjectId]) -> Result<Vec<Arc<Book>>> {
        self.find_at(ids, None, 0).await
    }

    async fn find_at(
        &self,
        ids: &[ObjectId],
        except: Option<&BundleFile>,
        depth: usize,
    ) -> Result<Vec<Arc<Book>>> {
        let mut found: Vec<Arc<Book>> = Vec::new();
        let mut missing = ids.to_vec();
        let mut take = |book: Arc<Book>, missing: &mut Vec<ObjectId>| {
            let before = missing.len();
            missing.retain(|id| book.index.find(*id).is_none());
            if missing.len() < before {
                found.push(book);
            }
        };
        for book in self.read_ones() {
            if Some(&book.bundle.file) != except {
                take(book, &mut missing);
            }
        }
        // Bundles of what is missing, large ones first since they may have the others, too.
        let files = self.files();
        let (tips, others): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|file| ids.contains(&file.id));
        for file in tips.into_iter().chain(others) {
            if missing.is_empty() {
                break;
            }
            if Some(file) != except && self.remembered(file).is_none() {
                take(self.read_at(file, depth).await?, &mut missing);
            }
        }
        if let Some(id) = missing.first() {
            return Err(corrupt(format!(
                "no bundle of `{}` has {id}, which is needed",
                self.place
            )));
        }
        let mut at = 0;
        while at < found.len() {
            let book = Arc::clone(&found[at]);
            at += 1;
            if book.bundle.is_full() {
                continue;
            }
            let needed: Vec<_> = book
                .bundle
                .header
                .prerequisites
                .iter()
                .map(|(id, _)| *id)
                .collect();
            if depth >= MAX_CHAIN {
                return Err(corrupt("the chain of incremental bundles has no end"));
            }
            let except = Some(&book.bundle.file);
            let below = Box::pin(self.find_at(&needed, except, depth + 1)).await?;
            for other in below {
                if !found.iter().any(|known| Arc::ptr_eq(known, &other)) {
                    found.push(other);
                }
            }
        }
        Ok(found)
    }

    /// Reads a bundle's pack once, verifying it.
    async fn index(&self, bundle: OpenBundle, bases: &dyn Bases) -> Result<Book> {
        let file = &bundle.file;
        let named = |error: Error| error.context(format!("reading `{}`", file.key));
        let options = &self.place.options;
        let size_bytes = bundle.pack_bytes();
        if let Some(book) = self.cached(&bundle).await? {
            return Ok(book);
        }
        let mut receiver = Receiver::new(self.hash, options.limits);
        let mut held = (size_bytes <= self.memory() as u64).then(BytesMut::new);
        let mut pieces = bundle.stream(bundle.pack_start..file.size_bytes);
        let mut visitor = |_: crate::git::pack::Object<'_>| Ok(());
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            receiver.push(&piece, &mut visitor).map_err(named)?;
            if let Some(held) = &mut held {
                held.extend_from_slice(&piece);
            }
            tokio::task::yield_now().await;
        }
        drop(pieces);
        let arrived = receiver.finish().map_err(named)?;
        let bytes: Arc<dyn PackBytes> = match held {
            Some(held) => Arc::new(held.freeze()),
            None => Arc::new(bundle.clone()),
        };
        let resolved = arrived.resolve(&*bytes, bases, &mut visitor).await;
        let resolved = resolved.map_err(named)?;
        let pack = Overlay::completed(bytes, size_bytes, &resolved);
        Ok(Book {
            bundle,
            pack,
            index: resolved.index,
        })
    }

    /// How much of one pack is held.
    fn memory(&self) -> usize {
        self.place.options.limits.memory / 4
    }

    async fn cached(&self, bundle: &OpenBundle) -> Result<Option<Book>> {
        let Some(cache) = &self.place.options.cache else {
            return Ok(None);
        };
        let length = self.hash.len_in_bytes() as u64;
        let size_bytes = bundle.pack_bytes();
        if !bundle.is_full() || size_bytes < length {
            return Ok(None);
        }
        let trailer = bundle.read_range(size_bytes - length..size_bytes).await?;
        let id = ObjectId::from_bytes_or_panic(&trailer);
        let found = cache.find(id).await?;
        let found =
            found.filter(|pack| pack.size_bytes == size_bytes && pack.index.pack_id() == id);
        Ok(found.map(|pack| Book {
            bundle: bundle.clone(),
            index: pack.index.clone(),
            pack,
        }))
    }
}

/// A database of what these bundles hold.
pub(super) fn database(
    place: &Place,
    hash: HashKind,
    books: &[Arc<Book>],
) -> Result<Arc<Database>> {
    database_with(place, hash, None, books)
}

/// A database of a pack that has arrived, and of what these bundles hold.
pub(super) fn database_with(
    place: &Place,
    hash: HashKind,
    arrived: Option<&PackAt>,
    books: &[Arc<Book>],
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
impl Bases for Library {
    async fn base(&self, id: ObjectId) -> Result<Option<(ObjectKind, Bytes)>> {
        let books = self.find(&[id]).await?;
        database(&self.place, self.hash, &books)?.read(id).await
    }
}
