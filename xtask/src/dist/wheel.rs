//! Python packages with the programs: `pip install` puts `branchline` on the path.
//!
//! maturin packs programs that are built already: a stand-in for cargo prints the build's answer
//! from a file. So a wheel of the development build, which tests install, is made as those of a
//! release are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::files::{self, Compression};
use super::programs::Programs;
use super::target::Target;
use super::{functions, launchers};
use crate::deploy::program;
use crate::process::{cargo, output, run, target_folder, workspace};
use crate::setup::PythonEnv;

/// Content of a wheel.
#[derive(Debug)]
pub(super) struct Contents<'a> {
    pub(super) programs: &'a Programs,
    /// Processors, and stacks from which `branchline template` takes their zips.
    pub(super) stacks: &'a [(&'static str, PathBuf)],
    /// Notices of the licences of other projects.
    pub(super) notices: Option<&'a Path>,
    /// Bill of materials.
    pub(super) bill: Option<&'a Path>,
    /// Tag by which pip knows whether the programs run.
    pub(super) platform: &'static str,
}

/// Packs the programs for a target into a wheel in the folder `out`, and returns its path.
pub(super) fn build(target: Target, contents: &Contents<'_>, out: &Path) -> Result<PathBuf> {
    let options = [
        "--target",
        target.triple(),
        "--compatibility",
        contents.platform,
        "--release",
    ];
    pack(contents, &options, out)
}

/// Packs the development build into a wheel for this machine, with the functions of this machine's
/// processor, and returns its path; the wheel of the launchers is beside it. All programs must be
/// built.
pub(crate) fn development_wheel() -> Result<PathBuf> {
    let folder = target_folder().join("development-wheel");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).context("the wheel of before")?;
    }
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "x86_64"
    };
    let stack = folder.join("stack");
    let programs = Programs::development();
    functions::write(&stack, architecture, &programs, Compression::Fast)?;
    let contents = Contents {
        programs: &programs,
        stacks: &[(architecture, stack)],
        notices: None,
        bill: None,
        platform: "linux",
    };
    let options = ["--compatibility", "linux", "--compression-level", "1"];
    let made = pack(&contents, &options, &folder)?;
    launchers::build(&folder)?;
    Ok(made)
}

fn pack(contents: &Contents<'_>, options: &[&str], out: &Path) -> Result<PathBuf> {
    let environment = PythonEnv::Wheel.create()?;
    let project = target_folder().join("wheel").join(contents.platform);
    if project.exists() {
        std::fs::remove_dir_all(&project).context("the project of before")?;
    }
    write_project(&project, contents)?;
    let mut maturin = program(&environment, "maturin")?;
    maturin.current_dir(&project);
    maturin.args(["build", "--locked", "--quiet", "--auditwheel", "check"]);
    maturin.args(options).arg("--out").arg(out);
    if let Some(bill) = contents.bill {
        maturin.arg("--sbom-include").arg(bill);
    }
    maturin.env("CARGO", write_cargo_stand_in(&project, contents.programs)?);
    // The time of all entries: the first that a zip can have.
    maturin.env("SOURCE_DATE_EPOCH", "315532800");
    run(&mut maturin)?;
    let names = files::below(out)?.into_iter();
    let of_platform = |name: &String| {
        name.starts_with("branchline-")
            && name.contains("-py3-none-")
            && (contents.platform == "linux" || name.contains(contents.platform))
    };
    let made: Vec<String> = names.filter(of_platform).collect();
    ensure!(
        made.len() == 1,
        "one wheel for {}, not {made:?}",
        contents.platform
    );
    Ok(out.join(&made[0]))
}

/// Writes what maturin packs: the project of the workspace, and files beside the program.
fn write_project(project: &Path, contents: &Contents<'_>) -> Result<()> {
    for name in ["README.md", "LICENSE"] {
        files::copy(&workspace().join(name), &project.join(name))?;
    }
    let package = workspace().join("python/branchline");
    for name in files::below(&package)? {
        if !name.contains("__pycache__") {
            files::copy(
                &package.join(&name),
                &project.join("python/branchline").join(&name),
            )?;
        }
    }
    let scripts = project.join("data/scripts");
    let server = "branchline-dev";
    files::copy(&contents.programs.path(server), &scripts.join(server))?;
    for (architecture, stack) in contents.stacks {
        let share = project
            .join("data/data/share/branchline")
            .join(architecture);
        for name in files::below(stack)? {
            // The program has the rest in it.
            if name == "cloudformation.json" || name.starts_with("functions/") {
                files::copy(&stack.join(&name), &share.join(&name))?;
            }
        }
    }
    let mut licenses = vec!["\"LICENSE\"".to_owned()];
    if let Some(notices) = contents.notices {
        let name = "THIRD-PARTY-NOTICES.txt";
        files::copy(notices, &project.join(name))?;
        licenses.push(format!("\"{name}\""));
    }
    let settings = workspace().join("pyproject.toml");
    let settings = std::fs::read_to_string(settings).context("pyproject.toml")?;
    let manifest = workspace().join("cli/Cargo.toml");
    let settings = replaced(
        &settings,
        "manifest-path = \"cli/Cargo.toml\"",
        &format!(
            "manifest-path = {:?}\ndata = \"data\"",
            manifest.display().to_string()
        ),
    )?;
    let settings = replaced(&settings, "\"LICENSE\"", &licenses.join(", "))?;
    std::fs::write(project.join("pyproject.toml"), settings).context("the wheel's settings")
}

fn replaced(text: &str, from: &str, to: &str) -> Result<String> {
    ensure!(text.contains(from), "pyproject.toml has no `{from}`");
    Ok(text.replacen(from, to, 1))
}

/// Writes a program that answers as cargo does after a build of `branchline`, and as cargo itself to
/// everything else; returns its path.
fn write_cargo_stand_in(project: &Path, programs: &Programs) -> Result<PathBuf> {
    let mut metadata = cargo();
    metadata.args(["metadata", "--format-version", "1", "--locked", "--no-deps"]);
    let metadata: serde_json::Value =
        serde_json::from_str(&output(&mut metadata)?).context("cargo's metadata")?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let package = packages
        .iter()
        .find(|package| package["name"] == "branchline");
    let package = package.context("the package `branchline`")?;
    let targets = package["targets"].as_array().context("targets")?;
    let target = targets.iter().find(|target| target["kind"][0] == "bin");
    let executable = programs.path("branchline");
    ensure!(
        executable.is_file(),
        "`{}` is not built",
        executable.display()
    );
    let artifact = json!({
        "reason": "compiler-artifact",
        "package_id": package["id"],
        "manifest_path": package["manifest_path"],
        "target": target.context("the program of `branchline`")?,
        "profile": {
            "opt_level": "0", "debuginfo": 0, "debug_assertions": false,
            "overflow_checks": false, "test": false,
        },
        "features": [],
        "filenames": [executable],
        "executable": executable,
        "fresh": true,
    });
    let finished = json!({ "reason": "build-finished", "success": true });
    let messages = project.join("messages.json");
    std::fs::write(&messages, format!("{artifact}\n{finished}\n")).context("cargo's messages")?;
    let real = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let script = project.join("cargo.sh");
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let text = format!(
        "#!/bin/sh\ncase \" $* \" in\n*\" rustc \"*) exec cat {} ;;\n*) exec {} \"$@\" ;;\nesac\n",
        quoted(&messages.to_string_lossy()),
        quoted(&real),
    );
    std::fs::write(&script, text).context("the program in cargo's place")?;
    make_executable(&script)?;
    Ok(script)
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).with_context(|| format!("`{}`", path.display()))
}

#[cfg(not(unix))]
fn make_executable(path: &Path) -> Result<()> {
    anyhow::bail!(
        "`{}` needs a shell: wheels are built on Unix",
        path.display()
    )
}
