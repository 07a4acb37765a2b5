//! `{"schedule":true,"plan":true}`: what the next run does, without a write.

use std::sync::Arc;

use branchline_update::{Context, handle};
use serde_json::{Value, json};

use crate::fixture::*;

async fn answer(context: &Arc<Context>, event: Value) -> Value {
    let answer = handle(Arc::clone(context), event, soon()).await;
    serde_json::to_value(answer.expect("every item succeeds")).expect("it serialises")
}

/// Branch, outcome and reason of each result.
fn said(answer: &Value) -> Vec<(String, String, String)> {
    let results = answer["results"].as_array().expect("it is a list");
    let text = |result: &Value, name: &str| result[name].as_str().unwrap_or_default().to_owned();
    let said = results.iter().map(|result| {
        (
            text(result, "branch"),
            text(result, "outcome"),
            text(result, "reason"),
        )
    });
    let mut said: Vec<_> = said.collect();
    said.sort();
    said
}

/// Branches in every state: started, held back, moved, new, deleted, excluded, odd.
async fn branches_in_every_state(settings: &[(&'static str, &'static str)]) -> UpdateFixture {
    let mut all = vec![("BRANCHES_EXCLUDE", "wip/**"), ("DELETE_ARTIFACTS", "true")];
    all.extend_from_slice(settings);
    if settings
        .iter()
        .any(|(_, value)| value.ends_with("{commit}.zip"))
    {
        all.push(("DELETE_ARTIFACTS", "false"));
    }
    let fixture = UpdateFixture::new(&all);
    for branch in ["current", "moved", "gone"] {
        let tip = fixture.push(branch, branch);
        fixture.results(moved(branch, tip)).await;
    }
    fixture.push("moved", "more");
    fixture.codecommit.delete_branch(&repository(), "gone");
    let shared = fixture.push("new/one", "new");
    fixture
        .codecommit
        .set_branch(&repository(), "new/two", shared);
    fixture.push("wip/x", "x");
    fixture.codecommit.add_odd_branch(&repository(), "HEAD");
    fixture
}

#[tokio::test]
async fn a_plan_says_what_the_next_run_does_and_writes_nothing() {
    for existing in ["archive", "start", "ignore"] {
        for key in ["{repository}/{branch}.zip", "{repository}/{commit}.zip"] {
            for pipeline in ["deploy", ""] {
                let settings = [
                    ("EXISTING_BRANCHES", existing),
                    ("ARTIFACT_KEY", key),
                    ("PIPELINE_NAME", pipeline),
                ];
                let fixture = branches_in_every_state(&settings).await;
                let context = fixture.context();
                let (writes, started) = (fixture.store.journal(), fixture.executions().len());
                let plan = json!({"schedule": true, "plan": true});
                let planned = answer(&context, plan.clone()).await;
                assert_eq!(fixture.store.journal(), writes, "{settings:?}");
                assert_eq!(fixture.executions().len(), started, "{settings:?}");
                assert_eq!(planned["plan"], true);

                let done = answer(&context, json!({"schedule": true})).await;
                assert_eq!(said(&planned), said(&done), "{settings:?}");
                assert_eq!(planned["counts"], done["counts"], "{settings:?}");
                assert_eq!(done.get("plan"), None);

                // Afterwards there is nothing to do.
                let planned = answer(&context, plan).await;
                let counts = planned["counts"].as_object().expect("it has counts");
                for outcome in ["started", "uploaded", "deleted"] {
                    assert!(!counts.contains_key(outcome), "{settings:?}: {planned}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_plan_names_what_is_archived_started_and_deleted() {
    let fixture = branches_in_every_state(&[("EXISTING_BRANCHES", "start")]).await;
    let event = json!({"schedule": true, "plan": true});
    let planned = answer(&fixture.context(), event).await;
    assert_eq!(
        planned["counts"],
        json!({"started": 3, "deleted": 1, "skipped": 1, "unchanged": 1})
    );
    let said = said(&planned);
    let said: Vec<_> = said
        .iter()
        .map(|(branch, outcome, _)| (branch.as_str(), outcome.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            ("HEAD", "skipped"),
            ("current", "unchanged"),
            ("gone", "deleted"),
            ("moved", "started"),
            ("new/one", "started"),
            ("new/two", "started"),
        ]
    );
}

#[tokio::test]
async fn a_plan_of_anything_but_a_schedule_is_refused() {
    let fixture = UpdateFixture::new(&[]);
    fixture.push("main", "hello");
    for event in [
        json!({"repository": "demo", "plan": true}),
        json!({"schedule": true, "plan": "yes"}),
    ] {
        let failure = fixture.failure(event).await;
        assert!(
            failure.message().contains("`plan`"),
            "{}",
            failure.message()
        );
        assert_eq!(fixture.store.journal(), Vec::<String>::new());
    }
}
