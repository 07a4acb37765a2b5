//! The API and git as ways to read a whole commit: the same bytes, and the requests of each.

use std::collections::HashMap;
use std::sync::Arc;

use branchline_core::archive::large_files_over_git::GitLargeFiles;
use branchline_core::archive::{
    ArchiveRequest, Built, DatabaseHistory, PreviousArchive, ReadMethod, build,
};
use branchline_core::lfs::LocalLfs;
use branchline_core::name::CommitId;
use branchline_core::storage::{ETag, ObjectStore};
use branchline_core::{ErrorKind, Result};
use branchline_test_support::git_server::Response;
use proptest::test_runner::{Config, TestRunner};

use super::compare::same;
use super::faults::{noise, repository, request, target};
use super::git::Repo;
use super::large::LargeFilesFixture;
use super::property::{commit, commits};
use super::reuse_fixture::{build_at, previous};
use super::submodules::Repositories;
use super::{describe, lfs, submodules};

const MIB: usize = 1 << 20;
/// Largest blob that the API serves, in bytes.
const MAX_BLOB_BYTES: u64 = 6 << 20;

/// Returns a request that reads the commit by `method`, and the commit by git.
fn request_by(
    fixture: &LargeFilesFixture,
    method: ReadMethod,
) -> (ArchiveRequest, Arc<GitLargeFiles>) {
    let over_git = fixture.files(Arc::clone(&fixture.store) as _);
    let mut request = request(&fixture.disk, &fixture.commit);
    request.method = method;
    request.large_files = Some(Arc::clone(&over_git) as _);
    request.over_git = Some(Arc::clone(&over_git));
    (request, over_git)
}

async fn built(fixture: &LargeFilesFixture, request: &ArchiveRequest) -> Result<(Vec<u8>, Built)> {
    let store = Arc::clone(&fixture.store) as Arc<dyn ObjectStore>;
    let built = build(&*fixture.disk, &repository(), &store, request, &target()).await?;
    let versions = fixture.store.versions(&target().bucket, "r/main.zip");
    let version = versions
        .iter()
        .find(|version| version.id == built.written.version_id)
        .expect("the archive is stored");
    Ok((version.body.clone().unwrap().to_vec(), built))
}

async fn archive(fixture: &LargeFilesFixture, method: ReadMethod) -> (Vec<u8>, Built) {
    let (request, _) = request_by(fixture, method);
    let built = built(fixture, &request).await;
    let built = built.unwrap_or_else(|error| panic!("{}", error.report()));
    assert_eq!(fixture.left(), Vec::<String>::new(), "no pack is left");
    built
}

/// Takes the calls of the API since the last call.
fn api_calls(fixture: &LargeFilesFixture) -> Vec<String> {
    std::mem::take(&mut fixture.disk.calls.lock().unwrap())
}

/// Commits `folders` folders of ten files each.
fn folders(repo: &Repo, folders: usize) -> String {
    let files: Vec<(String, Vec<u8>)> = (0..folders * 10)
        .map(|n| {
            let path = format!("f{}/file {}", n / 10, n % 10);
            (path, format!("content {n}\n").repeat(n % 40).into_bytes())
        })
        .collect();
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
        .collect();
    repo.files(&files)
}

#[test]
fn random_commits_have_the_same_bytes_by_the_api_by_git_and_by_choice() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config {
        cases: 24,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&commits(), |files| {
            let repo = Repo::new();
            let commit = commit(&repo, &files);
            runtime.block_on(async {
                let fixture = LargeFilesFixture::new(&repo, &commit, MAX_BLOB_BYTES);
                let (by_api, _) = archive(&fixture, ReadMethod::Api).await;
                api_calls(&fixture);
                let (by_git, built) = archive(&fixture, ReadMethod::Git).await;
                assert!(built.by_git, "the commit is read by git");
                assert_eq!(api_calls(&fixture), ["repository"]);
                assert_eq!(built.summary.requests, 3);
                let (by_choice, _) = archive(&fixture, ReadMethod::Auto).await;
                assert!(by_api == by_git, "git gives the bytes of the API");
                assert!(by_api == by_choice, "the choice does not matter");
                same(&by_api, &repo.archive("", &commit));
            });
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn few_files_are_read_by_the_api_and_many_by_git() {
    let repo = Repo::new();
    let commit = folders(&repo, 5);
    let fixture = LargeFilesFixture::new(&repo, &commit, MAX_BLOB_BYTES);
    let (zip, few) = archive(&fixture, ReadMethod::Auto).await;
    assert!(!few.by_git, "55 requests are two rounds");
    assert_eq!(fixture.server.requests().len(), 0, "git is not requested");
    same(&zip, &repo.archive("", &commit));

    let commit = folders(&repo, 100);
    let fixture = LargeFilesFixture::new(&repo, &commit, MAX_BLOB_BYTES);
    let (zip, many) = archive(&fixture, ReadMethod::Auto).await;
    assert!(many.by_git, "1,100 requests are many rounds");
    let calls = api_calls(&fixture);
    let listings = calls.iter().filter(|call| call.starts_with("folder"));
    assert!(
        listings.count() <= 40,
        "the walk ends early: {}",
        calls.len()
    );
    assert!(
        !calls.iter().any(|call| call.starts_with("blob")),
        "no file is requested: {calls:?}"
    );
    assert_eq!(fixture.server.requests().len(), 2, "one fetch");
    assert!(
        many.summary.requests >= calls.len() as u64 + 2,
        "all requests are counted, also those that the walk waits for no more"
    );
    same(&zip, &repo.archive("", &commit));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_last_archive_had_many_files_is_not_listed_by_the_api() {
    let repo = Repo::new();
    let commit = folders(&repo, 2);
    let fixture = LargeFilesFixture::new(&repo, &commit, MAX_BLOB_BYTES);
    let (mut request, _) = request_by(&fixture, ReadMethod::Auto);
    let previous = PreviousArchive {
        bucket: target().bucket,
        key: target().key,
        etag: ETag::new("\"1\"").unwrap(),
        size_bytes: 1000,
        commit: CommitId::new(&"ab".repeat(20)).unwrap(),
        files: 9000,
        record: None,
    };
    request.previous = Some(Arc::new(previous));
    let (_, built) = built(&fixture, &request).await.unwrap();
    assert!(built.by_git && built.full_run.is_some());
    assert_eq!(api_calls(&fixture), ["repository"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_git_is_denied_the_api_is_used_and_git_is_not_asked_again() {
    let repo = Repo::new();
    let commit = folders(&repo, 20);
    let denied = || Response::Fixed(403, "text/xml", b"<AccessDeniedException/>".to_vec());
    for method in [ReadMethod::Git, ReadMethod::Auto] {
        let fixture =
            LargeFilesFixture::with_rule(&repo, &commit, MAX_BLOB_BYTES, move |_| denied());
        let (request, _) = request_by(&fixture, method);
        for _ in 0..2 {
            let (zip, made) = built(&fixture, &request).await.unwrap();
            assert!(!made.by_git, "the API is used");
            same(&zip, &repo.archive("", &commit));
        }
        assert_eq!(fixture.server.requests().len(), 1, "git is asked once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_cut_off_is_an_error_only_where_git_was_demanded() {
    let repo = Repo::new();
    let commit = folders(&repo, 40);
    let cut = |seen: &branchline_test_support::http::ReceivedRequest| match seen.method.as_str() {
        "POST" => Response::Cut(300),
        _ => Response::Git,
    };
    let fixture = LargeFilesFixture::with_rule(&repo, &commit, MAX_BLOB_BYTES, cut);
    let (request, _) = request_by(&fixture, ReadMethod::Git);
    let error = built(&fixture, &request).await.expect_err("it is cut off");
    assert_eq!(error.kind(), ErrorKind::Transport, "{}", error.report());
    assert_eq!(fixture.left(), Vec::<String>::new());
    let (request, _) = request_by(&fixture, ReadMethod::Auto);
    let mut asked = Vec::new();
    for _ in 0..2 {
        let (zip, made) = built(&fixture, &request).await.unwrap();
        assert!(!made.by_git, "the API is used");
        same(&zip, &repo.archive("", &commit));
        assert_eq!(fixture.left(), Vec::<String>::new());
        asked.push(fixture.server.requests().len());
    }
    assert_eq!(asked[0], asked[1], "git is not asked again");
}

/// As in a network that has a way to CodeCommit's API, and none to its git.
#[tokio::test(start_paused = true)]
async fn a_git_server_that_does_not_answer_delays_the_archive_by_seconds() {
    let repo = Repo::new();
    let commit = folders(&repo, 40);
    let mut fixture = LargeFilesFixture::new(&repo, &commit, MAX_BLOB_BYTES);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/r", silent.local_addr().unwrap());
    Arc::get_mut(&mut fixture.disk).unwrap().clone_url = url;
    let begin = tokio::time::Instant::now();
    let (zip, made) = archive(&fixture, ReadMethod::Auto).await;
    assert!(!made.by_git, "the API is used");
    same(&zip, &repo.archive("", &commit));
    let waited = begin.elapsed();
    assert!(waited.as_secs() < 15, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_and_packs_beyond_the_memory_are_read_from_the_one_fetch() {
    let repo = Repo::new();
    let film = noise(1, 7 * MIB);
    let mut files: Vec<(String, Vec<u8>)> = (0..300)
        .map(|n| (format!("d{}/{n}", n % 9), noise(n, 30_000)))
        .collect();
    files.push(("film".to_owned(), film));
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
        .collect();
    let commit = repo.files(&files);
    let theirs = repo.archive("", &commit);
    for (memory_bytes, staged) in [(256 * MIB, 0), (20 * MIB, 1)] {
        let mut fixture = LargeFilesFixture::new(&repo, &commit, MAX_BLOB_BYTES);
        fixture.memory_bytes = memory_bytes;
        let (zip, made) = archive(&fixture, ReadMethod::Git).await;
        assert!(made.by_git);
        same(&zip, &theirs);
        assert_eq!(fixture.server.requests().len(), 2, "one fetch");
        let removed = fixture.store.traffic().count("delete_version");
        assert_eq!(removed, staged, "a pack beyond the memory is stored in S3");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn submodules_and_lfs_objects_have_the_same_bytes_by_the_api_and_by_git() {
    let (root, one) = (Repo::new(), Repo::new());
    let library = submodules::commit(
        &one,
        &[
            (".gitattributes", b"id export-subst\n"),
            ("id", b"$Format:%H$\n"),
            ("d/same", b"same\n"),
        ],
        &[],
    );
    let small = lfs::store(root.path(), b"a\nsmall object\n");
    let large = lfs::store(root.path(), &noise(3, 7 * MIB));
    let tip = submodules::commit(
        &root,
        &[
            (".gitattributes", b"*.bin filter=lfs\nid export-subst\n"),
            (
                ".gitmodules",
                b"[submodule \"a\"]\npath=libs/one\nurl=one\n",
            ),
            ("film", &noise(4, 7 * MIB)),
            ("id", b"$Format:%H %s$\n"),
            ("large.bin", large.as_bytes()),
            ("libs/same", b"same\n"),
            ("small.bin", small.as_bytes()),
        ],
        &[("libs/one", &library)],
    );
    let fixture = LargeFilesFixture::new(&root, &tip, MAX_BLOB_BYTES);
    let opened = submodules::opened(&one);
    let mut zips = Vec::new();
    for method in [ReadMethod::Api, ReadMethod::Git] {
        let (mut request, _) = request_by(&fixture, method);
        let repositories = HashMap::from([("one", opened.clone())]);
        request.submodules = Some(Arc::new(Repositories(repositories)));
        request.lfs = Some(Arc::new(LocalLfs::new(root.path())));
        api_calls(&fixture);
        let (zip, made) = built(&fixture, &request).await.unwrap();
        assert_eq!(made.by_git, method == ReadMethod::Git);
        if made.by_git {
            assert_eq!(api_calls(&fixture), ["repository"]);
            assert_eq!(made.summary.requests, 3, "all else is at hand");
        }
        zips.push(zip);
    }
    assert!(zips[0] == zips[1], "git gives the bytes of the API");
    assert!(zips[0].len() > 14 * MIB, "the large object is archived");
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptions_and_decorations_have_the_same_bytes_by_the_api_and_by_git() {
    let (repo, commit) = describe::tagged(&[
        ("a/decorated", "$Format:%d %D$\n"),
        ("described", "$Format:%(describe) %h$\n"),
        ("not/described", "$Format:%(describe)$\n"),
    ]);
    let fixture = LargeFilesFixture::new(&repo, &commit, MAX_BLOB_BYTES);
    let theirs = repo.archive("", &commit);
    for method in [ReadMethod::Api, ReadMethod::Git] {
        let (mut request, _) = request_by(&fixture, method);
        let refs = describe::refs(&repo, true);
        let history = DatabaseHistory::new(describe::everything(&repo), refs);
        request.history = Some(Arc::new(history));
        let (zip, made) = built(&fixture, &request).await.unwrap();
        assert_eq!(made.by_git, method == ReadMethod::Git);
        same(&zip, &theirs);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changed_files_of_a_reused_archive_are_fetched_by_git() {
    let repo = Repo::new();
    let version = |text: &str| {
        let files: Vec<(String, Vec<u8>)> = (0..400)
            .map(|n| {
                let text = if n < 150 { text } else { "first" };
                (format!("f{}/{n}", n / 10), format!("{n} {text}\n").into())
            })
            .collect();
        let files: Vec<(&str, &[u8])> = files
            .iter()
            .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
            .collect();
        repo.files(&files)
    };
    let first = version("first");
    repo.git(["update-ref", "refs/heads/first", &first], b"");
    let second = version("second");
    let fixture = LargeFilesFixture::new(&repo, &second, MAX_BLOB_BYTES);
    let store = Arc::clone(&fixture.store) as Arc<dyn ObjectStore>;
    let before = request(&fixture.disk, &first);
    let before = build_at(&*fixture.disk, &store, "first.zip", &before).await;
    before.expect("the first archive is made");

    let (mut request, _) = request_by(&fixture, ReadMethod::Auto);
    let first = CommitId::new(&first).unwrap();
    request.previous = Some(Arc::new(previous(&fixture.store, "first.zip", first).await));
    api_calls(&fixture);
    let (zip, made) = built(&fixture, &request).await.unwrap();
    assert_eq!(made.full_run, None);
    assert!(made.by_git, "150 requests are many rounds");
    assert_eq!(made.summary.reused_files, 250);
    let calls = api_calls(&fixture);
    assert!(
        !calls.iter().any(|call| call.starts_with("blob")),
        "{calls:?}"
    );
    same(&zip, &repo.archive("", &second));
    request.previous = None;
    let (full, _) = built(&fixture, &request).await.unwrap();
    assert!(zip == full, "the bytes of a full run");
}
