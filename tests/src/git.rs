//! Real git, run without anyone's configuration.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail};

/// What git sets for its hooks and for `rebase --exec`, and what would make it work on
/// another repository than that of the folder.
const REPOSITORY_VARIABLES: [&str; 9] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_CONFIG_PARAMETERS",
];

/// A git command in `folder` that reads no configuration but the repository's own, and
/// whose commits are the same at every run.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new("git");
    for variable in REPOSITORY_VARIABLES {
        command.env_remove(variable);
    }
    command
        .current_dir(folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("TZ", "UTC");
    for role in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{role}_NAME"), "A U Thor")
            .env(format!("GIT_{role}_EMAIL"), "author@example.com")
            .env(format!("GIT_{role}_DATE"), "1112911993 -0700");
    }
    command
}

/// Runs git and returns what it printed, without the last newline.
pub fn git<S: AsRef<OsStr>>(
    folder: &Path,
    arguments: impl IntoIterator<Item = S>,
) -> Result<String> {
    run(command(folder).args(arguments))
}

/// Runs a command made by [`command`] and returns what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().context("git cannot be started")?;
    let text =
        String::from_utf8(checked(command, output)?.stdout).context("git printed no text")?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// Runs a command made by [`command`] and returns the bytes that it printed.
pub fn run_bytes(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().context("git cannot be started")?;
    Ok(checked(command, output)?.stdout)
}

fn checked(command: &Command, output: Output) -> Result<Output> {
    if !output.status.success() {
        let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        bail!(
            "`git {}` failed ({}): {}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output)
}

/// A new repository in `folder` with branch `main` checked out and nothing in it.
pub fn init(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    git(folder, ["init", "--quiet", "--initial-branch=main"]).map(drop)
}

/// Writes files, commits everything and returns the commit's id.
pub fn commit(folder: &Path, files: &[(&str, &str)], message: &str) -> Result<String> {
    for (path, text) in files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)?;
    }
    git(folder, ["add", "--all"])?;
    git(
        folder,
        ["commit", "--quiet", "--allow-empty", "--message", message],
    )?;
    git(folder, ["rev-parse", "HEAD"])
}
