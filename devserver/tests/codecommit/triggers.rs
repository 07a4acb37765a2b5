//! Triggers: storing, checks and `TestRepositoryTriggers`.

use std::sync::{Arc, Mutex};

use aws_sdk_codecommit::types::{RepositoryTrigger, RepositoryTriggerEventEnum};
use branchline_dev::codecommit::{Limits, TriggerTest, TriggerTester};
use serde_json::{Value, json};

use crate::support::{PRINCIPAL, Server, ZERO, run};

const ARN: &str = "arn:aws:lambda:eu-west-1:123456789012:function:update";

fn trigger(name: &str) -> Value {
    json!({
        "name": name, "destinationArn": ARN, "branches": ["main"], "events": ["all"],
    })
}

fn with(member: &str, value: Value) -> Value {
    let mut changed = trigger("t");
    changed[member] = value;
    json!([changed])
}

fn put(triggers: &Value) -> Value {
    json!({ "repositoryName": "demo", "triggers": triggers })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_of_triggers_has_its_error() {
    let server = Server::with_demo().await;
    let eleven = |name: &str| (0..11).map(|n| format!("{name}{n}")).collect::<Vec<_>>();
    let many: Vec<Value> = eleven("t").iter().map(|name| trigger(name)).collect();
    let lambda = |rest: &str| with("destinationArn", format!("arn:aws:{rest}").into());
    let cases = [
        (json!(null), "RepositoryTriggersListRequiredException"),
        (json!(many), "MaximumRepositoryTriggersExceededException"),
        (
            with("name", json!(null)),
            "RepositoryTriggerNameRequiredException",
        ),
        (
            with("name", "".into()),
            "RepositoryTriggerNameRequiredException",
        ),
        (
            with("name", "a b".into()),
            "InvalidRepositoryTriggerNameException",
        ),
        (
            with("name", "a,b".into()),
            "InvalidRepositoryTriggerNameException",
        ),
        (
            with("name", "n".repeat(101).into()),
            "InvalidRepositoryTriggerNameException",
        ),
        (
            json!([trigger("t"), trigger("t")]),
            "InvalidRepositoryTriggerNameException",
        ),
        (
            with("destinationArn", json!(null)),
            "RepositoryTriggerDestinationArnRequiredException",
        ),
        (
            with("destinationArn", "update".into()),
            "InvalidRepositoryTriggerDestinationArnException",
        ),
        (
            lambda("s3:::bucket"),
            "InvalidRepositoryTriggerDestinationArnException",
        ),
        (
            lambda("lambda:eu-west-1:12:function:f"),
            "InvalidRepositoryTriggerDestinationArnException",
        ),
        (
            lambda("lambda:us-east-1:123456789012:function:f"),
            "InvalidRepositoryTriggerRegionException",
        ),
        (
            lambda("sns:us-east-1:123456789012:topic"),
            "InvalidRepositoryTriggerRegionException",
        ),
        (
            with("customData", "x".repeat(1001).into()),
            "InvalidRepositoryTriggerCustomDataException",
        ),
        (
            with("branches", json!(null)),
            "RepositoryTriggerBranchNameListRequiredException",
        ),
        (
            with("branches", json!(eleven("b"))),
            "MaximumBranchesExceededException",
        ),
        (
            with("branches", json!(["a..b"])),
            "InvalidRepositoryTriggerBranchNameException",
        ),
        (
            with("events", json!(null)),
            "RepositoryTriggerEventsListRequiredException",
        ),
        (
            with("events", json!([])),
            "InvalidRepositoryTriggerEventsException",
        ),
        (
            with("events", json!(["push"])),
            "InvalidRepositoryTriggerEventsException",
        ),
        (
            with("events", json!(["all", "createReference"])),
            "InvalidRepositoryTriggerEventsException",
        ),
        (json!("x"), "SerializationException"),
        (json!([1]), "SerializationException"),
    ];
    let kept = server
        .call("PutRepositoryTriggers", put(&json!([trigger("kept")])))
        .await
        .unwrap();
    for (triggers, code) in cases {
        for operation in ["PutRepositoryTriggers", "TestRepositoryTriggers"] {
            let error = server.error(operation, put(&triggers)).await;
            assert_eq!(error.code, code, "{triggers}: {}", error.message);
        }
    }
    let set = server.service.triggers("demo").unwrap();
    assert_eq!(
        set.triggers[0].name, "kept",
        "a refused set changes nothing"
    );
    assert_eq!(kept["configurationId"], set.configuration_id);
    for good in [
        with("branches", json!([])),
        with("customData", "x".repeat(1000).into()),
        lambda("lambda:eu-west-1:123456789012:function:f:live"),
        lambda("sns:eu-west-1:123456789012:topic"),
        json!([]),
    ] {
        server
            .call("PutRepositoryTriggers", put(&good))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quotas_can_be_set() {
    let limits = Limits {
        triggers: 1,
        branches_per_trigger: 0,
        ..Limits::default()
    };
    let server = Server::start_with(limits).await;
    let input = json!({ "repositoryName": "demo" });
    server.call("CreateRepository", input).await.unwrap();
    let two = put(&json!([trigger("a"), trigger("b")]));
    let error = server.error("PutRepositoryTriggers", two).await;
    assert_eq!(error.code, "MaximumRepositoryTriggersExceededException");
    let error = server
        .error("PutRepositoryTriggers", put(&json!([trigger("a")])))
        .await;
    assert_eq!(error.code, "MaximumBranchesExceededException");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_reads_the_triggers_that_it_wrote_under_a_new_id() {
    let server = Server::with_demo().await;
    let sdk = server.sdk();
    let before = sdk
        .get_repository_triggers()
        .repository_name("demo")
        .send()
        .await
        .unwrap();
    assert!(
        before.triggers().is_empty(),
        "a new repository has no triggers"
    );
    let written = RepositoryTrigger::builder()
        .name("all")
        .destination_arn(ARN)
        .custom_data("{}")
        .set_branches(Some(Vec::new()))
        .events(RepositoryTriggerEventEnum::CreateReference)
        .events(RepositoryTriggerEventEnum::DeleteReference)
        .build()
        .unwrap();
    let put = sdk.put_repository_triggers().repository_name("demo");
    let put = put.triggers(written.clone()).send().await.unwrap();
    let read = sdk
        .get_repository_triggers()
        .repository_name("demo")
        .send()
        .await
        .unwrap();
    assert_eq!(read.triggers(), [written]);
    assert_eq!(read.configuration_id(), put.configuration_id());
    assert_ne!(read.configuration_id(), before.configuration_id());
}

#[derive(Default)]
struct Tester(Mutex<Vec<TriggerTest>>);

#[async_trait::async_trait]
impl TriggerTester for Tester {
    async fn test(&self, test: &TriggerTest) -> Result<(), String> {
        self.0.lock().unwrap().push(test.clone());
        if test.trigger.name == "bad" {
            return Err("no such function".into());
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_of_triggers_go_to_the_tester_with_the_last_commit() {
    let server = Server::with_demo().await;
    let input = put(&json!([trigger("good"), trigger("bad")]));
    let output = server
        .call("TestRepositoryTriggers", input.clone())
        .await
        .unwrap();
    assert_eq!(
        output["failedExecutions"].as_array().unwrap().len(),
        2,
        "nobody delivers yet"
    );
    let tester = Arc::new(Tester::default());
    server
        .service
        .set_trigger_tester(Arc::<Tester>::clone(&tester));
    let output = server
        .call("TestRepositoryTriggers", input.clone())
        .await
        .unwrap();
    assert_eq!(output["successfulExecutions"], json!(["good"]));
    let failed = json!([{ "trigger": "bad", "failureMessage": "no such function" }]);
    assert_eq!(output["failedExecutions"], failed);
    let local = crate::push::work(&server);
    run(
        &local,
        &["push", "--quiet", &server.git_url("demo"), "main:dev"],
    );
    server.call("TestRepositoryTriggers", input).await.unwrap();
    let sent = tester.0.lock().unwrap();
    assert_eq!(
        sent[0].commit, ZERO,
        "an empty repository has no last commit"
    );
    assert_eq!(sent[2].commit, run(&local, &["rev-parse", "main"]));
    assert_eq!(sent[2].reference, "refs/heads/dev");
    assert_eq!(sent[2].principal_arn, PRINCIPAL);
    let stored = server.service.triggers("demo").unwrap();
    assert!(stored.triggers.is_empty(), "a test stores nothing");
}
