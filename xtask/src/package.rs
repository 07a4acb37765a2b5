//! `cargo xtask package`: builds the functions as `sam deploy` uploads them, and starts each.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::deploy::program;
use crate::process::{cargo, in_workspace, is_installed, output, run, target_folder, workspace};
use crate::setup::{Emulator, PythonEnv};

/// Functions: the folder in `functions/`, which is also the binary, and the name in the
/// template.
const FUNCTIONS: [(&str, &str); 3] = [
    ("lifecycle", "LifecycleFunction"),
    ("update", "UpdateFunction"),
    ("migration", "MigrationFunction"),
];

/// Options of `cargo xtask package`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Processor to build for.
    #[arg(long, value_enum, default_value_t = Arch::All)]
    arch: Arch,
    /// Builds without starting the functions.
    #[arg(long)]
    no_start: bool,
    /// Keeps Rust's standard library for another processor. Without this option it is removed
    /// first, and the build installs it, as on a machine that never had it.
    #[arg(long)]
    keep_target: bool,
    /// Builds this function alone; may be repeated.
    #[arg(long = "function")]
    functions: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Arch {
    #[value(name = "arm64")]
    Arm64,
    #[value(name = "x86_64")]
    X86_64,
    All,
}

impl Arch {
    fn each(self) -> &'static [Self] {
        match self {
            Self::Arm64 => &[Self::Arm64],
            Self::X86_64 => &[Self::X86_64],
            Self::All => &[Self::X86_64, Self::Arm64],
        }
    }

    /// Returns Lambda's name of the processor.
    fn name(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            Self::X86_64 => "x86_64",
            Self::All => "all",
        }
    }

    /// Returns whether this machine has another processor.
    fn is_foreign(self) -> bool {
        match self {
            Self::Arm64 => !cfg!(target_arch = "aarch64"),
            Self::X86_64 => !cfg!(target_arch = "x86_64"),
            Self::All => false,
        }
    }

    /// Returns Rust's name of the target that Lambda runs; `None` for more than one.
    fn target(self) -> Option<&'static str> {
        match self {
            Self::Arm64 => Some("aarch64-unknown-linux-gnu"),
            Self::X86_64 => Some("x86_64-unknown-linux-gnu"),
            Self::All => None,
        }
    }

    /// Returns the emulator that runs its programs here; `None` for this machine's processor.
    fn emulator(self) -> Option<Emulator> {
        match self {
            Self::Arm64 if self.is_foreign() => Some(Emulator::ARM64),
            Self::X86_64 if self.is_foreign() => Some(Emulator::X86_64),
            _ => None,
        }
    }
}

/// Builds the functions that `arguments` choose, reports their sizes, and starts them.
pub(crate) fn task(arguments: &Arguments) -> Result<()> {
    let functions = chosen(&arguments.functions)?;
    let environment = PythonEnv::Deploy.create()?;
    if !arguments.no_start {
        // A missing emulator fails the task before the long build, not after it.
        for arch in arguments.arch.each() {
            arch.emulator().map(Emulator::install).transpose()?;
        }
        let programs = ["--bin", "branchline-dev", "--bin", "smoke-test-packages"];
        run(cargo()
            .args(["build", "--quiet", "--locked"])
            .args(programs))?;
    }
    for &arch in arguments.arch.each() {
        if !arguments.keep_target {
            remove_target(arch)?;
        }
        let built = build(&environment, arch, &functions)?;
        report(arch, &functions, &built)?;
        if !arguments.no_start {
            start(arch, &functions, &built)?;
        }
    }
    Ok(())
}

/// Returns the functions of these names; all without names.
fn chosen(names: &[String]) -> Result<Vec<(&'static str, &'static str)>> {
    for name in names {
        if !FUNCTIONS.iter().any(|(function, _)| function == name) {
            bail!(
                "`{name}` is not a function\nhint: the functions are lifecycle, update and migration"
            );
        }
    }
    let is_chosen = |(name, _): &&(&str, &str)| names.is_empty() || names.iter().any(|n| n == name);
    Ok(FUNCTIONS.iter().filter(is_chosen).copied().collect())
}

/// Removes Rust's standard library for another processor, which a deployer's machine lacks before
/// the first build. Without rustup there is nothing to remove it with.
fn remove_target(arch: Arch) -> Result<()> {
    if !arch.is_foreign() || !is_installed("rustup") {
        return Ok(());
    }
    let installed = output(in_workspace("rustup").args(["target", "list", "--installed"]))?;
    match removable_target(arch, &installed) {
        Some(target) => run(in_workspace("rustup").args(["target", "remove", target])),
        None => Ok(()),
    }
}

/// Returns the target of `arch`, if it is that of another processor and a line of `installed`.
fn removable_target(arch: Arch, installed: &str) -> Option<&'static str> {
    let target = arch.target().filter(|_| arch.is_foreign())?;
    installed
        .lines()
        .any(|line| line.trim() == target)
        .then_some(target)
}

/// Builds the functions by `sam build`, and returns the folder with their bootstraps.
fn build(environment: &Path, arch: Arch, functions: &[(&str, &str)]) -> Result<PathBuf> {
    let folder = target_folder().join("sam").join(arch.name());
    // sam builds one function, or all that the template has.
    let all = functions.len() == FUNCTIONS.len();
    let once: Vec<Option<&str>> = if all {
        vec![None]
    } else {
        functions.iter().map(|(_, name)| Some(*name)).collect()
    };
    for resource in once {
        let mut sam = program(environment, "sam")?;
        // One folder for all, wherever sam builds.
        sam.env("CARGO_TARGET_DIR", target_folder());
        sam.arg("build").args(resource);
        // sam empties the build folder, so that one function has one of its own.
        sam.arg("--build-dir")
            .arg(folder.join(resource.unwrap_or_default()));
        sam.arg("--no-cached");
        sam.arg("--parameter-overrides")
            .arg(format!("Architecture={}", arch.name()));
        run(&mut sam)?;
    }
    let bootstraps = folder.join("bootstraps");
    for (name, resource) in functions {
        let own = folder.join(if all { "" } else { resource }).join(resource);
        let place = bootstraps.join(name);
        std::fs::create_dir_all(&bootstraps).context("the folder for bootstraps")?;
        std::fs::copy(own.join("bootstrap"), &place)
            .with_context(|| format!("the bootstrap of `{name}`"))?;
    }
    Ok(bootstraps)
}

/// Prints the size of each bootstrap, and of the zip of it that is uploaded.
fn report(arch: Arch, functions: &[(&str, &str)], built: &Path) -> Result<()> {
    for (name, _) in functions {
        let bootstrap = built.join(name);
        let size = std::fs::metadata(&bootstrap).context("a bootstrap")?.len();
        let zip = bootstrap.with_extension("zip");
        let code = "import sys, zipfile\n\
                    with zipfile.ZipFile(sys.argv[2], 'w', zipfile.ZIP_DEFLATED) as z:\n    \
                    z.write(sys.argv[1], 'bootstrap')";
        run(Command::new("python3")
            .args(["-c", code])
            .arg(&bootstrap)
            .arg(&zip))?;
        let zipped = std::fs::metadata(&zip).context("a zip")?.len();
        println!(
            "{name:9} {:6} {size:>9} bytes, {zipped:>9} bytes zipped",
            arch.name()
        );
        if zipped > 50 * 1024 * 1024 {
            bail!("`{name}` is too large: Lambda takes zips of at most 50 MiB");
        }
    }
    Ok(())
}

/// Starts each bootstrap against the development server, under qemu for another processor.
fn start(arch: Arch, functions: &[(&str, &str)], built: &Path) -> Result<()> {
    let mut command = Command::new(target_folder().join("debug/smoke-test-packages"));
    command.current_dir(workspace());
    command.arg("--bootstraps").arg(built);
    for (name, _) in functions {
        command.args(["--function", name]);
    }
    if let Some(emulator) = arch.emulator() {
        command.args(["--emulator", emulator.program]);
        command.args(["--system", emulator.system]);
    }
    print!("{}", output(&mut command)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_target_of_another_processor_is_removed() {
        let all = "aarch64-unknown-linux-gnu\nx86_64-unknown-linux-gnu\n";
        for arch in [Arch::Arm64, Arch::X86_64] {
            let removed = removable_target(arch, all);
            assert_eq!(removed.is_some(), arch.is_foreign(), "{arch:?}");
            assert_eq!(removed.is_some(), arch.emulator().is_some(), "{arch:?}");
            assert_eq!(removable_target(arch, ""), None, "{arch:?} is missing");
            let other = "aarch64-unknown-linux-musl\nx86_64-unknown-linux-musl\n";
            assert_eq!(removable_target(arch, other), None, "{arch:?}");
        }
        assert_eq!(removable_target(Arch::All, all), None);
    }
}
