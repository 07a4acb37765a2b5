//! The developer's tasks: `cargo xtask test`, `cargo xtask demo`, `cargo xtask bench`.
//!
//! Each task installs or explains what it misses, so that a fresh machine with Rust and
//! git is enough.

mod bench;
mod demo;
mod process;
mod setup;
mod test;

use clap::{Parser, Subcommand};

/// The developer's tasks of branchline.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Runs everything that CI runs: format, lints, documentation and all tests.
    Test(test::Arguments),
    /// Shows the product's main job on a real repository: a pushed branch becomes a pinned
    /// pipeline execution.
    Demo(demo::Arguments),
    /// Measures, side by side and in one run.
    Bench(bench::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Test(arguments) => test::task(&arguments),
        Task::Demo(arguments) => demo::task(&arguments),
        Task::Bench(arguments) => bench::task(&arguments),
    }
}
