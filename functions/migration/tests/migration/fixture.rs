//! Remotes in memory and in temporary directories, behind the function's `OpenRemote`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use branchline_core::git::pack::PackLimits;
use branchline_core::git::{HashKind, ObjectId};
use branchline_core::lambda::InvocationError;
use branchline_core::name::BucketName;
use branchline_core::remote::local::LocalRepository;
use branchline_core::remote::open::{OpenRemote, RemoteSpec};
use branchline_core::remote::s3_dumb::{DumbOptions, DumbRemote};
use branchline_core::remote::url::RemoteUrl;
use branchline_core::remote::{
    BatchPolicy, Head, Push, PushReport, Remote, Snapshot, Source, Target, TargetCapabilities,
};
use branchline_core::storage::ObjectStore;
use branchline_core::testkit::{MemoryStore, MemoryStoreOptions};
use branchline_core::{Error, ErrorKind, Result};
use branchline_migration::{Answer, Config, Context, handle};
use serde_json::{Value, json};

use branchline_test_support::repo::Repo;

pub(crate) fn bucket() -> BucketName {
    BucketName::new("mirrors").expect("because the bucket name is valid")
}

/// Duration of a push to `codecommit://..`.
pub(crate) const PUSH: Duration = Duration::from_secs(10);
/// Maximum number of refs that one such push changes.
pub(crate) const MAX_CHANGES: usize = 2;

/// Calls that the remotes recorded.
#[derive(Default)]
pub(crate) struct Seen {
    /// URL and memory in bytes of each opened remote.
    pub opened: Vec<(String, usize)>,
    /// Pushes in flight, by target.
    in_flight: BTreeMap<String, usize>,
    /// Peak of concurrent pushes: in total, and to one target.
    pub peak: (usize, usize),
}

/// The function's remotes, by URL:
///
/// - `https://git.test/NAME`: a repository in a directory, if it was added;
/// - `https://silent.test/..`: never answers;
/// - `codecommit://NAME`: a repository in a directory, with slow pushes of few refs;
/// - `s3://mirrors/PREFIX`: the dumb layout in memory.
#[derive(Clone)]
pub(crate) struct MigrationFixture {
    pub store: Arc<MemoryStore>,
    folders: Arc<Mutex<BTreeMap<String, PathBuf>>>,
    seen: Arc<Mutex<Seen>>,
    pub memory_mib: &'static str,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MigrationFixture {
    pub(crate) fn new() -> Self {
        let store = MemoryStore::with_options(MemoryStoreOptions {
            page: 1000,
            ..MemoryStoreOptions::default()
        });
        store.create_bucket(&bucket(), false);
        Self {
            store: Arc::new(store),
            folders: Arc::default(),
            seen: Arc::default(),
            memory_mib: "256",
        }
    }

    /// Makes `repo` the repository at `https://git.test/NAME` or `codecommit://NAME`.
    pub(crate) fn add(&self, name: &str, repo: &Repo) {
        lock(&self.folders).insert(name.to_owned(), repo.path.clone());
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        lock(&self.folders).get(name).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("there is no repository `{name}`"),
            )
        })
    }

    /// Invokes the function with `left` until its deadline, 10 seconds of margin included.
    pub(crate) async fn run_for(
        &self,
        event: Value,
        left: Duration,
    ) -> Result<Answer, InvocationError> {
        let settings = [
            ("MIGRATION_MEMORY_MIB", self.memory_mib),
            ("DEADLINE_MARGIN_SECONDS", "10"),
        ];
        let config =
            Config::read(&settings.into_iter().collect()).expect("because the settings are valid");
        let context = Arc::new(Context::new(config, Arc::new(self.clone())));
        // tokio's clock, because the system's goes on while tokio's is paused.
        let deadline = tokio::time::Instant::now() + left;
        handle(context, event, deadline.into_std()).await
    }

    pub(crate) async fn run(&self, event: Value) -> Result<Answer, InvocationError> {
        self.run_for(event, Duration::from_mins(15)).await
    }

    /// Content of an object in the bucket.
    pub(crate) fn file(&self, key: &str) -> Option<Vec<u8>> {
        let versions = self.store.versions(&bucket(), key);
        Some(versions.last()?.body.as_ref()?.to_vec())
    }

    /// Refs that a prefix of the bucket publishes, as git prints them.
    pub(crate) fn published(&self, prefix: &str) -> Option<String> {
        let text = String::from_utf8(self.file(&format!("{prefix}/info/refs"))?);
        let text = text.expect("because the test names are UTF-8");
        let refs = text.lines().filter(|line| !line.ends_with("^{}"));
        Some(
            refs.map(|line| line.replace('\t', " "))
                .collect::<Vec<_>>()
                .join("\n"),
        )
    }

    /// Content of the only pack of a prefix.
    pub(crate) fn pack(&self, prefix: &str) -> Vec<u8> {
        let list = self.file(&format!("{prefix}/objects/info/packs"));
        let list = String::from_utf8(list.expect("because the mirror wrote it"))
            .expect("because it is text");
        let mut packs = list.lines().filter_map(|line| line.strip_prefix("P "));
        let name = packs.next().expect("because the mirror wrote a pack");
        assert_eq!(packs.next(), None, "there is one pack");
        let pack = self.file(&format!("{prefix}/objects/pack/{name}"));
        pack.expect("because the list names it")
    }
}

/// Makes a source with 30 commits.
pub(crate) fn source() -> Repo {
    Repo::with_history(HashKind::Sha1, 30, 6)
}

/// Builds a mapping of all refs, with `prune`.
pub(crate) fn all_refs(source: &str, target: &str) -> Value {
    json!({ "source": source, "target": target, "refs": ["refs/*"], "prune": true })
}

pub(crate) fn request(mappings: &[Value]) -> Value {
    json!({ "mappings": mappings })
}

#[async_trait]
impl OpenRemote for MigrationFixture {
    async fn open(&self, spec: &RemoteSpec, memory: usize) -> Result<Arc<dyn Remote>> {
        self.seen().opened.push((spec.url.to_string(), memory));
        let limits = PackLimits::default().with_memory(memory / 2);
        Ok(match &spec.url {
            RemoteUrl::S3(url) => {
                let store = Arc::clone(&self.store) as Arc<dyn ObjectStore>;
                let prefix = url
                    .prefix
                    .clone()
                    .expect("because these tests name a prefix");
                let options = DumbOptions {
                    memory: memory / 8,
                    limits,
                    ..DumbOptions::default()
                };
                Arc::new(DumbRemote::new(store, url.bucket.clone(), prefix, options))
            }
            RemoteUrl::Http(url) => {
                let url = url.to_string();
                if url.contains("silent") {
                    tokio::time::sleep(Duration::from_hours(1)).await;
                }
                let name = url.rsplit('/').next().unwrap_or_default();
                Arc::new(LocalRepository::new(self.folder(name)?, limits))
            }
            RemoteUrl::CodeCommit(url) => Arc::new(StepwiseRemote {
                inner: LocalRepository::new(self.folder(url.repository.as_str())?, limits),
                name: url.repository.to_string(),
                fixture: self.clone(),
            }),
            RemoteUrl::Local(_) => panic!("the function never opens a local path"),
        })
    }
}

/// A local repository whose pushes are slow and change few refs.
struct StepwiseRemote {
    inner: LocalRepository,
    name: String,
    fixture: MigrationFixture,
}

impl fmt::Display for StepwiseRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "codecommit://{}", self.name)
    }
}

#[async_trait]
impl Remote for StepwiseRemote {
    async fn source(&self, prefixes: &[bstr::BString]) -> Result<Box<dyn Source>> {
        self.inner.source(prefixes).await
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        Ok(Box::new(StepwiseTarget {
            inner: self.inner.target().await?,
            name: self.name.clone(),
            fixture: self.fixture.clone(),
        }))
    }
}

struct StepwiseTarget {
    inner: Box<dyn Target>,
    name: String,
    fixture: MigrationFixture,
}

/// Counts a push as in flight until it is dropped.
struct InFlight<'a>(&'a StepwiseTarget);

impl<'a> InFlight<'a> {
    fn begin(target: &'a StepwiseTarget) -> Self {
        let mut seen = target.fixture.seen();
        *seen.in_flight.entry(target.name.clone()).or_default() += 1;
        let total = seen.in_flight.values().sum();
        let here = seen.in_flight[&target.name];
        seen.peak = (seen.peak.0.max(total), seen.peak.1.max(here));
        Self(target)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut seen = self.0.fixture.seen();
        if let Some(here) = seen.in_flight.get_mut(&self.0.name) {
            *here -= 1;
        }
    }
}

#[async_trait]
impl Target for StepwiseTarget {
    fn snapshot(&self) -> &Snapshot {
        self.inner.snapshot()
    }

    fn capabilities(&self) -> TargetCapabilities {
        TargetCapabilities {
            max_changes: MAX_CHANGES,
            batches: BatchPolicy::ByCommits,
            ..self.inner.capabilities()
        }
    }

    fn accepts_head(&self, head: &Head) -> bool {
        self.inner.accepts_head(head)
    }

    async fn haves(&self) -> Result<Vec<ObjectId>> {
        self.inner.haves().await
    }

    async fn push(&mut self, push: Push) -> Result<PushReport> {
        {
            let _in_flight = InFlight::begin(self);
            tokio::time::sleep(PUSH).await;
        }
        self.inner.push(push).await
    }
}
