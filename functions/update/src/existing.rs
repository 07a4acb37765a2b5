//! Branches that were there before the stack.
//!
//! A push, or a request for the branch by name, proves that a branch is to be archived and
//! started. The schedule and lifecycle only find branches. A found branch without an artifact
//! has either lost its event, or is older than the stack; it is older if its tip was committed
//! before the repository was first seen. Each artifact records that time (`branchline-since`),
//! and the earliest one counts; before the first artifact it is now.
//!
//! An artifact of an older branch is marked (`branchline-existing`), so that no later schedule
//! starts it. The next push, or a request by name, starts a pipeline and leaves no mark.
//!
//! The same holds for pull requests. A schedule archives a tag only if its commit is not older than
//! the first artifact of a tag, because a filter that is set later must not release everything
//! again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use branchline_core::Result;
use branchline_core::git::object::Commit;
use branchline_core::name::{BucketName, RepositoryName};
use branchline_core::storage::{ObjectHead, ObjectSummary};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::OnceCell;

use crate::Context;
use crate::artifact::{self, ArtifactIdentity, Provenance};
use crate::config::ExistingBranches;
use crate::key_template::KeyMatch;
use crate::ref_kind::RefKind;
use crate::request::{BranchTask, Requester};

/// Maximum number of artifacts of a repository that are read for the time when it was first seen:
/// the oldest of a list.
const MAX_READ_ARTIFACTS: usize = 16;

/// Maximum number of concurrent reads of them.
const CONCURRENT_READS: usize = 8;

/// Times when repositories were first seen, for the lifetime of the execution environment.
#[derive(Debug, Default)]
pub(crate) struct FirstSeen(Mutex<HashMap<RepositoryName, Arc<OnceCell<i64>>>>);

impl FirstSeen {
    /// Returns the time when the repository of `task` was first seen.
    async fn since(&self, context: &Context, task: &BranchTask) -> Result<i64> {
        let cell = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(task.repository.clone()).or_default())
        };
        let read = || async { Ok(read_since(context, task).await?.unwrap_or_else(now)) };
        cell.get_or_try_init(read).await.copied()
    }
}

/// Returns true if an event or a request names the branch, which proves that its pipeline is to be
/// started.
pub(crate) fn names_branch(requester: Requester) -> bool {
    match requester {
        Requester::ByEvent | Requester::ByHand => true,
        Requester::ByLifecycle | Requester::BySchedule => false,
    }
}

/// Returns the origin of a new artifact of `commit`, which replaces `found`.
pub(crate) async fn provenance(
    context: &Context,
    task: &BranchTask,
    commit: &Commit,
    identity: &ArtifactIdentity,
    found: Option<&ObjectHead>,
) -> Result<Provenance> {
    // A schedule names no older tags, because it does not archive them.
    let names_branch = names_branch(task.requester) || matches!(task.kind, RefKind::Tag(_));
    if let Some(head) = found.filter(|head| identity.is_of_branch(head)) {
        // The branch moved since, or the settings changed.
        let has_moved = identity.previous_commit(head).is_some();
        return Ok(Provenance {
            since: artifact::since(head),
            is_existing: artifact::is_existing(head) && !names_branch && !has_moved,
        });
    }
    let never = Provenance {
        since: now(),
        is_existing: false,
    };
    if names_branch || context.config.existing_branches == ExistingBranches::Start {
        return Ok(never);
    }
    let since = context.first_seen.since(context, task).await?;
    let is_older = committed_at(commit).is_none_or(|time| time < since);
    Ok(Provenance {
        since,
        is_existing: is_older && !has_older_artifact(context, task).await?,
    })
}

/// Returns the earliest time that an artifact of the repository records.
async fn read_since(context: &Context, task: &BranchTask) -> Result<Option<i64>> {
    let (_, template) = context.location_of(task);
    let start = template.start_of_repository(&task.repository, context.origin().as_ref());
    let heads = oldest_artifacts(context, task, &start).await?;
    Ok(heads.iter().map(artifact::since).min())
}

/// Returns the earliest time that artifacts of tags of `repository` among `objects` record; `None`
/// if there are none.
pub(crate) async fn since_of_tags(
    context: &Context,
    bucket: &BucketName,
    objects: Vec<ObjectSummary>,
    repository: &RepositoryName,
) -> Result<Option<i64>> {
    let heads = read_oldest(context, bucket, objects, repository).await?;
    let is_of_tag = |head: &&ObjectHead| {
        artifact::reference_of(head).is_some_and(|name| name.starts_with("refs/tags/"))
    };
    Ok(heads.iter().filter(is_of_tag).map(artifact::since).min())
}

/// Returns true if there is an artifact of the branch at another commit, whose key has the commit.
async fn has_older_artifact(context: &Context, task: &BranchTask) -> Result<bool> {
    let (_, template) = context.location_of(task);
    if !template.has_commit() || !template.has_branch() {
        return Ok(false);
    }
    let origin = context.origin();
    let pattern = template.pattern_of(&task.repository, &task.branch, &task.kind, origin.as_ref());
    let start = pattern.split("{commit}").next().unwrap_or_default();
    let heads = oldest_artifacts(context, task, start).await?;
    let label = task.label();
    let is_own = |head| artifact::is_made_of(head, &task.kind, &label);
    Ok(heads.iter().any(is_own))
}

/// Reads the oldest artifacts of the repository that are under keys that begin with `start`.
async fn oldest_artifacts(
    context: &Context,
    task: &BranchTask,
    start: &str,
) -> Result<Vec<ObjectHead>> {
    let (bucket, template) = context.location_of(task);
    let origin = context.origin();
    let page = context.store.list(bucket, start, None, None).await?;
    let mut objects = page.objects;
    objects.retain(
        |object| match template.match_key(object.key.as_str(), origin.as_ref()) {
            KeyMatch::Foreign => false,
            KeyMatch::Of(repository) => repository == task.repository,
            KeyMatch::OfAny => true,
        },
    );
    read_oldest(context, bucket, objects, &task.repository).await
}

/// Reads the oldest of `objects` that are artifacts of `repository`.
async fn read_oldest(
    context: &Context,
    bucket: &BucketName,
    mut objects: Vec<ObjectSummary>,
    repository: &RepositoryName,
) -> Result<Vec<ObjectHead>> {
    let origin = context.origin();
    objects.sort_by_key(|object| object.last_modified);
    objects.truncate(MAX_READ_ARTIFACTS);
    let heads = stream::iter(objects).map(|object| async move {
        let head = context.store.head(bucket, &object.key).await?;
        Ok::<_, branchline_core::Error>(head)
    });
    let heads: Vec<_> = heads.buffered(CONCURRENT_READS).try_collect().await?;
    let is_own = |head: &ObjectHead| {
        artifact::is_of_repository(head, repository)
            && !artifact::is_of_other_origin(head, origin.as_ref())
    };
    Ok(heads.into_iter().flatten().filter(is_own).collect())
}

/// Returns the committer's time in seconds since the epoch; `None` if it cannot be read.
pub(crate) fn committed_at(commit: &Commit) -> Option<i64> {
    commit.committer.date.split(' ').next()?.parse().ok()
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

/// Returns the reason in the answer of something whose pipeline is not started.
pub(crate) fn not_started(kind: &RefKind) -> String {
    let noun = kind.noun();
    format!("the {noun} is older than the stack: its next push starts a pipeline")
}

/// Returns the reason in the answer of something that is not archived.
pub(crate) fn ignored(kind: &RefKind) -> String {
    let noun = kind.noun();
    format!("the {noun} is older than the stack: its next push is archived (`EXISTING_BRANCHES`)")
}
