//! git-lfs with repositories in S3: real git-lfs, and `git-lfs-s3` on PATH.

mod agent;
mod check;
mod commands;
mod failures;
mod set_up;
mod stores;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result};
use branchline_dev::faults::Rule;
use branchline_dev::s3::store::{Precondition, PutOptions};
use branchline_test_support::git;
use branchline_test_support::lfs_server::oid;

use super::environment::{BUCKET, Outcome, Terminal};

/// Starts a terminal whose user has installed git-lfs; `None` where the tests' machine has no
/// git-lfs.
async fn terminal() -> Result<Option<Terminal>> {
    let found = Command::new("git-lfs").arg("version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: git-lfs is not installed; `cargo xtask test` installs it");
        return Ok(None);
    }
    let mut terminal = Terminal::start().await?;
    install_git_lfs(&mut terminal).await?;
    Ok(Some(terminal))
}

/// Installs git-lfs for the user of a terminal, and allows submodules at `s3://`.
async fn install_git_lfs(terminal: &mut Terminal) -> Result<()> {
    let config = terminal.path(".gitconfig").display().to_string();
    std::fs::write(&config, "[protocol \"s3\"]\n\tallow = always\n")?;
    terminal.set("GIT_CONFIG_GLOBAL", Some(&config));
    terminal
        .git(&["lfs", "install", "--skip-repo"])
        .await?
        .done();
    Ok(())
}

/// Makes a repository that tracks `*.bin`, with a remote `origin`.
async fn repository(terminal: &Terminal, name: &str, origin: &str) -> Result<()> {
    git::init(&terminal.path(name))?;
    git_in(terminal, name, &["lfs", "track", "*.bin"]).await?;
    git_in(terminal, name, &["remote", "add", "origin", origin]).await?;
    Ok(())
}

/// Runs git in a repository, which must succeed; returns its output.
async fn git_in(terminal: &Terminal, repository: &str, arguments: &[&str]) -> Result<String> {
    let outcome = try_git_in(terminal, repository, arguments).await?;
    Ok(outcome.done().trim().to_owned())
}

/// Runs git in a repository.
async fn try_git_in(terminal: &Terminal, repository: &str, arguments: &[&str]) -> Result<Outcome> {
    terminal
        .git(&[&["-C", repository], arguments].concat())
        .await
}

/// Content of `size` bytes that depends on `name`.
fn content(name: &str, size: usize) -> Vec<u8> {
    let line = format!("{}\n", oid(name.as_bytes()));
    line.bytes().cycle().take(size).collect()
}

/// Commits a file for each name and size; returns the ids of the LFS objects.
async fn commit(
    terminal: &Terminal,
    repository: &str,
    files: &[(&str, usize)],
) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for (name, size) in files {
        let content = content(&format!("{repository}/{name}"), *size);
        std::fs::write(terminal.path(repository).join(name), &content)?;
        ids.push(oid(&content));
    }
    git_in(terminal, repository, &["add", "--all"]).await?;
    git_in(
        terminal,
        repository,
        &["commit", "--quiet", "--message=files"],
    )
    .await?;
    Ok(ids)
}

/// Keys of the LFS objects below a prefix of the bucket.
fn lfs_keys(terminal: &Terminal, prefix: &str) -> Vec<String> {
    let keys = terminal.keys(&format!("{prefix}/"));
    let start = format!("{prefix}/lfs/");
    keys.into_iter()
        .filter(|key| key.starts_with(&start))
        .collect()
}

fn put(terminal: &Terminal, key: &str, bytes: &[u8]) -> Result<()> {
    let store = terminal.server().store();
    let done = store.put(BUCKET, key, bytes, PutOptions::default());
    done.map(drop).map_err(|error| anyhow::anyhow!("{error}"))
}

fn delete(terminal: &Terminal, key: &str) -> Result<()> {
    let bucket = terminal.server().store().bucket(BUCKET);
    let bucket = bucket.map_err(|error| anyhow::anyhow!("{error}"))?;
    let done = bucket.delete(key, None, &Precondition::default());
    done.map(drop).map_err(|error| anyhow::anyhow!("{error}"))
}

/// Adds a fault of the server.
fn fault(terminal: &Terminal, rule: &str) -> Result<()> {
    let rule: Rule = rule.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
    terminal.server().faults().add(rule);
    Ok(())
}

/// Runs the agent in a repository; each line is sent after the answer to the one before.
async fn run_agent(terminal: &Terminal, repository: &str, lines: &[String]) -> Result<Outcome> {
    let mut child = start_agent(terminal, repository, &[])?;
    let lines = lines.to_vec();
    let talk = move || -> Result<Outcome> {
        let mut stdin = child.stdin.take().context("it is piped")?;
        let mut answers = BufReader::new(child.stdout.take().context("it is piped")?).lines();
        let mut stdout = String::new();
        for line in lines {
            // The agent may have ended.
            let _ = writeln!(stdin, "{line}");
            while line != TERMINATE
                && let Some(answer) = answers.next().transpose()?
            {
                stdout.push_str(&answer);
                stdout.push('\n');
                if !answer.contains(r#""event":"progress""#) {
                    break;
                }
            }
        }
        drop(stdin);
        for answer in answers {
            stdout.push_str(&answer?);
        }
        let ended = outcome(&child.wait_with_output()?);
        Ok(Outcome { stdout, ..ended })
    };
    tokio::task::spawn_blocking(talk).await?
}

fn outcome(output: &Output) -> Outcome {
    Outcome {
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Starts the agent in a repository, writes lines to it, and leaves its input open.
fn start_agent(
    terminal: &Terminal,
    repository: &str,
    lines: &[String],
) -> Result<std::process::Child> {
    let mut command = terminal.command("git-lfs-s3", &[]);
    command.current_dir(terminal.path(repository));
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.stderr(Stdio::piped()).spawn()?;
    let stdin = child.stdin.as_mut().context("it is piped")?;
    for line in lines {
        writeln!(stdin, "{line}")?;
    }
    Ok(child)
}

fn init(operation: &str, remote: &str) -> String {
    format!(
        r#"{{"event":"init","operation":"{operation}","remote":"{remote}","concurrent":true,"concurrenttransfers":8}}"#
    )
}

fn upload(oid: &str, size: usize, path: &Path) -> String {
    let path = path.display();
    format!(r#"{{"event":"upload","oid":"{oid}","size":{size},"path":"{path}","action":null}}"#)
}

fn download(oid: &str, size: usize) -> String {
    format!(r#"{{"event":"download","oid":"{oid}","size":{size},"action":null}}"#)
}

const TERMINATE: &str = r#"{"event":"terminate"}"#;

/// Files below a directory.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Files that downloads left in a repository's directory of LFS objects; git-lfs has files of its
/// own there.
fn downloads(lfs: &Path) -> Vec<std::path::PathBuf> {
    let found = ["tmp", "incomplete"].map(|name| files(&lfs.join(name)));
    let is_of_object = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.chars().take_while(char::is_ascii_hexdigit).count() >= 64
    };
    found.concat().into_iter().filter(is_of_object).collect()
}
