//! The commands of `docs/terminal.md`.

use anyhow::{Result, ensure};
use branchline_test_support::git;
use serde_json::json;

use super::super::git_remote_s3::environment::{BUCKET, Terminal};

const DOCUMENT: &str = include_str!("../../../docs/terminal.md");

/// Returns the commands of all blocks, in their order.
pub(crate) fn commands() -> Vec<&'static str> {
    let blocks = DOCUMENT.split("```sh\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split_once("```"));
    blocks.flat_map(|(block, _)| block.lines()).collect()
}

/// Returns the rows of the table under a text, as cells.
pub(crate) fn table(text: &str) -> Vec<Vec<&'static str>> {
    super::super::reference::table(DOCUMENT, text)
}

/// Returns true for a command that needs a deployed stack.
pub(crate) fn needs_stack(command: &str) -> bool {
    let names = ["doctor", "start", "status", "triggers"];
    let mut words = command.split_whitespace();
    words.next() == Some("branchline") && words.next().is_some_and(|name| names.contains(&name))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_document_work_in_their_order() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let region = terminal.server().account().region.clone();
    terminal.set("AWS_REGION", Some(&region));
    terminal.repository("project", 4)?;
    let project = terminal.path("project");
    git::commit(&project, &[("docs/a", "a")], "docs")?;
    git::git(&project, ["tag", "v1.0"])?;
    let demo = ["mirror", "project", "codecommit://demo", "--create"];
    terminal.run("branchline", &demo).await?.done();
    // An empty repository at CodeCommit.
    git::init(&terminal.path("none"))?;
    let empty = ["mirror", "none", "codecommit://project", "--create"];
    terminal.run("branchline", &empty).await?.done();
    let mapping = json!({ "source": "codecommit://demo", "target": "file.git" });
    let mappings = json!({ "mappings": [mapping] });
    std::fs::write(terminal.path("mappings.json"), mappings.to_string())?;
    let commands = commands();
    ensure!(commands.len() > 8, "{commands:?}");
    for command in commands.into_iter().filter(|line| !needs_stack(line)) {
        let line = command.replace("s3://bucket/", &format!("s3://{BUCKET}/"));
        let shell = terminal.command("bash", &["-c", &format!("set -o pipefail; {line}")]);
        let outcome = terminal.wait_for(shell).await?;
        ensure!(outcome.status == Some(0), "{line}: {outcome:?}");
    }
    for file in [
        "demo.zip",
        "docs.tar.gz",
        "demo/docs/a",
        "man1/branchline-mirror.1",
    ] {
        assert!(terminal.path(file).is_file(), "{file}");
    }
    assert!(!terminal.path("file.git").exists(), "a plan writes nothing");
    Ok(())
}

#[test]
fn the_document_lists_the_exit_statuses_and_events() {
    for part in ["`progress`", "`result`", "`end`", "| 3 |", "| 130 |"] {
        assert!(DOCUMENT.contains(part), "{part}");
    }
}
