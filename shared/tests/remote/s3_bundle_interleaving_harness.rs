//! Writers of one ref, ours and the Python client's, whose calls are executed one by one, and
//! the invariants of the result.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use async_trait::async_trait;
use branchline_core::git::pack::PackLimits;
use branchline_core::git::{HashKind, ObjectId};
use branchline_core::name::{BucketName, ObjectKey};
use branchline_core::remote::s3_bundle::BundleRemote;
use branchline_core::remote::{
    IncomingOptions, IncomingPack, PackRequest, Push, RefOutcome, RefUpdate, RefValue, Remote,
};
use branchline_core::storage::{
    CopySource, Deletion, GetOptions, ListPage, MultipartUpload, Object, ObjectHead, ObjectStore,
    ObjectStoreExt as _, Part, Precondition, PutOptions, PutResult, Tags, UploadId, UploadStart,
};
use branchline_core::testkit::MemoryStore;
use branchline_core::{ErrorKind, Result};
use bytes::Bytes;
use proptest::prelude::*;

use crate::remote::s3_bundle_fixture::{BundleFixture, bundle};
use branchline_test_support::git_remote::pack_objects;
use branchline_test_support::repo::Repo;

pub(crate) const REF: &str = "refs/heads/main";
pub(crate) const FOLDER: &str = "r/refs/heads/main/";

/// Commits, bundles and packs for all cases: `base`, and three commits on top of it.
pub(crate) struct Scenery {
    pub(crate) base: ObjectId,
    pub(crate) base_bundle: Bytes,
    pub(crate) writers: Vec<Commit>,
    /// A commit that does not descend from `base`.
    parents: BTreeMap<ObjectId, ObjectId>,
}

pub(crate) struct Commit {
    id: ObjectId,
    /// Bundle as the Python client uploads it.
    bundle: Bytes,
    /// Pack as it is pushed to our client.
    pack: Bytes,
}

pub(crate) static SCENERY: LazyLock<Scenery> = LazyLock::new(|| {
    let repo = Repo::new(HashKind::Sha1);
    let commit = |parent: Option<&str>, name: &str| {
        let blob = repo.input(&["hash-object", "-w", "--stdin"], name.as_bytes());
        let blob = String::from_utf8(blob).unwrap();
        let tree = format!("100644 blob {}\tf\n", blob.trim());
        let tree = String::from_utf8(repo.input(&["mktree"], tree.as_bytes())).unwrap();
        let mut args = vec!["commit-tree", tree.trim(), "-m", name];
        args.extend(parent.iter().flat_map(|parent| ["-p", parent]));
        let id = repo.git(&args);
        repo.git(&["branch", name, &id]);
        id
    };
    let base = commit(None, "base");
    let writers = (0..3).map(|n| {
        let name = format!("w{n}");
        let id = commit(Some(&base), &name);
        let id = ObjectId::from_hex(id.as_bytes()).unwrap();
        let wanted = PackRequest {
            wants: vec![id],
            haves: vec![repo.id("base")],
            thin: false,
            offset_deltas: true,
        };
        Commit {
            id,
            bundle: bundle(&repo, &[&name]).into(),
            pack: pack_objects(&repo.path, &wanted).unwrap().into(),
        }
    });
    let writers: Vec<_> = writers.collect();
    let base = repo.id("base");
    Scenery {
        base,
        base_bundle: bundle(&repo, &["base"]).into(),
        parents: writers.iter().map(|writer| (writer.id, base)).collect(),
        writers,
    }
});

/// Executes the calls of a writer one by one, and dates locks by the world's clock.
#[derive(Clone)]
pub(crate) struct Gated {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) clock: Arc<AtomicI64>,
    /// Time at which each lock was written.
    pub(crate) written: Arc<Mutex<BTreeMap<ObjectKey, i64>>>,
    pub(crate) gate: Arc<dyn Gate>,
}

/// Gate that every call of a writer passes.
#[async_trait]
pub(crate) trait Gate: Send + Sync {
    /// Waits for the writer's turn.
    async fn pass(&self);

    /// Records an executed call and its keys.
    fn executed(&self, call: Call<'_>) {
        let _ = call;
    }
}

/// A call that was executed.
pub(crate) struct Call<'a> {
    pub(crate) name: &'static str,
    /// Keys that it names or lists.
    pub(crate) keys: Vec<&'a ObjectKey>,
    pub(crate) failed: Option<ErrorKind>,
}

impl<'a> Call<'a> {
    fn new<T>(name: &'static str, key: &'a ObjectKey, result: &Result<T>) -> Self {
        Self {
            name,
            keys: vec![key],
            failed: result.as_ref().err().map(branchline_core::Error::kind),
        }
    }
}

impl Gated {
    fn date(&self, key: &ObjectKey, last_modified: &mut i64) {
        if let Some(at) = self.written.lock().unwrap().get(key) {
            *last_modified = *at;
        }
    }
}

impl Gated {
    /// Runs a call once the gate lets it pass.
    async fn gated<T>(
        &self,
        name: &'static str,
        key: &ObjectKey,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.gate.pass().await;
        let result = call.await;
        self.gate.executed(Call::new(name, key, &result));
        result
    }
}

#[async_trait]
impl ObjectStore for Gated {
    async fn is_versioned(&self, bucket: &BucketName) -> Result<bool> {
        self.store.is_versioned(bucket).await
    }

    async fn head(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<ObjectHead>> {
        let mut result = self.gated("head", key, self.store.head(bucket, key)).await;
        if let Ok(Some(head)) = &mut result {
            self.date(key, &mut head.last_modified);
        }
        result
    }

    async fn get_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &GetOptions<'_>,
    ) -> Result<Object> {
        let call = self.store.get_object(bucket, key, options);
        self.gated("get", key, call).await
    }

    async fn list(
        &self,
        bucket: &BucketName,
        prefix: &str,
        delimiter: Option<&str>,
        next: Option<&str>,
    ) -> Result<ListPage> {
        self.gate.pass().await;
        let mut page = self.store.list(bucket, prefix, delimiter, next).await?;
        for object in &mut page.objects {
            self.date(&object.key, &mut object.last_modified);
        }
        self.gate.executed(Call {
            name: "list",
            keys: page.objects.iter().map(|object| &object.key).collect(),
            failed: None,
        });
        Ok(page)
    }

    async fn put(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutResult> {
        let call = self.store.put(bucket, key, body, options);
        let result = self.gated("put", key, call).await;
        if result.is_ok() && key.as_str().ends_with("LOCK#.lock") {
            let now = self.clock.load(Ordering::Relaxed);
            self.written.lock().unwrap().insert(key.clone(), now);
        }
        result
    }

    async fn delete_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        deletion: Deletion<'_>,
    ) -> Result<()> {
        let name = match deletion {
            Deletion::Current(_) => "delete",
            Deletion::Version(_) => "delete_version",
        };
        let call = self.store.delete_object(bucket, key, deletion);
        self.gated(name, key, call).await
    }

    // Creating an upload and sending parts pass no gate, because other writers do not see
    // an upload until it is completed.
    async fn open_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        start: UploadStart<'_>,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(GatedUpload {
            inner: self.store.open_upload(bucket, key, start).await?,
            writer: self.clone(),
            key: key.clone(),
        }))
    }

    async fn tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        replacement: Option<&Tags>,
    ) -> Result<Tags> {
        let call = self.store.tags(bucket, key, version, replacement);
        self.gated("tags", key, call).await
    }
}

/// A multipart upload of a [`Gated`] store.
struct GatedUpload {
    inner: Box<dyn MultipartUpload>,
    writer: Gated,
    key: ObjectKey,
}

#[async_trait]
impl MultipartUpload for GatedUpload {
    fn id(&self) -> UploadId {
        self.inner.id()
    }

    async fn part(&self, number: u32, body: Bytes) -> Result<Part> {
        self.inner.part(number, body).await
    }

    async fn part_copy(
        &self,
        number: u32,
        source: CopySource<'_>,
        range: Range<u64>,
    ) -> Result<Part> {
        let call = self.inner.part_copy(number, source, range);
        self.writer.gated("upload_part_copy", &self.key, call).await
    }

    async fn complete(&self, parts: &[Part], precondition: &Precondition) -> Result<PutResult> {
        let call = self.inner.complete(parts, precondition);
        self.writer.gated("complete_upload", &self.key, call).await
    }

    async fn abort(&self) -> Result<()> {
        let call = self.inner.abort();
        self.writer.gated("abort_upload", &self.key, call).await
    }
}

/// Result that a writer reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum WriterResult {
    Ok,
    Refused,
}

/// A writer at work.
pub(crate) type Writer = Pin<Box<dyn Future<Output = WriterResult> + Send>>;

/// Push of our client: opens the remote and pushes onto `base`.
pub(crate) async fn ours(remote: BundleRemote, number: usize) -> WriterResult {
    let scenery = &*SCENERY;
    let commit = &scenery.writers[number];
    let Ok(mut target) = remote.target().await else {
        return WriterResult::Refused;
    };
    let at = target.snapshot().refs.get(bstr::BStr::new(REF)).copied();
    if at.is_none_or(|at| at.id != scenery.base) {
        return WriterResult::Refused;
    }
    let options = IncomingOptions {
        hash: HashKind::Sha1,
        limits: PackLimits::default(),
        scanner: None,
        commits: None,
    };
    let body = Box::pin(futures_util::stream::iter([Ok(commit.pack.clone())]));
    let change = RefUpdate {
        name: REF.into(),
        old: Some(scenery.base),
        new: Some(RefValue {
            id: commit.id,
            peeled: None,
        }),
    };
    let push = Push {
        changes: vec![change],
        pack: Some(IncomingPack::new(body, &options)),
        ..Push::default()
    };
    match target.push(push).await {
        Ok(report) => {
            assert_eq!(report.refs[0].1, RefOutcome::Done);
            WriterResult::Ok
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{}", error.report());
            WriterResult::Refused
        }
    }
}

/// Push of the Python client: its requests and decisions.
pub(crate) async fn python(
    store: Arc<dyn ObjectStore>,
    bucket: BucketName,
    now: impl Fn() -> i64 + Send,
    n: usize,
) -> WriterResult {
    let scenery = &*SCENERY;
    let commit = &scenery.writers[n];
    let key = |key: &str| ObjectKey::new(&format!("{FOLDER}{key}")).unwrap();
    let bundles = async || {
        let page = store.list(&bucket, FOLDER, None, None).await.unwrap();
        let keys = page.objects.into_iter().map(|object| object.key);
        let keys = keys.filter(|key| {
            let key = key.as_str();
            !key.contains("PROTECTED#") && !key.contains(".zip") && !key.contains("LOCK#")
        });
        keys.collect::<Vec<_>>()
    };
    let before = bundles().await;
    if before.len() > 1 {
        return WriterResult::Refused;
    }
    let base = key(&format!("{}.bundle", scenery.base));
    // `git merge-base --is-ancestor`: it knows only `base`.
    if before.first().is_some_and(|key| *key != base) {
        return WriterResult::Refused;
    }
    let lock = key("LOCK#.lock");
    let only_new = PutOptions {
        precondition: Precondition::Absent,
        ..PutOptions::default()
    };
    let mut lock_of_ours = store
        .put(&bucket, &lock, Bytes::new(), &only_new)
        .await
        .is_ok();
    if !lock_of_ours
        && let Some(head) = store.head(&bucket, &lock).await.unwrap()
        && now() - head.last_modified > 60
    {
        let any = Precondition::None;
        store.delete(&bucket, &lock, &any).await.unwrap();
        lock_of_ours = store
            .put(&bucket, &lock, Bytes::new(), &only_new)
            .await
            .is_ok();
    }
    if !lock_of_ours {
        return WriterResult::Refused;
    }
    let reported = if bundles().await == before {
        let new = key(&format!("{}.bundle", commit.id));
        let plain = PutOptions::default();
        store
            .put(&bucket, &new, commit.bundle.clone(), &plain)
            .await
            .unwrap();
        let head = ObjectKey::new("r/HEAD").unwrap();
        if store.head(&bucket, &head).await.unwrap().is_none() {
            store.put(&bucket, &head, REF.into(), &plain).await.unwrap();
        }
        for old in &before {
            store
                .delete(&bucket, old, &Precondition::None)
                .await
                .unwrap();
        }
        WriterResult::Ok
    } else {
        WriterResult::Refused
    };
    store
        .delete(&bucket, &lock, &Precondition::None)
        .await
        .unwrap();
    reported
}

/// Checks the refs of the remote at the end, and after a repair.
pub(crate) async fn judge(
    world: &BundleFixture,
    reported: &[Option<WriterResult>],
    python: &[bool],
) -> Result<(), TestCaseError> {
    let scenery = &*SCENERY;
    // All locks expire.
    world.clock.fetch_add(100_000, Ordering::Relaxed);
    let acknowledged: BTreeSet<ObjectId> = reported
        .iter()
        .zip(&scenery.writers)
        .filter(|(reported, _)| **reported == Some(WriterResult::Ok))
        .map(|(_, writer)| writer.id)
        .collect();
    let of_ours = reported.iter().zip(python);
    let of_ours =
        of_ours.filter(|(reported, python)| **reported == Some(WriterResult::Ok) && !**python);
    prop_assert!(of_ours.count() <= 1, "one of ours wins: {reported:?}");
    if !python.contains(&true) {
        prop_assert!(acknowledged.len() <= 1);
    }
    let remote = world.remote("r");
    for repaired in [false, true] {
        let source = remote.source(&[]).await.unwrap();
        let refs = &source.snapshot().refs;
        prop_assert!(refs.contains_key(bstr::BStr::new(REF)), "the ref is there");
        let listed: BTreeSet<ObjectId> = refs.values().map(|target| target.id).collect();
        for id in &acknowledged {
            prop_assert!(
                listed.contains(id),
                "{id} was acknowledged, and is not there: {refs:?}"
            );
        }
        if !acknowledged.is_empty() {
            let at = refs[bstr::BStr::new(REF)].id;
            prop_assert!(scenery.parents.contains_key(&at), "the ref has moved on");
        }
        if !python.contains(&true) {
            prop_assert_eq!(refs.len(), 1, "pushes of ours leave one ref: {:?}", refs);
        }
        for target in refs.values() {
            let wanted = PackRequest {
                wants: vec![target.id],
                haves: Vec::new(),
                thin: false,
                offset_deltas: true,
            };
            let pack = source.fetch(&wanted).await.unwrap();
            let pack = crate::remote::s3_bundle_fixture::collect(pack)
                .await
                .unwrap();
            prop_assert!(pack.starts_with(b"PACK"));
        }
        if !repaired {
            remote.repair().await.unwrap();
        }
    }
    let mut folders = BTreeMap::new();
    for key in world.keys().await {
        if key.ends_with(".bundle") {
            let folder = key.rsplit_once('/').unwrap().0.to_owned();
            *folders.entry(folder).or_insert(0) += 1;
        }
    }
    prop_assert!(
        folders.values().all(|count| *count == 1),
        "one bundle a ref: {folders:?}"
    );
    Ok(())
}

/// Starts the writers over a remote with `base`, each behind its gate.
pub(crate) async fn start(
    world: &BundleFixture,
    python_writers: &[bool],
    gate: impl Fn(usize) -> Arc<dyn Gate>,
) -> Vec<Writer> {
    let scenery = &*SCENERY;
    let key = format!("{FOLDER}{}.bundle", scenery.base);
    world.put(&key, scenery.base_bundle.clone()).await;
    world.put("r/HEAD", REF).await;
    let written = Arc::default();
    let writers = python_writers.iter().enumerate();
    writers
        .map(|(number, is_python)| -> Writer {
            let store = Arc::new(Gated {
                store: Arc::clone(&world.store),
                clock: Arc::clone(&world.clock),
                written: Arc::clone(&written),
                gate: gate(number),
            });
            if *is_python {
                let clock = Arc::clone(&world.clock);
                let now = move || clock.load(Ordering::Relaxed);
                Box::pin(python(store, world.bucket.clone(), now, number))
            } else {
                let remote = world.remote_over(store, "r", world.options());
                Box::pin(ours(remote, number))
            }
        })
        .collect()
}
