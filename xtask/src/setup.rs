//! What the tasks need beyond Rust and git, installed where they can do it themselves and
//! explained where they cannot.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process::{cargo, is_there, output, run, target_folder, workspace};

/// Programs, and the Debian package that has each.
const DEBIAN_PACKAGES: [(&str, &str); 3] =
    [("git", "git"), ("unzip", "unzip"), ("python3", "python3")];

/// Installs the Debian packages that are missing.
pub(crate) fn debian_packages() -> Result<()> {
    let missing: Vec<&str> = DEBIAN_PACKAGES
        .iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(_, package)| *package)
        .collect();
    install(&missing)
}

fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    let root = output(Command::new("id").arg("-u"))?.trim() == "0";
    if !root || !is_there("apt-get") {
        bail!("these programs are missing: {list}\nhint: sudo apt-get install {list}");
    }
    run(Command::new("apt-get").args(["update", "-q"]))?;
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    run(command
        .args(["install", "-qy", "--no-install-recommends"])
        .args(packages))
}

/// Installs cargo-nextest if it is missing.
pub(crate) fn nextest() -> Result<()> {
    let there = Command::new("cargo")
        .args(["nextest", "--version"])
        .output();
    if there.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    run(cargo().args(["install", "cargo-nextest", "--locked"]))
        .context("cargo-nextest is missing and cannot be installed")
}

/// Makes the Python environment with the peers that tests talk to (moto, boto3, the AWS
/// CLI), and returns its folder. It is made anew when the list of packages changes.
pub(crate) fn python_environment() -> Result<PathBuf> {
    let list = workspace().join("xtask/requirements.txt");
    let wanted = std::fs::read_to_string(&list).context("xtask/requirements.txt")?;
    let folder = target_folder().join("peers");
    let stamp = folder.join("requirements.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|present| present == wanted) {
        return Ok(folder);
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder).context("the outdated Python environment")?;
    }
    let make = |folder: &PathBuf| run(Command::new("python3").args(["-m", "venv"]).arg(folder));
    if make(&folder).is_err() {
        install(&["python3-venv"])?;
        make(&folder)?;
    }
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "-r"])
        .arg(&list);
    run(&mut pip)?;
    // Last, so that an interrupted installation is not taken for a whole one.
    std::fs::write(&stamp, wanted).context("the Python environment's stamp")?;
    Ok(folder)
}
