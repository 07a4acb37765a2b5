//! The tasks of an event, and the answer.

use branchline_core::Result;
use branchline_core::answer;
use branchline_core::arn::Origin;
use branchline_core::codecommit::LeftOutBranch;
use branchline_core::event::{self, Change, RefEvent, Request};
use branchline_core::name::{BranchName, RepositoryName};
use branchline_core::trigger::{Reconciled, TriggerMode};
use serde::Serialize;
use serde_json::Value;

/// Repositories to reconcile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// One repository.
    Repository {
        /// The repository.
        repository: RepositoryName,
        /// The branch that the event or request names, unless it was deleted.
        branch: Option<BranchName>,
    },
    /// Nothing, for the reason of the answer.
    Skip(Box<RepositoryAnswer>),
    /// All repositories that the settings select.
    Schedule {
        /// Whether the answer only says what would be done.
        plan: bool,
    },
}

/// Reads the tasks of an event; an invalid record does not hide the others. Items of another
/// account or region than `own` are skipped.
///
/// # Errors
/// `InvalidEvent`, naming the field.
pub(crate) fn tasks(event: &Value, own: Option<&Origin>) -> Result<Vec<Result<Task>>> {
    let mut tasks = Vec::new();
    let events = event::unwrapped(event);
    let is_single = events.len() == 1;
    for event in events {
        match event.and_then(|event| event::parse(&event)) {
            Err(error) if is_single => return Err(error),
            Err(error) => tasks.push(Err(error)),
            Ok(requests) => tasks.extend(
                requests
                    .into_iter()
                    .filter_map(|request| request.map(|request| task(request, own)).transpose()),
            ),
        }
    }
    Ok(tasks)
}

fn task(request: Request, own: Option<&Origin>) -> Option<Task> {
    Some(match request {
        Request::PullRequest(change) => {
            tracing::info!(
                repository.name = %change.repository, pull_request.id = %change.id,
                "a pull request changes no triggers"
            );
            return None;
        }
        Request::TriggerTest { repository } => {
            tracing::info!(repository.name = %repository, "received the trigger's test event");
            return None;
        }
        Request::Execution(event) => {
            tracing::info!(
                pipeline.name = %event.pipeline,
                "received an event of a pipeline, which changes no trigger"
            );
            return None;
        }
        Request::Schedule { plan } => Task::Schedule { plan },
        Request::Repository(repository)
        | Request::Tag { repository, .. }
        | Request::Commit { repository, .. } => Task::Repository {
            repository,
            branch: None,
        },
        Request::Branch {
            repository, branch, ..
        } => Task::Repository {
            repository,
            branch: Some(branch),
        },
        Request::RefEvent(change) => ref_event_task(change, own),
    })
}

fn ref_event_task(change: RefEvent, own: Option<&Origin>) -> Task {
    if let Some(reason) = event::foreign_reason(change.origin.as_ref(), own) {
        let answer = RepositoryAnswer::skipped(&change.repository, &reason);
        return Task::Skip(Box::new(answer));
    }
    Task::Repository {
        branch: change
            .reference
            .branch()
            .filter(|_| change.change != Change::Deleted),
        repository: change.repository,
    }
}

/// Answer to an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// True if the entries are what a run would do, and nothing was written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub plan: bool,
    /// Totals; of a schedule, and where entries or names are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// One entry for each repository, at most [`answer::MAX_ITEMS`].
    pub repositories: Vec<RepositoryAnswer>,
}

/// Totals of all repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Number of repositories.
    pub repositories: usize,
    /// Number of them with branches that get or lose their triggers.
    pub changed: usize,
    /// Number of branches that are covered by a trigger now and were not before.
    pub created: usize,
    /// Number of branches that had a trigger and need none.
    pub removed: usize,
    /// Number of branches that were covered before and are now.
    pub kept: usize,
    /// Number of foreign triggers.
    pub foreign: usize,
    /// Number of branches for which update was invoked.
    pub invoked: usize,
    /// Number of branches that get no trigger because their names cannot be used.
    pub skipped: usize,
    /// Number of repositories that only a pattern selects and that the role may not read.
    #[serde(skip_serializing_if = "is_zero")]
    pub passed_over: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Answer {
    /// Makes an answer that Lambda can return; of a schedule with totals.
    pub(crate) fn new(
        mut repositories: Vec<RepositoryAnswer>,
        kind: AnswerKind,
        passed_over: usize,
    ) -> Self {
        let mut counts = Counts {
            passed_over,
            ..Counts::default()
        };
        let mut has_all = true;
        for repository in &mut repositories {
            counts.add(repository);
            has_all &= repository.shorten();
        }
        let repositories = answer::bounded(repositories, |repository| !repository.is_changed());
        has_all &= repositories.len() == counts.repositories;
        Self {
            plan: kind == AnswerKind::Plan,
            counts: (kind != AnswerKind::Repositories || !has_all).then_some(counts),
            repositories,
        }
    }
}

/// Kind of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerKind {
    /// Of the repositories of an event.
    Repositories,
    /// Of a schedule.
    Schedule,
    /// Of a schedule that only says what it would do.
    Plan,
}

impl Counts {
    fn add(&mut self, repository: &RepositoryAnswer) {
        self.repositories += 1;
        self.changed += usize::from(repository.is_changed());
        self.created += repository.created.len();
        self.removed += repository.removed.len();
        self.kept += repository.kept;
        self.foreign += repository.foreign;
        self.invoked += repository.invoked.len();
        self.skipped += repository.skipped.len();
    }
}

/// Result of reconciling one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepositoryAnswer {
    /// Name of the repository.
    pub repository: RepositoryName,
    /// Division of the branches among triggers; null if the repository is missing.
    pub mode: Option<TriggerMode>,
    /// Branches that are covered by a trigger now and were not before.
    pub created: Vec<BranchName>,
    /// Branches that had a trigger and need none: deleted, or no longer selected.
    pub removed: Vec<String>,
    /// Number of branches that were covered before and are now.
    pub kept: usize,
    /// Number of foreign triggers.
    pub foreign: usize,
    /// Branches for which update was invoked.
    pub invoked: Vec<BranchName>,
    /// Branches that get no trigger because their names cannot be used.
    pub skipped: Vec<LeftOutBranch>,
    /// Reason why nothing was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl RepositoryAnswer {
    fn is_changed(&self) -> bool {
        !(self.created.is_empty() && self.removed.is_empty() && self.invoked.is_empty())
    }

    /// Shortens the lists of names; returns false if a list was longer.
    fn shorten(&mut self) -> bool {
        let lengths = |answer: &Self| {
            answer.created.len()
                + answer.removed.len()
                + answer.invoked.len()
                + answer.skipped.len()
        };
        let before = lengths(self);
        self.created.truncate(answer::MAX_NAMES);
        self.removed.truncate(answer::MAX_NAMES);
        self.invoked.truncate(answer::MAX_NAMES);
        self.skipped.truncate(answer::MAX_NAMES);
        lengths(self) == before
    }

    /// Makes the answer of a reconciled repository.
    pub(crate) fn new(
        repository: &RepositoryName,
        done: Reconciled,
        invoked: Vec<BranchName>,
    ) -> Self {
        Self {
            repository: repository.clone(),
            mode: Some(done.desired.mode),
            created: done.created,
            removed: done.removed,
            kept: done.kept,
            foreign: done.foreign,
            invoked,
            skipped: done.left_out,
            reason: None,
        }
    }

    pub(crate) fn skipped(repository: &RepositoryName, reason: &str) -> Self {
        Self {
            repository: repository.clone(),
            mode: None,
            created: Vec::new(),
            removed: Vec::new(),
            kept: 0,
            foreign: 0,
            invoked: Vec::new(),
            skipped: Vec::new(),
            reason: Some(reason.to_owned()),
        }
    }
}
