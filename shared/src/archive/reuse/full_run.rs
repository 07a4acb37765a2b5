//! Reasons for which an archive is made in full.

use std::borrow::Cow;

use crate::error::{Error, ErrorKind};
use crate::name::{CommitId, RepositoryName};

/// Reason for which nothing of the previous archive is reused.
#[derive(Debug)]
pub(in crate::archive) struct FullRun {
    reason: Cow<'static, str>,
    source: Option<Error>,
}

/// End of an attempt to reuse the previous archive.
#[derive(Debug)]
pub(in crate::archive) enum Stop {
    /// The archive is made in full.
    FullRun(FullRun),
    /// The archive cannot be made.
    Failed(Error),
}

impl FullRun {
    /// Makes a reason from a clause such as "more than half of the files changed".
    pub(super) fn because(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: reason.into(),
            source: None,
        }
    }

    /// Makes a reason from a failure.
    pub(super) fn after(reason: &'static str, error: Error) -> Self {
        Self {
            reason: reason.into(),
            source: Some(error),
        }
    }

    /// Logs the reason. A failure is a warning, because the cause may be a missing permission.
    pub(in crate::archive) fn log(&self, repository: &RepositoryName, commit: CommitId) {
        if let Some(error) = &self.source {
            tracing::warn!(
                repository.name = %repository, commit.id = %commit,
                reason = %self.reason, error = error.report(),
                "the archive is made in full"
            );
        } else {
            tracing::info!(
                repository.name = %repository, commit.id = %commit,
                reason = %self.reason,
                "the archive is made in full"
            );
        }
    }
}

impl Stop {
    /// Returns the end after a failed request to CodeCommit. A full run makes many more
    /// requests, so it is not attempted while the service throttles or is not reached.
    pub(super) fn after(reason: &'static str, error: Error) -> Self {
        match error.kind() {
            ErrorKind::Throttled | ErrorKind::Transport | ErrorKind::Deadline => {
                Self::Failed(error)
            }
            _ => Self::FullRun(FullRun::after(reason, error)),
        }
    }
}

impl From<FullRun> for Stop {
    fn from(reason: FullRun) -> Self {
        Self::FullRun(reason)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl std::fmt::Display for FullRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)?;
        match &self.source {
            Some(error) => write!(f, ": {error}"),
            None => Ok(()),
        }
    }
}

/// A previous archive that differs from what it is recorded to be.
pub(super) fn damaged(defect: impl std::fmt::Display) -> FullRun {
    FullRun::because(format!("the previous archive is damaged: {defect}"))
}
