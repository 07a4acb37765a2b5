//! The schedule: updates every branch, tag and pull request that the settings cover, and marks the
//! artifacts of missing branches deleted. This repairs the effects of lost events.
//!
//! | file | job |
//! |---|---|
//! | this one | lists repositories and branches, and makes their tasks |
//! | `tags` | the tags that filters choose and that are not older than the first archived one |
//! | `pull_requests` | open pull requests, and closed ones whose artifacts are left |
//! | `triggers` | the keys and pipelines that triggers choose for their branches |
//! | `shared_keys` | skips what shares a key with something else |
//! | `deletion` | marks the artifacts of missing branches deleted |

mod deletion;
mod pull_requests;
mod shared_keys;
mod tags;
mod triggers;

use branchline_core::codecommit::{BranchList, PassedOver, all_branches, all_repositories};
use branchline_core::name::{BranchName, BucketName, RepositoryName};
use branchline_core::storage::ObjectSummary;
use branchline_core::{ErrorKind, Result};
use futures_util::{StreamExt as _, stream};
use std::collections::BTreeMap;
use std::time::Instant;

use crate::Context;
use crate::plan::Run;
use crate::ref_kind::RefKind;
use crate::request::{BranchAnswer, BranchTask, Outcome, Requester};
use triggers::ChosenOverrides;

/// Maximum number of concurrent requests for branches or objects.
const CONCURRENT_CHECKS: usize = 16;

/// Repositories of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All repositories that `REPOSITORIES` selects.
    Selected,
    /// One repository, named in full.
    One(RepositoryName),
}

/// Branches of a repository, and what its triggers choose for them.
struct ListedRepository {
    list: BranchList,
    overrides: ChosenOverrides,
}

/// The listed repositories; `None` for one that could not be listed.
type Repositories = BTreeMap<RepositoryName, Option<ListedRepository>>;

/// Result of a run.
#[derive(Debug, Default)]
pub(crate) struct ScheduleResult {
    /// A result for each branch.
    pub(crate) results: Vec<Result<BranchAnswer>>,
    /// Number of repositories that only a pattern selects and that the role may not read.
    pub(crate) passed_over: usize,
}

/// Updates all branches of `scope`, or plans that.
pub(crate) async fn run(context: &Context, scope: Scope, run: Run<'_>) -> ScheduleResult {
    let mut done = ScheduleResult::default();
    let is_whole = scope == Scope::Selected;
    let repositories = match list(context, scope, &mut done).await {
        Ok(repositories) => repositories,
        Err(error) => {
            done.results.push(Err(error));
            return done;
        }
    };
    let mut tasks = Vec::new();
    let listed = repositories.iter();
    let listed = listed.filter_map(|(name, listed)| Some((name, listed.as_ref()?)));
    let reads = stream::iter(listed.clone()).map(|(repository, listed)| async {
        tasks_without_branches(context, repository, listed, run.deadline).await
    });
    let others: Vec<_> = reads.buffered(CONCURRENT_CHECKS).collect().await;
    for ((repository, listed), mut others) in listed.zip(others) {
        tasks_of_branches(context, repository, listed, &mut tasks, &mut done.results);
        tasks.append(&mut others.tasks);
        done.results.append(&mut others.results);
    }
    let results = &mut done.results;
    let (tasks, others) = shared_keys::skip(context, tasks).await;
    results.extend(others);
    results.extend(context.update_branches(&tasks, run).await);
    if context.config.delete_artifacts && is_whole {
        match deletion::delete_artifacts(context, &repositories, run).await {
            Ok(deleted) => results.extend(deleted),
            Err(error) => {
                results.push(Err(error.context("deleting artifacts of missing branches")));
            }
        }
    }
    done
}

/// Tasks of a repository, and results that need no task.
#[derive(Debug, Default)]
struct FoundTasks {
    tasks: Vec<BranchTask>,
    results: Vec<Result<BranchAnswer>>,
}

/// Makes the tasks of the branches of a repository.
fn tasks_of_branches(
    context: &Context,
    repository: &RepositoryName,
    listed: &ListedRepository,
    tasks: &mut Vec<BranchTask>,
    results: &mut Vec<Result<BranchAnswer>>,
) {
    for left_out in &listed.list.left_out {
        let reason = left_out.reason.clone();
        results.push(Ok(skipped(repository, &left_out.branch, reason)));
    }
    let triggers = context.config.triggers.as_ref();
    let is_selected = |branch: &&BranchName| {
        context.config.branches.matches(branch)
            && triggers.is_none_or(|triggers| triggers.can_start_branch(repository, branch))
    };
    for branch in listed.list.branches.iter().filter(is_selected) {
        for overrides in listed.overrides.of_branch(branch) {
            match overrides {
                Ok(overrides) => tasks.push(BranchTask {
                    repository: repository.clone(),
                    branch: branch.clone(),
                    kind: RefKind::Branch,
                    again: false,
                    commit: None,
                    overrides,
                    requester: Requester::BySchedule,
                }),
                Err(reason) => {
                    results.push(Ok(skipped(repository, branch.as_str(), reason)));
                }
            }
        }
    }
}

/// Makes the tasks of the tags and pull requests of a repository, as far as filters choose any.
async fn tasks_without_branches(
    context: &Context,
    repository: &RepositoryName,
    listed: &ListedRepository,
    deadline: Instant,
) -> FoundTasks {
    let mut found = FoundTasks::default();
    let Some(filters) = &context.config.triggers else {
        return found;
    };
    if filters.serve_tags(repository) {
        let tags = tags::find(context, filters, repository, &listed.overrides, deadline).await;
        let tags = tags.unwrap_or_else(|error| failed(error, repository, "tags"));
        found.extend(tags);
    }
    if filters.serve_pull_requests(repository) {
        let pulls = pull_requests::find(context, repository, deadline).await;
        found.extend(pulls.unwrap_or_else(|error| failed(error, repository, "pull requests")));
    }
    found
}

impl FoundTasks {
    fn extend(&mut self, other: Self) {
        self.tasks.extend(other.tasks);
        self.results.extend(other.results);
    }
}

fn failed(error: branchline_core::Error, repository: &RepositoryName, what: &str) -> FoundTasks {
    FoundTasks {
        tasks: Vec::new(),
        results: vec![Err(
            error.context(format!("{what} of repository `{repository}`"))
        )],
    }
}

/// Lists the objects below `start`, until the deadline.
async fn listed_objects(
    context: &Context,
    bucket: &BucketName,
    start: &str,
    deadline: Instant,
) -> Result<Vec<ObjectSummary>> {
    let mut objects = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let page = context
            .store
            .list(bucket, start, None, next.as_deref())
            .await?;
        objects.extend(page.objects);
        next = page.next;
        if next.is_none() {
            return Ok(objects);
        }
        crate::branch::check_time(deadline)?;
    }
}

fn skipped(repository: &RepositoryName, branch: &str, reason: String) -> BranchAnswer {
    BranchAnswer {
        repository: repository.clone(),
        branch: branch.to_owned(),
        commit: None,
        outcome: Outcome::Skipped,
        reason: Some(reason),
        artifact: None,
        execution_id: None,
        executions: Vec::new(),
    }
}

/// Lists the repositories of `scope` and their branches; failures of single repositories are
/// added to `done`.
async fn list(context: &Context, scope: Scope, done: &mut ScheduleResult) -> Result<Repositories> {
    let selected = &context.config.repositories;
    let names: Vec<RepositoryName> = match scope {
        Scope::One(repository) => vec![repository],
        Scope::Selected => {
            let all = all_repositories(&*context.codecommit).await;
            let all = all.map_err(|error| error.context("listing the repositories"))?;
            all.into_iter()
                .filter(|name| selected.matches(name))
                .collect()
        }
    };
    let is_named = |name: &RepositoryName| names.len() == 1 || selected.names(name);
    let lists = stream::iter(names.clone()).map(|repository| async {
        let listed = list_one(context, &repository).await;
        (repository, listed)
    });
    let lists: Vec<_> = lists.buffered(CONCURRENT_CHECKS).collect().await;
    let mut repositories = Repositories::new();
    let mut passed_over = PassedOver::default();
    for (repository, listed) in lists {
        let listed = match listed {
            Ok(listed) => Some(listed),
            Err(error) if error.kind() == ErrorKind::AccessDenied && !is_named(&repository) => {
                passed_over.push(error);
                None
            }
            Err(error) => {
                done.results.push(Err(error));
                None
            }
        };
        repositories.insert(repository, listed);
    }
    done.passed_over = passed_over.count();
    let refusal = passed_over.finish(repositories.len());
    done.results.extend(refusal.map(Err));
    Ok(repositories)
}

async fn list_one(context: &Context, repository: &RepositoryName) -> Result<ListedRepository> {
    let (list, overrides) = futures_util::try_join!(
        all_branches(&*context.codecommit, repository),
        triggers::overrides(context, repository)
    )
    .map_err(|error| error.context(format!("branches of repository `{repository}`")))?;
    Ok(ListedRepository { list, overrides })
}
