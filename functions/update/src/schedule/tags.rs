//! Tags of a repository that filters choose.
//!
//! One advertisement of the refs names all tags with their commits. A tag with an artifact is
//! checked like a branch. Another one is archived if its commit is not older than the first artifact
//! of a tag in the repository; how old commits are is read for 100 of them at once.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use branchline_core::Result;
use branchline_core::codecommit::MAX_COMMITS_PER_REQUEST;
use branchline_core::name::{BucketName, CommitId, RepositoryName, TagName};
use branchline_core::storage::ObjectSummary;

use super::triggers::ChosenOverrides;
use super::{FoundTasks, listed_objects, skipped};
use crate::Context;
use crate::config::ExistingBranches;
use crate::existing;
use crate::filters::PipelineFilters;
use crate::ref_kind::{NamedKind, RefKind};
use crate::request::{BranchTask, Overrides, Requester};

/// Makes the tasks of the tags of `repository`; none where tags cannot be listed.
pub(super) async fn find(
    context: &Context,
    filters: &PipelineFilters,
    repository: &RepositoryName,
    overrides: &ChosenOverrides,
    deadline: Instant,
) -> Result<FoundTasks> {
    let mut found = FoundTasks::default();
    let Some(lists) = &context.tag_lists else {
        return Ok(found);
    };
    let mut tags = Vec::new();
    for (tag, commit) in lists.list_tags(repository).await? {
        let kind = RefKind::Tag(tag.clone());
        if filters.can_start(repository, &kind.placeholder_branch()?, &kind) {
            tags.push((tag, commit));
        }
    }
    if tags.is_empty() {
        return Ok(found);
    }
    for overrides in overrides.of_tags() {
        match overrides {
            Ok(overrides) => {
                let tasks = tags
                    .iter()
                    .map(|(tag, commit)| task(repository, tag, *commit, &overrides));
                let tasks = tasks.collect::<Result<Vec<_>>>()?;
                select(context, repository, tasks, deadline, &mut found).await?;
            }
            Err(reason) => {
                let answer = skipped(repository, "refs/tags/*", reason);
                found.results.push(Ok(answer));
            }
        }
    }
    Ok(found)
}

fn task(
    repository: &RepositoryName,
    tag: &TagName,
    commit: CommitId,
    overrides: &Overrides,
) -> Result<BranchTask> {
    let kind = RefKind::Tag(tag.clone());
    Ok(BranchTask {
        repository: repository.clone(),
        branch: kind.placeholder_branch()?,
        kind,
        again: false,
        commit: Some(commit),
        overrides: overrides.clone(),
        requester: Requester::BySchedule,
    })
}

/// Adds the tasks whose tags have an artifact, or are not older than the first one.
async fn select(
    context: &Context,
    repository: &RepositoryName,
    tasks: Vec<BranchTask>,
    deadline: Instant,
    found: &mut FoundTasks,
) -> Result<()> {
    let Some(first) = tasks.first() else {
        return Ok(());
    };
    if context.config.existing_branches == ExistingBranches::Start {
        found.tasks.extend(tasks);
        return Ok(());
    }
    let (bucket, template) = context.location_of(first);
    let bucket = bucket.clone();
    let origin = context.origin();
    let start = template
        .start_of_kind(repository, NamedKind::Tag, origin.as_ref())
        .unwrap_or_else(|| template.start_of_repository(repository, origin.as_ref()));
    let objects = listed_objects(context, &bucket, &start, deadline).await?;
    let keys: HashSet<&str> = objects.iter().map(|object| object.key.as_str()).collect();
    let mut new = Vec::new();
    for task in tasks {
        match context.key_of(&task, task.commit) {
            Ok(key) if keys.contains(key.as_str()) => found.tasks.push(task),
            Ok(_) => new.push(task),
            Err(error) => {
                let what = format!("tag `{}` of repository `{repository}`", task.label());
                found.results.push(Err(error.context(what)));
            }
        }
    }
    if !new.is_empty() {
        let tasks = not_older(context, repository, &bucket, objects, new).await?;
        found.tasks.extend(tasks);
    }
    Ok(())
}

/// Returns the tasks whose tags are not older than the first artifact of a tag.
async fn not_older(
    context: &Context,
    repository: &RepositoryName,
    bucket: &BucketName,
    objects: Vec<ObjectSummary>,
    tasks: Vec<BranchTask>,
) -> Result<Vec<BranchTask>> {
    let all = tasks.len();
    let since = existing::since_of_tags(context, bucket, objects, repository).await?;
    let mut chosen = Vec::new();
    if let Some(since) = since {
        let commits: Vec<CommitId> = tasks.iter().filter_map(|task| task.commit).collect();
        let mut times: BTreeMap<CommitId, i64> = BTreeMap::new();
        for commits in commits.chunks(MAX_COMMITS_PER_REQUEST) {
            let read = context.codecommit.get_commits(repository, commits).await?;
            let read = read.iter();
            times
                .extend(read.filter_map(|one| Some((one.id.into(), existing::committed_at(one)?))));
        }
        let is_newer = |task: &BranchTask| {
            let time = task.commit.and_then(|commit| times.get(&commit));
            time.is_some_and(|time| *time >= since)
        };
        chosen.extend(tasks.into_iter().filter(is_newer));
    }
    if chosen.len() < all {
        tracing::info!(
            repository.name = %repository,
            tags = all - chosen.len(),
            "tags without an artifact are older than the first archived one, and are left as they \
             are"
        );
    }
    Ok(chosen)
}
