//! LFS objects that a repository stores elsewhere: `.lfsconfig` of the default branch, and
//! `lfs.url` of a repository on disk.

use std::path::Path;
use std::sync::Arc;

use branchline_core::aws::{AccessKey, Aws};
use branchline_core::git::HashKind;
use branchline_core::mirror::{LfsPolicy, MirrorStats, mirror};
use branchline_core::remote::Remote;
use branchline_core::remote::open::{OpenRemote as _, OpenerConfig, RemoteOpener, RemoteSpec};
use branchline_core::remote::url::RemoteUrl;

use crate::remote::lfs_fixture::{commit, copied, missing, point, serve, version, with_policy};
use crate::remote::s3_dumb_fixture::DumbFixture;
use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::lfs_server::{Fault, LfsServer, oid};
use branchline_test_support::repo::Repo;

const MEMORY: usize = 64 << 20;

/// Opens remotes without a service of AWS behind them.
fn opener() -> RemoteOpener {
    let key = AccessKey {
        id: "AKIDEXAMPLE".into(),
        secret: "secret".into(),
        session_token: None,
    };
    let aws = Aws::fixed("eu-west-1", "http://127.0.0.1:1", &key);
    RemoteOpener::new(aws, &OpenerConfig::default()).unwrap()
}

async fn source_at(url: &str) -> Arc<dyn Remote> {
    let spec = RemoteSpec::new(RemoteUrl::new(url).unwrap());
    opener().open_source(&spec, MEMORY).await.unwrap()
}

/// Adds a commit with a `.lfsconfig` that names an LFS server.
fn configure(repo: &Repo, lfs: &LfsServer) {
    let text = format!("[lfs]\n\turl = {}/elsewhere.git/info/lfs\n", lfs.base());
    commit(repo, ".lfsconfig", &text);
}

/// Serves a repository that has no LFS server of its own.
fn without_lfs(repo: &Repo) -> GitServer {
    GitServer::with(repo, |seen| {
        if seen.target.contains("/info/lfs/") {
            Response::Fixed(404, "text/plain", Vec::new())
        } else {
            Response::Git
        }
    })
}

async fn run(source: &dyn Remote, world: &DumbFixture, policy: LfsPolicy) -> MirrorStats {
    let target = world.remote();
    let options = with_policy(policy);
    mirror(source, &target, &options, None).await.unwrap()
}

#[tokio::test]
async fn objects_that_a_server_does_not_have_are_read_where_its_lfsconfig_says() {
    // Servers that can filter, and one that sends a commit with all of its files.
    for filters in ["true", "false"] {
        let repo = Repo::new(HashKind::Sha1);
        repo.git(&["config", "uploadpack.allowFilter", filters]);
        let content = version(1);
        let lfs = LfsServer::new(&[&content]);
        configure(&repo, &lfs);
        point(&repo, "large.bin", &content);
        let (server, world) = (without_lfs(&repo), DumbFixture::new());
        let source = source_at(&server.url()).await;
        let stats = run(&*source, &world, LfsPolicy::Required).await;
        assert_eq!(stats.lfs, copied(&[&content]), "filters: {filters}");
        let id = oid(&content);
        let stored = world.file(&format!("lfs/objects/{}/{}/{id}", &id[..2], &id[2..4]));
        assert!(stored.is_some_and(|body| body == content));
        let batches: Vec<String> = lfs.requests().into_iter().map(|seen| seen.target).collect();
        assert_eq!(batches[0], "/elsewhere.git/info/lfs/objects/batch");
        lfs.assert_content();
    }
}

#[tokio::test]
async fn a_repository_that_has_its_objects_is_not_searched_for_an_lfsconfig() {
    let repo = Repo::new(HashKind::Sha1);
    let content = version(1);
    let (own, elsewhere) = (LfsServer::new(&[&content]), LfsServer::new(&[]));
    configure(&repo, &elsewhere);
    point(&repo, "large.bin", &content);
    let server = serve(&repo, &own);
    let source = source_at(&server.url()).await;
    let world = DumbFixture::new();
    let stats = run(&*source, &world, LfsPolicy::Copy).await;
    assert_eq!(stats.lfs, copied(&[&content]));
    let is_fetch = |seen: &branchline_test_support::http::ReceivedRequest| {
        seen.method == "POST" && seen.body.windows(5).any(|word| word == b"want ")
    };
    let fetched = server
        .requests()
        .iter()
        .filter(|seen| is_fetch(seen))
        .count();
    assert_eq!(fetched, 1, "the pack of the mirror alone");
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn some_objects_are_at_the_repository_and_some_where_its_lfsconfig_says() {
    let repo = Repo::new(HashKind::Sha1);
    let contents: Vec<Vec<u8>> = (0..4).map(version).collect();
    let (own, elsewhere) = (
        LfsServer::new(&[&contents[0], &contents[1]]),
        LfsServer::new(&[&contents[2]]),
    );
    configure(&repo, &elsewhere);
    for content in &contents {
        point(&repo, "large.bin", content);
    }
    let server = serve(&repo, &own);
    let (source, world) = (source_at(&server.url()).await, DumbFixture::new());
    let stats = run(&*source, &world, LfsPolicy::Copy).await;
    assert_eq!(stats.lfs.objects, 3);
    assert_eq!(stats.lfs.missing_oids, [oid(&contents[3])]);
    elsewhere.put(&oid(&contents[3]), &contents[3]);
    let source = source_at(&server.url()).await;
    let stats = run(&*source, &world, LfsPolicy::Copy).await;
    assert_eq!(stats.lfs, copied(&[&contents[3]]), "a run without news");
}

#[tokio::test]
async fn a_password_of_the_source_is_not_sent_to_another_host() {
    let repo = Repo::new(HashKind::Sha1);
    let content = version(1);
    let lfs = LfsServer::new(&[&content]);
    // The listener has the same address, but another name.
    let url = lfs.base().replace("127.0.0.1", "localhost");
    commit(
        &repo,
        ".lfsconfig",
        &format!("[lfs]\nurl = {url}/x.git/info/lfs\n"),
    );
    point(&repo, "large.bin", &content);
    let server = without_lfs(&repo);
    let with_password = server.url().replace("http://", "http://user:secret@");
    let (source, world) = (source_at(&with_password).await, DumbFixture::new());
    let stats = run(&*source, &world, LfsPolicy::Copy).await;
    assert_eq!(stats.lfs, copied(&[&content]));
    let logins = |seen: &[branchline_test_support::http::ReceivedRequest]| {
        let logins = seen
            .iter()
            .filter(|seen| seen.headers.contains_key("authorization"));
        logins.count()
    };
    assert!(
        logins(&server.requests()) > 0,
        "the source gets its password"
    );
    assert_eq!(logins(&lfs.requests()), 0, "and no other server");
}

#[tokio::test]
async fn a_place_that_fails_or_is_not_allowed_stops_no_ref() {
    let content = version(1);
    let lfs = LfsServer::new(&[&content]);
    lfs.rule(|_, _| Some(Fault::Answer(401, Vec::new(), Vec::new())));
    for url in [
        &format!("{}/x.git/info/lfs", lfs.base()),
        "s3://bucket/of-the-account",
        "https://lfs-alias.git-remote-s3.test/bucket/of-the-account",
        "/etc",
        "ssh://git@host/r",
        "http://169.254.169.254/latest",
        "no URL at all",
    ] {
        let repo = Repo::new(HashKind::Sha1);
        commit(&repo, ".lfsconfig", &format!("[lfs]\nurl = \"{url}\"\n"));
        point(&repo, "large.bin", &content);
        let (server, world) = (without_lfs(&repo), DumbFixture::new());
        // A run with news, and one without.
        for _ in 0..2 {
            let source = source_at(&server.url()).await;
            let stats = run(&*source, &world, LfsPolicy::Copy).await;
            assert_eq!(stats.lfs, missing(&[&content]), "{url}");
        }
    }
    let repo = Repo::new(HashKind::Sha1);
    commit(&repo, ".lfsconfig", "[lfs\nurl = x\n");
    point(&repo, "large.bin", &content);
    let (server, world) = (without_lfs(&repo), DumbFixture::new());
    let source = source_at(&server.url()).await;
    let stats = run(&*source, &world, LfsPolicy::Copy).await;
    assert_eq!(stats.lfs, missing(&[&content]));
}

fn set_lfs_url(folder: &Path, lfs: &LfsServer) {
    let url = format!("{}/elsewhere.git/info/lfs", lfs.base());
    branchline_test_support::git::git(folder, ["config", "lfs.url", &url]).unwrap();
}

#[tokio::test]
async fn a_repository_on_disk_is_read_by_its_own_setting_then_by_its_lfsconfig() {
    let content = version(1);
    for has_setting in [true, false] {
        let repo = Repo::new(HashKind::Sha1);
        let (named, shared) = (LfsServer::new(&[&content]), LfsServer::new(&[&content]));
        configure(&repo, &shared);
        point(&repo, "large.bin", &content);
        if has_setting {
            set_lfs_url(&repo.path, &named);
        }
        let source = source_at(repo.path.to_str().unwrap()).await;
        let stats = run(&*source, &DumbFixture::new(), LfsPolicy::Required).await;
        assert_eq!(stats.lfs, copied(&[&content]));
        let batches = (named.batches(), shared.batches());
        assert_eq!(batches, if has_setting { (1, 0) } else { (0, 1) });
    }
}
