//! Chooses the pipelines of a branch by the filters of `TRIGGERS`, and starts each once.
//!
//! A change is compared with the commit of the branch's artifact, or with a later one up to which
//! nothing matched: the artifact's tag `branchline-compared`. Pipelines that the artifact was made
//! for, and that were not started on it, stay due. So every change since the last start of each
//! pipeline counts, whatever events were lost.

use branchline_core::codecommit::Page;
use branchline_core::filter::PathMatch;
use branchline_core::name::{BranchName, CommitId};
use branchline_core::storage::{ObjectHead, ObjectStoreExt as _, Tags};
use branchline_core::{Error, ErrorKind, Result};

use super::Attempt;
use crate::artifact::{self, ArtifactIdentity, EXECUTION_TAG, S3Location};
use crate::config::ExistingBranches;
use crate::existing;
use crate::filters::{Candidate, PipelineFilters, StartTarget};
use crate::key_template::TemplateValues;
use crate::request::{ArtifactAnswer, BranchAnswer, ExecutionAnswer, Outcome, Requester};
use crate::started;

/// Maximum number of requests for the paths of one push.
const MAX_REQUESTS: usize = 3;

/// Reason in the answer of a change that is compared with nothing.
const NO_FILTER_MATCHES: &str = "no filter of `TRIGGERS` matches";

/// Pipelines of a change.
pub(super) enum Choice {
    /// These are to be started, or were already.
    Start(Vec<StartTarget>),
    /// None is to be started, for this reason.
    Skip(String),
}

impl Attempt<'_> {
    /// Returns the filters that choose pipelines; `None` where a name chooses one.
    pub(super) fn filters(&self) -> Option<&PipelineFilters> {
        let filters = self.context.config.triggers.as_ref();
        filters.filter(|_| self.task.overrides.pipeline.is_none())
    }

    /// Returns the pipelines that a push to the branch can start.
    pub(super) fn candidates<'f>(
        &self,
        filters: &'f PipelineFilters,
        tip: CommitId,
    ) -> Result<Vec<Candidate<'f>>> {
        if self.pull.get().is_some() {
            return self.candidates_of_event(filters, tip);
        }
        let origin = self.context.origin();
        filters.candidates_of_ref(&TemplateValues {
            repository: self.repository(),
            branch: self.branch(),
            kind: &self.task.kind,
            commit: Some(tip),
            origin: origin.as_ref(),
        })
    }

    /// Chooses the pipelines of `tip`, whose artifact is to replace `found`.
    pub(super) async fn choose_targets(
        &self,
        filters: &PipelineFilters,
        tip: CommitId,
        location: &S3Location,
        identity: &ArtifactIdentity,
        found: Option<&ObjectHead>,
    ) -> Result<Choice> {
        if self.pull.get().is_some() {
            return self.choose_for_pull_request(filters, tip).await;
        }
        let mut candidates = self.candidates(filters, tip)?;
        if self.task.requester == Requester::ByHand {
            return Ok(Choice::Start(targets(candidates)));
        }
        let Some(head) = found.filter(|head| identity.is_of_branch(head)) else {
            let (chosen, before) = self.choose_by_changes(tip, candidates).await?;
            return Ok(start_or_skip(chosen, before));
        };
        let (mut chosen, undecided) = take_targets(&mut candidates, |candidate| {
            candidate.paths == PathMatch::Always
        });
        candidates = undecided;
        if candidates.is_empty() {
            return Ok(Choice::Start(chosen));
        }
        let mut tags = self.tags(location, head).await?;
        let started = started::started_pipelines(&tags);
        // What the artifact was made for and was not started on is still due; after a change of
        // settings alone, all that it was made for.
        let has_moved = identity.previous_commit(head).is_some();
        let (due, mut undecided) = take_targets(&mut candidates, |candidate| {
            started::is_made_for(head, &tags, &candidate.target)
                && !(has_moved && started.contains(candidate.target.tag_name.as_str()))
        });
        chosen.extend(due);
        let compared = started::compared_commit(&tags, filters.digest());
        let Some(before) = compared.or_else(|| identity.commit_of(head)) else {
            chosen.extend(targets(undecided));
            return Ok(Choice::Start(chosen));
        };
        let mut requests = 1;
        if before != tip {
            self.match_paths(before, tip, &mut undecided, &mut chosen, &mut requests)
                .await?;
        }
        if chosen.is_empty()
            && compared != Some(tip)
            && self.plan.is_none()
            && requests < MAX_REQUESTS
        {
            started::set_compared_commit(&mut tags, tip, filters.digest());
            self.put_tags(location, head, &tags).await?;
        }
        Ok(start_or_skip(chosen, identity.commit_of(head)))
    }

    /// Chooses the pipelines of a ref without an artifact by its changes since the merge base with
    /// the default branch, or with the pull request's destination; chooses all where the merge base
    /// is not known. Returns also the commit that was compared with.
    pub(super) async fn choose_by_changes(
        &self,
        tip: CommitId,
        mut candidates: Vec<Candidate<'_>>,
    ) -> Result<(Vec<StartTarget>, Option<CommitId>)> {
        let (mut chosen, mut undecided) = take_targets(&mut candidates, |candidate| {
            candidate.paths == PathMatch::Always
        });
        if undecided.is_empty() {
            return Ok((chosen, None));
        }
        let (base, mut requests) = match self.pull.get() {
            Some(pull) => (pull.target.merge_base, 0),
            // The default branch and the merge base.
            None => (self.merge_base(tip).await?, 2),
        };
        match base {
            Some(base) if base == tip => {}
            Some(base) => {
                self.match_paths(base, tip, &mut undecided, &mut chosen, &mut requests)
                    .await?;
            }
            None => chosen.extend(targets(undecided)),
        }
        Ok((chosen, base))
    }

    /// Returns the commit at which the branch left the default branch.
    async fn merge_base(&self, tip: CommitId) -> Result<Option<CommitId>> {
        let codecommit = &self.context.codecommit;
        let repository = codecommit.get_repository(self.repository()).await?;
        let default = repository.default_branch;
        let default = default.and_then(|name| BranchName::new(&name).ok());
        let Some(default) = default.filter(|default| default != self.branch()) else {
            return Ok(None);
        };
        let base = codecommit.get_merge_base(self.repository(), tip, &default);
        match base.await {
            Ok(base) => Ok(base),
            Err(error) if matches!(error.kind(), ErrorKind::AccessDenied | ErrorKind::NotFound) => {
                tracing::warn!(
                    repository.name = %self.repository(), branch.name = %self.branch(),
                    error = %error.report(),
                    "the merge base is not known; every pipeline of the new branch is started"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Moves the candidates that accept a changed path to `chosen`; all of them where the change
    /// has more pages than requests are left.
    async fn match_paths(
        &self,
        before: CommitId,
        tip: CommitId,
        candidates: &mut Vec<Candidate<'_>>,
        chosen: &mut Vec<StartTarget>,
        requests: &mut usize,
    ) -> Result<()> {
        let mut next: Option<String> = None;
        while !candidates.is_empty() {
            if *requests >= MAX_REQUESTS {
                tracing::info!(
                    repository.name = %self.repository(), branch.name = %self.branch(),
                    commit.id = %tip,
                    "the change has more files than are compared; its pipelines are started"
                );
                chosen.extend(targets(std::mem::take(candidates)));
                return Ok(());
            }
            *requests += 1;
            let codecommit = &self.context.codecommit;
            let page = codecommit
                .get_differences(self.repository(), before, tip, next.as_deref())
                .await;
            let Page { items, next: token } = match page {
                Ok(page) => page,
                // After a forced push, the old commit may be gone.
                Err(error) if error.is_commit_missing() => {
                    chosen.extend(targets(std::mem::take(candidates)));
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let sides = items.iter().flat_map(|item| [&item.before, &item.after]);
            let paths: Vec<&str> = sides.flatten().map(|side| side.path.as_str()).collect();
            let (matching, undecided) = take_targets(candidates, |candidate| {
                paths.iter().any(|path| candidate.paths.accepts(path))
            });
            chosen.extend(matching);
            *candidates = undecided;
            next = match token {
                Some(token) if next.as_deref() != Some(token.as_str()) => Some(token),
                _ => return Ok(()),
            };
        }
        Ok(())
    }

    /// The artifact is current: ensures that each pipeline that it was made for was started.
    pub(super) async fn ensure_chosen(
        &self,
        filters: &PipelineFilters,
        tip: CommitId,
        location: &S3Location,
        head: &ObjectHead,
        artifact: ArtifactAnswer,
    ) -> Result<BranchAnswer> {
        let mut tags = self.tags(location, head).await?;
        let is_existing = artifact::is_existing(head) && !tags.contains_key(artifact::PIPELINES);
        let names_branch = existing::names_branch(self.task.requester);
        if is_existing
            && !names_branch
            && self.context.config.existing_branches != ExistingBranches::Start
        {
            return Ok(BranchAnswer {
                reason: Some(existing::not_started(&self.task.kind)),
                ..self.answer_with_artifact(tip, Outcome::Unchanged, artifact, None)
            });
        }
        let by_hand = self.task.requester == Requester::ByHand;
        let mut candidates = self.candidates(filters, tip)?;
        let (mut chosen, undecided) = take_targets(&mut candidates, |candidate| {
            let is_always = candidate.paths == PathMatch::Always;
            by_hand
                || (is_always && (names_branch || is_existing))
                || started::is_made_for(head, &tags, &candidate.target)
        });
        if is_existing || self.is_closed_pull_request() {
            chosen.extend(self.choose_by_changes(tip, undecided).await?.0);
        }
        let started = started::started_pipelines(&tags);
        chosen.retain(|target| self.task.again || !started.contains(target.tag_name.as_str()));
        if chosen.is_empty() {
            let execution = tags.get(EXECUTION_TAG).cloned();
            return Ok(self.answer_with_artifact(tip, Outcome::Unchanged, artifact, execution));
        }
        if is_existing && self.plan.is_none() {
            // Written first, so that the next schedule completes a start that failed.
            tags.insert(
                artifact::PIPELINES.to_owned(),
                started::pipeline_hashes(&chosen),
            );
            self.put_tags(location, head, &tags).await?;
        }
        self.start_all(tip, &chosen, location, artifact).await
    }

    /// Starts these pipelines on the artifact. A failure does not stop the others.
    pub(super) async fn start_all(
        &self,
        tip: CommitId,
        targets: &[StartTarget],
        location: &S3Location,
        artifact: ArtifactAnswer,
    ) -> Result<BranchAnswer> {
        let mut executions = Vec::new();
        let mut reasons = Vec::new();
        let mut failures: Vec<Error> = Vec::new();
        for target in targets {
            match self.start(tip, target, location, artifact.clone()).await {
                Ok(answer) => {
                    if answer.outcome == Outcome::Started {
                        executions.push(ExecutionAnswer {
                            pipeline: target.pipeline.to_string(),
                            execution_id: answer.execution_id,
                        });
                    }
                    reasons.extend(answer.reason);
                }
                Err(error) => failures.push(error),
            }
        }
        let failed = failures.len();
        if let Some(first) = failures.into_iter().next() {
            if targets.len() == 1 {
                return Err(first);
            }
            return Err(first.context(format!("{failed} of {} pipelines", targets.len())));
        }
        reasons.dedup();
        let outcome = if executions.is_empty() {
            Outcome::Uploaded
        } else {
            Outcome::Started
        };
        let newest = executions.last().and_then(|last| last.execution_id.clone());
        Ok(BranchAnswer {
            reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
            executions,
            ..self.answer_with_artifact(tip, outcome, artifact, newest)
        })
    }

    async fn tags(&self, location: &S3Location, head: &ObjectHead) -> Result<Tags> {
        let store = &self.context.store;
        let version = head.version_id.as_deref();
        store
            .get_tags(&location.bucket, &location.key, version)
            .await
    }

    async fn put_tags(&self, location: &S3Location, head: &ObjectHead, tags: &Tags) -> Result<()> {
        let store = &self.context.store;
        let version = head.version_id.as_deref();
        store
            .put_tags(&location.bucket, &location.key, version, tags)
            .await
    }
}

fn targets(candidates: Vec<Candidate<'_>>) -> Vec<StartTarget> {
    let targets = candidates.into_iter().map(|candidate| candidate.target);
    targets.collect()
}

/// Takes all candidates; returns the targets of those that `is_chosen` selects, and the undecided
/// others.
fn take_targets<'f>(
    candidates: &mut Vec<Candidate<'f>>,
    is_chosen: impl Fn(&Candidate<'f>) -> bool,
) -> (Vec<StartTarget>, Vec<Candidate<'f>>) {
    let (chosen, undecided): (Vec<_>, Vec<_>) =
        std::mem::take(candidates).into_iter().partition(is_chosen);
    (targets(chosen), undecided)
}

/// Returns the start of these pipelines, or the reason for none after a comparison with `before`.
pub(super) fn start_or_skip(chosen: Vec<StartTarget>, before: Option<CommitId>) -> Choice {
    if !chosen.is_empty() {
        return Choice::Start(chosen);
    }
    Choice::Skip(match before {
        Some(before) => {
            format!("no file that changed since {before} matches `filePaths` of `TRIGGERS`")
        }
        None => NO_FILTER_MATCHES.to_owned(),
    })
}
