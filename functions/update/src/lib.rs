//! The `update` function: archives the tip of a moved branch into S3, and starts CodePipeline on
//! exactly this object.
//!
//! An event only names a branch. Each action depends on the observed state (the tip, the
//! artifact, its tags), so events may be lost, duplicated, late or out of order.

mod announce;
mod artifact;
mod branch;
mod config;
mod deletion_state;
mod existing;
mod filters;
mod key_template;
mod lfs;
mod observed;
mod pipeline_check;
mod plan;
mod ref_kind;
mod request;
mod result;
mod schedule;
mod started;
mod status;
mod tag_lists;
mod variable;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use branchline_core::Result;
use branchline_core::archive::ReadCosts;
use branchline_core::archive::large_files_over_git::GitAccess;
use branchline_core::arn::Origin;
use branchline_core::aws::{self, Aws};
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::codecommit::git_credential_source::CodeCommitCredentials;
use branchline_core::codecommit::{CodeCommit, Repository};
use branchline_core::event_bus::client::SdkEventBus;
use branchline_core::event_bus::{EventBus, Outbox};
use branchline_core::function::FunctionArn;
use branchline_core::git::smart_http::{CredentialSource, Http, RepositoryUrl};
use branchline_core::lambda::{self, FunctionContext, InvocationError};
use branchline_core::metrics::{HasMetrics, Metrics};
use branchline_core::name::{BucketName, CommitId, ObjectKey, PipelineName, RepositoryName};
use branchline_core::pipeline::client::SdkPipelines;
use branchline_core::pipeline::{PipelineFinding, Pipelines};
use branchline_core::retry::{RetryPolicy, Retrying};
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::storage::{DeniedDeletions, ObjectStore, RecordingStore};
use deletion_state::DeletionState;
use existing::FirstSeen;
use futures_util::{StreamExt as _, stream};
use pipeline_check::PipelineChecks;
use plan::{Plan, Run};
use schedule::Scope;
use serde_json::Value;
use tag_lists::GitTagLists;
use tokio::sync::Semaphore;

pub use config::{
    Config, CustomData, ExistingBranches, MissingPipeline, PipelineSource, ResultSettings,
    RevisionPin,
};
pub use filters::PipelineFilters;
pub use key_template::{KeyTemplate, TemplateValues};
pub use lfs::LfsLocation;
pub use observed::{ObservedArtifact, ObservedBranch, StartedExecution};
pub use ref_kind::RefKind;
pub use request::{
    Answer, ArtifactAnswer, BranchAnswer, BranchTask, EndedExecution, ExecutionAnswer, Outcome,
    Overrides, Requester, UpdateTask,
};
pub use result::ResultServices;
pub use status::{BranchStatus, RepositoryStatus, repository_status};
pub use tag_lists::TagLists;
pub use variable::PipelineVariable;

/// Maximum number of concurrent branches; archives are built one at a time.
const CONCURRENT_BRANCHES: usize = 8;

/// Maximum number of concurrent requests to S3 and CodePipeline.
const CONCURRENT_OTHER_REQUESTS: usize = 16;

/// Minimum memory for reading by git, in bytes.
const MIN_GIT_MEMORY_BYTES: usize = 64 * 1024 * 1024;

/// Maximum number of remembered clone URLs.
const MAX_CLONE_URLS: usize = 10_000;

/// State that all invocations of an execution environment share.
pub struct Context {
    config: Config,
    codecommit: Arc<dyn CodeCommit>,
    store: Arc<dyn ObjectStore>,
    pipelines: Arc<dyn Pipelines>,
    // Reads files that CodeCommit's API does not serve, and whole commits.
    git: Option<GitAccess>,
    // Clone URLs that GetRepository returned; a repository keeps its own as long as its name.
    clone_urls: Mutex<HashMap<RepositoryName, RepositoryUrl>>,
    // Lists tags for schedules.
    tag_lists: Option<Arc<dyn TagLists>>,
    // One archive at a time, because the memory limit is per archive.
    build_slot: Semaphore,
    versioned: Mutex<HashSet<BucketName>>,
    first_seen: FirstSeen,
    pipeline_checks: PipelineChecks,
    denied_deletions: DeniedDeletions,
    deletions: DeletionState,
    // Reads executions and answers pull requests.
    results: Option<ResultServices>,
    outbox: Outbox,
    // The function's own ARN, known from the first invocation on.
    function: OnceLock<FunctionArn>,
    metrics: Metrics,
}

impl HasMetrics for Context {
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl FunctionContext for Context {
    fn record_function(&self, function: &FunctionArn) {
        self.function.get_or_init(|| function.clone());
    }
}

impl Context {
    /// Makes a context with AWS clients, configured by the `AWS_*` environment variables.
    pub async fn connect(config: Config) -> Result<Self> {
        let aws = Aws::load(aws::AwsOverrides::default()).await?;
        let codecommit = RetryPolicy::new(config.concurrency as usize);
        let others = RetryPolicy::new(CONCURRENT_OTHER_REQUESTS);
        let metrics = Metrics::with_limiters([&codecommit, &others]);
        let http = aws::git_http(&config.http)?;
        let costs = ReadCosts::new(Arc::clone(codecommit.limiter()));
        let store = SdkObjectStore::new(&aws).with_encryption(config.encryption.clone());
        let store = Retrying::new(store, others.clone());
        let denied_deletions = DeniedDeletions::default();
        let bus = config.event_bus.clone().map(|name| -> Arc<dyn EventBus> {
            Arc::new(Retrying::new(SdkEventBus::new(&aws, name), others.clone()))
        });
        let results = ResultServices {
            executions: Arc::new(Retrying::new(SdkPipelines::new(&aws), others.clone())),
            reviews: Arc::new(Retrying::new(SdkCodeCommit::new(&aws), codecommit.clone())),
        };
        let context = Self::new(
            config,
            Arc::new(Retrying::new(SdkCodeCommit::new(&aws), codecommit)),
            Arc::new(RecordingStore::new(store, denied_deletions.clone())),
            Arc::new(Retrying::new(SdkPipelines::new(&aws), others)),
        );
        let mut context = context
            .with_git(http, Arc::new(CodeCommitCredentials::new(&aws)))
            .with_results(results)
            .with_bus(bus);
        if let Some(git) = &mut context.git {
            git.costs = Arc::new(costs);
        }
        Ok(Self {
            denied_deletions,
            metrics,
            ..context
        })
    }

    /// Enables reading by git, for files that CodeCommit's API does not serve and for whole
    /// commits, with half of the function's memory.
    #[must_use]
    pub fn with_git(mut self, http: Http, credentials: Arc<dyn CredentialSource>) -> Self {
        let git = GitAccess {
            service: Arc::clone(&self.codecommit),
            http,
            credentials,
            clone_url: None,
            memory_bytes: (self.config.function_memory / 2).max(MIN_GIT_MEMORY_BYTES),
            costs: Arc::default(),
        };
        self.tag_lists = Some(Arc::new(GitTagLists(git.clone())));
        self.git = Some(git);
        self
    }

    /// Sets the lists of tags that a schedule reads; by default those of git, where it is enabled.
    #[must_use]
    pub fn with_tag_lists(mut self, tag_lists: Arc<dyn TagLists>) -> Self {
        self.tag_lists = Some(tag_lists);
        self
    }

    /// Enables results on pull requests, as far as the settings turn them on.
    #[must_use]
    pub fn with_results(mut self, results: ResultServices) -> Self {
        self.results = Some(results);
        self
    }

    /// Sets the bus of the function's own events.
    #[must_use]
    pub fn with_bus(mut self, bus: Option<Arc<dyn EventBus>>) -> Self {
        self.outbox = Outbox::new(bus);
        self
    }

    /// Makes a context with the given services.
    pub fn new(
        config: Config,
        codecommit: Arc<dyn CodeCommit>,
        store: Arc<dyn ObjectStore>,
        pipelines: Arc<dyn Pipelines>,
    ) -> Self {
        Self {
            config,
            codecommit,
            store,
            pipelines,
            git: None,
            clone_urls: Mutex::default(),
            tag_lists: None,
            results: None,
            outbox: Outbox::default(),
            build_slot: Semaphore::new(1),
            versioned: Mutex::default(),
            first_seen: FirstSeen::default(),
            pipeline_checks: PipelineChecks::default(),
            denied_deletions: DeniedDeletions::default(),
            deletions: DeletionState::default(),
            function: OnceLock::new(),
            metrics: Metrics::default(),
        }
    }

    /// Returns the access to `repository` by git; `None` if reading by git is not enabled.
    fn git_access(&self, repository: &RepositoryName) -> Option<GitAccess> {
        let known = self
            .clone_urls
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Some(GitAccess {
            clone_url: known.get(repository).cloned(),
            ..self.git.clone()?
        })
    }

    /// Remembers the clone URL of a repository, which saves a request.
    fn remember_clone_url(&self, repository: &Repository) {
        // An invalid one is reported where it is needed.
        if let Ok(url) = repository.clone_url() {
            let mut known = self
                .clone_urls
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if known.len() >= MAX_CLONE_URLS {
                known.clear();
            }
            known.insert(repository.name.clone(), url);
        }
    }

    /// Returns the function's own ARN; `None` before the first invocation.
    fn function(&self) -> Option<&FunctionArn> {
        self.function.get()
    }

    /// Returns the account and region of the function; `None` if they are not known.
    fn origin(&self) -> Option<Origin> {
        self.function().and_then(FunctionArn::origin)
    }

    /// Returns the bucket and the template of the keys of a branch's artifacts.
    fn location_of<'a>(&'a self, task: &'a BranchTask) -> (&'a BucketName, &'a KeyTemplate) {
        let overrides = &task.overrides;
        (
            overrides.bucket.as_ref().unwrap_or(&self.config.bucket),
            overrides.key.as_ref().unwrap_or(&self.config.key),
        )
    }

    /// Returns the key of a branch's artifact.
    fn key_of(&self, task: &BranchTask, commit: Option<CommitId>) -> Result<ObjectKey> {
        let origin = self.origin();
        self.location_of(task).1.key_of(&TemplateValues {
            repository: &task.repository,
            branch: &task.branch,
            kind: &task.kind,
            commit,
            origin: origin.as_ref(),
        })
    }

    /// Fails for a bucket without versions, before anything is written to it.
    async fn require_versions(&self, bucket: &BucketName, pipeline: &PipelineName) -> Result<()> {
        let known = || {
            self.versioned
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if known().contains(bucket) {
            return Ok(());
        }
        if !self.store.is_versioned(bucket).await? {
            return Err(branch::not_versioned(bucket, pipeline));
        }
        known().insert(bucket.clone());
        Ok(())
    }

    /// Updates the branches of all tasks; returns the results in the order of the tasks.
    async fn update_branches(
        &self,
        tasks: &[BranchTask],
        run: Run<'_>,
    ) -> Vec<Result<BranchAnswer>> {
        // Branches that share a key are updated one at a time, because concurrent updates of an
        // object conflict. Keys with a commit are shared only by branches at one commit, of which
        // one writes the artifact and the others find it.
        let mut locations = HashSet::new();
        let is_shared = !tasks.iter().all(|task| {
            let (bucket, key) = self.location_of(task);
            key.has_commit()
                || locations.insert((
                    bucket,
                    key.pattern_of(&task.repository, &task.branch, &task.kind, None),
                ))
        });
        let concurrency = if is_shared { 1 } else { CONCURRENT_BRANCHES };
        let updates = stream::iter(tasks).map(|task| async move {
            let updated = branch::update_branch(self, task, run).await;
            updated.inspect_err(|error| {
                if run.plan.is_none() {
                    self.announce_failure(task, error);
                }
            })
        });
        updates.buffered(concurrency).collect().await
    }
}

/// Handles one event.
///
/// A failed item does not stop the others. If any item failed, the invocation fails after the
/// last one, so that Lambda retries.
pub async fn handle(
    context: Arc<Context>,
    event: Value,
    deadline: Instant,
) -> Result<Answer, InvocationError> {
    let mut results = Vec::new();
    let mut branches: Vec<BranchTask> = Vec::new();
    let mut scopes = Vec::new();
    let origin = context.origin();
    for task in request::tasks(&event, &context.config, origin.as_ref())? {
        match task {
            Err(error) => results.push(Err(error)),
            Ok(UpdateTask::Skip(answer)) => results.push(Ok(answer)),
            Ok(UpdateTask::Schedule { plan }) => scopes.push((Scope::Selected, plan)),
            Ok(UpdateTask::Result(ended)) => match result::report(&context, &ended).await {
                Ok(answer) => results.extend(answer.map(Ok)),
                Err(error) => results.push(Err(error)),
            },
            Ok(UpdateTask::Repository(repository)) => {
                scopes.push((Scope::One(repository), false));
            }
            // A duplicate task would only conflict with the first one.
            Ok(UpdateTask::Branch(task)) if branches.contains(&task) => {}
            Ok(UpdateTask::Branch(task)) => branches.push(task),
        }
    }
    let run = Run {
        deadline,
        plan: None,
    };
    results.extend(context.update_branches(&branches, run).await);
    scopes.dedup();
    let kind = match scopes.as_slice() {
        [] => AnswerKind::Branches,
        [(_, true)] => AnswerKind::Plan,
        _ => AnswerKind::Schedule,
    };
    let mut passed_over = 0;
    let mut warnings = Vec::new();
    for (scope, is_plan) in scopes {
        let plan = Plan::default();
        let run = Run {
            deadline,
            plan: is_plan.then_some(&plan),
        };
        let done = schedule::run(&context, scope, run).await;
        results.extend(done.results);
        passed_over += done.passed_over;
        let (_, findings) = plan.into_parts();
        warnings.extend(findings.iter().map(PipelineFinding::report));
    }
    for warning in &warnings {
        tracing::warn!(plan = true, "{warning}");
    }
    context.outbox.flush().await;
    let answer = answer(results, kind, passed_over)?;
    Ok(Answer { warnings, ..answer })
}

/// Kind of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnswerKind {
    /// Of the branches of an event.
    Branches,
    /// Of a schedule.
    Schedule,
    /// Of a schedule that only says what it would do.
    Plan,
}

fn answer(
    results: Vec<Result<BranchAnswer>>,
    kind: AnswerKind,
    passed_over: usize,
) -> Result<Answer, InvocationError> {
    for answer in results.iter().flatten() {
        tracing::info!(
            repository.name = %answer.repository,
            branch.name = answer.branch,
            commit.id = answer.commit.map(tracing::field::display),
            outcome = answer.outcome.name(),
            reason = answer.reason,
            artifact.key = answer.artifact.as_ref().map(|artifact| artifact.key.as_str()),
            size_bytes = answer.artifact.as_ref().map(|artifact| artifact.size_bytes),
            execution.id = answer.execution_id,
            plan = (kind == AnswerKind::Plan).then_some(true),
            "handled a branch"
        );
    }
    let results = lambda::collect_results(results)?;
    Ok(match kind {
        AnswerKind::Branches => Answer::of_event(results),
        AnswerKind::Schedule => Answer::of_schedule(results, passed_over),
        AnswerKind::Plan => Answer {
            plan: true,
            ..Answer::of_schedule(results, passed_over)
        },
    })
}
