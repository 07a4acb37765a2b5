//! Results of pipelines on pull requests.

use std::collections::BTreeMap;

use branchline_core::ErrorKind;
use branchline_core::codecommit::{ApprovalState, Review};
use branchline_core::name::{BranchName, CommitId};
use branchline_core::pipeline::{ExecutionState, FailedAction, PipelineExecution};
use branchline_core::testkit::{FaultPlan, When};
use branchline_update::handle;
use serde_json::{Value, json};

use crate::fixture::*;

/// Number of the pull request. The artifact of its source branch, `pull/7`, has the key of the pull
/// request's.
const NUMBER: u64 = 7;

const KEY: &str = "demo/pull/7.zip";

/// A pull request whose pipeline was started.
struct Reviewed {
    fixture: UpdateFixture,
    tip: CommitId,
    execution: String,
}

impl Reviewed {
    async fn new(settings: &[(&'static str, &'static str)]) -> Self {
        let fixture = UpdateFixture::new(settings);
        let tip = fixture.push("pull/7", "hello");
        fixture.reviews.set(review(tip));
        fixture.reviews.add_comment(NUMBER, "one");
        fixture.reviews.add_comment(NUMBER, "two");
        fixture.reviews.add_comment(NUMBER, "three");
        fixture.results(moved("pull/7", tip)).await;
        let execution = fixture.executions()[0].id.clone();
        Self {
            fixture,
            tip,
            execution,
        }
    }

    async fn with_both() -> Self {
        Self::new(&[
            ("PULL_REQUEST_COMMENT", "true"),
            ("PULL_REQUEST_APPROVAL", "true"),
        ])
        .await
    }

    /// Ends an execution that read the newest artifact.
    fn end(&self, pipeline_name: &str, id: &str, state: ExecutionState) {
        let failed = (state == ExecutionState::Failed).then(|| FailedAction {
            stage: "Build".to_owned(),
            action: "Compile".to_owned(),
            message: Some("exit status 1".to_owned()),
            url: None,
        });
        let version = self.fixture.latest(KEY).id;
        let execution = PipelineExecution {
            state,
            variables: [("PULL_REQUEST_ID".to_owned(), NUMBER.to_string())].into(),
            revisions: version.into_iter().map(String::from).collect(),
            summary: None,
        };
        let states = &self.fixture.executions_state;
        states.set(&pipeline(pipeline_name), id, execution, failed);
    }

    async fn report(&self) -> Vec<Value> {
        self.fixture.results(ended("deploy", &self.execution)).await
    }

    /// Returns the contents of the comments that the function posted.
    fn comments(&self) -> Vec<String> {
        let comments = self.fixture.reviews.comments(NUMBER).into_iter();
        let own = comments.filter(|comment| comment.client_request_token.is_some());
        own.filter_map(|comment| comment.content).collect()
    }
}

fn review(tip: CommitId) -> Review {
    Review {
        pull_request: NUMBER,
        is_open: true,
        revision_id: format!("revision of {tip}"),
        repository: repository(),
        source: BranchName::new("pull/7").expect("it is valid"),
        source_commit: tip,
        destination_commit: CommitId::new(&"d".repeat(40)).expect("it is valid"),
    }
}

fn ended(pipeline: &str, id: &str) -> Value {
    json!({
        "detail-type": "CodePipeline Pipeline Execution State Change",
        "source": "aws.codepipeline",
        "detail": { "pipeline": pipeline, "execution-id": id, "state": "SUCCEEDED" },
    })
}

#[tokio::test]
async fn a_result_becomes_one_comment_that_later_results_change() {
    let reviewed = Reviewed::with_both().await;
    reviewed.end("deploy", &reviewed.execution, ExecutionState::Failed);
    let results = reviewed.report().await;
    assert_eq!(outcomes(&results), [("pull/7", "reported")]);
    assert_eq!(results[0]["commit"], reviewed.tip.to_string());
    let comments = reviewed.comments();
    assert_eq!(comments.len(), 1);
    assert!(
        comments[0].contains("**Pipeline `deploy` failed**"),
        "{}",
        comments[0]
    );
    assert!(
        comments[0].contains("`Compile` of stage `Build`"),
        "{}",
        comments[0]
    );
    let approval = reviewed.fixture.reviews.approval(NUMBER);
    assert_eq!(approval, Some(ApprovalState::Revoke));

    // The stage was retried.
    reviewed.end("deploy", &reviewed.execution, ExecutionState::Succeeded);
    reviewed.report().await;
    let comments = reviewed.comments();
    assert_eq!(comments.len(), 1, "it was updated");
    assert!(comments[0].contains("succeeded"), "{}", comments[0]);
    let approval = reviewed.fixture.reviews.approval(NUMBER);
    assert_eq!(approval, Some(ApprovalState::Approve));
}

#[tokio::test]
async fn a_repeated_event_writes_no_comment_again() {
    let reviewed = Reviewed::new(&[("PULL_REQUEST_COMMENT", "true")]).await;
    reviewed.end("deploy", &reviewed.execution, ExecutionState::Succeeded);
    reviewed.report().await;
    let results = reviewed.report().await;
    assert_eq!(outcomes(&results), [("pull/7", "unchanged")]);
    let traffic = reviewed.fixture.reviews.traffic();
    assert_eq!(traffic.count("post_comment"), 1);
    assert_eq!(traffic.count("update_comment"), 0);
    assert_eq!(traffic.count("set_approval"), 0, "only comments are on");
    reviewed.fixture.reviews.delete_comments(NUMBER);
    reviewed.report().await;
    assert_eq!(
        reviewed.comments(),
        [""; 0],
        "a deleted comment stays deleted"
    );
}

#[tokio::test]
async fn nothing_is_read_while_both_settings_are_off() {
    let reviewed = Reviewed::new(&[]).await;
    reviewed.end("deploy", &reviewed.execution, ExecutionState::Succeeded);
    assert_eq!(reviewed.report().await, [json!(null); 0]);
    let calls = reviewed.fixture.reviews.traffic().calls();
    assert!(calls.is_empty(), "{calls:?}");
}

/// "Nobody gets an approval by starting another pipeline, or by naming a pull request."
#[tokio::test]
async fn an_execution_of_something_else_is_never_reported() {
    let reviewed = Reviewed::with_both().await;
    let fixture = &reviewed.fixture;
    // Another pipeline that read the artifact, but was not started for it.
    reviewed.end("other", "x1", ExecutionState::Succeeded);
    let results = fixture.results(ended("other", "x1")).await;
    assert_eq!(outcomes(&results), [("pull/7", "skipped")]);
    // The pipeline itself, on another object.
    let execution = PipelineExecution {
        state: ExecutionState::Succeeded,
        variables: [("PULL_REQUEST_ID".to_owned(), NUMBER.to_string())].into(),
        revisions: vec!["another version".to_owned()],
        summary: None,
    };
    let states = &fixture.executions_state;
    states.set(&pipeline("deploy"), "x2", execution.clone(), None);
    let results = fixture.results(ended("deploy", "x2")).await;
    assert_eq!(outcomes(&results), [("pull/7", "skipped")]);
    // Executions of no pull request, and of one that does not exist.
    for (id, variables) in [
        ("x3", BTreeMap::new()),
        (
            "x4",
            [("PULL_REQUEST_ID".to_owned(), "99".to_owned())].into(),
        ),
        (
            "x5",
            [("PULL_REQUEST_ID".to_owned(), "-".to_owned())].into(),
        ),
    ] {
        let execution = PipelineExecution {
            variables,
            ..execution.clone()
        };
        states.set(&pipeline("deploy"), id, execution, None);
        let results = fixture.results(ended("deploy", id)).await;
        assert_eq!(results, [json!(null); 0], "{id}");
    }
    assert_eq!(reviewed.comments(), [""; 0]);
    assert_eq!(fixture.reviews.approval(NUMBER), None);
}

#[tokio::test]
async fn a_commit_that_is_no_longer_the_newest_is_not_approved() {
    let reviewed = Reviewed::with_both().await;
    reviewed.end("deploy", &reviewed.execution, ExecutionState::Succeeded);
    let newer = reviewed.fixture.push("pull/7", "newer");
    reviewed.fixture.reviews.set(review(newer));
    reviewed.report().await;
    assert_eq!(reviewed.fixture.reviews.approval(NUMBER), None);
    let comments = reviewed.comments();
    let short = &reviewed.tip.to_string()[..10];
    assert!(
        comments[0].contains(short),
        "the comment says which: {}",
        comments[0]
    );
    // A push between reading the pull request and approving it.
    let reviewed = Reviewed::new(&[("PULL_REQUEST_APPROVAL", "true")]).await;
    reviewed.end("deploy", &reviewed.execution, ExecutionState::Succeeded);
    let reviews = std::sync::Arc::clone(&reviewed.fixture.reviews);
    let newer = reviewed.fixture.push("pull/7", "newer");
    let traffic = reviewed.fixture.reviews.traffic();
    traffic.before("set_approval", 1, move || reviews.set(review(newer)));
    let results = reviewed.report().await;
    assert_eq!(outcomes(&results), [("pull/7", "unchanged")]);
    assert_eq!(reviewed.fixture.reviews.approval(NUMBER), None);
}

#[tokio::test]
async fn a_closed_pull_request_is_left_alone() {
    let reviewed = Reviewed::with_both().await;
    reviewed.end("deploy", &reviewed.execution, ExecutionState::Succeeded);
    reviewed.fixture.reviews.set(Review {
        is_open: false,
        ..review(reviewed.tip)
    });
    let results = reviewed.report().await;
    assert_eq!(outcomes(&results), [("pull/7", "skipped")]);
    assert_eq!(reviewed.comments(), [""; 0]);
}

#[tokio::test]
async fn an_end_that_comes_before_the_start_is_recorded_is_retried() {
    let fixture = UpdateFixture::new(&[("PULL_REQUEST_COMMENT", "true")]);
    let tip = fixture.push("pull/7", "hello");
    fixture.reviews.set(review(tip));
    let faults = FaultPlan::new();
    faults.fail_method("put_tags", 1, ErrorKind::Transport, When::Before);
    let started = handle(
        fixture.failing_context(&faults),
        moved("pull/7", tip),
        soon(),
    )
    .await;
    started.expect_err("the tag is missing");
    let execution = fixture.executions()[0].id.clone();
    let reviewed = Reviewed {
        fixture,
        tip,
        execution,
    };
    reviewed.end("deploy", &reviewed.execution, ExecutionState::Succeeded);
    let event = ended("deploy", &reviewed.execution);
    let error = reviewed.fixture.failure(event.clone()).await;
    assert!(
        format!("{error:?}").contains("no execution is recorded"),
        "{error:?}"
    );
    // The retry of the first event records it.
    reviewed.fixture.results(moved("pull/7", tip)).await;
    reviewed.fixture.results(event).await;
    assert_eq!(reviewed.comments().len(), 1);
}

#[tokio::test]
async fn a_failure_at_any_call_leaves_what_the_next_attempt_completes() {
    let total = {
        let reviewed = Reviewed::with_both().await;
        reviewed.end("deploy", &reviewed.execution, ExecutionState::Failed);
        let faults = FaultPlan::new();
        let event = ended("deploy", &reviewed.execution);
        let context = reviewed.fixture.failing_context(&faults);
        handle(context, event, soon()).await.expect("nothing fails");
        faults.calls().len()
    };
    assert!(total >= 7, "every service is called: {total}");
    for when in [When::Before, When::After] {
        for nth in 1..=total {
            let reviewed = Reviewed::with_both().await;
            reviewed.end("deploy", &reviewed.execution, ExecutionState::Failed);
            let faults = FaultPlan::new();
            faults.fail(nth, ErrorKind::Transport, when);
            let event = ended("deploy", &reviewed.execution);
            let context = reviewed.fixture.failing_context(&faults);
            let failed = handle(context, event.clone(), soon()).await;
            failed.expect_err("the call fails");
            reviewed.fixture.results(event).await;
            assert_eq!(reviewed.comments().len(), 1, "call {nth} {when:?}");
            let approval = reviewed.fixture.reviews.approval(NUMBER);
            assert_eq!(approval, Some(ApprovalState::Revoke), "call {nth} {when:?}");
        }
    }
}
