//! `branchline status`, `start`, `triggers` and `doctor stack` over the development server with the real
//! functions.

mod actions;
mod doctor;
mod start;
mod status;
mod triggers;

use std::process::{Command, Stdio};

use anyhow::{Result, anyhow};
use branchline_dev::faults::Rule;
use branchline_test_support::git;
use branchline_tests::environment::{Setup, TestEnvironment, built_programs};
use serde_json::Value;
use tempfile::TempDir;

use super::super::git_remote_s3::environment::Outcome;

/// A stack on the development server, a repository `demo`, and a directory with a clone.
struct Console {
    stage: TestEnvironment,
    home: TempDir,
}

impl Console {
    async fn start(setup: Setup) -> Result<Self> {
        let stage = TestEnvironment::start(setup).await?;
        stage.create_repository("demo").await?;
        let home = tempfile::tempdir()?;
        git::init(&home.path().join("work"))?;
        Ok(Self { stage, home })
    }

    /// Commits to the clone.
    fn commit(&self, text: &str) -> Result<String> {
        git::commit(&self.home.path().join("work"), &[("file", text)], text)
    }

    /// Pushes to the repository `demo`, and waits until the functions are done.
    async fn push(&self, refspecs: &[&str]) -> Result<()> {
        let work = self.home.path().join("work");
        self.stage.push(&work, "demo", refspecs).await?;
        self.stage.wait_until_idle().await
    }

    /// Loses all events from now on.
    fn lose_events(&self) -> Result<()> {
        let rule: Rule = "events:lose,rate=1.0"
            .parse()
            .map_err(|why| anyhow!("{why}"))?;
        self.stage.server.faults().add(rule);
        Ok(())
    }

    /// Makes a command of `branchline`.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(built_programs().join("branchline"));
        git::make_hermetic(&mut command, self.home.path());
        self.stage.sign_in(&mut command);
        command
            .args(arguments)
            .current_dir(self.home.path())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .stdin(Stdio::null());
        command
    }

    /// Runs `branchline`, and waits for its end while the server answers.
    async fn run(&self, arguments: &[&str]) -> Result<Outcome> {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || git::output(&mut command, b"")).await??;
        Ok(Outcome {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs `branchline` with `--json`; returns its exit status and its report.
    async fn json(&self, arguments: &[&str]) -> Result<(Option<i32>, Value)> {
        let outcome = self.run(&[arguments, &["--json"]].concat()).await?;
        let report = serde_json::from_str(&outcome.stdout);
        let report = report.map_err(|error| anyhow!("{error}: {outcome:?}"))?;
        Ok((outcome.status, report))
    }
}
