//! The function's own events on the bus of `EVENT_BUS_NAME`.

use branchline_core::Error;
use branchline_core::event_bus::{Announcement, ArchivedArtifact, BranchCommit};
use branchline_core::name::CommitId;

use crate::Context;
use crate::request::{ArtifactAnswer, BranchTask};

fn work(task: &BranchTask, commit: Option<CommitId>) -> BranchCommit {
    BranchCommit {
        repository: task.repository.to_string(),
        branch: task.branch.to_string(),
        commit: commit.map(|commit| commit.to_string()),
    }
}

fn archived(artifact: &ArtifactAnswer) -> ArchivedArtifact {
    ArchivedArtifact {
        bucket: artifact.bucket.clone(),
        key: artifact.key.clone(),
        version_id: artifact.version_id.clone(),
        size_bytes: artifact.size_bytes,
        files: artifact.files,
    }
}

impl Context {
    /// Announces that a commit was archived.
    pub(crate) fn announce_artifact(
        &self,
        task: &BranchTask,
        commit: CommitId,
        artifact: &ArtifactAnswer,
    ) {
        self.outbox.add(|| Announcement::ArtifactArchived {
            work: work(task, Some(commit)),
            artifact: archived(artifact),
        });
    }

    /// Announces that a pipeline was started.
    pub(crate) fn announce_start(
        &self,
        task: &BranchTask,
        commit: CommitId,
        pipeline: &str,
        execution_id: &str,
        artifact: &ArtifactAnswer,
    ) {
        self.outbox.add(|| Announcement::ExecutionStarted {
            work: work(task, Some(commit)),
            pipeline: pipeline.to_owned(),
            execution_id: execution_id.to_owned(),
            artifact: archived(artifact),
        });
    }

    /// Announces that a branch failed whose pipeline was to be started.
    pub(crate) fn announce_failure(&self, task: &BranchTask, error: &Error) {
        let has_pipeline = task.overrides.pipeline.is_some() || self.config.pipeline.is_some();
        if has_pipeline {
            let commit = task.commit;
            self.outbox
                .add(|| Announcement::execution_failed(work(task, commit), error));
        }
    }
}
