//! Differences of two commits, read together with the directory of the previous archive.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::directory::ZipDirectory;
use super::full_run::{FullRun, Stop};
use crate::archive::previous_archive::PreviousArchive;
use crate::codecommit::{CodeCommit, Difference, differences_up_to};
use crate::name::{CommitId, RepositoryName};
use crate::storage::ObjectStore;

/// Number of differences that are read even of a small archive.
const MIN_DIFFERENCES: usize = 100;

/// The differences between the commits of two archives, and the directory of the previous one.
pub(in crate::archive) struct ComparedArchives {
    pub(super) differences: Result<Vec<Difference>, Stop>,
    pub(super) directory: Result<ZipDirectory, FullRun>,
    /// Requests to CodeCommit.
    pub(super) requests: u64,
}

impl ComparedArchives {
    /// Compares `commit` with that of `previous`.
    pub(in crate::archive) async fn read(
        codecommit: &dyn CodeCommit,
        repository: &RepositoryName,
        store: &Arc<dyn ObjectStore>,
        commit: CommitId,
        previous: &PreviousArchive,
    ) -> Self {
        let files = usize::try_from(previous.files).unwrap_or(usize::MAX);
        let requests = AtomicU64::new(0);
        let differences = differences_up_to(
            codecommit,
            repository,
            previous.commit,
            commit,
            MIN_DIFFERENCES.max(files / 2),
            &requests,
        );
        let (differences, directory) =
            tokio::join!(differences, ZipDirectory::read(store, previous));
        let differences = differences
            .map_err(|error| Stop::after("the commits cannot be compared", error))
            .and_then(|read| {
                read.ok_or_else(|| FullRun::because("more than half of the files changed").into())
            });
        Self {
            differences,
            directory,
            requests: requests.into_inner(),
        }
    }
}
