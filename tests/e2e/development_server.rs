//! `branchline-dev serve --all`, as a user starts it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use branchline_test_support::git;
use branchline_test_support::running_program::RunningProgram;
use branchline_tests::environment::built_programs;
use serde_json::Value;

fn serve(data: &Path) -> Result<RunningProgram> {
    let mut command = Command::new(built_programs().join("branchline-dev"));
    command.args(["serve", "--all", "--data"]).arg(data);
    RunningProgram::start(command.stderr(Stdio::null()))
}

/// Runs a script in a shell that has read the printed variables.
fn shell(data: &Path, folder: &Path, script: &str) -> Result<String> {
    let mut shell = Command::new("sh");
    git::make_hermetic(&mut shell, folder);
    let script = format!("set -e\n. {}/env\n{script}", data.display());
    let program = built_programs().join("branchline-dev");
    shell
        .env("DEV", program)
        .env("AWS", aws().unwrap_or_default());
    shell.args(["-c", &script]).current_dir(folder);
    git::run(&mut shell)
}

/// Waits until a list of the server has `count` entries, and returns it.
fn wait_for(data: &Path, what: &str, member: &str, count: usize) -> Result<Value> {
    let begin = Instant::now();
    loop {
        let list = shell(data, data, &format!("\"$DEV\" {what} --json"))?;
        let list: Value = serde_json::from_str(&list)?;
        if list[member]
            .as_array()
            .is_some_and(|list| list.len() >= count)
        {
            return Ok(list);
        }
        ensure!(begin.elapsed() < Duration::from_mins(1), "{what}: {list}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The AWS CLI, if the Python environment with it is there.
fn aws() -> Option<PathBuf> {
    let Some(environment) = std::env::var_os("BRANCHLINE_VENV") else {
        eprintln!("skipped: BRANCHLINE_VENV is not set; `cargo xtask test` makes that environment");
        return None;
    };
    Some(PathBuf::from(environment).join("bin/aws"))
}

#[test]
fn one_command_starts_everything_that_a_push_flows_through() -> Result<()> {
    if aws().is_none() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (data, work) = (folder.path().join("data"), folder.path().join("work"));
    let server = serve(&data)?;
    ensure!(
        server.banner().contains("http://127.0.0.1:"),
        "{}",
        server.banner()
    );
    git::init(&work)?;
    git::commit(&work, &[("a", "1\n")], "First")?;
    let create = "\"$AWS\" codecommit create-repository --repository-name demo";
    shell(&data, &work, create)?;
    let push = "git push --quiet $AWS_ENDPOINT_URL/v1/repos/demo HEAD:refs/heads/feature/x";
    shell(&data, &work, push)?;
    wait_for(&data, "executions", "executions", 1)?;
    // The second push goes by the branch's trigger.
    git::commit(&work, &[("a", "2\n")], "Second")?;
    shell(&data, &work, push)?;
    wait_for(&data, "executions", "executions", 2)?;
    let table = shell(&data, &work, "\"$DEV\" executions")?;
    ensure!(
        table.contains("s3://artifacts/demo/feature/x.zip"),
        "{table}"
    );
    let table = shell(&data, &work, "\"$DEV\" requests")?;
    ensure!(table.contains("codecommit:GitPush"), "{table}");

    // A schedule on request, and a setting that changes meanwhile.
    let answer = shell(&data, &work, "\"$DEV\" invoke update --schedule")?;
    let answer: Value = serde_json::from_str(&answer)?;
    ensure!(answer["results"][0]["outcome"] == "unchanged", "{answer}");
    let change = "\"$AWS\" lambda update-function-configuration --function-name update \
                  --environment \"Variables={ARTIFACT_BUCKET=artifacts,BRANCHES_EXCLUDE=feature/**}\"";
    let changed = shell(&data, &work, change)?;
    ensure!(changed.contains("BRANCHES_EXCLUDE"), "{changed}");
    let answer = shell(&data, &work, "\"$DEV\" invoke update --schedule")?;
    let answer: Value = serde_json::from_str(&answer)?;
    ensure!(answer["results"][0]["outcome"] != "unchanged", "{answer}");
    let failed = shell(
        &data,
        &work,
        "echo '{\"nothing\":1}' | \"$DEV\" invoke update -",
    );
    let error = failed.err().context("the event is refused")?;
    ensure!(
        format!("{error:#}").contains("branchline.InvalidEvent"),
        "{error:#}"
    );
    Ok(())
}

/// "A pull request that is made against it is archived, started, and commented on."
#[test]
fn a_pull_request_made_by_the_aws_cli_is_archived_started_commented_on_and_approved() -> Result<()>
{
    if aws().is_none() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (data, work) = (folder.path().join("data"), folder.path().join("work"));
    let _server = serve(&data)?;
    git::init(&work)?;
    git::commit(&work, &[("a", "1\n")], "First")?;
    let script = "\"$AWS\" codecommit create-repository --repository-name demo
        git push --quiet $AWS_ENDPOINT_URL/v1/repos/demo HEAD:refs/heads/main";
    shell(&data, &work, script)?;
    wait_for(&data, "executions", "executions", 1)?;
    git::commit(&work, &[("b", "2\n")], "A feature")?;
    let script = "git push --quiet $AWS_ENDPOINT_URL/v1/repos/demo HEAD:refs/heads/feature
        \"$AWS\" codecommit create-pull-request --title Feature \\
          --targets repositoryName=demo,sourceReference=feature,destinationReference=main";
    shell(&data, &work, script)?;
    // That of the branch `feature`, and that of the pull request.
    wait_for(&data, "executions", "executions", 3)?;
    let table = shell(&data, &work, "\"$DEV\" executions")?;
    ensure!(table.contains("s3://artifacts/demo/pull/1.zip"), "{table}");
    let comments = "\"$AWS\" codecommit get-comments-for-pull-request --pull-request-id 1";
    let begin = Instant::now();
    loop {
        let found: Value = serde_json::from_str(&shell(&data, &work, comments)?)?;
        let comment = &found["commentsForPullRequestData"][0]["comments"][0]["content"];
        if let Some(comment) = comment.as_str() {
            ensure!(
                comment.contains("**Pipeline `deploy` succeeded**"),
                "{comment}"
            );
            break;
        }
        ensure!(begin.elapsed() < Duration::from_mins(1), "{found}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let script = "revision=$(\"$AWS\" codecommit get-pull-request --pull-request-id 1 \\
          --query pullRequest.revisionId --output text)
        \"$AWS\" codecommit get-pull-request-approval-states --pull-request-id 1 \\
          --revision-id \"$revision\"";
    let begin = Instant::now();
    loop {
        let found: Value = serde_json::from_str(&shell(&data, &work, script)?)?;
        if found["approvals"][0]["approvalState"] == "APPROVE" {
            return Ok(());
        }
        ensure!(begin.elapsed() < Duration::from_mins(1), "{found}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
