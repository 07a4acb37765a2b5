//! `branchline install`: links to the program under the names of git's remote helpers and of
//! git-lfs's agent, and the settings by which git and git-lfs use them.
//!
//! | module | content |
//! |---|---|
//! | `record` | what an installation wrote |
//! | `links` | symbolic links, and the programs that they are in the way of |
//! | `protocols` | keys in git's global configuration |

mod links;
mod protocols;
mod record;

use std::path::{Path, PathBuf};

use branchline_core::{Error, ErrorKind, Result};
use clap::Args;
use serde::Serialize;

use self::links::LinkReport;
use self::protocols::ProtocolReport;
use self::record::Record;
use crate::invocation::Invocation;

/// Arguments of `branchline install`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InstallArgs {
    /// Directory of the links. By default that of the program, or, where git does not search it, the
    /// one on PATH in which `branchline` is a link to the program.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Replaces other programs of these names in the directory.
    #[arg(long)]
    force: bool,
    /// Removes what earlier installations wrote.
    #[arg(long, conflicts_with_all = ["dir", "force"])]
    uninstall: bool,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Writes links to this program, `git-remote-s3`, `git-remote-s3+zip` and `git-lfs-s3`, in another
directory than its own also `branchline`. Sets in git's global configuration, unless they are set:
`protocol.s3.allow` and `protocol.s3+zip.allow`, so that submodules can be at `s3://`, and
`lfs.customtransfer.git-lfs-s3.path` and `lfs.https://s3.standalonetransferagent`, by which git-lfs
finds its agent for `s3://`. What is written is recorded in
`$XDG_STATE_HOME/branchline/install.json` (`~/.local/state/branchline/install.json`).

Examples:
  branchline install
  branchline install --dir ~/.local/bin --json
  branchline install --uninstall";

/// Result of the command.
#[derive(Debug, Serialize)]
struct Report {
    links: Vec<LinkReport>,
    settings: Vec<ProtocolReport>,
}

/// Installs, or removes what was installed.
pub(crate) async fn install(invocation: &Invocation, args: &InstallArgs) -> Result<()> {
    let record_file = Record::path(invocation)?;
    let mut record = Record::read(&record_file)?;
    let report = if args.uninstall {
        let links = links::remove(&mut record)?;
        let settings = protocols::unset(&mut record).await?;
        record.write(&record_file)?;
        Report { links, settings }
    } else {
        let program = program(invocation)?;
        let directory = directory(invocation, args, &program)?;
        links::check(&directory, &program, args.force)?;
        let search = links::search_path(invocation).await;
        let links = links::create(&directory, &program, &search, &mut record)?;
        // Recorded at once, so that a failure below leaves nothing that is not known.
        record.write(&record_file)?;
        let settings = protocols::set(&mut record).await?;
        record.write(&record_file)?;
        Report { links, settings }
    };
    if args.json {
        let text = serde_json::to_string_pretty(&report)
            .map_err(|error| Error::new(ErrorKind::Internal, "the result").with_source(error))?;
        println!("{text}");
    } else {
        for link in &report.links {
            link.print();
        }
        for setting in &report.settings {
            setting.print();
        }
        if args.uninstall && report.links.is_empty() && report.settings.is_empty() {
            println!("nothing is installed");
        }
    }
    Ok(())
}

/// Returns the path of this program without symbolic links.
fn program(invocation: &Invocation) -> Result<PathBuf> {
    let unknown = || Error::new(ErrorKind::Config, "the path of this program is not known");
    let program = invocation.program.as_deref().ok_or_else(unknown)?;
    program
        .canonicalize()
        .map_err(|error| unknown().with_source(error))
}

/// Returns the directory of the links, which must exist.
fn directory(invocation: &Invocation, args: &InstallArgs, program: &Path) -> Result<PathBuf> {
    let directory = match &args.dir {
        Some(directory) => directory,
        None => &usual_directory(invocation, program),
    };
    let shown = directory.display();
    directory.canonicalize().map_err(|error| {
        Error::new(ErrorKind::Config, format!("`{shown}` is not a directory"))
            .with_source(error)
            .with_hint("create it, or name another one by `--dir`")
    })
}

/// Returns the directory of the program, if it is on PATH. Tools such as uv and pipx keep a program in
/// a directory of its own, and have a link to it in one that is on PATH, which is then returned.
fn usual_directory(invocation: &Invocation, program: &Path) -> PathBuf {
    let own = program
        .parent()
        .expect("because the program is a file in a directory");
    let path = invocation.variable("PATH").unwrap_or_default();
    let mut searched: Vec<PathBuf> = std::env::split_paths(path)
        .filter_map(|directory| directory.canonicalize().ok())
        .collect();
    if searched.iter().any(|directory| directory == own) {
        return own.to_owned();
    }
    searched.retain(|directory| {
        let link = directory.join(links::file_name(links::PROGRAM));
        link.canonicalize().is_ok_and(|found| found == program)
    });
    let linked = searched.into_iter().next();
    linked.unwrap_or_else(|| own.to_owned())
}

fn io_error(doing: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Config, format!("{doing} `{}`", path.display())).with_source(error)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_where_git_finds_the_program() {
        let home = tempfile::tempdir().expect("a folder");
        let home = home.path().canonicalize().expect("it exists");
        let (own, bin) = (home.join("tools/branchline/bin"), home.join("bin"));
        for directory in [&own, &bin] {
            std::fs::create_dir_all(directory).expect("a folder");
        }
        let program = own.join("branchline");
        std::fs::write(&program, "").expect("a file");
        let usual = |path: &str| {
            let invocation = Invocation {
                arguments: Vec::new(),
                variables: HashMap::from([("PATH".into(), path.into())]),
                program: Some(program.clone()),
            };
            usual_directory(&invocation, &program)
        };
        let only_bin = bin.display().to_string();
        let both = format!("{only_bin}:{}", own.display());
        assert_eq!(usual(&only_bin), own, "without a link");
        symlink(&program, bin.join("branchline")).expect("a link");
        assert_eq!(usual(&only_bin), bin);
        assert_eq!(usual(&both), own, "its own directory is searched");
        assert_eq!(usual(""), own);
    }
}
