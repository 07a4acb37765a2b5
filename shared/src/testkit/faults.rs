//! A service whose calls fail on demand, before or after they are executed.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::call_log::CallPlan;
use crate::codecommit::{
    ApprovalState, BlobAdmission, CodeCommit, Difference, Page, PullRequest, Repository, Review,
    ReviewComment, Reviews, Trigger, TriggerSet,
};
use crate::error::{Error, ErrorKind, Result};
use crate::event_bus::{Announcement, EventBus};
use crate::function::{FunctionArn, Functions};
use crate::git::object::{Commit, TreeListing};
use crate::name::{
    BlobId, BranchName, CommitId, PipelineName, PullRequestId, RepositoryName, TagName,
};
use crate::pipeline::{
    ExecutionStatus, Executions, FailedAction, PipelineDeclaration, PipelineExecution, Pipelines,
    StartRequest,
};

/// Time at which a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before the service gets the request.
    Before,
    /// After the service has executed the call: the answer is lost.
    After,
}

/// Calls that fail, and a log of all calls. Several services may share one plan, so that
/// "call k" counts over all of them.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan(Arc<Mutex<CallPlan<(ErrorKind, When)>>>);

impl FaultPlan {
    /// Makes a plan without failures.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fails call `nth` (from 1) of all methods with an error of `kind`.
    pub fn fail(&self, nth: usize, kind: ErrorKind, when: When) {
        self.lock().plan(None, nth, (kind, when));
    }

    /// Fails call `nth` (from 1) of `method` with an error of `kind`.
    pub fn fail_method(&self, method: &'static str, nth: usize, kind: ErrorKind, when: When) {
        self.lock().plan(Some(method), nth, (kind, when));
    }

    /// Returns the methods called, in order.
    pub fn calls(&self) -> Vec<&'static str> {
        self.lock().calls().to_vec()
    }

    /// Returns the number of calls of `method`.
    pub fn count(&self, method: &str) -> usize {
        self.lock().count(method)
    }

    fn lock(&self) -> MutexGuard<'_, CallPlan<(ErrorKind, When)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn run<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let fault = self.lock().record(method).into_iter().next();
        if let Some((kind, When::Before)) = fault {
            return Err(Error::new(kind, format!("`{method}` fails as planned")));
        }
        let value = call.await?;
        match fault {
            Some((kind, _)) => Err(Error::new(
                kind,
                format!("the answer to `{method}` is lost as planned"),
            )),
            None => Ok(value),
        }
    }
}

/// Service whose calls fail by a [`FaultPlan`].
#[derive(Debug, Clone)]
pub struct Failing<T> {
    pub(super) inner: T,
    pub(super) plan: FaultPlan,
}

impl<T> Failing<T> {
    /// Wraps `inner`.
    pub fn new(inner: T, plan: &FaultPlan) -> Self {
        Self {
            inner,
            plan: plan.clone(),
        }
    }

    /// Returns the wrapped service.
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// Returns the plan, with its log of calls.
    pub fn script(&self) -> &FaultPlan {
        &self.plan
    }
}

/// Implements a trait for [`Failing`], by running each method of the inner service under
/// the plan; and for an [`Arc`] of a service, so that a test can use the service that it
/// passes on.
macro_rules! forward {
    ($trait:ident
        $(fn $name:ident(&self $(, $arg:ident: $type:ty)* $(,)?) -> $result:ty;)*) => {
        #[async_trait]
        impl<T: $trait> $trait for Failing<T> {
            $(
                async fn $name(&self $(, $arg: $type)*) -> $result {
                    let call = self.inner.$name($($arg),*);
                    self.plan.run(stringify!($name), call).await
                }
            )*
        }

        #[async_trait]
        impl<T: $trait + ?Sized> $trait for Arc<T> {
            $(
                async fn $name(&self $(, $arg: $type)*) -> $result {
                    (**self).$name($($arg),*).await
                }
            )*
        }
    };
}

forward! { CodeCommit
    fn list_repositories(&self, next: Option<&str>) -> Result<Page<RepositoryName>>;
    fn get_repository(&self, repository: &RepositoryName) -> Result<Repository>;
    fn create_repository(&self, repository: &RepositoryName) -> Result<Repository>;
    fn update_default_branch(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
    ) -> Result<()>;
    fn list_branches(
        &self,
        repository: &RepositoryName,
        next: Option<&str>,
    ) -> Result<Page<String>>;
    fn get_branch(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
    ) -> Result<CommitId>;
    fn get_tag(&self, repository: &RepositoryName, tag: &TagName) -> Result<CommitId>;
    fn get_commit(&self, repository: &RepositoryName, commit: CommitId) -> Result<Commit>;
    fn get_commits(
        &self,
        repository: &RepositoryName,
        commits: &[CommitId],
    ) -> Result<Vec<Commit>>;
    fn get_folder(
        &self,
        repository: &RepositoryName,
        commit: CommitId,
        path: &str,
    ) -> Result<TreeListing>;
    fn get_blob(
        &self,
        repository: &RepositoryName,
        blob: BlobId,
        admission: &dyn BlobAdmission,
    ) -> Result<Bytes>;
    fn get_differences(
        &self,
        repository: &RepositoryName,
        before: CommitId,
        after: CommitId,
        next: Option<&str>,
    ) -> Result<Page<Difference>>;
    fn get_merge_base(
        &self,
        repository: &RepositoryName,
        commit: CommitId,
        branch: &BranchName,
    ) -> Result<Option<CommitId>>;
    fn get_pull_request(&self, id: &PullRequestId) -> Result<PullRequest>;
    fn list_open_pull_requests(
        &self,
        repository: &RepositoryName,
        next: Option<&str>,
    ) -> Result<Page<PullRequestId>>;
    fn get_triggers(&self, repository: &RepositoryName) -> Result<TriggerSet>;
    fn put_triggers(
        &self,
        repository: &RepositoryName,
        triggers: &[Trigger],
    ) -> Result<String>;
}

forward! { Pipelines
    fn start(&self, request: &StartRequest) -> Result<String>;
    fn declaration(&self, pipeline: &PipelineName) -> Result<PipelineDeclaration>;
    fn execution_status(&self, pipeline: &PipelineName, id: &str) -> Result<ExecutionStatus>;
}

forward! { Functions
    fn invoke_async(&self, function: &FunctionArn, payload: Bytes) -> Result<()>;
}

forward! { Executions
    fn get_execution(
        &self,
        pipeline: &PipelineName,
        execution_id: &str,
    ) -> Result<PipelineExecution>;
    fn failed_action(
        &self,
        pipeline: &PipelineName,
        execution_id: &str,
    ) -> Result<Option<FailedAction>>;
}

forward! { Reviews
    fn get_review(&self, pull_request: u64) -> Result<Review>;
    fn list_comments(
        &self,
        pull_request: u64,
        next: Option<&str>,
    ) -> Result<Page<ReviewComment>>;
    fn post_comment(
        &self,
        review: &Review,
        client_request_token: &str,
        content: &str,
    ) -> Result<()>;
    fn update_comment(&self, comment_id: &str, content: &str) -> Result<()>;
    fn set_approval(&self, review: &Review, state: ApprovalState) -> Result<()>;
}

forward! { EventBus
    fn put(&self, events: &[Announcement]) -> Result<()>;
}
