//! A repository that git-lfs pushed, mirrored into a bucket of the development server and
//! on to another git server, as the functions open them; git-lfs fetches it from there.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
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
use branchline_dev::s3::store::PutOptions;
use branchline_dev::server::{Options as ServerOptions, Server};
use branchline_test_support::git;

use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::lfs_server::{LfsServer, oid};
use branchline_test_support::moto::Moto;
use branchline_test_support::repo::Repo;
use branchline_tests::environment::{MIGRATION, Setup, TestEnvironment};
use serde_json::json;

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

/// Adds a commit with the pointer to a content, and with a `.lfsconfig`.
fn commit_pointer(repo: &Repo, content: &[u8], lfs_url: &str) {
    let pointer = format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n",
        oid(content),
        content.len()
    );
    let config = format!("[lfs]\n\turl = {lfs_url}\n");
    let stream = format!(
        "commit refs/heads/main\ncommitter C <c@x> 1600000000 +0000\ndata 1\nx\n\
         M 100644 inline large.bin\ndata {}\n{pointer}\n\
         M 100644 inline .lfsconfig\ndata {}\n{config}\n",
        pointer.len(),
        config.len()
    );
    repo.input(&["fast-import", "--quiet"], stream.as_bytes());
}

/// "Objects that the source does not have are read where it says."
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_in_codecommit_names_its_objects_in_s3_and_a_foreign_one_may_not() -> Result<()>
{
    let stage = TestEnvironment::start(Setup {
        migration: Some(Vec::new()),
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        ..Setup::default()
    })
    .await?;
    stage.create_public_bucket("mirrors")?;
    stage.create_repository("demo").await?;
    let repo = Repo::new(HashKind::Sha1);
    let content = b"a large file".as_slice();
    let store = stage.server.store();
    let id = oid(content);
    let key = format!("of-demo/lfs/{id}");
    store.put("mirrors", &key, content, PutOptions::default())?;
    commit_pointer(&repo, content, "s3://mirrors/of-demo");
    stage.push(&repo.path, "demo", &["main"]).await?;
    let foreign = GitServer::new(&repo);
    for (source, objects, missing) in [("codecommit://demo", 1, 0), (&*foreign.url(), 0, 1)] {
        let target = format!("s3://mirrors/copy-{missing}");
        for run in 0..2 {
            let event = json!({ "mappings": [
                {"source": source, "target": target, "layout": "dumb"},
            ]});
            let answer = stage.call(MIGRATION, &event).await;
            let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
            let lfs = &answer["mappings"][0]["lfs"];
            let expected = if run == 0 { objects } else { 0 };
            ensure!(
                lfs["objects"] == expected && lfs["missing"] == missing,
                "{source}, run {run}: {answer}"
            );
        }
    }
    let key = format!("copy-0/lfs/objects/{}/{}/{id}", &id[..2], &id[2..4]);
    let (_, copied) = store.get_bytes("mirrors", &key, None)?;
    ensure!(copied == content, "the object is stored");
    Ok(())
}

/// "A secret goes to the host that it names, and to no other."
#[tokio::test(flavor = "multi_thread")]
async fn the_secret_of_a_source_is_not_sent_to_the_lfs_server_that_it_names() -> Result<()> {
    let Some(moto) = Moto::start()? else {
        return Ok(());
    };
    let stage = TestEnvironment::start(Setup {
        migration: Some(vec![("AWS_ENDPOINT_URL_SECRETS_MANAGER", moto.endpoint())]),
        ..Setup::default()
    })
    .await?;
    stage.create_public_bucket("mirrors")?;
    let repo = Repo::new(HashKind::Sha1);
    let content = b"a large file".as_slice();
    let lfs = LfsServer::new(&[content]);
    commit_pointer(&repo, content, &format!("{}.git/info/lfs", lfs.url()));
    let server = GitServer::with(&repo, |seen| {
        if seen.headers.contains_key("authorization") {
            Response::Git
        } else {
            Response::Fixed(401, "text/plain", Vec::new())
        }
    });
    let login = json!({
        "host": server.address().to_string(), "username": "user", "password": "hunter2",
    });
    let [secret, _] = moto.keep("git/login", &login.to_string())?;
    let event = json!({ "mappings": [{
        "source": server.url(), "target": "s3://mirrors/r", "layout": "dumb", "credentials": secret,
    }]});
    let answer = stage.call(MIGRATION, &event).await;
    let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(answer["mappings"][0]["lfs"]["objects"] == 1, "{answer}");
    let requests = lfs.requests();
    let logins = requests
        .iter()
        .filter(|seen| seen.headers.contains_key("authorization"));
    ensure!(!requests.is_empty() && logins.count() == 0, "{requests:?}");
    Ok(())
}
