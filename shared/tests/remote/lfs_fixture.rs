//! Sources with LFS objects, and the results that mirrors of them report.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use branchline_core::Result;
use branchline_core::git::HashKind;
use branchline_core::git::advertisement::Version;
use branchline_core::lfs::{LfsStore, TransferReport};
use branchline_core::mirror::{LfsOptions, LfsPolicy, MirrorOptions};
use branchline_core::remote::smart_http::HttpRemote;
use branchline_core::remote::{Remote, Source, Target};
use bstr::BString;

use crate::remote::http::{everything, remote};
use crate::remote::lfs::{MEMORY, http};
use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::lfs_server::{LfsServer, oid};
use branchline_test_support::repo::Repo;

pub(crate) fn with_lfs() -> MirrorOptions {
    MirrorOptions {
        lfs: Some(LfsOptions::new(MEMORY)),
        ..everything()
    }
}

pub(crate) fn with_policy(policy: LfsPolicy) -> MirrorOptions {
    MirrorOptions {
        lfs: Some(LfsOptions {
            memory: MEMORY,
            policy,
        }),
        ..everything()
    }
}

/// Makes the pointer to a content.
pub(crate) fn text(content: &[u8]) -> String {
    format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n",
        oid(content),
        content.len()
    )
}

/// Adds a commit with the pointer to a content, without git-lfs.
pub(crate) fn point(repo: &Repo, file: &str, content: &[u8]) {
    commit(repo, file, &text(content));
}

/// Adds a commit with a file.
pub(crate) fn commit(repo: &Repo, file: &str, text: &str) {
    let is_there = repo.run(&["rev-parse", "-q", "--verify", "main"], b"").0;
    let parent = if is_there {
        "from refs/heads/main^0\n"
    } else {
        ""
    };
    let stream = format!(
        "commit refs/heads/main\ncommitter C <c@x> 1600000000 +0000\ndata 1\nx\n{parent}\
         M 100644 inline {file}\ndata {}\n{text}\n",
        text.len()
    );
    repo.input(&["fast-import", "--quiet", "--force"], stream.as_bytes());
}

/// A repository on one server, and its objects on another.
pub(crate) struct Beside(pub(crate) HttpRemote, pub(crate) Arc<dyn LfsStore>);

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl Remote for Beside {
    async fn source(&self, prefixes: &[BString]) -> Result<Box<dyn Source>> {
        self.0.source(prefixes).await
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        self.0.target().await
    }

    fn lfs(&self) -> Option<Arc<dyn LfsStore>> {
        Some(Arc::clone(&self.1))
    }
}

/// Serves a repository, and redirects LFS clients to another server.
pub(crate) fn serve(repo: &Repo, lfs: &LfsServer) -> GitServer {
    let base = lfs.base();
    GitServer::with(repo, move |seen| {
        if seen.target.contains("/info/lfs/") {
            Response::Redirect(307, format!("{base}{}", seen.target))
        } else {
            Response::Git
        }
    })
}

pub(crate) fn version(n: usize) -> Vec<u8> {
    format!("version {n} of a large file\n")
        .repeat(n + 1)
        .into_bytes()
}

/// A repository on a git server, and its LFS objects on a server of their own.
pub(crate) struct LfsSource {
    pub(crate) repo: Repo,
    pub(crate) lfs: LfsServer,
    pub(crate) server: GitServer,
}

impl LfsSource {
    pub(crate) fn new() -> Self {
        let repo = Repo::new(HashKind::Sha1);
        Self {
            server: GitServer::new(&repo),
            lfs: LfsServer::new(&[]),
            repo,
        }
    }

    pub(crate) fn remote(&self) -> Beside {
        Beside(remote(&self.server.url(), Version::V2), http(&self.lfs))
    }

    /// Adds a commit with a pointer to a version of a file, and its object if it `is_there`.
    pub(crate) fn grow(&self, number: usize, is_there: bool) -> Vec<u8> {
        let content = version(number);
        point(&self.repo, "large.bin", &content);
        if is_there {
            self.lfs.put(&oid(&content), &content);
        }
        content
    }
}

/// The report of a run that finds none of these objects.
pub(crate) fn missing(contents: &[&[u8]]) -> TransferReport {
    let mut missing_oids: Vec<String> = contents.iter().map(|content| oid(content)).collect();
    missing_oids.sort();
    TransferReport {
        missing: contents.len() as u64,
        missing_oids,
        ..TransferReport::default()
    }
}

/// The report of a run that copies these objects.
pub(crate) fn copied(contents: &[&[u8]]) -> TransferReport {
    TransferReport {
        objects: contents.len() as u64,
        bytes: contents.iter().map(|content| content.len() as u64).sum(),
        ..TransferReport::default()
    }
}
