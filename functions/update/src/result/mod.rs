//! The result of a pipeline, as a comment on the pull request that it was started for, and as an
//! approval.
//!
//! An event only names an execution. The pull request's artifact says whether the execution is
//! its own: it is the one that the artifact's tag records, or it read exactly this artifact in a
//! pipeline that was started on it. So nobody gets an approval by starting another pipeline, or by
//! naming a pull request in a variable. Comment and approval are compared with what is there, so
//! an event may come twice, late, or be repeated after a failure.

mod comment;

use std::sync::Arc;

use branchline_core::codecommit::{ApprovalState, Review, Reviews, comment_of_token};
use branchline_core::filter::PullRequestEvent;
use branchline_core::name::{CommitId, PipelineName, PullRequestId};
use branchline_core::pipeline::{ExecutionState, Executions, PipelineExecution};
use branchline_core::storage::{ObjectHead, ObjectStoreExt as _, Tags};
use branchline_core::{Error, ErrorKind, Result};
use sha2::{Digest as _, Sha256};

use crate::Context;
use crate::artifact::{self, EXECUTION_TAG};
use crate::key_template::TemplateValues;
use crate::ref_kind::RefKind;
use crate::request::{BranchAnswer, EndedExecution, Outcome};
use crate::started;

/// Variable of an execution with the number of its pull request.
pub(crate) const PULL_REQUEST_VARIABLE: &str = "PULL_REQUEST_ID";

/// Maximum number of attempts to post or update the comment while another writer does.
const MAX_CONFLICTS: u32 = 3;

/// Services that results are read from and written to.
#[derive(Clone)]
pub struct ResultServices {
    /// Reads executions.
    pub executions: Arc<dyn Executions>,
    /// Reads and writes pull requests.
    pub reviews: Arc<dyn Reviews>,
}

/// Writes the result of an execution to its pull request; returns `None` for an execution that
/// belongs to none.
pub(crate) async fn report(
    context: &Context,
    ended: &EndedExecution,
) -> Result<Option<BranchAnswer>> {
    let settings = context.config.results;
    let Some(services) = context.results.as_ref().filter(|_| !settings.is_off()) else {
        return Ok(None);
    };
    let EndedExecution { pipeline, id } = ended;
    let what = format!("the result of execution `{id}` of pipeline `{pipeline}`");
    let execution = services.executions.get_execution(pipeline, id).await;
    let execution = execution.map_err(|error| error.context(&what))?;
    let Some(number) = pull_request_of(&execution) else {
        return Ok(None);
    };
    let report = Report {
        context,
        services,
        ended,
        execution,
        number,
    };
    report.run().await.map_err(|error| error.context(&what))
}

/// Returns the pull request that the variables of an execution name.
fn pull_request_of(execution: &PipelineExecution) -> Option<u64> {
    execution.variables.get(PULL_REQUEST_VARIABLE)?.parse().ok()
}

/// One result and its pull request.
struct Report<'a> {
    context: &'a Context,
    services: &'a ResultServices,
    ended: &'a EndedExecution,
    execution: PipelineExecution,
    number: u64,
}

impl Report<'_> {
    async fn run(&self) -> Result<Option<BranchAnswer>> {
        match self.execution.state {
            ExecutionState::Succeeded | ExecutionState::Failed | ExecutionState::Stopped => {}
            // The end, or the newer execution, has an event of its own.
            ExecutionState::Running | ExecutionState::Superseded => return Ok(None),
        }
        let review = match self.services.reviews.get_review(self.number).await {
            Ok(review) => review,
            // The variable's number is not that of a pull request: someone else's execution.
            Err(error) if error.is_pull_request_missing() => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let commit = match self.match_artifact(&review).await? {
            ArtifactMatch::RanOn(commit) => commit,
            ArtifactMatch::Other => {
                let why = "the execution did not run on the pull request's artifact";
                return Ok(Some(answer(&review, Outcome::Skipped, None, why)));
            }
        };
        if !review.is_open {
            let why = "the pull request is closed";
            return Ok(Some(answer(&review, Outcome::Skipped, Some(commit), why)));
        }
        let settings = self.context.config.results;
        let mut done = Vec::new();
        if settings.comment && self.comment(&review, commit).await? {
            done.push("the comment was written");
        }
        if settings.approval {
            if commit != review.source_commit {
                done.push("a newer commit is not approved");
            } else if let Some(what) = self.approve(&review).await? {
                done.push(what);
            }
        }
        let outcome = if done.is_empty() {
            Outcome::Unchanged
        } else {
            Outcome::Reported
        };
        let why = format!("pull request {}: {}", self.number, done.join(", "));
        let why = why.trim_end_matches([':', ' ']);
        let answer = answer(&review, outcome, Some(commit), why);
        Ok(Some(BranchAnswer {
            execution_id: Some(self.ended.id.clone()),
            ..answer
        }))
    }

    /// Compares the execution with the pull request's artifact.
    async fn match_artifact(&self, review: &Review) -> Result<ArtifactMatch> {
        let config = &self.context.config;
        let origin = self.context.origin();
        let kind = RefKind::PullRequest {
            id: PullRequestId::new(&review.pull_request.to_string())?,
            event: PullRequestEvent::Updated,
        };
        let key = config.key.key_of(&TemplateValues {
            repository: &review.repository,
            branch: &kind.placeholder_branch()?,
            kind: &kind,
            commit: Some(review.source_commit),
            origin: origin.as_ref(),
        })?;
        let store = &self.context.store;
        let Some(head) = store.head(&config.bucket, &key).await? else {
            return Ok(ArtifactMatch::Other);
        };
        if artifact::is_of_other_origin(&head, origin.as_ref()) {
            return Ok(ArtifactMatch::Other);
        }
        let Some(commit) = artifact::commit_in(&head, &review.repository) else {
            return Ok(ArtifactMatch::Other);
        };
        let version = head.version_id.as_deref();
        let tags = store.get_tags(&config.bucket, &key, version).await?;
        let EndedExecution { pipeline, id } = self.ended;
        if tags.get(EXECUTION_TAG) == Some(id) {
            return Ok(ArtifactMatch::RanOn(commit));
        }
        if !self.has_read(&head, commit) {
            return Ok(ArtifactMatch::Other);
        }
        if is_started(&tags, pipeline) {
            return Ok(ArtifactMatch::RanOn(commit));
        }
        if tags.contains_key(EXECUTION_TAG) {
            return Ok(ArtifactMatch::Other);
        }
        // The run that started the pipeline has not recorded it yet.
        Err(Error::new(
            ErrorKind::Conflict,
            format!("no execution is recorded at s3://{}/{key}", config.bucket),
        )
        .with_hint("the next attempt or the schedule records it"))
    }

    /// Returns whether a source of the execution read this version, or this commit.
    fn has_read(&self, head: &ObjectHead, commit: CommitId) -> bool {
        let commit = commit.to_string();
        let mut revisions = self.execution.revisions.iter();
        revisions.any(|id| Some(id.as_str()) == head.version_id.as_deref() || *id == commit)
    }

    /// Posts or updates the comment with the result; returns whether a comment was written.
    async fn comment(&self, review: &Review, commit: CommitId) -> Result<bool> {
        let EndedExecution { pipeline, id } = self.ended;
        let failed = match self.execution.state {
            ExecutionState::Failed => self.services.executions.failed_action(pipeline, id).await?,
            _ => None,
        };
        let text = comment::text(&comment::Content {
            pipeline,
            execution_id: id,
            execution: &self.execution,
            commit,
            failed: failed.as_ref(),
            origin: self.context.origin().as_ref(),
        });
        let reviews = self.services.reviews.as_ref();
        let token = comment_token(review, pipeline);
        let mut tries = 0;
        loop {
            let found = comment_of_token(reviews, self.number, &token).await?;
            let written = match found {
                None => reviews.post_comment(review, &token, &text).await,
                Some(found) => match found.content {
                    Some(content) if content == text => return Ok(false),
                    Some(_) => reviews.update_comment(&found.id, &text).await,
                    // Someone deleted it.
                    None => return Ok(false),
                },
            };
            tries += 1;
            match written {
                Ok(()) => return Ok(true),
                // Another run wrote it between the two requests.
                Err(error) if error.kind() == ErrorKind::Conflict && tries < MAX_CONFLICTS => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Approves the revision, or revokes the approval; returns the action in words.
    async fn approve(&self, review: &Review) -> Result<Option<&'static str>> {
        let (state, what) = match self.execution.state {
            ExecutionState::Succeeded => (ApprovalState::Approve, "approved"),
            _ => (ApprovalState::Revoke, "not approved"),
        };
        match self.services.reviews.set_approval(review, state).await {
            Ok(()) => Ok(Some(what)),
            // A push came in between, or the pull request was closed.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Relation of an execution to a pull request's artifact.
enum ArtifactMatch {
    /// The execution ran on the artifact, which was made of this commit.
    RanOn(CommitId),
    /// The execution ran on another artifact or revision.
    Other,
}

/// Returns whether the tags of an artifact name a pipeline as started on it.
fn is_started(tags: &Tags, pipeline: &PipelineName) -> bool {
    let names = started::started_pipelines(tags);
    let mut pipelines = names.iter().map(|tag_name| {
        let (name, _) = tag_name.split_once(':').unwrap_or((tag_name, ""));
        name
    });
    pipelines.any(|name| name == pipeline.as_str())
}

/// Returns the token of the one comment of a pipeline on a pull request.
fn comment_token(review: &Review, pipeline: &PipelineName) -> String {
    let number = review.pull_request.to_string();
    let identity = [review.repository.as_str(), &number, pipeline.as_str()];
    let digest = hex::encode(Sha256::digest(identity.join("\0")));
    format!("branchline-{}", &digest[..32])
}

fn answer(
    review: &Review,
    outcome: Outcome,
    commit: Option<CommitId>,
    reason: &str,
) -> BranchAnswer {
    BranchAnswer {
        repository: review.repository.clone(),
        branch: review.source.to_string(),
        commit,
        outcome,
        reason: Some(reason.to_owned()),
        artifact: None,
        execution_id: None,
        executions: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::PIPELINE_TAG;

    #[test]
    fn only_pipelines_that_the_tags_name_are_started() {
        let pipeline = |name: &str| PipelineName::new(name).expect("it is valid");
        let mut tags = Tags::default();
        tags.insert(PIPELINE_TAG.to_owned(), "deploy".to_owned());
        assert!(!is_started(&tags, &pipeline("deploy")), "no execution yet");
        tags.insert(EXECUTION_TAG.to_owned(), "1".to_owned());
        tags.insert("branchline-started-2".to_owned(), "lint docs".to_owned());
        for (name, expected) in [("deploy", true), ("docs", true), ("doc", false)] {
            assert_eq!(is_started(&tags, &pipeline(name)), expected, "{name}");
        }
    }
}
