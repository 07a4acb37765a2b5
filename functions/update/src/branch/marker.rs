//! The marker of a commit, in place of its archive, where the pipeline reads CodeCommit itself.
//!
//! A marker has the key, the identity, the precondition and the tags of an artifact, so that it has
//! the same guarantees: one start for a commit, never an older commit over a newer one, and repair
//! by the schedule.

use branchline_core::git::object::Commit;
use branchline_core::storage::{ObjectMetadata, Precondition, PutOptions};
use branchline_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use serde_json::json;

use super::Attempt;
use crate::artifact::{ArtifactIdentity, Provenance, S3Location};
use crate::request::ArtifactAnswer;

impl Attempt<'_> {
    /// Writes the marker of `commit` to `location`; `pipelines` are the hashes of the pipelines
    /// that it is made for.
    pub(super) async fn write_marker(
        &self,
        commit: &Commit,
        location: &S3Location,
        identity: &ArtifactIdentity,
        precondition: Precondition,
        provenance: Provenance,
        pipelines: Option<&str>,
    ) -> Result<ArtifactAnswer> {
        let content = json!({
            "repository": self.repository().as_str(),
            "branch": self.task.label(),
            "commit": commit.id.to_string(),
        });
        let content = serde_json::to_vec_pretty(&content).map_err(|error| {
            Error::new(ErrorKind::Internal, "the marker cannot be encoded").with_source(error)
        })?;
        let size_bytes = content.len() as u64;
        let options = PutOptions {
            metadata: ObjectMetadata {
                content_type: Some("application/json".to_owned()),
                user: identity.metadata(commit, provenance, pipelines),
                ..ObjectMetadata::default()
            },
            precondition,
            kms_key_id: self.context.config.kms_key_id.clone(),
        };
        let store = &self.context.store;
        let written = store
            .put(
                &location.bucket,
                &location.key,
                Bytes::from(content),
                &options,
            )
            .await?;
        tracing::info!(
            repository.name = %self.repository(),
            branch.name = %self.branch(),
            commit.id = %commit.id,
            artifact.key = %location.key,
            "marker written"
        );
        Ok(ArtifactAnswer {
            bucket: location.bucket.to_string(),
            key: location.key.to_string(),
            version_id: written.version_id.map(String::from),
            etag: written.etag.to_string(),
            size_bytes,
            files: None,
        })
    }
}
