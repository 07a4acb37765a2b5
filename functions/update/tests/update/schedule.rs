//! The schedule: updated branches, deleted artifacts, and what is left unchanged.

use std::sync::Arc;

use branchline_core::name::{ObjectKey, RepositoryName};
use branchline_core::storage::{ObjectStore as _, PutOptions};
use branchline_core::testkit::{Entry, PipelineOptions};
use serde_json::json;

use crate::fixture::*;

#[tokio::test]
async fn the_schedule_archives_exactly_the_branches_whose_events_were_lost() {
    let fixture = UpdateFixture::new(&[
        ("REPOSITORIES", "demo*"),
        ("BRANCHES_INCLUDE", "main,feature/**"),
    ]);
    let tip = fixture.push("main", "hello");
    fixture.results(moved("main", tip)).await;
    fixture.push("feature/a", "a");
    fixture.push("feature/b/c", "b");
    fixture.push("other", "c");
    let hidden = RepositoryName::new("hidden").expect("it is valid");
    fixture
        .codecommit
        .commit(&hidden, "main", &[("a", Entry::file("a"))]);
    let results = fixture.results(json!({"schedule": true})).await;
    assert_eq!(
        outcomes(&results),
        [
            ("feature/a", "started"),
            ("feature/b/c", "started"),
            ("main", "unchanged")
        ]
    );
    assert_eq!(fixture.executions().len(), 3);
}

#[tokio::test]
async fn branches_whose_keys_cannot_meet_are_updated_side_by_side() {
    for key in [
        "{repository}/{branch}.zip",
        "{repository}/{commit}.zip",
        "{commit}",
    ] {
        let fixture = UpdateFixture::new(&[("ARTIFACT_KEY", key), ("PIPELINE_NAME", "")]);
        for number in 0..8 {
            fixture.push(&format!("branch-{number}"), &format!("content {number}"));
        }
        fixture.results(json!({"schedule": true})).await;
        fixture
            .store
            .traffic()
            .set_latency(std::time::Duration::from_millis(2));
        let results = fixture.results(json!({"schedule": true})).await;
        assert_eq!(results.len(), 8);
        let peak = fixture.store.traffic().peak();
        assert!(peak >= 4, "{key}: {peak} requests to S3 at once");
    }
}

/// "Foreign objects are not changed."
#[tokio::test]
async fn artifacts_of_missing_branches_are_deleted_and_foreign_objects_stay() {
    let mut fixture =
        UpdateFixture::new(&[("ARTIFACT_KEY", "a/{repository}/{branch}/{commit}.zip")]);
    let old = fixture.push("keep", "old");
    fixture.results(moved("keep", old)).await;
    let kept = fixture.push("keep", "hello");
    let gone = fixture.push("gone/日本", "hello");
    fixture.results(json!({"schedule": true})).await;
    let foreign = ObjectKey::new("a/demo/gone/notes.txt").expect("it is valid");
    let body = bytes::Bytes::from_static(b"mine");
    let options = PutOptions::default();
    let written = fixture.store.put(&bucket(), &foreign, body, &options).await;
    written.expect("the object is written");
    fixture.codecommit.delete_branch(&repository(), "gone/日本");

    let results = fixture.results(json!({"schedule": true})).await;
    assert_eq!(
        outcomes(&results),
        [("keep", "unchanged")],
        "deleting is off by default"
    );

    fixture.settings.insert("DELETE_ARTIFACTS", "true");
    let results = fixture.results(json!({"schedule": true})).await;
    assert_eq!(
        outcomes(&results),
        [("gone/日本", "deleted"), ("keep", "unchanged")]
    );
    let gone_key = format!("a/demo/gone/日本/{gone}.zip");
    assert_eq!(
        fixture.latest(&gone_key).body,
        None,
        "the latest version is a delete marker"
    );
    assert_eq!(fixture.versions(&gone_key).len(), 2, "the version is kept");
    for key in [
        format!("a/demo/keep/{kept}.zip"),
        format!("a/demo/keep/{old}.zip"),
    ] {
        assert_eq!(fixture.versions(&key).len(), 1, "{key}");
    }
    assert_eq!(fixture.versions(foreign.as_str()).len(), 1);
    let results = fixture.results(json!({"schedule": true})).await;
    assert_eq!(
        outcomes(&results),
        [("keep", "unchanged")],
        "a deleted artifact is not deleted again"
    );
}

#[tokio::test]
async fn an_artifact_whose_branch_is_created_meanwhile_is_not_deleted() {
    let fixture = Arc::new(UpdateFixture::new(&[("DELETE_ARTIFACTS", "true")]));
    let tip = fixture.push("back", "hello");
    fixture.results(moved("back", tip)).await;
    fixture.codecommit.delete_branch(&repository(), "back");
    let weak = Arc::downgrade(&fixture);
    // By then, the branches are listed.
    fixture.store.traffic().before("list", 1, move || {
        if let Some(fixture) = weak.upgrade() {
            fixture.codecommit.set_branch(&repository(), "back", tip);
        }
    });
    let results = fixture.results(json!({"schedule": true})).await;
    assert_eq!(outcomes(&results), Vec::<(&str, &str)>::new());
    assert!(fixture.latest("demo/back.zip").body.is_some());
}

#[tokio::test]
async fn the_schedule_updates_only_the_stored_branch_of_a_shared_key() {
    let fixture = UpdateFixture::new(&[("ARTIFACT_KEY", "source.zip")]);
    for branch in ["a", "b", "c"] {
        fixture.push(branch, branch);
    }
    let tip = fixture.push("b", "more");
    fixture.results(moved("b", tip)).await;
    for _ in 0..2 {
        let results = fixture.results(json!({"schedule": true})).await;
        let mut outcomes = outcomes(&results);
        outcomes.sort_unstable();
        assert_eq!(
            outcomes,
            [("a", "skipped"), ("b", "unchanged"), ("c", "skipped")]
        );
    }
    fixture.push("b", "and more");
    fixture.results(json!({"schedule": true})).await;
    assert_eq!(
        fixture.executions().len(),
        2,
        "only the stored branch is archived"
    );
}

#[tokio::test]
async fn branches_at_one_commit_share_the_artifact_of_a_key_that_names_the_commit() {
    let fixture = UpdateFixture::new(&[("ARTIFACT_KEY", "{repository}/{commit}.zip")]);
    let tip = fixture.push("a", "hello");
    fixture.codecommit.set_branch(&repository(), "b", tip);
    fixture.results(json!({"schedule": true})).await;
    let results = fixture.results(json!({"schedule": true})).await;
    assert_eq!(outcomes(&results), [("a", "unchanged"), ("b", "unchanged")]);
    assert_eq!(fixture.executions().len(), 1);
}

#[tokio::test]
async fn the_schedule_does_not_start_a_tip_that_custom_data_has_started() {
    let fixture = UpdateFixture::new(&[("CUSTOM_DATA", "trust")]);
    fixture
        .pipelines
        .set_pipeline(&pipeline("second"), PipelineOptions::default());
    let tip = fixture.push("main", "hello");
    let mut event = moved("main", tip);
    event["Records"][0]["customData"] = json!(r#"{"pipeline_name":"second"}"#);
    fixture.results(event).await;
    let results = fixture.results(json!({"schedule": true})).await;
    assert_eq!(outcomes(&results), [("main", "unchanged")]);
    assert_eq!(fixture.executions().len(), 1);
}
