//! A repository on disk as a source of core's, read by git itself.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use branchline_core::git::{HashKind, ObjectId};
use branchline_core::remote::{
    Head, PackBody, PackRequest, RefValue, Refs, Remote, Snapshot, Source, Target,
};
use branchline_core::{Error, ErrorKind, Result};
use bytes::Bytes;

use crate::git::{command, git, run_with_input};
use crate::repo::Repo;

/// A source whose packs `git pack-objects` makes: the reference that other sources are
/// compared with.
#[derive(Debug)]
pub struct GitRemote {
    path: PathBuf,
    hash: HashKind,
}

impl GitRemote {
    /// Reads the repository `repo`.
    pub fn new(repo: &Repo) -> Self {
        Self {
            path: repo.path.clone(),
            hash: repo.hash,
        }
    }
}

impl fmt::Display for GitRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "git")
    }
}

fn git_error(error: &anyhow::Error) -> Error {
    Error::new(ErrorKind::Internal, format!("{error:#}"))
}

fn id(hex: &str) -> Result<ObjectId> {
    let id = ObjectId::from_hex(hex.as_bytes());
    id.map_err(|error| Error::new(ErrorKind::Internal, format!("git printed `{hex}`: {error}")))
}

#[async_trait]
impl Remote for GitRemote {
    async fn source(&self, _prefixes: &[bstr::BString]) -> Result<Box<dyn Source>> {
        // Without peeled ids, as from a server that does not advertise them.
        let format = "--format=%(objectname) %(refname)";
        let listed =
            git(&self.path, ["for-each-ref", format]).map_err(|error| git_error(&error))?;
        let mut refs = Refs::new();
        for line in listed.lines() {
            let (hex, name) = line.split_once(' ').unwrap_or_default();
            let target = RefValue {
                id: id(hex)?,
                peeled: None,
            };
            refs.insert(name.into(), target);
        }
        let head = if let Ok(name) = git(&self.path, ["symbolic-ref", "HEAD"]) {
            Head::Symbolic(name.into())
        } else {
            let hex = git(&self.path, ["rev-parse", "HEAD"]).map_err(|error| git_error(&error))?;
            Head::Detached(id(&hex)?)
        };
        Ok(Box::new(GitSource {
            path: self.path.clone(),
            snapshot: Snapshot {
                refs,
                head: Some(head),
                ..Snapshot::empty(self.hash)
            },
        }))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        Err(Error::new(
            ErrorKind::NotFound,
            "`GitRemote` is only a source",
        ))
    }
}

struct GitSource {
    path: PathBuf,
    snapshot: Snapshot,
}

#[async_trait]
impl Source for GitSource {
    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    async fn fetch(&self, wanted: &PackRequest) -> Result<PackBody> {
        let pack = pack_objects(&self.path, wanted).map_err(|error| git_error(&error))?;
        let pack = Bytes::from(pack);
        let pieces: Vec<branchline_core::git::Result<Bytes>> = (0..pack.len())
            .step_by(100_000)
            .map(|at| Ok(pack.slice(at..pack.len().min(at + 100_000))))
            .collect();
        Ok(Box::pin(futures_util::stream::iter(pieces)))
    }
}

/// Returns the pack that git makes for a request to the repository at `path`.
///
/// # Errors
/// git fails, because an object of the request is missing.
pub fn pack_objects(path: &Path, request: &PackRequest) -> anyhow::Result<Vec<u8>> {
    let mut revisions = String::new();
    for id in &request.wants {
        let _ = writeln!(revisions, "{id}");
    }
    for id in &request.haves {
        if git(path, ["cat-file", "-e", &id.to_string()]).is_ok() {
            let _ = writeln!(revisions, "^{id}");
        }
    }
    let mut pack_objects = command(path);
    pack_objects.args(["pack-objects", "-q", "--revs", "--stdout", "--threads=1"]);
    pack_objects.args(request.thin.then_some("--thin"));
    pack_objects.args(request.offset_deltas.then_some("--delta-base-offset"));
    run_with_input(&mut pack_objects, revisions.as_bytes())
}
