//! The `update` function: a branch moved, so its tip is archived into S3, and CodePipeline
//! starts on exactly that object.
//!
//! An event only says where to look; what is done follows from what is there (the tip, the
//! artifact, its tags), so that an event may be lost, doubled, late or out of order.

mod artifact;
mod branch;
mod config;
mod request;
mod schedule;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use branchline_core::Result;
use branchline_core::archive::large_files_over_git::GitAccess;
use branchline_core::aws::{self, Aws};
use branchline_core::codecommit::CodeCommit;
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::codecommit::git_credential_source::CodeCommitCredentials;
use branchline_core::git::smart_http::{CredentialSource, Http};
use branchline_core::lambda::{self, InvocationError};
use branchline_core::metrics::{HasMetrics, Metrics};
use branchline_core::name::{BucketName, PipelineName};
use branchline_core::pipeline::Pipelines;
use branchline_core::pipeline::client::SdkPipelines;
use branchline_core::retry::{RetryPolicy, Retrying};
use branchline_core::storage::ObjectStore;
use branchline_core::storage::client::SdkObjectStore;
use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use tokio::sync::Semaphore;

pub use config::{Config, KeyTemplate, RevisionPin};
pub use request::{
    Answer, ArtifactAnswer, BranchAnswer, BranchTask, Outcome, Overrides, Requester, UpdateTask,
};

/// How many branches are looked at at once; archives are built one at a time.
const CONCURRENT_BRANCHES: usize = 8;

/// The most requests to S3 and CodePipeline in flight.
const OTHER_REQUESTS: usize = 16;

/// The least that reading by git can do with, in bytes.
const LEAST_GIT_MEMORY: usize = 64 * 1024 * 1024;

/// What all invocations of one execution environment share.
pub struct Context {
    config: Config,
    codecommit: Arc<dyn CodeCommit>,
    store: Arc<dyn ObjectStore>,
    pipelines: Arc<dyn Pipelines>,
    // For files that CodeCommit's API does not serve.
    git: Option<GitAccess>,
    // One archive at a time: its memory is bounded, that of many is not.
    build_slot: Semaphore,
    versioned: Mutex<HashSet<BucketName>>,
    metrics: Metrics,
}

impl HasMetrics for Context {
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Context {
    /// A context over AWS, as the `AWS_*` environment variables describe it.
    pub async fn connect(config: Config) -> Result<Self> {
        let aws = Aws::load(aws::AwsOverrides::default()).await?;
        let codecommit = RetryPolicy::new(config.concurrency as usize);
        let others = RetryPolicy::new(OTHER_REQUESTS);
        let metrics = Metrics::with_limiters([&codecommit, &others]);
        let http = aws::git_http(&config.http)?;
        let context = Self::new(
            config,
            Arc::new(Retrying::new(SdkCodeCommit::new(&aws), codecommit)),
            Arc::new(Retrying::new(SdkObjectStore::new(&aws), others.clone())),
            Arc::new(Retrying::new(SdkPipelines::new(&aws), others)),
        );
        let context = context.with_git(http, Arc::new(CodeCommitCredentials::new(&aws)));
        Ok(Self { metrics, ..context })
    }

    /// Reads files by git that CodeCommit's API does not serve, within half of the
    /// function's memory.
    #[must_use]
    pub fn with_git(mut self, http: Http, credentials: Arc<dyn CredentialSource>) -> Self {
        self.git = Some(GitAccess {
            service: Arc::clone(&self.codecommit),
            http,
            credentials,
            memory: (self.config.function_memory / 2).max(LEAST_GIT_MEMORY),
        });
        self
    }

    /// A context over given services.
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
            build_slot: Semaphore::new(1),
            versioned: Mutex::default(),
            metrics: Metrics::default(),
        }
    }

    /// Refuses a bucket without versions, before anything is written to it.
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

    /// Brings the branches of all tasks up to date, in their order.
    async fn bring_up_to_date(
        &self,
        tasks: &[BranchTask],
        deadline: Instant,
    ) -> Vec<Result<BranchAnswer>> {
        // Branches with one key would take the object from each other: they take turns.
        let mut shelves = HashSet::new();
        let shared = !tasks
            .iter()
            .all(|task| shelves.insert(branch::artifact_location(self, task)));
        let at_once = if shared { 1 } else { CONCURRENT_BRANCHES };
        let looks = stream::iter(tasks).map(|task| branch::update_branch(self, task, deadline));
        looks.buffered(at_once).collect().await
    }
}

/// Does what one event asks for.
///
/// One item's failure does not stop the others; when any failed, so does the invocation,
/// so that Lambda tries again.
pub async fn handle(
    context: Arc<Context>,
    event: Value,
    deadline: Instant,
) -> Result<Answer, InvocationError> {
    let mut results = Vec::new();
    let mut branches: Vec<BranchTask> = Vec::new();
    let mut schedule = false;
    for task in request::tasks(&event)? {
        match task {
            Err(error) => results.push(Err(error)),
            Ok(UpdateTask::Skip(answer)) => results.push(Ok(answer)),
            Ok(UpdateTask::Schedule) => schedule = true,
            // The same branch twice would only compete with itself.
            Ok(UpdateTask::Branch(task)) if branches.contains(&task) => {}
            Ok(UpdateTask::Branch(task)) => branches.push(task),
        }
    }
    results.extend(context.bring_up_to_date(&branches, deadline).await);
    if schedule {
        results.extend(schedule::run(&context, deadline).await);
    }
    answer(results)
}

fn answer(results: Vec<Result<BranchAnswer>>) -> Result<Answer, InvocationError> {
    for answer in results.iter().flatten() {
        tracing::info!(
            repository.name = %answer.repository,
            branch.name = answer.branch,
            commit.id = answer.commit.map(tracing::field::display),
            outcome = ?answer.outcome,
            reason = answer.reason,
            artifact.key = answer.artifact.as_ref().map(|artifact| artifact.key.as_str()),
            size_bytes = answer.artifact.as_ref().map(|artifact| artifact.size_bytes),
            execution.id = answer.execution_id,
            "looked at a branch"
        );
    }
    lambda::collect_results(results).map(|results| Answer { results })
}
