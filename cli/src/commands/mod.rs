//! The commands of `branchline`.

mod remote;

use clap::{Parser, Subcommand};

use self::remote::RemoteCommand;
use crate::exit::ExitStatus;
use crate::failure::one_line;
use crate::install::{InstallArgs, install};
use crate::invocation::Invocation;

/// Command line of `branchline`.
#[derive(Debug, Parser)]
#[command(
    name = "branchline",
    version,
    about = "Git on S3: clone, fetch and push `s3://bucket/prefix` with stock git",
    after_help = EXAMPLES
)]
struct Cli {
    /// Runs as the tool of this name: `git-remote-s3` or `git-remote-s3+zip`. Only as the first
    /// argument; the tool reads all that follow.
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
    branchline remote init --layout dumb s3://bucket/team/project";

#[derive(Debug, Subcommand)]
enum Command {
    /// Links the program under the names of git's remote helpers.
    Install(InstallArgs),
    /// Manages repositories in S3.
    #[command(subcommand)]
    Remote(RemoteCommand),
}

/// Parses the arguments and carries out the command.
pub(crate) async fn run(invocation: Invocation) -> ExitStatus {
    let cli = match Cli::try_parse_from(&invocation.arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output, and are no failure.
            let _ = error.print();
            return if error.use_stderr() {
                ExitStatus::Usage
            } else {
                ExitStatus::Done
            };
        }
    };
    let done = match cli.command {
        Command::Install(args) => install(&invocation, &args).await,
        Command::Remote(command) => command.run(&invocation).await,
    };
    match done {
        Ok(()) => ExitStatus::Done,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitStatus::Failed
        }
    }
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
