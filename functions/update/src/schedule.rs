//! The schedule: updates every branch that the settings cover, and marks the artifacts of missing
//! branches deleted. This repairs the effects of lost events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use branchline_core::codecommit::{all_branches, all_repositories};
use branchline_core::name::{BranchName, ObjectKey, RepositoryName};
use branchline_core::storage::{ObjectHead, ObjectStoreExt as _, Precondition};
use branchline_core::{ErrorKind, Result};
use futures_util::{StreamExt as _, stream};

use crate::Context;
use crate::artifact::{self, BRANCH, REPOSITORY};
use crate::request::{ArtifactAnswer, BranchAnswer, BranchTask, Outcome, Overrides, Requester};

/// Maximum number of concurrent requests for branches or objects.
const CONCURRENT_CHECKS: usize = 16;

/// Updates all branches; returns a result for each branch.
pub(crate) async fn run(context: &Context, deadline: Instant) -> Vec<Result<BranchAnswer>> {
    let mut results = Vec::new();
    let repositories = match all_repositories(&*context.codecommit).await {
        Ok(repositories) => repositories,
        Err(error) => return vec![Err(error.context("listing the repositories"))],
    };
    let covered = |name: &RepositoryName| context.config.repositories.matches(name);
    let mut branches = BTreeMap::new();
    let lists = stream::iter(repositories.into_iter().filter(covered)).map(|repository| async {
        let found = all_branches(&*context.codecommit, &repository).await;
        (repository, found)
    });
    let lists: Vec<_> = lists.buffered(CONCURRENT_CHECKS).collect().await;
    for (repository, found) in lists {
        match found {
            Ok(found) => {
                branches.insert(repository, Some(found));
            }
            Err(error) => {
                results.push(Err(
                    error.context(format!("branches of repository `{repository}`"))
                ));
                branches.insert(repository, None);
            }
        }
    }
    let tasks = branches.iter().flat_map(|(repository, found)| {
        let found = found.as_deref().unwrap_or_default();
        let matching = found
            .iter()
            .filter(|branch| context.config.branches.matches(branch));
        matching.map(|branch| BranchTask {
            repository: repository.clone(),
            branch: branch.clone(),
            commit: None,
            overrides: Overrides::default(),
            requester: Requester::BySchedule,
        })
    });
    match skip_shared_keys(context, tasks.collect()).await {
        Ok((tasks, skipped)) => {
            results.extend(skipped.into_iter().map(Ok));
            results.extend(context.update_branches(&tasks, deadline).await);
        }
        Err(error) => results.push(Err(error.context("checking keys that branches share"))),
    }
    if context.config.delete_artifacts {
        match delete_artifacts(context, &branches).await {
            Ok(deleted) => results.extend(deleted),
            Err(error) => {
                results.push(Err(error.context("deleting artifacts of missing branches")))
            }
        }
    }
    results
}

/// Skips the branches of a shared key, except the branch whose artifact is stored there. Events
/// decide which branch that is; otherwise each schedule would archive all of them in turn.
async fn skip_shared_keys(
    context: &Context,
    tasks: Vec<BranchTask>,
) -> Result<(Vec<BranchTask>, Vec<BranchAnswer>)> {
    let (bucket, template) = (&context.config.bucket, &context.config.key);
    if template.has_commit() {
        return Ok((tasks, Vec::new()));
    }
    let mut tasks_by_key: BTreeMap<ObjectKey, Vec<BranchTask>> = BTreeMap::new();
    for task in tasks {
        let key = template.key_of(&task.repository, &task.branch, None)?;
        tasks_by_key.entry(key).or_default().push(task);
    }
    let mut kept = Vec::new();
    let mut skipped = Vec::new();
    for (key, tasks) in tasks_by_key {
        let mut stored = None;
        if tasks.len() > 1 {
            stored = context
                .store
                .head(bucket, &key)
                .await?
                .as_ref()
                .and_then(branch_of);
        }
        let is_stored = |task: &BranchTask| {
            let own = |(repository, branch): &(RepositoryName, BranchName)| {
                *repository == task.repository && *branch == task.branch
            };
            stored.as_ref().is_some_and(own)
        };
        if !tasks.iter().any(is_stored) {
            kept.extend(tasks);
            continue;
        }
        for task in tasks {
            if is_stored(&task) {
                kept.push(task);
            } else {
                skipped.push(BranchAnswer {
                    repository: task.repository,
                    branch: task.branch.to_string(),
                    commit: None,
                    outcome: Outcome::Skipped,
                    reason: Some(format!("`{key}` is shared, and holds another branch now")),
                    artifact: None,
                    execution_id: None,
                });
            }
        }
    }
    Ok((kept, skipped))
}

/// The branches of each repository; `None` if they could not be listed.
type Branches = BTreeMap<RepositoryName, Option<Vec<BranchName>>>;

/// Deletes the artifacts of this function whose branch is missing.
async fn delete_artifacts(
    context: &Context,
    branches: &Branches,
) -> Result<Vec<Result<BranchAnswer>>> {
    let config = &context.config;
    let mut live = BTreeSet::new();
    for (repository, found) in branches {
        for branch in found.iter().flatten() {
            live.insert(config.key.pattern_of(repository, branch));
        }
    }
    let mut candidates = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let start = config.key.literal_start();
        let page = context
            .store
            .list(&config.bucket, start, None, next.as_deref())
            .await?;
        let keys = page.objects.into_iter().map(|object| object.key);
        candidates.extend(keys.filter(|key| !live.contains(&without_commit_ids(key.as_str()))));
        match page.next {
            Some(token) => next = Some(token),
            None => break,
        }
    }
    let checks =
        stream::iter(candidates).map(|key| delete_if_branch_missing(context, branches, key));
    let results: Vec<_> = checks.buffered(CONCURRENT_CHECKS).collect().await;
    Ok(results.into_iter().filter_map(Result::transpose).collect())
}

/// Deletes an object if it is an artifact of this function whose branch is missing.
async fn delete_if_branch_missing(
    context: &Context,
    branches: &Branches,
    key: ObjectKey,
) -> Result<Option<BranchAnswer>> {
    let bucket = &context.config.bucket;
    let Some(head) = context.store.head(bucket, &key).await? else {
        return Ok(None);
    };
    let Some((repository, branch)) = branch_of(&head) else {
        return Ok(None);
    };
    if !context.config.repositories.matches(&repository) {
        return Ok(None);
    }
    match branches.get(&repository) {
        // The branches could not be listed, so the branch may exist.
        Some(None) => return Ok(None),
        Some(Some(found)) if found.contains(&branch) => return Ok(None),
        _ => {}
    }
    // The branch is read again, because it may have been created after the list was read.
    match context.codecommit.get_branch(&repository, &branch).await {
        Ok(_) => return Ok(None),
        Err(error) if error.is_branch_missing() || error.is_repository_missing() => {}
        Err(error) => return Err(error),
    }
    let precondition = Precondition::Matches(head.etag.clone());
    match context.store.delete(bucket, &key, &precondition).await {
        Ok(()) => {}
        // The artifact was replaced meanwhile, so it is still in use.
        Err(error) if error.kind() == ErrorKind::Conflict => return Ok(None),
        Err(error) => return Err(error),
    }
    tracing::info!(
        repository.name = %repository, branch.name = %branch, artifact.key = %key,
        "the branch is missing; its artifact is marked deleted"
    );
    Ok(Some(BranchAnswer {
        repository,
        branch: branch.to_string(),
        commit: None,
        outcome: Outcome::Deleted,
        reason: Some("the branch is gone".to_owned()),
        artifact: Some(ArtifactAnswer {
            bucket: bucket.to_string(),
            key: key.to_string(),
            version_id: head.version_id.clone().map(String::from),
            etag: head.etag.to_string(),
            size_bytes: head.size_bytes,
            files: artifact::files(&head),
        }),
        execution_id: None,
    }))
}

/// Returns the branch of an artifact; `None` for an object of another writer.
fn branch_of(head: &ObjectHead) -> Option<(RepositoryName, BranchName)> {
    let user = &head.metadata.user;
    let repository = RepositoryName::new(user.get(REPOSITORY)?).ok()?;
    let branch = artifact::decode_branch(user.get(BRANCH)?)?;
    Some((repository, branch))
}

/// Replaces each commit id in `key` by `{commit}`.
fn without_commit_ids(key: &str) -> String {
    let mut pattern = String::with_capacity(key.len());
    let mut rest = key;
    while !rest.is_empty() {
        let digits = rest
            .bytes()
            .take_while(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            .count();
        if matches!(digits, 40 | 64) {
            pattern.push_str("{commit}");
        } else {
            pattern.push_str(&rest[..digits]);
        }
        rest = &rest[digits..];
        let mut others = rest.chars();
        pattern.extend(others.next());
        rest = others.as_str();
    }
    pattern
}
