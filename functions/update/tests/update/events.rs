//! The function's own events.

use std::sync::Arc;

use branchline_core::ErrorKind;
use branchline_core::event_bus::Announcement;
use branchline_core::testkit::{Failing, FaultPlan, PipelineOptions, When};
use branchline_update::{Context, handle};
use serde_json::json;

use crate::fixture::*;

fn kinds(events: &[Announcement]) -> Vec<&'static str> {
    events.iter().map(Announcement::detail_type).collect()
}

#[tokio::test]
async fn an_artifact_and_its_start_are_announced_once() {
    let fixture = UpdateFixture::new(&[]);
    let tip = fixture.push("main", "hello");
    let results = fixture.results(moved("main", tip)).await;
    let events = fixture.bus.take();
    assert_eq!(kinds(&events), ["Artifact Archived", "Execution Started"]);
    let (artifact, started) = (events[0].detail(), events[1].detail());
    assert_eq!(artifact["repository"], "demo");
    assert_eq!(artifact["branch"], "main");
    assert_eq!(artifact["commit"], tip.to_string());
    assert_eq!(artifact["artifact"]["key"], "demo/main.zip");
    let answer = &results[0]["artifact"];
    assert_eq!(artifact["artifact"]["version_id"], answer["version_id"]);
    assert_eq!(started["artifact"], artifact["artifact"]);
    assert_eq!(started["pipeline"], "deploy");
    assert_eq!(started["execution_id"], results[0]["execution_id"]);
    fixture.results(moved("main", tip)).await;
    fixture.results(json!({ "schedule": true })).await;
    fixture
        .results(json!({ "schedule": true, "plan": true }))
        .await;
    assert_eq!(fixture.bus.take(), [], "nothing happened");
}

#[tokio::test]
async fn a_start_that_fails_is_announced_with_its_error() {
    let fixture = UpdateFixture::new(&[]);
    let options = PipelineOptions {
        busy: true,
        ..PipelineOptions::default()
    };
    fixture.pipelines.set_pipeline(&pipeline("deploy"), options);
    let tip = fixture.push("main", "hello");
    fixture.failure(moved("main", tip)).await;
    let events = fixture.bus.take();
    assert!(events.len() >= 2, "{events:?}");
    let failed = events.last().expect("there is one");
    assert_eq!(failed.detail_type(), "Execution Failed");
    assert_eq!(failed.detail()["commit"], tip.to_string());
    assert_eq!(failed.detail()["error"]["type"], "branchline.Conflict");
    // Where nothing is to be started, nothing fails to start.
    let mut fixture = UpdateFixture::new(&[]);
    fixture.settings.remove("PIPELINE_NAME");
    fixture.push("main", "hello");
    fixture
        .failure(json!({ "repository": "demo", "branch": "absent" }))
        .await;
    assert_eq!(fixture.bus.take(), []);
}

/// "A bus that fails never fails the work."
#[tokio::test]
async fn a_failing_bus_never_fails_the_work() {
    for when in [When::Before, When::After] {
        let fixture = UpdateFixture::new(&[]);
        let tip = fixture.push("main", "hello");
        let faults = FaultPlan::new();
        faults.fail_method("put", 1, ErrorKind::Transport, when);
        let config = fixture.config().expect("the settings are valid");
        let context = Context::new(
            config,
            fixture.codecommit.clone(),
            fixture.store.clone(),
            fixture.pipelines.clone(),
        );
        let bus = Arc::new(Failing::new(Arc::clone(&fixture.bus), &faults));
        let context = Arc::new(context.with_bus(Some(bus)));
        let answer = handle(context, moved("main", tip), soon()).await;
        answer.expect("the bus does not matter");
        assert_eq!(fixture.executions().len(), 1);
        assert_eq!(faults.count("put"), 1, "{when:?}");
    }
}
