//! Reads a commit, and beside it what its archive begins with.

use std::sync::Arc;

use branchline_core::Result;
use branchline_core::archive::{HeadStart, PreviousArchive, ReadMethod};
use branchline_core::git::object::Commit;
use branchline_core::name::{CommitId, PipelineName};
use branchline_core::storage::ObjectHead;
use futures_util::future::join3;
use tokio::sync::SemaphorePermit;

use super::Attempt;
use super::reuse::NearArtifact;
use crate::artifact::{ArtifactIdentity, S3Location};
use crate::config::{ExistingBranches, PipelineSource, RevisionPin};
use crate::existing;

/// Sources of the archive of a commit, beside the commit itself.
#[derive(Debug, Default)]
pub(super) struct ArchiveBase {
    /// The artifact of another commit.
    pub(super) previous: Option<Arc<PreviousArchive>>,
    /// Results of requests that were sent together with the one for the commit.
    pub(super) head_start: Option<Arc<HeadStart>>,
}

/// A commit, and what was read beside it.
pub(super) struct ReadCommit<'a> {
    pub(super) commit: Result<Commit>,
    /// Whether the bucket keeps the versions that a pipeline needs.
    pub(super) versions: Result<()>,
    /// `None` if nothing was read beside the commit.
    pub(super) base: Result<Option<ArchiveBase>>,
    /// The right to build an archive, unless another one is built.
    pub(super) slot: Option<SemaphorePermit<'a>>,
}

impl<'a> Attempt<'a> {
    /// Reads the commit that the event names, which nearly always is the tip, unless `found` is
    /// its artifact.
    pub(super) async fn read_expected(&self, found: Option<&ObjectHead>) -> Option<ReadCommit<'a>> {
        let expected = self.expected?;
        if self.key.has_commit() {
            return None;
        }
        let identity = self.identity(expected);
        if found.is_some_and(|head| identity.matches(head)) {
            return None;
        }
        // An invalid key or pipeline is reported for the tip.
        let location = self.location(None).ok()?;
        let targets = self.possible_targets(expected).ok()?;
        let pipeline = targets.first().map(|target| &target.pipeline);
        let read = self.read_commit(expected, (&location, &identity, found), pipeline);
        Some(read.await)
    }

    /// Reads the commit `tip`, and beside it what its archive begins with; checks that the bucket
    /// keeps the versions that `pipeline` needs.
    pub(super) async fn read_commit(
        &self,
        tip: CommitId,
        (location, identity, found): (&S3Location, &ArtifactIdentity, Option<&ObjectHead>),
        pipeline: Option<&PipelineName>,
    ) -> ReadCommit<'a> {
        let context = self.context;
        let versions = async {
            match pipeline {
                Some(pipeline) if context.config.pin_for(self.key) != RevisionPin::None => {
                    context.require_versions(&location.bucket, pipeline).await
                }
                _ => Ok(()),
            }
        };
        // While another archive is built, reading ahead would keep its results in memory until the
        // end of that build.
        let slot = if self.is_surely_archived() {
            context.build_slot.try_acquire().ok()
        } else {
            None
        };
        let base = async {
            if slot.is_none() {
                return Ok(None);
            }
            let near = self.previous(tip, &[], location, identity, found).await?;
            Ok(Some(self.read_ahead(tip, near).await))
        };
        // Concurrent, because none depends on another's result.
        let commit = context.codecommit.get_commit(self.repository(), tip);
        let (commit, versions, base) = join3(commit, versions, base).await;
        ReadCommit {
            commit,
            versions,
            base,
            slot,
        }
    }

    /// Finds what the archive of `commit` is made from, where nothing was read ahead.
    pub(super) async fn base_of(
        &self,
        commit: &Commit,
        (location, identity, found): (&S3Location, &ArtifactIdentity, Option<&ObjectHead>),
    ) -> Result<ArchiveBase> {
        let (tip, parents) = (commit.id.into(), &commit.parents);
        let near = self.previous(tip, parents, location, identity, found);
        Ok(ArchiveBase {
            previous: near.await?.map(|near| near.previous),
            head_start: None,
        })
    }

    /// Returns whether a tip without an artifact is archived, whatever the commit has: filters may
    /// start nothing, a marker takes no archive, an older branch may be ignored, and with the
    /// commit in the key the parents decide what is read.
    fn is_surely_archived(&self) -> bool {
        let config = &self.context.config;
        self.plan.is_none()
            && self.filters().is_none()
            && !self.key.has_commit()
            && config.source != PipelineSource::CodeCommit
            && (existing::names_branch(self.task.requester)
                || config.existing_branches != ExistingBranches::Ignore)
    }

    /// Reads what the archive of `tip` begins with.
    async fn read_ahead(&self, tip: CommitId, near: Option<NearArtifact>) -> ArchiveBase {
        let (codecommit, repository) = (&*self.context.codecommit, self.repository());
        // Archives with submodules are made in full.
        let reused = near.as_ref().filter(|near| {
            let is_recorded = near.previous.record.is_some();
            near.has_same_settings && is_recorded && !self.context.config.submodules
        });
        let head_start = if let Some(NearArtifact { previous, .. }) = reused {
            let store = &self.context.store;
            Some(HeadStart::comparing(codecommit, repository, store, tip, previous).await)
        } else if self.lists_by_api(near.as_ref()) {
            Some(HeadStart::listing(codecommit, repository, tip).await)
        } else {
            None
        };
        ArchiveBase {
            head_start: head_start.map(Arc::new),
            previous: near.map(|near| near.previous),
        }
    }

    /// Returns whether an archive that is made in full begins with a listing by the API.
    fn lists_by_api(&self, near: Option<&NearArtifact>) -> bool {
        let config = &self.context.config;
        match (config.read_method, &self.context.git) {
            (ReadMethod::Api, _) | (_, None) => true,
            (ReadMethod::Git, Some(_)) => false,
            (ReadMethod::Auto, Some(git)) => {
                let files = near.map_or(0, |near| near.previous.files);
                let concurrency = config.concurrency as usize;
                !git.costs.prefers_git(files, concurrency)
            }
        }
    }
}
