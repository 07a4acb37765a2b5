//! Pipelines whose declaration does not fit their starts.

use std::sync::Arc;

use branchline_core::ErrorKind;
use branchline_core::testkit::{FaultPlan, PipelineOptions, When};
use branchline_update::{Context, handle};
use serde_json::{Value, json};

use crate::fixture::*;

async fn answer(context: &Arc<Context>, event: Value) -> Value {
    let answer = handle(Arc::clone(context), event, soon()).await;
    serde_json::to_value(answer.expect("every item succeeds")).expect("it serialises")
}

fn warnings(answer: &Value) -> Vec<String> {
    let warnings = answer["warnings"].as_array().into_iter().flatten();
    warnings.map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_plan_warns_of_pipelines_that_do_not_fit_and_a_run_starts_them_all_the_same() {
    let fixture = UpdateFixture::new(&[]);
    let polls = PipelineOptions {
        configuration: [("S3Bucket".to_owned(), "other".to_owned())].into(),
        ..PipelineOptions::default()
    };
    fixture.pipelines.set_pipeline(&pipeline("deploy"), polls);
    for branch in ["main", "next"] {
        fixture.push(branch, branch);
    }
    let context = fixture.context();
    let plan = json!({"schedule": true, "plan": true});
    let planned = warnings(&answer(&context, plan.clone()).await);
    assert_eq!(planned.len(), 2, "each problem once: {planned:?}");
    for (warning, part) in planned.iter().zip(["PollForSourceChanges", "`other`"]) {
        assert!(warning.contains("`deploy`"), "{warning}");
        assert!(warning.contains(part), "{warning}");
        assert!(warning.contains("hint: "), "{warning}");
    }
    let done = answer(&context, json!({"schedule": true})).await;
    assert_eq!(done["counts"], json!({"started": 2}));
    assert_eq!(warnings(&done), Vec::<String>::new(), "a run logs them");
    assert_eq!(
        fixture.pipelines.traffic().count("declaration"),
        2,
        "a pipeline is read once by a plan, and once by all runs"
    );
}

#[tokio::test]
async fn a_plan_names_a_pipeline_that_does_not_exist() {
    let fixture = UpdateFixture::new(&[("PIPELINE_NAME", "deploy-{branch}")]);
    fixture.push("main", "hello");
    let context = fixture.context();
    let plan = json!({"schedule": true, "plan": true});
    let planned = warnings(&answer(&context, plan.clone()).await);
    assert_eq!(planned.len(), 1, "{planned:?}");
    assert!(
        planned[0].contains("`deploy-main` does not exist"),
        "{planned:?}"
    );
    fixture
        .pipelines
        .set_pipeline(&pipeline("deploy-main"), PipelineOptions::default());
    let planned = answer(&context, plan).await;
    assert_eq!(planned.get("warnings"), None, "it was created meanwhile");
}

#[tokio::test]
async fn a_pipeline_that_cannot_be_read_is_started() {
    for (kind, reads) in [(ErrorKind::AccessDenied, 1), (ErrorKind::Transport, 2)] {
        let fixture = UpdateFixture::new(&[]);
        let faults = FaultPlan::new();
        faults.fail_method("declaration", 1, kind, When::Before);
        let context = fixture.failing_context(&faults);
        for content in ["one", "two"] {
            let tip = fixture.push("main", content);
            let done = answer(&context, moved("main", tip)).await;
            assert_eq!(done["results"][0]["outcome"], "started", "{kind}");
        }
        assert_eq!(faults.count("declaration"), reads, "{kind}");
    }
}
