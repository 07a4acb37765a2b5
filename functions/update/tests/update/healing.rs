//! Races and crashes: the next run repairs what a run has left.

use std::sync::Arc;
use std::time::Duration;

use branchline_core::ErrorKind;
use branchline_core::testkit::{FaultPlan, PipelineOptions, When};
use branchline_update::handle;
use serde_json::{Value, json};

use crate::fixture::*;

/// "An event that is delivered twice starts nothing twice."
#[tokio::test]
async fn a_duplicate_event_starts_no_second_execution() {
    let fixture = UpdateFixture::new(&[]);
    let tip = fixture.push("main", "hello");
    let first = fixture.results(moved("main", tip)).await;
    let second = fixture.results(moved("main", tip)).await;
    assert_eq!(outcomes(&second), [("main", "unchanged")]);
    assert_eq!(
        second[0]["artifact"], first[0]["artifact"],
        "the artifact is in the response"
    );
    assert_eq!(second[0]["execution_id"], first[0]["execution_id"]);
    assert_eq!(fixture.versions("demo/main.zip").len(), 1);
    assert_eq!(fixture.executions().len(), 1);
}

#[tokio::test]
async fn concurrent_events_start_one_execution() {
    let fixture = UpdateFixture::new(&[]);
    let tip = fixture.push("main", "hello");
    fixture
        .store
        .traffic()
        .set_latency(Duration::from_millis(1));
    let runs = (0..8).map(|_| fixture.send(moved("main", tip)));
    for result in futures_util::future::join_all(runs).await {
        result.expect("a run that loses the race retries");
    }
    assert_eq!(
        fixture.versions("demo/main.zip").len(),
        1,
        "one run wrote the artifact"
    );
    assert_eq!(fixture.executions().len(), 1);
    fixture.assert_no_upload_is_left();
}

#[tokio::test]
async fn an_event_of_an_older_commit_is_superseded() {
    let fixture = UpdateFixture::new(&[]);
    let old = fixture.push("main", "old");
    let new = fixture.push("main", "new");
    let results = fixture.results(moved("main", old)).await;
    assert_eq!(outcomes(&results), [("main", "superseded")]);
    assert_eq!(fixture.versions("demo/main.zip").len(), 0);
    let results = fixture.results(moved("main", new)).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
}

/// "An older commit never replaces a newer one."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_commit_never_replaces_a_newer_one() {
    // Before each call of the run for the old commit in turn, the branch moves and a whole run
    // for the new commit is made.
    let total = {
        let fixture = UpdateFixture::new(&[]);
        fixture.push("main", "before");
        fixture
            .results(json!({"repository": "demo", "branch": "main"}))
            .await;
        let script = FaultPlan::new();
        let old = fixture.push("main", "old");
        let result = handle(fixture.failing_context(&script), moved("main", old), soon()).await;
        result.expect("nothing fails");
        fixture.store.traffic().calls().len()
    };
    let mut superseded = 0;
    for nth in 1..=total {
        let fixture = Arc::new(UpdateFixture::new(&[]));
        fixture.push("main", "before");
        fixture
            .results(json!({"repository": "demo", "branch": "main"}))
            .await;
        let old = fixture.push("main", "old");
        let before = fixture.store.traffic().calls().len();
        let weak = Arc::downgrade(&fixture);
        fixture.store.traffic().before_call(before + nth, move || {
            let Some(fixture) = weak.upgrade() else {
                return;
            };
            let new = fixture.push("main", "new");
            run_now(&fixture.context(), &moved("main", new));
        });
        let results = fixture.send(moved("main", old)).await;
        let new = files(&fixture.latest("demo/main.zip"));
        let hooked = fixture.store.traffic().calls().len() > before + nth;
        let is_new = !hooked || new["README"] == "new";
        assert!(
            is_new,
            "call {nth}: the old commit replaced the new one: {results:?}"
        );
        if let Ok(answer) = results {
            superseded += usize::from(format!("{answer:?}").contains("Superseded"));
        }
        fixture.assert_no_upload_is_left();
    }
    assert!(superseded > 0, "the race was lost at least once");
}

/// "An older commit never replaces a newer one", also when the branch moved back: the event of
/// that move found the artifact unchanged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_moves_back_during_the_archive_keeps_its_tip() {
    let fixture = Arc::new(UpdateFixture::new(&[]));
    let first = fixture.push("main", "first");
    fixture.results(moved("main", first)).await;
    let second = fixture.push("main", "second");
    let weak = Arc::downgrade(&fixture);
    let puts = fixture.versions("demo/main.zip").len();
    fixture.store.traffic().before("put", puts + 1, move || {
        let Some(fixture) = weak.upgrade() else {
            return;
        };
        fixture.codecommit.set_branch(&repository(), "main", first);
        run_now(&fixture.context(), &moved("main", first));
    });
    let results = fixture.results(moved("main", second)).await;
    let artifact = files(&fixture.latest("demo/main.zip"));
    assert_eq!(
        artifact["README"], "first",
        "the artifact is the tip: {results:?}"
    );
    let results = fixture.results(json!({"schedule": true})).await;
    assert_eq!(outcomes(&results), [("main", "unchanged")]);
    fixture.assert_no_upload_is_left();
}

/// "A crash at any point is repaired by the next event or the schedule."
#[tokio::test]
async fn a_crash_at_any_call_is_repaired_by_the_next_event_or_the_schedule() {
    let calls = {
        let fixture = UpdateFixture::new(&[]);
        let tip = fixture.push("main", "hello");
        let script = FaultPlan::new();
        handle(fixture.failing_context(&script), moved("main", tip), soon())
            .await
            .expect("nothing fails");
        script.calls()
    };
    assert!(calls.len() >= 8, "the run makes all calls: {calls:?}");
    for nth in 1..=calls.len() {
        if calls[nth - 1] == "declaration" {
            // A pipeline that cannot be checked is started all the same.
            continue;
        }
        for when in [When::Before, When::After] {
            for healed_by_schedule in [false, true] {
                let fixture = UpdateFixture::new(&[]);
                let tip = fixture.push("main", "hello");
                let script = FaultPlan::new();
                script.fail(nth, ErrorKind::Internal, when);
                let first =
                    handle(fixture.failing_context(&script), moved("main", tip), soon()).await;
                let failure = first.expect_err("the failure is not swallowed");
                assert_eq!(failure.kind(), ErrorKind::Internal);
                fixture.assert_no_upload_is_left();

                let event = if healed_by_schedule {
                    json!({"schedule": true})
                } else {
                    moved("main", tip)
                };
                fixture.send(event).await.expect("the second run succeeds");
                let what = format!("call {nth} ({}), {when:?}", calls[nth - 1]);
                let versions = fixture.versions("demo/main.zip");
                assert_eq!(versions.len(), 1, "{what}: one version");
                let executions = fixture.executions();
                assert_eq!(executions.len(), 1, "{what}: one execution");
                assert_eq!(
                    versions[0].tags["branchline-execution"], executions[0].id,
                    "{what}"
                );
                fixture.assert_no_upload_is_left();
            }
        }
    }
}

#[tokio::test]
async fn branches_of_one_push_with_one_key_are_all_archived() {
    let fixture = UpdateFixture::new(&[("ARTIFACT_KEY", "source.zip")]);
    let branches: Vec<String> = (0..20).map(|n| format!("feature/{n}")).collect();
    let references: Vec<Value> = branches
        .iter()
        .map(|branch| reference(branch, fixture.push(branch, branch)))
        .collect();
    // Long enough for each run to read the artifact before another run writes.
    fixture
        .store
        .traffic()
        .set_latency(Duration::from_millis(2));
    let results = fixture.results(records(&references)).await;
    let started = outcomes(&results)
        .into_iter()
        .filter(|(_, outcome)| *outcome == "started");
    assert_eq!(started.count(), branches.len(), "{results:?}");
    assert_eq!(
        fixture.versions("source.zip").len(),
        branches.len(),
        "each branch is a version"
    );
}

#[tokio::test]
async fn a_missing_pipeline_is_started_once_it_exists() {
    let fixture = UpdateFixture::new(&[]);
    fixture.pipelines.delete_pipeline(&pipeline("deploy"));
    let tip = fixture.push("main", "hello");
    let failure = fixture.failure(moved("main", tip)).await;
    assert_eq!(failure.kind(), ErrorKind::NotFound);
    assert!(
        failure.message().contains("`deploy`"),
        "{}",
        failure.message()
    );
    fixture
        .pipelines
        .set_pipeline(&pipeline("deploy"), PipelineOptions::default());
    let results = fixture.results(json!({"schedule": true})).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    assert_eq!(
        fixture.versions("demo/main.zip").len(),
        1,
        "it was archived before"
    );
}
