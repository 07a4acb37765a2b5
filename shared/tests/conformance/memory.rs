//! Conformance of the services in memory, also under a retry policy over failing calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use branchline_core::ErrorKind;
use branchline_core::codecommit::CodeCommit;
use branchline_core::name::{BucketName, CommitId, PipelineName, RepositoryName};
use branchline_core::pipeline::Pipelines;
use branchline_core::retry::{RetryPolicy, Retrying};
use branchline_core::storage::ObjectStore;
use branchline_core::testkit::conformance::{
    CodeCommitSetup, PipelinesSetup, StoreSetup, codecommit, object_store, pipelines,
};
use branchline_core::testkit::{
    CodeCommitOptions, Entry, Failing, FaultPlan, MemoryCodeCommit, MemoryPipelines, MemoryStore,
    MemoryStoreOptions, PipelineOptions, When,
};

/// A service in memory, and the wrapped service under test.
struct Setup<M, T: ?Sized> {
    memory: Arc<M>,
    tested: Box<T>,
    count: AtomicUsize,
    skipped: &'static [&'static str],
}

impl<M, T: ?Sized> Setup<M, T> {
    fn new(memory: Arc<M>, tested: Box<T>) -> Self {
        let count = AtomicUsize::new(0);
        Self {
            memory,
            tested,
            count,
            skipped: &[],
        }
    }

    fn next(&self) -> usize {
        self.count.fetch_add(1, Ordering::SeqCst)
    }
}

#[async_trait]
impl StoreSetup for Setup<MemoryStore, dyn ObjectStore> {
    fn store(&self) -> &dyn ObjectStore {
        &*self.tested
    }

    async fn bucket(&self, versioned: bool) -> BucketName {
        let bucket = BucketName::new(&format!("bucket-{}", self.next())).unwrap();
        self.memory.create_bucket(&bucket, versioned);
        bucket
    }

    fn min_part_bytes(&self) -> usize {
        16
    }

    fn skipped(&self) -> &[&str] {
        self.skipped
    }
}

#[async_trait]
impl CodeCommitSetup for Setup<MemoryCodeCommit, dyn CodeCommit> {
    fn codecommit(&self) -> &dyn CodeCommit {
        &*self.tested
    }

    async fn repository(&self) -> RepositoryName {
        let name = RepositoryName::new(&format!("repo-{}", self.next())).unwrap();
        self.memory.add_repository(&name);
        name
    }

    async fn commit(
        &self,
        repository: &RepositoryName,
        branch: &str,
        changes: &[(&str, Entry)],
    ) -> CommitId {
        self.memory.commit(repository, branch, changes)
    }

    async fn delete_branch(&self, repository: &RepositoryName, branch: &str) {
        self.memory.delete_branch(repository, branch);
    }

    fn function_arn(&self) -> String {
        "arn:aws:lambda:eu-west-1:111122223333:function:update".into()
    }
}

#[async_trait]
impl PipelinesSetup for Setup<MemoryPipelines, dyn Pipelines> {
    fn pipelines(&self) -> &dyn Pipelines {
        &*self.tested
    }

    async fn pipeline(&self) -> PipelineName {
        let name = PipelineName::new(&format!("pipeline-{}", self.next())).unwrap();
        self.memory.set_pipeline(&name, PipelineOptions::default());
        name
    }

    async fn executions(&self, pipeline: &PipelineName) -> Vec<String> {
        let executions = self.memory.executions().into_iter();
        let of_pipeline = executions.filter(|e| e.request.pipeline == *pipeline);
        of_pipeline.map(|execution| execution.id).collect()
    }
}

fn store() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::with_options(MemoryStoreOptions {
        min_part_bytes: 16,
        ..MemoryStoreOptions::default()
    }))
}

/// Plans failures, alternately before and after a call is executed, and so rarely that no
/// call uses up its tries.
fn flaky(first: usize) -> FaultPlan {
    let script = FaultPlan::new();
    for nth in (first..5000).step_by(19) {
        let when = if nth % 2 == 0 {
            When::Before
        } else {
            When::After
        };
        script.fail(nth, ErrorKind::Transport, when);
    }
    script
}

#[tokio::test]
async fn the_store_in_memory_conforms() {
    let memory = store();
    let tested = Box::new(Arc::clone(&memory));
    object_store(&Setup::new(memory, tested as Box<dyn ObjectStore>)).await;
}

#[tokio::test(start_paused = true)]
async fn a_retrying_store_that_loses_requests_and_answers_conforms() {
    for first in 1..=8 {
        let memory = store();
        let failing = Failing::new(Arc::clone(&memory), &flaky(first));
        let tested = Box::new(Retrying::new(failing, RetryPolicy::new(8)));
        let mut setup = Setup::new(Arc::clone(&memory), tested as Box<dyn ObjectStore>);
        // After a lost try, a missing object counts as deleted.
        setup.skipped = &["a_delete_with_the_etag_of_a_deleted_object_is_refused"];
        object_store(&setup).await;
    }
}

#[tokio::test]
async fn codecommit_in_memory_conforms() {
    for unordered in [false, true] {
        let memory = Arc::new(MemoryCodeCommit::with_options(CodeCommitOptions {
            unordered,
            ..CodeCommitOptions::default()
        }));
        let tested = Box::new(Arc::clone(&memory));
        codecommit(&Setup::new(memory, tested as Box<dyn CodeCommit>)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_retrying_codecommit_that_loses_requests_conforms() {
    // Without `put_triggers`, which is not retried.
    const READS: [&str; 9] = [
        "list_repositories",
        "get_repository",
        "list_branches",
        "get_branch",
        "get_commit",
        "get_folder",
        "get_blob",
        "get_differences",
        "get_triggers",
    ];
    let script = FaultPlan::new();
    for name in READS {
        for nth in (1..1000).step_by(2) {
            script.fail_method(name, nth, ErrorKind::Transport, When::Before);
        }
    }
    let memory = Arc::new(MemoryCodeCommit::new());
    let failing = Failing::new(Arc::clone(&memory), &script);
    let tested = Box::new(Retrying::new(failing, RetryPolicy::new(8)));
    codecommit(&Setup::new(memory, tested as Box<dyn CodeCommit>)).await;
}

#[tokio::test]
async fn pipelines_in_memory_conform() {
    let memory = Arc::new(MemoryPipelines::new());
    let tested = Box::new(Arc::clone(&memory));
    pipelines(&Setup::new(memory, tested as Box<dyn Pipelines>)).await;
}

#[tokio::test(start_paused = true)]
async fn retrying_pipelines_that_lose_answers_conform() {
    let memory = Arc::new(MemoryPipelines::new());
    let failing = Failing::new(Arc::clone(&memory), &flaky(2));
    let tested = Box::new(Retrying::new(failing, RetryPolicy::new(8)));
    pipelines(&Setup::new(memory, tested as Box<dyn Pipelines>)).await;
}
