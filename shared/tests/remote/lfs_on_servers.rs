//! LFS objects of mirrors on git servers: what was missing is requested again by each run, from the
//! record under a ref of the server.

use std::process::Command;

use branchline_core::git::HashKind;
use branchline_core::git::advertisement::Version;
use branchline_core::lfs::TransferReport;
use branchline_core::mirror::{LfsPolicy, MirrorOptions, MirrorStats, mirror};

use crate::remote::http::{remote, strict};
use crate::remote::lfs_fixture::{LfsSource, missing, serve, with_policy};
use branchline_test_support::git_server::GitServer;
use branchline_test_support::lfs_server::{LfsServer, oid};
use branchline_test_support::repo::Repo;

const RECORD: &str = "refs/branchline/lfs-record";

/// A source with LFS objects on a server of their own, and a git server with LFS as the target.
struct ServerMirror {
    from: LfsSource,
    copy: Repo,
    copied: LfsServer,
    to: GitServer,
}

impl ServerMirror {
    fn new() -> Self {
        let copy = strict(HashKind::Sha1);
        let copied = LfsServer::new(&[]);
        Self {
            from: LfsSource::new(),
            to: serve(&copy, &copied),
            copy,
            copied,
        }
    }

    async fn run(&self, policy: LfsPolicy) -> MirrorStats {
        let source = self.from.remote();
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

#[tokio::test]
async fn objects_that_were_missing_are_requested_again_until_they_are_there() {
    let servers = ServerMirror::new();
    let there = servers.from.grow(1, true);
    servers.run(LfsPolicy::Copy).await;
    assert_eq!(servers.record(), None, "nothing is missing");
    let idle = servers.idle_requests().await;
    assert_eq!(idle, 1, "the refs alone");

    let gone = [servers.from.grow(2, false), servers.from.grow(3, false)];
    let stats = servers.run(LfsPolicy::Copy).await;
    assert_eq!(stats.lfs, missing(&[&gone[0], &gone[1]]));
    assert_eq!(servers.mirrored(), servers.from.repo.refs());
    let record = servers.record().expect("objects are missing");
    assert!(record.contains(&oid(&gone[0])) && !record.contains(&oid(&there)));
    // A run without news asks again, whatever refs it prunes, and keeps the record.
    for _ in 0..2 {
        let stats = servers.run(LfsPolicy::Copy).await;
        assert_eq!(stats.lfs, missing(&[&gone[0], &gone[1]]));
        assert_eq!(servers.record().as_ref(), Some(&record));
    }
    servers.from.lfs.put(&oid(&gone[0]), &gone[0]);
    let stats = servers.run(LfsPolicy::Copy).await;
    assert_eq!((stats.lfs.objects, stats.lfs.missing), (1, 1));
    servers.from.lfs.put(&oid(&gone[1]), &gone[1]);
    let stats = servers.run(LfsPolicy::Copy).await;
    assert_eq!((stats.lfs.objects, stats.lfs.missing), (1, 0));
    assert!(servers.copied.objects() == servers.from.lfs.objects());
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
    let gone = servers.from.grow(1, false);
    servers.run(LfsPolicy::Copy).await;
    servers.copied.put(&oid(&gone), &gone);
    let stats = servers.run(LfsPolicy::Copy).await;
    assert_eq!(stats.lfs, TransferReport::default());
    assert_eq!(servers.record(), None);
}

#[tokio::test]
async fn a_required_object_fails_later_runs_until_it_is_there() {
    let servers = ServerMirror::new();
    let gone = servers.from.grow(1, false);
    servers.run(LfsPolicy::Copy).await;
    let source = servers.from.remote();
    let target = remote(&servers.to.url(), Version::V2);
    let required = with_policy(LfsPolicy::Required);
    let error = mirror(&source, &target, &required, None).await.unwrap_err();
    assert!(error.report().contains(&oid(&gone)), "{}", error.report());
    servers.from.lfs.put(&oid(&gone), &gone);
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
    let gone = servers.from.grow(1, false);
    assert_eq!(servers.run(LfsPolicy::Copy).await.lfs, missing(&[&gone]));
    assert_eq!(servers.copy.refs(), servers.from.repo.refs());
    // What is missing is found by a verification.
    servers.from.lfs.put(&oid(&gone), &gone);
    assert_eq!(servers.run(LfsPolicy::Copy).await.lfs.objects, 0);
    assert_eq!(servers.run(LfsPolicy::Verify).await.lfs.objects, 1);
}

#[tokio::test]
async fn the_record_of_a_server_is_not_mirrored_from_there() {
    let servers = ServerMirror::new();
    servers.from.grow(1, false);
    servers.run(LfsPolicy::Copy).await;
    assert!(servers.record().is_some());
    let (end, lfs) = (strict(HashKind::Sha1), LfsServer::new(&[]));
    let server = serve(&end, &lfs);
    let source = remote(&servers.to.url(), Version::V2);
    let target = remote(&server.url(), Version::V2);
    let options = MirrorOptions {
        lfs: None,
        ..with_policy(LfsPolicy::Copy)
    };
    mirror(&source, &target, &options, None).await.unwrap();
    assert_eq!(end.refs(), servers.from.repo.refs());
}

/// "A git server remembers only what is missing, objects of runs with `"lfs": false` included."
#[tokio::test]
async fn objects_of_a_run_without_lfs_are_copied_by_the_next_run_with_lfs() {
    let servers = ServerMirror::new();
    servers.from.repo.input(
        &["fast-import", "--quiet"],
        &branchline_test_support::repo::history(0, 4, 3),
    );
    servers.run(LfsPolicy::Skip).await;
    assert_eq!(servers.record(), None, "there are no LFS objects");
    let there = [servers.from.grow(1, true), servers.from.grow(2, true)];
    let stats = servers.run(LfsPolicy::Skip).await;
    assert_eq!(stats.lfs, TransferReport::default());
    assert_eq!(servers.mirrored(), servers.from.repo.refs());
    assert!(servers.copied.objects().is_empty());
    // One of them is missing at the source by then, and one comes from another client.
    let third = servers.from.grow(3, false);
    let fourth = servers.from.grow(4, true);
    servers.run(LfsPolicy::Skip).await;
    servers.copied.put(&oid(&fourth), &fourth);
    let idle = servers.idle_requests().await;
    assert!(idle > 1, "the objects are copied");
    assert_eq!(servers.copied.objects().len(), 3);
    for content in &there {
        assert!(servers.copied.objects().contains_key(&oid(content)));
    }
    let stats = servers.run(LfsPolicy::Copy).await;
    assert_eq!(stats.lfs, missing(&[&third]));
    servers.from.lfs.put(&oid(&third), &third);
    assert_eq!(servers.run(LfsPolicy::Copy).await.lfs.objects, 1);
    assert_eq!(servers.record(), None);
    assert_eq!(servers.idle_requests().await, 1);
    servers.copied.assert_content();
}

#[tokio::test]
async fn a_damaged_record_has_all_history_scanned_again() {
    let servers = ServerMirror::new();
    let gone = servers.from.grow(1, false);
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
