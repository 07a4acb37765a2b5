//! Pull requests of a repository: the open ones, and those that were closed while their artifacts
//! are left.
//!
//! The list of artifacts says which pull requests were archived before: of another one the event
//! of its creation was lost, or it had no file that a filter matches.

use std::collections::BTreeSet;
use std::time::Instant;

use branchline_core::Result;
use branchline_core::codecommit::all_open_pull_requests;
use branchline_core::filter::PullRequestEvent;
use branchline_core::name::{ObjectKey, PullRequestId, RepositoryName};
use futures_util::{StreamExt as _, stream};

use super::{CONCURRENT_CHECKS, FoundTasks, listed_objects};
use crate::Context;
use crate::artifact;
use crate::ref_kind::{NamedKind, RefKind};
use crate::request::{BranchTask, Overrides, Requester};

/// Makes the tasks of the pull requests of `repository`.
pub(super) async fn find(
    context: &Context,
    repository: &RepositoryName,
    deadline: Instant,
) -> Result<FoundTasks> {
    let (open, archived) = futures_util::try_join!(
        all_open_pull_requests(&*context.codecommit, repository),
        archived(context, repository, deadline)
    )?;
    let mut found = FoundTasks::default();
    for id in &open {
        let is_archived = archived.iter().any(|(archived, _)| archived == id);
        let event = if is_archived {
            PullRequestEvent::Updated
        } else {
            PullRequestEvent::Open
        };
        found.tasks.push(task(repository, id, event)?);
    }
    let others = archived.into_iter().filter(|(id, _)| !open.contains(id));
    let checks = stream::iter(others).map(|(id, key)| async move {
        let is_own = is_artifact_of(context, repository, &id, &key).await;
        is_own.map(|is_own| is_own.then_some(id))
    });
    let closed: Vec<Result<Option<PullRequestId>>> =
        checks.buffered(CONCURRENT_CHECKS).collect().await;
    for closed in closed {
        if let Some(id) = closed? {
            found
                .tasks
                .push(task(repository, &id, PullRequestEvent::Closed)?);
        }
    }
    Ok(found)
}

fn task(
    repository: &RepositoryName,
    id: &PullRequestId,
    event: PullRequestEvent,
) -> Result<BranchTask> {
    let kind = RefKind::PullRequest {
        id: id.clone(),
        event,
    };
    Ok(BranchTask {
        repository: repository.clone(),
        branch: kind.placeholder_branch()?,
        kind,
        again: false,
        commit: None,
        overrides: Overrides::default(),
        requester: Requester::BySchedule,
    })
}

/// Lists the pull requests that have an artifact by its key, with one key of each.
async fn archived(
    context: &Context,
    repository: &RepositoryName,
    deadline: Instant,
) -> Result<Vec<(PullRequestId, ObjectKey)>> {
    let config = &context.config;
    let origin = context.origin();
    let kind = NamedKind::PullRequest;
    let Some(start) = config.key.start_of_kind(repository, kind, origin.as_ref()) else {
        return Ok(Vec::new());
    };
    let objects = listed_objects(context, &config.bucket, &start, deadline).await?;
    let mut known = BTreeSet::new();
    let mut archived = Vec::new();
    for object in objects {
        let rest = object.key.as_str().strip_prefix(start.as_str());
        let rest = rest.unwrap_or_default();
        let end = rest.find(|c: char| !c.is_ascii_digit());
        let number = &rest[..end.unwrap_or(rest.len())];
        if let Ok(id) = PullRequestId::new(number)
            && known.insert(id.clone())
        {
            archived.push((id, object.key));
        }
    }
    Ok(archived)
}

/// Returns whether the object at `key` is the artifact of a pull request, and the one that its end
/// deletes. Where keys have the commit, artifacts of earlier commits are not deleted.
async fn is_artifact_of(
    context: &Context,
    repository: &RepositoryName,
    id: &PullRequestId,
    key: &ObjectKey,
) -> Result<bool> {
    let config = &context.config;
    if config.key.has_commit() {
        return Ok(false);
    }
    let head = context.store.head(&config.bucket, key).await?;
    let label = format!("pull/{id}");
    Ok(head.is_some_and(|head| {
        artifact::is_of_repository(&head, repository)
            && !artifact::is_of_other_origin(&head, context.origin().as_ref())
            && artifact::reference_of(&head) == Some(label)
    }))
}
