//! Installation of the programs that the tasks need beyond Rust and git. Where a task cannot
//! install one, the error says how.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process::{cargo, in_workspace, is_installed, output, run, target_folder, workspace};

/// Programs, each with the Debian package that has it.
const DEBIAN_PACKAGES: [(&str, &str); 4] = [
    ("git", "git"),
    ("git-lfs", "git-lfs"),
    ("unzip", "unzip"),
    ("python3", "python3"),
];

/// Installs the Debian packages that are missing.
pub(crate) fn debian_packages() -> Result<()> {
    let missing: Vec<&str> = DEBIAN_PACKAGES
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    install(&missing)
}

/// A file of Debian's `libjgit-java`.
const JGIT: &str = "/usr/share/java/org.eclipse.jgit.http.server.jar";

/// Installs `JGit`, an independent git server for tests, and returns its file; `None` where there is no
/// Java compiler.
pub(crate) fn jgit() -> Result<Option<PathBuf>> {
    if !is_installed("javac") {
        return Ok(None);
    }
    if !Path::new(JGIT).exists() {
        install(&["libjetty9-java", "libjgit-java"])?;
    }
    Ok(Some(JGIT.into()))
}

/// Installs Debian packages, or fails with the command that installs them.
fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    let root = output(Command::new("id").arg("-u"))?.trim() == "0";
    if !root || !is_installed("apt-get") {
        bail!("these programs are missing: {list}\nhint: sudo apt-get install {list}");
    }
    run(Command::new("apt-get").args(["update", "-q"]))?;
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    run(command
        .args(["install", "-qy", "--no-install-recommends"])
        .args(packages))
}

/// A plugin of cargo that tests need.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CargoPlugin {
    /// cargo-nextest, which runs the tests.
    Nextest,
    /// cargo-deny, which checks licences, banned crates and registries.
    Deny,
}

impl CargoPlugin {
    /// Returns the word that follows `cargo`.
    fn name(self) -> &'static str {
        match self {
            Self::Nextest => "nextest",
            Self::Deny => "deny",
        }
    }

    /// Returns a command that runs the plugin in the workspace, and installs the plugin if
    /// it is missing: from a wheel, because a build of either takes minutes.
    pub(crate) fn command(self) -> Result<Command> {
        let name = self.name();
        let version = cargo().args([name, "--version"]).output();
        let mut command = if version.is_ok_and(|output| output.status.success()) {
            cargo()
        } else {
            let folder = PythonEnv::CargoPlugins.create().with_context(|| {
                format!(
                    "cargo-{name} is missing, and no wheel of it could be installed\n\
                     hint: cargo install --locked cargo-{name}"
                )
            })?;
            in_workspace(folder.join(SCRIPTS).join(format!("cargo-{name}")))
        };
        command.arg(name);
        Ok(command)
    }
}

/// Installs cargo-fuzz if it is missing.
pub(crate) fn cargo_fuzz() -> Result<()> {
    let there = Command::new("cargo").args(["fuzz", "--version"]).output();
    if there.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    run(cargo().args(["install", "cargo-fuzz", "--locked"]))
        .context("cargo-fuzz is missing and cannot be installed")
}

/// Emulator that runs the programs of another processor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Emulator {
    /// Name of the program.
    pub(crate) program: &'static str,
    /// Folder of the other processor's system libraries.
    pub(crate) system: &'static str,
    packages: [&'static str; 3],
}

impl Emulator {
    pub(crate) const ARM64: Self = Self {
        program: "qemu-aarch64",
        system: "/usr/aarch64-linux-gnu",
        packages: ["qemu-user", "libc6-arm64-cross", "libgcc-s1-arm64-cross"],
    };
    pub(crate) const X86_64: Self = Self {
        program: "qemu-x86_64",
        system: "/usr/x86_64-linux-gnu",
        packages: ["qemu-user", "libc6-amd64-cross", "libgcc-s1-amd64-cross"],
    };

    /// Installs the emulator and the system libraries, unless both exist.
    pub(crate) fn install(self) -> Result<()> {
        if is_installed(self.program) && Path::new(self.system).join("lib").is_dir() {
            return Ok(());
        }
        install(&self.packages)
    }
}

/// Folder of the programs of a Python environment.
pub(crate) const SCRIPTS: &str = if cfg!(windows) { "Scripts" } else { "bin" };

/// Python environment below the target folder. There are several, because packages of one
/// cannot be installed beside those of another.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PythonEnv {
    /// Peers that tests talk to: moto, boto3, the AWS CLI.
    Peers,
    /// Programs that check the template, build for Lambda, and link for arm64.
    Deploy,
    /// Checker for risks in the template.
    Checkov,
    /// Plugins of cargo that tests need.
    CargoPlugins,
    /// Packer of wheels.
    Wheel,
    /// Programs that build a release, and check it.
    Dist,
}

impl PythonEnv {
    /// Returns the path of the list of packages, and the name of the folder.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Peers => ("xtask/requirements.txt", "peers"),
            Self::Deploy => ("xtask/requirements-deploy.txt", "deploy"),
            Self::Checkov => ("xtask/requirements-checkov.txt", "checkov"),
            Self::CargoPlugins => ("xtask/requirements-cargo.txt", "cargo-plugins"),
            Self::Wheel => ("xtask/requirements-wheel.txt", "wheel-tools"),
            Self::Dist => ("xtask/requirements-dist.txt", "dist-tools"),
        }
    }

    /// Creates the environment, and returns its folder. One that exists is kept until the list
    /// of packages changes.
    pub(crate) fn create(self) -> Result<PathBuf> {
        let (list, name) = self.place();
        let wanted = std::fs::read_to_string(workspace().join(list)).context(list)?;
        let folder = target_folder().join(name);
        let stamp = folder.join("requirements.txt");
        if std::fs::read_to_string(&stamp).is_ok_and(|present| present == wanted) {
            return Ok(folder);
        }
        if folder.exists() {
            std::fs::remove_dir_all(&folder).context("the outdated Python environment")?;
        }
        let create =
            |folder: &PathBuf| run(Command::new("python3").args(["-m", "venv"]).arg(folder));
        if create(&folder).is_err() {
            install(&["python3-venv"])?;
            create(&folder)?;
        }
        let mut pip = Command::new(folder.join(SCRIPTS).join("pip"));
        pip.current_dir(workspace());
        pip.args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
            list,
        ]);
        run(&mut pip)?;
        // Written last, because an interrupted installation must not be taken for a whole one.
        std::fs::write(&stamp, wanted).context("the Python environment's stamp")?;
        Ok(folder)
    }
}

/// Installs a package of npm, `PACKAGE@VERSION`, and returns the folder that it is installed in.
pub(crate) fn npm_package(name: &str, package: &str) -> Result<PathBuf> {
    if !is_installed("npm") {
        install(&["npm"])?;
    }
    let folder = target_folder().join(name);
    let stamp = folder.join("package.txt");
    if !std::fs::read_to_string(&stamp).is_ok_and(|present| present == package) {
        std::fs::create_dir_all(&folder).context("the folder for npm")?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]);
        run(npm.arg(&folder).arg(package))?;
        std::fs::write(&stamp, package).with_context(|| format!("the stamp of {name}"))?;
    }
    Ok(folder)
}

/// Installs the npm package that checks state machines, and returns the path of its program.
pub(crate) fn asl_validator() -> Result<PathBuf> {
    let folder = npm_package("asl-validator", "asl-validator@4.0.0")?;
    Ok(folder.join("node_modules/.bin/asl-validator"))
}
