//! The normal flow: from an event to an artifact and an execution.

use branchline_core::ErrorKind;
use branchline_core::name::BucketName;
use branchline_core::pipeline::SourceRevision;
use branchline_core::testkit::PipelineOptions;
use serde_json::{Value, json};

use crate::fixture::*;

#[tokio::test]
async fn a_moved_branch_is_archived_and_the_pipeline_started_on_exactly_this_version() {
    let fixture = UpdateFixture::new(&[("PIPELINE_VARIABLES", "true")]);
    let tip = fixture.push("feature/login", "hello");
    let results = fixture.results(moved("feature/login", tip)).await;

    let zip = fixture.latest("demo/feature/login.zip");
    assert_eq!(
        files(&zip),
        [
            ("README", "hello"),
            ("bin/", ""),
            ("bin/run", "#!/bin/sh\n"),
            ("link", "README")
        ]
        .map(|(path, text)| (path.to_owned(), text.to_owned()))
        .into()
    );
    let executions = fixture.executions();
    let [execution] = executions.as_slice() else {
        panic!("exactly one execution starts: {executions:?}");
    };
    assert_eq!(
        execution.request.source,
        Some(SourceRevision {
            action_name: "Source".into(),
            object_key: Some("demo/feature/login.zip".into()),
            object_version_id: zip.id.as_deref().map(str::to_owned),
            commit_id: None,
        })
    );
    let variables = [
        ("REPOSITORY_NAME", "demo"),
        ("BRANCH_NAME", "feature/login"),
        ("COMMIT_ID", &tip.to_string()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(execution.request.variables, variables);
    assert_eq!(zip.tags["branchline-execution"], execution.id);
    assert_eq!(
        zip.metadata.content_type.as_deref(),
        Some("application/zip")
    );
    let user = &zip.metadata.user;
    assert_eq!(user["branchline-repository"], "demo");
    assert_eq!(user["branchline-branch"], "feature/login");
    assert_eq!(user["branchline-commit"], tip.to_string());
    assert_eq!(
        user["codepipeline-artifact-revision-summary"],
        format!("{} Say hello", &tip.to_string()[..7])
    );
    assert_eq!(
        results,
        [json!({
            "repository": "demo",
            "branch": "feature/login",
            "commit": tip.to_string(),
            "outcome": "started",
            "artifact": {
                "bucket": "artifacts",
                "key": "demo/feature/login.zip",
                "version_id": zip.id.as_deref(),
                "etag": zip.etag.as_str(),
                "size_bytes": zip.body.as_ref().map(bytes::Bytes::len),
                "files": 3,
            },
            "execution_id": execution.id,
        })]
    );
    fixture.assert_no_upload_is_left();
}

#[tokio::test]
async fn every_record_and_reference_has_a_result() {
    let fixture = UpdateFixture::new(&[("BRANCHES_EXCLUDE", "wip/**")]);
    let tip = fixture.push("main", "a");
    let other = fixture.push("fix/crash", "b");
    let hidden = fixture.push("wip/x/y", "c");
    let mut event = records(&[reference("main", tip), reference("fix/crash", other)]);
    let mut deleted = reference("gone", tip);
    deleted["deleted"] = json!(true);
    let more = records(&[
        reference("wip/x/y", hidden),
        deleted,
        json!({ "commit": tip.to_string(), "ref": "refs/tags/v1", "created": true }),
        json!({ "commit": tip.to_string(), "ref": "refs/notes/commits" }),
    ]);
    let record = more["Records"][0].clone();
    event["Records"]
        .as_array_mut()
        .expect("it is a list")
        .push(record);

    let mut results = fixture.results(event).await;
    results.sort_by_key(|result| result["branch"].to_string());
    assert_eq!(
        outcomes(&results),
        [
            ("fix/crash", "started"),
            ("gone", "skipped"),
            ("main", "started"),
            ("refs/notes/commits", "skipped"),
            ("refs/tags/v1", "skipped"),
            ("wip/x/y", "skipped"),
        ]
    );
    for result in results
        .iter()
        .filter(|result| result["outcome"] == "skipped")
    {
        assert!(result["reason"].is_string(), "a reason is given: {result}");
    }
    assert_eq!(fixture.executions().len(), 2);
}

#[tokio::test]
async fn custom_data_sets_bucket_key_and_pipeline() {
    let fixture = UpdateFixture::new(&[("CUSTOM_DATA", "trust")]);
    let other = BucketName::new("others").expect("it is valid");
    fixture.store.create_bucket(&other, true);
    fixture
        .pipelines
        .set_pipeline(&pipeline("login"), PipelineOptions::default());
    let tip = fixture.push("main", "hello");
    let mut event = moved("main", tip);
    let data =
        json!({"bucket": "others", "key": "{commit}/x.zip", "pipeline_name": "login", "more": 1});
    event["Records"][0]["customData"] = json!(data.to_string());
    let results = fixture.results(event.clone()).await;
    let key = format!("{tip}/x.zip");
    assert_eq!(results[0]["artifact"]["bucket"], "others");
    assert_eq!(results[0]["artifact"]["key"], json!(key));
    assert_eq!(fixture.executions()[0].request.pipeline, pipeline("login"));
    assert_eq!(fixture.store.versions(&other, &key).len(), 1);

    event["Records"][0]["customData"] = json!("just text");
    let results = fixture.results(event.clone()).await;
    assert_eq!(
        results[0]["artifact"]["bucket"], "artifacts",
        "other text sets nothing"
    );

    event["Records"][0]["customData"] = json!(r#"{"pipeline_name":"a/b"}"#);
    let failure = fixture.failure(event).await;
    assert_eq!(failure.kind(), ErrorKind::InvalidEvent);
    assert!(
        failure.message().contains("customData.pipeline_name"),
        "{}",
        failure.message()
    );
}

#[tokio::test]
async fn a_second_pipeline_on_an_artifact_is_started() {
    let fixture = UpdateFixture::new(&[("CUSTOM_DATA", "trust")]);
    fixture
        .pipelines
        .set_pipeline(&pipeline("second"), PipelineOptions::default());
    let tip = fixture.push("main", "hello");
    fixture.results(moved("main", tip)).await;
    let mut event = moved("main", tip);
    event["Records"][0]["customData"] = json!(r#"{"pipeline_name":"second"}"#);
    let results = fixture.results(event).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    assert_eq!(
        fixture.versions("demo/main.zip").len(),
        1,
        "it is archived once"
    );
}

#[tokio::test]
async fn one_key_for_all_branches_is_pinned_by_version() {
    let fixture = UpdateFixture::new(&[("ARTIFACT_KEY", "source.zip")]);
    let options = PipelineOptions {
        allow_key_override: false,
        ..PipelineOptions::default()
    };
    fixture.pipelines.set_pipeline(&pipeline("deploy"), options);
    for branch in ["main", "next"] {
        let tip = fixture.push(branch, branch);
        let results = fixture.results(moved(branch, tip)).await;
        assert_eq!(outcomes(&results), [(branch, "started")]);
    }
    let versions = fixture.versions("source.zip");
    let pinned: Vec<_> = fixture
        .executions()
        .into_iter()
        .map(|execution| execution.request.source)
        .collect();
    for (version, source) in versions.iter().zip(&pinned) {
        let source = source.as_ref().expect("it is pinned");
        assert_eq!(source.object_key, None);
        assert_eq!(
            source.object_version_id,
            version.id.as_deref().map(str::to_owned)
        );
    }
    assert_eq!((versions.len(), pinned.len()), (2, 2));
}

#[tokio::test]
async fn changed_settings_make_a_new_artifact() {
    let mut fixture = UpdateFixture::new(&[]);
    let tip = fixture.push("main", "hello");
    fixture.results(moved("main", tip)).await;
    fixture.settings.insert("ARCHIVE_PREFIX", "src/");
    fixture.settings.insert("ARCHIVE_COMMIT_INFO", "true");
    let results = fixture.results(moved("main", tip)).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    let files = files(&fixture.latest("demo/main.zip"));
    let info: Value = serde_json::from_str(&files["commit_info.json"]).expect("it is JSON");
    assert_eq!(info["commitId"], json!(tip.to_string()));
    assert_eq!(info["branchName"], "main");
    assert_eq!(info["RepositoryName"], "demo");
    assert_eq!(info["committer"]["name"], "A U Thor");
    assert_eq!(files["src/README"], "hello");
}

#[tokio::test]
async fn without_a_pipeline_the_artifact_is_only_uploaded() {
    let mut fixture = UpdateFixture::new(&[]);
    fixture.settings.remove("PIPELINE_NAME");
    let plain = BucketName::new("plain").expect("it is valid");
    fixture.store.create_bucket(&plain, false);
    fixture.settings.insert("ARTIFACT_BUCKET", "plain");
    let tip = fixture.push("main", "hello");
    let results = fixture.results(moved("main", tip)).await;
    assert_eq!(outcomes(&results), [("main", "uploaded")]);
    assert_eq!(results[0]["artifact"]["version_id"], Value::Null);
    let results = fixture.results(moved("main", tip)).await;
    assert_eq!(outcomes(&results), [("main", "unchanged")]);
}

#[tokio::test]
async fn a_trigger_test_succeeds_without_calls() {
    let fixture = UpdateFixture::new(&[]);
    let tip = fixture.push("main", "hello");
    let mut event = moved("main", tip);
    event["Records"][0]["eventName"] = json!("TriggerEventTest");
    assert_eq!(fixture.results(event).await, Vec::<Value>::new());
    assert_eq!(fixture.codecommit.traffic().calls(), Vec::<&str>::new());
}
