//! Stock git over plain HTTP on what the dumb layout publishes, from the development
//! server's S3 and from moto's; and mirror-git-to-s3 beside it on the same source.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use branchline_core::aws::{AccessKey, Aws};
use branchline_core::git::HashKind;
use branchline_core::mirror::{self, mirror};
use branchline_core::name::{BucketName, KeyPrefix};
use branchline_core::remote::s3_dumb::{DumbOptions, DumbRemote};
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::storage::{ObjectStore, ObjectStoreExt as _};
use branchline_dev::s3::store::PublicAccess;
use branchline_dev::server::{self, Server};

use branchline_test_support::moto::Moto;
use branchline_test_support::repo::{Repo, history};
use branchline_test_support::{git::git, git_remote::GitRemote};

const BUCKET: &str = "public";

/// An S3 that everyone may read, with one bucket.
struct S3 {
    endpoint: String,
    store: Arc<dyn ObjectStore>,
}

impl S3 {
    fn new(endpoint: &str, region: &str, key: &AccessKey) -> Self {
        let aws = Aws::fixed(region, endpoint, key);
        Self {
            endpoint: endpoint.to_owned(),
            store: Arc::new(SdkObjectStore::new(&aws)),
        }
    }

    fn url(&self, prefix: &str) -> String {
        format!("{}/{BUCKET}/{prefix}", self.endpoint)
    }

    async fn mirror(&self, repo: &Repo, prefix: &str, loose: bool) -> Result<()> {
        let options = DumbOptions {
            loose,
            ..DumbOptions::default()
        };
        let bucket = BucketName::new(BUCKET)?;
        let target = DumbRemote::new(
            Arc::clone(&self.store),
            bucket,
            KeyPrefix::new(prefix)?,
            options,
        );
        let all = mirror::MirrorOptions {
            refs: mirror::RefSelection::new(["refs/*"])?,
            prune: true,
            ..mirror::MirrorOptions::default()
        };
        let done = mirror(&GitRemote::new(repo), &target, &all, None).await?;
        ensure!(done.complete, "the mirroring ends");
        Ok(())
    }

    async fn bytes(&self, key: &str) -> Result<Vec<u8>> {
        let (bucket, key) = (BucketName::new(BUCKET)?, key.parse()?);
        Ok(self.store.get(&bucket, &key, None, None).await?.to_vec())
    }

    async fn text(&self, key: &str) -> Result<String> {
        Ok(String::from_utf8(self.bytes(key).await?)?)
    }

    /// The ids of loose objects under a prefix.
    async fn loose(&self, prefix: &str) -> Result<BTreeSet<String>> {
        let bucket = BucketName::new(BUCKET)?;
        let start = format!("{prefix}/objects/");
        let mut found = BTreeSet::new();
        let mut next = None;
        loop {
            let page = self
                .store
                .list(&bucket, &start, None, next.as_deref())
                .await?;
            for object in &page.objects {
                let path = object.key.as_str().strip_prefix(&start);
                found.insert(path.unwrap_or_default().replace('/', ""));
            }
            next = page.next;
            if next.is_none() {
                return Ok(found);
            }
        }
    }
}

async fn development_server(access: PublicAccess) -> Result<(Server, S3)> {
    let server = Server::start(server::Options {
        public_buckets: vec![(BUCKET.to_owned(), access)],
        ..server::Options::default()
    })
    .await?;
    let region = server.account().region.clone();
    let created = server.store().create_bucket(BUCKET, &region);
    created.map_err(|error| anyhow::anyhow!("{error}"))?;
    let credentials = server.credentials();
    let key = AccessKey {
        id: credentials.access_key_id.clone(),
        secret: credentials.secret_access_key.clone(),
        session_token: None,
    };
    let s3 = S3::new(&server.endpoint(), &region, &key);
    Ok((server, s3))
}

/// Runs git, which asks a server that may run on this very runtime.
async fn ask(folder: &Path, words: &[&str]) -> Result<String> {
    let folder = folder.to_owned();
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let run = move || {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        git(&folder, &words)
    };
    tokio::task::spawn_blocking(run).await?
}

/// Clones and checks with stock git; the folder of the clone.
async fn clone(url: &str, repo: &Repo, folder: &Path, name: &str) -> Result<PathBuf> {
    ask(folder, &["clone", "-q", "--mirror", url, name]).await?;
    let clone = folder.join(name);
    assert_equal(url, repo, &clone).await?;
    Ok(clone)
}

async fn assert_equal(url: &str, repo: &Repo, clone: &Path) -> Result<()> {
    let report = ask(clone, &["fsck", "--full", "--strict", "--no-dangling"]).await?;
    assert_eq!(report, "", "git fsck finds nothing");
    let refs = ask(
        clone,
        &["for-each-ref", "--format=%(objectname) %(refname)"],
    )
    .await?;
    assert_eq!(refs, repo.refs(), "the clone's refs are the source's");
    let listed = ask(clone, &["ls-remote", url]).await?;
    let without_head = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.ends_with("\tHEAD"));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(
        without_head(&listed),
        without_head(&repo.git(&["ls-remote", "."]))
    );
    Ok(())
}

/// Clone, fetch, ls-remote, and our index as `git verify-pack` sees it.
async fn stock_git_is_served(s3: &S3) -> Result<()> {
    let repo = Repo::with_history(HashKind::Sha1, 40, 12);
    let folder = tempfile::tempdir()?;
    for loose in [false, true] {
        let prefix = if loose { "loose/r.git" } else { "packed/r.git" };
        let url = s3.url(prefix);
        s3.mirror(&repo, prefix, loose).await?;
        let clone = clone(&url, &repo, folder.path(), if loose { "l" } else { "p" }).await?;
        if !loose {
            let packs = s3.text(&format!("{prefix}/objects/info/packs")).await?;
            let name = packs.lines().find_map(|line| line.strip_prefix("P "));
            let name = name.context("a pack is listed")?.trim_end_matches(".pack");
            for end in ["pack", "idx"] {
                let key = format!("{prefix}/objects/pack/{name}.{end}");
                let bytes = s3.bytes(&key).await?;
                std::fs::write(folder.path().join(format!("{name}.{end}")), bytes)?;
            }
            ask(folder.path(), &["verify-pack", &format!("{name}.idx")]).await?;
        }
        // More arrives, something goes, and the clone follows.
        let more = 40 + usize::from(loose) * 10;
        repo.input(
            &["fast-import", "--quiet", "--force"],
            &history(more, 6, 12),
        );
        repo.git(&["update-ref", &format!("refs/heads/new-{loose}"), "main~1"]);
        s3.mirror(&repo, prefix, loose).await?;
        ask(&clone, &["fetch", "-q", "--prune"]).await?;
        assert_equal(&url, &repo, &clone).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_git_clones_and_fetches_from_the_development_servers_s3() -> Result<()> {
    let (_server, s3) = development_server(PublicAccess::ReadAndList).await?;
    stock_git_is_served(&s3).await
}

/// "`--loose` writes mirror-git-to-s3's layout for buckets that answer 403 on missing keys."
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_answers_403_for_missing_keys_serves_the_loose_layout() -> Result<()> {
    let (_server, s3) = development_server(PublicAccess::Read).await?;
    let repo = Repo::with_history(HashKind::Sha1, 10, 6);
    let folder = tempfile::tempdir()?;
    s3.mirror(&repo, "loose.git", true).await?;
    clone(&s3.url("loose.git"), &repo, folder.path(), "l").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_git_clones_and_fetches_from_moto() -> Result<()> {
    let Some(moto) = Moto::start()? else {
        return Ok(());
    };
    let s3 = moto_bucket(&moto)?;
    stock_git_is_served(&s3).await
}

/// "`mirror-git-to-s3` 0.0.24 from `PyPI` on the same source (same refs, same objects, stock
/// `git clone` of both)."
#[tokio::test(flavor = "multi_thread")]
async fn mirror_git_to_s3_publishes_the_same_and_its_mirrors_are_taken_over() -> Result<()> {
    let Some(environment) = environment() else {
        return Ok(());
    };
    let (server, s3) = development_server(PublicAccess::ReadAndList).await?;
    let repo = Repo::with_history(HashKind::Sha1, 20, 8);
    let source = SmartServer::start(&repo)?;
    let mut command = tokio::process::Command::new(environment.join("bin/mirror-git-to-s3"));
    let credentials = server.credentials();
    command
        .args(["--source", &source.url()])
        .args(["--target", &format!("s3://{BUCKET}/theirs")])
        .env("AWS_ENDPOINT_URL", server.endpoint())
        .env("AWS_DEFAULT_REGION", &server.account().region)
        .env("AWS_ACCESS_KEY_ID", &credentials.access_key_id)
        .env("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key)
        .env_remove("AWS_SESSION_TOKEN")
        .env_remove("AWS_PROFILE")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_mins(2), command.output()).await??;
    let printed = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "mirror-git-to-s3: {printed}");
    s3.mirror(&repo, "ours", true).await?;
    s3.mirror(&repo, "packed", false).await?;

    let folder = tempfile::tempdir()?;
    let theirs = clone(&s3.url("theirs"), &repo, folder.path(), "theirs").await?;
    let ours = clone(&s3.url("ours"), &repo, folder.path(), "ours").await?;
    clone(&s3.url("packed"), &repo, folder.path(), "packed").await?;
    let all = ["rev-list", "--objects", "--no-object-names", "--all"];
    assert_eq!(ask(&theirs, &all).await?, ask(&ours, &all).await?);
    assert_eq!(
        s3.loose("theirs").await?,
        s3.loose("ours").await?,
        "the same objects are at the same keys"
    );
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(
        lines(&s3.text("theirs/info/refs").await?),
        lines(&s3.text("ours/info/refs").await?),
        "peeled tags included"
    );
    assert_eq!(
        s3.text("theirs/HEAD").await?.trim_end(),
        s3.text("ours/HEAD").await?.trim_end()
    );

    // A mirror that they made is continued, loose or with packs.
    repo.input(&["fast-import", "--quiet", "--force"], &history(20, 6, 8));
    s3.mirror(&repo, "theirs", false).await?;
    ask(&theirs, &["fetch", "-q", "--prune"]).await?;
    assert_equal(&s3.url("theirs"), &repo, &theirs).await
}

fn environment() -> Option<PathBuf> {
    let folder = std::env::var_os("BRANCHLINE_VENV").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: BRANCHLINE_VENV is not set; `cargo xtask test` makes that environment");
    }
    folder
}

/// A bucket of moto that everyone may read.
fn moto_bucket(moto: &Moto) -> Result<S3> {
    let key = AccessKey {
        id: "AKIDEXAMPLE".into(),
        secret: "secret".into(),
        session_token: None,
    };
    // A bucket is made by a PUT of its name, and so is its policy; of those moto asks
    // no signature.
    let policy = serde_json::json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:GetObject",
            "Resource": format!("arn:aws:s3:::{BUCKET}/*"),
        }],
    });
    moto.put(&format!("/{BUCKET}"), "")?;
    moto.put(&format!("/{BUCKET}?policy"), &policy.to_string())?;
    Ok(S3::new(&moto.endpoint(), "us-east-1", &key))
}

/// Serves one repository over smart HTTP, protocol v0, to a client that names no media
/// types: `git http-backend` refuses that.
pub(crate) struct SmartServer {
    address: SocketAddr,
}

impl SmartServer {
    pub(crate) fn start(repo: &Repo) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let path = repo.path.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // What fails is seen by the client.
                let _ = serve(&path, stream);
            }
        });
        Ok(Self { address })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/r.git", self.address)
    }
}

fn serve(path: &Path, mut stream: TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? <= 2 {
            break;
        }
        let header = header.to_ascii_lowercase();
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut command = branchline_test_support::git::command(path);
    command.args(["upload-pack", "--stateless-rpc"]);
    let mut answer = Vec::new();
    if line.starts_with("GET ") {
        command.arg("--advertise-refs");
        answer.extend_from_slice(b"001e# service=git-upload-pack\n0000");
    }
    let mut child = command
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("it is piped")?;
    stdin.write_all(&body)?;
    drop(stdin);
    answer.extend(child.wait_with_output()?.stdout);
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.len()
    )?;
    stream.write_all(&answer)?;
    Ok(())
}
