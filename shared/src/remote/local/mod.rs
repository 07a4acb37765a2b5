//! Repositories on the local disk.
//!
//! | module | job |
//! |---|---|
//! | `git_dir`, `config` | finds a repository's directories and reads its settings |
//! | `files` | reads a file that may be missing |
//! | `odb` | opens packs and loose objects |
//! | `refs` | reads loose and packed refs, and `HEAD` |
//! | `receive_pack` | writes, verifies and publishes a received pack |
//! | `ref_transaction` | updates refs under git's locks |
//! | `init` | initialises a bare repository |
//! | `durable_fs` | makes each write |
//!
//! No git binary is needed. Git may use the repository concurrently: the locks, the order of
//! writes and the names of temporary files are git's own.
//!
//! Of gitoxide only gix-config is used, to parse `config`. gix-lock 26 and gix-ref 0.69 are
//! not, because they do not sync a lock file before its rename, report one error for a whole
//! transaction where a push reports an outcome for each ref, and cannot run on the file system
//! of the crash tests, which fails after any write.
//!
//! The disk is accessed on the runtime's blocking pool.

mod config;
mod durable_fs;
mod files;
mod git_dir;
mod init;
mod odb;
mod receive_pack;
mod ref_transaction;
mod refs;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bstr::BString;

pub use durable_fs::{DurableFs, StdFs};
use git_dir::GitDir;

use super::{
    BatchPolicy, Head, IgnoredRefs, PackBody, PackRequest, Push, PushReport, RefOutcome, Remote,
    Snapshot, Source, Target, TargetCapabilities,
};
use crate::blocking::try_run as blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::git::object::ObjectKind;
use crate::git::odb::{Database, fetch};
use crate::git::pack::{Bases, PackLimits};
use crate::git::{HashKind, ObjectId};
use crate::lfs::{LfsStore, LocalLfs};
use crate::remote::lazy_bases::LazyBases;
use crate::remote::{is_branch, is_head_valid, missing_objects_error, reject_non_commit};

/// A repository in a directory: a bare one, or a working tree with its `.git`.
///
/// As a target, a missing or empty directory is initialised as a bare repository by the first
/// push.
#[derive(Debug, Clone)]
pub struct LocalRepository {
    path: PathBuf,
    limits: PackLimits,
    fs: Arc<dyn DurableFs>,
}

impl LocalRepository {
    /// Names the repository at `path`. `limits` apply to reading; received packs have limits of
    /// their own.
    pub fn new(path: impl Into<PathBuf>, limits: PackLimits) -> Self {
        Self {
            path: path.into(),
            limits,
            fs: Arc::new(StdFs),
        }
    }

    /// Sets the file system to write to.
    #[must_use]
    pub fn with_fs(self, fs: impl DurableFs + 'static) -> Self {
        Self {
            fs: Arc::new(fs),
            ..self
        }
    }
}

impl fmt::Display for LocalRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

fn snapshot(git_dir: &GitDir) -> Result<Snapshot> {
    Ok(Snapshot {
        hash: git_dir.hash,
        refs: refs::read(&git_dir.common, git_dir.hash)?.targets,
        head: refs::head(&git_dir.git)?,
        ignored: IgnoredRefs::default(),
    })
}

#[async_trait]
impl Remote for LocalRepository {
    fn lfs(&self) -> Option<Arc<dyn LfsStore>> {
        // A missing repository will be initialised as a bare one at this path.
        let found = GitDir::find(&self.path).ok().flatten();
        let directory = found.map_or_else(|| self.path.clone(), |git_dir| git_dir.common);
        Some(Arc::new(LocalLfs::new(directory)))
    }

    async fn lfs_url(&self) -> Result<Option<String>> {
        let path = self.path.clone();
        blocking(move || match GitDir::find(&path)? {
            Some(git_dir) => git_dir.lfs_url(),
            None => Ok(None),
        })
        .await
    }

    async fn source(&self, _prefixes: &[BString]) -> Result<Box<dyn Source>> {
        let path = self.path.clone();
        let limits = self.limits;
        let (mut snapshot, git_dir, database) = blocking(move || {
            let git_dir = GitDir::find(&path)?.ok_or_else(|| {
                let shown = path.display();
                Error::new(
                    ErrorKind::NotFound,
                    format!("`{shown}` is not a git repository"),
                )
                .with_hint("name a bare repository, or a directory with a `.git`")
            })?;
            // Refs first, because the packs listed afterwards have all that the refs name.
            let snapshot = snapshot(&git_dir)?;
            let database = odb::open(&git_dir, limits)?;
            Ok((snapshot, git_dir, database))
        })
        .await?;
        let tags = snapshot.refs.iter_mut();
        for (name, target) in tags.filter(|(name, _)| name.starts_with(b"refs/tags/")) {
            if target.peeled.is_none() {
                let peeled = database.peel(target.id).await;
                let (id, _) = peeled.map_err(|error| error.context(format!("tag `{name}`")))?;
                target.peeled = (id != target.id).then_some(id);
            }
        }
        Ok(Box::new(LocalSource {
            snapshot,
            git_dir,
            limits,
            database,
        }))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        let path = self.path.clone();
        let (git_dir, snapshot) = blocking(move || {
            if let Some(git_dir) = GitDir::find(&path)? {
                let snapshot = snapshot(&git_dir)?;
                return Ok((Some(git_dir), snapshot));
            }
            init::check_empty(&path)?;
            // The hash function is that of the first push.
            Ok((None, Snapshot::empty(HashKind::Sha1)))
        })
        .await?;
        Ok(Box::new(LocalTarget {
            repository: self.clone(),
            git_dir,
            snapshot,
        }))
    }
}

struct LocalSource {
    snapshot: Snapshot,
    git_dir: GitDir,
    limits: PackLimits,
    database: Arc<Database>,
}

#[async_trait]
impl Source for LocalSource {
    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    async fn fetch(&self, wanted: &PackRequest) -> Result<PackBody> {
        let error = match fetch(&self.database, wanted).await {
            Ok(body) => return Ok(body),
            Err(error) => error,
        };
        let error = crate::Error::from(error);
        if !matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Corrupt) {
            return Err(error);
        }
        // Git may have packed loose objects meanwhile.
        let database = odb::open_async(&self.git_dir, self.limits).await?;
        if database.packed_objects() == self.database.packed_objects() {
            return Err(error);
        }
        Ok(fetch(&database, wanted).await?)
    }

    fn has_cheap_history(&self) -> bool {
        true
    }

    async fn commit_graph(
        &self,
        wants: &[ObjectId],
        haves: &[ObjectId],
    ) -> Result<Option<super::CommitGraph>> {
        let graph = crate::git::odb::graph(&self.database, wants, haves).await?;
        Ok(Some(graph))
    }

    async fn objects(&self, ids: &[ObjectId]) -> Result<Option<Arc<Database>>> {
        for id in ids {
            if !self.database.contains(*id).await? {
                // Git may have packed loose objects meanwhile, or the object is new.
                return Ok(Some(odb::open_async(&self.git_dir, self.limits).await?));
            }
        }
        Ok(Some(Arc::clone(&self.database)))
    }

    async fn commits_since(
        &self,
        want: ObjectId,
        have: ObjectId,
    ) -> Result<Option<super::CommitGraph>> {
        let graph = crate::git::odb::graph_since(&self.database, want, have).await?;
        Ok(Some(graph))
    }
}

struct LocalTarget {
    repository: LocalRepository,
    // `None` until the first push initialises the repository.
    git_dir: Option<GitDir>,
    snapshot: Snapshot,
}

impl LocalTarget {
    /// Returns the repository, initialised if missing.
    async fn git_dir(&mut self, hash: Option<HashKind>, head: Option<&Head>) -> Result<GitDir> {
        if let Some(git_dir) = &self.git_dir {
            return match hash {
                Some(hash) if hash != git_dir.hash => Err(Error::new(
                    ErrorKind::Config,
                    format!(
                        "{} has object ids of {}, not of {hash}",
                        self.repository, git_dir.hash
                    ),
                )
                .with_hint("git cannot convert between them: use an empty directory")),
                _ => Ok(git_dir.clone()),
            };
        }
        let hash = hash.unwrap_or(HashKind::Sha1);
        let LocalRepository { path, fs, .. } = self.repository.clone();
        let first = match head {
            Some(Head::Symbolic(name)) => name.clone(),
            _ => "refs/heads/main".into(),
        };
        let git_dir = blocking(move || init::init_bare(&*fs, &path, hash, first.as_ref())).await?;
        self.git_dir = Some(git_dir.clone());
        self.snapshot.hash = hash;
        Ok(git_dir)
    }
}

#[async_trait]
impl Target for LocalTarget {
    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn capabilities(&self) -> TargetCapabilities {
        TargetCapabilities {
            batches: BatchPolicy::BySize,
            thin: true,
            offset_deltas: true,
            // `HEAD` of a working tree names the branch that is checked out.
            head: self.git_dir.as_ref().is_none_or(|git_dir| git_dir.bare),
            unborn_head: true,
            sets_aside: false,
            max_changes: usize::MAX,
        }
    }

    fn bases(&self) -> Option<Arc<dyn Bases>> {
        let (git_dir, limits) = (self.git_dir.clone()?, self.repository.limits);
        Some(Arc::new(LazyBases::new(move || {
            let git_dir = git_dir.clone();
            async move {
                let database: Arc<dyn Bases> = odb::open_async(&git_dir, limits).await?;
                Ok(database)
            }
        })))
    }

    async fn push(&mut self, push: Push) -> Result<PushReport> {
        let detached = match &push.head {
            Some(Head::Detached(id)) => Some(*id),
            _ => None,
        };
        let new = push
            .changes
            .iter()
            .filter_map(|change| Some(change.new?.id));
        let mut roots: Vec<ObjectId> = new.chain(detached).collect();
        roots.sort_unstable();
        roots.dedup();
        let hash = roots.first().copied().map(|id| id.kind());
        let git_dir = self.git_dir(hash, push.head.as_ref()).await?;
        let (fs, limits) = (Arc::clone(&self.repository.fs), self.repository.limits);
        let before = odb::open_async(&git_dir, limits).await?;
        let mut report = PushReport::default();
        let mut database = Arc::clone(&before);
        if let Some(incoming) = push.pack {
            let received = receive_pack::receive(&fs, &git_dir, incoming, &before, &roots).await?;
            report.objects = received.objects;
            report.bytes = received.bytes;
            if let Some(pack) = &received.pack {
                database = odb::with_pack(&git_dir, limits, pack).await?;
            }
            if !received.missing.is_empty() {
                self.check_connected(&database, &roots).await?;
            }
            if let Some(publish_hook) = &push.publish_hook {
                publish_hook
                    .before_publish(&received.received_objects)
                    .await?;
            }
            received.publish(&fs, &git_dir).await?;
        } else {
            self.check_connected(&database, &roots).await?;
        }
        let mut checked = Vec::with_capacity(push.changes.len());
        for change in push.changes {
            let rejected = match change.new {
                Some(new) if is_branch(&change.name) && !is_commit(&database, new.id).await? => {
                    let reason = reject_non_commit(&change.name, new.id);
                    Some(RefOutcome::Rejected(reason))
                }
                _ => None,
            };
            checked.push((change, rejected));
        }
        let snapshot = self.snapshot.clone();
        let head = push.head;
        let (outcomes, snapshot) = blocking(move || {
            let mut snapshot = snapshot;
            let outcomes = ref_transaction::update_refs(&*fs, &git_dir, checked, &mut snapshot)?;
            if let Some(head) = head.filter(|head| is_head_valid(head, &snapshot.refs)) {
                ref_transaction::set_head(&*fs, &git_dir, &head)?;
                snapshot.head = Some(head);
            }
            Ok((outcomes, snapshot))
        })
        .await?;
        self.snapshot = snapshot;
        report.refs = outcomes;
        Ok(report)
    }
}

impl LocalTarget {
    /// Checks that everything reachable from `roots` exists, assuming that the existing refs
    /// are complete.
    async fn check_connected(&self, database: &Arc<Database>, roots: &[ObjectId]) -> Result<()> {
        if roots.is_empty() {
            return Ok(());
        }
        let tips = self.snapshot.tips();
        let walked = crate::git::odb::reachable_objects(database, roots, &tips).await;
        match walked {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == crate::git::ErrorKind::NotFound => {
                let mut missing = Vec::new();
                for root in roots {
                    if !database.contains(*root).await? {
                        missing.push(*root);
                    }
                }
                Err(missing_objects_error(&missing).with_source(error).into())
            }
            Err(error) => Err(error
                .context("checking that the source sent all objects")
                .into()),
        }
    }
}

async fn is_commit(database: &Database, id: ObjectId) -> Result<bool> {
    let found = database.read(id).await?;
    Ok(found.is_some_and(|(kind, _)| kind == ObjectKind::Commit))
}
