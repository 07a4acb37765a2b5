//! A repository on disk as a source, by way of git itself.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::process::Command;

use async_trait::async_trait;
use branchline_core::git::{HashKind, ObjectId};
use branchline_core::remote::{
    Head, PackBody, PackRequest, RefTarget, Refs, Remote, Snapshot, Source, Target,
};
use branchline_core::{Error, ErrorKind, Result};
use bytes::Bytes;

use super::repo::{Repo, environment};

/// Runs git in a folder; what it prints.
pub(crate) fn git(folder: &std::path::Path, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new("git");
    environment(&mut command, folder);
    let output = command.current_dir(folder).args(args).output().unwrap();
    if output.status.success() {
        let text = String::from_utf8(output.stdout).unwrap();
        return Ok(text.trim_end_matches('\n').to_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A repository whose packs `git pack-objects` makes.
pub(crate) struct GitRemote {
    path: std::path::PathBuf,
    hash: HashKind,
}

impl GitRemote {
    pub(crate) fn new(repo: &Repo) -> Self {
        Self {
            path: repo.path.clone(),
            hash: repo.hash,
        }
    }

    fn git(&self, args: &[&str]) -> Result<String, String> {
        git(&self.path, args)
    }
}

impl fmt::Display for GitRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "git")
    }
}

fn id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.as_bytes()).unwrap()
}

#[async_trait]
impl Remote for GitRemote {
    async fn source(&self, _prefixes: &[bstr::BString]) -> Result<Box<dyn Source>> {
        // Peeled ids are left out, as by a remote that does not tell them.
        let listed = self.git(&["for-each-ref", "--format=%(objectname) %(refname)"]);
        let mut refs = Refs::new();
        for line in listed.unwrap().lines() {
            let (hex, name) = line.split_once(' ').unwrap();
            let target = RefTarget {
                id: id(hex),
                peeled: None,
            };
            refs.insert(name.into(), target);
        }
        let head = match self.git(&["symbolic-ref", "HEAD"]) {
            Ok(name) => Head::Symbolic(name.into()),
            Err(_) => Head::Detached(id(&self.git(&["rev-parse", "HEAD"]).unwrap())),
        };
        Ok(Box::new(GitSource {
            path: self.path.clone(),
            snapshot: Snapshot {
                hash: self.hash,
                refs,
                head: Some(head),
            },
        }))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        Err(Error::new(ErrorKind::NotFound, "it is a source alone"))
    }
}

struct GitSource {
    path: std::path::PathBuf,
    snapshot: Snapshot,
}

#[async_trait]
impl Source for GitSource {
    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    async fn fetch(&self, wanted: &PackRequest) -> Result<PackBody> {
        let mut input = String::new();
        for id in &wanted.wants {
            writeln!(input, "{id}").unwrap();
        }
        for id in &wanted.haves {
            if git(&self.path, &["cat-file", "-e", &id.to_string()]).is_ok() {
                writeln!(input, "^{id}").unwrap();
            }
        }
        let mut command = Command::new("git");
        environment(&mut command, &self.path);
        command.arg("-C").arg(&self.path);
        command.args(["pack-objects", "-q", "--revs", "--stdout", "--threads=1"]);
        if wanted.thin {
            command.arg("--thin");
        }
        if wanted.offset_deltas {
            command.arg("--delta-base-offset");
        }
        let mut child = command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let pack = Bytes::from(output.stdout);
        let pieces: Vec<branchline_core::git::Result<Bytes>> = (0..pack.len())
            .step_by(100_000)
            .map(|at| Ok(pack.slice(at..pack.len().min(at + 100_000))))
            .collect();
        Ok(Box::pin(futures_util::stream::iter(pieces)))
    }
}
