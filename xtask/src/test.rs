//! `cargo xtask test`: everything that CI runs, or the tests of some packages.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use crate::process::{cargo, run};
use crate::setup::CargoPlugin;
use crate::{deploy, dist, examples, setup};

/// The package that makes cargo resolve the features of the whole workspace.
const FEATURES: &str = "branchline-features";

/// The package whose tests run the programs of the other packages.
const END_TO_END: &str = "branchline-tests";

/// The selection of checks and tests; without options, everything.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Builds and runs the tests of this package alone; may be repeated.
    #[arg(short, long = "package", value_name = "PACKAGE")]
    packages: Vec<String>,
    /// Runs the tests alone, without format, lints and documentation.
    #[arg(long)]
    tests_only: bool,
    /// Runs only tests whose name contains this text.
    filter: Option<String>,
}

/// Runs the checks and tests that `arguments` select.
pub(crate) fn task(arguments: &Arguments) -> Result<()> {
    let begin = Instant::now();
    let mut variables = Vec::new();
    step("set up", || {
        setup::debian_packages()?;
        variables.extend(setup::jgit()?.map(|file| ("BRANCHLINE_JGIT", file)));
        variables.push(("BRANCHLINE_VENV", setup::PythonEnv::Peers.create()?));
        Ok(())
    })?;
    if !arguments.tests_only && arguments.packages.is_empty() {
        checks()?;
    }
    step("programs", || programs(arguments))?;
    if arguments.installs_the_wheel() {
        step("wheel", || {
            variables.push(("BRANCHLINE_WHEEL", dist::development_wheel()?));
            variables.push(("BRANCHLINE_DEPLOY_VENV", setup::PythonEnv::Deploy.create()?));
            Ok(())
        })?;
    }
    step("tests", || tests(arguments, &variables))?;
    eprintln!("\x1b[1mAll passed in {:.0?}.\x1b[0m", begin.elapsed());
    Ok(())
}

/// Runs `body` between two lines that name it and say how long it took.
fn step(name: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("\x1b[1m== {name}\x1b[0m");
    let begin = Instant::now();
    body()?;
    eprintln!("\x1b[1m== {name}: done in {:.1?}\x1b[0m", begin.elapsed());
    Ok(())
}

/// Runs everything of CI that is not a test: format, lints, template, documentation.
fn checks() -> Result<()> {
    step("format", || run(cargo().args(["fmt", "--all", "--check"])))?;
    // Known weaknesses of crates are left out: their list is fetched from a server, and would
    // fail a change for the reason of another.
    step("dependencies", || {
        let lists = ["bans", "licenses", "sources"];
        run(CargoPlugin::Deny
            .command()?
            .args(["--locked", "check"])
            .args(lists))
    })?;
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
    step("examples and workflows", examples::lint)?;
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
    })
}

impl Arguments {
    /// Returns whether tests that install the wheel are among those that are selected.
    fn installs_the_wheel(&self) -> bool {
        let has_tests = self.packages.is_empty() || self.packages.iter().any(|it| it == END_TO_END);
        // It takes a quarter of a minute, which one other test need not wait for.
        let named = self.filter.as_ref();
        has_tests && named.is_none_or(|filter| filter.contains("wheel"))
    }
}

/// Builds the programs that the selected tests run.
///
/// Every command resolves the features of the whole workspace and of its tests, so that
/// none of them compiles a crate that another one has compiled.
fn programs(arguments: &Arguments) -> Result<()> {
    let packages = &arguments.packages;
    if packages.is_empty() || packages.iter().any(|name| name == END_TO_END) {
        let mut build = cargo();
        build.args(["build", "--workspace", "--bins", "--locked"]);
        // A target that is a test makes cargo resolve the features of tests.
        if packages.is_empty() {
            build.arg("--tests");
        } else {
            build.args(["--test", "runner"]);
        }
        run(&mut build)?;
    }
    Ok(())
}

/// Runs the selected tests, with environment variables that name what some of them need.
fn tests(arguments: &Arguments, variables: &[(&str, PathBuf)]) -> Result<()> {
    let packages = &arguments.packages;
    let mut tests = CargoPlugin::Nextest.command()?;
    tests.args(["run", "--locked", "--no-fail-fast"]);
    if packages.is_empty() {
        tests.arg("--workspace");
    } else {
        for package in packages.iter().map(String::as_str).chain([FEATURES]) {
            tests.args(["--package", package]);
        }
    }
    tests.args(arguments.filter.as_deref());
    tests.envs(variables.iter().map(|(name, path)| (name, path)));
    run(&mut tests)
}
