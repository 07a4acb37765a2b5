//! A bucket in memory, and writes of the Python client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use branchline_core::Result;
use branchline_core::mirror::{self, MirrorOptions, MirrorStats, RefSelection};
use branchline_core::name::{BucketName, KeyPrefix, ObjectKey};
use branchline_core::remote::s3_bundle::{BundleOptions, BundleRemote};
use branchline_core::remote::{Head, PackBody, PackRequest, Remote as _, Snapshot};
use branchline_core::storage::{ObjectStore, ObjectStoreExt as _, PutOptions};
use branchline_core::testkit::{MemoryStore, MemoryStoreOptions};
use bytes::Bytes;

use branchline_test_support::git_remote::GitRemote;
use branchline_test_support::repo::Repo;

/// A bucket, and the clock for the age of locks.
pub(crate) struct BundleFixture {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) bucket: BucketName,
    pub(crate) clock: Arc<AtomicI64>,
}

impl BundleFixture {
    /// Creates a bucket with this minimum size of parts.
    pub(crate) fn new(min_part_bytes: usize) -> Self {
        let store = MemoryStore::with_options(MemoryStoreOptions {
            page: 1000,
            min_part_bytes,
        });
        let bucket = BucketName::new("bucket").unwrap();
        store.create_bucket(&bucket, false);
        Self {
            store: Arc::new(store),
            bucket,
            clock: Arc::new(AtomicI64::new(1_700_000_000)),
        }
    }

    pub(crate) fn options(&self) -> BundleOptions {
        let clock = Arc::clone(&self.clock);
        BundleOptions {
            clock: Arc::new(move || clock.load(Ordering::Relaxed)),
            ..BundleOptions::default()
        }
    }

    pub(crate) fn remote(&self, prefix: &str) -> BundleRemote {
        self.remote_with(prefix, self.options())
    }

    pub(crate) fn remote_with(&self, prefix: &str, options: BundleOptions) -> BundleRemote {
        self.remote_over(Arc::<MemoryStore>::clone(&self.store), prefix, options)
    }

    pub(crate) fn remote_over(
        &self,
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        options: BundleOptions,
    ) -> BundleRemote {
        let prefix = KeyPrefix::new(prefix).unwrap();
        BundleRemote::new(store, self.bucket.clone(), prefix, options)
    }

    pub(crate) async fn put(&self, key: &str, body: impl Into<Bytes>) {
        let key = ObjectKey::new(key).unwrap();
        let options = PutOptions::default();
        self.store
            .put(&self.bucket, &key, body.into(), &options)
            .await
            .unwrap();
    }

    pub(crate) async fn get(&self, key: &str) -> Bytes {
        let key = ObjectKey::new(key).unwrap();
        self.store
            .get(&self.bucket, &key, None, None)
            .await
            .unwrap()
    }

    /// Lists all keys with the sizes of their objects.
    pub(crate) async fn objects(&self) -> BTreeMap<String, u64> {
        let mut next = None;
        let mut objects = BTreeMap::new();
        loop {
            let page = self
                .store
                .list(&self.bucket, "", None, next.as_deref())
                .await
                .unwrap();
            let listed = page.objects.into_iter();
            objects.extend(listed.map(|object| (object.key.to_string(), object.size_bytes)));
            next = page.next;
            if next.is_none() {
                return objects;
            }
        }
    }

    pub(crate) async fn keys(&self) -> Vec<String> {
        self.objects().await.into_keys().collect()
    }

    /// Writes a bundle as the Python client does: `git bundle create` of a name.
    pub(crate) async fn python_push(&self, repo: &Repo, prefix: &str, source: &str, name: &str) {
        let id = repo.id(source);
        let bundle = bundle(repo, &[source]);
        self.put(&format!("{prefix}/{name}/{id}.bundle"), bundle)
            .await;
    }
}

/// Runs `git bundle create` with these arguments; returns the bundle.
pub(crate) fn bundle(repo: &Repo, arguments: &[&str]) -> Vec<u8> {
    let (options, revisions): (Vec<&str>, Vec<&str>) =
        arguments.iter().partition(|word| word.starts_with("--"));
    repo.bytes(
        &[
            &["bundle", "create", "--quiet"],
            &options[..],
            &["-"],
            &revisions,
        ]
        .concat(),
    )
}

/// Mirrors all refs of a repository.
pub(crate) async fn mirror_all(repo: &Repo, remote: &BundleRemote) -> Result<MirrorStats> {
    let options = MirrorOptions {
        refs: RefSelection::new(["refs/*"]).unwrap(),
        prune: true,
        ..MirrorOptions::default()
    };
    let outcome = mirror::mirror(&GitRemote::new(repo), remote, &options, None).await?;
    assert!(outcome.complete, "a mirroring without a deadline ends");
    Ok(outcome)
}

/// Fetches everything from the remote into a new repository, and checks it with git.
pub(crate) async fn fetch_all(remote: &BundleRemote) -> Repo {
    let source = remote.source(&[]).await.unwrap();
    let snapshot = source.snapshot();
    let repo = Repo::new(snapshot.hash);
    for id in snapshot.tips() {
        // One request for each tip, so that bundles are streamed unchanged.
        let wanted = PackRequest {
            wants: vec![id],
            haves: Vec::new(),
            thin: false,
            offset_deltas: true,
        };
        let pack = collect(source.fetch(&wanted).await.unwrap()).await.unwrap();
        repo.index_pack(&pack, false);
    }
    set_refs(&repo, snapshot);
    repo
}

pub(crate) fn set_refs(repo: &Repo, snapshot: &Snapshot) {
    for (name, target) in &snapshot.refs {
        repo.git(&["update-ref", &name.to_string(), &target.id.to_string()]);
    }
    if let Some(Head::Symbolic(name)) = &snapshot.head {
        repo.git(&["symbolic-ref", "HEAD", &name.to_string()]);
    }
    repo.fsck();
}

pub(crate) async fn collect(mut body: PackBody) -> Result<Vec<u8>> {
    use futures_util::StreamExt as _;
    let mut out = Vec::new();
    while let Some(bytes) = body.next().await {
        out.extend_from_slice(&bytes?);
    }
    Ok(out)
}
