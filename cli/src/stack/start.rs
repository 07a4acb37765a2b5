//! `branchline start`: archives a branch, a tag or a commit, and starts its pipelines, by the stack's
//! `update`.

use std::fmt::Write as _;
use std::io::Write as _;

use branchline_core::function::client::SdkFunctions;
use branchline_core::function::{FunctionArn, Invocation};
use branchline_core::name::{BranchName, CommitId, RefName, RepositoryName, TagName};
use branchline_core::{Error, ErrorKind, Result};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Stack, StackArgs, explained, not_found, open};
use crate::exit::ExitStatus;
use crate::invocation::Invocation as CommandLine;

const EXAMPLES: &str = "\
The function `update` of the stack does the work, with its own role: what is archived already is not
archived again, and what was started on the archive is started once more only with `--again`.

Examples:
  branchline start demo
  branchline start demo feature/x --again
  branchline start demo refs/tags/v1.0 --stack production
  branchline start demo 6b4ae12c8a4fd2e1b0a9d8c7e6f5041322334455 --json

Exit status: 0 the archive is there, and its pipelines are started or were before; 3 nothing was
done, for the reason that is given; 1 it failed; 2 the arguments are not valid.";

/// Arguments of `branchline start`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StartArgs {
    /// The repository.
    #[arg(value_name = "REPOSITORY")]
    repository: String,
    /// Branch, tag or ref, or the full id of a commit; by default the default branch. A short name
    /// is that of a branch, or else of a tag.
    #[arg(value_name = "REF|COMMIT")]
    revision: Option<String>,
    /// Starts the pipelines once more, although they were started on the archive before.
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    stack: StackArgs,
    /// Prints the answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Branch, tag or commit whose pipeline is started.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Revision {
    Branch(BranchName),
    Tag(TagName),
    Commit(CommitId),
}

/// Carries out `branchline start`.
pub(crate) async fn start(invocation: &CommandLine, args: StartArgs) -> Result<ExitStatus> {
    let repository = RepositoryName::new(&args.repository)?;
    let stack = open(invocation, &args.stack).await?;
    let run = run(&stack, &repository, args.revision.as_deref(), args.again);
    let answer = explained(run.await, &args.stack.account).await?;
    let text = if args.json {
        let value: Value = serde_json::from_slice(&answer.payload).map_err(not_an_answer)?;
        format!("{value}\n")
    } else {
        text_of(&answer.results)
    };
    // A reader that has gone away needs no report.
    let _ = std::io::stdout().write_all(text.as_bytes());
    let is_done = |result: &StartResult| {
        matches!(
            result.outcome.as_str(),
            "started" | "uploaded" | "unchanged"
        )
    };
    Ok(if answer.results.iter().any(is_done) {
        ExitStatus::Done
    } else {
        ExitStatus::Partial
    })
}

/// Answer of `update`.
struct StartAnswer {
    payload: bytes::Bytes,
    results: Vec<StartResult>,
}

#[derive(Deserialize)]
struct Results {
    results: Vec<StartResult>,
}

/// Result of a branch, tag or commit.
#[derive(Debug, Deserialize)]
struct StartResult {
    branch: String,
    commit: Option<String>,
    outcome: String,
    reason: Option<String>,
    artifact: Option<StartedArtifact>,
    execution_id: Option<String>,
    #[serde(default)]
    executions: Vec<StartedPipeline>,
}

#[derive(Debug, Deserialize)]
struct StartedArtifact {
    bucket: String,
    key: String,
}

#[derive(Debug, Deserialize)]
struct StartedPipeline {
    pipeline: String,
    execution_id: Option<String>,
}

async fn run(
    stack: &Stack,
    repository: &RepositoryName,
    text: Option<&str>,
    again: bool,
) -> Result<StartAnswer> {
    let Some(function) = stack.update_function() else {
        return Err(not_found(
            "`update` of the stack is not deployed".to_owned(),
        ));
    };
    let (revision, is_guess) = match text {
        None => (default_branch(stack, repository).await?, false),
        Some(text) => match in_full(text)? {
            Some(revision) => (revision, false),
            None => by_short_name(stack, repository, text).await?,
        },
    };
    let mut event = match &revision {
        Revision::Branch(branch) => json!({ "repository": repository, "branch": branch }),
        Revision::Tag(tag) => json!({ "repository": repository, "tag": tag.as_str() }),
        Revision::Commit(commit) => {
            json!({ "repository": repository, "commit": commit.to_string() })
        }
    };
    if again {
        event["again"] = true.into();
    }
    let functions = SdkFunctions::new(stack.aws());
    let invoked = functions.invoke(&function.arn, event.to_string().into());
    let invoked = invoked.await?;
    if invoked.has_failed {
        let error = failure(&function.arn, &invoked);
        if is_guess && error.kind() == ErrorKind::NotFound {
            let name = text.unwrap_or_default().escape_debug();
            let what = format!("`{name}` is neither a branch nor a tag of `{repository}`");
            let hint = "push the branch or the tag first, or name a commit by its full id";
            return Err(error.with_hint(hint).context(what));
        }
        return Err(error);
    }
    let Results { results } = serde_json::from_slice(&invoked.payload).map_err(not_an_answer)?;
    Ok(StartAnswer {
        payload: invoked.payload,
        results,
    })
}

/// Reads a full ref, or the full id of a commit; `None` for a short name.
fn in_full(text: &str) -> Result<Option<Revision>> {
    if let Ok(commit) = CommitId::new(text) {
        return Ok(Some(Revision::Commit(commit)));
    }
    if !text.starts_with("refs/") {
        return Ok(None);
    }
    let name = RefName::new(text)?;
    if let Some(branch) = name.branch() {
        return Ok(Some(Revision::Branch(branch)));
    }
    if let Some(tag) = name.tag() {
        return Ok(Some(Revision::Tag(tag)));
    }
    let message = format!("`{name}` is neither a branch nor a tag");
    Err(Error::new(ErrorKind::Config, message)
        .with_hint("name a ref below `refs/heads/` or `refs/tags/`, or the id of a commit"))
}

async fn default_branch(stack: &Stack, repository: &RepositoryName) -> Result<Revision> {
    let found = stack.codecommit().get_repository(repository).await?;
    let Some(name) = found.default_branch else {
        let message = format!("repository `{repository}` has no default branch");
        return Err(Error::new(ErrorKind::NotFound, message).with_hint("name a branch"));
    };
    BranchName::new(&name).map(Revision::Branch)
}

/// Finds the branch of a short name. Where there is none, the name is taken for that of a tag, and
/// the result says that this is a guess.
async fn by_short_name(
    stack: &Stack,
    repository: &RepositoryName,
    name: &str,
) -> Result<(Revision, bool)> {
    let branch = BranchName::new(name)?;
    match stack.codecommit().get_branch(repository, &branch).await {
        Ok(_) => Ok((Revision::Branch(branch), false)),
        Err(error) if error.is_branch_missing() => Ok((Revision::Tag(TagName::new(name)?), true)),
        Err(error) => Err(error),
    }
}

/// Reads why a run failed.
fn failure(function: &FunctionArn, invoked: &Invocation) -> Error {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Failure {
        #[serde(default)]
        error_type: String,
        #[serde(default)]
        error_message: String,
    }
    let failure: Failure = serde_json::from_slice(&invoked.payload).unwrap_or(Failure {
        error_type: String::new(),
        error_message: String::new(),
    });
    let name = failure.error_type.strip_prefix("branchline.");
    let kind = name.and_then(|name| ErrorKind::ALL.into_iter().find(|kind| kind.name() == name));
    let message = if failure.error_message.is_empty() {
        format!("function `{function}` failed and did not say why")
    } else {
        failure.error_message
    };
    match kind {
        Some(kind) => Error::new(kind, message),
        // Of Lambda itself: a timeout, or a function that cannot be started.
        None => Error::new(ErrorKind::Internal, message).with_hint(format!(
            "the log of function `{}` says more",
            super::name_in_arn(function.as_str())
        )),
    }
}

fn not_an_answer(error: serde_json::Error) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "the answer of `update` is not understood",
    )
    .with_source(error)
}

/// Formats results for people: a line for each, and one for each execution.
fn text_of(results: &[StartResult]) -> String {
    let mut text = String::new();
    for result in results {
        let _ = write!(text, "{}", printable(&result.branch));
        if let Some(commit) = &result.commit {
            let _ = write!(
                text,
                " at {}",
                printable(&commit.chars().take(10).collect::<String>())
            );
        }
        let _ = write!(text, ": {}", printable(&result.outcome));
        if let Some(reason) = &result.reason {
            let _ = write!(text, ", {}", printable(reason));
        }
        text.push('\n');
        if let Some(artifact) = &result.artifact {
            let (bucket, key) = (printable(&artifact.bucket), printable(&artifact.key));
            let _ = writeln!(text, "  archive    s3://{bucket}/{key}");
        }
        for started in &result.executions {
            let id = started.execution_id.as_deref().unwrap_or_default();
            let (name, id) = (printable(&started.pipeline), printable(id));
            let _ = writeln!(text, "  execution  {id} of {name}");
        }
        if let Some(id) = result
            .execution_id
            .as_ref()
            .filter(|_| result.executions.is_empty())
        {
            let _ = writeln!(text, "  execution  {}", printable(id));
        }
    }
    text
}

/// Replaces control characters, which a name may have.
fn printable(text: &str) -> String {
    let replaced = text
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c });
    replaced.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_refs_and_commits_are_read_without_a_request() {
        let commit = "6b4ae12c8a4fd2e1b0a9d8c7e6f5041322334455";
        let branch = |name: &str| Some(Revision::Branch(BranchName::new(name).unwrap()));
        let tag = |name: &str| Some(Revision::Tag(TagName::new(name).unwrap()));
        for (text, expected) in [
            (
                commit,
                Some(Revision::Commit(CommitId::new(commit).unwrap())),
            ),
            ("refs/heads/feature/x", branch("feature/x")),
            ("refs/tags/v1.0", tag("v1.0")),
            ("main", None),
            ("6b4ae12", None),
        ] {
            assert_eq!(in_full(text).unwrap(), expected, "{text}");
        }
        for text in ["refs/notes/commits", "refs/heads/a..b"] {
            assert!(in_full(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_failure_of_a_run_keeps_its_kind_and_message() {
        let arn = "arn:aws:lambda:us-east-1:111122223333:function:update";
        let arn = FunctionArn::new(arn).unwrap();
        let of = |payload: &str| {
            let payload = bytes::Bytes::from(payload.to_owned());
            failure(
                &arn,
                &Invocation {
                    payload,
                    has_failed: true,
                },
            )
        };
        let error = of(r#"{"errorType":"branchline.NotFound","errorMessage":"no `x`"}"#);
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), "no `x`");
        let error = of(r#"{"errorType":"Sandbox.Timedout","errorMessage":"timed out"}"#);
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.report().contains("log of function `update`"));
        assert_eq!(of("?").kind(), ErrorKind::Internal);
    }
}
