//! Branches that are older than the stack: `EXISTING_BRANCHES`.

use std::time::{SystemTime, UNIX_EPOCH};

use branchline_core::ErrorKind;
use branchline_core::name::CommitId;
use branchline_core::testkit::{CommitText, Entry, FaultPlan, When};
use branchline_update::handle;
use serde_json::{Value, json};

use crate::fixture::*;

fn fixture(existing: &'static str) -> UpdateFixture {
    UpdateFixture::new(&[("EXISTING_BRANCHES", existing)])
}

fn schedule() -> Value {
    json!({"schedule": true})
}

/// The event that lifecycle sends for a branch that it found without an event.
fn found(branch: &str) -> Value {
    records(&[json!({ "existing": true, "ref": format!("refs/heads/{branch}") })])
}

/// Commits an hour from now, and so after the repository was first seen.
fn push_later(fixture: &UpdateFixture, branch: &str, content: &str) -> CommitId {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let later = now.expect("because the clock is right").as_secs() + 3600;
    let mut text = CommitText::new("Say more\n");
    text.committer.date = format!("{later} +0000");
    let files = [("README", Entry::file(content))];
    fixture
        .codecommit
        .commit_as(&repository(), branch, &files, &text)
}

fn reason(result: &Value) -> &str {
    result["reason"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn an_older_branch_is_archived_and_its_next_push_starts_the_pipeline() {
    for event in [schedule(), found("release/1")] {
        let fixture = fixture("archive");
        fixture.push("release/1", "hello");
        let results = fixture.results(event.clone()).await;
        assert_eq!(outcomes(&results), [("release/1", "uploaded")]);
        assert!(reason(&results[0]).contains("older"), "{}", results[0]);
        for again in [schedule(), event] {
            let results = fixture.results(again).await;
            assert_eq!(outcomes(&results), [("release/1", "unchanged")]);
            assert!(reason(&results[0]).contains("older"), "{}", results[0]);
        }
        assert_eq!(fixture.executions().len(), 0);
        let tip = fixture.push("release/1", "more");
        let results = fixture.results(moved("release/1", tip)).await;
        assert_eq!(outcomes(&results), [("release/1", "started")]);
        let results = fixture.results(schedule()).await;
        assert_eq!(outcomes(&results), [("release/1", "unchanged")]);
        assert_eq!(reason(&results[0]), "");
        assert_eq!(fixture.executions().len(), 1);
    }
}

#[tokio::test]
async fn a_lost_push_to_an_older_branch_is_started_by_the_schedule() {
    let fixture = fixture("archive");
    fixture.push("release/1", "hello");
    fixture.results(schedule()).await;
    fixture.push("release/1", "more");
    let results = fixture.results(schedule()).await;
    assert_eq!(outcomes(&results), [("release/1", "started")]);
}

#[tokio::test]
async fn a_branch_that_is_newer_than_the_stack_is_started_although_its_event_was_lost() {
    for key in [
        "{repository}/{branch}.zip",
        "{repository}/{branch}/{commit}.zip",
        "{repository}/{commit}.zip",
    ] {
        let settings = [("EXISTING_BRANCHES", "archive"), ("ARTIFACT_KEY", key)];
        let fixture = UpdateFixture::new(&settings);
        fixture.push("old", "hello");
        let results = fixture.results(schedule()).await;
        assert_eq!(outcomes(&results), [("old", "uploaded")], "{key}");
        push_later(&fixture, "new", "more");
        let results = fixture.results(schedule()).await;
        assert_eq!(
            outcomes(&results),
            [("new", "started"), ("old", "unchanged")],
            "{key}"
        );
    }
}

#[tokio::test]
async fn a_lost_push_is_started_where_the_key_has_the_commit() {
    let settings = [
        ("EXISTING_BRANCHES", "archive"),
        ("ARTIFACT_KEY", "{repository}/{branch}/{commit}.zip"),
    ];
    let fixture = UpdateFixture::new(&settings);
    fixture.push("release/1", "hello");
    fixture.results(schedule()).await;
    // At the fixed time of tests, which is before the repository was first seen.
    fixture.push("release/1", "more");
    let results = fixture.results(schedule()).await;
    assert_eq!(outcomes(&results), [("release/1", "started")]);
}

#[tokio::test]
async fn an_older_branch_is_started_by_a_request_for_it_or_its_own_event() {
    for is_event in [false, true] {
        let fixture = fixture("archive");
        let tip = fixture.push("release/1", "hello");
        fixture.results(schedule()).await;
        let event = if is_event {
            moved("release/1", tip)
        } else {
            json!({"repository": "demo", "branch": "release/1"})
        };
        let results = fixture.results(event).await;
        assert_eq!(outcomes(&results), [("release/1", "started")]);
        assert_eq!(fixture.versions("demo/release/1.zip").len(), 1);
        let results = fixture.results(schedule()).await;
        assert_eq!(outcomes(&results), [("release/1", "unchanged")]);
        assert_eq!(fixture.executions().len(), 1);
    }
}

#[tokio::test]
async fn a_start_that_was_requested_and_failed_is_completed_by_the_schedule() {
    let fixture = fixture("archive");
    let tip = fixture.push("release/1", "hello");
    fixture.results(schedule()).await;
    let faults = FaultPlan::new();
    faults.fail_method("start", 1, ErrorKind::Transport, When::Before);
    let context = fixture.failing_context(&faults);
    let failure = handle(context, moved("release/1", tip), soon()).await;
    assert_eq!(
        failure.expect_err("the start fails").kind(),
        ErrorKind::Transport
    );
    let results = fixture.results(schedule()).await;
    assert_eq!(outcomes(&results), [("release/1", "started")]);
}

#[tokio::test]
async fn an_older_branch_stays_older_when_the_settings_change() {
    let mut fixture = fixture("archive");
    fixture.push("release/1", "hello");
    fixture.results(schedule()).await;
    fixture.settings.insert("ARCHIVE_PREFIX", "source/");
    let results = fixture.results(schedule()).await;
    assert_eq!(outcomes(&results), [("release/1", "uploaded")]);
    let results = fixture.results(schedule()).await;
    assert_eq!(outcomes(&results), [("release/1", "unchanged")]);
    fixture.settings.insert("EXISTING_BRANCHES", "start");
    let results = fixture.results(schedule()).await;
    assert_eq!(outcomes(&results), [("release/1", "started")]);
}

#[tokio::test]
async fn older_branches_are_started_or_ignored_where_the_setting_says_so() {
    for event in [schedule(), found("release/1")] {
        let starting = fixture("start");
        starting.push("release/1", "hello");
        let results = starting.results(event.clone()).await;
        assert_eq!(outcomes(&results), [("release/1", "started")]);

        let ignoring = fixture("ignore");
        ignoring.push("release/1", "hello");
        let results = ignoring.results(event).await;
        assert_eq!(outcomes(&results), [("release/1", "skipped")]);
        assert!(
            reason(&results[0]).contains("EXISTING_BRANCHES"),
            "{}",
            results[0]
        );
        assert_eq!(ignoring.store.journal(), Vec::<String>::new());
        let tip = ignoring.push("release/1", "more");
        let results = ignoring.results(moved("release/1", tip)).await;
        assert_eq!(outcomes(&results), [("release/1", "started")]);
    }
}

/// Artifacts of versions that did not record when the repository was first seen.
#[tokio::test]
async fn a_repository_with_artifacts_of_an_earlier_version_has_no_older_branches() {
    use branchline_core::storage::{ObjectMetadata, ObjectStore as _, PutOptions};

    let fixture = fixture("archive");
    fixture.push("main", "hello");
    let key = branchline_core::name::ObjectKey::new("demo/gone.zip").expect("it is valid");
    let user = [
        ("branchline-repository", "demo"),
        ("branchline-branch", "gone"),
    ];
    let options = PutOptions {
        metadata: ObjectMetadata {
            user: user
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..ObjectMetadata::default()
        },
        ..PutOptions::default()
    };
    let body = bytes::Bytes::from_static(b"zip");
    let written = fixture.store.put(&bucket(), &key, body, &options).await;
    written.expect("the object is written");
    let results = fixture.results(schedule()).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
}
