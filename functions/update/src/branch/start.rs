//! Starts a pipeline on an artifact.

use branchline_core::metrics::Metric;
use branchline_core::name::{CommitId, PipelineName};
use branchline_core::pipeline::{SourceRevision, StartRequest};
use branchline_core::storage::ObjectStoreExt as _;
use branchline_core::{Error, ErrorKind, Result};
use sha2::{Digest as _, Sha256};

use super::Attempt;
use crate::artifact::{EXECUTION_TAG, PIPELINE_TAG, S3Location};
use crate::config::{MissingPipeline, RevisionPin};
use crate::request::{ArtifactAnswer, BranchAnswer, Outcome};

impl Attempt<'_> {
    /// Starts the pipeline on the artifact, and tags the artifact with the execution's id.
    ///
    /// A retry after a crash between the two starts no second execution, because the request
    /// token depends only on pipeline and artifact.
    pub(super) async fn start(
        &self,
        tip: CommitId,
        pipeline: &PipelineName,
        location: &S3Location,
        artifact: ArtifactAnswer,
    ) -> Result<BranchAnswer> {
        let config = &self.context.config;
        let source = match config.pin_for(self.key) {
            RevisionPin::None => None,
            pin => {
                let Some(version) = artifact.version_id.clone() else {
                    return Err(not_versioned(&location.bucket, pipeline));
                };
                Some(SourceRevision {
                    action_name: config.source_action.clone(),
                    object_key: (pin == RevisionPin::KeyAndVersion).then(|| artifact.key.clone()),
                    object_version_id: Some(version),
                })
            }
        };
        let mut variables = Vec::new();
        if config.variables {
            variables = vec![
                ("REPOSITORY_NAME".to_owned(), self.repository().to_string()),
                ("BRANCH_NAME".to_owned(), self.branch().to_string()),
                ("COMMIT_ID".to_owned(), tip.to_string()),
            ];
        }
        if self.plan.is_some() {
            return Ok(self.done(tip, Outcome::Started, artifact, None));
        }
        let execution = self
            .context
            .pipelines
            .start(&StartRequest {
                pipeline: pipeline.clone(),
                client_request_token: token(pipeline, location, &artifact),
                source,
                variables,
            })
            .await;
        let execution = match execution {
            Ok(execution) => execution,
            Err(error)
                if error.is_pipeline_missing()
                    && config.missing_pipeline == MissingPipeline::Skip =>
            {
                let reason = format!("pipeline `{pipeline}` does not exist");
                return Ok(BranchAnswer {
                    reason: Some(reason),
                    ..self.done(tip, Outcome::Uploaded, artifact, None)
                });
            }
            Err(error) => {
                return Err(error.context(format!("{location} is uploaded but not started")));
            }
        };
        tracing::info!(
            repository.name = %self.repository(), branch.name = %self.branch(), commit.id = %tip,
            pipeline.name = %pipeline, execution.id = execution, "started"
        );
        self.context.metrics.add(Metric::ExecutionsStarted, 1);
        let version = artifact.version_id.as_deref();
        let store = &self.context.store;
        let mut tags = store
            .get_tags(&location.bucket, &location.key, version)
            .await?;
        tags.insert(EXECUTION_TAG.to_owned(), execution.clone());
        tags.insert(PIPELINE_TAG.to_owned(), pipeline.to_string());
        store
            .put_tags(&location.bucket, &location.key, version, &tags)
            .await?;
        Ok(self.done(tip, Outcome::Started, artifact, Some(execution)))
    }
}

/// Returns the error for a pin to a version in a bucket without versions.
pub(crate) fn not_versioned(bucket: &impl std::fmt::Display, pipeline: &PipelineName) -> Error {
    Error::new(
        ErrorKind::Config,
        format!(
            "bucket `{bucket}` keeps no versions, so pipeline `{pipeline}` cannot be pinned to one"
        ),
    )
    .with_hint(
        "enable versioning of the bucket (S3 sources need it), or set `PIPELINE_PIN` to `none`",
    )
}

/// Returns the request token of an execution, which is unique for a pipeline and a version of
/// an object.
fn token(pipeline: &PipelineName, location: &S3Location, artifact: &ArtifactAnswer) -> String {
    let version = artifact.version_id.as_deref().unwrap_or(&artifact.etag);
    let identity = [
        pipeline.as_str(),
        location.bucket.as_str(),
        location.key.as_str(),
        version,
    ];
    hex::encode(Sha256::digest(identity.join("\0")))
}
