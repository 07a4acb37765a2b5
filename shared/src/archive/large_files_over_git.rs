//! Files of one commit that CodeCommit's API does not serve, read by git over HTTPS.
//!
//! One shallow fetch of the commit by its id, on the first file that is asked for: its pack
//! is verified as it arrives and put aside in a [`Spool`]. A file that is whole in the pack
//! is then inflated from where it lies, a piece at a time; one that is a delta is held
//! while it is read, as far as memory allows.
//!
//! Memory: a quarter of what is allowed holds the pack while it is small, and half is for
//! deltas and what they stand on. Beside it there are the parts on their way to S3 (20 MiB)
//! while a larger pack arrives, and about 80 bytes for each object of the commit.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Mutex;
use tracing::Instrument as _;

use super::{FileBody, LargeFile, LargeFiles};
use crate::codecommit::CodeCommit;
use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::git::advertisement::Version;
use crate::git::object::ObjectKind;
use crate::git::odb::{in_pieces, inflated};
use crate::git::pack::{
    ContentCache, EntryEncoding, NoBases, PackIndexer, PackLayout, PackLimits, PackObject,
};
use crate::git::smart_http::{CredentialSource, FetchRequest, Http, PackStream, TipNegotiator};
use crate::git::{HashKind, ObjectId};
use crate::name::{CommitId, RepositoryName};
use crate::remote::codecommit::git_client;
use crate::remote::{Spool, SpoolConfig, SpoolWriter};

/// How CodeCommit's repositories are reached by git.
#[derive(Clone)]
pub struct GitAccess {
    /// Finds the repository's address.
    pub service: Arc<dyn CodeCommit>,
    /// The connections.
    pub http: Http,
    /// Logs in.
    pub credentials: Arc<dyn CredentialSource>,
    /// About how many bytes may be held, see the module.
    pub memory: usize,
}

impl fmt::Debug for GitAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitAccess")
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

/// The large files of one commit.
pub struct GitLargeFiles {
    access: GitAccess,
    repository: RepositoryName,
    commit: CommitId,
    place: SpoolConfig,
    // Held while it is fetched: others wait for the same pack.
    fetched: Mutex<Option<Arc<FetchedPack>>>,
    requests: AtomicU64,
}

impl fmt::Debug for GitLargeFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitFiles")
            .field("repository", &self.repository)
            .field("commit", &self.commit)
            .finish_non_exhaustive()
    }
}

impl GitLargeFiles {
    /// The files of a commit. What does not fit into memory lies at `place` until
    /// [`close`](LargeFiles::close).
    pub fn new(
        access: GitAccess,
        repository: RepositoryName,
        commit: CommitId,
        place: SpoolConfig,
    ) -> Self {
        Self {
            access,
            repository,
            commit,
            place,
            fetched: Mutex::new(None),
            requests: AtomicU64::new(0),
        }
    }

    fn limits(&self) -> PackLimits {
        PackLimits::default().with_memory(self.access.memory / 2)
    }

    fn count(&self, requests: u64) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
    }

    async fn fetched(&self) -> Result<Arc<FetchedPack>> {
        let mut fetched = self.fetched.lock().await;
        if let Some(fetched) = &*fetched {
            return Ok(Arc::clone(fetched));
        }
        let fresh = Arc::new(self.fetch().await?);
        *fetched = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    async fn fetch(&self) -> Result<FetchedPack> {
        let access = &self.access;
        self.count(1);
        let repository = access.service.get_repository(&self.repository).await?;
        // The newer version of the protocol would ask for the refs by a request of its own,
        // and they are of no use here.
        let client =
            git_client(&repository, &access.http, &access.credentials)?.with_version(Version::V0);
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
        let hash = server.advertisement.hash;
        let fetched = self.receive(hash, answer.pack).await?;
        tracing::info!(
            repository.name = %self.repository,
            commit.id = %self.commit,
            size_bytes = fetched.pack.spool.size_bytes(),
            objects = fetched.layout.len(),
            staged = fetched.pack.spool.place().is_some(),
            "fetched the commit by git, for files that the API does not serve"
        );
        Ok(fetched)
    }

    async fn receive(&self, hash: HashKind, mut pack: PackStream) -> Result<FetchedPack> {
        let limits = self.limits();
        let mut receiver = PackIndexer::new(hash, limits);
        let mut writer = SpoolWriter::new(self.place.clone(), self.access.memory / 4);
        let mut nobody = |_: PackObject<'_>| Ok(());
        while let Some(bytes) = pack.chunk().await? {
            receiver.push(&bytes, &mut nobody)?;
            writer.push(bytes).await?;
        }
        let arrived = receiver.finish()?;
        let pack = Staged {
            spool: writer.finish().await?,
            is_removed: false,
        };
        let resolved = arrived.resolve(&pack.spool, &NoBases, &mut nobody).await;
        let index = resolved
            .map_err(|error| self.beyond_memory(error.into()))?
            .index;
        Ok(FetchedPack {
            layout: PackLayout::new(index, pack.spool.size_bytes())?,
            limits,
            cache: Mutex::new(ContentCache::new(limits.memory / 4)),
            pack,
        })
    }

    fn beyond_memory(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::FileTooLarge {
            return error;
        }
        error
            .context("a file is stored as its difference to another")
            .with_hint(format!(
                "give the function more memory, of which {} MiB are for such files now",
                self.limits().memory >> 20
            ))
    }
}

/// Says what an answer of git that refuses means here.
fn may_pull(error: Error) -> Error {
    if error.kind() == ErrorKind::AccessDenied {
        return error.with_hint("allow the function's role `codecommit:GitPull`");
    }
    error
}

#[async_trait]
impl LargeFiles for GitLargeFiles {
    async fn open(&self, id: ObjectId) -> Result<Arc<dyn LargeFile>> {
        let opened = async {
            let fetched = self.fetched().await?;
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
        // Where someone still reads, the last one to let go removes it.
        if let Some(fetched) = fetched.and_then(Arc::into_inner) {
            fetched.pack.remove().await;
        }
    }
}

/// A pack that was put aside; removed when it is dropped.
struct Staged {
    spool: Spool,
    is_removed: bool,
}

impl Staged {
    async fn remove(mut self) {
        if let Some(removal) = self.spool.detached_remove() {
            self.is_removed = true;
            // What is begun goes on, even if the caller goes away.
            let _ = tokio::spawn(removal.in_current_span()).await;
        }
    }
}

impl Drop for Staged {
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
struct FetchedPack {
    layout: PackLayout,
    limits: PackLimits,
    cache: Mutex<ContentCache>,
    pack: Staged,
}

impl FetchedPack {
    async fn open(self: Arc<Self>, id: ObjectId) -> Result<Arc<dyn LargeFile>> {
        let missing = || {
            corrupt(format!(
                "git did not send {id}, which is part of the commit"
            ))
        };
        let entry = self.layout.find(id).ok_or_else(missing)?;
        let stored = self.layout.stored(&self.pack.spool, entry).await?;
        match stored {
            EntryEncoding::Whole { kind, .. } if kind != ObjectKind::Blob => {
                return Err(corrupt(format!("{id} is a {kind}, and used as a file")));
            }
            EntryEncoding::Whole { .. } => {}
            // Whether there is memory for it shows at once.
            EntryEncoding::Delta { .. } => drop(self.read(entry).await?),
        }
        Ok(Arc::new(PackedFile {
            id,
            entry,
            stored,
            fetched: self,
        }))
    }

    /// Reads a blob whole.
    async fn read(&self, entry: u32) -> Result<Bytes> {
        let mut cache = self.cache.lock().await;
        let spool = &self.pack.spool;
        let read = self
            .layout
            .read(spool, entry, self.limits, &mut cache, 0)
            .await?;
        match read {
            (ObjectKind::Blob, content) => Ok(content),
            (kind, _) => Err(corrupt(format!("a {kind} is used as a file"))),
        }
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
            EntryEncoding::Delta { .. } => in_pieces(async move { Ok(fetched.read(entry).await?) }),
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
