//! LFS objects of mirrors on the disk, as the command line writes them: missing, vanished, skipped
//! and verified.

use std::path::PathBuf;

use branchline_core::git::HashKind;
use branchline_core::git::advertisement::Version;
use branchline_core::git::pack::PackLimits;
use branchline_core::lfs::TransferReport;
use branchline_core::mirror::{LfsPolicy, MirrorStats, mirror};
use branchline_core::remote::local::LocalRepository;
use tempfile::TempDir;

use crate::remote::http::remote;
use crate::remote::lfs::http;
use crate::remote::lfs_fixture::{Beside, point, version, with_policy};
use crate::remote::ref_layouts::read_refs;
use branchline_test_support::git_server::GitServer;
use branchline_test_support::lfs_server::{LfsServer, oid};
use branchline_test_support::repo::Repo;

/// A source with LFS objects on a server, and a repository on the disk.
struct DiskMirror {
    repo: Repo,
    lfs: LfsServer,
    server: GitServer,
    folder: TempDir,
}

impl DiskMirror {
    fn new() -> Self {
        let repo = Repo::new(HashKind::Sha1);
        Self {
            server: GitServer::new(&repo),
            lfs: LfsServer::new(&[]),
            folder: tempfile::tempdir().unwrap(),
            repo,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("copy.git")
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
        let source = Beside(remote(&self.server.url(), Version::V2), http(&self.lfs));
        let target = LocalRepository::new(self.path(), PackLimits::default());
        let mirrored = mirror(&source, &target, &with_policy(policy), None).await;
        let stats = mirrored.unwrap();
        let refs = read_refs(&self.path());
        let listed: Vec<String> = refs
            .iter()
            .map(|(name, id)| format!("{id} {name}"))
            .collect();
        assert_eq!(listed.join("\n"), self.repo.refs());
        stats
    }

    fn object(&self, content: &[u8]) -> PathBuf {
        let id = oid(content);
        let below = format!("lfs/objects/{}/{}/{id}", &id[..2], &id[2..4]);
        self.path().join(below)
    }

    fn stored(&self, content: &[u8]) -> Option<Vec<u8>> {
        std::fs::read(self.object(content)).ok()
    }
}

fn copied(contents: &[&[u8]]) -> TransferReport {
    TransferReport {
        objects: contents.len() as u64,
        bytes: contents.iter().map(|content| content.len() as u64).sum(),
        ..TransferReport::default()
    }
}

fn missing(content: &[u8]) -> TransferReport {
    TransferReport {
        missing: 1,
        missing_oids: vec![oid(content)],
        ..TransferReport::default()
    }
}

/// "Each run requests it again until it is there."
#[tokio::test]
async fn a_missing_object_stops_no_ref_and_is_copied_by_the_first_run_that_finds_it() {
    let disk = DiskMirror::new();
    let there = disk.grow(1, true);
    let gone = disk.grow(2, false);
    let expected = TransferReport {
        missing: 1,
        missing_oids: vec![oid(&gone)],
        ..copied(&[&there])
    };
    assert_eq!(disk.run(LfsPolicy::Copy).await.lfs, expected);
    assert_eq!(disk.run(LfsPolicy::Copy).await.lfs, missing(&gone));
    disk.lfs.put(&oid(&gone), &gone);
    assert_eq!(disk.run(LfsPolicy::Copy).await.lfs, copied(&[&gone]));
    assert_eq!(disk.stored(&gone).as_ref(), Some(&gone));
    let idle = disk.run(LfsPolicy::Copy).await.lfs;
    assert_eq!(idle, TransferReport::default());
}

#[tokio::test]
async fn an_object_that_vanished_is_copied_by_a_run_without_news() {
    let disk = DiskMirror::new();
    let contents = [disk.grow(1, true), disk.grow(2, true)];
    disk.run(LfsPolicy::Copy).await;
    std::fs::remove_file(disk.object(&contents[0])).unwrap();
    assert_eq!(disk.run(LfsPolicy::Copy).await.lfs, copied(&[&contents[0]]));
    for content in &contents {
        assert_eq!(disk.stored(content).as_ref(), Some(content));
    }
}

#[tokio::test]
async fn objects_of_a_run_without_lfs_are_copied_by_the_next_run_with_lfs() {
    let disk = DiskMirror::new();
    let first = disk.grow(1, true);
    disk.run(LfsPolicy::Copy).await;
    let skipped = [disk.grow(2, true), disk.grow(3, true)];
    let stats = disk.run(LfsPolicy::Skip).await;
    assert_eq!(stats.lfs, TransferReport::default());
    assert!(disk.stored(&skipped[0]).is_none());
    let last = disk.grow(4, true);
    let stats = disk.run(LfsPolicy::Copy).await;
    assert_eq!(stats.lfs, copied(&[&skipped[0], &skipped[1], &last]));
    for content in [&first, &skipped[0], &skipped[1], &last] {
        assert_eq!(disk.stored(content).as_ref(), Some(content));
    }
}

#[tokio::test]
async fn verification_replaces_wrong_content_of_the_right_size() {
    let disk = DiskMirror::new();
    let contents = [disk.grow(1, true), disk.grow(2, true), disk.grow(3, true)];
    disk.run(LfsPolicy::Copy).await;
    let place = disk.object(&contents[1]);
    std::fs::remove_file(&place).unwrap();
    std::fs::write(&place, vec![b'x'; contents[1].len()]).unwrap();
    std::fs::remove_file(disk.object(&contents[2])).unwrap();
    let repaired = disk.run(LfsPolicy::Verify).await.lfs;
    assert_eq!(repaired, copied(&[&contents[1], &contents[2]]));
    for content in &contents {
        assert_eq!(disk.stored(content).as_ref(), Some(content));
    }
    let again = disk.run(LfsPolicy::Verify).await.lfs;
    assert_eq!(again, TransferReport::default());
}
