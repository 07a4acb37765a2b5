//! The command line: stock git pushes to a bucket and clones from it, through `git-remote-s3`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use branchline_dev::faults::Service;
use branchline_test_support::git;
use branchline_tests::environment::{TestEnvironment, built_programs};

use super::{BRANCH, say};

/// Names of the files that this part of the demo leaves in its folder.
pub(super) const LEFT_BEHIND: [&str; 4] = ["bin", "cache", "clone", "shallow"];
/// A bucket without any files.
const REPOSITORIES: &str = "repositories";

/// Pushes to a bucket, clones from it and has it make an archive.
pub(super) async fn show(stage: &TestEnvironment, data: &Path, work: &Path) -> Result<()> {
    let region = &stage.server.account().region;
    let created = stage.server.store().create_bucket(REPOSITORIES, region);
    created.map_err(|error| anyhow::anyhow!("creating a bucket: {error}"))?;
    let terminal = Terminal::new(stage, data)?;
    let url = format!("s3://{REPOSITORIES}/demo");
    let work = work.canonicalize().context("the demo's clone")?;
    let branch = format!("HEAD:refs/heads/{BRANCH}");
    terminal
        .git(&work, &["push", "--quiet", &url, &branch])
        .await?;
    let folder = terminal.data.clone();
    terminal
        .git(&folder, &["clone", "--quiet", &url, "clone"])
        .await?;
    let clone = folder.join("clone");
    let tip = git::git(&work, ["rev-parse", "HEAD"])?;
    let cloned = git::git(&clone, ["rev-parse", "HEAD"])?;
    ensure!(cloned == tip, "the clone is at {cloned}, and not at {tip}");
    git::git(&clone, ["fsck", "--full", "--strict", "--no-dangling"])?;
    let shallow = ["clone", "--quiet", "--depth=1", &url, "shallow"];
    terminal.git(&folder, &shallow).await?;
    let count = git::git(&folder.join("shallow"), ["rev-list", "--count", "HEAD"])?;
    ensure!(count == "1", "the shallow clone has {count} commits");
    let remote = format!("--remote={url}");
    let archive = ["archive", &remote, "--format=tar", BRANCH];
    let archive = terminal.git(&folder, &archive).await?;
    let expected = git::run_bytes(git::command(&clone).args(["archive", "--format=tar", &tip]))?;
    ensure!(
        archive == expected,
        "the archive is not that of `git archive`"
    );
    say(
        "            the clone has the same tip, and `git fsck` is content; the archive equals git's",
    );
    Ok(())
}

/// Stock git with `git-remote-s3` on its path.
struct Terminal<'a> {
    stage: &'a TestEnvironment,
    data: PathBuf,
    path: std::ffi::OsString,
}

impl<'a> Terminal<'a> {
    fn new(stage: &'a TestEnvironment, data: &Path) -> Result<Self> {
        let data = data.canonicalize().context("the demo's folder")?;
        let bin = data.join("bin");
        std::fs::create_dir(&bin)?;
        symlink(
            built_programs().join("branchline"),
            bin.join("git-remote-s3"),
        )?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path)))?;
        Ok(Self { stage, data, path })
    }

    /// Runs git, prints the command and its cost, and returns its output.
    async fn git(&self, folder: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
        let before = self.requests();
        let begin = Instant::now();
        let mut command = self.command(folder, arguments);
        // The server runs on this very runtime.
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "git {}: {text}",
            arguments.join(" ")
        );
        let shown: Vec<&str> = arguments
            .iter()
            .copied()
            .filter(|argument| *argument != "--quiet")
            .collect();
        say(&format!("git {}", shown.join(" ")));
        say(&format!(
            "            {} requests to S3, {} ms",
            self.requests() - before,
            begin.elapsed().as_millis()
        ));
        Ok(output.stdout)
    }

    fn command(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = git::command(folder);
        let credentials = self.stage.server.credentials();
        command
            .env("PATH", &self.path)
            .env("XDG_CACHE_HOME", self.data.join("cache"))
            .env("AWS_ENDPOINT_URL", self.stage.server.endpoint())
            .env("AWS_ACCESS_KEY_ID", &credentials.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key)
            .env("AWS_DEFAULT_REGION", &self.stage.server.account().region)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .args(arguments);
        command
    }

    fn requests(&self) -> u64 {
        let lines = self.stage.server.requests().lines();
        let counted = lines.iter().filter(|line| line.service == Service::S3);
        counted.map(|line| line.count).sum()
    }
}
