//! `branchline status`.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result};
use branchline_dev::s3::store::PutOptions;
use branchline_test_support::git;
use branchline_tests::environment::{BUCKET, Setup};
use serde_json::{Value, json};

use super::super::document::{commands, needs_stack};
use super::Console;

/// Replaces a number by `N`.
fn stable(word: &str) -> &str {
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { "N" } else { word }
}

/// The lines of a table, without the widths of columns, and with `N` for each number.
fn lines(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::split_whitespace);
    let lines = lines.map(|words| words.map(stable).collect::<Vec<_>>().join(" "));
    lines.collect()
}

/// The branch of a name in a report.
fn branch<'a>(report: &'a Value, name: &str) -> &'a Value {
    let branches = report["repositories"][0]["branches"].as_array();
    let mut branches = branches.into_iter().flatten();
    let found = branches.find(|branch| branch["branch"] == name);
    found.unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_is_up_to_date_until_a_push_is_not_archived() -> Result<()> {
    let excluded = [("BRANCHES_EXCLUDE", "wip/**".to_owned())];
    let console = Console::start(Setup {
        update: excluded.to_vec(),
        lifecycle: excluded.to_vec(),
        ..Setup::default()
    })
    .await?;
    let first = console.commit("1")?;
    console.push(&["main", "main:wip/x"]).await?;
    let shown = console.run(&["status"]).await?;
    assert_eq!(shown.stderr, "", "nothing is wrong");
    let trigger = console.stage.triggers("demo")[0].name.clone();
    let expected = format!(
        "stack update in us-east-1

demo
   BRANCH  TIP      TRIGGER  ARTIFACT  PIPELINE
   main    {}  {trigger}  up to date, 179 bytes, 0 s  deploy Succeeded
   wip/x   -        -        not selected  -

1 branch up to date
",
        &first[..7]
    );
    let printed = shown.done();
    assert_eq!(lines(&printed), lines(&expected), "{printed}");

    console.lose_events()?;
    let second = console.commit("2")?;
    console.push(&["main", "main:new"]).await?;
    let shown = console.run(&["status", "demo"]).await?;
    assert_eq!(shown.status, Some(3), "{shown:?}");
    let shown = lines(&shown.stdout);
    let (old, tip) = (&first[..7], &second[..7]);
    for line in [
        format!("! main {tip} {trigger} of {old}, N bytes, N s deploy Succeeded"),
        format!("! new {tip} missing missing deploy not started"),
        "N of N branches behind".to_owned(),
    ] {
        assert!(shown.contains(&line), "{line}: {shown:#?}");
    }

    console.stage.server.faults().clear();
    let answer = console.stage.update(&json!({"schedule": true})).await;
    answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    console.stage.wait_until_idle().await?;
    let (status, report) = console.json(&["status"]).await?;
    assert_eq!(status, Some(3), "a trigger is missing: {report}");
    assert_eq!(branch(&report, "main")["behind"], false);
    assert_eq!(branch(&report, "new")["trigger"]["state"], "missing");
    let applied = console.run(&["triggers", "demo", "--apply"]).await?;
    applied.done();
    let (status, report) = console.json(&["status"]).await?;
    assert_eq!(status, Some(0), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_for_programs_has_commits_versions_executions_and_reasons() -> Result<()> {
    let console = Console::start(Setup::default()).await?;
    let tip = console.commit("1")?;
    console.push(&["main"]).await?;
    let (status, report) = console.json(&["status"]).await?;
    assert_eq!(status, Some(0));
    assert_eq!(report["stack"], "update");
    assert_eq!(report["behind"], false);
    let main = branch(&report, "main");
    assert_eq!(main["tip"], tip);
    assert_eq!(main["trigger"]["state"], "present");
    let artifact = &main["artifact"];
    assert_eq!(artifact["state"], "current");
    assert_eq!(artifact["commit"], tip);
    assert_eq!(artifact["files"], 1);
    assert_eq!(artifact["url"], format!("s3://{BUCKET}/demo/main.zip"));
    let execution = &console.stage.executions()[0];
    let source = &execution.sources[0];
    assert_eq!(
        artifact["version_id"].as_str(),
        source.version_id.as_deref()
    );
    assert_eq!(main["pipeline"]["execution_id"], execution.id);
    assert_eq!(main["pipeline"]["status"], "Succeeded");

    // The settings of the terminal are compared with the artifact: other settings, other bytes.
    let changed = ["status", "--env", "ARCHIVE_PREFIX=top/"];
    let (status, report) = console.json(&changed).await?;
    assert_eq!(status, Some(3));
    let state = &branch(&report, "main")["artifact"]["state"];
    assert_eq!(state, "other-settings");

    // An object that something else wrote.
    let store = console.stage.server.store();
    let options = PutOptions::default();
    store.put(BUCKET, "demo/main.zip", b"something", options)?;
    let (status, report) = console.json(&["status"]).await?;
    assert_eq!(status, Some(3));
    assert_eq!(branch(&report, "main")["artifact"]["state"], "foreign");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_is_found_by_its_name_its_tag_or_replaced_by_settings() -> Result<()> {
    let console = Console::start(Setup::default()).await?;
    console.commit("1")?;
    console.push(&["main"]).await?;
    for name in ["update", "lifecycle", "branchline"] {
        let outcome = console.run(&["status", "--stack", name]).await?;
        assert!(outcome.done().contains("up to date"), "{name}");
    }
    let error = console.run(&["status", "--stack", "none"]).await?.failed(1);
    assert!(
        error.contains("`none`") && error.contains("hint: "),
        "{error}"
    );
    let arn = console.stage.server.account().function_arn("update");
    let settings = [
        "status",
        "--env=ARTIFACT_BUCKET=artifacts",
        &format!("--env=UPDATE_FUNCTION_ARN={arn}"),
        "--env=PIPELINE_NAME=deploy",
    ];
    let outcome = console.run(&settings).await?;
    assert!(outcome.done().contains("up to date"));
    let error = console.run(&["status", "no-such"]).await?.failed(1);
    assert!(error.contains("no-such"), "{error}");
    let error = console.run(&["status", "a b"]).await?.failed(1);
    assert!(error.contains("`a b`"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_of_the_fleets_list_is_behind_until_it_is_mirrored() -> Result<()> {
    let console = Console::start(Setup::default()).await?;
    let store = console.stage.server.store();
    let region = &console.stage.server.account().region;
    store.create_bucket("mirrors", region)?;
    console.commit("1")?;
    console.push(&["main"]).await?;
    let list = json!([
        { "source": "codecommit://demo", "target": "s3://mirrors/demo", "layout": "dumb" },
        { "source": "codecommit://no-such", "target": "s3://mirrors/other" },
    ]);
    let list = list.to_string();
    let key = "fleets/mappings.json";
    store.put(BUCKET, key, list.as_bytes(), PutOptions::default())?;
    let (status, report) = console.json(&["status"]).await?;
    assert_eq!(status, Some(1), "a side cannot be read: {report}");
    let [demo, missing] = report["mirrors"].as_array().context("a list")?.as_slice() else {
        panic!("there are two mirrors: {report}");
    };
    assert_eq!(demo["state"], "differs");
    assert_eq!(demo["created"], json!(["refs/heads/main"]));
    assert_eq!(missing["state"], "failed");
    assert!(
        missing["error"].to_string().contains("no-such"),
        "{missing}"
    );

    let mirror = [
        "mirror",
        "codecommit://demo",
        "s3://mirrors/demo",
        "--layout=dumb",
    ];
    console.run(&mirror).await?.done();
    let list = json!({ "mappings": [
        { "source": "codecommit://demo", "target": "s3://mirrors/demo" },
    ]});
    std::fs::write(console.home.path().join("list.json"), list.to_string())?;
    let named = ["status", "--mirrors", "list.json"];
    let shown = console.run(&named).await?.done();
    let line = "codecommit://demo -> s3://mirrors/demo: up to date, changed N s ago";
    assert!(lines(&shown).contains(&line.to_owned()), "{shown}");

    console.commit("2")?;
    console.push(&["main", "main:next"]).await?;
    let shown = console.run(&named).await?;
    assert_eq!(shown.status, Some(3));
    let line = "! codecommit://demo -> s3://mirrors/demo: behind: N new (next), N moved (main), \
                changed N s ago";
    assert!(lines(&shown.stdout).contains(&line.to_owned()), "{shown:?}");
    let shown = console.run(&["status", "--no-mirrors"]).await?.done();
    assert!(!shown.contains("mirrors"), "{shown}");
    let url = format!("s3://{BUCKET}/{key}");
    let shown = console.run(&["status", "--mirrors", &url]).await?;
    assert_eq!(shown.status, Some(1), "{shown:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_prints_each_change_until_it_is_interrupted() -> Result<()> {
    let console = Console::start(Setup::default()).await?;
    console.commit("1")?;
    console.push(&["main"]).await?;
    console.lose_events()?;
    let mut command = console.command(&["status", "--watch=1", "--json"]);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("standard output is piped")?;
    let mut output = BufReader::new(output);
    let mut next = async || {
        let mut reader = std::mem::replace(&mut output, BufReader::new(no_output()?));
        let read = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            reader.read_line(&mut line).map(|_| (line, reader))
        });
        let (line, reader) = read.await??;
        output = reader;
        let report: Value = serde_json::from_str(&line)?;
        anyhow::Ok(report)
    };
    assert_eq!(next().await?["behind"], false);
    console.commit("2")?;
    console.push(&["main"]).await?;
    let mut report = next().await?;
    // The age of the artifact may change first.
    while report["behind"] == false {
        report = next().await?;
    }
    assert_eq!(branch(&report, "main")["artifact"]["state"], "other-commit");
    let id = rustix::process::Pid::from_raw(i32::try_from(child.id())?).context("an id")?;
    rustix::process::kill_process(id, rustix::process::Signal::INT)?;
    let status = tokio::task::spawn_blocking(move || child.wait()).await??;
    assert_eq!(status.code(), Some(130));
    Ok(())
}

/// The output of a program that has ended.
fn no_output() -> Result<std::process::ChildStdout> {
    let mut child = std::process::Command::new("true")
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().context("standard output is piped")?;
    child.wait()?;
    Ok(output)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_branch_that_cannot_be_read_is_named_by_its_own_error() -> Result<()> {
    let console = Console::start(Setup::default()).await?;
    console.commit("1")?;
    console.push(&["main"]).await?;
    let work = console.home.path().join("work");
    git::git(&work, ["branch", "other"])?;
    console.push(&["other"]).await?;
    let rule = "codecommit/GetBranch:error,rate=1.0"
        .parse()
        .map_err(|why| anyhow::anyhow!("{why}"))?;
    console.stage.server.faults().add(rule);
    let shown = console.run(&["status"]).await?;
    let error = shown.failed(1);
    for name in ["main", "other"] {
        let start = format!("error: branch `{name}` of repository `demo`: ");
        assert!(error.contains(&start), "{error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_document_work_on_a_stack() -> Result<()> {
    let console = Console::start(Setup::default()).await?;
    console.commit("1")?;
    console.push(&["main", "main:feature/x"]).await?;
    let commands = commands();
    let commands: Vec<&str> = commands
        .into_iter()
        .filter(|line| needs_stack(line))
        .collect();
    assert!(commands.len() >= 5, "{commands:?}");
    for command in commands {
        let arguments: Vec<&str> = command.split_whitespace().skip(1).collect();
        console.run(&arguments).await?.done();
    }
    Ok(())
}
