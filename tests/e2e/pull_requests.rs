//! Pull requests on the development server: AWS's own clients, and the result of a pipeline that
//! comes back by the rule of the template.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use branchline_core::git::HashKind;
use branchline_test_support::git;
use branchline_test_support::repo::Repo;
use branchline_tests::environment::{MIGRATION, PIPELINE, Setup, TestEnvironment, UPDATE};
use branchline_tests::template::Template;
use serde_json::{Value, json};

use super::migration::private;

fn python() -> Option<PathBuf> {
    let folder = std::env::var_os("BRANCHLINE_VENV").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: BRANCHLINE_VENV is not set; `cargo xtask test` makes that environment");
    }
    Some(folder?.join("bin/python"))
}

async fn output(mut command: Command) -> Result<String> {
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {stderr}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// Makes a repository with `main`, and a commit on the branch `pull/1`, whose artifact has the key
/// of that of pull request 1.
pub(super) async fn repository(stage: &TestEnvironment, work: &Path) -> Result<()> {
    stage.create_repository("demo").await?;
    git::init(work)?;
    git::commit(work, &[("a.txt", "one\n")], "First")?;
    stage.push(work, "demo", &["main"]).await?;
    git::commit(work, &[("b.txt", "two\n")], "Second")?;
    stage.push(work, "demo", &["main:pull/1"]).await?;
    stage.wait_until_idle().await
}

pub(super) async fn create(stage: &TestEnvironment) -> Result<Value> {
    let target = json!({ "repositoryName": "demo", "sourceReference": "pull/1" });
    let input = json!({ "title": "Second", "targets": [target] });
    let created = stage.codecommit("CreatePullRequest", input).await?;
    ensure!(created["pullRequest"]["pullRequestId"] == "1", "{created}");
    Ok(created)
}

/// Calls EventBridge.
fn events(stage: &TestEnvironment, operation: &str, input: &Value) -> Result<Value> {
    let called = stage.server.delivery().call(operation, input);
    called.map_err(|error| anyhow::anyhow!("{}: {}", error.code, error.message))
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_and_the_aws_cli_review_and_merge_a_pull_request() -> Result<()> {
    let Some(python) = python() else {
        return Ok(());
    };
    let stage = TestEnvironment::start(Setup::default()).await?;
    let work = tempfile::tempdir()?;
    repository(&stage, work.path()).await?;
    let mut script = Command::new(&python);
    script.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/pull_requests.py"));
    script.arg(stage.server.account().function_arn(UPDATE));
    stage.sign_in(&mut script);
    ensure!(output(script).await?.trim() == "boto3 is content");
    let aws = async |words: &[&str]| -> Result<Value> {
        let mut command = Command::new(&python);
        command.arg(python.with_file_name("aws")).args(words);
        command.args(["--output", "json"]);
        stage.sign_in(&mut command);
        Ok(serde_json::from_str(&output(command).await?)?)
    };
    let merged = aws(&[
        "codecommit",
        "merge-pull-request-by-squash",
        "--pull-request-id",
        "1",
        "--repository-name",
        "demo",
        "--commit-message",
        "By the CLI",
    ])
    .await?;
    let target = &merged["pullRequest"]["pullRequestTargets"][0];
    ensure!(target["mergeMetadata"]["isMerged"] == true, "{merged}");
    let refs = stage.refs("demo")?;
    let commit = target["mergeMetadata"]["mergeCommitId"].as_str();
    let commit = commit.context("it has a commit")?;
    ensure!(
        refs.contains(&format!("{commit} refs/heads/main")),
        "{refs}"
    );
    Ok(())
}

/// Starts a stage whose pipelines' results come back, by the rule of the template.
pub(super) async fn with_results(settings: &[(&'static str, &str)]) -> Result<TestEnvironment> {
    let all = [
        ("PULL_REQUEST_COMMENT", "true"),
        ("PULL_REQUEST_APPROVAL", "true"),
    ];
    let update = all.iter().chain(settings);
    let stage = TestEnvironment::start(Setup {
        update: update
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
        ..Setup::default()
    })
    .await?;
    // Executions know their pull request.
    let mut declared = stage.pipelines("GetPipeline", &json!({ "name": PIPELINE }))?;
    let variables = declared["pipeline"]["variables"].as_array_mut();
    let mut variables = variables.context("it has variables")?.iter_mut();
    let variable = variables.find(|variable| variable["name"] == "PULL_REQUEST_ID");
    variable.context("it declares the variable")?["defaultValue"] = "1".into();
    stage.pipelines(
        "UpdatePipeline",
        &json!({ "pipeline": declared["pipeline"] }),
    )?;
    let template = Template::load()?;
    let deployment = template.resolve(&[
        ("PipelineName", PIPELINE),
        ("PipelineVariables", "true"),
        ("PullRequestComment", "true"),
    ])?;
    let rule = &deployment.properties("UpdateFunction")?["Events"]["PipelineEnds"]["Properties"];
    ensure!(rule["State"] == "ENABLED", "{rule}");
    let pattern = rule["Pattern"].to_string();
    events(
        &stage,
        "PutRule",
        &json!({ "Name": "ends", "EventPattern": pattern }),
    )?;
    let target = json!({ "Id": "update", "Arn": stage.server.account().function_arn(UPDATE) });
    let put = events(
        &stage,
        "PutTargets",
        &json!({ "Rule": "ends", "Targets": [target] }),
    )?;
    ensure!(put["FailedEntryCount"] == 0, "{put}");
    Ok(stage)
}

/// Makes the pipeline read a bucket that does not exist, so that its executions fail.
pub(super) fn break_pipeline(stage: &TestEnvironment) -> Result<()> {
    let mut declared = stage.pipelines("GetPipeline", &json!({ "name": PIPELINE }))?;
    let action = &mut declared["pipeline"]["stages"][0]["actions"][0];
    action["configuration"]["S3Bucket"] = "absent".into();
    let input = json!({ "pipeline": declared["pipeline"] });
    stage.pipelines("UpdatePipeline", &input).map(drop)
}

async fn comments(stage: &TestEnvironment) -> Result<Vec<String>> {
    let input = json!({ "pullRequestId": "1" });
    let answer = stage.codecommit("GetCommentsForPullRequest", input).await?;
    let groups = answer["commentsForPullRequestData"].as_array();
    let comments = groups.into_iter().flatten().flat_map(|group| {
        let comments = group["comments"].as_array().into_iter().flatten();
        comments.filter_map(|comment| comment["content"].as_str())
    });
    Ok(comments.map(str::to_owned).collect())
}

async fn approvals(stage: &TestEnvironment) -> Result<Value> {
    let input = json!({ "pullRequestId": "1" });
    let found = stage.codecommit("GetPullRequest", input.clone()).await?;
    let mut input = input;
    input["revisionId"] = found["pullRequest"]["revisionId"].clone();
    let answer = stage
        .codecommit("GetPullRequestApprovalStates", input)
        .await?;
    Ok(answer["approvals"][0]["approvalState"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_pipeline_becomes_a_comment_and_an_approval() -> Result<()> {
    let stage = with_results(&[]).await?;
    let work = tempfile::tempdir()?;
    let work = work.path();
    repository(&stage, work).await?;
    create(&stage).await?;
    for (content, number) in [("three\n", 1), ("four\n", 2)] {
        git::commit(work, &[("b.txt", content)], content)?;
        stage.push(work, "demo", &["main:pull/1"]).await?;
        stage.wait_until_idle().await?;
        let letters = stage.server.queue().dead_letters();
        ensure!(letters.is_empty(), "{letters:?}");
        let comments = comments(&stage).await?;
        ensure!(comments.len() == 1, "round {number}: {comments:?}");
        let commit = git::git(work, ["rev-parse", "HEAD"])?;
        let short = &commit.trim()[..10];
        let expected = format!("**Pipeline `{PIPELINE}` succeeded** for `{short}`.");
        ensure!(comments[0].contains(&expected), "{}", comments[0]);
        ensure!(comments[0].contains("codepipeline/pipelines/deploy/executions/"));
        ensure!(approvals(&stage).await? == "APPROVE", "round {number}");
    }
    break_pipeline(&stage)?;
    git::commit(work, &[("b.txt", "five\n")], "Fifth")?;
    stage.push(work, "demo", &["main:pull/1"]).await?;
    stage.wait_until_idle().await?;
    let comments = comments(&stage).await?;
    ensure!(comments.len() == 1, "{comments:?}");
    ensure!(comments[0].contains("failed** for"), "{}", comments[0]);
    ensure!(
        comments[0].contains("`Source` of stage `Source`"),
        "{}",
        comments[0]
    );
    ensure!(
        comments[0].contains("absent"),
        "the reason is there: {}",
        comments[0]
    );
    ensure!(approvals(&stage).await? == "REVOKE");
    Ok(())
}

/// "The rule that starts a pipeline without a function": a `COMMIT_ID` of each push.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_starts_a_pipeline_on_the_commit_of_a_push() -> Result<()> {
    let stage = TestEnvironment::start(Setup::default()).await?;
    let source = json!({ "RepositoryName": "demo", "BranchName": "main" });
    let kind = |category: &str, provider: &str| json!({ "category": category, "owner": "AWS", "provider": provider, "version": "1" });
    stage.pipelines(
        "CreatePipeline",
        &json!({ "pipeline": {
            "name": "direct",
            "roleArn": "arn:aws:iam::123456789012:role/pipeline",
            "artifactStore": { "type": "S3", "location": "artifacts" },
            "pipelineType": "V2",
            "stages": [
                { "name": "Source", "actions": [{
                    "name": "Source", "actionTypeId": kind("Source", "CodeCommit"),
                    "configuration": source,
                }]},
                { "name": "Build", "actions": [{
                    "name": "Approve", "actionTypeId": kind("Approval", "Manual"),
                }]},
            ],
        }}),
    )?;
    let pattern = json!({
        "source": ["aws.codecommit"],
        "detail-type": ["CodeCommit Repository State Change"],
        "detail": { "event": ["referenceCreated", "referenceUpdated"], "referenceType": ["branch"] },
    });
    let rule = json!({ "Name": "each", "EventPattern": pattern.to_string() });
    events(&stage, "PutRule", &rule)?;
    let template = r#"{"sourceRevisions":[{"actionName":"Source","revisionType":"COMMIT_ID","revisionValue":<commit>}]}"#;
    let target = json!({
        "Id": "direct",
        "Arn": "arn:aws:codepipeline:us-east-1:123456789012:direct",
        "RoleArn": "arn:aws:iam::123456789012:role/rule",
        "InputTransformer": {
            "InputPathsMap": { "commit": "$.detail.commitId" }, "InputTemplate": template,
        },
    });
    let put = events(
        &stage,
        "PutTargets",
        &json!({ "Rule": "each", "Targets": [target] }),
    )?;
    ensure!(put["FailedEntryCount"] == 0, "{put}");
    let work = tempfile::tempdir()?;
    repository(&stage, work.path()).await?;
    let commits: Vec<String> = stage
        .executions()
        .iter()
        .filter(|execution| execution.pipeline == "direct")
        .map(|execution| execution.commits[0].commit_id.clone())
        .collect();
    let expected =
        ["HEAD~1", "HEAD"].map(|revision| git::git(work.path(), ["rev-parse", revision]));
    for (found, expected) in commits.iter().zip(expected) {
        ensure!(found == expected?.trim(), "{commits:?}");
    }
    ensure!(commits.len() == 2, "{commits:?}");
    Ok(())
}

/// The detail types of the events of branchline that a bus got.
fn own_events(stage: &TestEnvironment, bus: &str) -> Vec<String> {
    let events = stage.server.delivery().events();
    let own = events
        .iter()
        .filter(|line| line["bus"] == bus && line["event"]["source"] == "branchline");
    own.filter_map(|line| line["event"]["detail-type"].as_str())
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn own_events_arrive_on_the_bus_and_a_missing_bus_stops_nothing() -> Result<()> {
    let setting = |name: &str| vec![("EVENT_BUS_NAME", name.to_owned())];
    let stage = TestEnvironment::start(Setup {
        update: setting("team"),
        migration: Some(setting("absent")),
        ..Setup::default()
    })
    .await?;
    events(&stage, "CreateEventBus", &json!({ "Name": "team" }))?;
    let work = tempfile::tempdir()?;
    repository(&stage, work.path()).await?;
    let expected = ["Artifact Archived", "Execution Started"];
    let mut found = own_events(&stage, "team");
    found.sort();
    found.dedup();
    ensure!(found == expected, "{found:?}");
    stage.create_public_bucket("mirrors")?;
    let mapping = json!({
        "source": "codecommit://demo", "target": "s3://mirrors/demo", "layout": "dumb",
    });
    let event = json!({ "mappings": [mapping] });
    let answer = stage.call(MIGRATION, &event).await;
    let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(answer["status"] == "complete", "{answer}");
    ensure!(own_events(&stage, "absent").is_empty());
    // The bus appears, and the next invocation puts its event there.
    events(&stage, "CreateEventBus", &json!({ "Name": "absent" }))?;
    let answer = stage.call(MIGRATION, &event).await;
    answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    let failing = json!({ "source": "codecommit://nothing", "target": "s3://mirrors/other", "layout": "dumb" });
    let failed = stage
        .call(MIGRATION, &json!({ "mappings": [failing] }))
        .await;
    ensure!(failed.is_err(), "the repository does not exist");
    let found = own_events(&stage, "absent");
    ensure!(found == ["Mirror Completed", "Mirror Failed"], "{found:?}");
    Ok(())
}

/// "The runbook can be rehearsed": a secret and a parameter of the server sign in to a git server.
#[tokio::test(flavor = "multi_thread")]
async fn migration_reads_credentials_from_the_server() -> Result<()> {
    let stage = TestEnvironment::start(Setup {
        migration: Some(Vec::new()),
        ..Setup::default()
    })
    .await?;
    stage.create_public_bucket("mirrors")?;
    let repo = Repo::with_history(HashKind::Sha1, 2, 2);
    let git_server = private(&repo);
    let login = json!({
        "host": git_server.address().to_string(), "username": "user", "password": "hunter2",
    });
    let secrets = stage.server.secrets();
    let secret = json!({ "Name": "git/login", "SecretString": login.to_string() });
    let created = secrets
        .call("CreateSecret", &secret)
        .map_err(|error| anyhow::anyhow!(error.message))?;
    let parameter = json!({
        "Name": "/git/login", "Value": login.to_string(), "Type": "SecureString",
    });
    let put = secrets.call_parameters("PutParameter", &parameter);
    put.map_err(|error| anyhow::anyhow!(error.message))?;
    let parameter = "arn:aws:ssm:us-east-1:123456789012:parameter/git/login".to_owned();
    let secret = created["ARN"].as_str().context("it has an ARN")?.to_owned();
    for (name, arn) in [("secret", secret), ("parameter", parameter)] {
        let mapping = json!({
            "source": git_server.url(), "target": format!("s3://mirrors/{name}"),
            "layout": "dumb", "credentials": arn,
        });
        let answer = stage
            .call(MIGRATION, &json!({ "mappings": [mapping] }))
            .await;
        let answer = answer.map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
        ensure!(answer["status"] == "complete", "{name}: {answer}");
    }
    Ok(())
}
