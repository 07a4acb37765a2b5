//! What the schedule does, and what it leaves alone.

use std::sync::Arc;

use branchline_core::name::{ObjectKey, RepositoryName};
use branchline_core::storage::{ObjectStore as _, PutOptions};
use branchline_core::testkit::{Entry, PipelineOptions};
use serde_json::json;

use crate::fixture::*;

#[tokio::test]
async fn the_schedule_archives_what_events_lost_and_nothing_else() {
    let world = World::new(&[
        ("REPOSITORIES", "demo*"),
        ("BRANCHES_INCLUDE", "main,feature/**"),
    ]);
    let tip = world.push("main", "hello");
    world.results(moved("main", tip)).await;
    world.push("feature/a", "a");
    world.push("feature/b/c", "b");
    world.push("other", "c");
    let hidden = RepositoryName::new("hidden").expect("it is valid");
    world
        .codecommit
        .commit(&hidden, "main", &[("a", Entry::file("a"))]);
    let results = world.results(json!({"schedule": true})).await;
    assert_eq!(
        outcomes(&results),
        [
            ("feature/a", "started"),
            ("feature/b/c", "started"),
            ("main", "unchanged")
        ]
    );
    assert_eq!(world.executions().len(), 3);
}

/// "Foreign objects are not changed."
#[tokio::test]
async fn artifacts_of_gone_branches_are_marked_deleted_and_foreign_objects_stay() {
    let mut world = World::new(&[("ARTIFACT_KEY", "a/{repository}/{branch}/{commit}.zip")]);
    let old = world.push("keep", "old");
    world.results(moved("keep", old)).await;
    let kept = world.push("keep", "hello");
    let gone = world.push("gone/日本", "hello");
    world.results(json!({"schedule": true})).await;
    let foreign = ObjectKey::new("a/demo/gone/notes.txt").expect("it is valid");
    let body = bytes::Bytes::from_static(b"mine");
    let options = PutOptions::default();
    let written = world.store.put(&bucket(), &foreign, body, &options).await;
    written.expect("the object is written");
    world.codecommit.delete_branch(&repository(), "gone/日本");

    let results = world.results(json!({"schedule": true})).await;
    assert_eq!(
        outcomes(&results),
        [("keep", "unchanged")],
        "deleting is off by default"
    );

    world.settings.insert("DELETE_ARTIFACTS", "true");
    let results = world.results(json!({"schedule": true})).await;
    assert_eq!(
        outcomes(&results),
        [("keep", "unchanged"), ("gone/日本", "deleted")]
    );
    let gone_key = format!("a/demo/gone/日本/{gone}.zip");
    assert_eq!(
        world.latest(&gone_key).body,
        None,
        "a delete marker lies over it"
    );
    assert_eq!(world.versions(&gone_key).len(), 2, "its version is kept");
    for key in [
        format!("a/demo/keep/{kept}.zip"),
        format!("a/demo/keep/{old}.zip"),
    ] {
        assert_eq!(world.versions(&key).len(), 1, "{key}");
    }
    assert_eq!(world.versions(foreign.as_str()).len(), 1);
    let results = world.results(json!({"schedule": true})).await;
    assert_eq!(
        outcomes(&results),
        [("keep", "unchanged")],
        "once is enough"
    );
}

#[tokio::test]
async fn an_artifact_whose_branch_came_meanwhile_is_not_deleted() {
    let world = Arc::new(World::new(&[("DELETE_ARTIFACTS", "true")]));
    let tip = world.push("back", "hello");
    world.results(moved("back", tip)).await;
    world.codecommit.delete_branch(&repository(), "back");
    let weak = Arc::downgrade(&world);
    // The branches were listed by then.
    world.store.traffic().before("list", 1, move || {
        if let Some(world) = weak.upgrade() {
            world.codecommit.set_branch(&repository(), "back", tip);
        }
    });
    let results = world.results(json!({"schedule": true})).await;
    assert_eq!(outcomes(&results), Vec::<(&str, &str)>::new());
    assert!(world.latest("demo/back.zip").body.is_some());
}

#[tokio::test]
async fn the_schedule_leaves_a_shared_key_to_the_branch_that_lies_there() {
    let world = World::new(&[("ARTIFACT_KEY", "source.zip")]);
    for branch in ["a", "b", "c"] {
        world.push(branch, branch);
    }
    let tip = world.push("b", "more");
    world.results(moved("b", tip)).await;
    for _ in 0..2 {
        let results = world.results(json!({"schedule": true})).await;
        let mut outcomes = outcomes(&results);
        outcomes.sort_unstable();
        assert_eq!(
            outcomes,
            [("a", "skipped"), ("b", "unchanged"), ("c", "skipped")]
        );
    }
    world.push("b", "and more");
    world.results(json!({"schedule": true})).await;
    assert_eq!(
        world.executions().len(),
        2,
        "only the branch that lies there is archived"
    );
}

#[tokio::test]
async fn branches_at_one_commit_share_the_artifact_of_a_key_that_names_the_commit() {
    let world = World::new(&[("ARTIFACT_KEY", "{repository}/{commit}.zip")]);
    let tip = world.push("a", "hello");
    world.codecommit.set_branch(&repository(), "b", tip);
    world.results(json!({"schedule": true})).await;
    let results = world.results(json!({"schedule": true})).await;
    assert_eq!(outcomes(&results), [("a", "unchanged"), ("b", "unchanged")]);
    assert_eq!(world.executions().len(), 1);
}

#[tokio::test]
async fn the_schedule_starts_nothing_that_custom_data_has_started() {
    let world = World::new(&[]);
    world
        .pipelines
        .set_pipeline(&pipeline("second"), PipelineOptions::default());
    let tip = world.push("main", "hello");
    let mut event = moved("main", tip);
    event["Records"][0]["customData"] = json!(r#"{"pipeline_name":"second"}"#);
    world.results(event).await;
    let results = world.results(json!({"schedule": true})).await;
    assert_eq!(outcomes(&results), [("main", "unchanged")]);
    assert_eq!(world.executions().len(), 1);
}
