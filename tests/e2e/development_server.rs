//! `branchline-dev serve --all`, as a user starts it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use branchline_test_support::git;
use branchline_tests::environment::built_programs;
use serde_json::Value;

/// A running program; killed if a test fails before it ends it.
struct Running {
    child: Child,
    /// The first line of the printed text.
    banner: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(data: &Path) -> Result<Running> {
    let mut child = Command::new(built_programs().join("branchline-dev"))
        .args(["serve", "--all", "--data"])
        .arg(data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let out = child.stdout.take().context("it is piped")?;
    let mut lines = BufReader::new(out).lines();
    let banner = lines.next().context("it prints its endpoint")??;
    // The rest is read, so that the program never waits for a reader.
    std::thread::spawn(move || lines.for_each(drop));
    Ok(Running { child, banner })
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
        server.banner.contains("http://127.0.0.1:"),
        "{}",
        server.banner
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
