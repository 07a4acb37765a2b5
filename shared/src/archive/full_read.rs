//! Reads a commit that is archived in full: by the API, or by git.

use std::pin::pin;
use std::time::Duration;

use super::archive_stream::{PreparedArchive, full, planned};
use super::fetched_commit::FetchedCommit;
use super::large_files_over_git::GitLargeFiles;
use super::listed_tree::Tree;
use super::plan::ArchivePlan;
use super::read_method::ReadMethod;
use super::request::ArchiveRequest;
use super::reuse::ListingRecord;
use super::tree_source::CodeCommitTree;
use super::walk::{Walked, walk_within};
use crate::error::{Error, ErrorKind, Result};

/// Maximum time until a pack begins to arrive where the API can be used instead: a service that
/// packs a large commit takes seconds, and a network without a way to git takes minutes to fail.
const GIT_PATIENCE: Duration = Duration::from_secs(10);

/// A commit that is read in full.
pub(super) struct FullRead<'a> {
    pub(super) api: CodeCommitTree<'a>,
    pub(super) request: &'a ArchiveRequest,
}

/// The entries of a commit, and the commit itself if it was fetched by git.
type Read = (Tree, ArchivePlan, Option<FetchedCommit>);

impl FullRead<'_> {
    /// Lists and plans the commit, by the way that the request names or that is faster.
    pub(super) async fn prepare(&self) -> Result<PreparedArchive> {
        let (tree, plan, fetched) = self.read().await?;
        Ok(PreparedArchive {
            record: ListingRecord::of_plan(&tree, &plan, self.request),
            tree,
            plan,
            reused: None,
            fetched,
        })
    }

    async fn read(&self) -> Result<Read> {
        let request = self.request;
        let Some(over_git) = self.git() else {
            let (tree, plan) = full(&self.api, request).await?;
            return Ok((tree, plan, None));
        };
        if request.method == ReadMethod::Git {
            return self.by_git(over_git).await;
        }
        let max = over_git.costs().max_api_requests(request.concurrency);
        let files = request.previous.as_ref().map_or(0, |last| last.files);
        if files > max {
            return self.by_git(over_git).await;
        }
        request.seconds()?;
        match walk_within(&self.api, request, Some(max)).await? {
            Walked::Whole(tree) => {
                let (tree, plan) = planned(tree, request)?;
                Ok((tree, plan, None))
            }
            Walked::TooMany { requests, rest } => {
                let (mut tree, plan, fetched) = beside(self.by_git(over_git), rest).await?;
                tree.requests += requests;
                Ok((tree, plan, fetched))
            }
        }
    }

    /// Reads the commit by git, or by the API if git fails.
    async fn by_git(&self, over_git: &GitLargeFiles) -> Result<Read> {
        if let Some((commit, tree, plan)) = self.fetch(over_git).await? {
            return Ok((tree, plan, Some(commit)));
        }
        let (tree, plan) = full(&self.api, self.request).await?;
        Ok((tree, plan, None))
    }

    /// Fetches the commit by git if that is faster than reading this number of files by the API.
    pub(super) async fn fetch_for(&self, files: usize) -> Result<Option<FetchedCommit>> {
        let Some(over_git) = self.git() else {
            return Ok(None);
        };
        let concurrency = self.request.concurrency;
        if !over_git.costs().prefers_git(files as u64, concurrency) {
            return Ok(None);
        }
        match over_git.commit(self.patience()).await {
            Ok(pack) => Ok(Some(FetchedCommit::new(pack))),
            Err(error) => self.fall_back(over_git, error).map(|()| None),
        }
    }

    /// Returns the commit by git, if that may be tried.
    fn git(&self) -> Option<&GitLargeFiles> {
        let over_git = self.request.over_git.as_deref()?;
        let may_try = self.request.method != ReadMethod::Api
            && !over_git.costs().has_failed(over_git.repository());
        may_try.then_some(over_git)
    }

    /// Returns the maximum time until a pack begins to arrive.
    fn patience(&self) -> Option<Duration> {
        (self.request.method == ReadMethod::Auto).then_some(GIT_PATIENCE)
    }

    /// Fetches, lists and plans the commit; `None` where the API is to be used.
    async fn fetch(
        &self,
        over_git: &GitLargeFiles,
    ) -> Result<Option<(FetchedCommit, Tree, ArchivePlan)>> {
        let commit = match over_git.commit(self.patience()).await {
            Ok(pack) => FetchedCommit::new(pack),
            Err(error) => return self.fall_back(over_git, error).map(|()| None),
        };
        match full(&commit, self.request).await {
            Ok((tree, plan)) => Ok(Some((commit, tree, plan))),
            // Of a submodule or a setting: the API would find the same.
            Err(error) if is_of_the_content(error.kind()) => Err(error),
            Err(error) => self.fall_back(over_git, error).map(|()| None),
        }
    }

    /// Warns of a failure of git after which the API is used, or returns it.
    fn fall_back(&self, over_git: &GitLargeFiles, error: Error) -> Result<()> {
        let is_denied = error.kind() == ErrorKind::AccessDenied;
        if !is_denied && self.request.method == ReadMethod::Git {
            return Err(error);
        }
        over_git.costs().record_failure(over_git.repository());
        tracing::warn!(
            repository.name = %over_git.repository(),
            commit.id = %self.request.commit.id,
            error = error.report(),
            "the commit cannot be fetched by git, and is read by the API"
        );
        Ok(())
    }
}

/// Waits for `work`, and runs `other` meanwhile, which is dropped with it.
async fn beside<T>(work: impl Future<Output = T>, other: impl Future<Output = ()>) -> T {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = &mut work => done,
        () = other => work.await,
    }
}

/// Returns whether the way in which a commit is read cannot be the cause of an error.
fn is_of_the_content(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Config | ErrorKind::NotFound | ErrorKind::AccessDenied
    )
}
