//! Artifacts and events of other accounts and regions, custom data that reach beyond their
//! repository, and names that cannot be used.

use branchline_core::ErrorKind;
use branchline_core::codecommit::{Trigger, TriggerEvent};
use branchline_core::function::FunctionArn;
use branchline_core::lambda::FunctionContext as _;
use branchline_core::name::{ObjectKey, RepositoryName};
use branchline_core::storage::{ObjectStore as _, PutOptions};
use branchline_core::testkit::{Failing, FaultPlan, PipelineOptions, When};
use branchline_update::{Context, handle};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::fixture::*;

const OWN: &str = "arn:aws:lambda:us-east-1:111122223333:function:update";
const OTHER_ACCOUNT: &str = "arn:aws:lambda:us-east-1:444455556666:function:update";
const OTHER_REGION: &str = "arn:aws:lambda:eu-west-1:111122223333:function:update";

/// The function of one account and region, over its own repositories and a shared bucket.
struct Stack {
    fixture: UpdateFixture,
    context: Arc<Context>,
}

impl Stack {
    fn new(arn: &str, settings: &[(&'static str, &'static str)], shared: Option<&Self>) -> Self {
        let mut fixture = UpdateFixture::new(settings);
        if let Some(shared) = shared {
            fixture.store = shared.fixture.store.clone();
        }
        let context = fixture.context();
        context.record_function(&FunctionArn::new(arn).expect("it is an ARN"));
        Self { fixture, context }
    }

    async fn send(&self, event: Value) -> Result<Value, String> {
        let answer = handle(Arc::clone(&self.context), event, soon()).await;
        answer
            .map(|answer| serde_json::to_value(answer).expect("it serialises"))
            .map_err(|failure| failure.message().to_owned())
    }

    async fn outcomes(&self, event: Value) -> Vec<(String, String)> {
        let answer = self.send(event).await.expect("every item succeeds");
        let results = answer["results"].as_array().expect("it is a list").clone();
        outcomes(&results)
            .into_iter()
            .map(|(branch, outcome)| (branch.to_owned(), outcome.to_owned()))
            .collect()
    }
}

fn schedule() -> Value {
    json!({"schedule": true})
}

fn pair(branch: &str, outcome: &str) -> (String, String) {
    (branch.to_owned(), outcome.to_owned())
}

#[tokio::test]
async fn an_artifact_of_another_account_or_region_is_never_replaced_or_deleted() {
    for other in [OTHER_ACCOUNT, OTHER_REGION] {
        let settings = [("DELETE_ARTIFACTS", "true")];
        let first = Stack::new(OWN, &settings, None);
        let second = Stack::new(other, &settings, Some(&first));
        first.fixture.push("main", "one");
        first.fixture.push("only-first", "one");
        second.fixture.push("main", "two");
        assert_eq!(first.outcomes(schedule()).await.len(), 2);
        let failure = second.send(schedule()).await.expect_err("the key is taken");
        assert!(
            failure.contains("us-east-1/111122223333") && failure.contains("`{account}`"),
            "{failure}"
        );
        // Neither deletes the other's, however often both run.
        second
            .fixture
            .codecommit
            .delete_branch(&repository(), "main");
        for _ in 0..2 {
            assert_eq!(second.outcomes(schedule()).await, []);
            let unchanged = ["main", "only-first"].map(|branch| pair(branch, "unchanged"));
            assert_eq!(first.outcomes(schedule()).await, unchanged);
        }
        assert_eq!(first.fixture.versions("demo/main.zip").len(), 1);
        assert_eq!(first.fixture.executions().len(), 2);
        assert_eq!(second.fixture.executions().len(), 0);
    }
}

#[tokio::test]
async fn accounts_share_a_bucket_when_the_key_names_account_and_region() {
    let settings = [
        ("DELETE_ARTIFACTS", "true"),
        (
            "ARTIFACT_KEY",
            "{account}/{region}/{repository}/{branch}.zip",
        ),
    ];
    let first = Stack::new(OWN, &settings, None);
    let second = Stack::new(OTHER_ACCOUNT, &settings, Some(&first));
    for stack in [&first, &second] {
        stack.fixture.push("main", "hello");
        assert_eq!(stack.outcomes(schedule()).await, [pair("main", "started")]);
    }
    second
        .fixture
        .codecommit
        .delete_branch(&repository(), "main");
    assert_eq!(
        first.outcomes(schedule()).await,
        [pair("main", "unchanged")]
    );
    assert_eq!(second.outcomes(schedule()).await, [pair("main", "deleted")]);
    let kept = first.fixture.latest("111122223333/us-east-1/demo/main.zip");
    assert!(kept.body.is_some());
}

#[tokio::test]
async fn an_artifact_without_an_origin_is_kept_when_its_repository_was_not_listed() {
    let settings = [("DELETE_ARTIFACTS", "true")];
    let stack = Stack::new(OWN, &settings, None);
    stack.fixture.push("main", "hello");
    // A version that did not record the origin made the artifact.
    stack.fixture.results(schedule()).await;
    stack.fixture.codecommit.delete_repository(&repository());
    assert_eq!(stack.outcomes(schedule()).await, []);
    // The function's own artifact of a deleted repository goes.
    let own = RepositoryName::new("own").expect("it is valid");
    let entry = [("a", branchline_core::testkit::Entry::file("a"))];
    stack.fixture.codecommit.commit(&own, "main", &entry);
    assert_eq!(stack.outcomes(schedule()).await, [pair("main", "started")]);
    stack.fixture.codecommit.delete_repository(&own);
    assert_eq!(stack.outcomes(schedule()).await, [pair("main", "deleted")]);
}

#[tokio::test]
async fn an_event_of_another_account_or_region_is_skipped() {
    for other in [OTHER_ACCOUNT, OTHER_REGION] {
        let stack = Stack::new(other, &[], None);
        let tip = stack.fixture.push("main", "hello");
        let answer = stack.send(moved("main", tip)).await.expect("it is skipped");
        let result = &answer["results"][0];
        assert_eq!(result["outcome"], "skipped");
        let reason = result["reason"].as_str().expect("there is a reason");
        assert!(
            reason.contains("111122223333") && reason.contains("us-east-1"),
            "{reason}"
        );
        let event = json!({
            "detail-type": "CodeCommit Repository State Change",
            "account": "111122223333", "region": "us-east-1",
            "detail": {
                "event": "referenceUpdated", "repositoryName": "demo",
                "referenceFullName": "refs/heads/main", "commitId": tip.to_string(),
            },
        });
        assert_eq!(stack.outcomes(event).await, [pair("main", "skipped")]);
        assert_eq!(stack.fixture.executions().len(), 0);
        assert!(stack.fixture.versions("demo/main.zip").is_empty());
    }
}

#[tokio::test]
async fn custom_data_reach_only_the_folder_of_their_repository_by_default() {
    let stack = Stack::new(OWN, &[], None);
    let tip = stack.fixture.push("main", "hello");
    for (data, field) in [
        (json!({"key": "prod/main.zip"}), "key"),
        (json!({"key": "demo-2/main.zip"}), "key"),
        (json!({"pipeline_name": "deploy-prod"}), "pipeline_name"),
        (json!({"bucket": "others"}), "bucket"),
    ] {
        let mut event = moved("main", tip);
        event["Records"][0]["customData"] = json!(data.to_string());
        let failure = stack.send(event).await.expect_err("it is refused");
        let named = format!("`customData.{field}`");
        assert!(
            failure.contains(&named) && failure.contains("CUSTOM_DATA"),
            "{failure}"
        );
        assert_eq!(stack.fixture.store.journal(), Vec::<String>::new());
    }
    let mut event = moved("main", tip);
    event["Records"][0]["customData"] = json!(r#"{"key":"demo/releases/{branch}.zip"}"#);
    assert_eq!(stack.outcomes(event).await, [pair("main", "started")]);
    assert_eq!(stack.fixture.versions("demo/releases/main.zip").len(), 1);
}

#[tokio::test]
async fn ignored_custom_data_have_no_effect() {
    let stack = Stack::new(OWN, &[("CUSTOM_DATA", "ignore")], None);
    let tip = stack.fixture.push("main", "hello");
    let mut event = moved("main", tip);
    event["Records"][0]["customData"] = json!(r#"{"key":"prod/main.zip","bucket":"others"}"#);
    assert_eq!(stack.outcomes(event).await, [pair("main", "started")]);
    assert_eq!(stack.fixture.versions("demo/main.zip").len(), 1);
}

fn trigger(function: &str, branches: &[&str], data: &str) -> Trigger {
    Trigger {
        name: "by-hand".into(),
        destination_arn: function.into(),
        custom_data: Some(data.into()),
        branches: branches.iter().map(|branch| (*branch).to_owned()).collect(),
        events: vec![TriggerEvent::All],
    }
}

#[tokio::test]
async fn the_schedule_uses_the_keys_that_triggers_choose() {
    let stack = Stack::new(OWN, &[], None);
    stack.fixture.push("main", "hello");
    stack.fixture.push("other", "hello");
    let data = r#"{"key":"demo/chosen/{branch}.zip"}"#;
    let triggers = vec![trigger(OWN, &["main"], data)];
    stack
        .fixture
        .codecommit
        .set_triggers(&repository(), triggers);
    let started = [pair("main", "started"), pair("other", "started")];
    assert_eq!(stack.outcomes(schedule()).await, started);
    let read = stack.fixture.codecommit.traffic().count("get_triggers");
    assert_eq!(read, 1, "one request for the repository");
    assert_eq!(stack.fixture.versions("demo/chosen/main.zip").len(), 1);
    assert!(stack.fixture.versions("demo/main.zip").is_empty());
    assert_eq!(stack.fixture.versions("demo/other.zip").len(), 1);
    // A trigger of another function says nothing about this one's keys.
    let foreign = OWN.replace("update", "other");
    let triggers = vec![trigger(&foreign, &[], data)];
    stack
        .fixture
        .codecommit
        .set_triggers(&repository(), triggers);
    let outcomes = stack.outcomes(schedule()).await;
    assert_eq!(
        outcomes,
        [pair("main", "started"), pair("other", "unchanged")]
    );
    assert_eq!(stack.fixture.versions("demo/main.zip").len(), 1);
}

#[tokio::test]
async fn a_trigger_with_refused_custom_data_stops_its_own_branch_only() {
    let stack = Stack::new(OWN, &[], None);
    stack.fixture.push("main", "hello");
    stack.fixture.push("other", "hello");
    let triggers = vec![trigger(OWN, &["main"], r#"{"pipeline_name":"prod"}"#)];
    stack
        .fixture
        .codecommit
        .set_triggers(&repository(), triggers);
    let outcomes = stack.outcomes(schedule()).await;
    assert_eq!(
        outcomes,
        [pair("other", "started"), pair("main", "skipped")]
    );
}

#[tokio::test]
async fn a_branch_whose_name_cannot_be_used_is_left_out_by_name() {
    let stack = Stack::new(OWN, &[], None);
    let tip = stack.fixture.push("main", "hello");
    for name in ["HEAD", "-x"] {
        stack.fixture.codecommit.add_odd_branch(&repository(), name);
    }
    let answer = stack.send(schedule()).await.expect("the others succeed");
    assert_eq!(answer["counts"], json!({"started": 1, "skipped": 2}));
    let left_out = &answer["results"].as_array().expect("it is a list")[1..];
    assert_eq!(outcomes(left_out), [("-x", "skipped"), ("HEAD", "skipped")]);
    for result in left_out {
        assert!(
            result["reason"]
                .as_str()
                .is_some_and(|why| why.contains("refuses")),
            "{result}"
        );
    }
    // The event of such a branch is skipped, too.
    assert_eq!(
        stack.outcomes(moved("HEAD", tip)).await,
        [pair("HEAD", "skipped")]
    );
}

#[tokio::test]
async fn a_branch_whose_key_is_too_long_fails_alone() {
    let long: String = "x".repeat(200);
    let key: &'static str =
        Box::leak(format!("{}/{{repository}}/{{branch}}", "k".repeat(850)).into_boxed_str());
    let stack = Stack::new(OWN, &[("ARTIFACT_KEY", key)], None);
    stack.fixture.push("main", "hello");
    stack.fixture.push(&long, "hello");
    let failure = stack
        .send(schedule())
        .await
        .expect_err("one key is too long");
    assert!(
        failure.contains("1 of 2 failed") && failure.contains(&long),
        "{failure}"
    );
    assert_eq!(
        stack.fixture.executions().len(),
        1,
        "the other branch is handled"
    );
}

#[tokio::test]
async fn a_pipeline_that_is_missing_is_skipped_when_the_setting_says_so() {
    let settings = [
        ("PIPELINE_MISSING", "skip"),
        ("PIPELINE_NAME", "deploy-{branch}"),
    ];
    let stack = Stack::new(OWN, &settings, None);
    let tip = stack.fixture.push("main", "hello");
    let answer = stack
        .send(moved("main", tip))
        .await
        .expect("it is uploaded");
    assert_eq!(answer["results"][0]["outcome"], "uploaded");
    assert_eq!(
        answer["results"][0]["reason"],
        "pipeline `deploy-main` does not exist"
    );
    let pipelines = &stack.fixture.pipelines;
    pipelines.set_pipeline(&pipeline("deploy-main"), PipelineOptions::default());
    assert_eq!(stack.outcomes(schedule()).await, [pair("main", "started")]);
    assert_eq!(stack.fixture.versions("demo/main.zip").len(), 1);
}

#[tokio::test]
async fn an_artifact_without_the_version_that_its_pin_needs_is_written_anew() {
    let mut stack = Stack::new(OWN, &[], None);
    let tip = stack.fixture.push("main", "hello");
    stack.fixture.settings.remove("PIPELINE_NAME");
    stack.fixture.store.create_bucket(&bucket(), false);
    let results = stack.fixture.results(moved("main", tip)).await;
    assert_eq!(outcomes(&results), [("main", "uploaded")]);
    stack.fixture.store.create_bucket(&bucket(), true);
    stack.fixture.settings.insert("PIPELINE_NAME", "deploy");
    let results = stack.fixture.results(moved("main", tip)).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    let executions = stack.fixture.executions();
    let source = executions[0].request.source.as_ref().expect("it is pinned");
    assert!(
        source
            .object_version_id
            .as_deref()
            .is_some_and(|id| id != "null")
    );
}

#[tokio::test]
async fn repositories_that_only_a_pattern_selects_and_the_role_may_not_read_are_passed_over() {
    let stack = Stack::new(OWN, &[], None);
    stack.fixture.push("main", "hello");
    let outside = RepositoryName::new("a-outside").expect("it is valid");
    stack.fixture.codecommit.add_repository(&outside);
    let denied = |settings: &[(&'static str, &'static str)], calls: &[usize]| {
        let faults = FaultPlan::new();
        for call in calls {
            faults.fail_method(
                "list_branches",
                *call,
                ErrorKind::AccessDenied,
                When::Before,
            );
        }
        let mut fixture = UpdateFixture::new(settings);
        fixture.codecommit = stack.fixture.codecommit.clone();
        let config = fixture.config().expect("the settings are valid");
        let codecommit = Failing::new(Arc::clone(&fixture.codecommit), &faults);
        Arc::new(Context::new(
            config,
            Arc::new(codecommit),
            fixture.store.clone(),
            fixture.pipelines.clone(),
        ))
    };
    let answer = handle(denied(&[], &[1]), schedule(), soon()).await;
    let answer = answer.expect("it is passed over");
    assert_eq!((answer.results.len(), answer.passed_over), (1, Some(1)));
    // A list of patterns names neither in full.
    let patterns = [("REPOSITORIES", "a-*, d?mo, other-*")];
    let answer = handle(denied(&patterns, &[1]), schedule(), soon()).await;
    let answer = answer.expect("it is passed over");
    assert_eq!((answer.results.len(), answer.passed_over), (1, Some(1)));
    let named = [("REPOSITORIES", "a-outside,demo")];
    let failure = handle(denied(&named, &[1]), schedule(), soon()).await;
    assert_eq!(
        failure.expect_err("it is named").kind(),
        ErrorKind::AccessDenied
    );
    let failure = handle(denied(&[], &[1, 2]), schedule(), soon()).await;
    let failure = failure.expect_err("the role may read none of them");
    assert_eq!(failure.kind(), ErrorKind::AccessDenied);
}

/// Writes objects that no version of this function made.
async fn write_foreign(stack: &Stack, keys: impl IntoIterator<Item = String>) {
    for key in keys {
        let key = ObjectKey::new(&key).expect("it is valid");
        let body = bytes::Bytes::from_static(b"x");
        let options = PutOptions::default();
        let store = &stack.fixture.store;
        let written = store.put(&bucket(), &key, body, &options).await;
        written.expect("the object is written");
    }
}

#[tokio::test]
async fn the_schedule_reads_no_keys_that_its_template_cannot_make() {
    let stack = Stack::new(OWN, &[("DELETE_ARTIFACTS", "true")], None);
    stack.fixture.push("main", "hello");
    stack.outcomes(schedule()).await;
    let keys = (0..200).flat_map(|n| [format!("builds/{n}.zip"), format!("logs/{n}.txt")]);
    write_foreign(&stack, keys).await;
    let before = stack.fixture.store.traffic().count("head");
    assert_eq!(
        stack.outcomes(schedule()).await,
        [pair("main", "unchanged")]
    );
    let heads = stack.fixture.store.traffic().count("head") - before;
    assert_eq!(
        heads, 2,
        "the artifact, and one object of the folder `builds`"
    );
}

#[tokio::test]
async fn an_object_of_another_writer_is_read_once_in_the_folder_of_a_repository() {
    let stack = Stack::new(OWN, &[("DELETE_ARTIFACTS", "true")], None);
    stack.fixture.push("main", "hello");
    stack.outcomes(schedule()).await;
    let written = (0..30).map(|n| format!("demo/by-hand-{n}.zip"));
    write_foreign(&stack, written).await;
    let heads = || stack.fixture.store.traffic().count("head");
    let mut before = heads();
    for expected in [31, 1] {
        stack.outcomes(schedule()).await;
        assert_eq!(heads() - before, expected);
        before = heads();
    }
    write_foreign(&stack, ["demo/by-hand-7.zip".to_owned()]).await;
    stack.outcomes(schedule()).await;
    assert_eq!(heads() - before, 1, "the same bytes have the same tag");
}

#[tokio::test]
async fn deletions_that_the_deadline_ends_go_on_there_in_the_next_run() {
    let stack = Stack::new(OWN, &[("DELETE_ARTIFACTS", "true")], None);
    let names = ["a", "b", "c", "d"].map(|name| RepositoryName::new(name).expect("it is valid"));
    let entry = [("a", branchline_core::testkit::Entry::file("a"))];
    for name in &names {
        stack.fixture.codecommit.commit(name, "main", &entry);
    }
    stack.outcomes(schedule()).await;
    for name in &names {
        stack.fixture.codecommit.delete_repository(name);
    }
    let mut gone = Vec::new();
    for _ in &names {
        let context = Arc::clone(&stack.context);
        // Within the margin that is kept before the deadline.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(1);
        let answer = handle(context, schedule(), deadline).await;
        let answer = serde_json::to_value(answer.expect("it ends in time")).expect("it is JSON");
        let results = answer["results"].as_array().expect("it is a list");
        assert_eq!(results.len(), 1, "one folder in each run: {answer}");
        assert_eq!(results[0]["outcome"], "deleted");
        gone.push(results[0]["repository"].as_str().expect("text").to_owned());
    }
    assert_eq!(gone, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_request_for_a_repository_updates_all_of_its_branches() {
    let stack = Stack::new(OWN, &[("REPOSITORIES", "others-*")], None);
    stack.fixture.push("main", "hello");
    stack.fixture.push("other", "hello");
    let started = [pair("main", "started"), pair("other", "started")];
    assert_eq!(stack.outcomes(json!({"repository": "demo"})).await, started);
    let full = json!({"repository": "demo", "branch": "refs/heads/main"});
    assert_eq!(stack.outcomes(full).await, [pair("main", "unchanged")]);
}

#[tokio::test]
async fn an_event_wrapped_by_sns_and_sqs_is_handled() {
    let stack = Stack::new(OWN, &[], None);
    let tip = stack.fixture.push("main", "hello");
    let message = moved("main", tip).to_string();
    let notification = json!({"Type": "Notification", "Message": message}).to_string();
    let queued = json!({"Records": [{"eventSource": "aws:sqs", "body": notification}]});
    assert_eq!(stack.outcomes(queued).await, [pair("main", "started")]);
    let topic = json!({"Records": [{"EventSource": "aws:sns", "Sns": {"Message": message}}]});
    assert_eq!(stack.outcomes(topic).await, [pair("main", "unchanged")]);
}

#[tokio::test]
async fn the_answer_of_a_schedule_is_bounded_and_lists_changes_first() {
    let stack = Stack::new(OWN, &[("PIPELINE_NAME", "")], None);
    let first = stack.fixture.push("b0000", "hello");
    for number in 1..1100 {
        let name = format!("b{number:04}");
        stack
            .fixture
            .codecommit
            .set_branch(&repository(), &name, first);
    }
    let stack = Stack {
        context: stack.fixture.context(),
        ..stack
    };
    stack.send(schedule()).await.expect("every branch succeeds");
    stack.fixture.push("b1000", "changed");
    let answer = stack.send(schedule()).await.expect("every branch succeeds");
    assert_eq!(answer["counts"], json!({"uploaded": 1, "unchanged": 1099}));
    let results = answer["results"].as_array().expect("it is a list");
    assert_eq!(results.len(), branchline_core::answer::MAX_ITEMS);
    assert_eq!(results[0]["branch"], "b1000");
}
