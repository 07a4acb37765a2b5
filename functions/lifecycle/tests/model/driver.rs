//! Carries out what happens: lets each call of the functions through one by one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use branchline_core::codecommit::{
    BlobAdmission, CodeCommit, Page, Repository, Trigger, TriggerSet,
};
use branchline_core::event::{self, Request};
use branchline_core::function::{FunctionArn, Functions};
use branchline_core::git::object::{Commit, TreeListing};
use branchline_core::lambda::InvocationError;
use branchline_core::name::{BlobId, BranchName, BucketName, CommitId, RepositoryName};
use branchline_core::testkit::{MemoryPipelines, MemoryStore};
use branchline_core::trigger::{TriggerLimits, TriggerMode, preview};
use branchline_core::{Error, ErrorKind, Result};
use branchline_lifecycle::{Answer, Config, Context, handle};
use bytes::Bytes;
use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::world::{self, World, repository};
use super::{BRANCHES, Branch, NOT_MEANT, Op};

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallFate {
    /// It is served.
    Pass,
    /// It is throttled.
    Throttle,
    /// It does not arrive.
    Lose,
    /// It is served, and its answer does not arrive.
    LoseAnswer,
    /// It is not allowed.
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

/// Where calls wait to be let through.
#[derive(Default)]
struct Gate {
    waiting: Vec<oneshot::Sender<CallFate>>,
    is_open: bool,
}

type Shared<T> = Arc<Mutex<T>>;

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The services as one function reaches them.
#[derive(Clone)]
struct Port {
    function: usize,
    world: Shared<World>,
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
        let verdict = turn.await.unwrap_or(CallFate::Pass);
        verdict.before()?;
        Ok(verdict)
    }
}

#[async_trait]
impl CodeCommit for Port {
    async fn list_repositories(&self, next: Option<&str>) -> Result<Page<RepositoryName>> {
        let verdict = self.pass().await?;
        let page = self.service.list_repositories(next).await?;
        verdict.after().map(|()| page)
    }

    async fn list_branches(
        &self,
        repository: &RepositoryName,
        next: Option<&str>,
    ) -> Result<Page<BranchName>> {
        let verdict = self.pass().await?;
        let page = self.service.list_branches(repository, next).await?;
        verdict.after().map(|()| page)
    }

    async fn get_triggers(&self, repository: &RepositoryName) -> Result<TriggerSet> {
        let verdict = self.pass().await?;
        let set = self.service.get_triggers(repository).await?;
        verdict.after()?;
        lock(&self.world).function_reads(self.function);
        Ok(set)
    }

    async fn put_triggers(
        &self,
        repository: &RepositoryName,
        triggers: &[Trigger],
    ) -> Result<String> {
        let verdict = self.pass().await?;
        let id = self.service.put_triggers(repository, triggers).await?;
        lock(&self.world).function_writes(self.function);
        verdict.after().map(|()| id)
    }

    async fn get_repository(&self, _: &RepositoryName) -> Result<Repository> {
        unreachable!("lifecycle does not ask for it")
    }

    async fn create_repository(&self, _: &RepositoryName) -> Result<Repository> {
        unreachable!("lifecycle creates none")
    }

    async fn update_default_branch(&self, _: &RepositoryName, _: &BranchName) -> Result<()> {
        unreachable!("lifecycle does not change it")
    }

    async fn get_branch(&self, _: &RepositoryName, _: &BranchName) -> Result<CommitId> {
        unreachable!("lifecycle does not ask for it")
    }

    async fn get_commit(&self, _: &RepositoryName, _: CommitId) -> Result<Commit> {
        unreachable!("lifecycle does not ask for it")
    }

    async fn get_folder(&self, _: &RepositoryName, _: CommitId, _: &str) -> Result<TreeListing> {
        unreachable!("lifecycle does not ask for it")
    }

    async fn get_blob(
        &self,
        _: &RepositoryName,
        _: BlobId,
        _: &dyn BlobAdmission,
    ) -> Result<Bytes> {
        unreachable!("lifecycle does not ask for it")
    }
}

#[async_trait]
impl Functions for Port {
    async fn invoke_async(&self, _: &FunctionArn, payload: Bytes) -> Result<()> {
        let verdict = self.pass().await?;
        let event: Value = serde_json::from_slice(&payload).expect("it is JSON");
        for request in event::parse(&event).expect("update understands it") {
            let Ok(Request::RefEvent(change)) = request else {
                panic!("update was sent {event}");
            };
            let branch = change.reference.branch().expect("it is a branch");
            lock(&self.world).update_looks(world::number(&branch));
        }
        verdict.after()
    }
}

type Invocation = JoinHandle<Result<Answer, InvocationError>>;

/// One function: its environment, and the invocation that runs in it.
struct Function {
    context: Arc<Context>,
    running: Option<(Value, u32, Invocation)>,
    /// Events that Lambda holds back: new ones, and those that failed.
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

    /// Takes the answer in, if there is one; a failed event is tried twice again.
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

/// What a case had in it.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) blind: u32,
    pub(crate) excused: usize,
    pub(crate) writes: u32,
    pub(crate) at_once: bool,
}

struct Driver {
    world: Shared<World>,
    gate: Shared<Gate>,
    functions: [Function; 2],
    at_once: bool,
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
            driver.happen(op).await?;
        }
        driver.calm_down().await
    })
}

impl Driver {
    fn new() -> Self {
        let settings = [
            (
                "UPDATE_FUNCTION_ARN",
                "arn:aws:lambda:eu-west-1:111122223333:function:update",
            ),
            ("BRANCHES_EXCLUDE", BRANCHES[NOT_MEANT]),
        ];
        let config = Config::read(&settings.into_iter().collect()).unwrap();
        let world = World::new(config.policy.clone());
        let service: Arc<dyn CodeCommit> = world.service.clone();
        let world = Arc::new(Mutex::new(world));
        let gate = Shared::<Gate>::default();
        let functions = [0, 1].map(|function| {
            let port = Arc::new(Port {
                function,
                world: Arc::clone(&world),
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
            world,
            gate,
            functions,
            at_once: false,
        }
    }

    fn someone_works(&self) -> bool {
        self.functions
            .iter()
            .any(|function| function.running.is_some())
    }

    async fn happen(&mut self, op: &Op) -> Result<(), TestCaseError> {
        let someone_works = self.someone_works();
        {
            let mut world = lock(&self.world);
            match *op {
                Op::Push(branch) => world.push(branch),
                Op::PushAll(from) => (from..BRANCHES.len()).for_each(|branch| world.push(branch)),
                Op::Delete(branch) => world.delete(branch),
                Op::DeleteFrom(from) => {
                    (from..BRANCHES.len()).for_each(|branch| world.delete(branch));
                }
                Op::Rename(from, to) => world.rename(from, to),
                Op::SetForeign(which, form) => world.set_foreign(which, form),
                Op::RemoveForeign(which) => world.remove_foreign(which, someone_works),
                Op::Spoil(which, how) => world.spoil(which, how),
                Op::Clear => world.clear(someone_works),
                Op::Lose(which) => drop(take(&mut world.events, which)),
                Op::Double(which) => {
                    let event = take(&mut world.events, which);
                    world
                        .events
                        .extend(event.iter().cloned().chain(event.clone()));
                }
                Op::Deliver(which, to) => {
                    let event = take(&mut world.events, which);
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
            Op::Step(which, verdict) => self.step(which, verdict),
            Op::Steps(count) => {
                for which in 0..count {
                    self.step(which, CallFate::Pass);
                    self.settle().await?;
                }
            }
            Op::Wait => tokio::time::advance(Duration::from_secs(10)).await,
            _ => {}
        }
        self.settle().await
    }

    fn step(&self, which: usize, verdict: CallFate) {
        let sender = take(&mut lock(&self.gate).waiting, which);
        if let Some(sender) = sender {
            let _ = sender.send(verdict);
        }
    }

    /// Lets the functions come to their next calls.
    async fn settle(&mut self) -> Result<(), TestCaseError> {
        for function in &mut self.functions {
            function.start();
        }
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        for function in &mut self.functions {
            function.collect().await?;
        }
        self.at_once |= self
            .functions
            .iter()
            .all(|function| function.running.is_some());
        Ok(())
    }

    /// All is quiet: what runs ends, what is under way is lost, each schedule runs once.
    async fn calm_down(mut self) -> Result<Summary, TestCaseError> {
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
        lock(&self.world).check()?;
        self.check_no_further_write().await?;
        self.check_new_branches().await?;
        self.check_archived().await?;
        let world = lock(&self.world);
        Ok(Summary {
            blind: world.blind,
            excused: world.excused(),
            writes: world.writes,
            at_once: self.at_once,
        })
    }

    async fn send(&self, function: usize, event: Value) -> Result<Answer, TestCaseError> {
        let deadline = Instant::now() + Duration::from_secs(1_000_000);
        let context = Arc::clone(&self.functions[function].context);
        handle(context, event, deadline)
            .await
            .map_err(|failure| TestCaseError::fail(failure.message().to_owned()))
    }

    /// The real update function's schedule archives every tip, whatever was lost before, blind
    /// writes included.
    async fn check_archived(&self) -> Result<(), TestCaseError> {
        let (service, branches, tips) = {
            let world = lock(&self.world);
            let branches = world.policy.branches.clone();
            (Arc::clone(&world.service), branches, world.meant_tips())
        };
        let bucket = BucketName::new("artifacts").unwrap();
        let store = Arc::new(MemoryStore::new());
        store.create_bucket(&bucket, true);
        let settings = [("ARTIFACT_BUCKET", "artifacts")].into_iter().collect();
        let mut config = branchline_update::Config::read(&settings).unwrap();
        config.branches = branches;
        let pipelines = Arc::new(MemoryPipelines::new());
        let update =
            branchline_update::Context::new(config, service, Arc::clone(&store) as _, pipelines);
        let deadline = Instant::now() + Duration::from_secs(1_000_000);
        let event = json!({"schedule": true});
        branchline_update::handle(Arc::new(update), event, deadline)
            .await
            .map_err(|failure| TestCaseError::fail(failure.message().to_owned()))?;
        for (branch, tip) in tips {
            let versions = store.versions(&bucket, &format!("{}/{branch}.zip", repository()));
            let archived = versions
                .last()
                .and_then(|version| version.metadata.user.get("branchline-commit"));
            if archived != Some(&tip.to_string()) {
                return Err(TestCaseError::fail(format!(
                    "the tip of `{branch}` was not archived"
                )));
            }
        }
        Ok(())
    }

    async fn check_no_further_write(&self) -> Result<(), TestCaseError> {
        let (service, policy) = {
            let world = lock(&self.world);
            (Arc::clone(&world.service), world.policy.clone())
        };
        let seen = preview(&*service, &policy, limits(), &repository())
            .await
            .map_err(|error| TestCaseError::fail(error.report()))?;
        if !seen.plan.is_empty() {
            return Err(TestCaseError::fail(format!(
                "there is more to do: {:?}",
                seen.plan
            )));
        }
        Ok(())
    }

    /// From here on nothing is missed: update is invoked once for a branch that is made, or
    /// its push fires; its next push fires once.
    async fn check_new_branches(&self) -> Result<(), TestCaseError> {
        let missing = |branch: &Branch| *branch != NOT_MEANT && !lock(&self.world).is_live(*branch);
        let missing: Vec<_> = (0..BRANCHES.len()).filter(missing).take(5).collect();
        for branch in missing {
            let fired = {
                let mut world = lock(&self.world);
                world.events.clear();
                world.push(branch);
                !world.firing(branch, true).is_empty()
            };
            let event = take(&mut lock(&self.world).events, 0).expect("the push made an event");
            let answer = self.send(0, event).await?;
            let invoked = answer.repositories[0].invoked.iter();
            let invoked = invoked
                .filter(|name| name.as_str() == BRANCHES[branch])
                .count();
            // A trigger for all branches may be younger than a list without this one.
            let all = answer.repositories[0].mode == Some(TriggerMode::AllBranches);
            if invoked != usize::from(!fired) && !(all && invoked == 1) {
                let why = format!("`{}`: fired {fired}, invoked {invoked}", BRANCHES[branch]);
                return Err(TestCaseError::fail(why));
            }
            lock(&self.world).check()?;
        }
        Ok(())
    }
}

fn limits() -> TriggerLimits {
    TriggerLimits {
        triggers: world::MAX_TRIGGERS,
        branches_per_trigger: world::MAX_BRANCHES,
        first_mode: TriggerMode::PerBranch,
    }
}

fn take<T>(items: &mut Vec<T>, which: usize) -> Option<T> {
    if items.is_empty() {
        return None;
    }
    Some(items.remove(which % items.len()))
}
