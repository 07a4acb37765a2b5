//! Commits of a database, each parsed once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Database;
use super::rev_walk::{HistoryCommit, parse_commit};
use crate::ObjectId;
use crate::error::Result;
use crate::object::ObjectKind;

/// Reads commits, and keeps those that it has read: about 200 bytes for each.
#[derive(Debug)]
pub struct CommitReader {
    database: Arc<Database>,
    // `None` for ids that are not a commit of the database.
    known: HashMap<ObjectId, Option<Arc<HistoryCommit>>>,
}

/// The progress of [`CommitReader::all_reach`] with a commit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Visited,
    Reaches,
}

impl CommitReader {
    /// Creates a reader that has read nothing.
    pub fn new(database: Arc<Database>) -> Self {
        Self {
            database,
            known: HashMap::new(),
        }
    }

    /// Returns the database.
    pub fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// Returns the commit `id`; `None` when the database has no commit of this id.
    pub async fn commit(&mut self, id: ObjectId) -> Result<Option<Arc<HistoryCommit>>> {
        if let Some(known) = self.known.get(&id) {
            return Ok(known.clone());
        }
        if self.known.len() % 64 == 63 {
            // Other tasks get their turn, because reads from memory never wait.
            tokio::task::yield_now().await;
        }
        let read = match self.database.read(id).await? {
            Some((ObjectKind::Commit, content)) => {
                Some(Arc::new(parse_commit(self.database.hash(), id, &content)?))
            }
            _ => None,
        };
        self.known.insert(id, read.clone());
        Ok(read)
    }

    /// Returns the commits among `ids`, with tags peeled, each once. Other objects are left out.
    ///
    /// # Errors
    /// `NotFound` when an object is missing.
    pub async fn peel_commits(&mut self, ids: &[ObjectId]) -> Result<Vec<Arc<HistoryCommit>>> {
        let mut seen = HashSet::new();
        let mut commits = Vec::new();
        for id in ids {
            let peeled = match self.commit(*id).await? {
                Some(_) => *id,
                None => self.database.peel(*id).await?.0,
            };
            if let Some(commit) = self.commit(peeled).await?
                && seen.insert(peeled)
            {
                commits.push(commit);
            }
        }
        Ok(commits)
    }

    /// Returns whether each commit of `wants` reaches a commit of `targets` on a path of commits
    /// that are not older than `min_time`. Wants that are not commits are ignored.
    pub async fn all_reach(
        &mut self,
        wants: &[ObjectId],
        targets: &HashSet<ObjectId>,
        min_time: i64,
    ) -> Result<bool> {
        let mut marks: HashMap<ObjectId, Mark> = HashMap::new();
        for start in self.peel_commits(wants).await? {
            let mut stack = vec![(start.clone(), 0)];
            marks.entry(start.id).or_insert(Mark::Visited);
            while let Some((commit, next)) = stack.last_mut() {
                let id = commit.id;
                if targets.contains(&id) || marks.get(&id) == Some(&Mark::Reaches) {
                    // All commits on the way to it reach it, too.
                    for (commit, _) in stack.drain(..) {
                        marks.insert(commit.id, Mark::Reaches);
                    }
                    break;
                }
                let Some(parent) = commit.parents.get(*next).copied() else {
                    stack.pop();
                    continue;
                };
                *next += 1;
                if targets.contains(&parent) || marks.get(&parent) == Some(&Mark::Reaches) {
                    for (commit, _) in stack.drain(..) {
                        marks.insert(commit.id, Mark::Reaches);
                    }
                    break;
                }
                if marks.insert(parent, Mark::Visited).is_some() {
                    continue;
                }
                if let Some(parent) = self.commit(parent).await?
                    && parent.time >= min_time
                {
                    stack.push((parent, 0));
                }
            }
            if marks.get(&start.id) != Some(&Mark::Reaches) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
