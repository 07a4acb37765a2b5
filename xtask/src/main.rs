//! The developer's tasks: `cargo xtask test`, `cargo xtask demo`, `cargo xtask bench`,
//! `cargo xtask fuzz`, `cargo xtask package`, `cargo xtask dist`.
//!
//! Each task installs the programs that it needs, or says how, so that a fresh machine with
//! Rust and git is enough.

mod bench;
mod demo;
mod deploy;
mod dist;
mod examples;
mod fuzz;
mod package;
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
    /// Shows on a real repository how a pushed branch becomes a pinned pipeline execution.
    Demo(demo::Arguments),
    /// Checks the template, the state machines, the examples and the workflows alone, as the tests
    /// do.
    Template(TemplateArguments),
    /// Builds the functions as `sam deploy` uploads them, for one architecture or both, and
    /// starts each once against the development server.
    Package(package::Arguments),
    /// Builds the release: wheels, function zips, templates, checksums, bill of materials.
    Dist(dist::Arguments),
    /// Measures the functions beside other programs, in one run.
    Bench(bench::Arguments),
    /// Fuzzes every parser of foreign bytes, a minute each.
    Fuzz(fuzz::Arguments),
}

/// Options of `cargo xtask template`.
#[derive(Debug, clap::Args)]
struct TemplateArguments {
    /// Also synthesizes the app of the AWS CDK, for which npm installs 200 MB.
    #[arg(long)]
    cdk: bool,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Test(arguments) => test::task(&arguments),
        Task::Demo(arguments) => demo::task(&arguments),
        Task::Template(arguments) => {
            deploy::lint()?;
            examples::lint()?;
            if arguments.cdk {
                examples::synthesize()?;
            }
            Ok(())
        }
        Task::Package(arguments) => package::task(&arguments),
        Task::Dist(arguments) => dist::task(&arguments),
        Task::Bench(arguments) => bench::task(&arguments),
        Task::Fuzz(arguments) => fuzz::task(&arguments),
    }
}
