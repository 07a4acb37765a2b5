//! `cargo xtask bench`: side-by-side measurements.

use std::path::PathBuf;

use anyhow::Result;

use crate::process::{cargo, run, target_folder};
use crate::setup;

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, clap::Subcommand)]
enum Subject {
    /// The archive: requests, wall time and peak memory of the update function, beside one
    /// request at a time, `git archive` and the limit.
    Archive {
        /// The repository; one of 500 files in 100 folders is made unless given.
        #[arg(long)]
        repo: Option<PathBuf>,
        /// How long CodeCommit takes to answer each request.
        #[arg(long, default_value_t = 10)]
        latency_ms: u64,
        /// Measures the development build, which takes a minute to make instead of ten.
        #[arg(long)]
        dev: bool,
    },
}

pub(crate) fn task(arguments: &Arguments) -> Result<()> {
    let Subject::Archive {
        repo,
        latency_ms,
        dev,
    } = &arguments.subject;
    setup::debian_packages()?;
    let profile = if *dev { "dev" } else { "release" };
    run(cargo().args([
        "build",
        "--locked",
        "--package",
        "branchline-update",
        "--profile",
        profile,
    ]))?;
    let programs = ["--bin", "branchline-dev", "--bin", "bench-archive"];
    run(cargo()
        .args(["build", "--quiet", "--locked"])
        .args(programs))?;
    let target = target_folder();
    let mut bench = std::process::Command::new(target.join("debug/bench-archive"));
    bench
        .arg("--bootstraps")
        .arg(target.join(if *dev { "debug" } else { "release" }));
    bench.args(["--latency-ms", &latency_ms.to_string()]);
    if let Some(repo) = repo {
        bench.arg("--repo").arg(repo);
    }
    run(&mut bench)
}
