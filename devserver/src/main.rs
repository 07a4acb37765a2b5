//! The development server's program.

use branchline_dev::cli::Cli;
use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    Cli::parse().run().await
}
