//! Objects that client and server have in common, and the boundary of shallow histories.

use std::collections::HashSet;

use super::needs::{Depth, Needs, refused};
use crate::ObjectId;
use crate::error::Result;
use crate::odb::{CommitReader, ShallowHistory, history_of_depth, history_since};

/// Objects that the client has and the server too.
#[derive(Debug, Default)]
pub(super) struct Common {
    /// The objects in the order in which the client named them, without parents of earlier ones.
    pub(super) ids: Vec<ObjectId>,
    // Also the parents of commits in `ids`.
    client_has: HashSet<ObjectId>,
    oldest: Option<i64>,
    // The last result of `is_enough`, until an object is added.
    enough: Option<bool>,
}

impl Common {
    /// Adds an object of the client; returns whether the server has it, too.
    pub(super) async fn add(&mut self, commits: &mut CommitReader, id: ObjectId) -> Result<bool> {
        if !commits.database().contains_without_requests(id).await? {
            return Ok(false);
        }
        if let Some(commit) = commits.commit(id).await? {
            let oldest = self.oldest.unwrap_or(commit.time);
            self.oldest = Some(oldest.min(commit.time));
            self.client_has.extend(&commit.parents);
        }
        if self.client_has.insert(id) {
            self.ids.push(id);
        }
        self.enough = None;
        Ok(true)
    }

    /// Returns whether each wanted commit descends from a common one, so that further haves would
    /// not make the pack much smaller.
    pub(super) async fn is_enough(
        &mut self,
        commits: &mut CommitReader,
        wants: &[ObjectId],
    ) -> Result<bool> {
        if self.ids.is_empty() {
            return Ok(false);
        }
        if let Some(enough) = self.enough {
            return Ok(enough);
        }
        let oldest = self.oldest.unwrap_or_default();
        let enough = commits.all_reach(wants, &self.client_has, oldest).await?;
        self.enough = Some(enough);
        Ok(enough)
    }
}

/// The boundary of the history that a shallow client will have.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    /// Commits whose parents the client will not have, and had before if it had the commit.
    pub(super) shallow: Vec<ObjectId>,
    /// Commits whose parents the client gets now.
    pub(super) unshallow: Vec<ObjectId>,
    /// Parents of `unshallow`, to be sent.
    pub(super) wants: Vec<ObjectId>,
    /// All commits whose parents are not followed when objects are chosen: the new boundary, and
    /// the client's old one.
    pub(super) parentless: HashSet<ObjectId>,
    /// The client has asked for another boundary.
    pub(super) is_requested: bool,
}

impl Boundary {
    /// Computes the boundary of a request. `excluded` are the ids of the refs of `deepen-not`.
    pub(super) async fn new(
        needs: &Needs,
        excluded: &[ObjectId],
        commits: &mut CommitReader,
    ) -> Result<Self> {
        let mut old = Vec::new();
        let mut client_shallow = HashSet::new();
        for id in &needs.shallow {
            if commits.commit(*id).await?.is_some() {
                if client_shallow.insert(*id) {
                    old.push(*id);
                }
            } else if commits.database().contains(*id).await? {
                return Err(refused(format!("invalid shallow object {id}")));
            }
        }
        let mut boundary = Self {
            is_requested: true,
            ..Self::default()
        };
        let history = match needs.depth {
            Some(Depth::Infinite) => ShallowHistory {
                boundary: Vec::new(),
                inner: client_shallow.clone(),
            },
            Some(Depth::Commits(depth)) if needs.deepen_relative => {
                history_of_depth(commits, &old, depth.saturating_add(1)).await?
            }
            Some(Depth::Commits(depth)) => history_of_depth(commits, &needs.wants, depth).await?,
            None if needs.deepens_by_commits() => {
                let database = commits.database();
                history_since(database, &needs.wants, excluded, needs.deepen_since).await?
            }
            None => {
                boundary.is_requested = false;
                ShallowHistory::default()
            }
        };
        for id in history.boundary {
            if !client_shallow.contains(&id) {
                boundary.shallow.push(id);
                boundary.parentless.insert(id);
            }
        }
        for id in old {
            boundary.parentless.insert(id);
            if history.inner.contains(&id) {
                boundary.unshallow.push(id);
                let commit = commits.commit(id).await?;
                boundary
                    .wants
                    .extend(commit.iter().flat_map(|commit| &commit.parents));
            }
        }
        Ok(boundary)
    }
}

/// Checks that the database has all wanted objects.
///
/// # Errors
/// `Config`, in git's words, naming the first object that is missing.
pub(super) async fn check_wants(commits: &CommitReader, wants: &[ObjectId]) -> Result<()> {
    for want in wants {
        if !commits.database().contains(*want).await? {
            return Err(refused(format!("upload-pack: not our ref {want}")));
        }
    }
    Ok(())
}
