//! The schedule: updates every branch that the settings cover, and marks the artifacts of missing
//! branches deleted. This repairs the effects of lost events.
//!
//! | file | job |
//! |---|---|
//! | this one | lists repositories and branches, and makes their tasks |
//! | `triggers` | the keys and pipelines that triggers choose for their branches |
//! | `deletion` | marks the artifacts of missing branches deleted |

mod deletion;
mod triggers;

use branchline_core::codecommit::{BranchList, PassedOver, all_branches, all_repositories};
use branchline_core::name::{BranchName, ObjectKey, RepositoryName};
use branchline_core::{ErrorKind, Result};
use futures_util::{StreamExt as _, stream};
use std::collections::BTreeMap;

use crate::Context;
use crate::artifact;
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
    let results = &mut done.results;
    let mut tasks = Vec::new();
    for (repository, listed) in &repositories {
        let Some(listed) = listed else { continue };
        for left_out in &listed.list.left_out {
            results.push(Ok(skipped(
                repository,
                &left_out.branch,
                left_out.reason.clone(),
            )));
        }
        let matching = listed.list.branches.iter();
        let triggers = context.config.triggers.as_ref();
        let is_selected = |branch: &&BranchName| {
            context.config.branches.matches(branch)
                && triggers.is_none_or(|triggers| triggers.serve_branch(repository, branch))
        };
        for branch in matching.filter(is_selected) {
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
    let (tasks, others) = skip_shared_keys(context, tasks).await;
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

/// Skips the branches of a shared key, except the branch whose artifact is stored there. Events
/// decide which branch that is; otherwise each schedule would archive all of them in turn.
///
/// Returns the tasks to run, and the results of the others.
async fn skip_shared_keys(
    context: &Context,
    tasks: Vec<BranchTask>,
) -> (Vec<BranchTask>, Vec<Result<BranchAnswer>>) {
    let mut results = Vec::new();
    let mut kept = Vec::new();
    let mut tasks_by_location: BTreeMap<_, Vec<BranchTask>> = BTreeMap::new();
    for task in tasks {
        let (bucket, template) = context.location_of(&task);
        if template.has_commit() {
            kept.push(task);
            continue;
        }
        match context.key_of(&task, None) {
            Ok(key) => tasks_by_location
                .entry((bucket.clone(), key))
                .or_default()
                .push(task),
            // The branch alone fails, for instance because its key is too long.
            Err(error) => results.push(Err(error.context(format!(
                "branch `{}` of repository `{}`",
                task.branch, task.repository
            )))),
        }
    }
    for ((bucket, key), tasks) in tasks_by_location {
        if tasks.len() == 1 {
            kept.extend(tasks);
            continue;
        }
        let stored = match context.store.head(&bucket, &key).await {
            Ok(head) => head.as_ref().and_then(artifact::branch_of),
            Err(error) => {
                results.push(Err(error.context("checking a key that branches share")));
                continue;
            }
        };
        let (stored, others) = split_by_stored(tasks, stored.as_ref());
        kept.extend(stored);
        results.extend(others.into_iter().map(|task| {
            let reason = shared_key(&key);
            Ok(skipped(&task.repository, task.branch.as_str(), reason))
        }));
    }
    (kept, results)
}

fn shared_key(key: &ObjectKey) -> String {
    format!("`{key}` is shared, and holds another branch now")
}

/// Splits off the tasks of other branches than the `stored` one; keeps all of them if none is
/// stored.
fn split_by_stored(
    tasks: Vec<BranchTask>,
    stored: Option<&(RepositoryName, BranchName)>,
) -> (Vec<BranchTask>, Vec<BranchTask>) {
    let is_stored = |task: &BranchTask| {
        stored.is_some_and(|(repository, branch)| {
            *repository == task.repository && *branch == task.branch
        })
    };
    if tasks.iter().any(is_stored) {
        tasks.into_iter().partition(is_stored)
    } else {
        (tasks, Vec::new())
    }
}
