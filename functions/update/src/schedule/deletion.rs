//! Marks the artifacts of missing branches deleted.
//!
//! Only keys that `ARTIFACT_KEY` can make are listed: those in the folders of repositories that
//! the settings select. Of each folder of a repository that was not listed, one object is read
//! first; if it is not an artifact of this account and region, the folder is passed over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
use crate::ref_kind::RefKind;
use crate::request::{ArtifactAnswer, BranchAnswer, Outcome};

/// Result of comparing an object with its branch.
enum Compared {
    /// The object is not an artifact of this function.
    Foreign,
    /// The branch exists, or may exist.
    Kept,
    Deleted(Box<BranchAnswer>),
}

/// Deletes the artifacts of this function whose branch is missing, until the deadline; the next
/// run goes on where the deadline ended this one.
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
            let pattern =
                config
                    .key
                    .pattern_of(repository, branch, &RefKind::Branch, origin.as_ref());
            live.insert(pattern);
        }
    }
    let mut prefixes: VecDeque<String> = prefixes(context).await?.into();
    let mut next = None;
    if let Some((prefix, page)) = context.deletions.take_position() {
        let start = prefixes.partition_point(|other| *other < prefix);
        prefixes.rotate_left(start);
        next = page.filter(|_| prefixes.front() == Some(&prefix));
    }
    let mut results = Vec::new();
    // Whether the objects of a repository that was not listed are artifacts.
    let mut unlisted: BTreeMap<RepositoryName, bool> = BTreeMap::new();
    while let Some(prefix) = prefixes.front() {
        let page = context
            .store
            .list(&config.bucket, prefix, None, next.as_deref())
            .await?;
        let mut candidates = Vec::new();
        for object in page.objects {
            let key = object.key.as_str();
            let found = config.key.match_key(key, origin.as_ref());
            if found == KeyMatch::Foreign
                || live.contains(&without_commit_ids(key))
                || context.deletions.is_foreign(&object)
            {
                continue;
            }
            if let KeyMatch::Of(repository) = found
                && !repositories.contains_key(&repository)
            {
                if !unlisted.contains_key(&repository) {
                    let is_own = config.repositories.matches(&repository)
                        && is_own_artifact(context, &repository, &object.key).await?;
                    unlisted.insert(repository.clone(), is_own);
                }
                if unlisted.get(&repository) == Some(&false) {
                    continue;
                }
            }
            candidates.push(object);
        }
        let checks = stream::iter(candidates).map(|object| async move {
            let compared = compare(context, repositories, &object.key, run).await;
            if matches!(compared, Ok(Compared::Foreign)) {
                context.deletions.remember_foreign(object);
            }
            compared
        });
        let compared: Vec<_> = checks.buffered(CONCURRENT_CHECKS).collect().await;
        results.extend(compared.into_iter().filter_map(|compared| match compared {
            Ok(Compared::Deleted(answer)) => Some(Ok(*answer)),
            Ok(Compared::Foreign | Compared::Kept) => None,
            Err(error) => Some(Err(error)),
        }));
        next = page.next;
        if next.is_none() {
            prefixes.pop_front();
        }
        let Some(prefix) = prefixes.front() else {
            break;
        };
        if Instant::now() + crate::branch::DEADLINE_MARGIN >= run.deadline {
            tracing::warn!(
                bucket.name = %config.bucket,
                prefix,
                "the deadline came before all artifacts were compared with their branches; the \
                 next run goes on here"
            );
            context.deletions.set_position(prefix.clone(), next);
            break;
        }
    }
    Ok(results)
}

/// Returns the prefixes of the keys that `ARTIFACT_KEY` can make, in order: one for each folder
/// of a repository, or a single one where keys do not begin with the repository's name.
async fn prefixes(context: &Context) -> Result<Vec<String>> {
    let config = &context.config;
    let origin = context.origin();
    let Some(above) = config.key.above_repositories(origin.as_ref()) else {
        return Ok(vec![config.key.literal_start().to_owned()]);
    };
    let mut prefixes = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let page = context
            .store
            .list(&config.bucket, &above, Some("/"), next.as_deref())
            .await?;
        let folders = page.common_prefixes.iter().filter_map(|folder| {
            let name = folder.strip_prefix(&above)?.strip_suffix('/')?;
            let repository = RepositoryName::new(name).ok()?;
            config.repositories.matches(&repository).then(|| {
                let key = &config.key;
                key.start_of_repository(&repository, origin.as_ref())
            })
        });
        prefixes.extend(folders);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    prefixes.sort_unstable();
    Ok(prefixes)
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
async fn compare(
    context: &Context,
    repositories: &Repositories,
    key: &ObjectKey,
    run: Run<'_>,
) -> Result<Compared> {
    let bucket = &context.config.bucket;
    let Some(head) = context.store.head(bucket, key).await? else {
        return Ok(Compared::Kept);
    };
    let Some((repository, branch)) = artifact::branch_of(&head) else {
        return Ok(Compared::Foreign);
    };
    if !context.config.repositories.matches(&repository) {
        return Ok(Compared::Foreign);
    }
    let origin = context.origin();
    let made_in = artifact::origin_of(&head);
    if made_in.is_some() && origin.is_some() && !is_proven_own(made_in, origin.as_ref()) {
        return Ok(Compared::Foreign);
    }
    match repositories.get(&repository) {
        // The branches could not be listed, so the branch may exist.
        Some(None) => return Ok(Compared::Kept),
        Some(Some(listed)) if listed.list.branches.contains(&branch) => {
            return Ok(Compared::Kept);
        }
        // The repository may be another account's.
        None if !is_proven_own(made_in, origin.as_ref()) => return Ok(Compared::Kept),
        Some(Some(_)) | None => {}
    }
    // The branch is read again, because it may have been created after the list was read.
    match context.codecommit.get_branch(&repository, &branch).await {
        Ok(_) => return Ok(Compared::Kept),
        Err(error) if error.is_branch_missing() || error.is_repository_missing() => {}
        Err(error) => return Err(error),
    }
    if run.plan.is_none() {
        let precondition = Precondition::Matches(head.etag.clone());
        match context.store.delete(bucket, key, &precondition).await {
            Ok(()) => {}
            // The artifact was replaced meanwhile, so it is still in use.
            Err(error) if error.kind() == ErrorKind::Conflict => return Ok(Compared::Kept),
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
        "the branch does not exist any more".to_owned(),
    );
    Ok(Compared::Deleted(Box::new(BranchAnswer {
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
    })))
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
