//! Pull requests: archived while they are open, finished once.

use branchline_core::ErrorKind;
use branchline_core::name::{ObjectKey, PullRequestId};
use branchline_core::storage::{ObjectStore as _, PutOptions};
use branchline_core::testkit::{FaultPlan, When};
use branchline_update::handle;
use serde_json::{Value, json};

use crate::filters::{change, fixture, started};
use crate::fixture::*;

const CHECKS: &str = r#"[
  {"pipeline": "check", "gitConfiguration": {"sourceActionName": "Source",
    "pullRequest": [{"events": ["OPEN", "UPDATED"], "branches": {"includes": ["main"]},
                     "filePaths": {"includes": ["src/**"]}}]}},
  {"pipeline": "clean-up", "gitConfiguration": {"sourceActionName": "Source",
    "pullRequest": [{"events": ["CLOSED"], "branches": {"includes": ["main"]}}]}}]"#;

fn checks() -> UpdateFixture {
    let mut fixture = fixture(CHECKS, &[("check", "Source"), ("clean-up", "Source")]);
    fixture.settings.insert("PIPELINE_VARIABLES", "true");
    change(&fixture, "main", &["src/a", "docs/a"]);
    fixture
}

/// A pull request from `feature` with these changes.
fn open(fixture: &UpdateFixture, paths: &[&str]) -> PullRequestId {
    let base = change(fixture, "main", &["base"]);
    fixture
        .codecommit
        .set_branch(&repository(), "feature", base);
    change(fixture, "feature", paths);
    fixture
        .codecommit
        .open_pull_request(&repository(), "feature", "main")
}

pub(crate) fn event(id: &PullRequestId, event: &str, status: &str) -> Value {
    json!({
        "detail-type": "CodeCommit Pull Request State Change",
        "source": "aws.codecommit",
        "account": "111122223333",
        "region": "us-east-1",
        "resources": ["arn:aws:codecommit:us-east-1:111122223333:demo"],
        "detail": {
            "event": event, "pullRequestId": id.as_str(), "pullRequestStatus": status,
            "repositoryNames": ["demo"], "isMerged": "False",
        },
    })
}

fn created(id: &PullRequestId) -> Value {
    event(id, "pullRequestCreated", "Open")
}

fn updated(id: &PullRequestId) -> Value {
    event(id, "pullRequestSourceBranchUpdated", "Open")
}

fn closed(id: &PullRequestId) -> Value {
    event(id, "pullRequestMergeStatusUpdated", "Closed")
}

#[tokio::test]
async fn a_pull_request_is_archived_started_updated_and_deleted_at_its_end() {
    let fixture = checks();
    let id = open(&fixture, &["src/b"]);
    let results = fixture.results(created(&id)).await;
    assert_eq!(outcomes(&results), [("pull/1", "started")]);
    let zip = fixture.latest("demo/pull/1.zip");
    assert!(files(&zip).contains_key("src/b"));
    assert_eq!(zip.metadata.user["branchline-ref"], "pull/1");
    let execution = fixture.executions().remove(0);
    assert_eq!(execution.request.pipeline.as_str(), "check");
    let names: Vec<(&str, &str)> = execution
        .request
        .variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let find = |name: &str| {
        names
            .iter()
            .find(|(found, _)| *found == name)
            .map(|(_, v)| *v)
    };
    assert_eq!(find("PULL_REQUEST_ID"), Some("1"));
    assert_eq!(find("BRANCH_NAME"), Some("feature"));
    assert_eq!(find("DESTINATION_BRANCH_NAME"), Some("main"));
    assert_eq!(find("COMMIT_ID"), results[0]["commit"].as_str());
    assert!(find("MERGE_BASE").is_some_and(|base| Some(base) != find("COMMIT_ID")));

    for doubled in [created(&id), updated(&id)] {
        let results = fixture.results(doubled).await;
        assert_eq!(outcomes(&results), [("pull/1", "unchanged")]);
    }
    let tip = change(&fixture, "feature", &["docs/b"]);
    let results = fixture.results(updated(&id)).await;
    assert_eq!(outcomes(&results), [("pull/1", "started")]);
    assert_eq!(results[0]["commit"], tip.to_string());
    assert_eq!(started(&fixture), ["check", "check"]);

    fixture.codecommit.close_pull_request(&id, true);
    let results = fixture.results(closed(&id)).await;
    assert_eq!(outcomes(&results), [("pull/1", "started")]);
    assert_eq!(started(&fixture), ["check", "check", "clean-up"]);
    assert_eq!(
        fixture.latest("demo/pull/1.zip").body,
        None,
        "it is deleted"
    );
    assert_eq!(fixture.versions("demo/pull/1.zip").len(), 3);
    for late in [closed(&id), updated(&id), created(&id)] {
        let results = fixture.results(late).await;
        assert_eq!(outcomes(&results), [("pull/1", "skipped")]);
    }
    assert_eq!(started(&fixture).len(), 3, "it is finished once");
    fixture.assert_no_upload_is_left();
}

#[tokio::test]
async fn a_pull_request_that_starts_nothing_yet_is_archived_for_its_end() {
    let fixture = checks();
    let id = open(&fixture, &["docs/b"]);
    let results = fixture.results(created(&id)).await;
    assert_eq!(outcomes(&results), [("pull/1", "uploaded")]);
    assert_eq!(
        results[0]["reason"],
        "no pipeline of `TRIGGERS` is to be started yet"
    );
    assert_eq!(started(&fixture), [""; 0]);
    // The last update is lost.
    let tip = change(&fixture, "feature", &["docs/c"]);
    fixture.codecommit.close_pull_request(&id, false);
    let results = fixture.results(closed(&id)).await;
    assert_eq!(outcomes(&results), [("pull/1", "started")]);
    assert_eq!(results[0]["commit"], tip.to_string());
    assert_eq!(started(&fixture), ["clean-up"]);
    assert_eq!(fixture.latest("demo/pull/1.zip").body, None);
}

#[tokio::test]
async fn pull_requests_that_no_filter_matches_are_skipped() {
    const OTHER: &str = r#"[{"pipeline": "check", "gitConfiguration": {"sourceActionName": "Source",
        "pullRequest": [{"branches": {"includes": ["release/*"]}}]}}]"#;
    let fixture = fixture(OTHER, &[("check", "Source")]);
    change(&fixture, "main", &["src/a"]);
    let id = open(&fixture, &["src/b"]);
    let results = fixture.results(created(&id)).await;
    assert_eq!(outcomes(&results), [("pull/1", "skipped")]);
    assert_eq!(fixture.versions("demo/pull/1.zip").len(), 0);
    assert_eq!(fixture.codecommit.traffic().count("get_blob"), 0);
    let approval = event(&id, "pullRequestApprovalStateChanged", "Open");
    let results = fixture.results(approval).await;
    assert_eq!(outcomes(&results), [("pull/1", "skipped")]);
    let missing = PullRequestId::new("77").expect("it is valid");
    let results = fixture.results(created(&missing)).await;
    assert_eq!(
        results[0]["reason"],
        "the pull request does not exist any more"
    );
    let without = UpdateFixture::new(&[]);
    let results = without.results(created(&id)).await;
    assert_eq!(outcomes(&results), [("pull/1", "skipped")]);
    assert_eq!(without.codecommit.traffic().calls(), [""; 0]);
}

#[tokio::test]
async fn a_crash_at_any_call_of_a_pull_request_is_repaired_by_the_retry() {
    for at_end in [false, true] {
        let prepared = async || {
            let fixture = checks();
            let id = open(&fixture, &["src/b"]);
            if at_end {
                fixture.results(created(&id)).await;
                fixture.codecommit.close_pull_request(&id, true);
                return (fixture, closed(&id));
            }
            (fixture, created(&id))
        };
        let calls = {
            let (fixture, event) = prepared().await;
            let plan = FaultPlan::new();
            handle(fixture.failing_context(&plan), event, soon())
                .await
                .expect("nothing fails");
            plan.calls()
        };
        let expected: &[&str] = if at_end {
            &["check", "clean-up"]
        } else {
            &["check"]
        };
        for nth in 1..=calls.len() {
            for when in [When::Before, When::After] {
                let (fixture, event) = prepared().await;
                let plan = FaultPlan::new();
                plan.fail(nth, ErrorKind::Internal, when);
                let _ = handle(fixture.failing_context(&plan), event.clone(), soon()).await;
                fixture.send(event).await.expect("the retry succeeds");
                let what = format!("call {nth} ({}), {when:?}", calls[nth - 1]);
                assert_eq!(started(&fixture), expected, "{what}");
                let is_deleted = fixture.latest("demo/pull/1.zip").body.is_none();
                assert_eq!(is_deleted, at_end, "{what}");
                fixture.assert_no_upload_is_left();
            }
        }
    }
}

/// A fixture in which branches and tags are as old as the product's default says.
fn with_old_ones_archived() -> UpdateFixture {
    let mut fixture = checks();
    fixture.settings.insert("EXISTING_BRANCHES", "archive");
    fixture
}

fn schedule() -> Value {
    json!({"schedule": true})
}

fn plan() -> Value {
    json!({"schedule": true, "plan": true})
}

#[tokio::test]
async fn the_schedule_makes_up_for_each_lost_event_of_a_pull_request_and_a_plan_says_so() {
    let fixture = checks();
    let id = open(&fixture, &["src/b"]);
    for (outcome, pipelines) in [
        ("started", &["check"][..]),
        ("unchanged", &["check"]),
        ("started", &["check", "check"]),
        ("started", &["check", "check", "clean-up"]),
    ] {
        match (outcome, pipelines.len()) {
            ("started", 2) => drop(change(&fixture, "feature", &["src/c"])),
            ("started", 3) => fixture.codecommit.close_pull_request(&id, false),
            _ => {}
        }
        let writes = fixture.store.journal();
        let planned = fixture.results(plan()).await;
        assert_eq!(fixture.store.journal(), writes, "a plan writes nothing");
        let done = fixture.results(schedule()).await;
        assert_eq!(outcomes(&planned), [("pull/1", outcome)]);
        assert_eq!(outcomes(&done), [("pull/1", outcome)]);
        assert_eq!(planned[0]["reason"], done[0]["reason"]);
        assert_eq!(started(&fixture), pipelines);
    }
    assert_eq!(
        fixture.latest("demo/pull/1.zip").body,
        None,
        "it is deleted"
    );
    let results = fixture.results(schedule()).await;
    assert_eq!(outcomes(&results), [("", ""); 0], "it is finished");
    for late in [created(&id), closed(&id)] {
        fixture.results(late).await;
    }
    assert_eq!(started(&fixture).len(), 3, "it is finished once");
}

#[tokio::test]
async fn a_current_pull_request_costs_the_schedule_one_request_to_codecommit() {
    let fixture = checks();
    let ids: Vec<_> = ["src/b", "src/c", "src/d"]
        .iter()
        .map(|path| {
            let base = change(&fixture, "main", &["base"]);
            let branch = format!("feature/{}", &path[4..]);
            fixture.codecommit.set_branch(&repository(), &branch, base);
            change(&fixture, &branch, &[path]);
            fixture
                .codecommit
                .open_pull_request(&repository(), &branch, "main")
        })
        .collect();
    for id in &ids {
        fixture.results(created(id)).await;
    }
    let calls = fixture.codecommit.traffic().calls().len();
    let results = fixture.results(schedule()).await;
    assert_eq!(results.len(), 3, "{results:?}");
    let mut made = fixture.codecommit.traffic().calls().split_off(calls);
    made.retain(|call| !matches!(*call, "list_repositories" | "list_branches"));
    made.sort_unstable();
    let expected = [
        "get_pull_request",
        "get_pull_request",
        "get_pull_request",
        "list_open_pull_requests",
        "list_open_pull_requests",
    ];
    assert_eq!(made, expected, "pages have two items here");
}

#[tokio::test]
async fn a_pull_request_that_is_older_than_the_stack_is_archived_and_its_next_push_is_started() {
    let fixture = with_old_ones_archived();
    let id = open(&fixture, &["src/b"]);
    for outcome in ["uploaded", "unchanged"] {
        let results = fixture.results(schedule()).await;
        assert_eq!(outcomes(&results), [("pull/1", outcome)]);
        assert_eq!(
            results[0]["reason"],
            "the pull request is older than the stack: its next push starts a pipeline"
        );
    }
    assert_eq!(started(&fixture), [""; 0]);
    change(&fixture, "feature", &["src/c"]);
    let results = fixture.results(updated(&id)).await;
    assert_eq!(outcomes(&results), [("pull/1", "started")]);
    assert_eq!(started(&fixture), ["check"]);
}

#[tokio::test]
async fn the_schedule_finishes_only_what_is_an_artifact_of_a_pull_request() {
    let fixture = checks();
    let foreign = ObjectKey::new("demo/pull/7.zip").expect("it is valid");
    let body = bytes::Bytes::from_static(b"theirs");
    let options = PutOptions::default();
    let written = fixture.store.put(&bucket(), &foreign, body, &options).await;
    written.expect("it is written");
    let results = fixture.results(schedule()).await;
    assert_eq!(results.len(), 0, "{results:?}");
    assert_eq!(fixture.versions(foreign.as_str()).len(), 1);
}

#[tokio::test]
async fn pull_requests_that_cannot_be_listed_do_not_stop_the_branches() {
    const BOTH: &str = r#"[{"pipeline": "check", "gitConfiguration": {"sourceActionName": "Source",
        "push": [{"branches": {"includes": ["main"]}}], "pullRequest": [{}]}}]"#;
    let fixture = fixture(BOTH, &[("check", "Source")]);
    change(&fixture, "main", &["src/a"]);
    let faults = FaultPlan::new();
    let denied = ErrorKind::AccessDenied;
    faults.fail_method("list_open_pull_requests", 1, denied, When::Before);
    let failure = handle(fixture.failing_context(&faults), schedule(), soon())
        .await
        .expect_err("an item fails");
    assert_eq!(failure.kind(), ErrorKind::AccessDenied);
    let part = "pull requests of repository `demo`";
    assert!(failure.message().contains(part), "{}", failure.message());
    assert_eq!(started(&fixture), ["check"], "the branch is started");
}
