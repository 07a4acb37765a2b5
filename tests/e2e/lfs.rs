//! A repository that git-lfs pushed, mirrored into a bucket of the development server and
//! on to another git server, as the functions open them; git-lfs fetches it from there.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use branchline_core::aws::{AccessKey, Aws};
use branchline_core::git::HashKind;
use branchline_core::mirror::{LfsOptions, MirrorOptions, MirrorStats, RefSelection, mirror};
use branchline_core::name::{BucketName, ObjectKey};
use branchline_core::remote::Remote;
use branchline_core::remote::open::{
    OpenRemote as _, OpenerConfig, RemoteOpener, RemoteSpec, S3Layout,
};
use branchline_core::remote::url::RemoteUrl;
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::storage::{ObjectStore as _, ObjectStoreExt as _};
use branchline_dev::server::{Options as ServerOptions, Server};
use branchline_test_support::git;

use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::lfs_server::LfsServer;
use branchline_test_support::repo::Repo;

const MEMORY: usize = 64 << 20;

/// Serves a repository, and sends those who want LFS objects to another server.
fn serve(repo: &Repo, lfs: &LfsServer) -> GitServer {
    let base = lfs.base();
    GitServer::with(repo, move |seen| {
        if seen.target.contains("/info/lfs/") {
            Response::Redirect(307, format!("{base}{}", seen.target))
        } else {
            Response::Git
        }
    })
}

/// A work tree whose large files git-lfs keeps on that server.
fn work_tree(folder: &Path, origin: &GitServer, lfs: &LfsServer) -> Result<()> {
    git::init(folder)?;
    git::git(folder, ["lfs", "install", "--local"])?;
    git::git(
        folder,
        ["config", "lfs.url", &format!("{}.git/info/lfs", lfs.url())],
    )?;
    git::git(folder, ["config", "lfs.locksverify", "false"])?;
    git::git(folder, ["remote", "add", "origin", &origin.url()])?;
    Ok(())
}

async fn copy(source: &Arc<dyn Remote>, target: &Arc<dyn Remote>) -> Result<MirrorStats> {
    let options = MirrorOptions {
        refs: RefSelection::new(["refs/*"])?,
        lfs: Some(LfsOptions::new(MEMORY)),
        ..MirrorOptions::default()
    };
    Ok(mirror(&**source, &**target, &options, None).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_git_lfs_pushed_are_mirrored_and_fetched_back() -> Result<()> {
    let found = std::process::Command::new("git-lfs")
        .arg("version")
        .output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: git-lfs is not installed; `cargo xtask test` installs it");
        return Ok(());
    }
    let server = Server::start(ServerOptions::default()).await?;
    let key = AccessKey {
        id: server.credentials().access_key_id.clone(),
        secret: server.credentials().secret_access_key.clone(),
        session_token: server.credentials().session_token.clone(),
    };
    let aws = Aws::fixed(&server.account().region, &server.endpoint(), &key);
    let store = SdkObjectStore::new(&aws);
    let bucket = BucketName::new("mirrors")?;
    server
        .store()
        .create_bucket("mirrors", &server.account().region)?;

    let (repo, end) = (Repo::new(HashKind::Sha1), Repo::new(HashKind::Sha1));
    let (lfs, second) = (LfsServer::new(&[]), LfsServer::new(&[]));
    let (from, to) = (serve(&repo, &lfs), serve(&end, &second));
    let folder = tempfile::tempdir()?;
    let work = folder.path().join("work");
    work_tree(&work, &from, &lfs)?;
    git::git(&work, ["lfs", "track", "*.bin"])?;
    for n in 0..3_u32 {
        // The largest one goes in parts.
        let size = if n == 2 { 12 << 20 } else { 1000 };
        let content: Vec<u8> = (0..size)
            .map(|at: u32| (at / 251 + at * n).to_le_bytes()[0])
            .collect();
        std::fs::write(work.join("large.bin"), content)?;
        git::git(&work, ["add", "."])?;
        git::git(&work, ["commit", "-qm", "next"])?;
    }
    git::git(&work, ["push", "-q", "origin", "main"])?;
    assert_eq!(lfs.objects().len(), 3, "git-lfs has pushed what it tracks");

    let connections = RemoteOpener::new(aws, &OpenerConfig::default())?;
    let source = RemoteSpec::new(RemoteUrl::new(&from.url())?);
    let mut place = RemoteSpec::new(RemoteUrl::new("s3://mirrors/r")?);
    place.layout = Some(S3Layout::Dumb);
    let target = RemoteSpec::new(RemoteUrl::new(&to.url())?);
    let source = connections.open(&source, MEMORY).await?;
    let place = connections.open(&place, MEMORY).await?;
    let target = connections.open(&target, MEMORY).await?;
    for (from, to, objects) in [
        (&source, &place, 3),
        (&place, &target, 3),
        (&source, &place, 0),
        (&place, &target, 0),
    ] {
        let outcome = copy(from, to).await?;
        assert_eq!(
            (outcome.lfs.objects, outcome.complete),
            (objects, true),
            "{from} -> {to}"
        );
    }
    for (id, body) in lfs.objects() {
        let path = format!("lfs/objects/{}/{}/{id}", &id[..2], &id[2..4]);
        let kept = std::fs::read(work.join(".git").join(&path))?;
        assert!(kept == body, "it is where git-lfs has it, too");
        let key = ObjectKey::new(&format!("r/{path}"))?;
        let head = store.head(&bucket, &key).await?.context("the object")?;
        assert_eq!(
            head.metadata.content_type.as_deref(),
            Some("application/octet-stream")
        );
        let there = store.get(&bucket, &key, None, None).await?;
        assert!(there == body, "the bucket has the same bytes");
    }
    let clone = folder.path().join("clone");
    work_tree(&clone, &to, &second)?;
    git::git(&clone, ["pull", "-q", "origin", "main"])?;
    git::git(&clone, ["lfs", "fetch", "--all", "origin"])?;
    git::git(&clone, ["lfs", "fsck"])?;
    let (ours, theirs) = (
        std::fs::read(clone.join("large.bin"))?,
        std::fs::read(work.join("large.bin"))?,
    );
    assert!(ours == theirs, "the work tree is what it was");
    lfs.assert_content();
    second.assert_content();
    Ok(())
}
