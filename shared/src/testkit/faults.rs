//! A service whose calls fail on demand, before or after they are executed.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::codecommit::{BlobAdmission, CodeCommit, Page, Repository, Trigger, TriggerSet};
use crate::error::{Error, ErrorKind, Result};
use crate::function::{FunctionArn, Functions};
use crate::git::object::{Commit, TreeListing};
use crate::name::{BlobId, BranchName, BucketName, CommitId, ObjectKey, RepositoryName};
use crate::pipeline::{Pipelines, StartRequest};
use crate::storage::{
    ETag, ListPage, ObjectHead, ObjectStore, Part, Precondition, PutOptions, PutResult, UploadId,
};

/// When a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before the service sees it.
    Before,
    /// After the service has executed it: its answer is lost.
    After,
}

/// Which calls fail, and a log of all of them; several services may share one, so that
/// "call k" counts over all of them.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    calls: Vec<&'static str>,
    plans: Vec<PlannedFault>,
}

#[derive(Debug)]
struct PlannedFault {
    name: Option<&'static str>,
    nth: usize,
    kind: ErrorKind,
    when: When,
}

impl FaultPlan {
    /// A script by which nothing fails.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes call `nth` (from 1, of all calls) fail with an error of this kind.
    pub fn fail(&self, nth: usize, kind: ErrorKind, when: When) {
        let name = None;
        self.lock().plans.push(PlannedFault {
            name,
            nth,
            kind,
            when,
        });
    }

    /// Makes call `nth` (from 1) of the method `name` fail with an error of this kind.
    pub fn fail_method(&self, name: &'static str, nth: usize, kind: ErrorKind, when: When) {
        let name = Some(name);
        self.lock().plans.push(PlannedFault {
            name,
            nth,
            kind,
            when,
        });
    }

    /// The methods called, in order.
    pub fn calls(&self) -> Vec<&'static str> {
        self.lock().calls.clone()
    }

    /// How often the method `name` was called.
    pub fn count(&self, name: &str) -> usize {
        let state = self.lock();
        state.calls.iter().filter(|call| **call == name).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, name: &'static str) -> Option<(ErrorKind, When)> {
        let mut state = self.lock();
        state.calls.push(name);
        let all = state.calls.len();
        let of_name = state.calls.iter().filter(|call| **call == name).count();
        let due = |plan: &&PlannedFault| match plan.name {
            None => plan.nth == all,
            Some(plan_name) => plan_name == name && plan.nth == of_name,
        };
        let plan = state.plans.iter().find(due)?;
        Some((plan.kind, plan.when))
    }

    async fn run<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let plan = self.enter(name);
        if let Some((kind, When::Before)) = plan {
            return Err(Error::new(kind, format!("`{name}` fails as planned")));
        }
        let value = call.await?;
        match plan {
            Some((kind, _)) => Err(Error::new(
                kind,
                format!("the answer to `{name}` is lost as planned"),
            )),
            None => Ok(value),
        }
    }
}

/// A service whose calls fail as a [`FaultPlan`] says.
#[derive(Debug, Clone)]
pub struct Failing<T> {
    inner: T,
    script: FaultPlan,
}

impl<T> Failing<T> {
    /// Wraps `inner`.
    pub fn new(inner: T, script: &FaultPlan) -> Self {
        Self {
            inner,
            script: script.clone(),
        }
    }

    /// The service itself.
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// The script: its log and its plans.
    pub fn script(&self) -> &FaultPlan {
        &self.script
    }
}

/// Implements a trait twice: for [`Failing`], by running each method of the inner service
/// under the script; and for an [`Arc`] of a service, so that a test can keep hold of what
/// it hands out.
macro_rules! forward {
    ($trait:ident
        $(fn $name:ident(&self $(, $arg:ident: $type:ty)* $(,)?) -> $result:ty;)*) => {
        #[async_trait]
        impl<T: $trait> $trait for Failing<T> {
            $(
                async fn $name(&self $(, $arg: $type)*) -> $result {
                    let call = self.inner.$name($($arg),*);
                    self.script.run(stringify!($name), call).await
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
    ) -> Result<Page<BranchName>>;
    fn get_branch(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
    ) -> Result<CommitId>;
    fn get_commit(&self, repository: &RepositoryName, commit: CommitId) -> Result<Commit>;
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
    fn get_triggers(&self, repository: &RepositoryName) -> Result<TriggerSet>;
    fn put_triggers(
        &self,
        repository: &RepositoryName,
        triggers: &[Trigger],
    ) -> Result<String>;
}

forward! { ObjectStore
    fn is_versioned(&self, bucket: &BucketName) -> Result<bool>;
    fn head(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<ObjectHead>>;
    fn get(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        range: Option<Range<u64>>,
    ) -> Result<Bytes>;
    fn get_with_etag(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
    ) -> Result<Option<(Bytes, ETag)>>;
    fn list(
        &self,
        bucket: &BucketName,
        prefix: &str,
        delimiter: Option<&str>,
        next: Option<&str>,
    ) -> Result<ListPage>;
    fn put(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutResult>;
    fn delete(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        precondition: &Precondition,
    ) -> Result<()>;
    fn delete_version(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: &str,
    ) -> Result<()>;
    fn create_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &PutOptions,
    ) -> Result<UploadId>;
    fn upload_part(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> Result<Part>;
    fn upload_part_copy(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        source: (&BucketName, &ObjectKey, Option<&str>),
        range: Range<u64>,
    ) -> Result<Part>;
    fn complete_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[Part],
        precondition: &Precondition,
    ) -> Result<PutResult>;
    fn abort_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<()>;
    fn get_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<BTreeMap<String, String>>;
    fn put_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        tags: &BTreeMap<String, String>,
    ) -> Result<()>;
}

forward! { Pipelines
    fn start(&self, request: &StartRequest) -> Result<String>;
}

forward! { Functions
    fn invoke_async(&self, function: &FunctionArn, payload: Bytes) -> Result<()>;
}
