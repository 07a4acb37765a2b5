//! Finds the artifact of another commit, from which the new one is made.

use std::sync::Arc;

use branchline_core::archive::PreviousArchive;
use branchline_core::git::ObjectId;
use branchline_core::name::{BranchName, CommitId};
use branchline_core::storage::ObjectHead;
use branchline_core::{Error, ErrorKind, Result};

use super::Attempt;
use crate::artifact::{self, ArtifactIdentity, S3Location};
use crate::config::PipelineSource;
use crate::key_template::TemplateValues;
use crate::ref_kind::RefKind;

/// User metadata of an artifact with the record of its listing.
pub(super) const RECORD: &str = "branchline-listing";

/// The artifact of another commit.
pub(super) struct NearArtifact {
    pub(super) previous: Arc<PreviousArchive>,
    /// Whether an archive can be made from it.
    pub(super) has_same_settings: bool,
}

impl Attempt<'_> {
    /// Returns the artifact of the nearest other commit: the one that is replaced, that of a
    /// parent commit where keys name commits, or that of the default branch.
    pub(super) async fn previous(
        &self,
        tip: CommitId,
        parents: &[ObjectId],
        location: &S3Location,
        identity: &ArtifactIdentity,
        replaced: Option<&ObjectHead>,
    ) -> Result<Option<NearArtifact>> {
        if self.context.config.source == PipelineSource::CodeCommit {
            return Ok(None);
        }
        let found = |location: &S3Location, head: &ObjectHead| {
            let commit = identity.commit_of(head)?;
            let previous = PreviousArchive {
                bucket: location.bucket.clone(),
                key: location.key.clone(),
                etag: head.etag.clone(),
                size_bytes: head.size_bytes,
                commit,
                files: artifact::files(head).unwrap_or_default(),
                record: head.metadata.user.get(RECORD).cloned(),
            };
            Some(NearArtifact {
                previous: Arc::new(previous),
                has_same_settings: identity.has_settings_of(head),
            })
        };
        if let Some(previous) = replaced.and_then(|head| found(location, head)) {
            return Ok(Some(previous));
        }
        if self.key.has_commit() {
            for &parent in parents {
                let location = self.location(Some(parent.into()))?;
                let head = self.head(&location).await?;
                if let Some(previous) = head.and_then(|head| found(&location, &head)) {
                    return Ok(Some(previous));
                }
            }
        }
        let default = self.location_of_default_branch().await;
        let default = unless_unavailable(default)?.flatten();
        if let Some(default) = default.filter(|default| default != location) {
            let head = self.head(&default).await?;
            if let Some(previous) = head.and_then(|head| found(&default, &head)) {
                return Ok(Some(previous));
            }
        }
        tracing::info!(
            repository.name = %self.repository(), commit.id = %tip,
            reason = "no artifact of a near commit was found",
            "the archive is made in full"
        );
        Ok(None)
    }

    /// Returns the location of the default branch's artifact; `None` for this branch itself.
    async fn location_of_default_branch(&self) -> Result<Option<S3Location>> {
        let codecommit = &self.context.codecommit;
        let repository = codecommit.get_repository(self.repository()).await?;
        self.context.remember_clone_url(&repository);
        let default = repository.default_branch;
        let default = default.and_then(|name| BranchName::new(&name).ok());
        let Some(branch) = default.filter(|default| default != self.branch()) else {
            return Ok(None);
        };
        let commit = if self.key.has_commit() {
            Some(codecommit.get_branch(self.repository(), &branch).await?)
        } else {
            None
        };
        let origin = self.context.origin();
        let key = self.key.key_of(&TemplateValues {
            repository: self.repository(),
            branch: &branch,
            kind: &RefKind::Branch,
            commit,
            origin: origin.as_ref(),
        })?;
        Ok(Some(S3Location {
            bucket: self.context.location_of(self.task).0.clone(),
            key,
        }))
    }
}

/// Returns `None` for what is missing or may not be read, because it only saves time.
fn unless_unavailable<T>(result: Result<T>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AccessDenied) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
