//! LFS objects that a repository stores elsewhere: `lfs.url` in its settings or in the file
//! `.lfsconfig` of its default branch, or of a commit that is archived.
//!
//! Objects are requested from the repository's own store first. The configured place is read
//! only once an object is missing there, and what it cannot provide is missing, not an error:
//! a place that is gone must not stop the refs. The content is verified in any case.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bstr::BString;
use tokio::sync::OnceCell;

use super::maintenance::Maintenance;
use super::{Head, Remote, Snapshot, Source, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::lfs::{CONFIG_FILE, LfsBody, LfsStore, Pointer, configured_url, missing_object};
use crate::retry::RetryPolicy;

/// Maximum number of concurrent requests to a configured place.
const CONCURRENT_REQUESTS: usize = 32;

/// Opens the stores of LFS objects that repositories name.
pub trait LfsPlaces: Send + Sync {
    /// Opens the store at a URL for reading; makes no request.
    ///
    /// # Errors
    /// `Config` for a URL that is not read.
    fn open(&self, url: &str) -> Result<Arc<dyn LfsStore>>;
}

/// A source whose LFS objects are also read from the place that the repository names.
pub struct ConfiguredLfs {
    remote: Arc<dyn Remote>,
    places: Arc<dyn LfsPlaces>,
    commit: Option<ObjectId>,
}

impl ConfiguredLfs {
    /// Wraps `remote`; `places` opens the URL that its settings name.
    pub fn new(remote: Arc<dyn Remote>, places: Arc<dyn LfsPlaces>) -> Self {
        Self {
            remote,
            places,
            commit: None,
        }
    }

    /// Reads the settings of this commit instead of those of the default branch.
    #[must_use]
    pub fn of_commit(mut self, commit: Option<ObjectId>) -> Self {
        self.commit = commit;
        self
    }
}

impl fmt::Display for ConfiguredLfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.remote.fmt(f)
    }
}

#[async_trait]
impl Remote for ConfiguredLfs {
    async fn source(&self, prefixes: &[BString]) -> Result<Box<dyn Source>> {
        self.remote.source(prefixes).await
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        self.remote.target().await
    }

    fn lfs(&self) -> Option<Arc<dyn LfsStore>> {
        Some(Arc::new(ConfiguredStore {
            own: self.remote.lfs(),
            is_own_used: AtomicBool::new(true),
            remote: Arc::clone(&self.remote),
            places: Arc::clone(&self.places),
            commit: self.commit,
            place: OnceCell::new(),
            is_place_used: AtomicBool::new(true),
            retry: RetryPolicy::new(CONCURRENT_REQUESTS),
        }))
    }

    async fn lfs_url(&self) -> Result<Option<String>> {
        self.remote.lfs_url().await
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        self.remote.maintenance()
    }
}

/// The repository's own store, and the configured one for what is missing there.
struct ConfiguredStore {
    own: Option<Arc<dyn LfsStore>>,
    /// The own store serves LFS objects at all.
    is_own_used: AtomicBool,
    remote: Arc<dyn Remote>,
    places: Arc<dyn LfsPlaces>,
    commit: Option<ObjectId>,
    place: OnceCell<Option<Arc<dyn LfsStore>>>,
    /// The configured place has not failed as a whole.
    is_place_used: AtomicBool,
    retry: RetryPolicy,
}

impl ConfiguredStore {
    fn own(&self) -> Option<&Arc<dyn LfsStore>> {
        let own = self.own.as_ref();
        own.filter(|_| self.is_own_used.load(Ordering::Relaxed))
    }

    /// Returns the configured store, found once. A failure is only logged, because objects of the
    /// own store do not depend on it.
    async fn place(&self) -> Option<&Arc<dyn LfsStore>> {
        let find = || async {
            let found = self.retry.run(|| self.find_place()).await;
            found.unwrap_or_else(|error| {
                tracing::warn!(
                    error = %error.report(),
                    "the place of LFS objects that {} names is not read",
                    self.remote
                );
                None
            })
        };
        self.place.get_or_init(find).await.as_ref()
    }

    async fn find_place(&self) -> Result<Option<Arc<dyn LfsStore>>> {
        let Some(url) = self.find_url().await? else {
            return Ok(None);
        };
        let place = self.places.open(&url)?;
        // A repository may also name its own server.
        let is_own = |own: &Arc<dyn LfsStore>| own.to_string() == place.to_string();
        if self.own.as_ref().is_some_and(is_own) {
            return Ok(None);
        }
        tracing::info!(
            "LFS objects that {} does not have are read from {place}",
            self.remote
        );
        Ok(Some(place))
    }

    async fn find_url(&self) -> Result<Option<String>> {
        if let Some(url) = self.remote.lfs_url().await? {
            return Ok(Some(url));
        }
        let source = self.remote.source(&["refs/heads/".into()]).await?;
        let Some(id) = self.commit.or_else(|| default_branch(source.snapshot())) else {
            return Ok(None);
        };
        match source.root_file(id, CONFIG_FILE).await? {
            Some(content) => configured_url(&content),
            None => Ok(None),
        }
    }

    /// Makes the error for an object that the configured place cannot provide. `NotFound`, so that
    /// the other objects are copied.
    fn unavailable(&self, pointer: &Pointer, place: &dyn LfsStore, error: Error) -> Error {
        let message = format!(
            "neither {} nor {place}, which it names, provides LFS object {}",
            self.remote, pointer.oid
        );
        Error::new(ErrorKind::NotFound, message).with_source(error)
    }
}

/// Returns the commit that a clone checks out; without a known `HEAD`, that of git's usual names.
fn default_branch(snapshot: &Snapshot) -> Option<ObjectId> {
    let of_branch = |name: &BString| snapshot.refs.get(name).map(|found| found.id);
    match &snapshot.head {
        Some(Head::Detached(id)) => Some(*id),
        Some(Head::Symbolic(name)) => of_branch(name),
        None => ["refs/heads/main", "refs/heads/master"]
            .into_iter()
            .find_map(|name| of_branch(&name.into())),
    }
}

/// Returns true if the failure of the own store may mean that objects are stored elsewhere.
fn may_be_elsewhere(kind: ErrorKind) -> bool {
    matches!(
        kind,
        // A server without git-lfs's API may answer with a page of its own.
        ErrorKind::NotFound | ErrorKind::AccessDenied | ErrorKind::Config
    )
}

impl fmt::Display for ConfiguredStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.own {
            Some(own) => own.fmt(f),
            None => self.remote.fmt(f),
        }
    }
}

#[async_trait]
impl LfsStore for ConfiguredStore {
    async fn has_place(&self) -> Result<bool> {
        Ok(self.own.is_some() || self.place().await.is_some())
    }

    async fn missing(&self, pointers: &[Pointer]) -> Result<Vec<Pointer>> {
        let missing = match self.own() {
            Some(own) => own.missing(pointers).await?,
            None => pointers.to_vec(),
        };
        match self.place().await {
            Some(place) if !missing.is_empty() => place.missing(&missing).await,
            _ => Ok(missing),
        }
    }

    async fn prepare(&self, pointers: &[Pointer]) -> Result<Vec<Pointer>> {
        let missing = match self.own() {
            None => pointers.to_vec(),
            Some(own) => match own.prepare(pointers).await {
                Ok(missing) => missing,
                Err(error) if may_be_elsewhere(error.kind()) => {
                    if self.place().await.is_none() {
                        return Err(error);
                    }
                    self.is_own_used.store(false, Ordering::Relaxed);
                    pointers.to_vec()
                }
                Err(error) => return Err(error),
            },
        };
        if missing.is_empty() || !self.is_place_used.load(Ordering::Relaxed) {
            return Ok(missing);
        }
        let Some(place) = self.place().await else {
            return Ok(missing);
        };
        let prepared = self.retry.run(|| place.prepare(&missing)).await;
        Ok(prepared.unwrap_or_else(|error| {
            self.is_place_used.store(false, Ordering::Relaxed);
            tracing::warn!(
                error = %error.report(),
                "the place of LFS objects that {} names cannot be read",
                self.remote
            );
            missing
        }))
    }

    async fn read(&self, pointer: &Pointer) -> Result<LfsBody> {
        self.read_from(pointer, 0).await
    }

    async fn read_from(&self, pointer: &Pointer, position: u64) -> Result<LfsBody> {
        let error = match self.own() {
            None => missing_object(pointer, self),
            Some(own) => match own.read_from(pointer, position).await {
                Err(error) if may_be_elsewhere(error.kind()) => error,
                read => return read,
            },
        };
        let Some(place) = self.place().await else {
            return Err(error);
        };
        if !self.is_place_used.load(Ordering::Relaxed) {
            return Err(self.unavailable(pointer, &**place, error));
        }
        let read = self.retry.run(|| place.read_from(pointer, position)).await;
        read.map_err(|error| self.unavailable(pointer, &**place, error))
    }

    async fn write(&self, pointer: &Pointer, content: LfsBody) -> Result<()> {
        let Some(own) = &self.own else {
            let message = format!("{self} has no place for LFS object {}", pointer.oid);
            return Err(Error::new(ErrorKind::Config, message));
        };
        own.write(pointer, content).await
    }
}
