//! `cargo xtask demo`: builds the programs and runs the demo on a repository.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use crate::process::{cargo, run, target_folder};
use crate::setup;

/// Options of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Git repository whose HEAD is pushed; by default this project's own.
    #[arg(long)]
    repo: Option<PathBuf>,
}

/// Builds the programs and runs the demo on the repository of `arguments`.
pub(crate) fn task(arguments: &Arguments) -> Result<()> {
    setup::debian_packages()?;
    let programs = [
        "--bin",
        "update",
        "--bin",
        "lifecycle",
        "--bin",
        "migration",
        "--bin",
        "branchline-dev",
        "--bin",
        "branchline",
        "--bin",
        "demo",
    ];
    // Five minutes the first time, which cargo's progress shows.
    eprintln!("building the functions, the development server and the command line");
    let begin = Instant::now();
    run(cargo().args(["build", "--locked"]).args(programs))?;
    eprintln!("built in {:.0?}", begin.elapsed());
    let target = target_folder();
    let mut demo = std::process::Command::new(target.join("debug/demo"));
    let own = crate::process::workspace().to_owned();
    demo.arg("--repo")
        .arg(arguments.repo.as_ref().unwrap_or(&own));
    demo.arg("--data").arg(target.join("demo"));
    run(&mut demo)
}
