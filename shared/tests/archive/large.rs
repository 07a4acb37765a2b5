//! Files that the API refuses as too large, read by git.

use std::collections::HashSet;
use std::sync::Arc;

use branchline_core::archive::large_files_over_git::{GitAccess, GitLargeFiles};
use branchline_core::archive::{Summary, WriteSink, build, write};
use branchline_core::aws::{HttpSettings, git_http};
use branchline_core::git::HashKind;
use branchline_core::git::smart_http::NoCredentials;
use branchline_core::name::{BucketName, CommitId, ObjectKey};
use branchline_core::storage::spool::SpoolConfig;
use branchline_core::storage::{ObjectStore, PutOptions};
use branchline_core::testkit::MemoryStore;
use branchline_core::{ErrorKind, Result};

use super::compare::same;
use super::fake_codecommit::Disk;
use super::faults::{noise, repository, request, target};
use super::git::{Item, Repo};
use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::http::ReceivedRequest;
use branchline_test_support::repo;

const MIB: usize = 1 << 20;

/// A commit in a repository that CodeCommit and a git server serve, and a store.
pub(crate) struct LargeFilesFixture {
    pub served: repo::Repo,
    pub server: GitServer,
    pub disk: Arc<Disk>,
    pub store: Arc<MemoryStore>,
    pub commit: String,
    pub memory_bytes: usize,
}

impl LargeFilesFixture {
    /// Serves the objects of `repo`, by the API only blobs of up to `max_blob_bytes`.
    pub(crate) fn new(repo: &Repo, commit: &str, max_blob_bytes: u64) -> Self {
        Self::with_rule(repo, commit, max_blob_bytes, |_| Response::Git)
    }

    /// Like [`new`](Self::new), with `rule` for the responses of the git server.
    pub(crate) fn with_rule(
        repo: &Repo,
        commit: &str,
        max_blob_bytes: u64,
        rule: impl Fn(&ReceivedRequest) -> Response + Send + Sync + 'static,
    ) -> Self {
        let copy = repo::Repo::new(HashKind::Sha1);
        let from = repo.path().to_str().unwrap();
        copy.git(&["fetch", "-q", from, "+refs/heads/*:refs/heads/*"]);
        copy.git(&["config", "uploadpack.allowReachableSHA1InWant", "true"]);
        let server = GitServer::with(&copy, rule);
        let mut disk = Disk::new(&copy.path);
        disk.max_blob_bytes = max_blob_bytes;
        disk.clone_url = server.url();
        let store = Arc::new(MemoryStore::new());
        store.create_bucket(&target().bucket, true);
        Self {
            served: copy,
            server,
            disk: Arc::new(disk),
            store,
            commit: commit.to_owned(),
            memory_bytes: 64 * MIB,
        }
    }

    pub(crate) fn files(&self, store: Arc<dyn ObjectStore>) -> Arc<GitLargeFiles> {
        let access = GitAccess {
            service: Arc::clone(&self.disk) as _,
            http: git_http(&HttpSettings::default()).unwrap(),
            credentials: Arc::new(NoCredentials),
            clone_url: None,
            memory_bytes: self.memory_bytes,
            costs: Arc::default(),
        };
        let commit = CommitId::new(&self.commit).unwrap();
        let spool = SpoolConfig {
            store,
            bucket: BucketName::new("bucket").unwrap(),
            key: ObjectKey::new("r/main.zip.pack-1").unwrap(),
            options: PutOptions::default(),
        };
        Arc::new(GitLargeFiles::new(access, repository(), commit, spool))
    }

    /// Archives into `store`.
    pub(crate) async fn build(&self, store: Arc<dyn ObjectStore>) -> Result<Summary> {
        let mut request = request(&self.disk, &self.commit);
        request.large_files = Some(self.files(Arc::clone(&store)));
        let built = build(&*self.disk, &repository(), &store, &request, &target()).await;
        Ok(built?.summary)
    }

    /// Archives into the store of the fixture; asserts that nothing else is left in the bucket.
    pub(crate) async fn archive(&self) -> (Vec<u8>, Summary) {
        let built = self.build(Arc::clone(&self.store) as _).await;
        let summary = built.unwrap_or_else(|error| panic!("{}", error.report()));
        let bucket = target().bucket;
        let [version] = &self.store.versions(&bucket, "r/main.zip")[..] else {
            panic!("there is one version of the archive");
        };
        assert_eq!(self.left(), Vec::<String>::new());
        (version.body.clone().unwrap().to_vec(), summary)
    }

    /// Returns the objects, versions and uploads that are left of the pack.
    pub(crate) fn left(&self) -> Vec<String> {
        let bucket = target().bucket;
        let mut left = self.store.uploads();
        let versions = self.store.versions(&bucket, "r/main.zip.pack-1");
        left.extend(versions.into_iter().map(|version| format!("{version:?}")));
        left
    }

    fn git_requests(&self) -> Vec<String> {
        let seen = self.server.requests();
        seen.iter()
            .map(|seen| format!("{} {}", seen.method, seen.target))
            .collect()
    }
}

/// Returns lines of text that end in `end`, of `bytes` or a little more.
fn text(bytes: usize, end: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes + 64);
    let mut number = 0_u64;
    while text.len() < bytes {
        text.extend(format!("line {number} of a text{end}").bytes());
        number += 1;
    }
    text
}

const REQUESTS: [&str; 2] = [
    "GET /r.git/info/refs?service=git-upload-pack",
    "POST /r.git/git-upload-pack",
];

#[tokio::test(flavor = "multi_thread")]
async fn large_files_are_archived_as_git_archives_them_by_one_shallow_fetch() {
    let film = noise(1, 7 * MIB);
    let mut cut = film.clone();
    cut.splice(3 * MIB..3 * MIB + 10, *b"another scene");
    // The second half can be compressed.
    let mut huge = noise(2, 20 * MIB);
    huge.extend(text(20 * MIB, "\n"));
    let mixed = [text(7 * MIB, "\n"), b"lone\r\nline".to_vec()].concat();
    let binary = [text(7 * MIB, "\n"), b"\0".to_vec()].concat();
    let version = [text(7 * MIB, "\n"), b"$Format:%H %s$\n".to_vec()].concat();
    let idents = [text(7 * MIB, "\n"), b"$Id$\n".to_vec()].concat();
    let attributes = b"hidden export-ignore\n*.txt text eol=crlf\nauto/* text=auto eol=crlf\n\
        plain/* text=auto\nversion export-subst\nids ident eol=crlf\n";
    let repo = Repo::new();
    let commit = repo.commit(
        b"large\n",
        &[
            (b".gitattributes", Item::File(attributes)),
            (b"a/film", Item::File(&film)),
            (b"a/film (cut)", Item::File(&cut)),
            (b"a/run", Item::Executable(&film)),
            (b"again/film", Item::File(&film)),
            (b"auto/binary", Item::File(&binary)),
            (b"auto/mixed", Item::File(&mixed)),
            (b"auto/text", Item::File(&text(8 * MIB, "\n"))),
            (b"b/deep/down/huge", Item::File(&huge)),
            (b"empty", Item::File(b"")),
            (b"hidden", Item::File(&noise(3, 7 * MIB))),
            (b"ids", Item::File(&idents)),
            (b"link", Item::Link(b"a/film")),
            (b"most", Item::File(&noise(4, 6 * MIB))),
            (b"over.txt", Item::File(&text(8 * MIB, "\n"))),
            (b"plain/text", Item::File(&text(8 * MIB, "\n"))),
            (b"version", Item::File(&version)),
            (b"windows.txt", Item::File(&text(8 * MIB, "\r\n"))),
        ],
    );
    let theirs = repo.archive("", &commit);
    for (memory_bytes, staged) in [(1024 * MIB, 0), (96 * MIB, 1)] {
        let mut fixture = LargeFilesFixture::new(&repo, &commit, 6 * MIB as u64);
        fixture.memory_bytes = memory_bytes;
        let (zip, summary) = fixture.archive().await;
        same(&zip, &theirs);
        assert_eq!(fixture.git_requests(), REQUESTS, "one shallow fetch");
        let calls = fixture.disk.calls.lock().unwrap().clone();
        let blobs: Vec<_> = calls.iter().filter(|call| call.contains("blob")).collect();
        let distinct: HashSet<_> = blobs.iter().collect();
        assert_eq!(blobs.len(), distinct.len(), "no blob is requested twice");
        let described = calls.iter().filter(|call| *call == "repository").count();
        assert_eq!(described, 1, "the repository is described once");
        assert_eq!(
            summary.requests,
            calls.len() as u64 + 2,
            "all requests are counted"
        );
        let removed = fixture.store.traffic().count("delete_version");
        assert_eq!(
            removed, staged,
            "a pack that exceeds the memory is stored in S3"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_file_has_the_bytes_of_a_file_in_memory() {
    let repo = Repo::new();
    // More entries than one `ZipWriter` gets, and content of all lengths.
    let names: Vec<String> = (0..1500).map(|n| format!("{}/{n}", n % 7)).collect();
    let contents: Vec<Vec<u8>> = (0..1500)
        .map(|n| match n % 3 {
            0 => text(n, "\n"),
            1 => noise(n as u64, n),
            _ => vec![b'x'; n * 400],
        })
        .collect();
    let mut items: Vec<(&[u8], Item<'_>)> = vec![(b".gitattributes", Item::File(b"* eol=crlf\n"))];
    for (name, bytes) in names.iter().zip(&contents) {
        let item = if bytes.len() % 2 == 0 {
            Item::File(bytes)
        } else {
            Item::Executable(bytes)
        };
        items.push((name.as_bytes(), item));
    }
    let commit = repo.commit(b"many\n", &items);
    let in_memory = LargeFilesFixture::new(&repo, &commit, u64::MAX)
        .archive()
        .await
        .0;
    let streaming = LargeFilesFixture::new(&repo, &commit, 20);
    let streamed = streaming.archive().await.0;
    assert!(
        in_memory == streamed,
        "the same commit gives the same bytes"
    );
    assert_eq!(streaming.git_requests(), REQUESTS);
    same(&streamed, &repo.archive("", &commit));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_large_files_no_git_request_is_made() {
    let repo = Repo::new();
    let commit = repo.files(&[("a", b"1"), ("b", b"2")]);
    let fixture = LargeFilesFixture::new(&repo, &commit, 6 * MIB as u64);
    fixture.archive().await;
    assert_eq!(fixture.git_requests(), Vec::<String>::new());
    let calls = fixture.disk.calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 3, "a folder and two blobs: {calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_not_a_tip_is_fetched_by_its_id() {
    let repo = Repo::new();
    let commit = repo.files(&[("film", &noise(5, 7 * MIB))]);
    let fixture = LargeFilesFixture::new(&repo, &commit, 6 * MIB as u64);
    let served = &fixture.served;
    let tree = served.git(&["mktree"]);
    let next = served.git(&["commit-tree", &tree, "-p", &commit, "-m", "moved on"]);
    served.git(&["update-ref", "refs/heads/main", &next]);
    let (zip, _) = fixture.archive().await;
    same(&zip, &repo.archive("", &commit));

    // The commit is no longer reachable.
    let alone = served.git(&["commit-tree", &tree, "-m", "rewritten"]);
    served.git(&["update-ref", "refs/heads/main", &alone]);
    let store = Arc::new(MemoryStore::new());
    store.create_bucket(&target().bucket, true);
    let error = fixture.build(store).await.expect_err("it is not reachable");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
    assert!(error.to_string().contains("`film`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_into_a_writer_contains_the_large_files() {
    let repo = Repo::new();
    let commit = repo.files(&[("a", b"small"), ("film", &noise(6, 7 * MIB))]);
    let fixture = LargeFilesFixture::new(&repo, &commit, 6 * MIB as u64);
    let mut request = request(&fixture.disk, &commit);
    request.large_files = Some(fixture.files(Arc::clone(&fixture.store) as _));
    let sink = WriteSink::new(Vec::new());
    write(&*fixture.disk, &repository(), &request, &sink)
        .await
        .unwrap();
    same(&sink.into_inner(), &repo.archive("", &commit));
    assert_eq!(fixture.left(), Vec::<String>::new());
}
