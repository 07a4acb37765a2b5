//! `cargo xtask test`: everything that CI runs.

use std::time::Instant;

use anyhow::Result;

use crate::process::{cargo, run};
use crate::{deploy, setup};

/// What to run; without options, everything.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Runs the tests alone, without format, lints and documentation.
    #[arg(long)]
    tests_only: bool,
    /// Runs only tests whose name contains this text.
    filter: Option<String>,
}

fn step(name: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("\x1b[1m== {name}\x1b[0m");
    let begin = Instant::now();
    body()?;
    eprintln!("\x1b[1m== {name}: done in {:.1?}\x1b[0m", begin.elapsed());
    Ok(())
}

fn run_all(arguments: &Arguments) -> Result<()> {
    let mut peers = None;
    step("set up", || {
        setup::debian_packages()?;
        setup::nextest()?;
        peers = Some(setup::Environment::Peers.make()?);
        Ok(())
    })?;
    if !arguments.tests_only {
        step("format", || run(cargo().args(["fmt", "--all", "--check"])))?;
        step("lints", || {
            let lints = [
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ];
            run(cargo().args(lints))
        })?;
        step("template and state machines", deploy::lint)?;
        step("documentation", || {
            let mut doc = cargo();
            doc.args([
                "doc",
                "--workspace",
                "--no-deps",
                "--locked",
                "--document-private-items",
            ]);
            run(doc.env("RUSTDOCFLAGS", "-D warnings"))
        })?;
        step("documentation's examples", || {
            run(cargo().args(["test", "--workspace", "--doc", "--locked", "--quiet"]))
        })?;
    }
    step("tests", || {
        // The functions' bootstraps and the development server are run by the tests.
        run(cargo().args(["build", "--workspace", "--bins", "--locked"]))?;
        let mut tests = cargo();
        tests.args([
            "nextest",
            "run",
            "--workspace",
            "--locked",
            "--no-fail-fast",
        ]);
        tests.args(arguments.filter.as_deref());
        if let Some(peers) = &peers {
            tests.env("BRANCHLINE_VENV", peers);
        }
        run(&mut tests)
    })
}

pub(crate) fn task(arguments: &Arguments) -> Result<()> {
    let begin = Instant::now();
    run_all(arguments)?;
    eprintln!("\x1b[1mAll passed in {:.0?}.\x1b[0m", begin.elapsed());
    Ok(())
}
