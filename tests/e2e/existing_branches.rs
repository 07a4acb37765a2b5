//! A stack that is deployed where branches exist: plan, first schedules, and the next push.

use anyhow::{Result, anyhow};
use branchline_dev::faults::Service;
use branchline_dev::s3::store::Query;
use branchline_test_support::git;
use branchline_tests::environment::{BUCKET, LIFECYCLE, Setup, TestEnvironment, UPDATE};
use serde_json::{Value, json};

const BRANCHES: [&str; 3] = ["main", "release/1", "release/2"];

/// A stage with the default of `EXISTING_BRANCHES`, whose branches are older than its functions.
async fn stage(
    repositories: &[&str],
    branches: &[&str],
) -> Result<(TestEnvironment, tempfile::TempDir)> {
    let stage = TestEnvironment::start(Setup {
        update: vec![("EXISTING_BRANCHES", String::new())],
        faults: vec![
            "events:lose,rate=1.0"
                .parse()
                .map_err(|why| anyhow!("{why}"))?,
        ],
        ..Setup::default()
    })
    .await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    git::commit(work.path(), &[("a", "1")], "First")?;
    for name in repositories {
        stage.create_repository(name).await?;
        let refspecs = branches.iter();
        let refspecs: Vec<String> = refspecs
            .map(|branch| format!("main:refs/heads/{branch}"))
            .collect();
        let refspecs: Vec<&str> = refspecs.iter().map(String::as_str).collect();
        stage.push(work.path(), name, &refspecs).await?;
    }
    stage.wait_until_idle().await?;
    stage.server.faults().clear();
    Ok((stage, work))
}

async fn call(stage: &TestEnvironment, function: &str, event: &Value) -> Result<Value> {
    let answer = stage.call(function, event).await;
    answer.map_err(|error| anyhow!("{error}"))
}

fn artifacts(stage: &TestEnvironment) -> Vec<String> {
    let query = Query {
        limit: 1000,
        ..Query::default()
    };
    let bucket = stage.server.store().bucket(BUCKET);
    let page = bucket.expect("the bucket is there").list_versions(&query);
    page.versions.into_iter().map(|found| found.key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_branches_of_a_first_deployment_are_archived_in_few_invocations() -> Result<()> {
    let names: Vec<String> = (0..60).map(|number| format!("b{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (stage, _work) = stage(&["one", "two"], &names).await?;
    call(&stage, LIFECYCLE, &json!({"schedule": true})).await?;
    stage.wait_until_idle().await?;
    let invoked = stage.requests_of(LIFECYCLE, Service::Lambda);
    assert_eq!(invoked, 4, "of 120 branches, 50 at most each time");
    assert_eq!(artifacts(&stage).len(), 120);
    assert!(stage.executions().is_empty());
    Ok(())
}

/// "The first schedule of a stack starts no pipelines on branches that were there before."
#[tokio::test(flavor = "multi_thread")]
async fn branches_that_are_older_than_the_stack_are_archived_and_started_by_their_next_push()
-> Result<()> {
    let (stage, work) = stage(&["demo"], &BRANCHES).await?;
    let plan = json!({"schedule": true, "plan": true});
    let planned = call(&stage, LIFECYCLE, &plan).await?;
    assert_eq!(planned["counts"]["created"], 3);
    assert_eq!(planned["counts"]["invoked"], 3);
    let planned = call(&stage, UPDATE, &plan).await?;
    assert_eq!(planned["counts"], json!({"uploaded": 3}));
    stage.wait_until_idle().await?;
    assert!(stage.triggers("demo").is_empty() && artifacts(&stage).is_empty());

    call(&stage, LIFECYCLE, &json!({"schedule": true})).await?;
    stage.wait_until_idle().await?;
    let expected = BRANCHES.map(|branch| format!("demo/{branch}.zip"));
    assert_eq!(artifacts(&stage), expected);
    assert_eq!(stage.triggers("demo").len(), 3);
    let answer = call(&stage, UPDATE, &json!({"schedule": true})).await?;
    assert_eq!(answer["counts"], json!({"unchanged": 3}));
    assert!(stage.executions().is_empty(), "no pipeline is started");

    git::commit(work.path(), &[("a", "2")], "Second")?;
    let refspecs = ["main:refs/heads/release/1", "main:refs/heads/feature/new"];
    stage.push(work.path(), "demo", &refspecs).await?;
    stage.wait_until_idle().await?;
    assert_eq!(stage.executions().len(), 2, "a moved branch and a new one");
    let answer = call(&stage, UPDATE, &plan).await?;
    assert_eq!(answer["counts"], json!({"unchanged": 4}));
    Ok(())
}
