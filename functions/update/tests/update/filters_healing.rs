//! Lost events and crashes where filters choose the pipelines.

use std::collections::BTreeMap;
use std::time::Duration;

use branchline_core::ErrorKind;
use branchline_core::testkit::{FaultPlan, PipelineOptions, When};
use branchline_update::handle;
use serde_json::json;

use crate::filters::{change, monorepo, started};
use crate::fixture::*;

/// "A change counts until the pipelines that it concerns were started."
#[tokio::test]
async fn changes_of_lost_events_start_their_pipelines_with_the_next_event_or_the_schedule() {
    for by_schedule in [false, true] {
        let fixture = monorepo();
        let first = change(&fixture, "main", &["web/a", "api/a"]);
        fixture.results(moved("main", first)).await;
        change(&fixture, "main", &["api/b"]);
        let tip = change(&fixture, "main", &["docs/a"]);
        let event = if by_schedule {
            json!({"schedule": true})
        } else {
            moved("main", tip)
        };
        let results = fixture.results(event).await;
        assert_eq!(outcomes(&results), [("main", "started")]);
        assert_eq!(started(&fixture)[2..], ["api"]);
    }
}

#[tokio::test]
async fn a_pipeline_that_could_not_be_started_is_started_with_the_next_push() {
    for paths in [["docs/a"], ["web/b"]] {
        let fixture = monorepo();
        let tip = change(&fixture, "main", &["web/a", "api/a"]);
        fixture.pipelines.delete_pipeline(&pipeline("api"));
        let failure = fixture.failure(moved("main", tip)).await;
        assert_eq!(failure.kind(), ErrorKind::NotFound);
        assert!(failure.message().contains("`api`"), "{}", failure.message());
        assert_eq!(started(&fixture), ["web"], "a failure does not stop others");
        let options = PipelineOptions {
            source_action: "Code".to_owned(),
            ..PipelineOptions::default()
        };
        fixture.pipelines.set_pipeline(&pipeline("api"), options);
        let tip = change(&fixture, "main", &paths);
        fixture.results(moved("main", tip)).await;
        let mut next = started(&fixture).split_off(1);
        next.sort();
        let expected: &[&str] = if paths == ["docs/a"] {
            &["api"]
        } else {
            &["api", "web"]
        };
        assert_eq!(next, expected);
    }
}

#[tokio::test]
async fn a_crash_at_any_call_starts_each_pipeline_once() {
    let calls = {
        let fixture = monorepo();
        let first = change(&fixture, "main", &["web/a", "api/a"]);
        fixture.results(moved("main", first)).await;
        let tip = change(&fixture, "main", &["common/a", "docs/a", "docs/b"]);
        let plan = FaultPlan::new();
        handle(fixture.failing_context(&plan), moved("main", tip), soon())
            .await
            .expect("nothing fails");
        plan.calls()
    };
    assert!(
        calls.contains(&"get_differences") && calls.len() > 12,
        "{calls:?}"
    );
    for nth in 1..=calls.len() {
        for when in [When::Before, When::After] {
            for healing in ["event", "schedule", "push"] {
                let fixture = monorepo();
                let first = change(&fixture, "main", &["web/a", "api/a"]);
                fixture.results(moved("main", first)).await;
                let tip = change(&fixture, "main", &["common/a", "docs/a", "docs/b"]);
                let plan = FaultPlan::new();
                plan.fail(nth, ErrorKind::Internal, when);
                // Without the reuse of the last archive, the run may succeed.
                let _ = handle(fixture.failing_context(&plan), moved("main", tip), soon()).await;
                let event = match healing {
                    "event" => moved("main", tip),
                    "schedule" => json!({"schedule": true}),
                    _ => moved("main", change(&fixture, "main", &["docs/c"])),
                };
                fixture.send(event).await.expect("the second run succeeds");
                let what = format!("call {nth} ({}), {when:?}, {healing}", calls[nth - 1]);
                // A pipeline whose start was not recorded is started again with another artifact.
                let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
                for execution in fixture.executions().split_off(2) {
                    let source = execution.request.source.expect("it is pinned");
                    let version = source.object_version_id.expect("it has a version");
                    let name = execution.request.pipeline.to_string();
                    names.entry(name).or_default().push(version);
                }
                for pipeline in ["web", "api"] {
                    let versions = names.get(pipeline).cloned().unwrap_or_default();
                    let mut distinct = versions.clone();
                    distinct.sort();
                    distinct.dedup();
                    assert_eq!(
                        distinct.len(),
                        versions.len(),
                        "{what}: {pipeline}: {versions:?}"
                    );
                    assert!(!versions.is_empty(), "{what}: {pipeline} is started");
                    assert!(
                        versions.len() == 1 || healing == "push",
                        "{what}: {pipeline} is started once"
                    );
                }
                fixture.assert_no_upload_is_left();
            }
        }
    }
}

#[tokio::test]
async fn a_crash_of_a_push_that_matches_nothing_starts_nothing() {
    let calls = 8;
    for nth in 1..=calls {
        let fixture = monorepo();
        let first = change(&fixture, "main", &["web/a", "api/a"]);
        fixture.results(moved("main", first)).await;
        let tip = change(&fixture, "main", &["docs/a"]);
        let plan = FaultPlan::new();
        plan.fail(nth, ErrorKind::Internal, When::After);
        let _ = handle(fixture.failing_context(&plan), moved("main", tip), soon()).await;
        fixture.results(moved("main", tip)).await;
        fixture.results(json!({"schedule": true})).await;
        assert_eq!(started(&fixture), ["web", "api"], "call {nth}");
    }
}

#[tokio::test]
async fn concurrent_events_start_each_pipeline_once() {
    let fixture = monorepo();
    let first = change(&fixture, "main", &["web/a", "api/a"]);
    fixture.results(moved("main", first)).await;
    let tip = change(&fixture, "main", &["common/a"]);
    fixture
        .store
        .traffic()
        .set_latency(Duration::from_millis(1));
    let runs = (0..8).map(|_| fixture.send(moved("main", tip)));
    for result in futures_util::future::join_all(runs).await {
        result.expect("a run that loses the race retries");
    }
    assert_eq!(started(&fixture), ["web", "api", "web", "api"]);
    assert_eq!(fixture.versions("demo/main.zip").len(), 2);
}
