//! The state of a repository's branches, with what the next schedule would do about each.

use std::time::Instant;

use branchline_core::Error;
use branchline_core::name::RepositoryName;
use branchline_core::pipeline::PipelineFinding;
use futures_util::{StreamExt as _, stream};

use crate::Context;
use crate::observed::{self, ObservedBranch, StartedExecution};
use crate::plan::{Plan, Run};
use crate::request::BranchAnswer;
use crate::schedule::{self, Scope};

/// Maximum number of artifacts whose executions are read concurrently.
const CONCURRENT_READS: usize = 8;

/// State of the branches of a repository.
#[derive(Debug, Default)]
pub struct RepositoryStatus {
    /// Branches that the settings select.
    pub branches: Vec<BranchStatus>,
    /// Problems of the branches' pipelines.
    pub findings: Vec<PipelineFinding>,
    /// Failures of single branches, or of the whole repository.
    pub errors: Vec<Error>,
}

/// State of a branch.
#[derive(Debug)]
pub struct BranchStatus {
    /// Outcome of the next schedule.
    pub planned: BranchAnswer,
    /// Tip, artifact and pipeline; `None` if the branch is skipped before they are read.
    pub observed: Option<ObservedBranch>,
    /// The execution that was started on the artifact.
    pub started: Option<StartedExecution>,
}

/// Reads the state of the branches of `repository`, and plans a schedule. Writes nothing.
pub async fn repository_status(
    context: &Context,
    repository: &RepositoryName,
    deadline: Instant,
) -> RepositoryStatus {
    let plan = Plan::default();
    let run = Run {
        deadline,
        plan: Some(&plan),
    };
    let done = schedule::run(context, Scope::One(repository.clone()), run).await;
    let (mut observed, findings) = plan.into_parts();
    let mut status = RepositoryStatus {
        findings,
        ..RepositoryStatus::default()
    };
    for result in done.results {
        match result {
            Err(error) => status.errors.push(error),
            Ok(planned) => {
                // A branch has several artifacts if triggers choose several keys.
                let is_same = |observed: &ObservedBranch| {
                    observed.label == planned.branch
                        && planned
                            .artifact
                            .as_ref()
                            .is_none_or(|artifact| artifact.key == observed.key.as_str())
                };
                let at = observed.iter().position(is_same);
                status.branches.push(BranchStatus {
                    planned,
                    observed: at.map(|at| observed.remove(at)),
                    started: None,
                });
            }
        }
    }
    let reads = stream::iter(&status.branches).map(|branch| async {
        match &branch.observed {
            None => Ok(None),
            Some(observed) => observed::started_execution(context, observed).await,
        }
    });
    let started: Vec<_> = reads.buffered(CONCURRENT_READS).collect().await;
    for (branch, started) in status.branches.iter_mut().zip(started) {
        match started {
            Ok(started) => branch.started = started,
            Err(error) => {
                let name = &branch.planned.branch;
                status
                    .errors
                    .push(error.context(format!("the tags of the artifact of branch `{name}`")));
            }
        }
    }
    status
}
