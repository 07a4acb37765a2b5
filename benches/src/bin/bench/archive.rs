//! The update function beside one request at a time, beside `git archive`, and beside the
//! limit that latency and concurrency allow, in one run; then by the API, by git, and by its own
//! choice, over links of several latencies.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use branchline_benches::results::{self, Output, Row, start_section};
use branchline_benches::throttled_proxy::Speed;
use branchline_test_support::git;
use branchline_tests::environment::UPDATE;
use clap::Args;

use crate::archive_growth::Growth;
use crate::archive_stage::{ArchiveStage, Distance, Run, StageOptions};

/// Measures the archive of a repository's HEAD.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The repository; one of 500 files in 100 folders is made unless given.
    #[arg(long)]
    repo: Option<PathBuf>,
    /// CodeCommit's latency per request, in milliseconds.
    #[arg(long, default_value_t = 10)]
    latency_ms: u64,
    /// Round-trip times of the links to CodeCommit, in milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "10,30,100")]
    link_latencies_ms: Vec<u64>,
    /// Bandwidth of the links, in megabits a second each way.
    #[arg(long, default_value_t = 600)]
    link_mbit: u64,
    /// Numbers of files of the repositories by whose size archives are compared.
    #[arg(long, value_delimiter = ',', default_value = "500,3000,9000")]
    sizes: Vec<usize>,
    /// Maximum number of requests in flight.
    #[arg(long, default_value_t = 32)]
    concurrency: u32,
    /// The folder with the bootstrap that is measured.
    #[arg(long)]
    bootstraps: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Name of the run that nothing can be faster than over the API.
const LIMIT: &str = "limit of latency and concurrency";

/// Measures, and prints the results.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let made = tempfile::tempdir()?;
    let repository = match &arguments.repo {
        Some(given) => given.canonicalize().context("the folder given by --repo")?,
        None => make_repository(made.path())?,
    };
    let commit = git::git(&repository, ["rev-parse", "HEAD"])?;
    let shape = Shape::read(&repository, &commit)?;
    print_shape(&shape);
    println!("CodeCommit answers after {} ms\n", arguments.latency_ms);

    let bench = Bench {
        arguments: &arguments,
        repository: &repository,
        commit: &commit,
    };
    let latency = Distance::Answers(arguments.latency_ms);
    let concurrency = arguments.concurrency;
    let (many, init) = bench.measure("api", concurrency, latency).await?;
    let (one, _) = bench.measure("api", 1, latency).await?;
    let (git, _) = bench.measure("git", concurrency, latency).await?;
    let (git_time, git_peak) = measure_git(&repository, &commit)?;
    let limit = shape.limit(arguments.concurrency, arguments.latency_ms);

    println!(
        "{:<34}{:>10}{:>12}{:>14}",
        "", "requests", "wall", "peak memory"
    );
    let title = format!(
        "Archive of {} files in {} folders, {} ms away",
        shape.files, shape.folders, arguments.latency_ms
    );
    start_section(title, LIMIT);
    let row = |name: &str, requests: &str, wall: Duration, peak: Option<u64>| {
        results::record(Row {
            name: name.to_owned(),
            requests: requests.parse().ok(),
            wall,
            peak_bytes: peak,
            bytes: None,
        });
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
    row(
        "update, one fetch by git",
        &git.requests.to_string(),
        git.wall,
        Some(git.peak),
    );
    row("git archive, from the disk", "0", git_time, git_peak);
    row(LIMIT, "", limit, None);
    print_start(init, arguments.bootstraps.join(UPDATE).metadata()?.len());
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
    bench.links().await?;
    let growth = Growth::new(
        &arguments.bootstraps,
        &arguments.sizes,
        concurrency,
        arguments.latency_ms,
    )?;
    growth.measure().await?;
    arguments.output.save()
}

fn print_start(init: Duration, bootstrap: u64) {
    println!();
    println!(
        "init, until the first event        {:.1} ms",
        milliseconds(init)
    );
    println!(
        "bootstrap                          {:.2} MiB",
        mebibytes(bootstrap)
    );
}

fn print_shape(shape: &Shape) {
    println!(
        "{} files of {} distinct blobs, {} bytes (largest {}), in {} folders of {} levels",
        shape.files,
        shape.blobs,
        shape.bytes,
        shape.largest,
        shape.folders,
        shape.levels.len(),
    );
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

/// A commit that is measured.
struct Bench<'a> {
    arguments: &'a Arguments,
    repository: &'a Path,
    commit: &'a str,
}

impl Bench<'_> {
    /// Prints what each way to read the commit costs, over each link.
    async fn links(&self) -> Result<()> {
        let mbit = self.arguments.link_mbit;
        println!("\nover links of {mbit} Mbit/s each way, with new connections\n");
        println!(
            "{:<12}{:<10}{:>10}{:>14}{:>12}{:>14}",
            "round trip", "source", "requests", "received", "wall", "peak memory"
        );
        for &milliseconds in &self.arguments.link_latencies_ms {
            let title = format!("Archive over a link of {mbit} Mbit/s, {milliseconds} ms away");
            start_section(title, "api");
            for source in ["api", "git", "auto"] {
                let link = Distance::Link(Speed {
                    mbit,
                    round_trip: Duration::from_millis(milliseconds),
                });
                let concurrency = self.arguments.concurrency;
                let (run, _) = self.measure(source, concurrency, link).await?;
                println!(
                    "{:<12}{source:<10}{:>10}{:>10.2} MiB{:>9} ms{:>10.1} MiB",
                    format!("{milliseconds} ms"),
                    run.requests,
                    mebibytes(run.received),
                    run.wall.as_millis(),
                    mebibytes(run.peak)
                );
                results::record(run.row(source));
            }
        }
        Ok(())
    }

    /// Archives the commit once by `source`; returns also the time of the function's start.
    async fn measure(
        &self,
        source: &str,
        concurrency: u32,
        distance: Distance,
    ) -> Result<(Run, Duration)> {
        let options = StageOptions {
            bootstraps: &self.arguments.bootstraps,
            source,
            concurrency,
            distance,
        };
        let stage = ArchiveStage::open(options, self.repository).await?;
        let run = stage.archive(self.repository, self.commit).await?;
        let init = stage.init;
        stage.close().await;
        Ok((run, init))
    }
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
