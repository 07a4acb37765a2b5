//! The update function beside one request at a time, beside `git archive`, and beside the
//! limit that latency and concurrency allow, in one run.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use branchline_dev::faults::{Fault, Rule, Service, When};
use branchline_test_support::git;
use branchline_tests::compare;
use branchline_tests::environment::{Setup, TestEnvironment, UPDATE};
use clap::Parser;
use serde_json::json;

/// Measures the archive of a repository's HEAD.
#[derive(Debug, Parser)]
struct Arguments {
    /// The repository; one of 500 files in 100 folders is made unless given.
    #[arg(long)]
    repo: Option<PathBuf>,
    /// CodeCommit's latency per request, in milliseconds.
    #[arg(long, default_value_t = 10)]
    latency_ms: u64,
    /// Maximum number of requests in flight.
    #[arg(long, default_value_t = 32)]
    concurrency: u32,
    /// The folder with the bootstrap that is measured.
    #[arg(long)]
    bootstraps: PathBuf,
}

/// The repository on the server.
const NAME: &str = "measured";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let made = tempfile::tempdir()?;
    let repository = match &arguments.repo {
        Some(given) => given.canonicalize().context("the folder given by --repo")?,
        None => make_repository(made.path())?,
    };
    let commit = git::git(&repository, ["rev-parse", "HEAD"])?;
    let shape = Shape::read(&repository, &commit)?;
    println!(
        "{} files of {} distinct blobs, {} bytes (largest {}), in {} folders of {} levels",
        shape.files,
        shape.blobs,
        shape.bytes,
        shape.largest,
        shape.folders,
        shape.levels.len(),
    );
    println!("CodeCommit answers after {} ms\n", arguments.latency_ms);

    let many = measure(&arguments, &repository, &commit, arguments.concurrency).await?;
    let one = measure(&arguments, &repository, &commit, 1).await?;
    let (git_time, git_peak) = measure_git(&repository, &commit)?;
    let limit = shape.limit(arguments.concurrency, arguments.latency_ms);

    println!(
        "{:<34}{:>10}{:>12}{:>14}",
        "", "requests", "wall", "peak memory"
    );
    let row = |name: &str, requests: &str, wall: Duration, peak: Option<u64>| {
        let peak = peak.map_or_else(
            || "-".into(),
            |bytes| format!("{:.1} MiB", mebibytes(bytes)),
        );
        println!(
            "{name:<34}{requests:>10}{:>9} ms{peak:>14}",
            wall.as_millis()
        );
    };
    let in_flight = format!("update, {} in flight", many.in_flight);
    row(
        &in_flight,
        &many.requests.to_string(),
        many.wall,
        Some(many.peak),
    );
    row(
        "update, one request at a time",
        &one.requests.to_string(),
        one.wall,
        Some(one.peak),
    );
    row("git archive, from the disk", "0", git_time, git_peak);
    row("limit of latency and concurrency", "", limit, None);
    println!();
    println!(
        "init, until the first event        {:.1} ms",
        milliseconds(many.init)
    );
    println!(
        "bootstrap                          {:.2} MiB",
        mebibytes(many.bootstrap)
    );
    println!(
        "over the limit                     {:.2} x",
        ratio(many.wall, limit)
    );
    println!(
        "faster than one at a time          {:.1} x",
        ratio(one.wall, many.wall)
    );
    let bound = 64 * 1024 * 1024 + 3 * shape.largest;
    println!(
        "of the memory that it may take     {:.0} %",
        100.0 * mebibytes(many.peak) / mebibytes(bound)
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1024 * 1024)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

/// Cost of one run of the function.
struct Run {
    wall: Duration,
    init: Duration,
    requests: u64,
    in_flight: u64,
    peak: u64,
    bootstrap: u64,
}

async fn measure(
    arguments: &Arguments,
    repository: &Path,
    commit: &str,
    concurrency: u32,
) -> Result<Run> {
    let stage = TestEnvironment::start(Setup {
        update: vec![("CODECOMMIT_CONCURRENCY", concurrency.to_string())],
        // No trigger, so that the measured run is the first.
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        bootstraps: arguments.bootstraps.clone(),
        timeout: Duration::from_mins(15),
        ..Setup::default()
    })
    .await?;
    let input = json!({ "repositoryName": NAME });
    stage.codecommit("CreateRepository", input).await?;
    stage
        .push(repository, NAME, &["HEAD:refs/heads/main"])
        .await?;
    // A first run for a branch that is not there warms the environment and its connection.
    let warm = stage
        .invoke(UPDATE, &json!({ "repository": NAME, "branch": "nothing" }))
        .await?;
    stage.server.faults().add(Rule {
        service: Some(Service::CodeCommit),
        operation: None,
        fault: Fault::Latency(arguments.latency_ms),
        when: When::Always,
    });
    stage.server.requests().reset();
    let run = stage
        .invoke(UPDATE, &json!({ "repository": NAME, "branch": "main" }))
        .await?;
    let lines = stage.server.requests().lines();
    let of_codecommit = lines
        .iter()
        .filter(|line| line.service == Service::CodeCommit);
    let requests = of_codecommit.map(|line| line.count).sum();
    let in_flight = stage.server.requests().max_in_flight(Service::CodeCommit);
    let executions = stage.executions();
    let Some(execution) = executions.last() else {
        bail!("the run failed: {:?}", run.outcome);
    };
    stage.settle().await?;
    let execution = stage
        .executions()
        .into_iter()
        .find(|one| one.id == execution.id);
    let artifact = stage.source_of(&execution.context("it was there just now")?)?;
    compare::with_git_archive(&artifact, repository, commit)?;
    stage.server.shutdown().await;
    Ok(Run {
        wall: run.duration,
        init: warm.init.context("the first run was a cold start")?,
        requests,
        in_flight,
        peak: run
            .max_memory_bytes
            .context("the system tells no peak memory")?,
        bootstrap: std::fs::metadata(arguments.bootstraps.join(UPDATE))?.len(),
    })
}

/// The wall time of `git archive`, and the most memory that it was seen to take.
fn measure_git(repository: &Path, commit: &str) -> Result<(Duration, Option<u64>)> {
    let mut command = git::command(repository);
    command.args(["archive", "--format=zip", "--output=/dev/null", commit]);
    let begin = Instant::now();
    let mut child = command.spawn().context("git cannot be started")?;
    let mut peak = None;
    while child.try_wait()?.is_none() {
        peak = peak.max(branchline_dev::lambda::peak_memory(child.id()));
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok((begin.elapsed(), peak))
}

/// Size of a tree.
struct Shape {
    files: usize,
    blobs: usize,
    bytes: u64,
    largest: u64,
    folders: usize,
    // Folders at each level, the root's first.
    levels: Vec<u64>,
}

impl Shape {
    fn read(repository: &Path, commit: &str) -> Result<Self> {
        let list = git::git(
            repository,
            ["ls-tree", "-r", "-t", "-l", "--full-tree", commit],
        )?;
        let mut levels = BTreeMap::from([(0, 1)]);
        let mut shape = Self {
            files: 0,
            blobs: 0,
            bytes: 0,
            largest: 0,
            folders: 1,
            levels: vec![],
        };
        let mut blobs = HashSet::new();
        for line in list.lines() {
            let (about, path) = line.split_once('\t').context("git prints a tab")?;
            let words: Vec<_> = about.split_whitespace().collect();
            match words.as_slice() {
                [_, "tree", ..] => {
                    shape.folders += 1;
                    *levels.entry(path.split('/').count()).or_default() += 1;
                }
                [_, "blob", id, size] => {
                    let size = size.parse()?;
                    shape.files += 1;
                    shape.bytes += size;
                    shape.largest = shape.largest.max(size);
                    blobs.insert((*id).to_owned());
                }
                _ => {}
            }
        }
        shape.blobs = blobs.len();
        shape.levels = levels.into_values().collect();
        Ok(shape)
    }

    /// Rounds of requests: each level of folders after the one above it, then the blobs.
    fn limit(&self, concurrency: u32, latency_ms: u64) -> Duration {
        let concurrency = u64::from(concurrency);
        let folders: u64 = self
            .levels
            .iter()
            .map(|folders| folders.div_ceil(concurrency))
            .sum();
        let blobs = (self.blobs as u64).div_ceil(concurrency);
        Duration::from_millis((folders + blobs) * latency_ms)
    }
}

/// 500 files in 100 folders of four levels.
fn make_repository(folder: &Path) -> Result<PathBuf> {
    git::init(folder)?;
    for file in 0..500 {
        let (one, two, three) = (file % 3, file % 12, file % 84);
        let path = folder.join(format!("area-{one}/part-{two}/unit-{three}"));
        std::fs::create_dir_all(&path)?;
        let text = format!("line {file} of a source file of common size\n").repeat(20 + file % 300);
        std::fs::write(path.join(format!("file-{file}.txt")), text)?;
    }
    git::commit(folder, &[], "Measured")?;
    Ok(folder.to_owned())
}
