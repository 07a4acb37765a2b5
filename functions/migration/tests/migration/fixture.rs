//! Remotes in memory and in temporary folders, behind the function's `Connect`.

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
use branchline_core::remote::s3_dumb::{DumbOptions, S3Dumb};
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
    BucketName::new("mirrors").expect("it is valid")
}

/// How long a push to `codecommit://..` takes.
pub(crate) const PUSH: Duration = Duration::from_secs(10);
/// How many refs one changes.
pub(crate) const CHANGES: usize = 2;

/// What the remotes saw.
#[derive(Default)]
pub(crate) struct Seen {
    /// Each opening, with the memory that it may use.
    pub opened: Vec<(String, usize)>,
    /// Pushes under way, by target.
    under_way: BTreeMap<String, usize>,
    /// The most pushes at once: of all, and of any one target.
    pub most: (usize, usize),
}

/// The places that URLs lead to:
///
/// - `https://git.test/NAME`: a repository in a folder, if it was added;
/// - `https://silent.test/..`: never answers;
/// - `codecommit://NAME`: a repository in a folder, pushed to slowly and in steps;
/// - `s3://mirrors/PREFIX`: the dumb layout in memory.
#[derive(Clone)]
pub(crate) struct World {
    pub store: Arc<MemoryStore>,
    folders: Arc<Mutex<BTreeMap<String, PathBuf>>>,
    seen: Arc<Mutex<Seen>>,
    pub memory_mib: &'static str,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
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

    /// Has `https://git.test/NAME` or `codecommit://NAME` lead to a repository.
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

    /// One invocation that may take so long, 10 seconds of margin included.
    pub(crate) async fn run_for(
        &self,
        event: Value,
        left: Duration,
    ) -> Result<Answer, InvocationError> {
        let settings = [
            ("MIGRATION_MEMORY_MIB", self.memory_mib),
            ("DEADLINE_MARGIN_SECONDS", "10"),
        ];
        let config = Config::read(&settings.into_iter().collect()).expect("it is valid");
        let context = Arc::new(Context::new(config, Arc::new(self.clone())));
        // Where time is paused, tokio's goes on without the system's.
        let deadline = tokio::time::Instant::now() + left;
        handle(context, event, deadline.into_std()).await
    }

    pub(crate) async fn run(&self, event: Value) -> Result<Answer, InvocationError> {
        self.run_for(event, Duration::from_mins(15)).await
    }

    /// A file in the bucket.
    pub(crate) fn file(&self, key: &str) -> Option<Vec<u8>> {
        let versions = self.store.versions(&bucket(), key);
        Some(versions.last()?.body.as_ref()?.to_vec())
    }

    /// The refs that a prefix of the bucket publishes, as git prints them.
    pub(crate) fn published(&self, prefix: &str) -> Option<String> {
        let text = String::from_utf8(self.file(&format!("{prefix}/info/refs"))?);
        let text = text.expect("names are UTF-8 here");
        let refs = text.lines().filter(|line| !line.ends_with("^{}"));
        Some(
            refs.map(|line| line.replace('\t', " "))
                .collect::<Vec<_>>()
                .join("\n"),
        )
    }

    /// The only pack of a prefix.
    pub(crate) fn pack(&self, prefix: &str) -> Vec<u8> {
        let list = self.file(&format!("{prefix}/objects/info/packs"));
        let list = String::from_utf8(list.expect("it is written")).expect("it is text");
        let mut packs = list.lines().filter_map(|line| line.strip_prefix("P "));
        let name = packs.next().expect("there is a pack");
        assert_eq!(packs.next(), None, "there is one pack");
        let pack = self.file(&format!("{prefix}/objects/pack/{name}"));
        pack.expect("it is there")
    }
}

/// A source with 30 commits and its refs.
pub(crate) fn source() -> Repo {
    Repo::with_history(HashKind::Sha1, 30, 6)
}

/// A mapping of all refs, deletions too.
pub(crate) fn all(source: &str, target: &str) -> Value {
    json!({ "source": source, "target": target, "refs": ["refs/*"], "prune": true })
}

pub(crate) fn request(mappings: &[Value]) -> Value {
    json!({ "mappings": mappings })
}

#[async_trait]
impl OpenRemote for World {
    async fn open(&self, place: &RemoteSpec, memory: usize) -> Result<Arc<dyn Remote>> {
        self.seen().opened.push((place.url.to_string(), memory));
        let limits = PackLimits::default().with_memory(memory / 2);
        Ok(match &place.url {
            RemoteUrl::S3(url) => {
                let store = Arc::clone(&self.store) as Arc<dyn ObjectStore>;
                let prefix = url.prefix.clone().expect("these tests name one");
                let options = DumbOptions {
                    memory: memory / 8,
                    limits,
                    ..DumbOptions::default()
                };
                Arc::new(S3Dumb::new(store, url.bucket.clone(), prefix, options))
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
                world: self.clone(),
            }),
            RemoteUrl::Local(_) => panic!("the function opens none"),
        })
    }
}

/// A repository to which each push changes few refs and takes its time.
struct StepwiseRemote {
    inner: LocalRepository,
    name: String,
    world: World,
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
            world: self.world.clone(),
        }))
    }
}

struct StepwiseTarget {
    inner: Box<dyn Target>,
    name: String,
    world: World,
}

/// A push under way, until it is dropped.
struct UnderWay<'a>(&'a StepwiseTarget);

impl<'a> UnderWay<'a> {
    fn begin(target: &'a StepwiseTarget) -> Self {
        let mut seen = target.world.seen();
        *seen.under_way.entry(target.name.clone()).or_default() += 1;
        let all = seen.under_way.values().sum();
        let here = seen.under_way[&target.name];
        seen.most = (seen.most.0.max(all), seen.most.1.max(here));
        Self(target)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut seen = self.0.world.seen();
        if let Some(here) = seen.under_way.get_mut(&self.0.name) {
            *here -= 1;
        }
    }
}

#[async_trait]
impl Target for StepwiseTarget {
    fn snapshot(&self) -> &Snapshot {
        self.inner.snapshot()
    }

    fn accepts(&self) -> TargetCapabilities {
        TargetCapabilities {
            max_changes: CHANGES,
            batches: BatchPolicy::ByCommits,
            ..self.inner.accepts()
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
            let _under_way = UnderWay::begin(self);
            tokio::time::sleep(PUSH).await;
        }
        self.inner.push(push).await
    }
}
