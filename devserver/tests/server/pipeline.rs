//! CodePipeline through the SDK, on objects in the server's own S3.

use std::time::Duration;

use aws_sdk_codepipeline::error::ProvideErrorMetadata as _;
use aws_sdk_codepipeline::types::{
    PipelineExecution, PipelineExecutionStatus, PipelineVariable, SourceRevisionOverride,
    SourceRevisionType,
};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use branchline_dev::server::{Options, Server};
use serde_json::{Value, json};

use crate::support::{call_pipeline, codepipeline, dev, pipeline, quick, s3, zip};

async fn bucket(server: &Server, name: &str, versioned: bool) {
    let client = s3(server);
    client.create_bucket().bucket(name).send().await.unwrap();
    if versioned {
        let enabled = VersioningConfiguration::builder()
            .status(BucketVersioningStatus::Enabled)
            .build();
        client
            .put_bucket_versioning()
            .bucket(name)
            .versioning_configuration(enabled)
            .send()
            .await
            .unwrap();
    }
}

async fn put(server: &Server, key: &str, bytes: Vec<u8>, summary: &str) -> String {
    let put = s3(server)
        .put_object()
        .bucket("artifacts")
        .key(key)
        .metadata("codepipeline-artifact-revision-summary", summary)
        .body(ByteStream::from(bytes))
        .send()
        .await
        .unwrap();
    put.version_id().unwrap().to_owned()
}

async fn create(server: &Server, declaration: Value) {
    let (status, answer) =
        call_pipeline(server, "CreatePipeline", json!({ "pipeline": declaration })).await;
    assert_eq!(status, 200, "{answer}");
}

fn revision(kind: SourceRevisionType, value: &str) -> SourceRevisionOverride {
    SourceRevisionOverride::builder()
        .action_name("Source")
        .revision_type(kind)
        .revision_value(value)
        .build()
        .unwrap()
}

async fn finished(server: &Server, name: &str, id: &str) -> PipelineExecution {
    assert!(server.wait_until_idle(Duration::from_secs(20)).await);
    codepipeline(server)
        .get_pipeline_execution()
        .pipeline_name(name)
        .pipeline_execution_id(id)
        .send()
        .await
        .unwrap()
        .pipeline_execution
        .unwrap()
}

#[tokio::test]
async fn an_execution_reads_exactly_the_version_that_it_was_given() {
    let data = tempfile::tempdir().unwrap();
    let options = Options {
        data: Some(data.path().to_owned()),
        ..quick(vec![])
    };
    let server = Server::start(options.clone()).await.unwrap();
    bucket(&server, "artifacts", true).await;
    let old = put(&server, "demo/main.zip", zip("a", b"old"), "the old one").await;
    put(&server, "demo/main.zip", zip("a", b"new"), "the new one").await;
    create(
        &server,
        pipeline("demo", "artifacts", "elsewhere.zip", true),
    )
    .await;
    let client = codepipeline(&server);
    let started = client
        .start_pipeline_execution()
        .name("demo")
        .client_request_token("token-1")
        .source_revisions(revision(SourceRevisionType::S3ObjectVersionId, &old))
        .source_revisions(revision(SourceRevisionType::S3ObjectKey, "demo/main.zip"))
        .variables(
            PipelineVariable::builder()
                .name("BRANCH_NAME")
                .value("feature/a")
                .build()
                .unwrap(),
        )
        .send()
        .await
        .unwrap();
    let id = started.pipeline_execution_id().unwrap();
    let execution = finished(&server, "demo", id).await;
    assert_eq!(
        execution.status(),
        Some(&PipelineExecutionStatus::Succeeded)
    );
    let revision = &execution.artifact_revisions()[0];
    assert_eq!(revision.revision_id(), Some(old.as_str()));
    assert_eq!(revision.revision_summary(), Some("the old one"));
    assert!(revision.created().is_some());
    let variable = &execution.variables()[0];
    assert_eq!(variable.resolved_value(), Some("feature/a"));
    let trigger = execution.trigger().unwrap();
    assert_eq!(
        trigger.trigger_detail(),
        Some(server.credentials().principal_arn.as_str())
    );
    server.shutdown().await;

    let server = Server::start(options).await.unwrap();
    let kept = dev(&server, "GET", "executions", Value::Null).await;
    let source = &kept["executions"][0]["sources"][0];
    assert_eq!(source["bucket"], "artifacts");
    assert_eq!(source["key"], "demo/main.zip");
    assert_eq!(
        source["version_id"], old,
        "where the bytes came from outlives a restart"
    );
    assert_eq!(source["entries"], 1);
    server.shutdown().await;
}

#[tokio::test]
async fn without_a_revision_the_newest_object_of_the_configuration_is_read() {
    let server = Server::start(quick(vec![])).await.unwrap();
    bucket(&server, "artifacts", true).await;
    put(&server, "source.zip", zip("a", b"1"), "one").await;
    let newest = put(&server, "source.zip", zip("a", b"2"), "two").await;
    create(&server, pipeline("demo", "artifacts", "source.zip", false)).await;
    let client = codepipeline(&server);
    let started = client.start_pipeline_execution().name("demo").send();
    let started = started.await.unwrap();
    let id = started.pipeline_execution_id().unwrap();
    let execution = finished(&server, "demo", id).await;
    let found = execution.artifact_revisions()[0].revision_id();
    assert_eq!(found, Some(newest.as_str()));
    server.shutdown().await;
}

#[tokio::test]
async fn a_token_starts_one_execution_only() {
    let server = Server::start(quick(vec![])).await.unwrap();
    bucket(&server, "artifacts", true).await;
    let version = put(&server, "source.zip", zip("a", b"1"), "one").await;
    create(&server, pipeline("demo", "artifacts", "source.zip", false)).await;
    let start = |token: &str, version: &str| {
        json!({
            "name": "demo",
            "clientRequestToken": token,
            "sourceRevisions": [{
                "actionName": "Source",
                "revisionType": "S3_OBJECT_VERSION_ID",
                "revisionValue": version,
            }],
        })
    };
    let call = async |input| call_pipeline(&server, "StartPipelineExecution", input).await;
    let (_, first) = call(start("t-1", &version)).await;
    let (_, again) = call(start("t-1", &version)).await;
    assert_eq!(
        first, again,
        "the same token and parameters are the same execution"
    );
    let (_, other) = call(start("t-2", &version)).await;
    assert_ne!(first, other);
    let (status, error) = call(start("t-1", "another")).await;
    assert_eq!(
        (status, &error["__type"]),
        (400, &json!("ValidationException"))
    );
    assert!(server.wait_until_idle(Duration::from_secs(20)).await);
    assert_eq!(server.pipelines().executions().len(), 2);
    server.shutdown().await;
}

#[tokio::test]
async fn an_unreadable_source_fails_its_execution_with_the_reason() {
    let server = Server::start(quick(vec![])).await.unwrap();
    bucket(&server, "artifacts", true).await;
    bucket(&server, "plain", false).await;
    put(&server, "text.zip", b"no zip".to_vec(), "x").await;
    let mut broken = zip("a", &[7; 1000]);
    // The last byte of the entry's data: its checksum does not match.
    let at = broken.windows(4).position(|w| w == b"PK\x01\x02").unwrap() - 1;
    broken[at] ^= 0xff;
    put(&server, "broken.zip", broken, "x").await;
    for (name, bucket, key, why) in [
        (
            "no-object",
            "artifacts",
            "gone.zip",
            "s3://artifacts/gone.zip cannot be read",
        ),
        (
            "no-bucket",
            "nowhere",
            "a.zip",
            "s3://nowhere cannot be read",
        ),
        ("no-versions", "plain", "a.zip", "not versioned"),
        ("no-zip", "artifacts", "text.zip", "is not a readable zip"),
        (
            "broken",
            "artifacts",
            "broken.zip",
            "is not a readable zip: entry a",
        ),
    ] {
        create(&server, pipeline(name, bucket, key, false)).await;
        let client = codepipeline(&server);
        let started = client.start_pipeline_execution().name(name).send();
        let started = started.await.unwrap();
        let id = started.pipeline_execution_id().unwrap();
        let execution = finished(&server, name, id).await;
        assert_eq!(
            execution.status(),
            Some(&PipelineExecutionStatus::Failed),
            "{name}"
        );
        let summary = execution.status_summary().unwrap();
        assert!(summary.contains(why), "{name}: {summary}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_start_that_codepipeline_refuses_is_refused() {
    let server = Server::start(quick(vec![])).await.unwrap();
    create(&server, pipeline("v2", "artifacts", "a.zip", false)).await;
    let mut v1 = pipeline("v1", "artifacts", "a.zip", false);
    v1["pipelineType"] = "V1".into();
    v1["variables"] = json!([]);
    create(&server, v1).await;
    let mut strict = pipeline("strict", "artifacts", "a.zip", false);
    strict["variables"] = json!([{ "name": "COMMIT_ID" }]);
    create(&server, strict).await;
    let revision = |action: &str, kind: &str| json!([{ "actionName": action, "revisionType": kind, "revisionValue": "x" }]);
    for (input, code, part) in [
        (
            json!({ "name": "gone" }),
            "PipelineNotFoundException",
            "'gone'",
        ),
        (json!({ "name": "a b" }), "ValidationException", "pattern"),
        (json!({}), "ValidationException", "'name'"),
        (
            json!({ "name": "v2", "clientRequestToken": "a/b" }),
            "ValidationException",
            "clientRequestToken",
        ),
        (
            json!({ "name": "v2", "sourceRevisions": revision("Sauce", "S3_OBJECT_VERSION_ID") }),
            "ValidationException",
            "no source action named Sauce",
        ),
        (
            json!({ "name": "v2", "sourceRevisions": revision("Approve", "S3_OBJECT_VERSION_ID") }),
            "ValidationException",
            "no source action named Approve",
        ),
        (
            json!({ "name": "v2", "sourceRevisions": revision("Source", "S3_OBJECT_KEY") }),
            "ValidationException",
            "AllowOverrideForS3ObjectKey",
        ),
        (
            json!({ "name": "v2", "sourceRevisions": revision("Source", "COMMIT_ID") }),
            "ValidationException",
            "does not fit",
        ),
        (
            json!({ "name": "v2", "variables": [{ "name": "NONE", "value": "x" }] }),
            "ValidationException",
            "does not declare",
        ),
        (
            json!({ "name": "v1", "variables": [{ "name": "BRANCH_NAME", "value": "x" }] }),
            "ValidationException",
            "type V2",
        ),
        (
            json!({ "name": "strict" }),
            "ValidationException",
            "no default",
        ),
    ] {
        let (status, error) = call_pipeline(&server, "StartPipelineExecution", input.clone()).await;
        assert_eq!(status, 400, "{input}");
        assert_eq!(error["__type"], code, "{input}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(part), "{input}: {message}");
    }
    assert!(
        server.pipelines().executions().is_empty(),
        "nothing was started"
    );
    server.shutdown().await;
}

#[tokio::test]
async fn pipelines_are_created_changed_listed_and_deleted() {
    let server = Server::start(quick(vec![])).await.unwrap();
    let client = codepipeline(&server);
    create(&server, pipeline("b", "artifacts", "a.zip", false)).await;
    create(&server, pipeline("a", "artifacts", "a.zip", false)).await;
    let again = json!({ "pipeline": pipeline("a", "artifacts", "a.zip", false) });
    let (_, error) = call_pipeline(&server, "CreatePipeline", again.clone()).await;
    assert_eq!(error["__type"], "PipelineNameInUseException");
    let found = client.get_pipeline().name("a").send().await.unwrap();
    assert_eq!(found.pipeline().unwrap().version(), Some(1));
    let metadata = found.metadata().unwrap();
    assert_eq!(
        metadata.pipeline_arn(),
        Some("arn:aws:codepipeline:us-east-1:123456789012:a")
    );
    assert!(metadata.created().is_some());
    let (_, updated) = call_pipeline(&server, "UpdatePipeline", again).await;
    assert_eq!(updated["pipeline"]["version"], 2);
    let listed = client.list_pipelines().send().await.unwrap();
    let names: Vec<_> = listed.pipelines().iter().filter_map(|p| p.name()).collect();
    assert_eq!(names, ["a", "b"]);
    client.delete_pipeline().name("a").send().await.unwrap();
    let error = client.get_pipeline().name("a").send().await.unwrap_err();
    assert!(error.into_service_error().is_pipeline_not_found_exception());
    let mut one_stage = pipeline("c", "artifacts", "a.zip", false);
    one_stage["stages"].as_array_mut().unwrap().pop();
    let (_, error) =
        call_pipeline(&server, "CreatePipeline", json!({ "pipeline": one_stage })).await;
    assert_eq!(error["__type"], "InvalidStructureException");
    server.shutdown().await;
}

#[tokio::test]
async fn executions_are_listed_newest_first_in_pages() {
    let server = Server::start(quick(vec![])).await.unwrap();
    bucket(&server, "artifacts", true).await;
    put(&server, "a.zip", zip("a", b"1"), "one").await;
    create(&server, pipeline("demo", "artifacts", "a.zip", false)).await;
    let client = codepipeline(&server);
    let mut ids = Vec::new();
    for _ in 0..5 {
        let started = client.start_pipeline_execution().name("demo").send();
        ids.push(started.await.unwrap().pipeline_execution_id.unwrap());
    }
    assert!(server.wait_until_idle(Duration::from_secs(20)).await);
    ids.reverse();
    let mut pages = client
        .list_pipeline_executions()
        .pipeline_name("demo")
        .max_results(2)
        .into_paginator()
        .send();
    let mut listed = Vec::new();
    let mut sizes = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        sizes.push(page.pipeline_execution_summaries().len());
        for summary in page.pipeline_execution_summaries() {
            assert_eq!(summary.source_revisions()[0].action_name(), "Source");
            listed.push(summary.pipeline_execution_id().unwrap().to_owned());
        }
    }
    assert_eq!(listed, ids);
    assert_eq!(sizes, [2, 2, 1]);
    server.shutdown().await;
}

#[tokio::test]
async fn a_limit_of_executions_is_kept() {
    let mut options = quick(vec![]);
    options.max_concurrent_executions = Some(0);
    let server = Server::start(options).await.unwrap();
    create(&server, pipeline("demo", "artifacts", "a.zip", false)).await;
    let client = codepipeline(&server);
    let error = client.start_pipeline_execution().name("demo").send().await;
    let error = error.unwrap_err().into_service_error();
    assert_eq!(
        error.code(),
        Some("ConcurrentPipelineExecutionsLimitExceededException")
    );
    server.shutdown().await;
}
