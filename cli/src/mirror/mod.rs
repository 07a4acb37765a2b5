//! `branchline mirror`: mirrors remotes of every kind, one or many.
//!
//! | module | job |
//! |---|---|
//! | `mappings` | reads mappings from arguments, a file, lines, or whole accounts |
//! | `description` | copies descriptions of repositories |
//! | `report` | prints results, for people and for programs |
//! | `verify` | compares both sides afterwards |
//! | `python` | the arguments of `mirror-git-to-s3` |

mod description;
mod mappings;
pub(crate) mod python;
pub(crate) mod report;
mod verify;

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use branchline_core::mirror::{
    self, BatchLimits, Mapping, MappingAnswer, MappingLimits, MappingRun, MappingStatus,
    MirrorMeter, ReleaseLimit, RequestOrigin, TableMemory,
};
use branchline_core::remote::open::{OpenRemote, S3Layout};
use branchline_core::{Error, ErrorKind, Result};
use clap::{Args, ValueEnum};
use futures_util::StreamExt as _;

use self::mappings::{MappingStream, Requested};
use self::report::{Outcome, Report};
use crate::connection::MEMORY_BYTES;
use crate::exit::ExitStatus;
use crate::interrupt::Resumable;
use crate::invocation::Invocation;
use crate::local_git::GitConfig;
use crate::progress::{Progress, ProgressForm};
use crate::remotes::{TerminalRemotes, explain_for};

const EXAMPLES: &str = "\
A remote is `codecommit://[profile@]name`, `codecommit::region://[profile@]name`, `https://..`,
`s3://[profile@]bucket/prefix`, `s3+zip://..`, a path, or the name of a remote of this repository.

Examples:
  branchline mirror codecommit://demo s3://bucket/backup/demo --layout dumb --prune
  branchline mirror https://example.org/demo.git codecommit::eu-west-1://demo --create
  branchline mirror . s3://bucket/team/project --plan
  branchline mirror --all 'codecommit::eu-west-1://team-*' 's3://bucket/{repository}' --verify
  branchline mirror --all '/srv/git/*' 'codecommit://{repository}' --create
  branchline mirror --file mappings.json
  generate-mappings | branchline mirror --file - --jobs 8

A file has `{\"mappings\":[{\"source\":\"..\",\"target\":\"..\"}]}`, as an event of the function
`migration` has; standard input has one mapping a line.

Exit status: 0 everything is mirrored, 1 nothing was mirrored, 2 the arguments are not valid,
3 partly mirrored: the same command resumes, 130 interrupted.";

/// Arguments of `branchline mirror`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of the command line"
)]
pub(crate) struct MirrorArgs {
    /// Remote that is read; with `--all` a pattern such as `codecommit://team-*`.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    source: Option<String>,
    /// Remote that is written; with `--all` it contains `{repository}`.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    target: Option<String>,
    /// Mirrors all repositories that SOURCE matches: of CodeCommit, below a prefix in S3, or in a
    /// directory.
    #[arg(long, conflicts_with = "file")]
    all: bool,
    /// Reads mappings from a file, or with `-` from the lines of standard input.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Layout in S3. A target where nothing is stored gets `bundle` unless `branchline.layout`
    /// says otherwise.
    #[arg(long, value_enum)]
    layout: Option<LayoutArg>,
    /// Refs to mirror, such as `refs/heads/*`; all branches and tags by default.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    refs: Vec<String>,
    /// Deletes selected refs of the target that the source does not have; `all` also if these are
    /// all of them.
    #[arg(
        long,
        value_enum,
        value_name = "all",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "yes",
        hide_possible_values = true
    )]
    prune: Option<PruneArg>,
    /// Rejects updates that are not fast-forwards.
    #[arg(long)]
    no_force: bool,
    /// Creates the target's repository in CodeCommit, and sets its default branch.
    #[arg(long)]
    create: bool,
    /// Does not copy git LFS objects.
    #[arg(long, conflicts_with = "lfs")]
    no_lfs: bool,
    /// `required` fails if git LFS objects are missing, `verify` reads all of them at the target.
    #[arg(long, value_enum, value_name = "POLICY")]
    lfs: Option<LfsArg>,
    /// Only removes what an unfinished migration left at the target.
    #[arg(long, conflicts_with_all = ["plan", "verify"])]
    clean: bool,
    /// Prints the changes, and makes none.
    #[arg(long, conflicts_with = "verify")]
    plan: bool,
    /// Compares both sides afterwards: each ref, and the number of reachable objects.
    #[arg(long)]
    verify: bool,
    /// Maximum number of mappings at once. Mappings with one target run in turns.
    #[arg(long, short, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Commits of one push to CodeCommit.
    #[arg(long, value_name = "N")]
    batch_commits: Option<NonZeroU64>,
    /// Maximum bytes of one push, unless one commit alone has more.
    #[arg(long, value_name = "N")]
    batch_bytes: Option<NonZeroU64>,
    /// Prints events and results as JSON, one a line.
    #[arg(long)]
    pub(crate) json: bool,
    /// Prints only warnings and errors.
    #[arg(long, short)]
    quiet: bool,
}

/// Values of `--layout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LayoutArg {
    Bundle,
    Dumb,
    Loose,
}

/// Values of `--prune`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PruneArg {
    Yes,
    All,
}

/// Values of `--lfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LfsArg {
    Required,
    Verify,
}

/// Returns the name of a value as the command line has it.
fn name_of(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Progress of a mapping before there are counts.
const READING: &str = "reading both sides";

/// Options that apply to all mappings of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunOptions {
    pub(crate) batch: BatchLimits,
    pub(crate) jobs: usize,
    pub(crate) verify: bool,
    pub(crate) form: ProgressForm,
    pub(crate) quiet: bool,
}

/// Carries out `branchline mirror`.
///
/// # Errors
/// Failures that concern no single mapping, such as a file that cannot be read.
pub(crate) async fn mirror(invocation: &Invocation, args: MirrorArgs) -> Result<ExitStatus> {
    let remotes = TerminalRemotes::new(invocation)?;
    let options = RunOptions {
        batch: BatchLimits {
            commits: args
                .batch_commits
                .map_or(BatchLimits::default().commits, NonZeroU64::get),
            bytes: args.batch_bytes.map(NonZeroU64::get),
        },
        jobs: args.jobs.into(),
        verify: args.verify,
        form: ProgressForm::of(invocation, args.json, args.quiet),
        quiet: args.quiet,
    };
    let origin = RequestOrigin::Terminal {
        new_layout: new_layout().await?,
    };
    let Requested { mappings, batch } = mappings::requested(&remotes, origin, &args).await?;
    // A value on the command line takes precedence over that of the file.
    let batch = batch.unwrap_or_default();
    let options = RunOptions {
        batch: BatchLimits {
            commits: args.batch_commits.map_or(batch.commits, NonZeroU64::get),
            bytes: options.batch.bytes.or(batch.bytes),
        },
        ..options
    };
    let _resumable = Resumable::new("the same command goes on from what is done");
    Ok(run(&remotes, mappings, options).await)
}

/// Reads `branchline.layout`; without git, the default applies.
async fn new_layout() -> Result<S3Layout> {
    let Ok(config) = GitConfig::read().await else {
        return Ok(S3Layout::Bundle);
    };
    let layout = config.get("branchline.layout").map(S3Layout::new);
    let layout = layout.transpose();
    let layout = layout.map_err(|error| {
        error.context("`branchline.layout` in git's configuration is not valid")
    })?;
    Ok(layout.unwrap_or(S3Layout::Bundle))
}

/// Runs mappings, and prints the result of each when it ends.
pub(crate) async fn run(
    remotes: &TerminalRemotes,
    mappings: MappingStream,
    options: RunOptions,
) -> ExitStatus {
    let progress = Progress::start(options.form);
    let report = Report::new(options.form == ProgressForm::Json, options.quiet);
    let concurrent = options.jobs.max(1);
    let outcomes = mirror::run_in_turns(
        mappings.enumerate(),
        |(_, mapping)| match mapping {
            Ok(mapping) => mapping.target_location(),
            Err(_) => String::new(),
        },
        concurrent,
        |index, (_, mapping)| {
            let (progress, report) = (&progress, &report);
            async move {
                let outcome = match mapping {
                    Ok(mapping) => {
                        let memory = MEMORY_BYTES / concurrent;
                        let watched = (progress, &Arc::default());
                        let outcome =
                            run_one(remotes, &mapping, (index, memory), options, watched).await;
                        with_description(remotes, &mapping, outcome).await
                    }
                    Err(error) => Outcome::unreadable(error),
                };
                progress.suspend(|| report.print(index, &outcome));
                outcome.class()
            }
        },
    )
    .await;
    drop(progress);
    let status = report::status(&outcomes);
    report.end(status, outcomes.len());
    status
}

/// Copies the description of a repository that was mirrored. A failure is a warning.
async fn with_description(
    remotes: &TerminalRemotes,
    mapping: &Mapping,
    mut outcome: Outcome,
) -> Outcome {
    if let Ok(task) = &mapping.task
        && outcome.is_mirrored()
        && !task.clean
        && let Err(error) = description::copy(remotes, task).await
    {
        outcome.warn(format!(
            "the description is not mirrored: {}",
            error.report()
        ));
    }
    outcome
}

/// Runs one mapping, and compares its sides if that is wanted.
pub(crate) async fn run_one(
    remotes: &dyn OpenRemote,
    mapping: &Mapping,
    (index, memory): (usize, usize),
    options: RunOptions,
    (progress, meter): (&Progress, &Arc<MirrorMeter>),
) -> Outcome {
    let label = format!("{} -> {}", mapping.source, mapping.target);
    let _line = progress.add(index, label, READING, Arc::clone(meter) as _);
    let limits = MappingLimits {
        batch: options.batch,
        memory,
        tables: TableMemory::default(),
        stop: None,
        release: ReleaseLimit::default(),
        meter: Some(Arc::clone(meter)),
    };
    let MappingRun { result, preview } = match &mapping.task {
        Err(invalid) => MappingRun::failed(invalid.error()),
        Ok(task) => mirror::run_mapping(remotes, task, &limits).await,
    };
    let stats = result.stats;
    let error = match (result.error, &mapping.task) {
        (Some(error), Ok(task)) => {
            Some(explain_for(error, &[&task.source.url, &task.target.url]).await)
        }
        (error, _) => error,
    };
    let error = error.or_else(|| {
        let rejected = mirror::rejected_refs_error(&stats);
        rejected.filter(|_| preview.is_none())
    });
    let (source, target) = (mapping.source.clone(), mapping.target.clone());
    let answer = MappingAnswer::new(source, target, &stats, error.as_ref());
    let answer = answer.with_plan(preview.as_ref());
    let comparison = match &mapping.task {
        Ok(task) if options.verify && answer.status == MappingStatus::Complete => {
            Some(verify::verify(remotes, task, memory).await)
        }
        _ => None,
    };
    Outcome::new(answer, error, preview.is_some(), comparison)
}

/// Returns the error of a usage that clap cannot see.
fn usage_error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message.into())
}
