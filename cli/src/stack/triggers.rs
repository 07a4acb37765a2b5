//! `branchline triggers`: the triggers that `lifecycle` would write, and their writing.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use branchline_core::codecommit::Trigger;
use branchline_core::name::{BranchName, RepositoryName};
use branchline_core::trigger::{Preview, TriggerLimits, TriggerMode, preview};
use branchline_core::{Error, ErrorKind, Result};
use branchline_lifecycle::{RepositoryAnswer, handle};
use clap::Args;
use serde_json::{Value, json};

use super::{Stack, StackArgs, deadline, explained, open};
use crate::exit::ExitStatus;
use crate::invocation::Invocation;

const EXAMPLES: &str = "\
Each trigger is a line: `+` is added, `~` changed, `-` removed, `=` kept, and `.` is foreign. Foreign
triggers are never changed.

Examples:
  branchline triggers demo
  branchline triggers demo --apply
  branchline triggers demo --stack production --json";

/// Arguments of `branchline triggers`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TriggersArgs {
    /// The repository.
    #[arg(value_name = "REPOSITORY")]
    repository: String,
    /// Writes the triggers, and invokes `update` for branches that were not covered.
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    stack: StackArgs,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Carries out `branchline triggers`.
pub(crate) async fn triggers(invocation: &Invocation, args: TriggersArgs) -> Result<ExitStatus> {
    let repository = RepositoryName::new(&args.repository)?;
    let stack = open(invocation, &args.stack).await?;
    let run = run(&stack, &repository, args.apply);
    let (found, applied) = explained(run.await, &args.stack.account).await?;
    let text = if args.json {
        json_of(&repository, &found, applied.as_ref()).to_string()
    } else {
        let lines = text_of(&found, stack.policy()?.destination.as_str());
        format!("{lines}{}", summary(&found, applied.as_ref()))
    };
    // A reader that has gone away needs no report.
    let _ = std::io::stdout().write_all(format!("{text}\n").as_bytes());
    Ok(ExitStatus::Done)
}

async fn run(
    stack: &Stack,
    repository: &RepositoryName,
    apply: bool,
) -> Result<(Preview, Option<RepositoryAnswer>)> {
    let codecommit = stack.codecommit();
    let limits = TriggerLimits::default();
    let found = preview(&*codecommit, &stack.policy()?, limits, repository).await;
    let found = found.map_err(|error| error.context(format!("repository `{repository}`")))?;
    if !apply {
        return Ok((found, None));
    }
    let context = Arc::new(stack.lifecycle_context()?);
    let event = json!({ "repository": repository });
    let answer = handle(context, event, deadline()).await;
    let answer = answer.map_err(|failure| Error::new(failure.kind(), failure.message()))?;
    let applied = answer.repositories.into_iter().next().ok_or_else(|| {
        let message = format!("repository `{repository}` has no answer");
        Error::new(ErrorKind::Internal, message)
    })?;
    Ok((found, Some(applied)))
}

fn json_of(
    repository: &RepositoryName,
    found: &Preview,
    applied: Option<&RepositoryAnswer>,
) -> Value {
    json!({
        "repository": repository,
        "mode": found.desired.mode,
        "present": found.present,
        "desired": found.desired.triggers,
        "plan": found.plan,
        "applied": applied,
    })
}

/// Formats the triggers, each as a line.
fn text_of(found: &Preview, destination: &str) -> String {
    let Preview { desired, plan, .. } = found;
    let changed: Vec<Trigger> = plan.changed.iter().map(|(_, new)| new.clone()).collect();
    let mode = match desired.mode {
        TriggerMode::PerBranch => "one for each branch",
        TriggerMode::Packed => "several branches in each",
        TriggerMode::AllBranches => "one for all branches",
    };
    let mut text = format!("triggers that call {destination}: {mode}\n");
    for (sign, triggers) in [
        ('.', &plan.foreign),
        ('=', &plan.kept),
        ('~', &changed),
        ('+', &plan.added),
        ('-', &plan.removed),
    ] {
        for trigger in triggers {
            let branches = match trigger.branches.as_slice() {
                [] => "all branches".to_owned(),
                some => some.join(", "),
            };
            let _ = writeln!(text, "{sign} {}  ({branches})", trigger.name);
        }
    }
    text
}

fn summary(found: &Preview, applied: Option<&RepositoryAnswer>) -> String {
    let changes = found.plan.changes();
    match applied {
        None if changes == 0 => "nothing to write".to_owned(),
        None => format!("{changes} to write; `--apply` writes them"),
        Some(applied) => {
            let mut text = if changes == 0 {
                "nothing to write".to_owned()
            } else {
                format!("{changes} written")
            };
            if !applied.invoked.is_empty() {
                let names: Vec<&str> = applied.invoked.iter().map(BranchName::as_str).collect();
                let _ = write!(text, "; update is invoked for {}", names.join(", "));
            }
            text
        }
    }
}
