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
    /// Directory of the links; that of the program by default.
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
        let directory = directory(args, &program)?;
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
fn directory(args: &InstallArgs, program: &Path) -> Result<PathBuf> {
    let directory = match &args.dir {
        Some(directory) => directory,
        None => program
            .parent()
            .expect("because the program is a file in a directory"),
    };
    let shown = directory.display();
    directory.canonicalize().map_err(|error| {
        Error::new(ErrorKind::Config, format!("`{shown}` is not a directory"))
            .with_source(error)
            .with_hint("create it, or name another one by `--dir`")
    })
}

fn io_error(doing: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Config, format!("{doing} `{}`", path.display())).with_source(error)
}
