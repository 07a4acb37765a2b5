//! Requests of the command line, counted beside those of the function that does the same.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use branchline_core::git::HashKind;
use branchline_test_support::git;
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::Repo;
use branchline_tests::environment::{MIGRATION, Setup, TestEnvironment};
use serde_json::json;

/// The bucket of the mirrors.
const BUCKET: &str = "mirrors";

/// Numbers of requests by service and operation.
type Requests = BTreeMap<String, u64>;

/// Counts the requests of all clients until now.
fn requests(stage: &TestEnvironment) -> Requests {
    let mut counts = Requests::new();
    for line in stage.server.requests().lines() {
        let name = format!("{:?} {}", line.service, line.operation);
        *counts.entry(name).or_default() += line.count;
    }
    counts
}

/// Returns the requests since `before`.
fn since(stage: &TestEnvironment, before: &Requests) -> Requests {
    let mut counts = requests(stage);
    for (name, count) in &mut counts {
        *count -= before.get(name).unwrap_or(&0);
    }
    counts.retain(|_, count| *count > 0);
    counts
}

/// Mirrors by the function, and returns the requests.
async fn by_function(stage: &TestEnvironment, mapping: &serde_json::Value) -> Result<Requests> {
    let before = requests(stage);
    let answer = stage
        .call(MIGRATION, &json!({ "mappings": [mapping] }))
        .await;
    let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(answer["status"] == "complete", "{answer}");
    Ok(since(stage, &before))
}

/// Runs the command line, and returns the requests.
async fn by_command_line(stage: &TestEnvironment, words: &[&str]) -> Result<Requests> {
    let home = tempfile::tempdir()?;
    let mut command = stage.branchline(home.path());
    command.args(words);
    let before = requests(stage);
    tokio::task::spawn_blocking(move || git::run(&mut command)).await??;
    Ok(since(stage, &before))
}

/// Returns the number of all requests.
fn total(requests: &Requests) -> u64 {
    requests.values().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_and_a_migration_take_no_more_requests_than_those_of_the_function() -> Result<()> {
    let stage = TestEnvironment::start(Setup {
        migration: Some(Vec::new()),
        // Nothing else is at work.
        event_rules: Vec::new(),
        ..Setup::default()
    })
    .await?;
    stage.create_public_bucket(BUCKET)?;
    let repo = Repo::with_history(HashKind::Sha1, 40, 6);
    let server = GitServer::new(&repo);
    let from = server.url();
    let s3 = |name: &str| format!("s3://{BUCKET}/{name}");
    for layout in ["dumb", "bundle", "loose"] {
        let (function, terminal) = (s3(&format!("f-{layout}")), s3(&format!("t-{layout}")));
        // Once with everything, and again with nothing new.
        for run in ["first", "again"] {
            let mapping = json!({ "source": from, "target": function, "layout": layout });
            let expected = by_function(&stage, &mapping).await?;
            let words = ["mirror", &from, &terminal, "--layout", layout];
            let found = by_command_line(&stage, &words).await?;
            let is_bounded = total(&found) <= total(&expected);
            assert!(is_bounded, "{layout}, {run}: {found:?}, not {expected:?}");
        }
    }
    for name in ["function", "terminal"] {
        stage.create_repository(name).await?;
    }
    for run in ["first", "again"] {
        let mapping = json!({ "source": from, "target": "codecommit://function" });
        let expected = by_function(&stage, &mapping).await?;
        let target = "codecommit://terminal";
        let words = ["migrate", "--local", &from, "--remote", target];
        let found = by_command_line(&stage, &words).await?;
        let is_bounded = total(&found) <= total(&expected);
        assert!(is_bounded, "migration, {run}: {found:?}, not {expected:?}");
    }
    Ok(())
}
