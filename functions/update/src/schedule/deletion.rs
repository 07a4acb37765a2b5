//! Marks the artifacts of missing branches deleted.
//!
//! Only keys that `ARTIFACT_KEY` can make are read: those below the part of the key that names a
//! repository. Of each folder of a repository that was not listed, one object is read first; if
//! it is not an artifact of this account and region, the folder is passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use branchline_core::arn::Origin;
use branchline_core::name::{ObjectKey, RepositoryName};
use branchline_core::storage::{ObjectStoreExt as _, Precondition};
use branchline_core::{ErrorKind, Result};
use futures_util::{StreamExt as _, stream};

use super::{CONCURRENT_CHECKS, Repositories, skipped};
use crate::Context;
use crate::artifact;
use crate::key_template::KeyMatch;
use crate::plan::Run;
use crate::request::{ArtifactAnswer, BranchAnswer, Outcome};

/// Deletes the artifacts of this function whose branch is missing, until the deadline.
pub(super) async fn delete_artifacts(
    context: &Context,
    repositories: &Repositories,
    run: Run<'_>,
) -> Result<Vec<Result<BranchAnswer>>> {
    let config = &context.config;
    let origin = context.origin();
    let mut live = BTreeSet::new();
    for (repository, listed) in repositories {
        for branch in listed.iter().flat_map(|listed| &listed.list.branches) {
            live.insert(config.key.pattern_of(repository, branch, origin.as_ref()));
        }
    }
    let mut results = Vec::new();
    let mut next: Option<String> = None;
    // Whether the objects of a repository that was not listed are artifacts.
    let mut unlisted: BTreeMap<RepositoryName, bool> = BTreeMap::new();
    loop {
        let start = config.key.literal_start();
        let page = context
            .store
            .list(&config.bucket, start, None, next.as_deref())
            .await?;
        let mut candidates = Vec::new();
        for object in page.objects {
            let key = object.key;
            let found = config.key.match_key(key.as_str(), origin.as_ref());
            if found == KeyMatch::Foreign || live.contains(&without_commit_ids(key.as_str())) {
                continue;
            }
            if let KeyMatch::Of(repository) = found
                && !repositories.contains_key(&repository)
            {
                if !unlisted.contains_key(&repository) {
                    let is_own = config.repositories.matches(&repository)
                        && is_own_artifact(context, &repository, &key).await?;
                    unlisted.insert(repository.clone(), is_own);
                }
                if unlisted.get(&repository) == Some(&false) {
                    continue;
                }
            }
            candidates.push(key);
        }
        let checks = stream::iter(candidates)
            .map(|key| delete_if_branch_missing(context, repositories, key, run));
        let checked: Vec<_> = checks.buffered(CONCURRENT_CHECKS).collect().await;
        results.extend(checked.into_iter().filter_map(Result::transpose));
        next = page.next;
        if next.is_none() {
            return Ok(results);
        }
        if Instant::now() + crate::branch::DEADLINE_MARGIN >= run.deadline {
            tracing::warn!(
                bucket.name = %config.bucket,
                "the deadline came before all artifacts were compared with their branches"
            );
            return Ok(results);
        }
    }
}

/// Returns true if the object is an artifact of `repository`, made in this account and region.
async fn is_own_artifact(
    context: &Context,
    repository: &RepositoryName,
    key: &ObjectKey,
) -> Result<bool> {
    let head = context.store.head(&context.config.bucket, key).await?;
    Ok(head.is_some_and(|head| {
        let branch = artifact::branch_of(&head);
        branch.is_some_and(|(found, _)| found == *repository)
            && is_proven_own(artifact::origin_of(&head), context.origin().as_ref())
    }))
}

/// Returns true if an artifact is known to be of this account and region.
fn is_proven_own(made_in: Option<&str>, origin: Option<&Origin>) -> bool {
    origin.is_some_and(|origin| made_in == Some(origin.to_string().as_str()))
}

/// Deletes an object if it is an artifact of this function whose branch is missing.
async fn delete_if_branch_missing(
    context: &Context,
    repositories: &Repositories,
    key: ObjectKey,
    run: Run<'_>,
) -> Result<Option<BranchAnswer>> {
    let bucket = &context.config.bucket;
    let Some(head) = context.store.head(bucket, &key).await? else {
        return Ok(None);
    };
    let Some((repository, branch)) = artifact::branch_of(&head) else {
        return Ok(None);
    };
    if !context.config.repositories.matches(&repository) {
        return Ok(None);
    }
    let origin = context.origin();
    let made_in = artifact::origin_of(&head);
    if made_in.is_some() && origin.is_some() && !is_proven_own(made_in, origin.as_ref()) {
        return Ok(None);
    }
    match repositories.get(&repository) {
        // The branches could not be listed, so the branch may exist.
        Some(None) => return Ok(None),
        Some(Some(listed)) if listed.list.branches.contains(&branch) => return Ok(None),
        // The repository may be another account's.
        None if !is_proven_own(made_in, origin.as_ref()) => return Ok(None),
        Some(Some(_)) | None => {}
    }
    // The branch is read again, because it may have been created after the list was read.
    match context.codecommit.get_branch(&repository, &branch).await {
        Ok(_) => return Ok(None),
        Err(error) if error.is_branch_missing() || error.is_repository_missing() => {}
        Err(error) => return Err(error),
    }
    if run.plan.is_none() {
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
    }
    let answer = skipped(
        &repository,
        branch.as_str(),
        "the branch is gone".to_owned(),
    );
    Ok(Some(BranchAnswer {
        outcome: Outcome::Deleted,
        artifact: Some(ArtifactAnswer {
            bucket: bucket.to_string(),
            key: key.to_string(),
            version_id: head.version_id.clone().map(String::from),
            etag: head.etag.to_string(),
            size_bytes: head.size_bytes,
            files: artifact::files(&head),
        }),
        ..answer
    }))
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
