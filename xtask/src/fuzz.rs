//! `cargo xtask fuzz`: libFuzzer on every parser of foreign bytes, for a limited time each.
//!
//! The targets are those of the package `branchline-fuzz`. Stable Rust is enough: its code
//! has no `unsafe`, so the fuzzer needs coverage and no sanitizer.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process::{cargo, output, run, target_folder, workspace};
use crate::setup;

/// Options of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Time that each target runs, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Targets to run; by default all of them.
    targets: Vec<String>,
}

/// Limits on time and memory, beyond which an input counts as a finding.
const LIMITS: [&str; 3] = ["-timeout=10", "-rss_limit_mb=1024", "-malloc_limit_mb=128"];

/// Fuzzes the targets of `arguments`, and fails if one has a finding.
pub(crate) fn task(arguments: &Arguments) -> Result<()> {
    setup::debian_packages()?;
    setup::cargo_fuzz()?;
    let all = targets()?;
    let chosen = if arguments.targets.is_empty() {
        all
    } else {
        for name in &arguments.targets {
            if !all.contains(name) {
                bail!(
                    "the target `{name}` is missing\nhint: the targets are {}",
                    all.join(", ")
                );
            }
        }
        arguments.targets.clone()
    };
    let fuzz = workspace().join("fuzz");
    let seeds = target_folder().join("fuzz/seeds");
    let mut write_seeds = cargo();
    write_seeds.args(["run", "--quiet", "--locked", "--package", "branchline-fuzz"]);
    run(write_seeds.args(["--example", "seeds", "--"]).arg(&seeds))?;
    run(&mut cargo_fuzz(
        "build",
        chosen.first().filter(|_| chosen.len() == 1),
    ))?;
    let mut broken = Vec::new();
    for name in &chosen {
        let corpus = fuzz.join("corpus").join(name);
        let artifacts = fuzz.join("artifacts").join(name);
        for folder in [&corpus, &artifacts] {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("the folder `{}`", folder.display()))?;
        }
        let before = files(&artifacts)?;
        let mut fuzzer = cargo_fuzz("run", Some(name));
        fuzzer.arg(&corpus).arg(seeds.join(name));
        let findings = fuzz.join("findings").join(name);
        if findings.is_dir() {
            fuzzer.arg(&findings);
        }
        fuzzer.arg("--").args(LIMITS);
        fuzzer.arg(format!("-max_total_time={}", arguments.seconds));
        // Without these, the fuzzer prints a line for each new input.
        fuzzer.args(["-verbosity=0", "-print_funcs=0", "-print_final_stats=1"]);
        if let Err(error) = run(&mut fuzzer) {
            eprintln!("{error:#}");
            let found = files(&artifacts)?;
            let new: Vec<_> = found
                .into_iter()
                .filter(|file| !before.contains(file))
                .collect();
            broken.push((name, new));
        }
    }
    if broken.is_empty() {
        eprintln!("\x1b[1m{} targets, no finding.\x1b[0m", chosen.len());
        return Ok(());
    }
    let mut report = String::new();
    for (name, files) in broken {
        report.extend(["\n`", name, "` has a finding:"]);
        for file in files {
            report.extend(["\n  ", &file.to_string_lossy()]);
        }
    }
    bail!(
        "the fuzzer found something{report}\n\
         hint: see it again with `cargo xtask fuzz --seconds 1 TARGET`; to keep it as a test, \
         copy it to `fuzz/findings/TARGET/` under a name that says what it is, and run \
         `cargo xtask test -p branchline-fuzz`"
    )
}

/// Returns the names of the targets, as `cargo fuzz` lists them.
fn targets() -> Result<Vec<String>> {
    let list = output(cargo().args(["fuzz", "list"]))?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// Returns a command of cargo-fuzz: `verb` is `build` or `run`, on all targets without one.
fn cargo_fuzz(verb: &str, target: Option<&String>) -> Command {
    let mut command = cargo();
    command
        // Built for speed of building: most of it is never run here.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .args(["fuzz", verb, "--sanitizer", "none", "--codegen-units", "16"])
        .args(["--features", "libfuzzer,core", "--target-dir"])
        .arg(target_folder().join("fuzz"))
        .args(target);
    command
}

/// Returns the paths of the files in `folder`.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("the folder `{}`", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
