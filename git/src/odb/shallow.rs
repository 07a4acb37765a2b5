//! Parts of histories that shallow clones have.

use std::collections::HashSet;
use std::sync::Arc;

use super::commit_reader::CommitReader;
use super::rev_walk::RevWalk;
use super::{Database, missing};
use crate::ObjectId;
use crate::error::{Error, ErrorKind, Result};
use crate::object::ObjectKind;

/// The part of a history that a depth, a time or excluded commits select.
///
/// Memory: about 40 bytes for each commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShallowHistory {
    /// Selected commits whose parents are not sent, each once.
    pub boundary: Vec<ObjectId>,
    /// The other selected commits.
    pub inner: HashSet<ObjectId>,
}

/// Returns the commits whose distance from one of `starts` is less than `depth`; the starts have
/// distance 0. Commits of distance `depth - 1` are the boundary, whether they have parents or not,
/// as in git.
///
/// # Errors
/// `NotFound` when a start is missing; `Corrupt` when another commit is.
pub async fn history_of_depth(
    commits: &mut CommitReader,
    starts: &[ObjectId],
    depth: u32,
) -> Result<ShallowHistory> {
    let mut level = commits.peel_commits(starts).await?;
    let mut seen: HashSet<ObjectId> = level.iter().map(|commit| commit.id).collect();
    let mut history = ShallowHistory::default();
    let mut distance = 1;
    while distance < depth && !level.is_empty() {
        let mut next = Vec::new();
        for commit in level {
            history.inner.insert(commit.id);
            for parent in &commit.parents {
                if seen.insert(*parent) {
                    let parent = commits.commit(*parent).await?;
                    next.push(parent.ok_or_else(|| missing(commit.id, ObjectKind::Commit))?);
                }
            }
        }
        level = next;
        distance += 1;
    }
    history.boundary = level.iter().map(|commit| commit.id).collect();
    Ok(history)
}

/// Returns the commits that are reachable from `wants`, not reachable from `excluded`, and not
/// older than `min_time` (seconds since 1970) or reachable from an older commit. The boundary are
/// those with a parent that is not selected.
///
/// # Errors
/// `Config`, in git's words, when no commit is selected. `NotFound` when one of `wants` is
/// missing.
pub async fn history_since(
    database: &Arc<Database>,
    wants: &[ObjectId],
    excluded: &[ObjectId],
    min_time: Option<i64>,
) -> Result<ShallowHistory> {
    let mut walk = RevWalk::new(database).with_min_time(min_time);
    for (ids, is_excluded) in [(excluded, true), (wants, false)] {
        for id in ids {
            let (id, kind) = database.peel(*id).await?;
            if kind == ObjectKind::Commit {
                walk.start(id, is_excluded).await?;
            }
        }
    }
    let found = walk.limit().await?;
    if found.is_empty() {
        return Err(Error::new(
            ErrorKind::Config,
            "no commits selected for shallow requests",
        ));
    }
    let selected: HashSet<u32> = found.iter().copied().collect();
    let mut history = ShallowHistory::default();
    for at in found {
        if walk
            .parents(at)
            .iter()
            .all(|parent| selected.contains(parent))
        {
            history.inner.insert(walk.id(at));
        } else {
            history.boundary.push(walk.id(at));
        }
    }
    Ok(history)
}
