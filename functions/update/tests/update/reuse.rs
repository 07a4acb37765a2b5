//! Artifacts that are made from artifacts of other commits.

use std::sync::Arc;

use branchline_core::ErrorKind;
use branchline_core::name::CommitId;
use branchline_core::testkit::{
    CodeCommitOptions, CommitText, Entry, FaultPlan, MemoryCodeCommit, When,
};
use branchline_update::handle;
use serde_json::Value;

use crate::fixture::*;

/// A fixture whose service lists 400 items on a page.
pub(crate) fn fixture(settings: &[(&'static str, &'static str)]) -> UpdateFixture {
    let codecommit = MemoryCodeCommit::with_options(CodeCommitOptions {
        page: 400,
        ..CodeCommitOptions::default()
    });
    codecommit.add_repository(&repository());
    UpdateFixture {
        codecommit: Arc::new(codecommit),
        ..UpdateFixture::new(settings)
    }
}

pub(crate) fn commit(
    fixture: &UpdateFixture,
    branch: &str,
    parents: &[CommitId],
    files: &[(&str, Entry)],
) -> CommitId {
    let text = CommitText::new(format!("On {branch}\n"));
    let codecommit = &fixture.codecommit;
    codecommit.commit_on(&repository(), branch, parents, files, &text)
}

/// Makes `count` files.
pub(crate) fn many(count: usize) -> Vec<(String, Entry)> {
    (0..count)
        .map(|n| {
            let path = format!("folder{}/file{n}.txt", n % 97);
            (path, Entry::file(format!("content {n}\n")))
        })
        .collect()
}

pub(crate) fn borrowed(files: &[(String, Entry)]) -> Vec<(&str, Entry)> {
    files
        .iter()
        .map(|(path, entry)| (path.as_str(), entry.clone()))
        .collect()
}

/// Runs the function on an event; returns the calls to CodeCommit.
pub(crate) async fn calls(fixture: &UpdateFixture, event: Value) -> Vec<&'static str> {
    let traffic = fixture.codecommit.traffic();
    let before = traffic.calls().len();
    fixture.results(event).await;
    traffic.calls().split_off(before)
}

/// Returns the artifact that a full run makes of a commit.
async fn full_run(fixture: &UpdateFixture, branch: &str, tip: CommitId) -> bytes::Bytes {
    let other = UpdateFixture {
        codecommit: Arc::clone(&fixture.codecommit),
        settings: fixture.settings.clone(),
        ..UpdateFixture::new(&[])
    };
    let results = other.results(moved(branch, tip)).await;
    let key = results[0]["artifact"]["key"]
        .as_str()
        .expect("it is text")
        .to_owned();
    other.latest(&key).body.expect("it is not a delete marker")
}

/// "One changed file of 9,000 takes at most 8 requests to CodeCommit."
#[tokio::test]
async fn one_changed_file_of_9000_takes_few_requests() {
    let fixture = fixture(&[]);
    let mut files = many(9000);
    files.push((".gitattributes".into(), Entry::file("*.txt text=auto\n")));
    let first = commit(&fixture, "main", &[], &borrowed(&files));
    let full = calls(&fixture, moved("main", first)).await;
    assert!(full.len() > 9000, "{} calls", full.len());

    let changed = [("folder3/file3.txt", Entry::file("changed\n"))];
    let second = commit(&fixture, "main", &[first], &changed);
    let calls = calls(&fixture, moved("main", second)).await;
    let expected = [
        "get_branch",
        "get_commit",
        "get_differences",
        "get_blob",
        "get_blob",
        "get_branch",
    ];
    assert_eq!(calls, expected, "the attributes, the file, the tip again");
    let wanted = full_run(&fixture, "main", second).await;
    let made = fixture.latest("demo/main.zip").body;
    assert!(made.as_ref() == Some(&wanted), "the bytes of a full run");
}

#[tokio::test]
async fn a_new_branch_starts_from_the_default_branch() {
    let fixture = fixture(&[]);
    let first = commit(&fixture, "main", &[], &borrowed(&many(50)));
    fixture.results(moved("main", first)).await;
    let tip = commit(
        &fixture,
        "feature/x",
        &[first],
        &[("new", Entry::file("new"))],
    );
    let calls = calls(&fixture, moved("feature/x", tip)).await;
    let made = [
        "get_branch",
        "get_commit",
        "get_repository",
        "get_differences",
        "get_blob",
    ];
    assert_eq!(calls, made);
    let wanted = full_run(&fixture, "feature/x", tip).await;
    let made = fixture.latest("demo/feature/x.zip").body;
    assert!(made.as_ref() == Some(&wanted), "the bytes of a full run");
}

#[tokio::test]
async fn with_the_commit_in_the_key_an_archive_starts_from_a_parent_or_the_default_branch() {
    let fixture = fixture(&[("ARTIFACT_KEY", "{repository}/{branch}/{commit}.zip")]);
    let first = commit(&fixture, "main", &[], &borrowed(&many(50)));
    fixture.results(moved("main", first)).await;
    let second = commit(&fixture, "main", &[first], &[("new", Entry::file("new"))]);
    let of_parent = calls(&fixture, moved("main", second)).await;
    let made = ["get_branch", "get_commit", "get_differences", "get_blob"];
    assert_eq!(of_parent, made, "from the parent");

    // The parent of this tip has no artifact.
    let third = commit(&fixture, "next", &[second], &[("new", Entry::file("3"))]);
    let tip = commit(&fixture, "next", &[third], &[("new", Entry::file("4"))]);
    let of_default = calls(&fixture, moved("next", tip)).await;
    assert_eq!(
        of_default,
        [
            "get_branch",
            "get_commit",
            "get_repository",
            "get_branch",
            "get_differences",
            "get_blob"
        ],
        "from the default branch"
    );
    let wanted = full_run(&fixture, "next", tip).await;
    let made = fixture.latest(&format!("demo/next/{tip}.zip")).body;
    assert!(made.as_ref() == Some(&wanted), "the bytes of a full run");
}

#[tokio::test]
async fn an_artifact_of_other_settings_is_replaced_by_a_full_run() {
    let mut fixture = fixture(&[]);
    let first = commit(&fixture, "main", &[], &borrowed(&many(50)));
    fixture.results(moved("main", first)).await;
    fixture.settings.insert("ARCHIVE_PREFIX", "src/");
    let second = commit(&fixture, "main", &[first], &[("new", Entry::file("new"))]);
    let calls = calls(&fixture, moved("main", second)).await;
    assert!(!calls.contains(&"get_differences"), "{calls:?}");
    let made = files(&fixture.latest("demo/main.zip"));
    assert_eq!(made["src/new"], "new");
}

#[tokio::test]
async fn without_the_permission_to_compare_every_archive_is_made_in_full() {
    let fixture = fixture(&[]);
    let first = commit(&fixture, "main", &[], &borrowed(&many(50)));
    fixture.results(moved("main", first)).await;
    let second = commit(&fixture, "main", &[first], &[("new", Entry::file("new"))]);
    let script = FaultPlan::new();
    script.fail_method("get_differences", 1, ErrorKind::AccessDenied, When::Before);
    let context = fixture.failing_context(&script);
    let result = handle(context, moved("main", second), soon()).await;
    result.expect("the archive is made in full");
    let made = files(&fixture.latest("demo/main.zip"));
    assert_eq!(made.len(), 1 + 50 + 50);
    fixture.assert_no_upload_is_left();
}

#[tokio::test]
async fn a_crash_at_any_call_of_a_reused_archive_is_repaired_by_the_next_event() {
    let prepare = || async {
        let fixture = fixture(&[]);
        let first = commit(&fixture, "main", &[], &borrowed(&many(20)));
        fixture.results(moved("main", first)).await;
        let changes = [
            ("new", Entry::file("new")),
            ("folder1/file1.txt", Entry::Removed),
        ];
        let tip = commit(&fixture, "main", &[first], &changes);
        (fixture, tip)
    };
    let (fixture, tip) = prepare().await;
    let script = FaultPlan::new();
    let run = handle(fixture.failing_context(&script), moved("main", tip), soon());
    run.await.expect("nothing fails");
    let wanted = full_run(&fixture, "main", tip).await;
    let calls = script.calls();
    assert!(calls.contains(&"get_differences") && !calls.contains(&"get_folder"));
    for nth in 1..=calls.len() {
        for when in [When::Before, When::After] {
            let (fixture, tip) = prepare().await;
            let script = FaultPlan::new();
            script.fail(nth, ErrorKind::Transport, when);
            let context = fixture.failing_context(&script);
            let first = handle(context, moved("main", tip), soon()).await;
            let what = format!("call {nth} ({}), {when:?}", calls[nth - 1]);
            let is_read = ["get", "declaration"].contains(&calls[nth - 1]);
            assert_eq!(first.is_ok(), is_read, "{what}: only a read is made up for");
            fixture.assert_no_upload_is_left();
            fixture.results(moved("main", tip)).await;
            let made = fixture.latest("demo/main.zip");
            assert!(made.body.as_ref() == Some(&wanted), "{what}: the archive");
            assert_eq!(fixture.executions().len(), 2, "{what}: one execution more");
        }
    }
}

/// An artifact that changes while it is read is not mixed with the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_artifact_that_is_replaced_during_the_archive_is_not_reused() {
    let fixture = Arc::new(fixture(&[]));
    let first = commit(&fixture, "main", &[], &borrowed(&many(20)));
    fixture.results(moved("main", first)).await;
    let second = commit(&fixture, "main", &[first], &[("new", Entry::file("2"))]);
    let weak = Arc::downgrade(&fixture);
    let reads = fixture.store.traffic().count("get");
    fixture.store.traffic().before("get", reads + 1, move || {
        let Some(fixture) = weak.upgrade() else {
            return;
        };
        let third = commit(&fixture, "main", &[second], &[("new", Entry::file("3"))]);
        run_now(&fixture.context(), &moved("main", third));
    });
    let results = fixture.results(moved("main", second)).await;
    let made = files(&fixture.latest("demo/main.zip"));
    assert_eq!(made["new"], "3", "the newer commit stays: {results:?}");
    assert_eq!(outcomes(&results), [("main", "superseded")]);
}
