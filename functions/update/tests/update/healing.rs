//! Races and crashes: what a run leaves, the next one sets right.

use std::sync::Arc;
use std::time::Duration;

use branchline_core::ErrorKind;
use branchline_core::testkit::{FaultPlan, PipelineOptions, When};
use branchline_update::handle;
use serde_json::{Value, json};

use crate::fixture::*;

/// "An event that is delivered twice starts nothing twice."
#[tokio::test]
async fn an_event_that_comes_twice_starts_nothing_twice() {
    let world = World::new(&[]);
    let tip = world.push("main", "hello");
    let first = world.results(moved("main", tip)).await;
    let second = world.results(moved("main", tip)).await;
    assert_eq!(outcomes(&second), [("main", "unchanged")]);
    assert_eq!(
        second[0]["artifact"], first[0]["artifact"],
        "the artifact is told all the same"
    );
    assert_eq!(second[0]["execution_id"], first[0]["execution_id"]);
    assert_eq!(world.versions("demo/main.zip").len(), 1);
    assert_eq!(world.executions().len(), 1);
}

#[tokio::test]
async fn events_at_the_same_time_start_one_execution() {
    let world = World::new(&[]);
    let tip = world.push("main", "hello");
    world.store.traffic().set_latency(Duration::from_millis(1));
    let runs = (0..8).map(|_| world.send(moved("main", tip)));
    for result in futures_util::future::join_all(runs).await {
        result.expect("whoever loses looks again");
    }
    assert_eq!(
        world.versions("demo/main.zip").len(),
        1,
        "one of them wrote"
    );
    assert_eq!(world.executions().len(), 1);
    world.check_rest();
}

#[tokio::test]
async fn an_event_of_an_older_commit_leaves_the_branch_to_its_own_event() {
    let world = World::new(&[]);
    let old = world.push("main", "old");
    let new = world.push("main", "new");
    let results = world.results(moved("main", old)).await;
    assert_eq!(outcomes(&results), [("main", "superseded")]);
    assert_eq!(world.versions("demo/main.zip").len(), 0);
    let results = world.results(moved("main", new)).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
}

/// "An older commit never replaces a newer one."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_commit_never_replaces_a_newer_one() {
    // Between any two calls of the run for the old commit, the branch moves and the run
    // for the new commit comes and goes.
    let total = {
        let world = World::new(&[]);
        world.push("main", "before");
        world
            .results(json!({"repository": "demo", "branch": "main"}))
            .await;
        let script = FaultPlan::new();
        let old = world.push("main", "old");
        let result = handle(world.failing_context(&script), moved("main", old), soon()).await;
        result.expect("nothing fails");
        world.store.traffic().calls().len()
    };
    let mut superseded = 0;
    for nth in 1..=total {
        let world = Arc::new(World::new(&[]));
        world.push("main", "before");
        world
            .results(json!({"repository": "demo", "branch": "main"}))
            .await;
        let old = world.push("main", "old");
        let before = world.store.traffic().calls().len();
        let weak = Arc::downgrade(&world);
        world.store.traffic().before_call(before + nth, move || {
            let Some(world) = weak.upgrade() else { return };
            let new = world.push("main", "new");
            run_now(&world.context(), &moved("main", new));
        });
        let results = world.send(moved("main", old)).await;
        let new = files(&world.latest("demo/main.zip"));
        let hooked = world.store.traffic().calls().len() > before + nth;
        let is_new = !hooked || new["README"] == "new";
        assert!(
            is_new,
            "call {nth}: the old commit lies over the new one: {results:?}"
        );
        if let Ok(answer) = results {
            superseded += usize::from(format!("{answer:?}").contains("Superseded"));
        }
        world.check_rest();
    }
    assert!(superseded > 0, "the race was lost at least once");
}

/// "An older commit never replaces a newer one", not even where the newer state is the
/// one from before: its own event found the artifact in place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_goes_back_while_it_is_archived_keeps_its_tip() {
    let world = Arc::new(World::new(&[]));
    let first = world.push("main", "first");
    world.results(moved("main", first)).await;
    let second = world.push("main", "second");
    let weak = Arc::downgrade(&world);
    let puts = world.versions("demo/main.zip").len();
    world.store.traffic().before("put", puts + 1, move || {
        let Some(world) = weak.upgrade() else { return };
        world.codecommit.set_branch(&repository(), "main", first);
        run_now(&world.context(), &moved("main", first));
    });
    let results = world.results(moved("main", second)).await;
    let artifact = files(&world.latest("demo/main.zip"));
    assert_eq!(
        artifact["README"], "first",
        "the artifact is the tip: {results:?}"
    );
    let results = world.results(json!({"schedule": true})).await;
    assert_eq!(outcomes(&results), [("main", "unchanged")]);
    world.check_rest();
}

/// "A crash at any point is repaired by the next event or the schedule."
#[tokio::test]
async fn a_crash_anywhere_is_healed_by_the_next_event_or_the_schedule() {
    let calls = {
        let world = World::new(&[]);
        let tip = world.push("main", "hello");
        let script = FaultPlan::new();
        handle(world.failing_context(&script), moved("main", tip), soon())
            .await
            .expect("all is well");
        script.calls()
    };
    assert!(
        calls.len() >= 8,
        "the run makes the calls that it should: {calls:?}"
    );
    for nth in 1..=calls.len() {
        for when in [When::Before, When::After] {
            for healed_by_schedule in [false, true] {
                let world = World::new(&[]);
                let tip = world.push("main", "hello");
                let script = FaultPlan::new();
                script.fail(nth, ErrorKind::Internal, when);
                let first =
                    handle(world.failing_context(&script), moved("main", tip), soon()).await;
                let failure = first.expect_err("the failure is not swallowed");
                assert_eq!(failure.kind(), ErrorKind::Internal);
                world.check_rest();

                let again = if healed_by_schedule {
                    json!({"schedule": true})
                } else {
                    moved("main", tip)
                };
                world.send(again).await.expect("the second run heals");
                let what = format!("call {nth} ({}), {when:?}", calls[nth - 1]);
                let versions = world.versions("demo/main.zip");
                assert_eq!(versions.len(), 1, "{what}: one version");
                let executions = world.executions();
                assert_eq!(executions.len(), 1, "{what}: one execution");
                assert_eq!(
                    versions[0].tags["branchline-execution"], executions[0].id,
                    "{what}"
                );
                world.check_rest();
            }
        }
    }
}

#[tokio::test]
async fn many_branches_of_one_push_share_one_key() {
    let world = World::new(&[("ARTIFACT_KEY", "source.zip")]);
    let branches: Vec<String> = (0..20).map(|n| format!("feature/{n}")).collect();
    let references: Vec<Value> = branches
        .iter()
        .map(|branch| reference(branch, world.push(branch, branch)))
        .collect();
    // Long enough for each run to look before another writes.
    world.store.traffic().set_latency(Duration::from_millis(2));
    let results = world.results(records(&references)).await;
    let started = outcomes(&results)
        .into_iter()
        .filter(|(_, outcome)| *outcome == "started");
    assert_eq!(started.count(), branches.len(), "{results:?}");
    assert_eq!(
        world.versions("source.zip").len(),
        branches.len(),
        "each branch is a version"
    );
}

#[tokio::test]
async fn a_pipeline_that_is_gone_is_started_once_it_is_there() {
    let world = World::new(&[]);
    world.pipelines.delete_pipeline(&pipeline("deploy"));
    let tip = world.push("main", "hello");
    let failure = world.failure(moved("main", tip)).await;
    assert_eq!(failure.kind(), ErrorKind::NotFound);
    assert!(
        failure.message().contains("`deploy`"),
        "{}",
        failure.message()
    );
    world
        .pipelines
        .set_pipeline(&pipeline("deploy"), PipelineOptions::default());
    let results = world.results(json!({"schedule": true})).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    assert_eq!(
        world.versions("demo/main.zip").len(),
        1,
        "it was archived before"
    );
}
