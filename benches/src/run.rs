//! Runs of the migration function, of the command line and of their peers, and what each cost.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use branchline_dev::faults::Service;
use branchline_dev::lambda::{Outcome, peak_memory};
use branchline_test_support::git;
use branchline_tests::environment::{MIGRATION, TestEnvironment};
use serde_json::Value;

use crate::results::{self, Row};

/// Interval at which the memory of a program is read.
const MEMORY_INTERVAL: Duration = Duration::from_millis(10);

/// Cost of one run.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Requests to the services that were counted.
    pub requests: u64,
    /// Duration of the run.
    pub wall: Duration,
    /// Peak memory of the process, in bytes; 0 if unknown.
    pub peak: u64,
    /// Bytes of packs that were sent; 0 if unknown.
    pub sent: u64,
}

impl Measurement {
    /// Prints the heads of the columns.
    pub fn heads() {
        println!(
            "{:<44}{:>10}{:>12}{:>14}{:>16}",
            "", "requests", "wall", "peak memory", "bytes sent"
        );
    }

    /// Prints the measurement as a row.
    pub fn print(&self, name: &str) {
        let peak = match self.peak {
            0 => "-".to_owned(),
            bytes => format!("{} MiB", bytes >> 20),
        };
        let sent = match self.sent {
            0 => "-".to_owned(),
            bytes => bytes.to_string(),
        };
        results::record(Row {
            name: name.to_owned(),
            requests: Some(self.requests),
            wall: self.wall,
            peak_bytes: (self.peak > 0).then_some(self.peak),
            bytes: (self.sent > 0).then_some(self.sent),
        });
        let wall = self.wall.as_millis();
        let requests = self.requests;
        println!("{name:<44}{requests:>10}{wall:>9} ms{peak:>14}{sent:>16}");
    }

    /// Returns this run's duration divided by that of `other`.
    pub fn ratio(&self, other: &Self) -> f64 {
        self.wall.as_secs_f64() / other.wall.as_secs_f64()
    }

    /// Returns the faster of the two runs.
    #[must_use]
    pub fn better(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if other.wall < self.wall => other,
            _ => self,
        }
    }
}

/// Returns the number of requests to a service until now.
pub fn requests(stage: &TestEnvironment, service: Service) -> u64 {
    let lines = stage.server.requests().lines();
    let counted = lines.iter().filter(|line| line.service == service);
    counted.map(|line| line.count).sum()
}

/// Invokes the migration function, which must complete; requests to `service` are counted.
pub async fn migrate(
    stage: &TestEnvironment,
    event: &Value,
    service: Service,
) -> Result<Measurement> {
    let before = requests(stage, service);
    let run = stage.invoke(MIGRATION, event).await?;
    let Outcome::Answer(answer) = &run.outcome else {
        bail!("the run failed: {:?}", run.outcome);
    };
    let answer: Value = serde_json::from_slice(answer)?;
    ensure!(answer["status"] == "complete", "{answer}");
    let mappings = answer["mappings"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(Measurement {
        requests: requests(stage, service) - before,
        wall: run.duration,
        peak: run.max_memory_bytes.unwrap_or(0),
        sent: mappings
            .iter()
            .filter_map(|one| one["bytes"].as_u64())
            .sum(),
    })
}

/// Runs a program that knows the stage's credentials; requests to `service` are counted.
pub async fn program(
    stage: &TestEnvironment,
    command: Command,
    service: Service,
) -> Result<Measurement> {
    Ok(printed(stage, command, service).await?.0)
}

/// Runs `branchline`, which is in the folder `programs`, with `words` and `--json`; requests to
/// `service` are counted.
pub async fn command_line(
    stage: &TestEnvironment,
    programs: &Path,
    words: &[&str],
    service: Service,
) -> Result<Measurement> {
    let home = tempfile::tempdir()?;
    let mut command = Command::new(programs.join("branchline").canonicalize()?);
    git::make_hermetic(&mut command, home.path());
    command.args(words).arg("--json").current_dir(home.path());
    let (measured, stdout) = printed(stage, command, service).await?;
    let events = stdout.split(|byte| *byte == b'\n');
    let events = events.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let results = events.filter(|event| event["event"] == "result");
    Ok(Measurement {
        sent: results.filter_map(|one| one["bytes"].as_u64()).sum(),
        ..measured
    })
}

/// Runs a program; returns also its standard output.
async fn printed(
    stage: &TestEnvironment,
    mut command: Command,
    service: Service,
) -> Result<(Measurement, Vec<u8>)> {
    stage.sign_in(&mut command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let name = command.get_program().to_string_lossy().into_owned();
    let (before, begin) = (requests(stage, service), Instant::now());
    let child = command.spawn()?;
    let id = child.id();
    // The server runs on this very runtime.
    let mut ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    let mut peak = None;
    let output = loop {
        tokio::select! {
            output = &mut ended => break output??,
            () = tokio::time::sleep(MEMORY_INTERVAL) => peak = peak.max(peak_memory(id)),
        }
    };
    let wall = begin.elapsed();
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {text}");
    let measured = Measurement {
        requests: requests(stage, service) - before,
        wall,
        peak: peak.unwrap_or(0),
        sent: 0,
    };
    Ok((measured, output.stdout))
}

/// git that finds the programs of a Python environment, such as its remote helpers.
pub fn git_with_peers(folder: &Path, peers: &Path) -> Result<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(peers.join("bin")).chain(std::env::split_paths(&path));
    let mut command = git::command(folder);
    command.env("PATH", std::env::join_paths(folders)?);
    Ok(command)
}

/// Makes sure that repositories have the same refs and, all of them whole, the same
/// objects.
pub fn same(repositories: &[&Path]) -> Result<()> {
    let mut seen = Vec::new();
    for repository in repositories {
        let format = "--format=%(objectname) %(refname)";
        let refs = git::git(repository, ["for-each-ref", format])?;
        let list = ["rev-list", "--objects", "--no-object-names", "--all"];
        let objects = git::git(repository, list)?;
        let mut ids: Vec<_> = objects.lines().map(str::to_owned).collect();
        ids.sort();
        seen.push((refs, ids));
    }
    ensure!(seen.windows(2).all(|two| two[0] == two[1]), "they differ");
    Ok(())
}
