//! `branchline status`: the branches, artifacts, pipelines and mirrors of a stack, and what is
//! behind.
//!
//! The functions' own code decides which items are behind: a branch by the plan of `update`, a
//! trigger by the policy of `lifecycle`, a mirror by the preview of a mirroring.
//!
//! | module | job |
//! |---|---|
//! | `branches` | reads the state of a repository's branches |
//! | `mirrors` | compares both sides of mappings |
//! | `table` | formats both for people |

pub(crate) mod branches;
mod mirrors;
mod table;

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use branchline_core::{Error, ErrorKind, Result};
use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use self::branches::RepositoryReport;
use self::mirrors::{MappingList, MirrorReport};
use crate::exit::ExitStatus;
use crate::failure::one_line;
use crate::invocation::Invocation;
use crate::remotes::TerminalRemotes;
use crate::stack::{Stack, StackArgs, explained};

/// Maximum number of repositories that are read at once.
const CONCURRENT_REPOSITORIES: usize = 4;

/// Seconds between two readings of `--watch`.
const DEFAULT_WATCH_SECONDS: &str = "5";

const EXAMPLES: &str = "\
Each branch is a line: its tip, its trigger, the artifact of its tip, and the last execution of its
pipeline. A branch is behind if the next schedule would write its artifact or start its pipeline, or
if its trigger is missing. A mirror is behind if a mirroring would change a ref.

Mirrors are those of `--mirrors`, else those of `fleets/mappings.json` in the bucket of artifacts.

Examples:
  branchline status
  branchline status demo --watch
  branchline status --stack production --json
  branchline status demo --mirrors mappings.json
  branchline status --env ARTIFACT_BUCKET=artifacts --env UPDATE_FUNCTION_ARN=arn:aws:lambda:..

Exit status: 0 nothing is behind, 3 something is, 1 something cannot be read, 2 the arguments are
not valid.";

/// Arguments of `branchline status`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    /// Repositories; all that the setting `REPOSITORIES` selects by default.
    #[arg(value_name = "REPOSITORY")]
    repositories: Vec<String>,
    #[command(flatten)]
    stack: StackArgs,
    /// File of mappings in JSON, or its URL in S3, whose mirrors are compared.
    #[arg(long, value_name = "FILE", conflicts_with = "no_mirrors")]
    mirrors: Option<String>,
    /// Does not compare mirrors.
    #[arg(long)]
    no_mirrors: bool,
    /// Reads again and again, with SECONDS between.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = DEFAULT_WATCH_SECONDS,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    watch: Option<u64>,
    /// Prints the result as JSON, one object a line.
    #[arg(long)]
    json: bool,
}

/// State of a stack.
#[derive(Debug, Serialize)]
struct StatusReport {
    stack: Option<String>,
    region: Option<String>,
    behind: bool,
    repositories: Vec<RepositoryReport>,
    mirrors: Vec<MirrorReport>,
}

/// Carries out `branchline status`.
pub(crate) async fn status(invocation: &Invocation, args: StatusArgs) -> Result<ExitStatus> {
    let remotes = TerminalRemotes::new(invocation)?;
    let name = args.stack.stack.as_deref();
    let opened = Stack::open(&remotes, name, &args.stack.account).await;
    let stack = match opened {
        // Mirrors need no stack.
        Err(error)
            if error.kind() == ErrorKind::NotFound
                && args.mirrors.is_some()
                && name.is_none()
                && args.repositories.is_empty() =>
        {
            None
        }
        opened => Some(explained(opened, &args.stack.account).await?),
    };
    let mut screen = Screen::new(&args);
    loop {
        let read = read(&remotes, stack.as_ref(), &args).await;
        let report = explained(read, &args.stack.account).await?;
        let is_shown = screen.show(&report).is_ok();
        let Some(seconds) = args.watch.filter(|_| is_shown) else {
            // Without a reader there is nothing to watch for.
            return Ok(report.exit_status());
        };
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

async fn read(
    remotes: &TerminalRemotes,
    stack: Option<&Stack>,
    args: &StatusArgs,
) -> Result<StatusReport> {
    let repositories = async {
        match stack {
            None => Ok(Vec::new()),
            Some(stack) => read_repositories(stack, &args.repositories).await,
        }
    };
    let mirrors = async {
        let list = match (&args.mirrors, stack) {
            _ if args.no_mirrors => None,
            (Some(named), _) => Some(MappingList::Named(named)),
            // With repositories named, the question is about them alone.
            (None, Some(stack)) if args.repositories.is_empty() => Some(MappingList::Of(stack)),
            (None, _) => None,
        };
        match list {
            None => Ok(Vec::new()),
            Some(list) => mirrors::read(remotes, list).await,
        }
    };
    let (repositories, mirrors) = futures_util::future::join(repositories, mirrors).await;
    let (repositories, mirrors) = (repositories?, mirrors?);
    let behind = repositories.iter().any(RepositoryReport::is_behind)
        || mirrors.iter().any(MirrorReport::is_behind);
    Ok(StatusReport {
        stack: stack.and_then(Stack::name).map(str::to_owned),
        region: stack.map(|stack| stack.region().to_owned()),
        behind,
        repositories,
        mirrors,
    })
}

async fn read_repositories(stack: &Stack, names: &[String]) -> Result<Vec<RepositoryReport>> {
    let (context, policy) = (stack.update_context()?, stack.policy()?);
    let config = stack.update_config()?;
    let repositories = stack.repositories(names, &config.repositories).await?;
    let codecommit = stack.codecommit();
    let reads = stream::iter(repositories).map(|repository| {
        let (context, policy, codecommit) = (&context, &policy, &*codecommit);
        let is_named = !names.is_empty() || config.repositories.names(&repository);
        async move {
            let read = branches::read(context, policy, codecommit, &repository).await;
            match read {
                // As for a schedule of `update`, which passes them over.
                Err(error) if error.kind() == ErrorKind::AccessDenied && !is_named => {
                    tracing::info!("passed over: {}", error.report());
                    None
                }
                Err(error) => Some(RepositoryReport::unreadable(&repository, &error)),
                Ok(report) => Some(report),
            }
        }
    });
    let reports: Vec<_> = reads.buffered(CONCURRENT_REPOSITORIES).collect().await;
    Ok(reports.into_iter().flatten().collect())
}

impl StatusReport {
    fn has_failed(&self) -> bool {
        let in_repositories = self.repositories.iter().any(RepositoryReport::has_errors);
        in_repositories || self.mirrors.iter().any(MirrorReport::has_failed)
    }

    fn exit_status(&self) -> ExitStatus {
        match () {
            () if self.has_failed() => ExitStatus::Failed,
            () if self.behind => ExitStatus::Partial,
            () => ExitStatus::Done,
        }
    }

    /// Formats the last line: the numbers of what is behind.
    fn summary(&self) -> String {
        let all = self.repositories.iter().flat_map(|one| &one.branches);
        let count = |(one, many): (&str, &str), total: usize, behind: usize| {
            let noun = if total == 1 { one } else { many };
            match (total, behind) {
                (0, _) => None,
                (_, 0) => Some(format!("{total} {noun} up to date")),
                _ => Some(format!("{behind} of {total} {noun} behind")),
            }
        };
        let selected: Vec<_> = all.filter(|branch| branch.selected).collect();
        let behind = selected.iter().filter(|branch| branch.behind).count();
        let mirrors = self.mirrors.iter();
        let mirrors_behind = mirrors.filter(|mirror| mirror.is_behind()).count();
        let unreadable = self.repositories.iter().filter(|one| one.has_errors());
        let unreadable = match unreadable.count() {
            0 => None,
            1 => Some("1 repository with errors".to_owned()),
            count => Some(format!("{count} repositories with errors")),
        };
        let parts = [
            count(("branch", "branches"), selected.len(), behind),
            count(("mirror", "mirrors"), self.mirrors.len(), mirrors_behind),
            unreadable,
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            "nothing to show".to_owned()
        } else {
            parts.join(", ")
        }
    }
}

/// Standard output, as lines or as a screen that is drawn again.
struct Screen {
    is_json: bool,
    is_redrawn: bool,
    last: Option<String>,
}

impl Screen {
    fn new(args: &StatusArgs) -> Self {
        Self {
            is_json: args.json,
            is_redrawn: args.watch.is_some() && !args.json && std::io::stdout().is_terminal(),
            last: None,
        }
    }

    /// Shows a report; of `--watch` without a terminal only those that differ from the last one.
    ///
    /// # Errors
    /// The reader has gone away.
    fn show(&mut self, report: &StatusReport) -> std::io::Result<()> {
        let text = if self.is_json {
            format!("{}\n", serde_json::json!(report))
        } else {
            format!("{}{}\n", table::format(report), report.summary())
        };
        if !self.is_redrawn && self.last.as_ref() == Some(&text) {
            return Ok(());
        }
        let mut output = std::io::stdout();
        if self.is_redrawn {
            // The first column of the first line, and clear from there.
            output.write_all(b"\x1b[H\x1b[2J")?;
        }
        output.write_all(text.as_bytes())?;
        output.flush()?;
        if !self.is_json {
            for line in report.messages() {
                eprintln!("{line}");
            }
        }
        self.last = Some(text);
        Ok(())
    }
}

impl StatusReport {
    /// Formats warnings and errors, each as a line.
    fn messages(&self) -> Vec<String> {
        let of_repositories = self.repositories.iter().flat_map(|one| {
            let name = &one.repository;
            let warnings = one.warnings.iter().map(|text| format!("warning: {text}"));
            let errors = one.errors.iter();
            let errors = errors.map(move |text| {
                let subject = format!("repository `{name}`");
                if text.contains(&subject) {
                    format!("error: {text}")
                } else {
                    format!("error: {subject}: {text}")
                }
            });
            warnings.chain(errors)
        });
        let of_mirrors = self.mirrors.iter().filter_map(|mirror| {
            let error = mirror.error.as_ref()?;
            Some(format!(
                "error: {} -> {}: {error}",
                mirror.source, mirror.target
            ))
        });
        let mut lines: Vec<String> = Vec::new();
        for line in of_repositories.chain(of_mirrors) {
            // Several repositories may have one pipeline.
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines
    }
}

/// Formats an error for a report.
fn text_of(error: &Error) -> String {
    one_line(error)
}
