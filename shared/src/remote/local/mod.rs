//! Repositories on this machine's disk.
//!
//! - `layout`: where a repository's parts lie, and what its configuration says.
//! - `objects`: its packs and loose objects; `refs`: its refs, read.
//! - `receive`: a pack put into place; `transaction`: refs changed; `create`: new ones.
//! - `disk`: each change of the disk.
//!
//! There is no git behind this: other gits may work in the same repository meanwhile, and
//! the locks, the order of writes and the names of temporary files are git's own.
//!
//! The disk is used in blocking tasks of the runtime.

mod durable_fs;
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

pub use durable_fs::DurableFs;
use git_dir::GitDir;

use super::{
    BatchPolicy, Head, PackBody, PackRequest, Push, PushReport, RefOutcome, Remote, Snapshot,
    Source, Target, TargetCapabilities,
};
use crate::blocking::try_run as blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::git::object::ObjectKind;
use crate::git::odb::{Database, fetch};
use crate::git::pack::PackLimits;
use crate::git::{HashKind, ObjectId};
use crate::lfs::{LfsStore, LocalLfs};
use crate::remote::missing_objects_error;

/// A repository in a folder: a bare one, or a working tree with its `.git`.
///
/// As a target, a folder that is missing or empty becomes a bare repository with the first
/// push.
#[derive(Debug, Clone)]
pub struct LocalRepository {
    path: PathBuf,
    limits: PackLimits,
    disk: DurableFs,
}

impl LocalRepository {
    /// The repository at a path. `limits` are for reading it; packs that come in are
    /// verified within their own.
    pub fn new(path: impl Into<PathBuf>, limits: PackLimits) -> Self {
        Self {
            path: path.into(),
            limits,
            disk: DurableFs::default(),
        }
    }

    /// The same repository on another disk.
    #[must_use]
    pub fn with_fs(self, disk: DurableFs) -> Self {
        Self { disk, ..self }
    }
}

impl fmt::Display for LocalRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

fn snapshot(layout: &GitDir) -> Result<Snapshot> {
    Ok(Snapshot {
        hash: layout.hash,
        refs: refs::read(&layout.common, layout.hash)?.targets,
        head: refs::head(&layout.git)?,
    })
}

#[async_trait]
impl Remote for LocalRepository {
    fn lfs(&self) -> Option<Arc<dyn LfsStore>> {
        // One that is not there yet becomes a bare one, where it was named.
        let found = GitDir::find(&self.path).ok().flatten();
        let folder = found.map_or_else(|| self.path.clone(), |layout| layout.common);
        Some(Arc::new(LocalLfs::new(folder)))
    }

    async fn source(&self, _prefixes: &[BString]) -> Result<Box<dyn Source>> {
        let path = self.path.clone();
        let limits = self.limits;
        let (mut snapshot, layout, database) = blocking(move || {
            let layout = GitDir::find(&path)?.ok_or_else(|| {
                let shown = path.display();
                Error::new(ErrorKind::NotFound, format!("no repository at `{shown}`"))
                    .with_hint("name a bare repository, or a folder that holds `.git`")
            })?;
            // Refs first: what they name is in the packs that are listed afterwards.
            let snapshot = snapshot(&layout)?;
            let database = odb::open(&layout, limits)?;
            Ok((snapshot, layout, database))
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
            layout,
            limits,
            database,
        }))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        let path = self.path.clone();
        let (layout, snapshot) = blocking(move || {
            if let Some(layout) = GitDir::find(&path)? {
                let snapshot = snapshot(&layout)?;
                return Ok((Some(layout), snapshot));
            }
            init::check_empty(&path)?;
            // The first push tells the hash function.
            Ok((None, Snapshot::empty(HashKind::Sha1)))
        })
        .await?;
        Ok(Box::new(LocalTarget {
            repository: self.clone(),
            layout,
            snapshot,
        }))
    }
}

struct LocalSource {
    snapshot: Snapshot,
    layout: GitDir,
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
        if !matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Corrupt) {
            return Err(error);
        }
        // What was loose may lie in a new pack since: git packs whenever it likes.
        let database = odb::open_blocking(&self.layout, self.limits).await?;
        if database.packed_objects() == self.database.packed_objects() {
            return Err(error);
        }
        fetch(&database, wanted).await
    }

    fn has_cheap_history(&self) -> bool {
        true
    }

    async fn commit_graph(
        &self,
        wants: &[ObjectId],
        haves: &[ObjectId],
    ) -> Result<Option<super::CommitGraph>> {
        crate::git::odb::graph(&self.database, wants, haves)
            .await
            .map(Some)
    }
}

struct LocalTarget {
    repository: LocalRepository,
    // `None` until the first push makes it.
    layout: Option<GitDir>,
    snapshot: Snapshot,
}

impl LocalTarget {
    /// The repository, made now if it is not there yet.
    async fn layout(&mut self, hash: Option<HashKind>, head: Option<&Head>) -> Result<GitDir> {
        if let Some(layout) = &self.layout {
            return match hash {
                Some(hash) if hash != layout.hash => Err(Error::new(
                    ErrorKind::Config,
                    format!(
                        "{} holds ids of {}, not of {hash}",
                        self.repository, layout.hash
                    ),
                )
                .with_hint("git cannot translate between them: use an empty folder")),
                _ => Ok(layout.clone()),
            };
        }
        let hash = hash.unwrap_or(HashKind::Sha1);
        let LocalRepository { path, disk, .. } = self.repository.clone();
        let first = match head {
            Some(Head::Symbolic(name)) => name.clone(),
            _ => "refs/heads/main".into(),
        };
        let layout = blocking(move || init::init_bare(&disk, &path, hash, first.as_ref())).await?;
        self.layout = Some(layout.clone());
        self.snapshot.hash = hash;
        Ok(layout)
    }
}

#[async_trait]
impl Target for LocalTarget {
    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn accepts(&self) -> TargetCapabilities {
        TargetCapabilities {
            batches: BatchPolicy::BySize,
            thin: true,
            offset_deltas: true,
            // Elsewhere it says what is checked out.
            head: self.layout.as_ref().is_none_or(|layout| layout.bare),
            max_changes: usize::MAX,
        }
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
        let layout = self.layout(hash, push.head.as_ref()).await?;
        let (disk, limits) = (self.repository.disk.clone(), self.repository.limits);
        let before = odb::open_blocking(&layout, limits).await?;
        let mut report = PushReport::default();
        let mut database = Arc::clone(&before);
        if let Some(incoming) = push.pack {
            let received = receive_pack::receive(&disk, &layout, incoming, &before, &roots).await?;
            report.objects = received.objects;
            report.bytes = received.bytes;
            if let Some(pack) = &received.pack {
                database = odb::with_pack(&layout, limits, pack).await?;
            }
            if !received.missing.is_empty() {
                self.connected(&database, &roots).await?;
            }
            if let Some(before_refs) = &push.before_refs {
                before_refs.pre_publish(&received.watch).await?;
            }
            received.publish(&disk, &layout).await?;
        } else {
            self.connected(&database, &roots).await?;
        }
        let mut checked = Vec::with_capacity(push.changes.len());
        for change in push.changes {
            let refused = match change.new {
                Some(new) if change.name.starts_with(b"refs/heads/") => {
                    not_a_commit(&database, &change.name, new.id).await?
                }
                _ => None,
            };
            checked.push((change, refused));
        }
        let snapshot = self.snapshot.clone();
        let head = push.head;
        let (outcomes, snapshot) = blocking(move || {
            let mut snapshot = snapshot;
            let outcomes = ref_transaction::change(&disk, &layout, checked, &mut snapshot)?;
            if let Some(head) = head {
                ref_transaction::set_head(&disk, &layout, &head)?;
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
    /// Makes sure that all is there that refs to `roots` need, given that what its refs
    /// name is whole.
    async fn connected(&self, database: &Arc<Database>, roots: &[ObjectId]) -> Result<()> {
        if roots.is_empty() {
            return Ok(());
        }
        let tips = self.snapshot.tips();
        let walked = crate::git::odb::reachable_objects(database, roots, &tips).await;
        match walked {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut missing = Vec::new();
                for root in roots {
                    if !database.contains(*root).await? {
                        missing.push(*root);
                    }
                }
                Err(missing_objects_error(&missing).with_source(error))
            }
            Err(error) => Err(error.context("the source did not send all that is needed")),
        }
    }
}

/// Why a branch cannot become that object, in git's words.
async fn not_a_commit(
    database: &Database,
    name: &BString,
    id: ObjectId,
) -> Result<Option<RefOutcome>> {
    let found = database.read(id).await?;
    if found.is_some_and(|(kind, _)| kind == ObjectKind::Commit) {
        return Ok(None);
    }
    let reason = format!(
        "cannot update ref '{name}': trying to write non-commit object {id} to branch '{name}'"
    );
    Ok(Some(RefOutcome::Rejected(reason)))
}
