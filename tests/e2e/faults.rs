//! Errors of AWS, injected by the development server, are recovered from.

use std::str::FromStr as _;

use anyhow::{Context as _, Result};
use branchline_dev::faults::{Rule, Service};
use branchline_test_support::git;
use branchline_tests::compare;
use branchline_tests::environment::{BUCKET, Setup, TestEnvironment};

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts
        .iter()
        .map(|text| Rule::from_str(text).expect("the rule is well formed"))
        .collect()
}

/// Pushes 60 files under faults, and sees that the branch ends as one execution of it.
async fn survives(faults: &[&str], source: &str) -> Result<TestEnvironment> {
    let stage = TestEnvironment::start(Setup {
        faults: rules(faults),
        update: vec![("ARCHIVE_SOURCE", source.to_owned())],
        ..Setup::default()
    })
    .await?;
    stage.create_repository("demo").await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    let names: Vec<String> = (0..60)
        .map(|n| format!("folder-{}/file-{n}", n % 7))
        .collect();
    let files: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), name.as_str()))
        .collect();
    let tip = git::commit(work.path(), &files, "Sixty files")?;
    stage.push(work.path(), "demo", &["main"]).await?;
    stage.wait_until_idle().await?;
    let executions = stage.executions();
    assert_eq!(
        executions.len(),
        1,
        "{:?}",
        stage.server.queue().dead_letters()
    );
    compare::with_git_archive(&stage.source_of(&executions[0])?, work.path(), &tip)?;
    assert!(
        stage.server.queue().dead_letters().is_empty(),
        "nothing is given up"
    );
    let uploads = stage
        .server
        .store()
        .uploads(BUCKET)
        .expect("the bucket is there");
    assert!(uploads.is_empty(), "no upload is left behind");
    Ok(stage)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_api_receives_fewer_requests() -> Result<()> {
    let stage = survives(&["codecommit:throttle,every=3"], "api").await?;
    let blobs = stage
        .server
        .requests()
        .count(Service::CodeCommit, "GetBlob");
    assert!(blobs > 60, "some were asked again: {blobs}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_every_service_are_retried() -> Result<()> {
    let faults = [
        "codecommit:error,every=7",
        "s3:error,every=3",
        "codepipeline:error,nth=1",
    ];
    for source in ["api", "git"] {
        let survived = survives(&faults, source).await;
        survived.context(source)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_come_twice_start_one_execution() -> Result<()> {
    survives(&["events:double,rate=1.0"], "auto").await?;
    Ok(())
}
