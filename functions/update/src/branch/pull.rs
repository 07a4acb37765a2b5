//! Pull requests: the source commit is archived while one is open, and its artifact deleted at the
//! end.

use branchline_core::codecommit::PullRequestTarget;
use branchline_core::filter::PullRequestEvent;
use branchline_core::name::{CommitId, PullRequestId, RefName};
use branchline_core::storage::{ObjectHead, ObjectStoreExt as _, Precondition};
use branchline_core::{ErrorKind, Result};

use super::chosen::{Choice, start_or_skip};
use super::read_ahead::ReadCommit;
use super::{Attempt, AttemptOutcome, answer};
use crate::artifact::{ArtifactIdentity, S3Location};
use crate::filters::{Candidate, PipelineFilters};
use crate::key_template::TemplateValues;
use crate::request::Outcome;

/// State of a pull request when an attempt read it.
#[derive(Debug)]
pub(super) struct PullState {
    pub(super) is_open: bool,
    pub(super) target: PullRequestTarget,
}

impl<'a> Attempt<'a> {
    /// Reads the pull request, and returns its source commit; `None` for a missing one.
    pub(super) async fn pull_request_tip(&self, id: &PullRequestId) -> Result<Option<CommitId>> {
        let pull = match self.context.codecommit.get_pull_request(id).await {
            Ok(pull) => pull,
            Err(error) if error.is_pull_request_missing() => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(target) = pull.target_in(self.repository()).cloned() else {
            return Ok(None);
        };
        let commit = target.source_commit;
        let state = PullState {
            is_open: pull.is_open,
            target,
        };
        // The first state counts, because an attempt decides by one state.
        let _ = self.pull.set(state);
        Ok(Some(commit))
    }

    /// Returns whether the task is of a pull request that was merged or closed.
    pub(super) fn is_closed_pull_request(&self) -> bool {
        self.pull.get().is_some_and(|pull| !pull.is_open)
    }

    /// Returns the event of the pull request: the one that the event names, as far as the state
    /// agrees.
    fn pull_request_event(&self) -> Option<PullRequestEvent> {
        let named = self.task.kind.pull_request_event()?;
        match self.pull.get() {
            Some(pull) if !pull.is_open => Some(PullRequestEvent::Closed),
            _ if named == PullRequestEvent::Closed => Some(PullRequestEvent::Updated),
            _ => Some(named),
        }
    }

    /// Returns the pipelines that the event of the pull request can start.
    pub(super) fn candidates_of_event<'f>(
        &self,
        filters: &'f PipelineFilters,
        tip: CommitId,
    ) -> Result<Vec<Candidate<'f>>> {
        let event = self.pull_request_event();
        let mut candidates = self.candidates_of_any(filters, tip, event)?;
        if event == Some(PullRequestEvent::Closed) {
            for candidate in &mut candidates {
                candidate.target = candidate.target.at_end();
            }
        }
        Ok(candidates)
    }

    fn candidates_of_any<'f>(
        &self,
        filters: &'f PipelineFilters,
        tip: CommitId,
        event: Option<PullRequestEvent>,
    ) -> Result<Vec<Candidate<'f>>> {
        let Some(pull) = self.pull.get() else {
            return Ok(Vec::new());
        };
        let origin = self.context.origin();
        let values = TemplateValues {
            repository: self.repository(),
            branch: self.branch(),
            kind: &self.task.kind,
            commit: Some(tip),
            origin: origin.as_ref(),
        };
        let destination = short_name(&pull.target.destination);
        filters.candidates_of_pull_request(&values, &destination, event)
    }

    /// Chooses the pipelines of a pull request by all that it changes. While it is open, it is
    /// archived also for a later event that can start a pipeline.
    pub(super) async fn choose_for_pull_request(
        &self,
        filters: &PipelineFilters,
        tip: CommitId,
    ) -> Result<Choice> {
        let candidates = self.candidates_of_event(filters, tip)?;
        let (chosen, base) = self.choose_by_changes(tip, candidates).await?;
        if !chosen.is_empty() || self.is_closed_pull_request() {
            return Ok(start_or_skip(chosen, base));
        }
        let candidates = self.candidates_of_any(filters, tip, None)?;
        let (later, base) = self.choose_by_changes(tip, candidates).await?;
        if later.is_empty() {
            return Ok(start_or_skip(later, base));
        }
        Ok(Choice::Start(Vec::new()))
    }

    /// Finishes a pull request that was merged or closed: starts the pipelines that wait for its
    /// end, and deletes its artifact. One without an artifact was finished before.
    pub(super) async fn finish_pull_request(
        &self,
        tip: CommitId,
        location: &S3Location,
        identity: &ArtifactIdentity,
        found: Option<&ObjectHead>,
        read: Option<ReadCommit<'a>>,
    ) -> Result<AttemptOutcome> {
        let Some(head) = found.filter(|head| identity.is_of_branch(head)) else {
            let why = Some("the pull request is closed, and has no artifact");
            return Ok(answer(self.task, Some(tip), Outcome::Skipped, why).into());
        };
        let mut done = if identity.matches(head) && self.has_needed_version(head) {
            self.ensure_started(tip, location, head).await?
        } else {
            match self.rebuild(tip, location, identity, found, read).await? {
                AttemptOutcome::Answer(answer) => *answer,
                AttemptOutcome::TipMovedBack => return Ok(AttemptOutcome::TipMovedBack),
            }
        };
        if self.plan.is_none()
            && let Some(head) = self.head(location).await?
        {
            self.delete_artifact(location, &head).await?;
        }
        if done.outcome == Outcome::Started {
            done.reason = Some("the pull request is closed, and its artifact deleted".to_owned());
        } else {
            done.outcome = Outcome::Deleted;
            done.reason = Some("the pull request is closed".to_owned());
        }
        Ok(done.into())
    }

    async fn delete_artifact(&self, location: &S3Location, head: &ObjectHead) -> Result<()> {
        let store = &self.context.store;
        let precondition = Precondition::Matches(head.etag.clone());
        let deleted = store.delete(&location.bucket, &location.key, &precondition);
        deleted.await.map_err(|error| {
            if error.kind() == ErrorKind::AccessDenied {
                return error.with_hint("grant `s3:DeleteObject` on the keys of pull requests");
            }
            error
        })
    }
}

/// Returns a branch's short name.
pub(super) fn short_name(name: &RefName) -> String {
    let name = name.as_str();
    name.strip_prefix("refs/heads/").unwrap_or(name).to_owned()
}
