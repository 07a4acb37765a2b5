//! The `lifecycle` function: a branch was created or deleted, or it is time to look at
//! everything, so a repository's triggers become what its branches need.
//!
//! An event only says which repository to look at; what is done follows from its branches
//! and triggers, so that an event may be lost, doubled, late or out of order.

mod config;
mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use branchline_core::aws::{self, Aws};
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::codecommit::{CodeCommit, all_repositories};
use branchline_core::function::Functions;
use branchline_core::function::client::SdkFunctions;
use branchline_core::lambda::{self, InvocationError};
use branchline_core::metrics::{HasMetrics, Metric, Metrics};
use branchline_core::name::{BranchName, RepositoryName};
use branchline_core::retry::{RetryPolicy, Retrying};
use branchline_core::trigger::{
    PendingInvocations, ReconcileOutcome, Reconciled, Reconciler, TriggerLimits,
};
use branchline_core::{Error, ErrorKind, Result};
use futures_util::{StreamExt as _, stream};
use serde_json::Value;

pub use config::Config;
pub use request::{Answer, RepositoryAnswer, Task};

/// How many repositories are looked at at once.
const CONCURRENT_REPOSITORIES: usize = 8;

/// The most requests to CodeCommit, and to Lambda, in flight.
const CONCURRENT_REQUESTS: usize = 16;

/// Time to give up in order, kept free before the function's deadline.
const DEADLINE_MARGIN: Duration = Duration::from_secs(2);

/// What all invocations of one execution environment share.
pub struct Context {
    config: Config,
    codecommit: Arc<dyn CodeCommit>,
    functions: Arc<dyn Functions>,
    jitter: fn() -> f64,
    // What the service refused once, it need not be asked again.
    limits: Mutex<TriggerLimits>,
    owed: Mutex<BTreeMap<RepositoryName, PendingInvocations>>,
    metrics: Metrics,
}

impl HasMetrics for Context {
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Context {
    /// A context over AWS, as the `AWS_*` environment variables describe it.
    ///
    /// Errors: `Config` when the update function lies in another region.
    pub async fn connect(config: Config) -> Result<Self> {
        let aws = Aws::load(aws::AwsOverrides::default()).await?;
        config.check_region(aws.region())?;
        let paces = [
            RetryPolicy::new(CONCURRENT_REQUESTS),
            RetryPolicy::new(CONCURRENT_REQUESTS),
        ];
        let metrics = Metrics::with_limiters(&paces);
        let [codecommit, functions] = paces;
        let codecommit = Retrying::new(SdkCodeCommit::new(&aws), codecommit);
        let functions = Retrying::new(SdkFunctions::new(&aws), functions);
        Ok(Self {
            metrics,
            ..Self::new(config, Arc::new(codecommit), Arc::new(functions))
        })
    }

    /// A context over given services.
    pub fn new(
        config: Config,
        codecommit: Arc<dyn CodeCommit>,
        functions: Arc<dyn Functions>,
    ) -> Self {
        Self {
            config,
            codecommit,
            functions,
            jitter: rand::random,
            limits: Mutex::default(),
            owed: Mutex::default(),
            metrics: Metrics::default(),
        }
    }

    /// Lets the service be thought to accept `limits`.
    #[must_use]
    pub fn with_limits(mut self, limits: TriggerLimits) -> Self {
        self.limits = Mutex::new(limits);
        self
    }

    /// Draws the share of each wait from `jitter` instead of at random.
    #[must_use]
    pub fn with_jitter(mut self, jitter: fn() -> f64) -> Self {
        self.jitter = jitter;
        self
    }

    async fn reconcile(
        &self,
        repository: &RepositoryName,
        deadline: Instant,
    ) -> Result<RepositoryAnswer> {
        let mut owed = lock(&self.owed).remove(repository).unwrap_or_default();
        let end = deadline.checked_sub(DEADLINE_MARGIN).unwrap_or(deadline);
        let run = self.reconcile_and_invoke(repository, &mut owed);
        let result = tokio::time::timeout_at(end.into(), run).await;
        if !owed.is_empty() {
            let mut all = lock(&self.owed);
            all.entry(repository.clone()).or_default().merge(owed);
        }
        result.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Deadline,
                format!("the time ran out over repository `{repository}`"),
            )
            .with_hint("the next event or schedule goes on; raise the function's timeout"))
        })
    }

    async fn reconcile_and_invoke(
        &self,
        repository: &RepositoryName,
        owed: &mut PendingInvocations,
    ) -> Result<RepositoryAnswer> {
        let reconciler = Reconciler {
            codecommit: &*self.codecommit,
            policy: &self.config.policy,
            limits: *lock(&self.limits),
            jitter: self.jitter,
        };
        let done = match reconciler.run(repository, owed).await? {
            ReconcileOutcome::Gone => {
                return Ok(RepositoryAnswer::skipped(
                    repository,
                    "the repository is gone",
                ));
            }
            ReconcileOutcome::Done(done) => done,
        };
        *lock(&self.limits) = done.limits;
        self.metrics
            .add(Metric::TriggersChanged, done.changes as u64);
        let invoked = self.invoke(&reconciler, repository, &done, owed).await?;
        Ok(RepositoryAnswer {
            repository: repository.clone(),
            mode: Some(done.wanted.mode),
            created: done.created,
            removed: done.removed,
            kept: done.kept,
            foreign: done.foreign,
            invoked,
            reason: None,
        })
    }

    /// Invokes update for each branch that is owed; stops at the first that fails, since
    /// the next would fail alike.
    async fn invoke(
        &self,
        reconciler: &Reconciler<'_>,
        repository: &RepositoryName,
        done: &Reconciled,
        owed: &mut PendingInvocations,
    ) -> Result<Vec<BranchName>> {
        let invocations = stream::iter(owed.branches().clone()).map(|branch| async move {
            let event = reconciler.initial_push_event(repository, &branch, done);
            let function = &reconciler.policy.destination;
            match self.functions.invoke_async(function, event).await {
                Ok(()) => Ok(branch),
                Err(error) => Err(error.context(format!(
                    "invoking update for branch `{branch}` of repository `{repository}`"
                ))),
            }
        });
        let mut results = std::pin::pin!(invocations.buffered(CONCURRENT_REQUESTS));
        let mut invoked = Vec::new();
        while let Some(result) = results.next().await {
            let branch = result?;
            owed.mark_invoked(&branch);
            invoked.push(branch);
        }
        Ok(invoked)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what one event asks for.
///
/// One repository's failure does not stop the others; when any failed, so does the
/// invocation, so that Lambda tries again.
pub async fn handle(
    context: Arc<Context>,
    event: Value,
    deadline: Instant,
) -> Result<Answer, InvocationError> {
    let mut results = Vec::new();
    let mut repositories = BTreeSet::new();
    for task in request::tasks(&event, &context.config.policy.destination)? {
        match task {
            Err(error) => results.push(Err(error)),
            Ok(Task::Repository(repository)) => {
                repositories.insert(repository);
            }
            Ok(Task::Schedule) => match all_repositories(&*context.codecommit).await {
                Err(error) => results.push(Err(error.context("listing the repositories"))),
                Ok(all) => {
                    let meant = |name: &RepositoryName| context.config.repositories.matches(name);
                    repositories.extend(all.into_iter().filter(meant));
                }
            },
        }
    }
    let context = &context;
    let runs = stream::iter(repositories)
        .map(|repository| async move { context.reconcile(&repository, deadline).await });
    results.extend(
        runs.buffered(CONCURRENT_REPOSITORIES)
            .collect::<Vec<_>>()
            .await,
    );
    answer(results)
}

fn answer(results: Vec<Result<RepositoryAnswer>>) -> Result<Answer, InvocationError> {
    for answer in results.iter().flatten() {
        tracing::info!(
            repository.name = %answer.repository,
            mode = answer.mode.map(tracing::field::debug),
            created = answer.created.len(),
            removed = answer.removed.len(),
            kept = answer.kept,
            foreign = answer.foreign,
            invoked = answer.invoked.len(),
            reason = answer.reason,
            "looked at a repository's triggers"
        );
    }
    lambda::collect_results(results).map(|repositories| Answer { repositories })
}
