//! The `lifecycle` function: reconciles a repository's triggers with its branches, on branch
//! events and on a schedule.
//!
//! An event only names the repository. The work follows from the branches and triggers that
//! are read, so that an event may be lost, doubled, late or out of order.

mod config;
mod found;
mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use branchline_core::aws::{self, Aws};
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::codecommit::{CodeCommit, PassedOver, all_repositories};
use branchline_core::function::Functions;
use branchline_core::function::client::SdkFunctions;
use branchline_core::lambda::{self, FunctionContext, InvocationError};
use branchline_core::metrics::{HasMetrics, Metric, Metrics};
use branchline_core::name::{BranchName, RepositoryName};
use branchline_core::retry::{RetryPolicy, Retrying};
use branchline_core::trigger::invocation_event::MAX_BRANCHES;
use branchline_core::trigger::{
    PendingInvocations, ReconcileOutcome, Reconciled, Reconciler, TriggerLimits, TriggerMode,
};
use branchline_core::{Error, ErrorKind, Result};
use futures_util::{StreamExt as _, stream};
use serde_json::Value;

pub use config::Config;
use found::FoundBranches;
use request::AnswerKind;
pub use request::{Answer, Counts, RepositoryAnswer, Task};

/// Maximum number of repositories reconciled concurrently.
const CONCURRENT_REPOSITORIES: usize = 8;

/// Maximum number of concurrent requests to CodeCommit, and to Lambda.
const CONCURRENT_REQUESTS: usize = 16;

/// Time before the function's deadline at which a run ends, so that its error is reported.
const DEADLINE_MARGIN: Duration = Duration::from_secs(2);

/// Work on a repository.
#[derive(Debug, Clone, Default)]
struct Work {
    /// Whether nothing is written.
    plan: bool,
    /// Branches that an event or request names, and that were not deleted.
    named: BTreeSet<BranchName>,
}

/// Result of reconciling a repository.
enum RepositoryResult {
    Answer(RepositoryAnswer),
    /// The function's role may not read the triggers.
    Unreadable(Error),
}

/// Settings, services and state that all invocations of an execution environment share.
pub struct Context {
    config: Config,
    codecommit: Arc<dyn CodeCommit>,
    functions: Arc<dyn Functions>,
    jitter: fn() -> f64,
    // Lowered by refusals, so that later runs do not repeat a refused write.
    limits: Mutex<TriggerLimits>,
    pending: Mutex<BTreeMap<RepositoryName, PendingInvocations>>,
    found: FoundBranches,
    metrics: Metrics,
}

impl FunctionContext for Context {}

impl HasMetrics for Context {
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Context {
    /// Builds a context over AWS, as the `AWS_*` environment variables configure it.
    ///
    /// # Errors
    /// `Config` if the update function is in another region.
    pub async fn connect(config: Config) -> Result<Self> {
        let aws = Aws::load(aws::AwsOverrides::default()).await?;
        config.check_region(aws.region())?;
        let limiters = [
            RetryPolicy::new(CONCURRENT_REQUESTS),
            RetryPolicy::new(CONCURRENT_REQUESTS),
        ];
        let metrics = Metrics::with_limiters(&limiters);
        let [codecommit, functions] = limiters;
        let codecommit = Retrying::new(SdkCodeCommit::new(&aws), codecommit);
        let functions = Retrying::new(SdkFunctions::new(&aws), functions);
        Ok(Self {
            metrics,
            ..Self::new(config, Arc::new(codecommit), Arc::new(functions))
        })
    }

    /// Builds a context over given services.
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
            pending: Mutex::default(),
            found: FoundBranches::default(),
            metrics: Metrics::default(),
        }
    }

    /// Sets the limits that the service is assumed to have.
    #[must_use]
    pub fn with_limits(mut self, limits: TriggerLimits) -> Self {
        self.limits = Mutex::new(limits);
        self
    }

    /// Replaces the random jitter of waits.
    #[must_use]
    pub fn with_jitter(mut self, jitter: fn() -> f64) -> Self {
        self.jitter = jitter;
        self
    }

    async fn reconcile(
        &self,
        repository: &RepositoryName,
        work: &Work,
        deadline: Instant,
    ) -> Result<RepositoryResult> {
        if work.plan {
            return self.plan(repository).await;
        }
        let mut pending = lock(&self.pending).remove(repository).unwrap_or_default();
        let end = deadline.checked_sub(DEADLINE_MARGIN).unwrap_or(deadline);
        let run = self.reconcile_and_invoke(repository, &work.named, &mut pending);
        let result = tokio::time::timeout_at(end.into(), run).await;
        if !pending.is_empty() {
            let mut by_repository = lock(&self.pending);
            by_repository
                .entry(repository.clone())
                .or_default()
                .merge(pending);
        }
        result.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Deadline,
                format!("the deadline came while reconciling repository `{repository}`"),
            )
            .with_hint("the next event or schedule continues; raise the function's timeout"))
        })
    }

    fn reconciler(&self) -> Reconciler<'_> {
        Reconciler {
            codecommit: &*self.codecommit,
            policy: &self.config.policy,
            limits: *lock(&self.limits),
            jitter: self.jitter,
        }
    }

    /// Computes what a run would do, without writing.
    async fn plan(&self, repository: &RepositoryName) -> Result<RepositoryResult> {
        let mut pending = lock(&self.pending)
            .get(repository)
            .cloned()
            .unwrap_or_default();
        let outcome = self.reconciler().plan(repository, &mut pending).await?;
        Ok(match done_of(outcome, repository) {
            ControlFlow::Break(result) => result,
            ControlFlow::Continue(done) => {
                let invoked = pending.branches().iter().cloned().collect();
                RepositoryResult::Answer(RepositoryAnswer::new(repository, done, invoked))
            }
        })
    }

    async fn reconcile_and_invoke(
        &self,
        repository: &RepositoryName,
        named: &BTreeSet<BranchName>,
        pending: &mut PendingInvocations,
    ) -> Result<RepositoryResult> {
        let reconciler = self.reconciler();
        let outcome = reconciler.run(repository, pending).await?;
        let done = match done_of(outcome, repository) {
            ControlFlow::Break(result) => return Ok(result),
            ControlFlow::Continue(done) => done,
        };
        let named: BTreeSet<BranchName> = named.intersection(&done.covered).cloned().collect();
        for branch in self.found.to_repeat(repository, &named) {
            pending.add(branch);
        }
        *lock(&self.limits) = done.limits;
        self.metrics
            .add(Metric::TriggersChanged, done.changes as u64);
        let invoked = self
            .invoke(&reconciler, repository, &done, &named, pending)
            .await?;
        let found = invoked.iter().filter(|branch| !named.contains(*branch));
        self.found
            .record(repository, &done.covered, &named, found.cloned());
        Ok(RepositoryResult::Answer(RepositoryAnswer::new(
            repository, done, invoked,
        )))
    }

    /// Invokes update for the pending branches, many at a time; stops at the first failure, because the others
    /// would fail for the same reason.
    async fn invoke(
        &self,
        reconciler: &Reconciler<'_>,
        repository: &RepositoryName,
        done: &Reconciled,
        named: &BTreeSet<BranchName>,
        pending: &mut PendingInvocations,
    ) -> Result<Vec<BranchName>> {
        let branches: Vec<BranchName> = pending.branches().iter().cloned().collect();
        let batches = stream::iter(branches.chunks(MAX_BRANCHES).map(<[_]>::to_vec));
        let invocations = batches.map(|branches| async move {
            let event = reconciler.initial_push_event(repository, &branches, done, |branch| {
                !named.contains(branch)
            });
            let function = &reconciler.policy.destination;
            match self.functions.invoke_async(function, event).await {
                Ok(()) => Ok(branches),
                Err(error) => Err(error.context(format!(
                    "invoking update for {} branches of repository `{repository}`, among them \
                     `{}`",
                    branches.len(),
                    branches[0]
                ))),
            }
        });
        let mut results = std::pin::pin!(invocations.buffered(CONCURRENT_REQUESTS));
        let mut invoked = Vec::new();
        while let Some(result) = results.next().await {
            for branch in result? {
                pending.mark_invoked(&branch);
                invoked.push(branch);
            }
        }
        Ok(invoked)
    }
}

/// Returns the triggers of a reconciled repository, or else the result of the repository.
fn done_of(
    outcome: ReconcileOutcome,
    repository: &RepositoryName,
) -> ControlFlow<RepositoryResult, Reconciled> {
    match outcome {
        ReconcileOutcome::RepositoryMissing => {
            let answer = RepositoryAnswer::skipped(repository, "the repository is gone");
            ControlFlow::Break(RepositoryResult::Answer(answer))
        }
        ReconcileOutcome::Unreadable(error) => {
            ControlFlow::Break(RepositoryResult::Unreadable(error))
        }
        ReconcileOutcome::Done(done) => ControlFlow::Continue(done),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Handles one event.
///
/// One repository's failure does not stop the others. If any repository failed, the invocation
/// fails after the last one, so that Lambda retries.
pub async fn handle(
    context: Arc<Context>,
    event: Value,
    deadline: Instant,
) -> Result<Answer, InvocationError> {
    let mut results = Vec::new();
    let mut repositories: BTreeMap<RepositoryName, Work> = BTreeMap::new();
    // Repositories that only a pattern selects.
    let mut matched = BTreeMap::new();
    let mut kind = AnswerKind::Repositories;
    let own = context.config.policy.destination.origin();
    for task in request::tasks(&event, own.as_ref())? {
        match task {
            Err(error) => results.push(Err(error)),
            Ok(Task::Skip(answer)) => results.push(Ok(*answer)),
            Ok(Task::Repository { repository, branch }) => {
                let work = repositories.entry(repository).or_default();
                work.named.extend(branch);
                work.plan = false;
            }
            Ok(Task::Schedule { plan }) => match all_repositories(&*context.codecommit).await {
                Err(error) => results.push(Err(error.context("listing the repositories"))),
                Ok(all) => {
                    kind = if plan {
                        AnswerKind::Plan
                    } else {
                        AnswerKind::Schedule
                    };
                    let work = Work {
                        plan,
                        ..Work::default()
                    };
                    let patterns = &context.config.repositories;
                    for name in all.into_iter().filter(|name| patterns.matches(name)) {
                        if patterns.names(&name) {
                            repositories.entry(name).or_insert_with(|| work.clone());
                        } else {
                            matched.insert(name, work.clone());
                        }
                    }
                }
            },
        }
    }
    matched.retain(|name, _| !repositories.contains_key(name));
    let context = &context;
    let all = repositories.clone().into_iter().chain(matched.clone());
    let runs = stream::iter(all).map(|(name, work)| async move {
        let result = context.reconcile(&name, &work, deadline).await;
        (name, result)
    });
    let runs: Vec<_> = runs.buffered(CONCURRENT_REPOSITORIES).collect().await;
    let selected = matched.len() + repositories.len();
    let mut passed_over = PassedOver::default();
    for (name, result) in runs {
        match result {
            Ok(RepositoryResult::Answer(answer)) => results.push(Ok(answer)),
            Ok(RepositoryResult::Unreadable(error)) if matched.contains_key(&name) => {
                passed_over.push(error);
            }
            Ok(RepositoryResult::Unreadable(error)) | Err(error) => results.push(Err(error)),
        }
    }
    let passed = passed_over.count();
    results.extend(passed_over.finish(selected).map(Err));
    answer(results, kind, passed)
}

fn answer(
    results: Vec<Result<RepositoryAnswer>>,
    kind: AnswerKind,
    passed_over: usize,
) -> Result<Answer, InvocationError> {
    for answer in results.iter().flatten() {
        tracing::info!(
            repository.name = %answer.repository,
            mode = answer.mode.map(TriggerMode::name),
            created = answer.created.len(),
            removed = answer.removed.len(),
            kept = answer.kept,
            foreign = answer.foreign,
            invoked = answer.invoked.len(),
            skipped = answer.skipped.len(),
            reason = answer.reason,
            plan = (kind == AnswerKind::Plan).then_some(true),
            "reconciled a repository's triggers"
        );
    }
    let repositories = lambda::collect_results(results)?;
    Ok(Answer::new(repositories, kind, passed_over))
}
