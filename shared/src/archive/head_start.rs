//! Reads the first things that an archive needs while its commit is read.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::previous_archive::PreviousArchive;
use super::reuse::compared::ComparedArchives;
use crate::codecommit::CodeCommit;
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::object::TreeListing;
use crate::name::{CommitId, RepositoryName};
use crate::storage::ObjectStore;

/// Results that were read before the commit is known: the differences to a previous archive and its
/// directory, or the listing of the root. Each is used once.
pub struct HeadStart {
    commit: CommitId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    comparison: Option<(Arc<PreviousArchive>, ComparedArchives)>,
    root: Option<Result<TreeListing>>,
}

impl fmt::Debug for HeadStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeadStart")
            .field("commit", &self.commit)
            .finish_non_exhaustive()
    }
}

impl HeadStart {
    /// Reads for an archive of `commit` that is made from `previous`. A failure is that of the
    /// archive, if it needs what could not be read.
    pub async fn comparing(
        codecommit: &dyn CodeCommit,
        repository: &RepositoryName,
        store: &Arc<dyn ObjectStore>,
        commit: CommitId,
        previous: &Arc<PreviousArchive>,
    ) -> Self {
        let compared = ComparedArchives::read(codecommit, repository, store, commit, previous);
        let state = State {
            comparison: Some((Arc::clone(previous), compared.await)),
            root: None,
        };
        Self::new(commit, state)
    }

    /// Reads for an archive of `commit` that is made in full by the API. A failure is that of the
    /// archive, if it needs the listing.
    pub async fn listing(
        codecommit: &dyn CodeCommit,
        repository: &RepositoryName,
        commit: CommitId,
    ) -> Self {
        let root = codecommit.get_folder(repository, commit, "").await;
        let state = State {
            comparison: None,
            root: Some(root),
        };
        Self::new(commit, state)
    }

    fn new(commit: CommitId, state: State) -> Self {
        Self {
            commit,
            state: Mutex::new(state),
        }
    }

    /// Takes the comparison of `commit` with `previous`.
    pub(super) fn take_comparison(
        &self,
        commit: ObjectId,
        previous: &PreviousArchive,
    ) -> Option<ComparedArchives> {
        let mut state = self.state();
        let is_same = |(compared, _): &mut (Arc<PreviousArchive>, ComparedArchives)| {
            **compared == *previous && self.commit == commit.into()
        };
        let (_, compared) = state.comparison.take_if(is_same)?;
        Some(compared)
    }

    /// Takes the listing of the root of `commit`, whose tree must be `tree`.
    pub(super) fn take_root(
        &self,
        commit: CommitId,
        tree: ObjectId,
    ) -> Option<Result<TreeListing>> {
        let mut state = self.state();
        let is_same = |root: &mut Result<TreeListing>| {
            self.commit == commit && root.as_ref().map_or(true, |root| root.id == tree)
        };
        state.root.take_if(is_same)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
