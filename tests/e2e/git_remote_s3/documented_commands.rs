//! The commands of the document about the command line.

use std::os::unix::fs::symlink;

use anyhow::{Context as _, Result};
use branchline_tests::environment::built_programs;

use super::super::reference::COMMAND_LINE;
use super::environment::{BUCKET, Terminal};

/// The first block of commands.
fn commands() -> Result<Vec<&'static str>> {
    let (_, block) = COMMAND_LINE
        .split_once("```sh\n")
        .context("it has commands")?;
    let (block, _) = block.split_once("```").context("the block ends")?;
    Ok(block.lines().collect())
}

#[tokio::test]
async fn the_documented_commands_work_in_their_order() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    terminal.repository("work", 4)?;
    // What `cargo build` makes, and a home where the program is not installed.
    let target = terminal.path("work/target");
    std::fs::create_dir_all(&target)?;
    symlink(built_programs(), target.join("debug"))?;
    std::fs::remove_dir_all(terminal.path("bin"))?;
    let bin = terminal.path(".local/bin");
    std::fs::create_dir_all(&bin)?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    terminal.set("PATH", Some(&path));
    let config = terminal.path(".gitconfig").display().to_string();
    std::fs::write(&config, "")?;
    terminal.set("GIT_CONFIG_GLOBAL", Some(&config));
    let commands = commands()?;
    assert!(commands.len() > 5, "{commands:?}");
    for command in commands {
        if command.starts_with("cargo ") {
            continue;
        }
        let line = command.replace("s3://bucket/", &format!("s3://{BUCKET}/"));
        let mut shell = terminal.command("sh", &["-c", &line]);
        shell.current_dir(terminal.path("work"));
        terminal.wait_for(shell).await?.done();
    }
    for clone in ["project", "shallow"] {
        assert!(
            terminal.path("work").join(clone).join(".git").is_dir(),
            "{clone}"
        );
    }
    Ok(())
}
