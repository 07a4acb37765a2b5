//! Services in memory, and contexts of the function with them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use branchline_core::Result;
use branchline_core::lambda::InvocationError;
use branchline_core::name::{BucketName, CommitId, PipelineName, RepositoryName, TagName};
use branchline_core::testkit::{
    CommitText, Entry, Execution, Failing, FaultPlan, MemoryCodeCommit, MemoryEventBus,
    MemoryExecutions, MemoryPipelines, MemoryReviews, MemoryStore, PipelineOptions, StoredVersion,
};
use branchline_update::{Answer, Config, Context, ResultServices, TagLists, handle};
use serde_json::{Value, json};

/// The services and settings of the update function.
pub(crate) struct UpdateFixture {
    pub(crate) codecommit: Arc<MemoryCodeCommit>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) pipelines: Arc<MemoryPipelines>,
    pub(crate) executions_state: Arc<MemoryExecutions>,
    pub(crate) reviews: Arc<MemoryReviews>,
    pub(crate) bus: Arc<MemoryEventBus>,
    pub(crate) settings: BTreeMap<&'static str, &'static str>,
}

/// Lists of tags of a service in memory; each is a call `list_tags` of its log.
#[derive(Debug)]
pub(crate) struct MemoryTagLists {
    codecommit: Arc<MemoryCodeCommit>,
}

#[async_trait]
impl TagLists for MemoryTagLists {
    async fn list_tags(&self, repository: &RepositoryName) -> Result<Vec<(TagName, CommitId)>> {
        self.codecommit.list_tags(repository).await
    }
}

pub(crate) fn repository() -> RepositoryName {
    RepositoryName::new("demo").expect("it is valid")
}

pub(crate) fn bucket() -> BucketName {
    BucketName::new("artifacts").expect("it is valid")
}

pub(crate) fn pipeline(name: &str) -> PipelineName {
    PipelineName::new(name).expect("it is valid")
}

impl UpdateFixture {
    pub(crate) fn new(settings: &[(&'static str, &'static str)]) -> Self {
        let fixture = Self {
            codecommit: Arc::default(),
            store: Arc::default(),
            pipelines: Arc::default(),
            executions_state: Arc::default(),
            reviews: Arc::default(),
            bus: Arc::default(),
            settings: [
                ("ARTIFACT_BUCKET", "artifacts"),
                ("PIPELINE_NAME", "deploy"),
                // Tests commit at a fixed time, and say so where the age of a branch matters.
                ("EXISTING_BRANCHES", "start"),
            ]
            .into_iter()
            .chain(settings.iter().copied())
            .collect(),
        };
        fixture.store.create_bucket(&bucket(), true);
        fixture
            .pipelines
            .set_pipeline(&pipeline("deploy"), PipelineOptions::default());
        fixture.codecommit.add_repository(&repository());
        fixture
    }

    pub(crate) fn push(&self, branch: &str, content: &str) -> CommitId {
        let files = [
            ("README", Entry::file(content)),
            ("bin/run", Entry::executable("#!/bin/sh\n")),
            ("link", Entry::symlink("README")),
        ];
        let text = CommitText::new(format!("Say {content}\n\nAt length.\n"));
        self.codecommit
            .commit_as(&repository(), branch, &files, &text)
    }

    pub(crate) fn config(&self) -> Result<Config> {
        Config::read(
            &self
                .settings
                .iter()
                .map(|(name, value)| (*name, *value))
                .collect(),
        )
    }

    pub(crate) fn context(&self) -> Arc<Context> {
        let config = self.config().expect("the settings are valid");
        let (codecommit, store) = (self.codecommit.clone(), self.store.clone());
        let context = Context::new(config, codecommit, store, self.pipelines.clone());
        let context = context.with_bus(Some(self.bus.clone()));
        let context = context.with_tag_lists(self.tag_lists());
        Arc::new(context.with_results(ResultServices {
            executions: self.executions_state.clone(),
            reviews: self.reviews.clone(),
        }))
    }

    /// Makes a context whose calls fail by `faults`.
    pub(crate) fn failing_context(&self, faults: &FaultPlan) -> Arc<Context> {
        let config = self.config().expect("the settings are valid");
        let context = Context::new(
            config,
            Arc::new(Failing::new(Arc::clone(&self.codecommit), faults)),
            Arc::new(Failing::new(Arc::clone(&self.store), faults)),
            Arc::new(Failing::new(Arc::clone(&self.pipelines), faults)),
        );
        let context = context.with_bus(Some(self.bus.clone()));
        let context = context.with_tag_lists(self.tag_lists());
        Arc::new(context.with_results(ResultServices {
            executions: Arc::new(Failing::new(Arc::clone(&self.executions_state), faults)),
            reviews: Arc::new(Failing::new(Arc::clone(&self.reviews), faults)),
        }))
    }

    fn tag_lists(&self) -> Arc<MemoryTagLists> {
        Arc::new(MemoryTagLists {
            codecommit: self.codecommit.clone(),
        })
    }

    pub(crate) async fn send(&self, event: Value) -> Result<Answer, InvocationError> {
        handle(self.context(), event, soon()).await
    }

    pub(crate) async fn results(&self, event: Value) -> Vec<Value> {
        let answer = self.send(event).await.expect("every item succeeds");
        let answer = serde_json::to_value(answer).expect("it serialises");
        answer["results"].as_array().expect("it is a list").clone()
    }

    pub(crate) async fn failure(&self, event: Value) -> InvocationError {
        self.send(event).await.expect_err("an item fails")
    }

    pub(crate) fn executions(&self) -> Vec<Execution> {
        self.pipelines.executions()
    }

    pub(crate) fn versions(&self, key: &str) -> Vec<StoredVersion> {
        self.store.versions(&bucket(), key)
    }

    pub(crate) fn latest(&self, key: &str) -> StoredVersion {
        self.versions(key)
            .into_iter()
            .next_back()
            .expect("there is a version")
    }

    /// Asserts that no multipart upload is left after a run.
    pub(crate) fn assert_no_upload_is_left(&self) {
        assert_eq!(
            self.store.uploads(),
            Vec::<String>::new(),
            "no upload is left"
        );
    }
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

pub(crate) fn reference(branch: &str, commit: CommitId) -> Value {
    json!({ "commit": commit.to_string(), "ref": format!("refs/heads/{branch}") })
}

pub(crate) fn records(references: &[Value]) -> Value {
    json!({ "Records": [{
        "eventName": "ReferenceChanges",
        "eventSource": "aws:codecommit",
        "eventSourceARN": "arn:aws:codecommit:us-east-1:111122223333:demo",
        "codecommit": { "references": references },
    }]})
}

pub(crate) fn moved(branch: &str, commit: CommitId) -> Value {
    records(&[reference(branch, commit)])
}

pub(crate) fn files(zip: &StoredVersion) -> BTreeMap<String, String> {
    let body = zip.body.clone().expect("it is not a delete marker");
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(body)).expect("it is a zip");
    (0..archive.len())
        .map(|at| {
            let mut entry = archive.by_index(at).expect("the entry is there");
            let mut text = String::new();
            entry
                .read_to_string(&mut text)
                .expect("the entry is readable");
            (entry.name().expect("it is text").into_owned(), text)
        })
        .collect()
}

pub(crate) fn outcomes(results: &[Value]) -> Vec<(&str, &str)> {
    results
        .iter()
        .map(|result| {
            let text = |name: &str| result[name].as_str().expect("it is text");
            (text("branch"), text("outcome"))
        })
        .collect()
}

/// Runs the function a second time, during a call of the first run.
pub(crate) fn run_now(context: &Arc<Context>, event: &Value) {
    let (context, event) = (Arc::clone(context), event.clone());
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime can be made");
        runtime
            .block_on(handle(context, event, soon()))
            .expect("the other run succeeds");
    };
    std::thread::spawn(run).join().expect("the other run ends");
}
