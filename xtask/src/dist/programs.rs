//! Builds programs whose bytes do not depend on the machine that builds them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::files;
use super::target::Target;
use crate::deploy::program;
use crate::process::{in_workspace, output, run, target_folder, workspace};

/// Packages of the programs at a terminal.
const PROGRAMS: [&str; 2] = ["branchline", "branchline-dev"];
/// Packages of the functions.
const FUNCTIONS: [&str; 3] = [
    "branchline-lifecycle",
    "branchline-update",
    "branchline-migration",
];

/// All packages whose programs are released.
pub(super) fn packages() -> impl Iterator<Item = &'static str> {
    PROGRAMS.into_iter().chain(FUNCTIONS)
}

/// Sources, and the folder in which they are built.
#[derive(Debug)]
pub(super) struct SourceLocation {
    sources: PathBuf,
    target: PathBuf,
}

impl SourceLocation {
    /// Returns the workspace and its target folder.
    pub(super) fn workspace() -> Self {
        Self {
            sources: workspace().to_owned(),
            target: target_folder(),
        }
    }

    /// Copies the sources into `folder`, with a new target folder beside them.
    pub(super) fn copy_to(folder: &Path) -> Result<Self> {
        let mut list = in_workspace("git");
        list.args(["ls-files", "--cached", "--others", "--exclude-standard"]);
        let sources = folder.join("sources");
        for name in output(&mut list)?.lines() {
            let from = workspace().join(name);
            let to = sources.join(name);
            // A file that was removed and not yet committed is still listed.
            if from.is_file() {
                files::copy(&from, &to)?;
            }
        }
        Ok(Self {
            sources,
            target: folder.join("target"),
        })
    }
}

/// The programs of one build.
#[derive(Debug)]
pub(super) struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Returns the programs of the development build of this machine.
    pub(super) fn development() -> Self {
        Self {
            folder: target_folder().join("debug"),
        }
    }

    /// Returns the path of a program.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Builds the programs for a target, in one run of cargo: most of their crates are the same.
///
/// zig links them for a C library that is older than the machine's, or statically.
pub(super) fn build(
    environment: &Path,
    target: Target,
    location: &SourceLocation,
) -> Result<Programs> {
    add_standard_library(target)?;
    let mut zig = program(environment, "cargo-zigbuild")?;
    zig.current_dir(&location.sources);
    zig.args(["zigbuild", "--release", "--locked", "--target"]);
    zig.arg(target.for_zig());
    let functions = FUNCTIONS.iter().filter(|_| target.lambda().is_some());
    for package in PROGRAMS.iter().chain(functions) {
        zig.args(["--package", package]);
    }
    zig.env("CARGO_TARGET_DIR", &location.target);
    zig.env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&location.sources)?);
    // Of C code that writes its time of compilation.
    zig.env("SOURCE_DATE_EPOCH", "0");
    run(&mut zig)?;
    Ok(Programs {
        folder: location.target.join(target.triple()).join("release"),
    })
}

/// Returns flags that write the same paths into programs on every machine, separated as cargo
/// reads them.
fn rust_flags(sources: &Path) -> Result<OsString> {
    let mut flags = OsString::new();
    let mut remap = |from: &Path, to: &str| {
        if !flags.is_empty() {
            flags.push("\u{1f}");
        }
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    };
    remap(sources, "/branchline");
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let registries = home.context("cargo's home folder")?.join("registry/src");
    // The name of each folder depends on the address of the registry.
    let mut found: Vec<PathBuf> = std::fs::read_dir(&registries)
        .with_context(|| format!("`{}`", registries.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()
        .context("cargo's registries")?;
    found.sort();
    for registry in found {
        remap(&registry, "/registry");
    }
    Ok(flags)
}

/// Installs Rust's standard library for a target, where rustup manages the toolchain.
fn add_standard_library(target: Target) -> Result<()> {
    if !crate::process::is_installed("rustup") {
        return Ok(());
    }
    let installed = output(in_workspace("rustup").args(["target", "list", "--installed"]))?;
    if installed.lines().any(|line| line == target.triple()) {
        return Ok(());
    }
    run(in_workspace("rustup").args(["target", "add", target.triple()]))
}
