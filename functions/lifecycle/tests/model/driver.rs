//! Runs the steps of a case and releases each call of the functions one by one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use branchline_core::codecommit::{
    BlobAdmission, CodeCommit, Difference, Page, PullRequest, Repository, Trigger, TriggerSet,
};
use branchline_core::event::{self, Request};
use branchline_core::function::{FunctionArn, Functions};
use branchline_core::git::object::{Commit, TreeListing};
use branchline_core::lambda::InvocationError;
use branchline_core::name::{BlobId, BranchName, CommitId, PullRequestId, RepositoryName, TagName};
use branchline_core::testkit::MemoryCodeCommit;
use branchline_core::trigger::{TriggerLimits, TriggerMode, preview};
use branchline_core::{Error, ErrorKind, Result};
use branchline_lifecycle::{Answer, Config, Context, handle};
use bytes::Bytes;
use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::repository_model::{self, RepositoryModel, repository};
use super::shared_bucket::{OTHER_ACCOUNT, OWN_ACCOUNT, SharedBucket};
use super::{BRANCHES, Branch, EXCLUDED, Op};

/// Fate of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallFate {
    /// Served.
    Pass,
    /// Throttled.
    Throttle,
    /// Lost before the service.
    Lose,
    /// Served, and the answer lost.
    LoseAnswer,
    /// Denied.
    Deny,
}

impl CallFate {
    fn before(self) -> Result<()> {
        let kind = match self {
            Self::Pass | Self::LoseAnswer => return Ok(()),
            Self::Throttle => ErrorKind::Throttled,
            Self::Lose => ErrorKind::Transport,
            Self::Deny => ErrorKind::AccessDenied,
        };
        Err(Error::new(kind, "as planned"))
    }

    fn after(self) -> Result<()> {
        match self {
            Self::LoseAnswer => Err(Error::new(ErrorKind::Transport, "as planned")),
            _ => Ok(()),
        }
    }
}

/// Queue of calls that wait to be released.
#[derive(Default)]
struct Gate {
    waiting: Vec<oneshot::Sender<CallFate>>,
    is_open: bool,
}

type Shared<T> = Arc<Mutex<T>>;

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The services of one function, behind the gate.
#[derive(Clone)]
struct Port {
    function: usize,
    model: Shared<RepositoryModel>,
    gate: Shared<Gate>,
    service: Arc<dyn CodeCommit>,
}

impl Port {
    async fn pass(&self) -> Result<CallFate> {
        let turn = {
            let mut gate = lock(&self.gate);
            if gate.is_open {
                return Ok(CallFate::Pass);
            }
            let (sender, turn) = oneshot::channel();
            gate.waiting.push(sender);
            turn
        };
        let fate = turn.await.unwrap_or(CallFate::Pass);
        fate.before()?;
        Ok(fate)
    }
}

#[async_trait]
impl CodeCommit for Port {
    async fn list_repositories(&self, next: Option<&str>) -> Result<Page<RepositoryName>> {
        let fate = self.pass().await?;
        let page = self.service.list_repositories(next).await?;
        fate.after().map(|()| page)
    }

    async fn list_branches(
        &self,
        repository: &RepositoryName,
        next: Option<&str>,
    ) -> Result<Page<String>> {
        let fate = self.pass().await?;
        let page = self.service.list_branches(repository, next).await?;
        fate.after().map(|()| page)
    }

    async fn get_triggers(&self, repository: &RepositoryName) -> Result<TriggerSet> {
        let fate = self.pass().await?;
        let set = self.service.get_triggers(repository).await?;
        fate.after()?;
        lock(&self.model).function_reads(self.function);
        Ok(set)
    }

    async fn put_triggers(
        &self,
        repository: &RepositoryName,
        triggers: &[Trigger],
    ) -> Result<String> {
        let fate = self.pass().await?;
        let id = self.service.put_triggers(repository, triggers).await?;
        lock(&self.model).function_writes(self.function);
        fate.after().map(|()| id)
    }

    async fn get_repository(&self, _: &RepositoryName) -> Result<Repository> {
        unreachable!("lifecycle does not call it")
    }

    async fn create_repository(&self, _: &RepositoryName) -> Result<Repository> {
        unreachable!("lifecycle does not call it")
    }

    async fn update_default_branch(&self, _: &RepositoryName, _: &BranchName) -> Result<()> {
        unreachable!("lifecycle does not call it")
    }

    async fn get_branch(&self, _: &RepositoryName, _: &BranchName) -> Result<CommitId> {
        unreachable!("lifecycle does not call it")
    }

    async fn get_tag(&self, _: &RepositoryName, _: &TagName) -> Result<CommitId> {
        unreachable!("lifecycle does not call it")
    }

    async fn get_merge_base(
        &self,
        _: &RepositoryName,
        _: CommitId,
        _: &BranchName,
    ) -> Result<Option<CommitId>> {
        unreachable!("lifecycle does not call it")
    }

    async fn list_open_pull_requests(
        &self,
        _: &RepositoryName,
        _: Option<&str>,
    ) -> Result<Page<PullRequestId>> {
        unreachable!("lifecycle does not call it")
    }

    async fn get_commits(&self, _: &RepositoryName, _: &[CommitId]) -> Result<Vec<Commit>> {
        unreachable!("lifecycle does not call it")
    }

    async fn get_pull_request(&self, _: &PullRequestId) -> Result<PullRequest> {
        unreachable!("lifecycle does not call it")
    }

    async fn get_commit(&self, _: &RepositoryName, _: CommitId) -> Result<Commit> {
        unreachable!("lifecycle does not call it")
    }

    async fn get_differences(
        &self,
        _: &RepositoryName,
        _: CommitId,
        _: CommitId,
        _: Option<&str>,
    ) -> Result<Page<Difference>> {
        unreachable!("lifecycle does not call it")
    }

    async fn get_folder(&self, _: &RepositoryName, _: CommitId, _: &str) -> Result<TreeListing> {
        unreachable!("lifecycle does not call it")
    }

    async fn get_blob(
        &self,
        _: &RepositoryName,
        _: BlobId,
        _: &dyn BlobAdmission,
    ) -> Result<Bytes> {
        unreachable!("lifecycle does not call it")
    }
}

#[async_trait]
impl Functions for Port {
    async fn invoke_async(&self, _: &FunctionArn, payload: Bytes) -> Result<()> {
        let fate = self.pass().await?;
        let event: Value = serde_json::from_slice(&payload).expect("because the payload is JSON");
        for request in event::parse(&event).expect("because update reads the event") {
            let Ok(Request::RefEvent(change)) = request else {
                panic!("update was sent {event}");
            };
            let branch = change
                .reference
                .branch()
                .expect("because the event is about a branch");
            lock(&self.model).update_reads_tip(repository_model::number(&branch));
        }
        fate.after()
    }
}

type Invocation = JoinHandle<Result<Answer, InvocationError>>;

/// One function: its environment, and the invocation that runs in it.
struct Function {
    context: Arc<Context>,
    running: Option<(Value, u32, Invocation)>,
    /// Events that wait for the function: new ones, and failed ones to retry.
    queue: Vec<(Value, u32)>,
}

impl Function {
    fn start(&mut self) {
        if self.running.is_some() || self.queue.is_empty() {
            return;
        }
        let (event, tries) = self.queue.remove(0);
        let deadline = Instant::now() + Duration::from_secs(1_000_000);
        let task = tokio::spawn(handle(Arc::clone(&self.context), event.clone(), deadline));
        self.running = Some((event, tries, task));
    }

    /// Collects a finished invocation; a failed event is retried twice.
    async fn collect(&mut self) -> Result<(), TestCaseError> {
        if let Some((event, tries, task)) = self.running.take_if(|(.., task)| task.is_finished()) {
            let result = task
                .await
                .map_err(|error| TestCaseError::fail(error.to_string()))?;
            if let Err(failure) = result {
                let harmless = [
                    ErrorKind::Throttled,
                    ErrorKind::Transport,
                    ErrorKind::AccessDenied,
                    ErrorKind::Conflict,
                ];
                if !harmless.contains(&failure.kind()) {
                    return Err(TestCaseError::fail(failure.message().to_owned()));
                }
                if tries < 2 {
                    self.queue.push((event, tries + 1));
                }
            }
        }
        Ok(())
    }
}

/// Counts of one case.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) blind: u32,
    pub(crate) excused: usize,
    pub(crate) writes: u32,
    pub(crate) concurrent: bool,
}

struct Driver {
    model: Shared<RepositoryModel>,
    gate: Shared<Gate>,
    functions: [Function; 2],
    concurrent: bool,
}

/// Runs one case.
pub(crate) fn run(ops: &[Op]) -> Result<Summary, TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut driver = Driver::new();
        for op in ops {
            driver.apply(op).await?;
        }
        driver.finish().await
    })
}

impl Driver {
    fn new() -> Self {
        let settings = [
            (
                "UPDATE_FUNCTION_ARN",
                "arn:aws:lambda:eu-west-1:111122223333:function:update",
            ),
            ("BRANCHES_EXCLUDE", BRANCHES[EXCLUDED]),
        ];
        let config = Config::read(&settings.into_iter().collect()).unwrap();
        let model = RepositoryModel::new(config.policy.clone());
        let service: Arc<dyn CodeCommit> = model.service.clone();
        let model = Arc::new(Mutex::new(model));
        let gate = Shared::<Gate>::default();
        let functions = [0, 1].map(|function| {
            let port = Arc::new(Port {
                function,
                model: Arc::clone(&model),
                gate: Arc::clone(&gate),
                service: Arc::clone(&service),
            });
            let context = Context::new(config.clone(), port.clone(), port)
                .with_limits(limits())
                .with_jitter(|| 0.5);
            Function {
                context: Arc::new(context),
                running: None,
                queue: Vec::new(),
            }
        });
        Self {
            model,
            gate,
            functions,
            concurrent: false,
        }
    }

    fn function_running(&self) -> bool {
        self.functions
            .iter()
            .any(|function| function.running.is_some())
    }

    async fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        let function_running = self.function_running();
        {
            let mut model = lock(&self.model);
            match *op {
                Op::Push(branch) => model.push(branch),
                Op::PushAll(from) => (from..BRANCHES.len()).for_each(|branch| model.push(branch)),
                Op::Delete(branch) => model.delete(branch),
                Op::DeleteFrom(from) => {
                    (from..BRANCHES.len()).for_each(|branch| model.delete(branch));
                }
                Op::Rename(from, to) => model.rename(from, to),
                Op::PushOdd(which) => model.push_odd(which),
                Op::WriteForeignArtifact(branch) => {
                    model.foreign_artifacts.insert(branch);
                }
                Op::SetForeign(which, form) => model.set_foreign(which, form),
                Op::RemoveForeign(which) => model.remove_foreign(which, function_running),
                Op::Spoil(which, how) => model.spoil(which, how),
                Op::Clear => model.clear(function_running),
                Op::Lose(which) => drop(take(&mut model.events, which)),
                Op::Double(which) => {
                    let event = take(&mut model.events, which);
                    model
                        .events
                        .extend(event.iter().cloned().chain(event.clone()));
                }
                Op::Deliver(which, to) => {
                    let event = take(&mut model.events, which);
                    self.functions[to]
                        .queue
                        .extend(event.map(|event| (event, 0)));
                }
                Op::Schedule(to) => self.functions[to]
                    .queue
                    .push((json!({"schedule": true}), 0)),
                Op::Step(..) | Op::Steps(_) | Op::Wait => {}
            }
        }
        match *op {
            Op::Step(which, fate) => self.step(which, fate),
            Op::Steps(count) => {
                for which in 0..count {
                    self.step(which, CallFate::Pass);
                    self.run_until_blocked().await?;
                }
            }
            Op::Wait => tokio::time::advance(Duration::from_secs(10)).await,
            _ => {}
        }
        self.run_until_blocked().await
    }

    fn step(&self, which: usize, fate: CallFate) {
        let sender = take(&mut lock(&self.gate).waiting, which);
        if let Some(sender) = sender {
            let _ = sender.send(fate);
        }
    }

    /// Runs the functions up to their next calls.
    async fn run_until_blocked(&mut self) -> Result<(), TestCaseError> {
        for function in &mut self.functions {
            function.start();
        }
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        for function in &mut self.functions {
            function.collect().await?;
        }
        self.concurrent |= self
            .functions
            .iter()
            .all(|function| function.running.is_some());
        Ok(())
    }

    /// Ends the disturbances and checks: running invocations end, queued events are lost, each
    /// schedule runs once.
    async fn finish(mut self) -> Result<Summary, TestCaseError> {
        {
            let mut gate = lock(&self.gate);
            gate.is_open = true;
            gate.waiting.drain(..).for_each(|sender| {
                let _ = sender.send(CallFate::Pass);
            });
        }
        for function in &mut self.functions {
            function.queue.clear();
            if let Some((_, _, task)) = function.running.take() {
                let _ = task
                    .await
                    .map_err(|error| TestCaseError::fail(error.to_string()))?;
            }
        }
        for function in [0, 1] {
            self.send(function, json!({"schedule": true})).await?;
        }
        lock(&self.model).check()?;
        self.check_no_further_write().await?;
        self.check_new_branches().await?;
        self.check_archived().await?;
        let model = lock(&self.model);
        Ok(Summary {
            blind: model.blind,
            excused: model.excused(),
            writes: model.writes,
            concurrent: self.concurrent,
        })
    }

    async fn send(&self, function: usize, event: Value) -> Result<Answer, TestCaseError> {
        let deadline = Instant::now() + Duration::from_secs(1_000_000);
        let context = Arc::clone(&self.functions[function].context);
        handle(context, event, deadline)
            .await
            .map_err(|failure| TestCaseError::fail(failure.message().to_owned()))
    }

    /// Checks that the update function's schedule archives every tip, also after blind writes,
    /// except under keys of another account, and that two accounts with one bucket leave each
    /// other's artifacts.
    async fn check_archived(&self) -> Result<(), TestCaseError> {
        let (service, branches, tips, foreign) = {
            let model = lock(&self.model);
            let branches = model.policy.branches.clone();
            let foreign = model.foreign_artifacts.iter().map(|at| BRANCHES[*at]);
            let foreign: BTreeSet<&str> = foreign.collect();
            (
                Arc::clone(&model.service),
                branches,
                model.selected_tips(),
                foreign,
            )
        };
        let bucket = SharedBucket::new(&foreign).await;
        let own = bucket.schedule(service, OWN_ACCOUNT, &branches).await;
        let is_taken = |branch: &str| foreign.contains(branch);
        if own.is_err() != tips.iter().any(|(branch, _)| is_taken(branch)) {
            return Err(TestCaseError::fail(format!(
                "{foreign:?} are taken: {own:?}"
            )));
        }
        let archived = bucket.archived();
        for (branch, tip) in tips.iter().filter(|(branch, _)| !is_taken(branch)) {
            if archived.get(*branch) != Some(&tip.to_string()) {
                let why = format!("the tip of `{branch}` was not archived");
                return Err(TestCaseError::fail(why));
            }
        }
        // A repository of the same name, without these branches.
        let other = Arc::new(MemoryCodeCommit::new());
        other.add_repository(&repository());
        let run = bucket.schedule(other, OTHER_ACCOUNT, &branches).await;
        run.map_err(|failure| TestCaseError::fail(failure.message().to_owned()))?;
        let left = bucket.archived();
        for (branch, commit) in &archived {
            // The foreign artifacts are those of the other account, whose branches are missing.
            if !is_taken(branch) && left.get(branch) != Some(commit) {
                let why = format!("the other account deleted the artifact of `{branch}`");
                return Err(TestCaseError::fail(why));
            }
        }
        Ok(())
    }

    async fn check_no_further_write(&self) -> Result<(), TestCaseError> {
        let (service, policy) = {
            let model = lock(&self.model);
            (Arc::clone(&model.service), model.policy.clone())
        };
        let seen = preview(&*service, &policy, limits(), &repository())
            .await
            .map_err(|error| TestCaseError::fail(error.report()))?;
        if !seen.plan.is_empty() {
            return Err(TestCaseError::fail(format!(
                "a further run would write: {:?}",
                seen.plan
            )));
        }
        Ok(())
    }

    /// Checks that no further push is missed: update is invoked once for a new branch, or its
    /// push fires a trigger; the next push fires exactly one.
    async fn check_new_branches(&self) -> Result<(), TestCaseError> {
        let missing = |branch: &Branch| *branch != EXCLUDED && !lock(&self.model).is_live(*branch);
        let missing: Vec<_> = (0..BRANCHES.len()).filter(missing).take(5).collect();
        for branch in missing {
            let fired = {
                let mut model = lock(&self.model);
                model.events.clear();
                model.push(branch);
                !model.firing(branch, true).is_empty()
            };
            let event =
                take(&mut lock(&self.model).events, 0).expect("because the push made an event");
            let answer = self.send(0, event).await?;
            let invoked = answer.repositories[0].invoked.iter();
            let invoked = invoked
                .filter(|name| name.as_str() == BRANCHES[branch])
                .count();
            // A trigger for all branches may be newer than a listing without this branch.
            let all = answer.repositories[0].mode == Some(TriggerMode::AllBranches);
            if invoked != usize::from(!fired) && !(all && invoked == 1) {
                let why = format!("`{}`: fired {fired}, invoked {invoked}", BRANCHES[branch]);
                return Err(TestCaseError::fail(why));
            }
            lock(&self.model).check()?;
        }
        Ok(())
    }
}

fn limits() -> TriggerLimits {
    TriggerLimits {
        triggers: repository_model::MAX_TRIGGERS,
        branches_per_trigger: repository_model::MAX_BRANCHES,
        first_mode: TriggerMode::PerBranch,
    }
}

fn take<T>(items: &mut Vec<T>, which: usize) -> Option<T> {
    if items.is_empty() {
        return None;
    }
    Some(items.remove(which % items.len()))
}
