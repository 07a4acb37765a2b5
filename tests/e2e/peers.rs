//! AWS's own clients (boto3, the AWS CLI) against the development server, when
//! `BRANCHLINE_VENV` names the Python environment that has them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use branchline_test_support::git;
use branchline_tests::environment::{Setup, TestEnvironment, UPDATE};
use serde_json::Value;

fn environment() -> Option<PathBuf> {
    let folder = std::env::var_os("BRANCHLINE_VENV").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: BRANCHLINE_VENV is not set; `cargo xtask test` makes that environment");
    }
    folder
}

/// A stage whose repository `demo` has one commit on `main`.
async fn stage() -> Result<TestEnvironment> {
    let stage = TestEnvironment::start(Setup::default()).await?;
    stage.create_repository("demo").await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    git::commit(
        work.path(),
        &[("a.txt", "one\n"), ("dir/b.txt", "two\n")],
        "First",
    )?;
    stage.push(work.path(), "demo", &["main"]).await?;
    stage.wait_until_idle().await?;
    Ok(stage)
}

async fn output(mut command: Command) -> Result<String> {
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// "AWS's own clients work with the development server."
#[tokio::test(flavor = "multi_thread")]
async fn boto3_is_served() -> Result<()> {
    let Some(environment) = environment() else {
        return Ok(());
    };
    let stage = stage().await?;
    let mut python = Command::new(environment.join("bin/python"));
    python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/peers.py"));
    python.arg(stage.server.account().function_arn(UPDATE));
    stage.sign_in(&mut python);
    assert_eq!(output(python).await?.trim(), "boto3 is content");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_aws_cli_is_served() -> Result<()> {
    let Some(environment) = environment() else {
        return Ok(());
    };
    let stage = stage().await?;
    let folder = tempfile::tempdir()?;
    let answer = folder.path().join("answer.json");
    let answer = answer.to_str().expect("temporary folders have plain names");
    let aws = async |words: &[&str]| -> Result<Value> {
        let mut command = Command::new(environment.join("bin/python"));
        command
            .arg(environment.join("bin/aws"))
            .args(words)
            .args(["--output", "json"]);
        stage.sign_in(&mut command);
        let text = output(command).await?;
        Ok(if text.trim().is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text)?
        })
    };
    let branches = aws(&["codecommit", "list-branches", "--repository-name", "demo"]).await?;
    assert_eq!(branches["branches"], serde_json::json!(["main"]));
    let payload = r#"{"repository":"demo","branch":"main"}"#;
    let invoked = aws(&[
        "lambda",
        "invoke",
        "--function-name",
        UPDATE,
        "--payload",
        payload,
        answer,
    ])
    .await?;
    assert_eq!(invoked["StatusCode"], 200);
    let answer: Value = serde_json::from_slice(&std::fs::read(answer)?)?;
    assert_eq!(answer["results"][0]["outcome"], "unchanged", "{answer}");
    let key = [
        "s3api",
        "head-object",
        "--bucket",
        "artifacts",
        "--key",
        "demo/main.zip",
    ];
    let head = aws(&key).await?;
    assert_eq!(head["Metadata"]["branchline-branch"], "main", "{head}");
    let executions = aws(&[
        "codepipeline",
        "list-pipeline-executions",
        "--pipeline-name",
        "deploy",
    ])
    .await?;
    assert_eq!(
        executions["pipelineExecutionSummaries"][0]["status"],
        "Succeeded"
    );
    Ok(())
}
