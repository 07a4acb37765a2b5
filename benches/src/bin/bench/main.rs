//! Side-by-side measurements, and the document of their results.
//!
//! One program, because each one takes minutes to link for release.

mod archive;
mod archive_growth;
mod archive_stage;
mod lfs;
mod migrate;
mod mirror;
mod remote;
mod report;
mod terminal;

use anyhow::Result;
use clap::Parser;

/// Measures branchline beside its peers.
#[derive(Debug, Parser)]
#[command(name = "branchline-bench")]
enum Subject {
    /// Measures the update function.
    Archive(archive::Arguments),
    /// Measures mirrors into S3.
    Mirror(mirror::Arguments),
    /// Measures remotes of bundles in S3.
    Remote(remote::Arguments),
    /// Measures git on S3 at a terminal.
    Terminal(terminal::Arguments),
    /// Measures LFS objects in S3, and `codecommit://`.
    Lfs(lfs::Arguments),
    /// Measures migrations to CodeCommit.
    Migrate(migrate::Arguments),
    /// Writes the document of the results.
    Report(report::Arguments),
}

#[tokio::main]
async fn main() -> Result<()> {
    match Subject::parse() {
        Subject::Archive(arguments) => Box::pin(archive::run(arguments)).await,
        Subject::Mirror(arguments) => Box::pin(mirror::run(arguments)).await,
        Subject::Remote(arguments) => Box::pin(remote::run(arguments)).await,
        Subject::Terminal(arguments) => Box::pin(terminal::run(arguments)).await,
        Subject::Lfs(arguments) => Box::pin(lfs::run(arguments)).await,
        Subject::Migrate(arguments) => Box::pin(migrate::run(arguments)).await,
        Subject::Report(arguments) => report::run(&arguments),
    }
}
