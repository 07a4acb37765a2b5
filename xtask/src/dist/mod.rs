//! `cargo xtask dist`: everything that a release has, so that nobody needs Rust to use it.
//!
//! | module | job |
//! |---|---|
//! | `target` | the kinds of machines that programs are built for |
//! | `programs` | builds programs that are byte-identical on every machine |
//! | `functions` | zips of the functions, and the template without the SAM transform (plain CloudFormation) |
//! | `stack` | the folder that `sam deploy` takes, made by running `branchline template` |
//! | `wheel` | Python packages with the programs and the functions |
//! | `launchers` | the Python package with the other names of the program |
//! | `inventory` | the crates in the programs: bill of materials and licences |
//! | `files` | zips with fixed times, checksums, copies |
//! | `comparison` | two builds, file by file |

mod comparison;
mod files;
mod functions;
mod inventory;
mod launchers;
mod programs;
mod stack;
mod target;
mod wheel;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

pub(crate) use self::functions::write_plain_template;
use self::target::Target;
pub(crate) use self::wheel::development_wheel;
use crate::deploy::program;
use crate::process::{cargo, run, target_folder, workspace};
use crate::setup::PythonEnv;

/// Options of `cargo xtask dist`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Builds for this target alone; may be repeated.
    #[arg(long = "target", value_name = "TRIPLE", value_enum)]
    targets: Vec<Target>,
    /// Builds everything twice, in two places, and fails unless both results are equal.
    #[arg(long)]
    twice: bool,
    /// Packs the development build into a wheel for this machine, as the tests do, and builds
    /// nothing for release.
    #[arg(long, conflicts_with_all = ["targets", "twice", "out"])]
    dev: bool,
    /// Folder of the result; `target/dist` by default. A release of the same version is replaced.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Builds the release.
pub(crate) fn task(arguments: &Arguments) -> Result<()> {
    let begin = Instant::now();
    if arguments.dev {
        run(cargo().args(["build", "--workspace", "--bins", "--locked"]))?;
        println!("{}", development_wheel()?.display());
        return Ok(());
    }
    let environment = PythonEnv::Dist.create()?;
    let targets = match arguments.targets.as_slice() {
        [] => Target::ALL.to_vec(),
        chosen => chosen.to_vec(),
    };
    let out = arguments.out.clone();
    let out = out.unwrap_or_else(|| target_folder().join("dist"));
    let release = out.join(format!("branchline-{VERSION}"));
    let first = programs::SourceLocation::workspace();
    build(&environment, &targets, &first, &release)?;
    if arguments.twice {
        // A clone elsewhere, with a target folder of its own, as on another machine.
        let elsewhere = tempfile::tempdir_in(&out).context("the folder of the second build")?;
        let second = programs::SourceLocation::copy_to(elsewhere.path())?;
        let again = elsewhere.path().join("release");
        build(&environment, &targets, &second, &again)?;
        comparison::ensure_equal(&release, &again)?;
    }
    for line in files::list(&release)? {
        println!("{line}");
    }
    eprintln!(
        "`{}` is complete after {:.0?}",
        release.display(),
        begin.elapsed()
    );
    Ok(())
}

/// Version of the release.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Builds a release from the sources at `place` into the folder `release`.
fn build(
    environment: &Path,
    targets: &[Target],
    location: &programs::SourceLocation,
    release: &Path,
) -> Result<()> {
    if release.exists() {
        std::fs::remove_dir_all(release).context("the release of before")?;
    }
    std::fs::create_dir_all(release).context("the folder of the release")?;
    let inventory = inventory::Inventory::read(targets)?;
    let bill = release.join("sbom.cdx.json");
    inventory.write_bill(environment, &bill)?;
    let notices = release.join("THIRD-PARTY-NOTICES.txt");
    inventory.write_notices(&notices)?;

    // All programs come first, because each wheel has the functions of every processor.
    let mut built = Vec::new();
    for target in targets {
        built.push((*target, programs::build(environment, *target, location)?));
    }
    let mut stacks = Vec::new();
    for (target, programs) in &built {
        if let Some(architecture) = target.lambda() {
            let name = format!("branchline-{VERSION}-stack-{architecture}");
            let folder = release.join(&name);
            functions::write(&folder, architecture, programs, files::Compression::Best)?;
            stack::complete(&folder, &release.join(name + ".zip"))?;
            stacks.push((architecture, folder));
        }
    }
    for (target, programs) in &built {
        let contents = wheel::Contents {
            programs,
            stacks: &stacks,
            notices: Some(&notices),
            bill: Some(&bill),
            platform: target.platform(),
        };
        let made = wheel::build(*target, &contents, release)?;
        check_wheel(environment, *target, &made)?;
    }
    launchers::build(release)?;
    files::write_checksums(release)
}

/// Fails unless the programs in a wheel use only what its platform has.
fn check_wheel(environment: &Path, target: Target, made: &Path) -> Result<()> {
    // auditwheel knows the libraries that the C library of musl's wheels is, and these have none.
    if target.is_static() {
        return Ok(());
    }
    let mut show = program(environment, "auditwheel")?;
    let shown = crate::process::output(show.arg("show").arg(made))?;
    let needed = newest_glibc(&shown).context("auditwheel names the C library")?;
    let limit = newest_glibc(target.platform()).context("the platform names the C library")?;
    ensure!(
        needed <= limit,
        "`{}` does not run wherever {} does: {shown}",
        made.display(),
        target.platform()
    );
    Ok(())
}

/// Returns the second number of the newest glibc that a text names as `manylinux_2_17`.
fn newest_glibc(text: &str) -> Option<u32> {
    let names = text.split("manylinux_2_").skip(1);
    let numbers = names.filter_map(|rest| rest.split('_').next()?.parse().ok());
    numbers.max()
}

/// Runs a Python script of this folder.
fn python(environment: &Path, script: &str, arguments: &[&std::ffi::OsStr]) -> Result<()> {
    let script = workspace().join("xtask/src/dist").join(script);
    run(program(environment, "python")?.arg(script).args(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_c_library_decides() {
        let shown = "x-1-py3-none-manylinux_2_17_x86_64.whl is consistent with \
                     \"manylinux_2_34_x86_64\"";
        assert_eq!(newest_glibc(shown), Some(34));
        assert_eq!(newest_glibc(Target::ArmGnu.platform()), Some(17));
        assert_eq!(newest_glibc("linux_x86_64"), None);
    }
}
