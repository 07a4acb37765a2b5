//! The program's commands. Only this module and `main` read the environment and write to
//! the terminal.

mod client;
mod credential;
mod serve;
mod table;
mod triggers;

use clap::{Parser, Subcommand};

pub use serve::ServeArgs;

/// Command line of `branchline-dev`.
#[derive(Debug, Parser)]
#[command(
    name = "branchline-dev",
    version,
    about = "AWS CodeCommit, S3, CodePipeline and Lambda on a laptop, over real git repositories",
    long_about = "AWS CodeCommit (API and git over HTTP), S3, CodePipeline and Lambda on a laptop, \
                  over real git repositories, in one process on one port of 127.0.0.1.\n\nA push \
                  fires the repository's triggers; they invoke real Lambda bootstrap binaries; \
                  those call the same server by the AWS SDK. Failures of AWS can be injected, \
                  repeatably.",
    after_help = EXAMPLES
)]
pub struct Cli {
    /// Command to run.
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  Start with the three functions, a bucket and a pipeline; store all data in ./dev:
    branchline-dev serve --data dev --all

  Start with one function:
    branchline-dev serve --data dev \\
        --function update=target/release/update --env update:ARTIFACT_BUCKET=artifacts

  In another terminal, the AWS CLI and git against it:
    . dev/env
    aws codecommit create-repository --repository-name demo
    git push $AWS_ENDPOINT_URL/v1/repos/demo main

  Throttle every tenth GetBlob, and send every second event twice:
    branchline-dev faults add codecommit/GetBlob:throttle,every=10 events:double,every=2

  Show the executions, the requests by principal, and the dead letters:
    branchline-dev executions
    branchline-dev requests
    branchline-dev dead-letters

  Run a schedule now:
    branchline-dev invoke update --schedule";

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the server and runs until SIGINT or SIGTERM.
    Serve(Box<ServeArgs>),
    /// Acts as a git credential helper: makes CodeCommit's password from AWS_* variables.
    #[command(after_help = "Example:\n  git -c credential.helper='!branchline-dev \
                            credential-helper' -c credential.UseHttpPath=true push")]
    CredentialHelper {
        /// Action that git requests: get, store or erase.
        operation: String,
    },
    /// Shows, adds or removes the faults of a running server.
    Faults(client::FaultsArgs),
    /// Shows the requests that a running server got: principal, number, most at once.
    Requests {
        #[command(flatten)]
        list: client::ListArgs,
        /// Deletes the counts instead.
        #[arg(long)]
        reset: bool,
    },
    /// Shows the asynchronous invocations that failed for good.
    DeadLetters {
        #[command(flatten)]
        list: client::ListArgs,
        /// Deletes them instead.
        #[arg(long)]
        clear: bool,
    },
    /// Shows a repository's triggers, those that its branches need, and the difference,
    /// without writing: what the function `lifecycle` would do.
    #[command(
        after_help = "Examples:\n  branchline-dev triggers demo\n  branchline-dev triggers \
                            demo --env BRANCHES_EXCLUDE='wip/**' --json"
    )]
    Triggers(triggers::TriggersArgs),
    /// Shows the executions of all pipelines, with the object that each read.
    Executions(client::ListArgs),
    /// Shows the last events of all event buses.
    Events(client::ListArgs),
    /// Invokes a function of a running server and prints its answer.
    #[command(
        after_help = "Examples:\n  branchline-dev invoke update --schedule\n  branchline-dev \
                            invoke migration events/migration-publish.json"
    )]
    Invoke(client::InvokeArgs),
}

impl Cli {
    /// Carries out the command.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(args) => serve::run(*args).await,
            Command::CredentialHelper { operation } => credential::run(&operation),
            Command::Faults(args) => client::faults(args).await,
            Command::Requests { list, reset } => client::requests(&list, reset).await,
            Command::DeadLetters { list, clear } => client::dead_letters(&list, clear).await,
            Command::Triggers(args) => triggers::run(args).await,
            Command::Executions(list) => client::executions(&list).await,
            Command::Events(list) => client::events(&list).await,
            Command::Invoke(args) => client::invoke(args).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
