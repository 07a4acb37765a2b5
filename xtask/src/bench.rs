//! `cargo xtask bench`: side-by-side measurements.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{cargo, run, target_folder, workspace};
use crate::setup;

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

/// Subject of a measurement.
#[derive(Debug, clap::Subcommand)]
enum Subject {
    /// Runs all measurements, and writes `docs/benchmarks.md` with its plots.
    All {
        /// Measurement to run; all of them unless named.
        #[arg(long, value_name = "NAME", value_parser = NAMES)]
        only: Vec<String>,
        /// Folder that receives the document; `docs` unless given.
        #[arg(long, value_name = "FOLDER")]
        docs: Option<PathBuf>,
        /// Measures the development build, which compiles in a minute instead of fifteen.
        #[arg(long)]
        dev: bool,
    },
    /// Measures requests, wall time and peak memory of the update function, beside one request
    /// at a time, `git archive` and the limit.
    Archive {
        /// Git repository to archive; by default one of 500 files in 100 folders is made.
        #[arg(long)]
        repo: Option<PathBuf>,
        /// Time that CodeCommit takes to answer each request, in milliseconds.
        #[arg(long, default_value_t = 10)]
        latency_ms: u64,
        /// Measures the development build, which compiles in a minute instead of fifteen.
        #[arg(long)]
        dev: bool,
    },
    /// Measures mirrors into S3: the migration function and `branchline mirror` beside
    /// mirror-git-to-s3, and beside `git clone --mirror` with one upload.
    Mirror {
        /// Measures also a pack of 1 GiB with one blob of 500 MiB.
        #[arg(long)]
        large: bool,
        /// Measures the development build, which compiles in a minute instead of fifteen.
        #[arg(long)]
        dev: bool,
    },
    /// Measures a change of 2 bytes in a bundle remote of 60 MB, beside git-remote-s3.
    Remote {
        /// Measures also 51 refs that share 10 MiB.
        #[arg(long)]
        large: bool,
        /// Measures also a bundle of more than 5 GiB; takes 20 GiB of disk.
        #[arg(long)]
        huge: bool,
        /// Bandwidth of the link to S3, in megabits a second each way.
        #[arg(long, default_value_t = 100)]
        link_mbit: u64,
        /// Round-trip time of the link to S3, in milliseconds.
        #[arg(long, default_value_t = 10)]
        link_latency_ms: u64,
        /// Measures the development build, which compiles in a minute instead of fifteen.
        #[arg(long)]
        dev: bool,
    },
    /// Measures git on S3 at a terminal: the remote helper beside git-remote-s3.
    Terminal {
        /// Bandwidth of the link to S3, in megabits a second each way.
        #[arg(long, default_value_t = 100)]
        link_mbit: u64,
        /// Round-trip time of the link to S3, in milliseconds.
        #[arg(long, default_value_t = 10)]
        link_latency_ms: u64,
        /// Measures the development build, which compiles in a minute instead of fifteen.
        #[arg(long)]
        dev: bool,
    },
    /// Measures LFS objects in S3 and the start of an agent beside git-lfs-s3, and `codecommit://`
    /// beside git's own HTTP.
    Lfs {
        /// Transfers also one object of 1 GiB.
        #[arg(long)]
        large: bool,
        /// Measures the development build, which compiles in a minute instead of fifteen.
        #[arg(long)]
        dev: bool,
    },
    /// Measures a migration of 3,000 commits with 139 refs to CodeCommit, by the function and by
    /// `branchline migrate`, beside one `git push`.
    Migrate {
        /// Time that CodeCommit takes to answer each request, in milliseconds.
        #[arg(long, default_value_t = 20)]
        latency_ms: u64,
        /// Path of the script that AWS documents for incremental migrations; measured if given.
        #[arg(long, requires = "python")]
        script: Option<PathBuf>,
        /// Path of a Python that has `GitPython`, for the script.
        #[arg(long)]
        python: Option<PathBuf>,
        /// Measures the development build, which compiles in a minute instead of fifteen.
        #[arg(long)]
        dev: bool,
    },
}

/// Measurements that the document has, in its order.
const NAMES: [&str; 6] = ["archive", "mirror", "remote", "terminal", "lfs", "migrate"];

/// Builds and runs the measurement that `arguments` choose.
pub(crate) fn task(arguments: &Arguments) -> Result<()> {
    setup::debian_packages()?;
    match &arguments.subject {
        Subject::All { only, docs, dev } => all(only, docs.as_deref(), *dev),
        Subject::Archive {
            repo,
            latency_ms,
            dev,
        } => {
            let mut bench = measurement("archive", *dev)?;
            bench.args(["--latency-ms", &latency_ms.to_string()]);
            if let Some(repo) = repo {
                bench.arg("--repo").arg(repo);
            }
            run(&mut bench)
        }
        Subject::Mirror { large, dev } => {
            let mut bench = measurement("mirror", *dev)?;
            run(bench.args(large.then_some("--large")))
        }
        Subject::Remote {
            large,
            huge,
            link_mbit,
            link_latency_ms,
            dev,
        } => {
            let mut bench = measurement("remote", *dev)?;
            bench.args(large.then_some("--large"));
            bench.args(huge.then_some("--huge"));
            bench.args(["--link-mbit", &link_mbit.to_string()]);
            bench.args(["--link-latency-ms", &link_latency_ms.to_string()]);
            run(&mut bench)
        }
        Subject::Terminal {
            link_mbit,
            link_latency_ms,
            dev,
        } => {
            let mut bench = measurement("terminal", *dev)?;
            bench.args(["--link-mbit", &link_mbit.to_string()]);
            bench.args(["--link-latency-ms", &link_latency_ms.to_string()]);
            run(&mut bench)
        }
        Subject::Lfs { large, dev } => {
            let mut bench = measurement("lfs", *dev)?;
            run(bench.args(large.then_some("--large")))
        }
        Subject::Migrate {
            latency_ms,
            script,
            python,
            dev,
        } => {
            let mut bench = measurement("migrate", *dev)?;
            bench.args(["--latency-ms", &latency_ms.to_string()]);
            for (option, path) in [("--script", script), ("--python", python)] {
                if let Some(path) = path {
                    bench.arg(option).arg(path);
                }
            }
            run(&mut bench)
        }
    }
}

/// Runs the measurements `only`, or all, with their usual options, and writes the document of
/// their results into the folder `docs`. One that fails is named there, and the others go on.
fn all(only: &[String], docs: Option<&Path>, dev: bool) -> Result<()> {
    let profile = profile(dev);
    let bench = build(profile)?;
    let results = target_folder().join("benchmarks");
    // Results of an earlier run are of another program, or of another machine.
    if results.exists() {
        std::fs::remove_dir_all(&results)?;
    }
    std::fs::create_dir_all(&results)?;
    let mut failed = Vec::new();
    for name in NAMES {
        if !only.is_empty() && !only.iter().any(|chosen| chosen == name) {
            continue;
        }
        let file = results.join(format!("{name}.json"));
        let ran = command(&bench, name, profile).and_then(|mut measurement| {
            measurement.arg("--results").arg(file);
            if dev && name == "archive" {
                // Figures of this build are not quoted, so that few are enough.
                measurement.args(["--sizes", "100,600", "--link-latencies-ms", "10"]);
            }
            run(&mut measurement)
        });
        if let Err(error) = ran {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    let mut report = Command::new(&bench);
    report.arg("report").arg("--results").arg(&results);
    let own = workspace().join("docs");
    report.arg("--docs").arg(docs.unwrap_or(&own));
    for name in &failed {
        report.args(["--failed", name]);
    }
    run(report.args(["--profile", profile]))?;
    if failed.is_empty() {
        return Ok(());
    }
    bail!("these measurements failed: {}", failed.join(", "))
}

/// Returns the profile of cargo that is measured.
fn profile(dev: bool) -> &'static str {
    if dev { "dev" } else { "release" }
}

/// Returns the folder of the programs of a profile.
fn folder_of(profile: &str) -> PathBuf {
    target_folder().join(if profile == "dev" { "debug" } else { profile })
}

/// Builds all measurements and what they start, and returns the command of measurement `name`.
fn measurement(name: &str, dev: bool) -> Result<Command> {
    let profile = profile(dev);
    command(&build(profile)?, name, profile)
}

/// Builds the program of all measurements and the programs that they start; returns its path.
///
/// They are built together, because cargo would compile most crates once for each other selection
/// of programs: bootstraps that are built alone have fewer features, which are not linked.
fn build(profile: &str) -> Result<PathBuf> {
    let mut cargo = cargo();
    cargo.args(["build", "--locked", "--profile", profile, "--bins"]);
    if profile == "dev" {
        // Finds the crates that `cargo xtask test` compiled, because a target that is a test makes
        // cargo resolve the features of tests.
        run(cargo.args(["--workspace", "--test", "features"]))?;
        return Ok(folder_of(profile).join("branchline-bench"));
    }
    for package in [
        "branchline",
        "branchline-benches",
        "branchline-dev",
        "branchline-lifecycle",
        "branchline-migration",
        "branchline-update",
    ] {
        cargo.args(["--package", package]);
    }
    run(&mut cargo)?;
    Ok(folder_of(profile).join("branchline-bench"))
}

/// Returns the command of measurement `name` of the program `bench`, with the programs and the
/// Python environment that it takes.
fn command(bench: &Path, name: &str, profile: &str) -> Result<Command> {
    let programs = folder_of(profile);
    let mut command = Command::new(bench);
    command.arg(name);
    match name {
        "terminal" | "lfs" => command.arg("--programs").arg(programs),
        _ => command.arg("--bootstraps").arg(programs),
    };
    if !["archive", "migrate"].contains(&name) {
        command
            .arg("--peers")
            .arg(setup::PythonEnv::Peers.create()?);
    }
    Ok(command)
}
