//! A bucket in memory, a repository whose packs git makes, and clones of the bucket by stock
//! git over plain HTTP.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use branchline_core::git::ObjectId;
use branchline_core::git::dumb_http::{parse_info_packs, parse_info_refs};
use branchline_core::git::pack::Index;
use branchline_core::mirror::{self, MirrorStats, mirror};
use branchline_core::name::{BucketName, KeyPrefix, ObjectKey};
use branchline_core::remote::s3_dumb::{DumbOptions, DumbRemote};
use branchline_core::storage::{ObjectStore, PutOptions};
use branchline_core::testkit::{MemoryStore, MemoryStoreOptions};
use bytes::Bytes;

use branchline_test_support::repo::Repo;
use branchline_test_support::{git::git, git_remote::GitRemote};

pub(crate) const PREFIX: &str = "repos/r.git/";
/// Start of the memory store's clock.
pub(crate) const NOW: i64 = 1_700_000_000;

pub(crate) fn bucket() -> BucketName {
    BucketName::new("mirror").unwrap()
}

/// A bucket, and a clock.
#[derive(Clone)]
pub(crate) struct DumbFixture {
    pub store: Arc<MemoryStore>,
    pub clock: Arc<AtomicI64>,
}

impl DumbFixture {
    pub(crate) fn new() -> Self {
        let store = MemoryStore::with_options(MemoryStoreOptions {
            page: 1000,
            ..MemoryStoreOptions::default()
        });
        store.create_bucket(&bucket(), false);
        Self {
            store: Arc::new(store),
            clock: Arc::new(AtomicI64::new(NOW)),
        }
    }

    pub(crate) fn options(&self) -> DumbOptions {
        let clock = Arc::clone(&self.clock);
        DumbOptions {
            clock: Arc::new(move || clock.load(Ordering::SeqCst)),
            ..DumbOptions::default()
        }
    }

    pub(crate) fn remote(&self) -> DumbRemote {
        self.remote_with(self.options())
    }

    pub(crate) fn remote_with(&self, options: DumbOptions) -> DumbRemote {
        self.remote_over(Arc::clone(&self.store) as Arc<dyn ObjectStore>, options)
    }

    #[expect(clippy::unused_self, reason = "it reads like its siblings")]
    pub(crate) fn remote_over(
        &self,
        store: Arc<dyn ObjectStore>,
        options: DumbOptions,
    ) -> DumbRemote {
        DumbRemote::new(store, bucket(), KeyPrefix::new(PREFIX).unwrap(), options)
    }

    /// Mirrors a repository into the bucket; returns the requests, without the last ones, which list
    /// and delete temporary objects.
    pub(crate) async fn mirror(&self, repo: &Repo) -> (MirrorStats, Vec<&'static str>) {
        self.mirror_with(repo, self.options(), mirror_options(true))
            .await
    }

    pub(crate) async fn mirror_with(
        &self,
        repo: &Repo,
        options: DumbOptions,
        how: mirror::MirrorOptions,
    ) -> (MirrorStats, Vec<&'static str>) {
        let before = self.store.traffic().calls().len();
        let target = self.remote_with(options);
        let outcome = mirror(&GitRemote::new(repo), &target, &how, None).await;
        let mut calls = self.store.traffic().calls().split_off(before);
        if let Some(listed) = calls.iter().rposition(|call| *call == "list") {
            calls.truncate(listed);
        }
        (outcome.unwrap(), calls)
    }

    pub(crate) fn advance(&self, seconds: i64) {
        self.clock.fetch_add(seconds, Ordering::SeqCst);
        self.store.advance(seconds);
    }

    /// Returns a file of the repository.
    pub(crate) fn file(&self, path: &str) -> Option<Bytes> {
        let versions = self.store.versions(&bucket(), &format!("{PREFIX}{path}"));
        versions.last()?.body.clone()
    }

    pub(crate) fn text(&self, path: &str) -> String {
        String::from_utf8(self.file(path).unwrap().to_vec()).unwrap()
    }

    pub(crate) async fn put(&self, path: &str, body: impl Into<Bytes>) {
        let key = ObjectKey::new(&format!("{PREFIX}{path}")).unwrap();
        let (bucket, options) = (bucket(), PutOptions::default());
        let put = self.store.put(&bucket, &key, body.into(), &options);
        put.await.unwrap();
    }

    /// Returns the paths of all files.
    pub(crate) async fn files(&self) -> BTreeSet<String> {
        let page = self
            .store
            .list(&bucket(), PREFIX, None, None)
            .await
            .unwrap();
        assert!(page.next.is_none());
        let path = |key: &ObjectKey| key.as_str().strip_prefix(PREFIX).unwrap().to_owned();
        page.objects.iter().map(|found| path(&found.key)).collect()
    }

    pub(crate) fn packs(&self) -> Vec<ObjectId> {
        self.file("objects/info/packs")
            .map(|list| parse_info_packs(&list).unwrap())
            .unwrap_or_default()
    }

    /// Checks that the published repository is complete: every object that git finds
    /// reachable from a ref is in a listed pack with an index, or loose.
    pub(crate) fn assert_complete(&self, judge: &Judge) {
        let Some(refs) = self.file("info/refs") else {
            return;
        };
        let refs = parse_info_refs(&refs).unwrap();
        let mut there = BTreeSet::new();
        for pack in self.packs() {
            let index = self.file(&format!("objects/pack/pack-{pack}.idx"));
            let index = index.expect("a listed pack has its index");
            let bytes = self.file(&format!("objects/pack/pack-{pack}.pack"));
            let bytes = bytes.expect("a listed pack exists");
            assert!(
                bytes.ends_with(pack.as_slice()),
                "a pack is called by its trailer"
            );
            let index = Index::parse(pack.kind(), index).unwrap();
            there.extend(index.ids().map(|id| id.to_string()));
        }
        for (name, target) in &refs {
            for id in judge.closure(target.id) {
                let loose = || self.file(&format!("objects/{}/{}", &id[..2], &id[2..]));
                assert!(
                    there.contains(&id) || loose().is_some(),
                    "`{name}` is published without {id}"
                );
            }
        }
    }

    /// Clones with stock git over plain HTTP, checks the clone, and compares.
    pub(crate) fn assert_clones_equal(&self, repo: &Repo) {
        self.clone_as(repo, 404).unwrap();
    }

    /// Like [`assert_clones_equal`](Self::assert_clones_equal), from a server that answers
    /// `missing` for missing files.
    pub(crate) fn clone_as(&self, repo: &Repo, missing: u16) -> Result<(), String> {
        let server = StaticServer::start(self.clone(), missing);
        let dir = tempfile::tempdir().unwrap();
        let clone = dir.path().join("clone.git");
        let url = server.url();
        let git = |folder: &std::path::Path, args: &[&str]| {
            git(folder, args).map_err(|error| error.to_string())
        };
        let done = git(dir.path(), &["clone", "-q", "--mirror", &url, "clone.git"])?;
        assert_eq!(done, "");
        let report = git(&clone, &["fsck", "--full", "--strict", "--no-dangling"])?;
        assert_eq!(report, "", "git fsck finds nothing");
        let listed = git(
            &clone,
            &["for-each-ref", "--format=%(objectname) %(refname)"],
        )?;
        assert_eq!(listed, repo.refs(), "the clone has the source's refs");
        let ours = git(dir.path(), &["ls-remote", &url])?;
        let theirs = repo.git(&["ls-remote", "."]);
        let without_head = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.ends_with("\tHEAD"));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(
            without_head(&ours),
            without_head(&theirs),
            "peeled tags included"
        );
        Ok(())
    }
}

/// Makes options that mirror all refs.
pub(crate) fn mirror_options(prune: bool) -> mirror::MirrorOptions {
    mirror::MirrorOptions {
        refs: mirror::RefSelection::new(["refs/*"]).unwrap(),
        prune,
        ..mirror::MirrorOptions::default()
    }
}

/// Adds a commit to `main` that adds one file: three objects.
pub(crate) fn grow(repo: &Repo, number: usize) {
    let from = match repo.run(&["rev-parse", "-q", "--verify", "refs/heads/main"], b"") {
        (true, ..) => "from refs/heads/main^0\n",
        _ => "",
    };
    let date = 1_600_000_000 + number;
    let input = format!(
        "commit refs/heads/main\ncommitter C <c@x> {date} +0000\ndata 4\ngrow\n{from}\
         M 100644 inline grown-{number}\ndata 8\n{number:08}\n"
    );
    repo.input(&["fast-import", "--quiet"], input.as_bytes());
}

/// Objects reachable from each commit or tag, by git.
pub(crate) struct Judge {
    path: std::path::PathBuf,
    known: Mutex<HashMap<ObjectId, Vec<String>>>,
}

impl Judge {
    pub(crate) fn new(repo: &Repo) -> Self {
        Self {
            path: repo.path.clone(),
            known: Mutex::default(),
        }
    }

    fn closure(&self, id: ObjectId) -> Vec<String> {
        let mut known = self.known.lock().unwrap();
        known
            .entry(id)
            .or_insert_with(|| {
                let id = id.to_string();
                let args = ["rev-list", "--objects", "--no-object-names", &id];
                let listed = git(&self.path, args).unwrap();
                let mut ids: Vec<_> = listed.lines().map(str::to_owned).collect();
                ids.push(id);
                ids
            })
            .clone()
    }
}

/// Serves the repository's files over HTTP.
pub(crate) struct StaticServer {
    address: std::net::SocketAddr,
    stop: Arc<std::sync::atomic::AtomicBool>,
    requests: Arc<Mutex<BTreeMap<String, usize>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl StaticServer {
    pub(crate) fn start(world: DumbFixture, missing: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let requests = Arc::new(Mutex::new(BTreeMap::new()));
        let (stopped, log) = (Arc::clone(&stop), Arc::clone(&requests));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // Ignored, because a client may close its connection.
                let _ = answer(&world, stream.unwrap(), missing, &log);
            }
        });
        Self {
            address,
            stop,
            requests,
            thread: Some(thread),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/r.git", self.address)
    }

    /// Number of requests of each path.
    pub(crate) fn requests(&self) -> BTreeMap<String, usize> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for StaticServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(
    world: &DumbFixture,
    mut stream: TcpStream,
    missing: u16,
    log: &Mutex<BTreeMap<String, usize>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? <= 2 {
            break;
        }
    }
    let target = line.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let path = path.strip_prefix("/r.git/").unwrap_or_default();
    *log.lock().unwrap().entry(path.to_owned()).or_insert(0) += 1;
    let (status, body) = match world.file(path) {
        Some(body) => (200, body),
        None => (missing, Bytes::new()),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}
