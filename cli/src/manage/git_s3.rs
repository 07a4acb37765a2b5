//! `git-s3` (`git s3`): the command line of awslabs' tool of this name.
//!
//! A third word after `doctor` is accepted and ignored, because that tool demands one. Nothing is
//! asked but the confirmation of `delete-branch`, which `--yes` gives.

use std::io::{BufRead as _, Write as _};

use branchline_core::{Error, ErrorKind, Result};
use clap::{Args, Parser, Subcommand};

use super::branches::{self, BranchArgs, Change};
use super::doctor::{self, DoctorOptions, Fix};
use super::gc::{self, GcArgs};
use crate::commands::{InitArgs, init};
use crate::exit::ExitStatus;
use crate::failure::one_line;
use crate::invocation::Invocation;

/// Command line of `git-s3`.
#[derive(Debug, Parser)]
#[command(
    name = "git-s3",
    version,
    about = "Manages repositories in S3; `branchline remote` does the same and more"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Examines a repository, and fixes it by `--fix`.
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(GitS3DoctorArgs),
    /// Protects a branch against deletion and force.
    Protect(BranchArgs),
    /// Removes the protection of a branch.
    Unprotect(BranchArgs),
    /// Deletes a branch.
    DeleteBranch(DeleteArgs),
    /// Lets `HEAD` name a branch, which a clone then checks out.
    SetHead(BranchArgs),
    /// Creates an empty repository, whose layout decides how it is stored.
    Init(InitArgs),
    /// Deletes temporary objects, and merges packs.
    #[command(after_help = gc::EXAMPLES)]
    Gc(GcArgs),
}

#[derive(Debug, Args)]
struct GitS3DoctorArgs {
    /// URL in S3, or the name of a remote of the current repository.
    #[arg(value_name = "URL")]
    remote: String,
    /// Ignored.
    #[arg(value_name = "BRANCH", hide = true)]
    _branch: Option<String>,
    /// Deletes locks that killed clients left, as `--fix=locks`.
    #[arg(long)]
    delete_stale_locks: bool,
    #[command(flatten)]
    options: DoctorOptions,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    #[command(flatten)]
    branch: BranchArgs,
    /// Deletes without the question.
    #[arg(long)]
    yes: bool,
}

/// Parses the arguments and carries out the command.
pub(crate) async fn run(invocation: &Invocation) -> ExitStatus {
    let cli = match Cli::try_parse_from(&invocation.arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output, and are not failures.
            let _ = error.print();
            return if error.use_stderr() {
                ExitStatus::Usage
            } else {
                ExitStatus::Done
            };
        }
    };
    match carry_out(invocation, cli.command).await {
        Ok(()) => ExitStatus::Done,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitStatus::Failed
        }
    }
}

async fn carry_out(invocation: &Invocation, command: Command) -> Result<()> {
    match command {
        Command::Doctor(args) => {
            let mut options = args.options;
            if args.delete_stale_locks {
                match &mut options.fix {
                    None => options.fix = Some(vec![Fix::Locks]),
                    // All of them.
                    Some(fixes) if fixes.is_empty() => {}
                    Some(fixes) => fixes.push(Fix::Locks),
                }
            }
            // As in the Python client, problems are not a failure.
            let examined = doctor::examine(invocation, &args.remote, &options).await;
            examined.map(drop)
        }
        Command::Protect(args) => branches::run(invocation, &args, Change::Protect).await,
        Command::Unprotect(args) => branches::run(invocation, &args, Change::Unprotect).await,
        Command::SetHead(args) => branches::run(invocation, &args, Change::SetHead).await,
        Command::Init(args) => init(invocation, args).await,
        Command::Gc(args) => gc::run(invocation, &args).await,
        Command::DeleteBranch(args) => {
            if args.yes || is_confirmed(&args.branch)? {
                branches::run(invocation, &args.branch, Change::Delete).await
            } else {
                eprintln!("`{}` was not deleted", args.branch.branch.escape_debug());
                Ok(())
            }
        }
    }
}

/// Asks on standard error; only `yes` confirms.
fn is_confirmed(args: &BranchArgs) -> Result<bool> {
    let failed = |error| Error::new(ErrorKind::Transport, "asking").with_source(error);
    let mut stderr = std::io::stderr().lock();
    let (branch, remote) = (args.branch.escape_debug(), args.remote.escape_debug());
    write!(
        stderr,
        "Delete `{branch}` of `{remote}`? Only `yes` deletes it: "
    )
    .map_err(failed)?;
    stderr.flush().map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(failed)?;
    Ok(answer.trim() == "yes")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }
}
