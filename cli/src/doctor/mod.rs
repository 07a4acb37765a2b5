//! `branchline doctor stack`: mistakes in what surrounds the functions of a stack.
//!
//! | module | job |
//! |---|---|
//! | `checks` | reads the stack, and makes findings |
//! | `finding` | a finding: problem, effect, remedy |
//! | `key_policy` | the policy of the artifacts' KMS key |

mod checks;
mod finding;
mod key_policy;

use std::fmt::Write as _;
use std::io::Write as _;

use branchline_core::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use self::finding::Finding;
use crate::exit::ExitStatus;
use crate::invocation::Invocation;
use crate::remotes::TerminalRemotes;
use crate::stack::{AccountArgs, Stack, explained};

/// Commands of `branchline doctor`.
#[derive(Debug, Subcommand)]
pub(crate) enum DoctorCommand {
    /// Checks a deployed stack: pipelines, triggers, the bucket and the key of artifacts.
    Stack(StackDoctorArgs),
}

const EXAMPLES: &str = "\
Problems:
  pipeline-missing, no-source-action, other-provider, pipeline-polls, no-key-override, other-bucket,
  other-key, no-variables, undeclared-variables
                             a pipeline that cannot be started on artifacts, or starts itself
  bucket-missing, bucket-without-versions, key-policy
                             the bucket or the KMS key of artifacts
  trigger-of-missing-function, branch-without-trigger, missing-function
                             triggers and functions
  settings, unreadable       settings that are not valid, and what cannot be checked

Examples:
  branchline doctor stack
  branchline doctor stack production --region eu-west-1
  branchline doctor stack production --json

Exit status: 0 without findings, 1 with some, 2 the arguments are not valid.";

/// Arguments of `branchline doctor stack`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StackDoctorArgs {
    /// Name of the stack, or of one of its functions; by default the only stack of the region.
    #[arg(value_name = "NAME")]
    stack: Option<String>,
    /// Repository to check; may be repeated. All that the setting `REPOSITORIES` selects by default.
    #[arg(long = "repository", value_name = "NAME")]
    repositories: Vec<String>,
    #[command(flatten)]
    account: AccountArgs,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

impl DoctorCommand {
    /// Carries out the command.
    pub(crate) async fn run(self, invocation: &Invocation) -> Result<ExitStatus> {
        let Self::Stack(args) = self;
        let remotes = TerminalRemotes::new(invocation)?;
        let opened = Stack::open(&remotes, args.stack.as_deref(), &args.account).await;
        let stack = explained(opened, &args.account).await?;
        let findings = checks::check_stack(&stack, &args.repositories).await;
        let findings = explained(findings, &args.account).await?;
        let text = if args.json {
            let report = json!({
                "stack": stack.name(),
                "region": stack.region(),
                "findings": findings,
            });
            format!("{report}\n")
        } else {
            text_of(&stack, &findings)
        };
        // A reader that has gone away needs no report.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(if findings.is_empty() {
            ExitStatus::Done
        } else {
            ExitStatus::Failed
        })
    }
}

/// Formats findings for people.
fn text_of(stack: &Stack, findings: &[Finding]) -> String {
    let name = stack.name().unwrap_or("of the settings");
    let mut text = format!("stack {name} in {}\n", stack.region());
    for finding in findings {
        let _ = write!(text, "\n{finding}\n");
    }
    let count = match findings.len() {
        0 => "no problems\n".to_owned(),
        1 => "\n1 problem\n".to_owned(),
        count => format!("\n{count} problems\n"),
    };
    text + &count
}
