//! One branch: from its tip to an artifact of it and a pipeline execution on exactly that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use branchline_core::archive::large_files_over_git::GitLargeFiles;
use branchline_core::archive::{self, ArchiveDestination, ArchiveRequest, ExtraFile, LargeFiles};
use branchline_core::codecommit::Commit;
use branchline_core::metrics::Metric;
use branchline_core::name::{BranchName, BucketName, CommitId, PipelineName, RepositoryName};
use branchline_core::pipeline::{SourceRevision, StartRequest};
use branchline_core::remote::SpoolConfig;
use branchline_core::storage::{
    ObjectHead, ObjectMetadata, ObjectStoreExt as _, Precondition, PutOptions,
};
use branchline_core::{Error, ErrorKind, Result};
use sha2::{Digest as _, Sha256};

use crate::Context;
use crate::artifact::{self, ArtifactIdentity, EXECUTION_TAG, PIPELINE_TAG, S3Location};
use crate::config::{KeyTemplate, RevisionPin};
use crate::request::{ArtifactAnswer, BranchAnswer, BranchTask, Outcome, Requester};

/// How often an artifact that someone else writes at the same time is looked at anew.
const MAX_CONFLICTS: u32 = 5;

/// Time to give up in order, kept free before the function's deadline.
const MARGIN: Duration = Duration::from_secs(5);

/// Makes the branch's artifact its tip, and starts the pipeline on it, once.
///
/// Looks at what is there first, so that it may run at any time, twice, or again after a
/// crash at any point.
pub(crate) async fn update_branch(
    context: &Context,
    task: &BranchTask,
    deadline: Instant,
) -> Result<BranchAnswer> {
    let repository = &task.repository;
    let branch = &task.branch;
    if !context.config.branches.matches(branch) {
        let why = "the branch does not match `BRANCHES_INCLUDE` and `BRANCHES_EXCLUDE`";
        return Ok(answer(task, task.commit, Outcome::Skipped, Some(why)));
    }
    let mut tries = 0;
    let mut expected = task.commit;
    loop {
        let result = Attempt::new(context, task, expected, deadline).run().await;
        tries += 1;
        match result {
            // Nobody else will look: its event found the artifact as it was before.
            Ok(AttemptOutcome::WentBack) if tries < MAX_CONFLICTS => expected = None,
            Ok(AttemptOutcome::WentBack) => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("branch `{branch}` of repository `{repository}` moves to and fro"),
                ));
            }
            Err(error) if error.kind() == ErrorKind::Conflict && tries < MAX_CONFLICTS => {
                tracing::info!(
                    repository.name = %repository, branch.name = %branch, tries,
                    "another writer was faster; looking again"
                );
            }
            Err(error) => {
                return Err(
                    error.context(format!("branch `{branch}` of repository `{repository}`"))
                );
            }
            Ok(AttemptOutcome::Answer(answer)) => return Ok(*answer),
        }
    }
}

/// Bucket and key of a branch's artifacts, `{commit}` left in place.
pub(crate) fn artifact_location(context: &Context, task: &BranchTask) -> (BucketName, String) {
    let overrides = &task.overrides;
    let bucket = overrides.bucket.as_ref().unwrap_or(&context.config.bucket);
    let key = overrides.key.as_ref().unwrap_or(&context.config.key);
    (
        bucket.clone(),
        key.pattern_of(&task.repository, &task.branch),
    )
}

/// What one look ended with.
enum AttemptOutcome {
    Answer(Box<BranchAnswer>),
    /// The tip is the commit again whose artifact was just replaced.
    WentBack,
}

impl From<BranchAnswer> for AttemptOutcome {
    fn from(answer: BranchAnswer) -> Self {
        Self::Answer(Box::new(answer))
    }
}

fn answer(
    task: &BranchTask,
    commit: Option<CommitId>,
    outcome: Outcome,
    reason: Option<&str>,
) -> BranchAnswer {
    BranchAnswer {
        repository: task.repository.clone(),
        branch: task.branch.to_string(),
        commit,
        outcome,
        reason: reason.map(str::to_owned),
        artifact: None,
        execution_id: None,
    }
}

/// One look at the branch and its artifact, and what follows from it.
struct Attempt<'a> {
    context: &'a Context,
    task: &'a BranchTask,
    // The commit that must be the tip.
    expected: Option<CommitId>,
    deadline: Instant,
    key: &'a KeyTemplate,
    pipeline: Option<&'a KeyTemplate>,
}

impl<'a> Attempt<'a> {
    fn new(
        context: &'a Context,
        task: &'a BranchTask,
        expected: Option<CommitId>,
        deadline: Instant,
    ) -> Self {
        Self {
            context,
            task,
            expected,
            deadline: deadline.checked_sub(MARGIN).unwrap_or(deadline),
            key: task.overrides.key.as_ref().unwrap_or(&context.config.key),
            pipeline: task
                .overrides
                .pipeline
                .as_ref()
                .or(context.config.pipeline.as_ref()),
        }
    }

    fn repository(&self) -> &'a RepositoryName {
        &self.task.repository
    }

    fn branch(&self) -> &'a BranchName {
        &self.task.branch
    }

    async fn run(&self) -> Result<AttemptOutcome> {
        self.check_time()?;
        // The artifact is read before the tip: what lies there then is of this tip or of
        // an earlier one, so writing over exactly that never replaces a newer commit.
        let mut found = None;
        if !self.key.has_commit() {
            let place = self.place(None)?;
            found = self.context.store.head(&place.bucket, &place.key).await?;
        }
        let tip = match self
            .context
            .codecommit
            .get_branch(self.repository(), self.branch())
            .await
        {
            Ok(tip) => tip,
            Err(error) if error.is_branch_missing() && self.task.asked != Requester::ByHand => {
                return Ok(answer(
                    self.task,
                    None,
                    Outcome::Skipped,
                    Some("the branch is gone"),
                )
                .into());
            }
            Err(error) => return Err(error),
        };
        if let Some(expected) = self.expected.filter(|expected| *expected != tip) {
            let reason = format!("the tip is {tip} by now");
            return Ok(answer(
                self.task,
                Some(expected),
                Outcome::Superseded,
                Some(&reason),
            )
            .into());
        }
        let place = self.place(Some(tip))?;
        if self.key.has_commit() {
            found = self.context.store.head(&place.bucket, &place.key).await?;
        }
        let config = &self.context.config;
        let origin = ArtifactIdentity::new(config, self.key, self.repository(), self.branch(), tip);
        match found {
            Some(head) if origin.matches(&head) => self
                .ensure_started(tip, &place, &head)
                .await
                .map(AttemptOutcome::from),
            found => self.rebuild(tip, &place, &origin, found.as_ref()).await,
        }
    }

    fn place(&self, commit: Option<CommitId>) -> Result<S3Location> {
        let config = &self.context.config;
        Ok(S3Location {
            bucket: self
                .task
                .overrides
                .bucket
                .as_ref()
                .unwrap_or(&config.bucket)
                .clone(),
            key: self.key.key_of(self.repository(), self.branch(), commit)?,
        })
    }

    fn check_time(&self) -> Result<()> {
        if Instant::now() < self.deadline {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Deadline,
            "no time is left before the function's deadline",
        )
        .with_hint("raise the function's timeout or its memory"))
    }

    /// The artifact is the tip already: makes sure that its execution was started.
    async fn ensure_started(
        &self,
        tip: CommitId,
        place: &S3Location,
        head: &ObjectHead,
    ) -> Result<BranchAnswer> {
        let artifact = ArtifactAnswer {
            bucket: place.bucket.to_string(),
            key: place.key.to_string(),
            version_id: head.version_id.clone().map(String::from),
            etag: head.etag.to_string(),
            size_bytes: head.size_bytes,
            files: artifact::files(head),
        };
        let Some(pipeline) = self.pipeline(tip)? else {
            return Ok(self.done(tip, Outcome::Unchanged, artifact, None));
        };
        let store = &self.context.store;
        let tags = store
            .get_tags(&place.bucket, &place.key, head.version_id.as_deref())
            .await?;
        match (tags.get(EXECUTION_TAG), tags.get(PIPELINE_TAG)) {
            (Some(id), of)
                if self.task.asked == Requester::BySchedule
                    || of.is_some_and(|of| of == pipeline.as_str()) =>
            {
                let id = id.clone();
                Ok(self.done(tip, Outcome::Unchanged, artifact, Some(id)))
            }
            _ => self.start(tip, &pipeline, place, artifact).await,
        }
    }

    /// Archives the tip in place of what was found, and starts its execution.
    async fn rebuild(
        &self,
        tip: CommitId,
        place: &S3Location,
        origin: &ArtifactIdentity,
        found: Option<&ObjectHead>,
    ) -> Result<AttemptOutcome> {
        let pipeline = self.pipeline(tip)?;
        let versions = async {
            match &pipeline {
                Some(pipeline) if self.context.config.pin_for(self.key) != RevisionPin::None => {
                    self.context.require_versions(&place.bucket, pipeline).await
                }
                _ => Ok(()),
            }
        };
        // Neither needs the other's answer.
        let commit = self.context.codecommit.get_commit(self.repository(), tip);
        let ((), commit) = futures_util::try_join!(versions, commit)?;
        let _slot = self.context.build_slot.acquire().await;
        self.check_time()?;
        let precondition = match found {
            Some(head) => Precondition::Matches(head.etag.clone()),
            None => Precondition::Absent,
        };
        let artifact = self.build(&commit, place, origin, precondition).await?;
        if let Some(replaced) = found.and_then(|head| origin.previous_commit(head))
            && self.is_tip(replaced).await?
        {
            return Ok(AttemptOutcome::WentBack);
        }
        match pipeline {
            Some(pipeline) => self.start(tip, &pipeline, place, artifact).await,
            None => Ok(self.done(tip, Outcome::Uploaded, artifact, None)),
        }
        .map(AttemptOutcome::from)
    }

    /// Whether the branch is at `commit` now. Equal bytes have equal entity tags, so the
    /// precondition holds when the branch went on and back meanwhile.
    async fn is_tip(&self, commit: CommitId) -> Result<bool> {
        let codecommit = &self.context.codecommit;
        match codecommit
            .get_branch(self.repository(), self.branch())
            .await
        {
            Ok(tip) => Ok(tip == commit),
            Err(error) if error.is_branch_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn build(
        &self,
        commit: &Commit,
        place: &S3Location,
        origin: &ArtifactIdentity,
        precondition: Precondition,
    ) -> Result<ArtifactAnswer> {
        let context = self.context;
        let config = &context.config;
        let mut extra_files = Vec::new();
        if config.commit_info {
            extra_files.push(commit_info(commit, self.repository(), self.branch())?);
        }
        let request = ArchiveRequest {
            prefix: config.prefix.clone(),
            extra_files,
            concurrency: config.concurrency as usize,
            deadline: Some(self.deadline),
            large_files: self.large_files(commit, place)?,
            ..ArchiveRequest::new(self.repository().clone(), commit.clone())
        };
        let target = ArchiveDestination {
            bucket: place.bucket.clone(),
            key: place.key.clone(),
            options: PutOptions {
                metadata: ObjectMetadata {
                    content_type: Some("application/zip".to_owned()),
                    user: origin.metadata(commit),
                    ..ObjectMetadata::default()
                },
                precondition,
                kms_key_id: config.kms_key_id.clone(),
            },
            files_metadata: Some(artifact::FILES.to_owned()),
        };
        let begin = Instant::now();
        let built = archive::build(&*context.codecommit, &context.store, &request, &target).await?;
        let summary = built.summary;
        let duration_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        context.metrics.add(Metric::Archives, 1);
        context
            .metrics
            .add(Metric::ArchiveBytes, summary.size_bytes);
        context.metrics.add(Metric::ArchiveDuration, duration_ms);
        tracing::info!(
            repository.name = %self.repository(),
            branch.name = %self.branch(),
            commit.id = %commit.commit_id,
            artifact.key = %place.key,
            artifact.version_id = built.written.version_id.as_deref(),
            size_bytes = summary.size_bytes,
            files = summary.files,
            requests = summary.requests,
            held_bytes = summary.peak_held_bytes,
            duration_ms,
            "archived"
        );
        Ok(ArtifactAnswer {
            bucket: place.bucket.to_string(),
            key: place.key.to_string(),
            version_id: built.written.version_id.map(String::from),
            etag: built.written.etag.to_string(),
            size_bytes: summary.size_bytes,
            files: Some(summary.files),
        })
    }

    /// Where files are read that the API refuses: by git, through an object beside the
    /// artifact where they do not fit into memory.
    fn large_files(
        &self,
        commit: &Commit,
        place: &S3Location,
    ) -> Result<Option<Arc<dyn LargeFiles>>> {
        let Some(git) = &self.context.git else {
            return Ok(None);
        };
        let staged = SpoolConfig {
            store: Arc::clone(&self.context.store),
            bucket: place.bucket.clone(),
            key: place.temporary_key()?,
            options: PutOptions {
                kms_key_id: self.context.config.kms_key_id.clone(),
                ..PutOptions::default()
            },
        };
        let repository = self.repository().clone();
        let files = GitLargeFiles::new(git.clone(), repository, commit.commit_id, staged);
        Ok(Some(Arc::new(files)))
    }

    fn pipeline(&self, tip: CommitId) -> Result<Option<PipelineName>> {
        let name =
            |template: &KeyTemplate| template.pipeline_name(self.repository(), self.branch(), tip);
        self.pipeline.map(name).transpose()
    }

    /// Starts the pipeline on the artifact, and writes the execution's id to it.
    ///
    /// A crash in between is healed by the token: the same artifact starts the same
    /// execution.
    async fn start(
        &self,
        tip: CommitId,
        pipeline: &PipelineName,
        place: &S3Location,
        artifact: ArtifactAnswer,
    ) -> Result<BranchAnswer> {
        let config = &self.context.config;
        let source = match config.pin_for(self.key) {
            RevisionPin::None => None,
            pin => {
                let Some(version) = artifact.version_id.clone() else {
                    return Err(not_versioned(&place.bucket, pipeline));
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
        let execution = self
            .context
            .pipelines
            .start(&StartRequest {
                pipeline: pipeline.clone(),
                client_request_token: token(pipeline, place, &artifact),
                source,
                variables,
            })
            .await
            .map_err(|error| error.context(format!("{place} is uploaded but not started")))?;
        tracing::info!(
            repository.name = %self.repository(), branch.name = %self.branch(), commit.id = %tip,
            pipeline.name = %pipeline, execution.id = execution, "started"
        );
        self.context.metrics.add(Metric::ExecutionsStarted, 1);
        let version = artifact.version_id.as_deref();
        let store = &self.context.store;
        let mut tags = store.get_tags(&place.bucket, &place.key, version).await?;
        tags.insert(EXECUTION_TAG.to_owned(), execution.clone());
        tags.insert(PIPELINE_TAG.to_owned(), pipeline.to_string());
        store
            .put_tags(&place.bucket, &place.key, version, &tags)
            .await?;
        Ok(self.done(tip, Outcome::Started, artifact, Some(execution)))
    }

    fn done(
        &self,
        tip: CommitId,
        outcome: Outcome,
        artifact: ArtifactAnswer,
        execution_id: Option<String>,
    ) -> BranchAnswer {
        BranchAnswer {
            artifact: Some(artifact),
            execution_id,
            ..answer(self.task, Some(tip), outcome, None)
        }
    }
}

/// The path of the file that `ARCHIVE_COMMIT_INFO` adds.
const COMMIT_INFO: &str = "commit_info.json";

/// The commit as `GetCommit` answers it, with `branchName` and `RepositoryName`.
fn commit_info(
    commit: &Commit,
    repository: &RepositoryName,
    branch: &BranchName,
) -> Result<ExtraFile> {
    let broken = |error| Error::new(ErrorKind::Internal, "the commit as JSON").with_source(error);
    let mut info = serde_json::to_value(commit).map_err(broken)?;
    info["branchName"] = branch.as_str().into();
    info["RepositoryName"] = repository.as_str().into();
    let mut bytes = serde_json::to_vec_pretty(&info).map_err(broken)?;
    bytes.push(b'\n');
    Ok(ExtraFile {
        path: COMMIT_INFO.to_owned(),
        bytes: bytes.into(),
    })
}

/// That a pin is asked for where there are no versions to pin to.
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

/// The request token of an artifact's execution: the same for the same pipeline and the
/// same version of the same object, and for nothing else.
fn token(pipeline: &PipelineName, place: &S3Location, artifact: &ArtifactAnswer) -> String {
    let version = artifact.version_id.as_deref().unwrap_or(&artifact.etag);
    let identity = [
        pipeline.as_str(),
        place.bucket.as_str(),
        place.key.as_str(),
        version,
    ];
    hex::encode(Sha256::digest(identity.join("\0")))
}
