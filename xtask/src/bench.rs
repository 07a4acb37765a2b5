//! `cargo xtask bench`: side-by-side measurements.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::process::{cargo, run, target_folder};
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
    /// Measures requests, wall time and peak memory of the update function, beside one request
    /// at a time, `git archive` and the limit.
    Archive {
        /// Git repository to archive; by default one of 500 files in 100 folders is made.
        #[arg(long)]
        repo: Option<PathBuf>,
        /// Time that CodeCommit takes to answer each request, in milliseconds.
        #[arg(long, default_value_t = 10)]
        latency_ms: u64,
        /// Measures the development build, which compiles in a minute instead of ten.
        #[arg(long)]
        dev: bool,
    },
    /// Measures mirrors into S3: the migration function beside mirror-git-to-s3, and beside
    /// `git clone --mirror` with one upload.
    Mirror {
        /// Measures also a pack of 1 GiB with one blob of 500 MiB.
        #[arg(long)]
        large: bool,
        /// Measures the development build, which compiles in a minute instead of ten.
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
        /// Measures the development build, which compiles in a minute instead of ten.
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
        /// Measures the development build, which compiles in a minute instead of ten.
        #[arg(long)]
        dev: bool,
    },
    /// Measures LFS objects in S3 beside git-lfs-s3, and `codecommit://` beside git's own HTTP.
    Lfs {
        /// Transfers also one object of 1 GiB.
        #[arg(long)]
        large: bool,
        /// Measures the development build, which compiles in a minute instead of ten.
        #[arg(long)]
        dev: bool,
    },
    /// Measures a migration of 3,000 commits with 139 refs to CodeCommit, beside one `git push`.
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
        /// Measures the development build, which compiles in a minute instead of ten.
        #[arg(long)]
        dev: bool,
    },
}

/// Builds and runs the measurement that `arguments` choose.
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
            let peers = setup::PythonEnv::Peers.create()?;
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
            let peers = setup::PythonEnv::Peers.create()?;
            let mut bench = program("bench-remote", "branchline-migration", *dev)?;
            bench.arg("--peers").arg(peers);
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
            let peers = setup::PythonEnv::Peers.create()?;
            let mut bench = terminal("bench-terminal", &[], *dev)?;
            bench.arg("--peers").arg(peers);
            bench.args(["--link-mbit", &link_mbit.to_string()]);
            bench.args(["--link-latency-ms", &link_latency_ms.to_string()]);
            run(&mut bench)
        }
        Subject::Lfs { large, dev } => {
            let peers = setup::PythonEnv::Peers.create()?;
            let mut bench = terminal("bench-lfs", &["branchline-dev"], *dev)?;
            bench.arg("--peers").arg(peers);
            bench.args(large.then_some("--large"));
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

/// Builds the command line, other packages that its measurement `name` starts, and the measurement;
/// returns a command that measures that build.
fn terminal(name: &str, others: &[&str], dev: bool) -> Result<Command> {
    let profile = if dev { "dev" } else { "release" };
    let mut build = cargo();
    build.args(["build", "--locked", "--bins", "--profile", profile]);
    for package in std::iter::once(&"branchline").chain(others) {
        build.args(["--package", package]);
    }
    run(&mut build)?;
    let program = ["--bin", name];
    run(cargo().args(["build", "--quiet", "--locked"]).args(program))?;
    let target = target_folder();
    let mut bench = Command::new(target.join("debug").join(name));
    bench
        .arg("--programs")
        .arg(target.join(if dev { "debug" } else { "release" }));
    Ok(bench)
}

/// Builds the program `name`, the functions that it measures and the development server, and
/// returns a command that measures the functions of that build.
///
/// `function` is the package that is measured, `dev` chooses the development build of it.
fn program(name: &str, function: &str, dev: bool) -> Result<Command> {
    // The stage starts these two in any case.
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
