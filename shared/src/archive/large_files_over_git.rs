//! Reads one commit by git over HTTPS: the files that CodeCommit's API does not serve, or all.
//!
//! The first file that is opened causes one shallow fetch of the commit by its id. The pack is
//! verified as it arrives and stored in a [`Spool`]. A large file that is stored whole in the
//! pack is then inflated in pieces; other objects are read into memory.
//!
//! Memory: of [`GitAccess::memory_bytes`], a quarter is for a small pack, and half is for deltas
//! and their bases. Not included are the parts of a larger pack that are being sent to S3
//! (20 MiB), and about 80 bytes for each object of the commit.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Mutex;
use tracing::Instrument as _;

use super::read_method::ReadCosts;
use super::{FileBody, LargeFile, LargeFiles};
use crate::codecommit::{CodeCommit, Repository, git_client};
use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::git::advertisement::Version;
use crate::git::object::ObjectKind;
use crate::git::odb::{in_pieces, inflated};
use crate::git::pack::{
    ContentCache, EntryEncoding, NoBases, PackIndexer, PackLayout, PackLimits, PackObject,
};
use crate::git::smart_http::{
    CredentialSource, FetchRequest, Http, PackStream, RepositoryUrl, SmartHttp, TipNegotiator,
};
use crate::git::{HashKind, ObjectId};
use crate::name::{CommitId, RepositoryName};
use crate::retry::Backoff;
use crate::storage::spool::{Spool, SpoolConfig, SpoolWriter};

/// Maximum number of requests for a pack, including the first one. A pack that began to arrive is
/// not requested again.
const MAX_TRIES: u32 = 5;

/// Maximum size of the contents that are kept as bases of deltas, in bytes.
const MAX_CACHED_BYTES: usize = 16 * 1024 * 1024;

/// Access to the repositories of CodeCommit by git.
#[derive(Clone)]
pub struct GitAccess {
    /// Returns the clone URL of a repository.
    pub service: Arc<dyn CodeCommit>,
    /// The HTTP client.
    pub http: Http,
    /// Signs requests.
    pub credentials: Arc<dyn CredentialSource>,
    /// URL of the repository; the one that the service returns if `None`.
    pub clone_url: Option<RepositoryUrl>,
    /// Approximate limit of memory, in bytes; the module lists what it includes.
    pub memory_bytes: usize,
    /// Measured times of the API and of git.
    pub costs: Arc<ReadCosts>,
}

impl GitAccess {
    /// Opens the git client of a repository.
    pub(super) async fn client(&self, repository: &RepositoryName) -> Result<SmartHttp> {
        let Some(url) = &self.clone_url else {
            let repository = self.service.get_repository(repository).await?;
            return self.client_of(&repository);
        };
        let (http, credentials) = (self.http.clone(), Arc::clone(&self.credentials));
        Ok(SmartHttp::new(http, url.clone(), credentials))
    }

    /// Makes the git client of a repository that the service returned.
    pub(super) fn client_of(&self, repository: &Repository) -> Result<SmartHttp> {
        let Some(url) = &self.clone_url else {
            return git_client(repository, &self.http, &self.credentials);
        };
        let (http, credentials) = (self.http.clone(), Arc::clone(&self.credentials));
        Ok(SmartHttp::new(http, url.clone(), credentials))
    }
}

impl fmt::Debug for GitAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitAccess")
            .field("memory_bytes", &self.memory_bytes)
            .finish_non_exhaustive()
    }
}

/// Reads the large files of one commit, or the whole commit.
pub struct GitLargeFiles {
    access: GitAccess,
    repository: RepositoryName,
    commit: CommitId,
    spool: Option<SpoolConfig>,
    // Locked during the fetch, so that concurrent callers wait for the same pack.
    fetched: Mutex<Option<Arc<FetchedPack>>>,
    requests: AtomicU64,
}

impl fmt::Debug for GitLargeFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitLargeFiles")
            .field("repository", &self.repository)
            .field("commit", &self.commit)
            .finish_non_exhaustive()
    }
}

impl GitLargeFiles {
    /// Reads files of `commit`. A pack that does not fit into memory is stored at `spool` until
    /// [`close`](LargeFiles::close); without a spool, the files are refused as too large.
    pub fn new(
        access: GitAccess,
        repository: RepositoryName,
        commit: CommitId,
        spool: impl Into<Option<SpoolConfig>>,
    ) -> Self {
        Self {
            access,
            repository,
            commit,
            spool: spool.into(),
            fetched: Mutex::new(None),
            requests: AtomicU64::new(0),
        }
    }

    fn limits(&self) -> PackLimits {
        PackLimits::default().with_memory(self.access.memory_bytes / 2)
    }

    fn count(&self, requests: u64) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
    }

    /// Returns the repository.
    pub(super) fn repository(&self) -> &RepositoryName {
        &self.repository
    }

    /// Returns the measured times of the API and of git.
    pub(super) fn costs(&self) -> &ReadCosts {
        &self.access.costs
    }

    /// Fetches the whole commit, unless that was done before. Fails if no pack begins to arrive
    /// within `patience`.
    pub(super) async fn commit(&self, patience: Option<Duration>) -> Result<Arc<FetchedPack>> {
        let fetched = self.fetched(patience).await;
        fetched.map_err(|error| error.context("fetching the commit by git"))
    }

    async fn fetched(&self, patience: Option<Duration>) -> Result<Arc<FetchedPack>> {
        let mut fetched = self.fetched.lock().await;
        if let Some(fetched) = &*fetched {
            return Ok(Arc::clone(fetched));
        }
        let pack = Arc::new(self.fetch(patience).await?);
        *fetched = Some(Arc::clone(&pack));
        Ok(pack)
    }

    async fn fetch(&self, patience: Option<Duration>) -> Result<FetchedPack> {
        let (hash, pack) = match patience {
            None => self.start().await?,
            Some(patience) => tokio::time::timeout(patience, self.start())
                .await
                .unwrap_or_else(|_| Err(no_pack_within(patience)))?,
        };
        let fetched = self.receive(hash, pack).await?;
        tracing::info!(
            repository.name = %self.repository,
            commit.id = %self.commit,
            size_bytes = fetched.pack.spool.size_bytes(),
            objects = fetched.layout.len(),
            staged = fetched.pack.spool.place().is_some(),
            "fetched the commit by git"
        );
        Ok(fetched)
    }

    /// Requests the pack until its first bytes arrive.
    async fn start(&self) -> Result<(HashKind, PackStream)> {
        let mut tries = 0;
        loop {
            let error = match self.request().await {
                Ok(started) => return Ok(started),
                Err(error) => error,
            };
            tries += 1;
            match Backoff::for_kind(error.kind()) {
                Some(backoff) if tries < backoff.tries.min(MAX_TRIES) => {
                    tracing::debug!(
                        repository.name = %self.repository, tries, error = %error,
                        "retrying to fetch the commit by git"
                    );
                    tokio::time::sleep(backoff.wait(tries, rand::random())).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// Requests the pack once; returns when its first bytes arrive.
    async fn request(&self) -> Result<(HashKind, PackStream)> {
        let access = &self.access;
        let begin = Instant::now();
        self.count(u64::from(access.clone_url.is_none()));
        // Protocol v2 would list the refs in a separate request, and they are not needed here.
        let client = access.client(&self.repository).await?;
        let client = client.with_version(Version::V0);
        self.count(1);
        let server = client.upload_pack(&[]).await;
        let server = server.map_err(|error| may_pull(error.into()))?;
        let request = FetchRequest {
            wants: vec![self.commit.object_id()],
            depth: Some(1),
            offset_deltas: true,
            ..FetchRequest::default()
        };
        self.count(1);
        let mut no_haves = TipNegotiator::default();
        let answer = server.fetch(&request, &mut no_haves).await;
        let answer = answer.map_err(|error| may_pull(error.into()))?;
        access.costs.record_git(begin.elapsed());
        Ok((server.advertisement.hash, answer.pack))
    }

    async fn receive(&self, hash: HashKind, mut pack: PackStream) -> Result<FetchedPack> {
        let limits = self.limits();
        let mut receiver = PackIndexer::new(hash, limits);
        let mut writer = SpoolWriter::new(self.spool.clone(), self.access.memory_bytes / 4);
        let mut ignore = |_: PackObject<'_>| Ok(());
        while let Some(bytes) = pack.chunk().await? {
            receiver.push(&bytes, &mut ignore)?;
            writer.push(bytes).await?;
        }
        let arrived = receiver.finish()?;
        let pack = StagedPack {
            spool: writer.finish().await?,
            is_removed: false,
        };
        let resolved = arrived.resolve(&pack.spool, &NoBases, &mut ignore).await;
        let index = resolved
            .map_err(|error| self.beyond_memory(error.into()))?
            .index;
        Ok(FetchedPack {
            layout: PackLayout::new(index, pack.spool.size_bytes())?,
            limits,
            cache: Mutex::new(ContentCache::new(MAX_CACHED_BYTES.min(limits.memory / 4))),
            pack,
        })
    }

    fn beyond_memory(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::FileTooLarge {
            return error;
        }
        error
            .context("a file is stored as a delta, which is read in memory")
            .with_hint(format!(
                "give the function more memory; {} MiB of it are for such files now",
                self.limits().memory >> 20
            ))
    }
}

fn no_pack_within(patience: Duration) -> Error {
    let seconds = patience.as_secs();
    Error::new(
        ErrorKind::Transport,
        format!("no pack began to arrive within {seconds} s"),
    )
    .with_hint("in a VPC without a way to the internet, add an endpoint for `git-codecommit`")
}

/// Adds the missing permission to an error of git.
pub(super) fn may_pull(error: Error) -> Error {
    if error.kind() == ErrorKind::AccessDenied {
        return error.with_hint("allow the function's role `codecommit:GitPull`");
    }
    error
}

#[async_trait]
impl LargeFiles for GitLargeFiles {
    async fn open(&self, id: ObjectId) -> Result<Arc<dyn LargeFile>> {
        let opened = async {
            let fetched = self.fetched(None).await?;
            fetched
                .open(id)
                .await
                .map_err(|error| self.beyond_memory(error))
        };
        let opened = opened.await;
        opened.map_err(|error| error.context("reading a file that only git serves"))
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    async fn close(&self) {
        let fetched = self.fetched.lock().await.take();
        // If a reader still has the pack, dropping its last reference removes it.
        if let Some(fetched) = fetched.and_then(Arc::into_inner) {
            fetched.pack.remove().await;
        }
    }
}

/// A stored pack; removed when dropped.
struct StagedPack {
    spool: Spool,
    is_removed: bool,
}

impl StagedPack {
    async fn remove(mut self) {
        if let Some(removal) = self.spool.detached_remove() {
            self.is_removed = true;
            // A task, because the removal must continue when the caller is dropped.
            let _ = tokio::spawn(removal.in_current_span()).await;
        }
    }
}

impl Drop for StagedPack {
    fn drop(&mut self) {
        if !self.is_removed
            && let Some(removal) = self.spool.detached_remove()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(removal.in_current_span());
        }
    }
}

/// The pack of the commit.
pub(super) struct FetchedPack {
    layout: PackLayout,
    limits: PackLimits,
    cache: Mutex<ContentCache>,
    pack: StagedPack,
}

impl FetchedPack {
    async fn open(self: Arc<Self>, id: ObjectId) -> Result<Arc<dyn LargeFile>> {
        let entry = self.find(id)?;
        let stored = self.layout.stored(&self.pack.spool, entry).await?;
        match stored {
            EntryEncoding::Whole { kind, .. } if kind != ObjectKind::Blob => {
                return Err(corrupt(format!("{id} is used as a file, but is a {kind}")));
            }
            EntryEncoding::Whole { .. } => {}
            // Read now, because a lack of memory must fail before the header is written.
            EntryEncoding::Delta { .. } => drop(self.read(entry, ObjectKind::Blob).await?),
        }
        Ok(Arc::new(PackedFile {
            id,
            entry,
            stored,
            fetched: self,
        }))
    }

    fn find(&self, id: ObjectId) -> Result<u32> {
        self.layout.find(id).ok_or_else(|| {
            corrupt(format!(
                "object {id} of the commit is missing in the fetched pack"
            ))
        })
    }

    /// Returns the size of an object in bytes, without reading its content.
    pub(super) async fn size_of(&self, id: ObjectId) -> Result<u64> {
        let entry = self.find(id)?;
        Ok(self.layout.stored(&self.pack.spool, entry).await?.size())
    }

    /// Reads an object into memory.
    pub(super) async fn object(&self, id: ObjectId, kind: ObjectKind) -> Result<Bytes> {
        self.read(self.find(id)?, kind).await
    }

    /// Reads an entry into memory, whose object must be a `kind`.
    async fn read(&self, entry: u32, kind: ObjectKind) -> Result<Bytes> {
        let mut cache = self.cache.lock().await;
        let spool = &self.pack.spool;
        let read = self.layout.read(spool, entry, self.limits, &mut cache, 0);
        let (stored, content) = read.await?;
        if stored == kind {
            return Ok(content);
        }
        let id = self.layout.id(entry);
        Err(corrupt(format!(
            "{id} is a {stored}, and the commit uses it as a {kind}"
        )))
    }
}

struct PackedFile {
    id: ObjectId,
    entry: u32,
    stored: EntryEncoding,
    fetched: Arc<FetchedPack>,
}

impl LargeFile for PackedFile {
    fn size_bytes(&self) -> u64 {
        self.stored.size()
    }

    fn content(self: Arc<Self>) -> FileBody {
        let (fetched, entry) = (Arc::clone(&self.fetched), self.entry);
        let content = match &self.stored {
            EntryEncoding::Delta { .. } => {
                in_pieces(async move { Ok(fetched.read(entry, ObjectKind::Blob).await?) })
            }
            EntryEncoding::Whole { size, zlib, .. } => {
                inflated(self.id, *size, zlib.clone(), move |range| {
                    let fetched = Arc::clone(&fetched);
                    async move { Ok(fetched.pack.spool.read_through(range).await?) }
                })
            }
        };
        content.map_err(Into::into).boxed()
    }
}
