//! `branchline migrate`: pushes a long history in batches of commits, under the temporary tags of the
//! script that AWS documents for this, so that each completes what the other started.
//!
//! `script` has the arguments of that script, `incremental-repo-migration.py`.

pub(crate) mod script;
mod target;

use std::io::Write as _;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use branchline_core::git::escaped_excerpt;
use branchline_core::mirror::{
    AnsweredPush, BatchLimits, Mapping, MirrorMeter, PushObserver, RequestOrigin,
};
use branchline_core::remote::open::{OpenRemote, RemoteRole, RemoteSpec, S3Layout};
use branchline_core::remote::url::RemoteUrl;
use branchline_core::remote::{ByCommits, Remote};
use branchline_core::{Error, Result};
use clap::Args;
use serde_json::json;

use crate::connection::MEMORY_BYTES;
use crate::exit::ExitStatus;
use crate::interrupt::Resumable;
use crate::invocation::Invocation;
use crate::mirror::report::{Report, status};
use crate::mirror::{RunOptions, run_one};
use crate::progress::{Progress, ProgressForm};
use crate::remotes::TerminalRemotes;

const EXAMPLES: &str = "\
Each batch is pushed under a temporary tag, which is deleted at the end. A migration that was
interrupted, also one by AWS's script, is resumed by the same command. Run it with `--clean` before
the size of the batches is changed.

Examples:
  git -C project remote add codecommit codecommit::eu-west-1://project
  branchline migrate --local project
  branchline migrate --local project --batch 500
  branchline migrate --local https://example.org/project.git --remote codecommit://project

Exit status: 0 everything is migrated, 1 nothing was migrated, 2 the arguments are not valid,
3 partly migrated: the same command resumes, 130 interrupted.";

/// Arguments of `branchline migrate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    places: Places,
    /// Compares both sides afterwards: each ref, and the number of reachable objects.
    #[arg(long, conflicts_with = "clean")]
    verify: bool,
    /// Prints events and the result as JSON, one a line.
    #[arg(long)]
    json: bool,
    /// Prints only warnings and errors.
    #[arg(long, short)]
    quiet: bool,
}

/// The options that AWS's script has, too.
#[derive(Debug, Args)]
struct Places {
    /// Local repository, or the URL of any other one; no clone is needed then.
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    local: String,
    /// Name of a remote of the local repository, or a URL.
    #[arg(long, short, value_name = "REMOTE", default_value = "codecommit")]
    remote: String,
    /// Commits of one push.
    #[arg(long, short, value_name = "N", default_value = "1000")]
    batch: NonZeroU64,
    /// Only deletes the temporary tags, at the remote and in the local repository.
    #[arg(long, short)]
    clean: bool,
}

/// Opens targets that receive batches of commits.
struct MigrationRemotes<'a>(&'a TerminalRemotes);

#[async_trait]
impl OpenRemote for MigrationRemotes<'_> {
    async fn open(&self, spec: &RemoteSpec, memory: usize) -> Result<Arc<dyn Remote>> {
        let remote = self.0.open(spec, memory).await?;
        Ok(match spec.role {
            RemoteRole::Source => remote,
            RemoteRole::Target => Arc::new(ByCommits::new(remote)),
        })
    }

    async fn open_source(&self, spec: &RemoteSpec, memory: usize) -> Result<Arc<dyn Remote>> {
        self.0.open_source(spec, memory).await
    }
}

/// Carries out `branchline migrate`.
///
/// # Errors
/// Failures that come before the migration, such as an unknown remote.
pub(crate) async fn migrate(invocation: &Invocation, args: MigrateArgs) -> Result<ExitStatus> {
    let options = RunOptions {
        batch: BatchLimits {
            commits: args.places.batch.get(),
            ..BatchLimits::default()
        },
        jobs: 1,
        verify: args.verify,
        form: ProgressForm::of(invocation, args.json, args.quiet),
        quiet: args.quiet,
    };
    let observer: Option<PushObserver> = args.json.then(|| Box::new(print_event) as PushObserver);
    run(invocation, &args.places, options, observer).await
}

/// Prints the event of a push.
fn print_event(push: &AnsweredPush) {
    let refs: Vec<String> = push.refs.iter().map(|name| escaped_excerpt(name)).collect();
    let event = json!({
        "event": "push", "mapping": 0, "refs": refs, "temporary": push.temporary,
        "objects": push.objects,
    });
    // A reader that has gone away does not stop the work.
    let _ = writeln!(std::io::stdout(), "{event}");
}

/// Migrates, or cleans both sides. The observer receives each push.
async fn run(
    invocation: &Invocation,
    places: &Places,
    options: RunOptions,
    observer: Option<PushObserver>,
) -> Result<ExitStatus> {
    let remotes = TerminalRemotes::new(invocation)?;
    let remotes = MigrationRemotes(&remotes);
    let source = RemoteUrl::new(&places.local)?;
    let target = target::url(&source, &places.remote).await?;
    let local = match &source {
        RemoteUrl::Local(path) => Some(path.clone()),
        _ => None,
    };
    let mapping = |source: &str, target: &str| {
        let origin = RequestOrigin::Terminal {
            new_layout: S3Layout::Bundle,
        };
        let fields = json!({
            "source": source, "target": target, "force": false, "clean": places.clean,
        });
        Mapping::read(origin, "", &fields, false)
    };
    let mut mappings = vec![mapping(&places.local, &target)];
    if places.clean && local.is_some() {
        // The script has temporary tags in the local repository, too.
        mappings.push(mapping(&target, &places.local));
    }
    let meter = observer.map_or_else(MirrorMeter::default, MirrorMeter::observed);
    let meter = Arc::new(meter);
    let report = Report::new(options.form == ProgressForm::Json, options.quiet);
    let mut outcomes = Vec::new();
    let _resumable = Resumable::new("the same command goes on from the batches that were pushed");
    for (index, mapping) in mappings.iter().enumerate() {
        let progress = Progress::start(options.form);
        let run = run_one(
            &remotes,
            mapping,
            (index, MEMORY_BYTES),
            options,
            (&progress, &meter),
        );
        let outcome = run
            .await
            .with_error(|error| explain(error, places, local.as_ref(), &meter));
        drop(progress);
        report.print(index, &outcome);
        outcomes.push(outcome.class());
    }
    let status = status(&outcomes);
    report.end(status, outcomes.len());
    Ok(status)
}

/// Adds to an error the number of commits that are left, and the command that shows the cause.
fn explain(error: Error, places: &Places, local: Option<&PathBuf>, meter: &MirrorMeter) -> Error {
    let reading = meter.read();
    let mut hints: Vec<String> = error.hint().map(str::to_owned).into_iter().collect();
    if reading.commits_left > 0 && reading.commits_left < reading.commits_planned {
        hints.push(format!(
            "{} of {} commits are left: the same command goes on with them",
            reading.commits_left, reading.commits_planned
        ));
    }
    if let Some(path) = local.filter(|_| error.kind() == branchline_core::ErrorKind::Rejected) {
        hints.push(format!(
            "for more information about the cause, run `git -C {} push --all {}`",
            path.display(),
            places.remote
        ));
    }
    if hints.is_empty() {
        error
    } else {
        error.with_hint(hints.join("; "))
    }
}
