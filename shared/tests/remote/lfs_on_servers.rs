//! LFS objects of mirrors on git servers: what was missing is requested again by each run, from the
//! record under a ref of the server.

use std::process::Command;

use branchline_core::git::HashKind;
use branchline_core::git::advertisement::Version;
use branchline_core::lfs::TransferReport;
use branchline_core::mirror::{LfsPolicy, MirrorOptions, MirrorStats, mirror};

use crate::remote::http::{remote, strict};
use crate::remote::lfs::http;
use crate::remote::lfs_mirror::{Beside, point, serve, version, with_policy};
use branchline_test_support::git_server::GitServer;
use branchline_test_support::lfs_server::{LfsServer, oid};
use branchline_test_support::repo::Repo;

const RECORD: &str = "refs/branchline/lfs-record";

/// A source with LFS objects on a server of their own, and a git server with LFS as the target.
struct ServerMirror {
    repo: Repo,
    lfs: LfsServer,
    from: GitServer,
    copy: Repo,
    copied: LfsServer,
    to: GitServer,
}

impl ServerMirror {
    fn new() -> Self {
        let (repo, copy) = (Repo::new(HashKind::Sha1), strict(HashKind::Sha1));
        let copied = LfsServer::new(&[]);
        Self {
            from: GitServer::new(&repo),
            lfs: LfsServer::new(&[]),
            to: serve(&copy, &copied),
            repo,
            copy,
            copied,
        }
    }

    fn grow(&self, number: usize, is_there: bool) -> Vec<u8> {
        let content = version(number);
        point(&self.repo, "large.bin", &content);
        if is_there {
            self.lfs.put(&oid(&content), &content);
        }
        content
    }

    async fn run(&self, policy: LfsPolicy) -> MirrorStats {
        let source = Beside(remote(&self.from.url(), Version::V2), http(&self.lfs));
        let target = remote(&self.to.url(), Version::V2);
        let options = MirrorOptions {
            prune: true,
            ..with_policy(policy)
        };
        mirror(&source, &target, &options, None).await.unwrap()
    }

    /// Returns the refs of the target without the record.
    fn mirrored(&self) -> String {
        let refs = self.copy.refs();
        let lines = refs.lines().filter(|line| !line.ends_with(RECORD));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn record(&self) -> Option<String> {
        let (is_there, text, _) = self.copy.run(&["cat-file", "blob", RECORD], b"");
        is_there.then(|| String::from_utf8(text).unwrap())
    }

    /// Runs without news; returns the requests that both servers of the target received.
    async fn idle_requests(&self) -> usize {
        let seen = || self.to.requests().len() + self.copied.requests().len();
        let before = seen();
        self.run(LfsPolicy::Copy).await;
        seen() - before
    }
}

fn missing(contents: &[&[u8]]) -> TransferReport {
    let mut missing_oids: Vec<String> = contents.iter().map(|content| oid(content)).collect();
    missing_oids.sort();
    TransferReport {
        missing: contents.len() as u64,
        missing_oids,
        ..TransferReport::default()
    }
}

#[tokio::test]
async fn objects_that_were_missing_are_requested_again_until_they_are_there() {
    let servers = ServerMirror::new();
    let there = servers.grow(1, true);
    servers.run(LfsPolicy::Copy).await;
    assert_eq!(servers.record(), None, "nothing is missing");
    let idle = servers.idle_requests().await;
    assert_eq!(idle, 1, "the refs alone");

    let gone = [servers.grow(2, false), servers.grow(3, false)];
    let stats = servers.run(LfsPolicy::Copy).await;
    assert_eq!(stats.lfs, missing(&[&gone[0], &gone[1]]));
    assert_eq!(servers.mirrored(), servers.repo.refs());
    let record = servers.record().expect("objects are missing");
    assert!(record.contains(&oid(&gone[0])) && !record.contains(&oid(&there)));
    // A run without news asks again, whatever refs it prunes, and keeps the record.
    for _ in 0..2 {
        let stats = servers.run(LfsPolicy::Copy).await;
        assert_eq!(stats.lfs, missing(&[&gone[0], &gone[1]]));
        assert_eq!(servers.record().as_ref(), Some(&record));
    }
    servers.lfs.put(&oid(&gone[0]), &gone[0]);
    let stats = servers.run(LfsPolicy::Copy).await;
    assert_eq!((stats.lfs.objects, stats.lfs.missing), (1, 1));
    servers.lfs.put(&oid(&gone[1]), &gone[1]);
    let stats = servers.run(LfsPolicy::Copy).await;
    assert_eq!((stats.lfs.objects, stats.lfs.missing), (1, 0));
    assert!(servers.copied.objects() == servers.lfs.objects());
    assert_eq!(
        servers.record(),
        None,
        "the record goes with its last object"
    );
    assert_eq!(servers.idle_requests().await, idle);
    servers.copy.fsck();
    servers.copied.assert_content();
}

#[tokio::test]
async fn objects_that_another_client_provides_are_no_longer_missing() {
    let servers = ServerMirror::new();
    let gone = servers.grow(1, false);
    servers.run(LfsPolicy::Copy).await;
    servers.copied.put(&oid(&gone), &gone);
    let stats = servers.run(LfsPolicy::Copy).await;
    assert_eq!(stats.lfs, TransferReport::default());
    assert_eq!(servers.record(), None);
}

#[tokio::test]
async fn a_required_object_fails_later_runs_until_it_is_there() {
    let servers = ServerMirror::new();
    let gone = servers.grow(1, false);
    servers.run(LfsPolicy::Copy).await;
    let source = Beside(remote(&servers.from.url(), Version::V2), http(&servers.lfs));
    let target = remote(&servers.to.url(), Version::V2);
    let required = with_policy(LfsPolicy::Required);
    let error = mirror(&source, &target, &required, None).await.unwrap_err();
    assert!(error.report().contains(&oid(&gone)), "{}", error.report());
    servers.lfs.put(&oid(&gone), &gone);
    assert_eq!(servers.run(LfsPolicy::Required).await.lfs.objects, 1);
    assert_eq!(servers.record(), None);
}

#[tokio::test]
async fn a_server_that_refuses_the_record_gets_its_refs() {
    let servers = ServerMirror::new();
    let hook = servers.copy.path.join("hooks/update");
    let script = "#!/bin/sh\ncase $1 in refs/branchline/*) echo no; exit 1;; esac\n";
    std::fs::write(&hook, script).unwrap();
    let made = Command::new("chmod").arg("+x").arg(&hook).status();
    assert!(made.unwrap().success());
    let gone = servers.grow(1, false);
    assert_eq!(servers.run(LfsPolicy::Copy).await.lfs, missing(&[&gone]));
    assert_eq!(servers.copy.refs(), servers.repo.refs());
    // What is missing is found by a verification.
    servers.lfs.put(&oid(&gone), &gone);
    assert_eq!(servers.run(LfsPolicy::Copy).await.lfs.objects, 0);
    assert_eq!(servers.run(LfsPolicy::Verify).await.lfs.objects, 1);
}

#[tokio::test]
async fn the_record_of_a_server_is_not_mirrored_from_there() {
    let servers = ServerMirror::new();
    servers.grow(1, false);
    servers.run(LfsPolicy::Copy).await;
    assert!(servers.record().is_some());
    let (end, lfs) = (strict(HashKind::Sha1), LfsServer::new(&[]));
    let server = serve(&end, &lfs);
    let source = remote(&servers.to.url(), Version::V2);
    let target = remote(&server.url(), Version::V2);
    let options = with_policy(LfsPolicy::Skip);
    mirror(&source, &target, &options, None).await.unwrap();
    assert_eq!(end.refs(), servers.repo.refs());
}

#[tokio::test]
async fn a_damaged_record_has_all_history_scanned_again() {
    let servers = ServerMirror::new();
    let gone = servers.grow(1, false);
    servers.run(LfsPolicy::Copy).await;
    let blob = servers
        .copy
        .input(&["hash-object", "-w", "--stdin"], b"no record\n");
    let blob = String::from_utf8(blob).unwrap();
    servers.copy.git(&["update-ref", RECORD, blob.trim()]);
    assert_eq!(servers.run(LfsPolicy::Copy).await.lfs, missing(&[&gone]));
    let record = servers.record().expect("the object is missing");
    assert!(record.contains(&oid(&gone)), "{record}");
}
