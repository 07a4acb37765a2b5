//! The commands of `branchline`.

mod generate;
mod remote;

use std::io::Write as _;

use branchline_core::{Error, Result};
use clap::{CommandFactory as _, Parser, Subcommand};
use serde_json::json;

use self::generate::{CompletionsArgs, ManArgs, completions, man};
use self::remote::RemoteCommand;
pub(crate) use self::remote::{InitArgs, init};
use crate::archive::{ArchiveArgs, archive};
use crate::doctor::DoctorCommand;
use crate::exit::ExitStatus;
use crate::failure::{one_line, usage};
use crate::install::{InstallArgs, install};
use crate::invocation::Invocation;
use crate::lfs::LfsCommand;
use crate::migrate::{MigrateArgs, migrate};
use crate::mirror::{MirrorArgs, mirror};
use crate::stack::start::{StartArgs, start};
use crate::stack::triggers::{TriggersArgs, triggers};
use crate::status::{StatusArgs, status};
use crate::template::{TemplateArgs, write_stack};

/// Command line of `branchline`.
#[derive(Debug, Parser)]
#[command(
    name = "branchline",
    version,
    about = "Git on S3 with stock git, and mirrors, migrations and archives of git repositories",
    after_help = EXAMPLES
)]
struct Cli {
    /// Runs as the tool of this name, such as `git-remote-s3` or `git-lfs-s3`. Only as
    /// the first argument; the tool reads all that follow.
    #[arg(long = "as", value_name = "NAME")]
    _applet: Option<String>,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  Once, so that git finds the helper for `s3://`:
    branchline install

  Then git does the rest:
    git clone s3://bucket/team/project
    git push s3://profile@bucket/team/project main

  A repository that anyone can also clone over HTTPS, without branchline:
    branchline remote init --layout dumb s3://bucket/team/project

  A mirror, an archive of a revision, and a migration in batches:
    branchline mirror codecommit://demo s3://bucket/backup/demo --prune --verify
    branchline archive codecommit://demo@v1.0 -o demo.zip
    branchline migrate --local demo --remote codecommit

  The branches, artifacts and pipelines of a deployed stack:
    branchline status
    branchline start demo v1.0
    branchline doctor stack";

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes the files of a revision as tar or zip, from a remote of any kind.
    Archive(Box<ArchiveArgs>),
    /// Prints completions for a shell.
    Completions(CompletionsArgs),
    /// Finds mistakes in what surrounds the functions of a stack.
    #[command(subcommand)]
    Doctor(DoctorCommand),
    /// Links the program under the names of git's remote helpers.
    Install(InstallArgs),
    /// Sets up git-lfs for S3; checks and repairs the LFS objects of a repository.
    #[command(subcommand)]
    Lfs(LfsCommand),
    /// Prints or writes the manual pages.
    Man(ManArgs),
    /// Migrates a repository with a long history to CodeCommit, in batches of commits.
    Migrate(MigrateArgs),
    /// Mirrors refs and objects from one remote to another, or from many to many.
    Mirror(Box<MirrorArgs>),
    /// Manages repositories in S3.
    #[command(subcommand)]
    Remote(RemoteCommand),
    /// Archives a branch, tag or commit and starts its pipelines, by the stack's function.
    Start(Box<StartArgs>),
    /// Shows branches, artifacts, pipelines and mirrors of a stack, and what is behind.
    Status(Box<StatusArgs>),
    /// Shows the triggers that a repository's branches need, and writes them by `--apply`.
    Triggers(Box<TriggersArgs>),
    /// Writes the stack of the functions, which `sam deploy` and CloudFormation take.
    Template(TemplateArgs),
}

/// Parses the arguments and carries out the command.
pub(crate) async fn run(invocation: Invocation) -> ExitStatus {
    let cli = match Cli::try_parse_from(&invocation.arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let json = cli.command.prints_events();
    let result = match cli.command {
        Command::Archive(args) => Box::pin(archive(&invocation, *args)).await,
        Command::Completions(args) => done(completions(&args, Cli::command())),
        Command::Doctor(command) => Box::pin(command.run(&invocation)).await,
        Command::Install(args) => done(install(&invocation, &args).await),
        Command::Lfs(command) => Box::pin(command.run(&invocation)).await,
        Command::Man(args) => done(man(&args, Cli::command())),
        Command::Migrate(args) => Box::pin(migrate(&invocation, args)).await,
        Command::Mirror(args) => Box::pin(mirror(&invocation, *args)).await,
        Command::Remote(command) => Box::pin(command.run(&invocation)).await,
        Command::Start(args) => Box::pin(start(&invocation, *args)).await,
        Command::Status(args) => Box::pin(status(&invocation, *args)).await,
        Command::Triggers(args) => Box::pin(triggers(&invocation, *args)).await,
        Command::Template(args) => done(write_stack(&invocation, &args)),
    };
    match result {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            if json {
                print_error_event(&error);
            }
            ExitStatus::Failed
        }
    }
}

impl Command {
    /// Returns whether standard output has events for programs.
    fn prints_events(&self) -> bool {
        match self {
            Self::Archive(args) => args.json,
            Self::Mirror(args) => args.json,
            _ => false,
        }
    }
}

/// Prints why a command failed, as the last event for programs.
fn print_error_event(error: &Error) {
    let event = json!({
        "event": "error",
        "error": error.report(),
        "error_kind": error.kind().name(),
    });
    // A reader that has gone away gets the exit status.
    let _ = writeln!(std::io::stdout(), "{event}");
}

/// Turns a result without a status of its own into one.
fn done(result: Result<()>) -> Result<ExitStatus> {
    result.map(|()| ExitStatus::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }
}
