//! Changes of several refs, all or none.
//!
//! | step | if it fails for a ref |
//! |---|---|
//! | decide each change | no ref was touched |
//! | acquire the locks of all refs, in the order of their names; each must be in its expected state | the locks are released |
//! | send the new bundles, which nobody sees yet | the uploads are aborted |
//! | publish each new bundle beside the old ones | those that were published are deleted |
//! | delete the replaced bundles and the deleted refs, and release the locks | the push has succeeded, and its leftovers are deleted by the next one; a ref that could not be deleted fails alone |
//!
//! The last two steps are run to their end when the caller is cancelled. As in git's own `files`
//! backend, a process that is killed while it publishes leaves a part of the refs moved.

use std::sync::Arc;

use bstr::{BString, ByteSlice as _};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;

use super::change_order::CONCURRENT_REFS;
use super::delete::delete_locked;
use super::expected_ref::{ExpectedRef, lock_expected};
use super::keys::{BundleFile, RefFolder};
use super::lock::Lock;
use super::options::BundleLocation;
use super::publish::LockedRef;
use super::ref_change::{NewBundle, RefChanges, RefDecision, RefDeletion, RefResult};
use crate::background;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{ATOMIC_FAILURE, RefUpdate, Refs, conflicting_ref};

/// A change whose lock is held.
enum LockedChange {
    Write {
        locked: Box<LockedRef>,
        bundle: Box<NewBundle>,
    },
    Delete(Box<LockedDeletion>),
    /// A ref that is missing already is deleted.
    Nothing,
}

/// A ref to delete, whose lock is held.
struct LockedDeletion {
    lock: Lock,
    folder: RefFolder,
    expected: ExpectedRef,
    current: BundleFile,
    orphans: Vec<BundleFile>,
}

/// A change that was published, and whose lock is held.
enum PublishedChange {
    Write {
        locked: Box<LockedRef>,
        bundle: Box<NewBundle>,
    },
    /// The result of a deletion, whose lock was released.
    Delete(Result<()>),
}

/// Failure of an atomic push.
struct Failure {
    /// Position of the change that failed.
    at: usize,
    error: Error,
    /// Failures to take changes back.
    remaining: Vec<(usize, Error)>,
}

/// Makes all changes or none; returns a result for each, in order.
///
/// # Errors
/// A failure before any ref was touched that concerns no single one.
pub(super) async fn change_all_or_none(
    refs: &RefChanges<'_>,
    changes: &[RefUpdate],
) -> Result<Vec<Result<RefResult>>> {
    let mut decisions = Vec::new();
    for (at, change) in changes.iter().enumerate() {
        if let Some(reason) = unsupported(refs, changes, change) {
            return Ok(none_changed(changes, at, Ok(RefResult::Rejected(reason))));
        }
        match refs.decide(change).await {
            Ok(RefDecision::Reject(reason)) => {
                return Ok(none_changed(changes, at, Ok(RefResult::Rejected(reason))));
            }
            Ok(decision) => decisions.push((at, decision)),
            Err(error) => return Ok(none_changed(changes, at, Err(error))),
        }
    }
    // Each push acquires locks in one order, so that no two wait for each other.
    decisions.sort_by(|(left, _), (right, _)| changes[*left].name.cmp(&changes[*right].name));
    let mut locked = Vec::new();
    for (at, decision) in decisions {
        match lock(refs, decision).await {
            Ok(change) => locked.push((at, change)),
            Err(error) => {
                let withdrawn = withdraw(locked).await;
                return Ok(fail(changes, at, error, withdrawn));
            }
        }
    }
    if let Some((at, error)) = run_all(Step::Upload, &mut locked).await {
        let withdrawn = withdraw(locked).await;
        return Ok(fail(changes, at, error, withdrawn));
    }
    let location = Arc::clone(refs.location);
    let published = background::complete(async move { publish_all(&location, locked).await });
    let published = match published.await {
        Some(Ok(published)) => published,
        Some(Err(failure)) => {
            let Failure {
                at,
                error,
                remaining,
            } = failure;
            return Ok(fail(changes, at, error, remaining));
        }
        None => {
            let message = "publishing the refs of a push panicked";
            return Err(Error::new(ErrorKind::Internal, message));
        }
    };
    let mut steps: Vec<BoxFuture<'_, _>> = Vec::new();
    for (at, change) in published {
        steps.push(Box::pin(async move { (at, finish(refs, change).await) }));
    }
    let mut results: Vec<(usize, Result<RefResult>)> = futures_util::stream::iter(steps)
        .buffer_unordered(CONCURRENT_REFS)
        .collect()
        .await;
    results.sort_by_key(|(at, _)| *at);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// Publishes all new bundles, or takes all changes back; then deletes the replaced bundles and the
/// deleted refs.
async fn publish_all(
    location: &Arc<BundleLocation>,
    mut locked: Vec<(usize, LockedChange)>,
) -> Result<Vec<(usize, PublishedChange)>, Failure> {
    if let Some((at, error)) = run_all(Step::Publish, &mut locked).await {
        let remaining = withdraw(locked).await;
        return Err(Failure {
            at,
            error,
            remaining,
        });
    }
    let mut deletions: Vec<BoxFuture<'_, _>> = Vec::new();
    for (at, change) in locked {
        deletions.push(Box::pin(
            async move { (at, delete(location, change).await) },
        ));
    }
    Ok(futures_util::stream::iter(deletions)
        .buffer_unordered(CONCURRENT_REFS)
        .collect()
        .await)
}

/// Runs a step of all changes; returns the first failure.
async fn run_all(step: Step, locked: &mut [(usize, LockedChange)]) -> Option<(usize, Error)> {
    let mut steps: Vec<BoxFuture<'_, _>> = Vec::new();
    for (at, change) in locked {
        steps.push(Box::pin(step.run(*at, change)));
    }
    let failures = futures_util::stream::iter(steps)
        .buffer_unordered(CONCURRENT_REFS)
        .filter_map(std::future::ready)
        .collect::<Vec<_>>()
        .await;
    failures.into_iter().next()
}

/// Step of a locked change that can be taken back.
#[derive(Debug, Clone, Copy)]
enum Step {
    Upload,
    Publish,
}

impl Step {
    /// Returns the failure of the step, with the position of its change.
    async fn run(self, at: usize, change: &mut LockedChange) -> Option<(usize, Error)> {
        let LockedChange::Write { locked, bundle } = change else {
            return None;
        };
        let done = match self {
            Self::Upload => locked.upload(&bundle.plan.body).await,
            Self::Publish => locked.publish().await,
        };
        done.err().map(|error| (at, error))
    }
}

/// Returns the reason why a change cannot be a part of an atomic push.
fn unsupported(refs: &RefChanges<'_>, changes: &[RefUpdate], change: &RefUpdate) -> Option<String> {
    let found = refs.opened.find(&change.name);
    if found.is_some_and(|found| found.expected.name != change.name) {
        return Some("the ref lost a race of pushes: push it without `--atomic`".to_owned());
    }
    if change.new.is_some() {
        return None;
    }
    let created: Refs = changes
        .iter()
        .filter_map(|change| Some((change.name.clone(), change.new?)))
        .collect();
    let other: BString = conflicting_ref(&created, change.name.as_bstr())?.into();
    Some(format!(
        "its place is taken by `{other}`: delete it first, in a push of its own"
    ))
}

async fn lock(refs: &RefChanges<'_>, decision: RefDecision) -> Result<LockedChange> {
    match decision {
        RefDecision::Write(bundle) => {
            let (expected, orphans) = (bundle.expected.clone(), bundle.orphans.clone());
            let locked = LockedRef::lock(refs.location, expected, orphans, bundle.id).await?;
            Ok(LockedChange::Write {
                locked: Box::new(locked),
                bundle,
            })
        }
        RefDecision::Delete(RefDeletion {
            expected,
            current: Some(current),
            orphans,
        }) => {
            let (lock, folder) = lock_expected(refs.location, &expected).await?;
            Ok(LockedChange::Delete(Box::new(LockedDeletion {
                lock,
                folder,
                expected,
                current,
                orphans,
            })))
        }
        RefDecision::Delete(_) | RefDecision::Reject(_) => Ok(LockedChange::Nothing),
    }
}

/// Takes all changes back; returns the failures.
async fn withdraw(locked: Vec<(usize, LockedChange)>) -> Vec<(usize, Error)> {
    let mut failures = Vec::new();
    for (at, change) in locked {
        match change {
            LockedChange::Write { locked, .. } => {
                if let Err(error) = locked.withdraw().await {
                    failures.push((at, error));
                }
            }
            LockedChange::Delete(deletion) => deletion.lock.release().await,
            LockedChange::Nothing => {}
        }
    }
    failures
}

/// Deletes the bundles that a published change replaces, or the deleted ref.
async fn delete(location: &Arc<BundleLocation>, change: LockedChange) -> PublishedChange {
    match change {
        LockedChange::Write { mut locked, bundle } => {
            locked.delete_replaced().await;
            PublishedChange::Write { locked, bundle }
        }
        LockedChange::Delete(deletion) => {
            let LockedDeletion {
                lock,
                folder,
                expected,
                current,
                orphans,
            } = *deletion;
            let held = (&lock, folder);
            let deleted = delete_locked(location, &expected, &current, &orphans, held).await;
            lock.release().await;
            PublishedChange::Delete(deleted)
        }
        LockedChange::Nothing => PublishedChange::Delete(Ok(())),
    }
}

async fn finish(refs: &RefChanges<'_>, change: PublishedChange) -> Result<RefResult> {
    match change {
        PublishedChange::Write { locked, bundle } => {
            let NewBundle { plan, action, .. } = *bundle;
            let published = locked.finish(&plan.body, &action).await;
            refs.cache_new_pack(published, plan).await
        }
        PublishedChange::Delete(deleted) => deleted.map(|()| RefResult::Deleted),
    }
}

/// Returns the results of a push that changed nothing because of the change at position `at`.
fn none_changed(
    changes: &[RefUpdate],
    at: usize,
    reason: Result<RefResult>,
) -> Vec<Result<RefResult>> {
    let rejected = |_: &RefUpdate| Ok(RefResult::Rejected(ATOMIC_FAILURE.to_owned()));
    let mut results: Vec<_> = changes.iter().map(rejected).collect();
    results[at] = reason;
    results
}

/// Returns the results of a push that failed at position `at` and was taken back but for the
/// failures in `remaining`.
fn fail(
    changes: &[RefUpdate],
    at: usize,
    error: Error,
    remaining: Vec<(usize, Error)>,
) -> Vec<Result<RefResult>> {
    let mut results = none_changed(changes, at, Err(error));
    for (at, error) in remaining {
        results[at] = Err(error.context("the ref may have moved although the push failed"));
    }
    results
}
