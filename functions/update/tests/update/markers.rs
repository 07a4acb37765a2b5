//! `PIPELINE_SOURCE=codecommit`: pipelines that read CodeCommit themselves.

use std::sync::Arc;

use branchline_core::ErrorKind;
use branchline_core::pipeline::SourceRevision;
use branchline_core::testkit::{FaultPlan, When};
use branchline_update::handle;
use serde_json::{Value, json};

use crate::fixture::*;

const SETTINGS: [(&str, &str); 1] = [("PIPELINE_SOURCE", "codecommit")];

#[tokio::test]
async fn the_pipeline_starts_on_the_commit_and_a_marker_takes_the_place_of_the_archive() {
    let fixture = UpdateFixture::new(&SETTINGS);
    let tip = fixture.push("main", "hello");
    let results = fixture.results(moved("main", tip)).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    let executions = fixture.executions();
    assert_eq!(
        executions[0].request.source,
        Some(SourceRevision {
            action_name: "Source".to_owned(),
            commit_id: Some(tip.to_string()),
            ..SourceRevision::default()
        })
    );
    let marker = fixture.latest("demo/main.zip").body.expect("it is there");
    let marker: Value = serde_json::from_slice(&marker).expect("it is JSON");
    let expected = json!({ "repository": "demo", "branch": "main", "commit": tip.to_string() });
    assert_eq!(marker, expected);
    let calls = fixture.codecommit.traffic().calls();
    assert!(
        !calls
            .iter()
            .any(|call| matches!(*call, "get_blob" | "get_folder")),
        "nothing is archived: {calls:?}"
    );
}

#[tokio::test]
async fn a_commit_is_started_once_and_again_after_the_branch_came_back() {
    let fixture = UpdateFixture::new(&SETTINGS);
    let first = fixture.push("main", "one");
    for event in [
        moved("main", first),
        moved("main", first),
        json!({ "schedule": true }),
    ] {
        fixture.results(event).await;
    }
    assert_eq!(fixture.executions().len(), 1);
    let second = fixture.push("main", "two");
    let results = fixture.results(moved("main", first)).await;
    assert_eq!(outcomes(&results), [("main", "superseded")]);
    // The event of the second push was lost.
    fixture.results(json!({ "schedule": true })).await;
    let executions = fixture.executions();
    assert_eq!(executions.len(), 2);
    let source = executions[1].request.source.clone().expect("it is pinned");
    assert_eq!(source.commit_id, Some(second.to_string()));
}

#[tokio::test]
async fn a_changed_source_starts_the_same_commit_in_the_new_way() {
    let mut fixture = UpdateFixture::new(&SETTINGS);
    let tip = fixture.push("main", "hello");
    fixture.results(moved("main", tip)).await;
    fixture.settings.remove("PIPELINE_SOURCE");
    let results = fixture.results(json!({ "schedule": true })).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    assert_eq!(files(&fixture.latest("demo/main.zip"))["README"], "hello");
    fixture.settings.insert("PIPELINE_SOURCE", "codecommit");
    fixture.results(json!({ "schedule": true })).await;
    let executions = fixture.executions();
    let pins: Vec<bool> = executions
        .iter()
        .map(|one| {
            one.request
                .source
                .as_ref()
                .is_some_and(|source| source.commit_id.is_some())
        })
        .collect();
    assert_eq!(pins, [true, false, true]);
}

#[tokio::test]
async fn a_failure_at_any_call_is_completed_by_the_schedule_with_one_execution() {
    let calls = {
        let fixture = UpdateFixture::new(&SETTINGS);
        let tip = fixture.push("main", "hello");
        let faults = FaultPlan::new();
        let context = fixture.failing_context(&faults);
        let answer = handle(context, moved("main", tip), soon()).await;
        answer.expect("nothing fails");
        faults.calls()
    };
    for when in [When::Before, When::After] {
        for nth in 1..=calls.len() {
            let fixture = Arc::new(UpdateFixture::new(&SETTINGS));
            let tip = fixture.push("main", "hello");
            let faults = FaultPlan::new();
            faults.fail(nth, ErrorKind::Transport, when);
            let context = fixture.failing_context(&faults);
            let failed = handle(context, moved("main", tip), soon()).await;
            // The check of the pipeline only warns.
            if calls[nth - 1] != "declaration" {
                failed.expect_err("the call fails");
            }
            let results = fixture.results(json!({ "schedule": true })).await;
            assert_eq!(results.len(), 1, "call {nth} {when:?}: {results:?}");
            assert_eq!(fixture.executions().len(), 1, "call {nth} {when:?}");
            assert!(
                results[0]["execution_id"].is_string(),
                "call {nth} {when:?}"
            );
        }
    }
}

#[test]
fn a_pin_beside_a_commit_is_refused() {
    let fixture = UpdateFixture::new(&[SETTINGS[0], ("PIPELINE_PIN", "version")]);
    let error = fixture.config().expect_err("they contradict each other");
    assert!(error.to_string().contains("`PIPELINE_PIN`"), "{error}");
    let fixture = UpdateFixture::new(&[("PIPELINE_SOURCE", "git")]);
    let error = fixture.config().expect_err("it is unknown");
    assert!(error.report().contains("PIPELINE_SOURCE"), "{error}");
}
