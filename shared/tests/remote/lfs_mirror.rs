//! Mirrors of repositories with LFS objects, compared with git-lfs where it is installed.

use std::path::Path;
use std::process::Command;

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_core::git::advertisement::Version;
use branchline_core::git::pack::PackLimits;
use branchline_core::lfs::TransferReport;
use branchline_core::mirror::{LfsPolicy, MirrorOptions, mirror};

use crate::remote::http::{assert_equal, everything, remote, strict};
use crate::remote::lfs::{http, pointer};
use crate::remote::lfs_fixture::{
    Beside, commit, point, serve, text, version, with_lfs, with_policy,
};
use crate::remote::s3_bundle_fixture::BundleFixture;
use crate::remote::s3_dumb_fixture::DumbFixture;
use branchline_test_support::git_server::GitServer;
use branchline_test_support::lfs_server::{LfsServer, oid};
use branchline_test_support::repo::Repo;

#[tokio::test]
async fn every_version_of_every_file_is_copied_before_refs_move() {
    let repo = Repo::new(HashKind::Sha1);
    let contents: Vec<Vec<u8>> = (0..30).map(version).collect();
    for content in &contents[..20] {
        point(&repo, "large.bin", content);
    }
    // Several pointers, which git stores as deltas of each other.
    repo.git(&["repack", "-adfq", "--depth=50"]);
    let bodies: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    let lfs = LfsServer::new(&bodies[..19]);
    let (server, world) = (serve(&repo, &lfs), DumbFixture::new());
    let (source, target) = (remote(&server.url(), Version::V2), world.remote());
    let required = with_policy(LfsPolicy::Required);
    let error = mirror(&source, &target, &required, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
    assert!(
        error.report().contains(&oid(bodies[19])),
        "{}",
        error.report()
    );
    assert!(
        world.file("info/refs").is_none(),
        "no ref moves before all required objects are stored"
    );

    lfs.put(&oid(bodies[19]), bodies[19]);
    let outcome = mirror(&source, &target, &required, None).await.unwrap();
    let bytes = |bodies: &[&[u8]]| bodies.iter().map(|body| body.len() as u64).sum::<u64>();
    let copied = |from, to| TransferReport {
        objects: to as u64 - from as u64,
        bytes: bytes(&bodies[from..to]),
        ..TransferReport::default()
    };
    assert_eq!(
        (outcome.lfs, outcome.complete),
        (copied(19, 20), true),
        "the first run copied all but the missing one"
    );
    for body in &bodies[..20] {
        let id = oid(body);
        let file = world.file(&format!("lfs/objects/{}/{}/{id}", &id[..2], &id[2..4]));
        assert_eq!(file.unwrap(), *body);
    }

    // Only new objects, and from the bucket to a server, whose git accepts thin packs.
    for body in &bodies[20..] {
        lfs.put(&oid(body), body);
        point(&repo, "large.bin", body);
    }
    let outcome = mirror(&source, &target, &with_lfs(), None).await.unwrap();
    assert_eq!(outcome.lfs, copied(20, 30));
    let (copy, second) = (strict(HashKind::Sha1), LfsServer::new(&[]));
    let end = GitServer::new(&copy);
    let end = Beside(remote(&end.url(), Version::V2), http(&second));
    let outcome = mirror(&target, &end, &with_lfs(), None).await.unwrap();
    assert_eq!(outcome.lfs, copied(0, 30));
    assert_equal(&repo, &copy);
    assert!(second.objects() == lfs.objects());
    let requests = (lfs.requests().len(), second.requests().len());
    let outcome = mirror(&target, &end, &with_lfs(), None).await.unwrap();
    assert_eq!(outcome.lfs, TransferReport::default());
    assert_eq!(
        (lfs.requests().len(), second.requests().len()),
        requests,
        "nothing new, nothing asked"
    );
    lfs.assert_content();
    second.assert_content();
}

#[tokio::test]
async fn a_changed_pointer_in_a_thin_pack_is_found() {
    let (repo, copy) = (Repo::new(HashKind::Sha1), strict(HashKind::Sha1));
    let (lfs, second) = (LfsServer::new(&[]), LfsServer::new(&[]));
    let (from, to) = (GitServer::new(&repo), GitServer::new(&copy));
    let source = Beside(remote(&from.url(), Version::V2), http(&lfs));
    let target = Beside(remote(&to.url(), Version::V2), http(&second));
    for n in 0..4 {
        let content = version(n);
        lfs.put(&oid(&content), &content);
        point(&repo, "large.bin", &content);
        let outcome = mirror(&source, &target, &with_lfs(), None).await.unwrap();
        assert_eq!(outcome.lfs.objects, 1, "version {n}");
    }
    assert_equal(&repo, &copy);
    assert!(second.objects() == lfs.objects());
    // Without LFS objects.
    point(&repo, "large.bin", b"nowhere");
    let outcome = mirror(&source, &target, &everything(), None).await.unwrap();
    assert_eq!(
        (outcome.lfs, outcome.complete),
        (TransferReport::default(), true)
    );
}

/// Pointers that are not found must be reported.
#[tokio::test]
async fn too_little_memory_to_find_all_pointers_is_an_error() {
    let (repo, copy) = (Repo::new(HashKind::Sha1), strict(HashKind::Sha1));
    let bodies: [&[u8]; 2] = [b"one", b"two"];
    // Git stores the first pointer as a delta of the previous file, which is larger than
    // memory; the second one is undeltified.
    let padding = format!("no pointer\n{}", "x y\n".repeat(700));
    commit(&repo, "large.bin", &format!("{}{padding}", text(bodies[0])));
    point(&repo, "large.bin", bodies[0]);
    point(&repo, "other", bodies[1]);
    repo.git(&["repack", "-adfq", "--window=50"]);
    let (lfs, second) = (LfsServer::new(&bodies), LfsServer::new(&[]));
    let (from, to) = (GitServer::new(&repo), GitServer::new(&copy));
    let source = Beside(remote(&from.url(), Version::V2), http(&lfs));
    let target = Beside(remote(&to.url(), Version::V2), http(&second));
    let little = MirrorOptions {
        limits: PackLimits::default().with_memory(16 << 10),
        ..with_lfs()
    };
    let error = mirror(&source, &target, &little, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{}", error.report());
    assert!(
        error.report().contains("MIGRATION_MEMORY_MIB"),
        "{}",
        error.report()
    );
    assert_eq!(copy.refs(), "");
    let outcome = mirror(&source, &target, &with_lfs(), None).await.unwrap();
    assert_eq!(outcome.lfs.objects, 2);
}

fn git(folder: &Path, args: &[&str]) -> String {
    branchline_test_support::git::git(folder, args).unwrap()
}

/// git-lfs pushes to a server, which is mirrored to a bucket, which is mirrored to a second
/// server, from which git-lfs fetches.
#[tokio::test(flavor = "multi_thread")]
async fn objects_pushed_by_git_lfs_are_fetched_by_git_lfs_after_two_mirrors() {
    let found = Command::new("git-lfs").arg("version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: git-lfs is not installed; `cargo xtask test` installs it");
        return;
    }
    let (repo, copy) = (strict(HashKind::Sha1), strict(HashKind::Sha1));
    let (lfs, second) = (LfsServer::new(&[]), LfsServer::new(&[]));
    let (from, to) = (GitServer::new(&repo), GitServer::new(&copy));
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let set_up = |work: &Path, url: &str, lfs: &LfsServer| {
        git(work, &["lfs", "install", "--local"]);
        git(
            work,
            &["config", "lfs.url", &format!("{}.git/info/lfs", lfs.url())],
        );
        git(work, &["config", "lfs.locksverify", "false"]);
        git(work, &["remote", "add", "origin", url]);
    };
    git(&work, &["init", "-q", "-b", "main"]);
    set_up(&work, &from.url(), &lfs);
    git(&work, &["lfs", "track", "*.bin"]);
    for n in 0..3 {
        for file in ["a.bin", "b.bin"] {
            let mut content = version(n * 1000 + 1);
            content.extend_from_slice(file.as_bytes());
            std::fs::write(work.join(file), content).unwrap();
        }
        std::fs::write(work.join("plain.txt"), format!("{n}\n")).unwrap();
        git(&work, &["add", "."]);
        git(&work, &["commit", "-qm", "next"]);
    }
    git(&work, &["push", "-q", "origin", "main"]);
    assert_eq!(
        lfs.objects().len(),
        6,
        "git-lfs has pushed the tracked files"
    );

    let world = DumbFixture::new();
    let source = Beside(remote(&from.url(), Version::V2), http(&lfs));
    let target = world.remote();
    let outcome = mirror(&source, &target, &with_lfs(), None).await.unwrap();
    assert_eq!(outcome.lfs.objects, 6);
    for (id, body) in lfs.objects() {
        let path = format!("lfs/objects/{}/{}/{id}", &id[..2], &id[2..4]);
        let kept = std::fs::read(work.join(".git").join(&path)).unwrap();
        assert!(kept == body, "the path equals that of git-lfs");
        assert!(world.file(&path).unwrap() == body);
        assert_eq!(pointer(&body).oid, id);
    }
    let end = Beside(remote(&to.url(), Version::V2), http(&second));
    let outcome = mirror(&target, &end, &with_lfs(), None).await.unwrap();
    assert_eq!(outcome.lfs.objects, 6);

    let clone = folder.path().join("clone");
    std::fs::create_dir(&clone).unwrap();
    git(&clone, &["init", "-q", "-b", "main"]);
    set_up(&clone, &to.url(), &second);
    git(&clone, &["pull", "-q", "origin", "main"]);
    git(&clone, &["lfs", "fsck"]);
    for file in ["a.bin", "b.bin", "plain.txt"] {
        let (ours, theirs) = (
            std::fs::read(clone.join(file)),
            std::fs::read(work.join(file)),
        );
        assert!(ours.unwrap() == theirs.unwrap(), "{file} is unchanged");
    }
    lfs.assert_content();
    second.assert_content();
}

#[tokio::test]
async fn objects_lie_beside_bundles_where_git_remote_s3_has_them() {
    let repo = Repo::new(HashKind::Sha1);
    let contents: Vec<Vec<u8>> = (0..3).map(version).collect();
    for content in &contents {
        point(&repo, "large.bin", content);
    }
    let bodies: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    let lfs = LfsServer::new(&bodies);
    let (server, bundles) = (serve(&repo, &lfs), BundleFixture::new(5 << 20));
    let (source, target) = (remote(&server.url(), Version::V2), bundles.remote("team/r"));
    let outcome = mirror(&source, &target, &with_lfs(), None).await.unwrap();
    assert_eq!((outcome.lfs.objects, outcome.lfs.left_out), (3, 0));
    for content in &contents {
        let key = format!("team/r/lfs/{}", oid(content));
        assert_eq!(bundles.get(&key).await, *content, "{key}");
    }
    // From the second server too.
    let world = DumbFixture::new();
    let outcome = mirror(&target, &world.remote(), &with_lfs(), None).await;
    let outcome = outcome.unwrap();
    assert_eq!((outcome.lfs.objects, outcome.lfs.left_out), (3, 0));
}
