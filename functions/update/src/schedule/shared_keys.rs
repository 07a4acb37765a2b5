//! Keys that several branches, tags or pull requests share.

use std::collections::BTreeMap;

use branchline_core::Result;
use branchline_core::name::ObjectKey;
use branchline_core::storage::ObjectHead;

use super::skipped;
use crate::Context;
use crate::artifact;
use crate::ref_kind::RefKind;
use crate::request::{BranchAnswer, BranchTask};

/// Skips the tasks of a shared key, except that whose artifact is stored there. Events decide which
/// one that is; otherwise each schedule would archive all of them in turn.
///
/// Returns the tasks to run, and the results of the others.
pub(super) async fn skip(
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
            // The task alone fails, for instance because its key is too long.
            Err(error) => results.push(Err(error.context(format!(
                "{} `{}` of repository `{}`",
                task.kind.noun(),
                task.label(),
                task.repository
            )))),
        }
    }
    for ((bucket, key), tasks) in tasks_by_location {
        if tasks.len() == 1 {
            kept.extend(tasks);
            continue;
        }
        let stored = match context.store.head(&bucket, &key).await {
            Ok(head) => head,
            Err(error) => {
                results.push(Err(error.context("checking a shared key")));
                continue;
            }
        };
        let (stored, others) = split_by_stored(tasks, stored.as_ref());
        kept.extend(stored);
        results.extend(
            others
                .into_iter()
                .map(|task| Ok(skipped(&task.repository, &task.label(), shared_key(&key)))),
        );
    }
    (kept, results)
}

fn shared_key(key: &ObjectKey) -> String {
    format!("`{key}` is shared, and holds something else now")
}

/// Splits off the tasks of anything else than the `stored` artifact. If it is of none of them, keeps
/// all tasks of branches, or without one all tasks.
fn split_by_stored(
    tasks: Vec<BranchTask>,
    stored: Option<&ObjectHead>,
) -> (Vec<BranchTask>, Vec<BranchTask>) {
    let is_stored = |task: &BranchTask| {
        stored.is_some_and(|head| {
            artifact::is_of_repository(head, &task.repository)
                && artifact::is_made_of(head, &task.kind, &task.label())
        })
    };
    let is_branch = |task: &BranchTask| task.kind == RefKind::Branch;
    if tasks.iter().any(is_stored) {
        tasks.into_iter().partition(is_stored)
    } else if tasks.iter().any(is_branch) {
        tasks.into_iter().partition(is_branch)
    } else {
        (tasks, Vec::new())
    }
}
