//! Starts a pipeline on an artifact.

use branchline_core::metrics::Metric;
use branchline_core::name::{CommitId, PipelineName};
use branchline_core::pipeline::{SourceRevision, StartRequest};
use branchline_core::storage::ObjectStoreExt as _;
use branchline_core::{Error, ErrorKind, Result};
use sha2::{Digest as _, Sha256};

use super::Attempt;
use crate::artifact::S3Location;
use crate::config::{MissingPipeline, PipelineSource, RevisionPin};
use crate::filters::StartTarget;
use crate::request::{ArtifactAnswer, BranchAnswer, Outcome};
use crate::started;

impl Attempt<'_> {
    /// Starts the pipeline on the artifact, and tags the artifact with the execution's id.
    ///
    /// A retry after a crash between the two starts no second execution, because the request
    /// token depends only on pipeline and artifact.
    pub(super) async fn start(
        &self,
        tip: CommitId,
        target: &StartTarget,
        location: &S3Location,
        artifact: ArtifactAnswer,
    ) -> Result<BranchAnswer> {
        let config = &self.context.config;
        let pipeline = &target.pipeline;
        let source = match config.pin_for(self.key) {
            _ if config.source == PipelineSource::CodeCommit => Some(SourceRevision {
                action_name: target.source_action.clone(),
                commit_id: Some(tip.to_string()),
                ..SourceRevision::default()
            }),
            RevisionPin::None => None,
            pin => {
                let Some(version) = artifact.version_id.clone() else {
                    return Err(not_versioned(&location.bucket, pipeline));
                };
                Some(SourceRevision {
                    action_name: target.source_action.clone(),
                    object_key: (pin == RevisionPin::KeyAndVersion).then(|| artifact.key.clone()),
                    object_version_id: Some(version),
                    commit_id: None,
                })
            }
        };
        if self.plan.is_some() {
            return Ok(self.answer_with_artifact(tip, Outcome::Started, artifact, None));
        }
        let variables = self.variables(tip).await?;
        let request = StartRequest {
            pipeline: pipeline.clone(),
            client_request_token: token(target, location, &artifact, self.task.again),
            source,
            variables,
        };
        let start = self.context.pipelines.start(&request);
        let check = self.check_pipeline(target, location);
        let (execution, _) = futures_util::future::join(start, check).await;
        let execution = match execution {
            Ok(execution) => execution,
            Err(error)
                if error.is_pipeline_missing()
                    && config.missing_pipeline == MissingPipeline::Skip =>
            {
                let reason = format!("pipeline `{pipeline}` does not exist");
                return Ok(BranchAnswer {
                    reason: Some(reason),
                    ..self.answer_with_artifact(tip, Outcome::Uploaded, artifact, None)
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
        let context = self.context;
        context.announce_start(self.task, tip, pipeline.as_str(), &execution, &artifact);
        let version = artifact.version_id.as_deref();
        let store = &self.context.store;
        let mut tags = store
            .get_tags(&location.bucket, &location.key, version)
            .await?;
        started::record_execution(&mut tags, target, &execution)?;
        store
            .put_tags(&location.bucket, &location.key, version, &tags)
            .await?;
        let again = self.task.again.then(|| STARTED_AGAIN.to_owned());
        Ok(BranchAnswer {
            reason: again,
            ..self.answer_with_artifact(tip, Outcome::Started, artifact, Some(execution))
        })
    }
}

/// Reason in the answer of an artifact whose pipeline is started once more.
const STARTED_AGAIN: &str = "started once more, as `again` asks for";

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
/// an object; with `again`, for this start alone.
fn token(
    target: &StartTarget,
    location: &S3Location,
    artifact: &ArtifactAnswer,
    again: bool,
) -> String {
    let version = artifact.version_id.as_deref().unwrap_or(&artifact.etag);
    let identity = [
        target.tag_name.as_str(),
        location.bucket.as_str(),
        location.key.as_str(),
        version,
    ];
    let mut digest = Sha256::new_with_prefix(identity.join("\0"));
    if again {
        digest.update(rand::random::<[u8; 16]>());
    }
    hex::encode(digest.finalize())
}
