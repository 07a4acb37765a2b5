//! Archives against the size of the repository and of the change, and the start of each function.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use branchline_benches::repositories;
use branchline_benches::results::{self, Row, start_section};
use branchline_test_support::git;
use branchline_tests::environment::{LIFECYCLE, MIGRATION, Setup, TestEnvironment, UPDATE};
use serde_json::json;

use crate::archive_stage::{ArchiveStage, Distance, Run, StageOptions};

/// Numbers of changed files of the largest repository.
const CHANGES: [usize; 4] = [1, 10, 100, 1_000];

/// Measurements of the update function at a distance, and of the start of all functions.
pub(crate) struct Growth<'a> {
    bootstraps: &'a Path,
    sizes: &'a [usize],
    concurrency: u32,
    milliseconds: u64,
    folder: tempfile::TempDir,
}

impl<'a> Growth<'a> {
    /// Prepares measurements of repositories of `sizes` files, `milliseconds` away.
    pub(crate) fn new(
        bootstraps: &'a Path,
        sizes: &'a [usize],
        concurrency: u32,
        milliseconds: u64,
    ) -> Result<Self> {
        Ok(Self {
            bootstraps,
            sizes,
            concurrency,
            milliseconds,
            folder: tempfile::tempdir()?,
        })
    }

    /// Measures, and prints the results.
    pub(crate) async fn measure(&self) -> Result<()> {
        self.compare_sizes().await?;
        self.compare_changes().await?;
        starts(self.bootstraps).await
    }

    fn repository(&self, files: usize) -> Result<PathBuf> {
        let path = self.folder.path().join(format!("{files}.git"));
        if !path.exists() {
            repositories::repository(&path, |out| repositories::text_files(out, files, 0))?;
        }
        Ok(path)
    }

    async fn stage(&self, source: &str, repository: &Path) -> Result<ArchiveStage> {
        let options = StageOptions {
            bootstraps: self.bootstraps,
            source,
            concurrency: self.concurrency,
            distance: Distance::Answers(self.milliseconds),
        };
        ArchiveStage::open(options, repository).await
    }

    /// Changes the first `count` files, and archives the push.
    async fn change(
        &self,
        stage: &ArchiveStage,
        repository: &Path,
        count: usize,
        version: usize,
    ) -> Result<Run> {
        repositories::import(repository, |out| {
            repositories::text_files(out, count, version)
        })?;
        stage.push(repository).await?;
        stage.archive(repository, &tip(repository)?).await
    }

    async fn compare_sizes(&self) -> Result<()> {
        let away = self.milliseconds;
        start(
            format!("Archives against the size of the repository, {away} ms away"),
            "",
        );
        for &files in self.sizes {
            let repository = self.repository(files)?;
            let first = tip(&repository)?;
            let api = self.stage("api", &repository).await?;
            print(
                &format!("{files} files, by the API"),
                &api.archive(&repository, &first).await?,
            );
            api.close().await;
            let git = self.stage("git", &repository).await?;
            print(
                &format!("{files} files, by git"),
                &git.archive(&repository, &first).await?,
            );
            let one = self.change(&git, &repository, 1, 1).await?;
            print(&format!("{files} files, one changed"), &one);
            git.close().await;
        }
        Ok(())
    }

    async fn compare_changes(&self) -> Result<()> {
        let files = self.sizes.iter().copied().max();
        let files = files.context("`--sizes` names no size")?;
        let away = self.milliseconds;
        let title = format!("Pushes to a repository of {files} files, {away} ms away");
        start(title, "all files, by the API");
        let repository = self.repository(files)?;
        let stage = self.stage("api", &repository).await?;
        let all = stage.archive(&repository, &tip(&repository)?).await?;
        print("all files, by the API", &all);
        for (version, count) in (2..).zip(CHANGES.into_iter().filter(|&count| count < files)) {
            let run = self.change(&stage, &repository, count, version).await?;
            print(&format!("{count} changed"), &run);
        }
        stage.close().await;
        Ok(())
    }
}

/// Measures the start of each function, and its memory after one event.
async fn starts(bootstraps: &Path) -> Result<()> {
    let stage = TestEnvironment::start(Setup {
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        migration: Some(Vec::new()),
        bootstraps: bootstraps.to_owned(),
        ..Setup::default()
    })
    .await?;
    stage.create_repository("empty").await?;
    stage.wait_until_idle().await?;
    println!(
        "\n{:<34}{:>12}{:>14}{:>16}",
        "start of a function", "init", "bootstrap", "peak memory"
    );
    start_section(
        "Start of each function: init, size of the bootstrap, memory of an event",
        "",
    );
    let mapping = json!({ "source": "codecommit://empty", "target": "s3://artifacts/mirror" });
    let events = [
        (
            UPDATE,
            json!({ "repository": "empty", "branch": "nothing" }),
        ),
        (LIFECYCLE, json!({ "repository": "empty" })),
        (MIGRATION, json!({ "mappings": [mapping] })),
    ];
    for (function, event) in events {
        let run = stage.invoke(function, &event).await?;
        let row = Row {
            name: function.to_owned(),
            wall: run.init.context("the first run is a cold start")?,
            requests: None,
            peak_bytes: run.max_memory_bytes,
            bytes: Some(std::fs::metadata(bootstraps.join(function))?.len()),
        };
        println!(
            "{function:<34}{:>9.1} ms{:>10.2} MiB{:>12} MiB",
            row.wall.as_secs_f64() * 1000.0,
            mebibytes(row.bytes.unwrap_or(0)),
            row.peak_bytes.unwrap_or(0) >> 20,
        );
        results::record(row);
    }
    stage.server.shutdown().await;
    Ok(())
}

fn start(title: String, reference: &str) {
    println!("\n{title}\n");
    start_section(title, reference);
}

fn print(name: &str, run: &Run) {
    let wall: Duration = run.wall;
    println!(
        "{name:<34}{:>10}{:>9} ms{:>10} MiB",
        run.requests,
        wall.as_millis(),
        run.peak >> 20
    );
    results::record(run.row(name));
}

fn tip(repository: &Path) -> Result<String> {
    git::git(repository, ["rev-parse", "refs/heads/main"])
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1024 * 1024)
}
