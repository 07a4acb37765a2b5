//! Failures while files are read by git: no temporary data is left.

use std::sync::Arc;
use std::time::Duration;

use branchline_core::storage::ObjectStore;
use branchline_core::testkit::{Failing, FaultPlan, MemoryStore, When};
use branchline_core::{Error, ErrorKind};

use super::compare::same;
use super::faults::{noise, target};
use super::git::{Item, Repo};
use super::large::LargeFilesFixture;
use branchline_test_support::git_server::Response;
use branchline_test_support::http::ReceivedRequest;

const MIB: usize = 1 << 20;

/// Commits files whose pack exceeds the memory, so that it is stored in S3.
fn commit_staged() -> (Repo, String) {
    let repo = Repo::new();
    let commit = repo.files(&[
        ("a", &noise(1, 7 * MIB)),
        ("b", &noise(2, 3000)),
        ("c", b"3"),
    ]);
    (repo, commit)
}

const MAX_BLOB_BYTES: u64 = 1000;

fn fixture(repo: &Repo, commit: &str) -> LargeFilesFixture {
    let mut fixture = LargeFilesFixture::new(repo, commit, MAX_BLOB_BYTES);
    fixture.memory_bytes = 16 * MIB;
    fixture
}

/// Waits for detached tasks, and asserts that neither a pack nor an archive is left.
async fn assert_nothing_is_left(fixture: &LargeFilesFixture, what: &str) {
    for _ in 0..200 {
        if fixture.left().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(fixture.left(), Vec::<String>::new(), "{what}");
    let archives = fixture.store.versions(&target().bucket, "r/main.zip");
    assert!(archives.is_empty(), "{what}: there is no archive");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_any_failed_call_nothing_is_left_and_the_next_run_succeeds() {
    let (repo, commit) = commit_staged();
    let clean = fixture(&repo, &commit);
    let script = FaultPlan::new();
    let store = Failing::new(Arc::clone(&clean.store), &script);
    clean.build(Arc::new(store)).await.unwrap();
    assert_eq!(clean.left(), Vec::<String>::new());
    let names = script.calls();
    let service_calls = clean.disk.calls.lock().unwrap().len();
    assert!(
        names.contains(&"complete_upload") && names.contains(&"get"),
        "the pack was staged: {names:?}"
    );
    for nth in 1..=names.len() {
        let fixture = fixture(&repo, &commit);
        let script = FaultPlan::new();
        script.fail(nth, ErrorKind::AccessDenied, When::Before);
        let store = Arc::new(Failing::new(Arc::clone(&fixture.store), &script));
        let result = fixture.build(store as Arc<dyn ObjectStore>).await;
        let calls = script.calls();
        // The archive is already complete, and a lifecycle rule removes the pack.
        if calls[nth - 1] == "delete_version" {
            result.expect("the archive is complete");
            continue;
        }
        let error = result.expect_err("a call failed");
        let what = format!("call {nth}, {}: {}", calls[nth - 1], error.report());
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{what}");
        assert_nothing_is_left(&fixture, &what).await;
        let (zip, _) = fixture.archive().await;
        same(&zip, &repo.archive("", &commit));
    }
    for k in 0..service_calls {
        let mut fixture = fixture(&repo, &commit);
        Arc::get_mut(&mut fixture.disk).unwrap().fails = Some(k);
        let error = fixture.build(Arc::clone(&fixture.store) as _).await;
        let error = error.expect_err("a call failed");
        assert!(
            error.to_string().contains("broken on purpose"),
            "call {k}: {error}"
        );
        assert_nothing_is_left(&fixture, &format!("call {k}")).await;
    }
}

/// Archives with `rule` for the responses of the git server; returns the error.
async fn fails(rule: impl Fn(&ReceivedRequest) -> Response + Send + Sync + 'static) -> Error {
    let (repo, commit) = commit_staged();
    let mut fixture = LargeFilesFixture::with_rule(&repo, &commit, MAX_BLOB_BYTES, rule);
    fixture.memory_bytes = 16 * MIB;
    let error = fixture.build(Arc::clone(&fixture.store) as _).await;
    let error = error.expect_err("the git server fails");
    assert_nothing_is_left(&fixture, &error.report()).await;
    let text = error.to_string();
    assert!(text.contains("`a`") || text.contains("`b`"), "{text}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_or_truncated_git_response_fails_with_its_kind() {
    let denied = || Response::Fixed(403, "text/xml", b"<AccessDeniedException/>".to_vec());
    for method in ["GET", "POST"] {
        let error = fails(move |seen| {
            if seen.method == method {
                denied()
            } else {
                Response::Git
            }
        })
        .await;
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{}", error.report());
        assert!(
            error.report().contains("codecommit:GitPull"),
            "the permission is named: {}",
            error.report()
        );
    }
    for bytes in [10, 100_000, 6 * MIB + MIB / 2] {
        let error = fails(move |seen| {
            if seen.method == "POST" {
                Response::Cut(bytes)
            } else {
                Response::Git
            }
        })
        .await;
        assert_eq!(error.kind(), ErrorKind::Transport, "{}", error.report());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_build_leaves_no_pack() {
    let (repo, commit) = commit_staged();
    for call in ["upload_part", "get"] {
        let fixture = fixture(&repo, &commit);
        let build = fixture.build(Arc::clone(&fixture.store) as _);
        let traffic = fixture.store.traffic();
        traffic.set_latency(Duration::from_millis(20));
        tokio::select! {
            _ = build => panic!("it takes longer"),
            () = async {
                while traffic.count(call) == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            } => {}
        }
        assert_nothing_is_left(&fixture, call).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_exceeds_the_memory_is_refused_by_name() {
    let film = noise(1, 7 * MIB);
    let mut cut = film.clone();
    cut.splice(MIB..MIB + 4, *b"other");
    let repo = Repo::new();
    let commit = repo.files(&[("film", &film), ("film (cut)", &cut)]);
    let mut fixture = LargeFilesFixture::new(&repo, &commit, 6 * MIB as u64);
    fixture.memory_bytes = 16 * MIB;
    let error = fixture.build(Arc::clone(&fixture.store) as _).await;
    let error = error.expect_err("one is a delta on the other");
    assert_eq!(error.kind(), ErrorKind::FileTooLarge, "{}", error.report());
    assert!(error.to_string().contains("`film"), "{error}");
    assert!(error.report().contains("more memory"), "{}", error.report());
    assert_nothing_is_left(&fixture, "a delta").await;

    for (attribute, named) in [
        ("ident", "`ident`"),
        ("export-subst", "`export-subst`"),
        ("working-tree-encoding=UTF-16", "`working-tree-encoding`"),
    ] {
        let repo = Repo::new();
        let rules = format!("big {attribute}\n");
        let big = vec![b'x'; 32 * MIB + 1];
        let items: [(&[u8], Item<'_>); 2] = [
            (b".gitattributes", Item::File(rules.as_bytes())),
            (b"big", Item::File(&big)),
        ];
        let commit = repo.commit(b"big\n", &items);
        let fixture = LargeFilesFixture::new(&repo, &commit, 6 * MIB as u64);
        let store = Arc::clone(&fixture.store) as Arc<MemoryStore>;
        let error = fixture.build(store).await.expect_err("it is too large");
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        let text = error.to_string();
        assert!(text.contains("`big`") && text.contains(named), "{text}");
        assert_nothing_is_left(&fixture, attribute).await;
    }
}
