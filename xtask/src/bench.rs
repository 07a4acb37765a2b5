//! `cargo xtask bench`: side-by-side measurements.

use std::path::PathBuf;
use std::process::Command;

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
    /// Mirrors into S3: the migration function beside mirror-git-to-s3, and beside
    /// `git clone --mirror` with one upload.
    Mirror {
        /// Measures a pack of 1 GiB with one blob of 500 MiB, too.
        #[arg(long)]
        large: bool,
        /// Measures the development build, which takes a minute to make instead of ten.
        #[arg(long)]
        dev: bool,
    },
    /// Remotes of bundles in S3: a change of 2 bytes in 60 MB beside git-remote-s3.
    Remote {
        /// Measures 51 refs that share 10 MiB, too.
        #[arg(long)]
        large: bool,
        /// Measures a bundle of more than 5 GiB, too; takes 20 GiB of disk.
        #[arg(long)]
        huge: bool,
        /// The bandwidth of the link to S3, in megabits a second each way.
        #[arg(long, default_value_t = 100)]
        link_mbit: u64,
        /// The round trip over that link.
        #[arg(long, default_value_t = 10)]
        link_latency_ms: u64,
        /// Measures the development build, which takes a minute to make instead of ten.
        #[arg(long)]
        dev: bool,
    },
    /// Migrations to CodeCommit: 3,000 commits with 139 refs beside one plain `git push`.
    Migrate {
        /// How long CodeCommit takes to answer each request.
        #[arg(long, default_value_t = 20)]
        latency_ms: u64,
        /// The script that AWS documents for incremental migrations, to be measured, too.
        #[arg(long, requires = "python")]
        script: Option<PathBuf>,
        /// A Python that has `GitPython`, for the script.
        #[arg(long)]
        python: Option<PathBuf>,
        /// Measures the development build, which takes a minute to make instead of ten.
        #[arg(long)]
        dev: bool,
    },
}

pub(crate) fn task(arguments: &Arguments) -> Result<()> {
    setup::debian_packages()?;
    match &arguments.subject {
        Subject::Archive {
            repo,
            latency_ms,
            dev,
        } => {
            let mut bench = program("bench-archive", "branchline-update", *dev)?;
            bench.args(["--latency-ms", &latency_ms.to_string()]);
            if let Some(repo) = repo {
                bench.arg("--repo").arg(repo);
            }
            run(&mut bench)
        }
        Subject::Mirror { large, dev } => {
            let peers = setup::Environment::Peers.make()?;
            let mut bench = program("bench-mirror", "branchline-migration", *dev)?;
            bench.arg("--peers").arg(peers);
            bench.args(large.then_some("--large"));
            run(&mut bench)
        }
        Subject::Remote {
            large,
            huge,
            link_mbit,
            link_latency_ms,
            dev,
        } => {
            let peers = setup::Environment::Peers.make()?;
            let mut bench = program("bench-remote", "branchline-migration", *dev)?;
            bench.arg("--peers").arg(peers);
            bench.args(large.then_some("--large"));
            bench.args(huge.then_some("--huge"));
            bench.args(["--link-mbit", &link_mbit.to_string()]);
            bench.args(["--link-latency-ms", &link_latency_ms.to_string()]);
            run(&mut bench)
        }
        Subject::Migrate {
            latency_ms,
            script,
            python,
            dev,
        } => {
            let mut bench = program("bench-migrate", "branchline-migration", *dev)?;
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

/// Builds what a measurement needs; its command on the bootstraps of that build.
fn program(name: &str, function: &str, dev: bool) -> Result<Command> {
    // The stage has both of the others, too.
    let mut packages = vec!["branchline-update", "branchline-lifecycle"];
    packages.extend((!packages.contains(&function)).then_some(function));
    let profile = if dev { "dev" } else { "release" };
    let mut build = cargo();
    build.args(["build", "--locked", "--bins", "--profile", profile]);
    for package in packages {
        build.args(["--package", package]);
    }
    run(&mut build)?;
    let programs = ["--bin", "branchline-dev", "--bin", name];
    run(cargo()
        .args(["build", "--quiet", "--locked"])
        .args(programs))?;
    let target = target_folder();
    let mut bench = Command::new(target.join("debug").join(name));
    bench
        .arg("--bootstraps")
        .arg(target.join(if dev { "debug" } else { "release" }));
    Ok(bench)
}
