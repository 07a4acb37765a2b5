//! Updates one branch: makes the artifact of its tip and starts a pipeline execution on exactly
//! this artifact.
//!
//! | file | job |
//! |---|---|
//! | this one | compares branch and artifact, and decides |
//! | `read_ahead` | reads the commit, and beside it what its archive begins with |
//! | `chosen` | chooses the pipelines by the filters of `TRIGGERS` |
//! | `build` | archives the tip |
//! | `observe` | records the state for a plan, and checks the pipeline |
//! | `pull` | reads a pull request, and finishes it at its end |
//! | `marker` | writes a marker instead, for pipelines that read CodeCommit |
//! | `reuse` | finds the artifact that the archive is made from |
//! | `start` | starts the pipeline and records the execution |
//! | `tip` | reads the commit that is to be archived |
//! | `variables` | values of the execution's variables |

mod build;
mod chosen;
mod marker;
mod observe;
mod pull;
mod read_ahead;
mod reuse;
mod start;
mod tip;
mod variables;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use branchline_core::name::{BranchName, CommitId, RepositoryName};
use branchline_core::storage::{ObjectHead, ObjectStoreExt as _, Precondition};
use branchline_core::{Error, ErrorKind, Result};
use futures_util::future::join;

use self::chosen::Choice;
use self::pull::PullState;
use self::read_ahead::ReadCommit;
pub(crate) use self::start::not_versioned;
use crate::Context;
use crate::artifact::{self, ArtifactIdentity, EXECUTION_TAG, PIPELINE_TAG, S3Location};
use crate::config::{ExistingBranches, RevisionPin};
use crate::existing;
use crate::filters::StartTarget;
use crate::key_template::{KeyTemplate, TemplateValues};
use crate::plan::{Plan, Run};
use crate::ref_kind::RefKind;
use crate::request::{ArtifactAnswer, BranchAnswer, BranchTask, Outcome, Requester};
use crate::started;

/// Maximum number of attempts while another writer changes the artifact or the branch.
const MAX_CONFLICTS: u32 = 5;

/// Reason in the answer of an artifact that is made for later events.
const STARTS_NOTHING: &str = "no pipeline of `TRIGGERS` is to be started yet";

/// Time before the function's deadline that is kept for an orderly failure.
pub(crate) const DEADLINE_MARGIN: Duration = Duration::from_secs(5);

/// Makes the artifact of the branch's tip, and starts the pipeline on it once.
///
/// Each attempt first reads branch and artifact, so the function may run at any time, twice,
/// or again after a crash at any point.
pub(crate) async fn update_branch(
    context: &Context,
    task: &BranchTask,
    run: Run<'_>,
) -> Result<BranchAnswer> {
    let repository = &task.repository;
    let branch = &task.branch;
    if task.kind == RefKind::Branch && !context.config.branches.matches(branch) {
        let why = "the branch does not match `BRANCHES_INCLUDE` and `BRANCHES_EXCLUDE`";
        return Ok(answer(task, task.commit, Outcome::Skipped, Some(why)));
    }
    if let Some(triggers) = &context.config.triggers
        && task.overrides.pipeline.is_none()
        && !triggers.can_start(repository, branch, &task.kind)
    {
        let why = format!("no filter of `TRIGGERS` matches the {}", task.kind.noun());
        return Ok(answer(task, task.commit, Outcome::Skipped, Some(&why)));
    }
    let what = format!("{} `{}`", task.kind.noun(), task.label());
    let mut tries = 0;
    let mut expected = task.commit;
    loop {
        let result = Attempt::new(context, task, expected, run).run().await;
        tries += 1;
        match result {
            // No other event will fix this: the newer event already saw the old artifact.
            Ok(AttemptOutcome::TipMovedBack) if tries < MAX_CONFLICTS => expected = None,
            Ok(AttemptOutcome::TipMovedBack) => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "{what} of repository `{repository}` moved back in each of \
                         {MAX_CONFLICTS} attempts"
                    ),
                ));
            }
            Err(error) if error.kind() == ErrorKind::Conflict && tries < MAX_CONFLICTS => {
                tracing::info!(
                    repository.name = %repository, branch.name = %branch, tries,
                    "another writer changed the artifact; retrying"
                );
            }
            Err(error) => {
                return Err(error.context(format!("{what} of repository `{repository}`")));
            }
            Ok(AttemptOutcome::Answer(answer)) => return Ok(*answer),
        }
    }
}

/// Result of one attempt.
enum AttemptOutcome {
    Answer(Box<BranchAnswer>),
    /// The branch moved back to the commit whose artifact was just replaced.
    TipMovedBack,
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
        branch: task.label(),
        commit,
        outcome,
        reason: reason.map(str::to_owned),
        artifact: None,
        execution_id: None,
        executions: Vec::new(),
    }
}

/// Fails if `deadline` is over.
pub(crate) fn check_time(deadline: Instant) -> Result<()> {
    if Instant::now() < deadline {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Deadline,
        "no time is left before the function's deadline",
    )
    .with_hint("raise the function's timeout or its memory"))
}

/// One attempt: reads branch and artifact, then acts.
struct Attempt<'a> {
    context: &'a Context,
    task: &'a BranchTask,
    // The commit that the event named as the tip.
    expected: Option<CommitId>,
    deadline: Instant,
    // Set if nothing is written.
    plan: Option<&'a Plan>,
    key: &'a KeyTemplate,
    pipeline: Option<&'a KeyTemplate>,
    // The pull request, once it was read.
    pull: OnceLock<PullState>,
}

impl<'a> Attempt<'a> {
    fn new(
        context: &'a Context,
        task: &'a BranchTask,
        expected: Option<CommitId>,
        run: Run<'a>,
    ) -> Self {
        let deadline = run.deadline;
        Self {
            context,
            task,
            expected,
            deadline: deadline.checked_sub(DEADLINE_MARGIN).unwrap_or(deadline),
            plan: run.plan,
            key: context.location_of(task).1,
            pipeline: task
                .overrides
                .pipeline
                .as_ref()
                .or(context.config.pipeline.as_ref()),
            pull: OnceLock::new(),
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
        // The artifact is read before the tip: it is then of this tip or of an earlier one, so
        // replacing exactly this artifact never replaces a newer commit.
        let mut found = None;
        if !self.key.has_commit() {
            let location = self.location(None)?;
            found = self.head(&location).await?;
        }
        let found_head = found.as_ref();
        let (tip, read) = join(self.tip(found_head), self.read_expected(found_head)).await;
        let Some(tip) = tip? else {
            let why = format!("the {} does not exist any more", self.task.kind.noun());
            return Ok(answer(self.task, None, Outcome::Skipped, Some(&why)).into());
        };
        if let Some(expected) = self.expected.filter(|expected| *expected != tip) {
            let read = read.map(|read| read.commit);
            self.check_existence(expected, read).await?;
            let reason = format!("the tip is now {tip}");
            return Ok(answer(
                self.task,
                Some(expected),
                Outcome::Superseded,
                Some(&reason),
            )
            .into());
        }
        let location = self.location(Some(tip))?;
        if self.key.has_commit() {
            found = self.head(&location).await?;
        }
        let identity = self.identity(tip);
        if let Some(other) = found.as_ref().and_then(|head| identity.other_kind(head)) {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "{location} is the artifact of `{other}`, not of a {}",
                    self.task.kind.noun()
                ),
            )
            .with_hint(
                "put `{ref}` into `ARTIFACT_KEY` in place of `{branch}`: it keeps them apart",
            ));
        }
        if let Some(owner) = found
            .as_ref()
            .and_then(|head| identity.foreign_origin(head))
        {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{location} is an artifact of `{owner}`, another region or account"),
            )
            .with_hint(
                "put `{account}` and `{region}` into `ARTIFACT_KEY` where stacks share a bucket",
            ));
        }
        if self.is_closed_pull_request() {
            return self
                .finish_pull_request(tip, &location, &identity, found.as_ref(), read)
                .await;
        }
        self.observe(tip, &location, &identity, found.as_ref())
            .await?;
        match found {
            Some(head) if identity.matches(&head) && self.has_needed_version(&head) => self
                .ensure_started(tip, &location, &head)
                .await
                .map(AttemptOutcome::from),
            found => {
                self.rebuild(tip, &location, &identity, found.as_ref(), read)
                    .await
            }
        }
    }

    /// Returns false for an object that a pipeline must be pinned to and that has no version,
    /// because the bucket kept none when it was written.
    fn has_needed_version(&self, head: &ObjectHead) -> bool {
        !self.starts_pipelines()
            || self.context.config.pin_for(self.key) == RevisionPin::None
            || head
                .version_id
                .as_deref()
                .is_some_and(|version| version != "null")
    }

    /// Returns the identity of the artifact of `tip`.
    fn identity(&self, tip: CommitId) -> ArtifactIdentity {
        let origin = self.context.origin();
        ArtifactIdentity::new(
            &self.context.config,
            self.key,
            self.repository(),
            self.branch(),
            &self.task.kind,
            tip,
            origin.as_ref(),
        )
    }

    fn starts_pipelines(&self) -> bool {
        self.pipeline.is_some() || self.filters().is_some()
    }

    async fn head(&self, location: &S3Location) -> Result<Option<ObjectHead>> {
        let store = &self.context.store;
        store.head(&location.bucket, &location.key).await
    }

    fn location(&self, commit: Option<CommitId>) -> Result<S3Location> {
        Ok(S3Location {
            bucket: self.context.location_of(self.task).0.clone(),
            key: self.context.key_of(self.task, commit)?,
        })
    }

    fn check_time(&self) -> Result<()> {
        check_time(self.deadline)
    }

    /// The artifact is current: ensures that its execution was started.
    async fn ensure_started(
        &self,
        tip: CommitId,
        location: &S3Location,
        head: &ObjectHead,
    ) -> Result<BranchAnswer> {
        let artifact = ArtifactAnswer {
            bucket: location.bucket.to_string(),
            key: location.key.to_string(),
            version_id: head.version_id.clone().map(String::from),
            etag: head.etag.to_string(),
            size_bytes: head.size_bytes,
            files: artifact::files(head),
        };
        if let Some(filters) = self.filters() {
            return self
                .ensure_chosen(filters, tip, location, head, artifact)
                .await;
        }
        let Some(target) = self.target(tip)? else {
            return Ok(self.answer_with_artifact(tip, Outcome::Unchanged, artifact, None));
        };
        let store = &self.context.store;
        let tags = store
            .get_tags(&location.bucket, &location.key, head.version_id.as_deref())
            .await?;
        let is_held_back = artifact::is_existing(head)
            && !existing::names_branch(self.task.requester)
            && self.context.config.existing_branches != ExistingBranches::Start;
        match (tags.get(EXECUTION_TAG), tags.get(PIPELINE_TAG)) {
            // A request by name writes the pipeline's tag first, so that the next schedule
            // completes a start that failed.
            (None, None) if is_held_back => Ok(BranchAnswer {
                reason: Some(existing::not_started(&self.task.kind)),
                ..self.answer_with_artifact(tip, Outcome::Unchanged, artifact, None)
            }),
            (Some(id), started)
                if !self.task.again
                    && (self.task.requester == Requester::BySchedule
                        || started.is_some_and(|started| started == target.pipeline.as_str())) =>
            {
                let id = id.clone();
                Ok(self.answer_with_artifact(tip, Outcome::Unchanged, artifact, Some(id)))
            }
            (None, None) if artifact::is_existing(head) && self.plan.is_none() => {
                let mut tags = tags;
                tags.insert(PIPELINE_TAG.to_owned(), target.pipeline.to_string());
                let version = head.version_id.as_deref();
                store
                    .put_tags(&location.bucket, &location.key, version, &tags)
                    .await?;
                self.start(tip, &target, location, artifact).await
            }
            _ => self.start(tip, &target, location, artifact).await,
        }
    }

    /// Archives the tip, replacing the `found` artifact, and starts the pipeline. The commit may
    /// have been `read`.
    async fn rebuild(
        &self,
        tip: CommitId,
        location: &S3Location,
        identity: &ArtifactIdentity,
        found: Option<&ObjectHead>,
        read: Option<ReadCommit<'a>>,
    ) -> Result<AttemptOutcome> {
        let filters = self.filters();
        let mut targets = self.possible_targets(tip)?;
        let near = (location, identity, found);
        let read = if let Some(read) = read {
            read
        } else {
            let pipeline = targets.first().map(|target| &target.pipeline);
            self.read_commit(tip, near, pipeline).await
        };
        read.versions?;
        let (commit, base, slot) = (read.commit?, read.base?, read.slot);
        let provenance =
            existing::provenance(self.context, self.task, &commit, identity, found).await?;
        let is_ignored = provenance.is_existing
            && self.context.config.existing_branches == ExistingBranches::Ignore;
        if is_ignored {
            let why = existing::ignored(&self.task.kind);
            return Ok(answer(self.task, Some(tip), Outcome::Skipped, Some(&why)).into());
        }
        // A branch that is older than the stack is not started.
        let held_back = provenance.is_existing && !targets.is_empty();
        let reason = held_back.then(|| existing::not_started(&self.task.kind));
        if held_back {
            targets.clear();
        } else if let Some(filters) = filters {
            let choice = self.choose_targets(filters, tip, location, identity, found);
            match choice.await? {
                Choice::Start(chosen) => targets = chosen,
                Choice::Skip(why) => {
                    return Ok(answer(self.task, Some(tip), Outcome::Skipped, Some(&why)).into());
                }
            }
        }
        let starts_nothing = filters.is_some() && targets.is_empty();
        let reason = reason.or_else(|| starts_nothing.then(|| STARTS_NOTHING.to_owned()));
        if let Some(plan) = self.plan {
            let outcome = if identity.is_of_any_branch() && !plan.add(location) {
                Outcome::Unchanged
            } else if !targets.is_empty() {
                Outcome::Started
            } else {
                Outcome::Uploaded
            };
            return Ok(answer(self.task, Some(tip), outcome, reason.as_deref()).into());
        }
        let _slot = match slot {
            Some(slot) => Ok(slot),
            None => self.context.build_slot.acquire().await,
        };
        self.check_time()?;
        if identity.is_of_any_branch()
            && let Some(head) = self.head(location).await?
            && identity.matches(&head)
            && self.has_needed_version(&head)
        {
            // Another branch at the commit was archived meanwhile.
            return self
                .ensure_started(tip, location, &head)
                .await
                .map(AttemptOutcome::from);
        }
        let precondition = match found {
            Some(head) => Precondition::Matches(head.etag.clone()),
            None => Precondition::Absent,
        };
        let base = if let Some(base) = base {
            base
        } else {
            self.base_of(&commit, near).await?
        };
        let hashes = filters.map(|_| started::pipeline_hashes(&targets));
        let artifact = self
            .build(
                &commit,
                location,
                identity,
                precondition,
                provenance,
                hashes.as_deref(),
                base,
            )
            .await?;
        let denied = self.context.denied_deletions.take(&location.bucket);
        let denied = denied.map(|report| format!("a temporary object is left: {report}"));
        if let Some(replaced) = found.and_then(|head| identity.previous_commit(head))
            && self.is_tip(replaced).await?
        {
            return Ok(AttemptOutcome::TipMovedBack);
        }
        let mut answer = match targets.as_slice() {
            [] => BranchAnswer {
                reason,
                ..self.answer_with_artifact(tip, Outcome::Uploaded, artifact, None)
            },
            [target] if filters.is_none() => self.start(tip, target, location, artifact).await?,
            targets => self.start_all(tip, targets, location, artifact).await?,
        };
        answer.reason = answer.reason.or(denied);
        Ok(answer.into())
    }

    /// Returns the pipelines that a push can start, whatever it changes.
    fn possible_targets(&self, tip: CommitId) -> Result<Vec<StartTarget>> {
        match self.filters() {
            Some(filters) => {
                let candidates = self.candidates(filters, tip)?.into_iter();
                Ok(candidates.map(|candidate| candidate.target).collect())
            }
            None => Ok(Vec::from_iter(self.target(tip)?)),
        }
    }

    /// Returns the pipeline that a name chooses.
    fn target(&self, tip: CommitId) -> Result<Option<StartTarget>> {
        let origin = self.context.origin();
        let values = TemplateValues {
            repository: self.repository(),
            branch: self.branch(),
            kind: &self.task.kind,
            commit: Some(tip),
            origin: origin.as_ref(),
        };
        let target = |template: &KeyTemplate| {
            let pipeline = template.pipeline_name(&values)?;
            Ok(StartTarget::new(
                pipeline,
                &self.context.config.source_action,
            ))
        };
        self.pipeline.map(target).transpose()
    }

    fn answer_with_artifact(
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
