//! Pushes at the same time, step by step in every order: ours and the Python client's, with
//! writers that die and locks that grow old at any point.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use branchline_core::git::pack::Limits;
use branchline_core::git::{HashKind, ObjectId};
use branchline_core::name::{BucketName, ObjectKey};
use branchline_core::remote::s3_bundle::BundleRemote;
use branchline_core::remote::{
    Incoming, IncomingOptions, Push, RefChange, RefOutcome, RefTarget, Remote, Wanted,
};
use branchline_core::storage::{
    ETag, ListPage, ObjectHead, ObjectStore, Part, Precondition, PutOptions, UploadId, Written,
};
use branchline_core::testkit::MemoryStore;
use branchline_core::{ErrorKind, Result};
use bytes::Bytes;
use proptest::prelude::*;

use crate::repo::Repo;
use crate::s3_bundle_world::{World, bundle, pack_objects};

const REF: &str = "refs/heads/main";
const FOLDER: &str = "r/refs/heads/main/";

/// Commits, bundles and packs for all cases: `base`, and three commits on top of it.
struct Scenery {
    base: ObjectId,
    base_bundle: Bytes,
    writers: Vec<Commit>,
    /// One that is no descendant of `base`.
    parents: BTreeMap<ObjectId, ObjectId>,
}

struct Commit {
    id: ObjectId,
    /// As the Python client uploads it.
    bundle: Bytes,
    /// As it is sent to us.
    pack: Bytes,
}

static SCENERY: LazyLock<Scenery> = LazyLock::new(|| {
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
        let wanted = Wanted {
            wants: vec![id],
            haves: vec![repo.id("base")],
            thin: false,
            offset_deltas: true,
        };
        Commit {
            id,
            bundle: bundle(&repo, &[&name]).into(),
            pack: pack_objects(&repo.path, repo.hash, &wanted).into(),
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

/// Stops before every call until it is let through, and dates locks by the world's clock.
struct Gated {
    store: Arc<MemoryStore>,
    clock: Arc<AtomicI64>,
    written: Arc<Mutex<BTreeMap<ObjectKey, i64>>>,
}

impl Gated {
    fn date(&self, key: &ObjectKey, last_modified: &mut i64) {
        if let Some(at) = self.written.lock().unwrap().get(key) {
            *last_modified = *at;
        }
    }
}

/// Pending once: the scheduler polls a writer once for each step.
struct Step(bool);

impl Future for Step {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            Poll::Ready(())
        } else {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    }
}

macro_rules! gated {
    ($(fn $name:ident(&self $(, $arg:ident: $type:ty)* $(,)?) -> $result:ty;)*) => {
        #[async_trait]
        impl ObjectStore for Gated {
            async fn head(
                &self,
                bucket: &BucketName,
                key: &ObjectKey,
            ) -> Result<Option<ObjectHead>> {
                Step(false).await;
                let mut head = self.store.head(bucket, key).await?;
                if let Some(head) = &mut head {
                    self.date(key, &mut head.last_modified);
                }
                Ok(head)
            }
            async fn list(
                &self,
                bucket: &BucketName,
                prefix: &str,
                delimiter: Option<&str>,
                next: Option<&str>,
            ) -> Result<ListPage> {
                Step(false).await;
                let mut page = self.store.list(bucket, prefix, delimiter, next).await?;
                for object in &mut page.objects {
                    self.date(&object.key, &mut object.last_modified);
                }
                Ok(page)
            }
            async fn put(
                &self,
                bucket: &BucketName,
                key: &ObjectKey,
                body: Bytes,
                options: &PutOptions,
            ) -> Result<Written> {
                Step(false).await;
                let written = self.store.put(bucket, key, body, options).await?;
                if key.as_str().ends_with("LOCK#.lock") {
                    let now = self.clock.load(Ordering::Relaxed);
                    self.written.lock().unwrap().insert(key.clone(), now);
                }
                Ok(written)
            }
            $(
                async fn $name(&self $(, $arg: $type)*) -> $result {
                    Step(false).await;
                    self.store.$name($($arg),*).await
                }
            )*
        }
    };
}

gated! {
    fn is_versioned(&self, bucket: &BucketName) -> Result<bool>;
    fn get(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        range: Option<Range<u64>>,
    ) -> Result<Bytes>;
    fn read(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<(Bytes, ETag)>>;
    fn delete_version(&self, bucket: &BucketName, key: &ObjectKey, version: &str) -> Result<()>;
    fn delete(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        precondition: &Precondition,
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
    ) -> Result<Written>;
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

/// What a writer was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Ok,
    Refused,
}

/// One of ours: opens the remote and pushes on top of `base`.
async fn ours(remote: BundleRemote, number: usize) -> Told {
    let scenery = &*SCENERY;
    let commit = &scenery.writers[number];
    let Ok(mut target) = remote.target().await else {
        return Told::Refused;
    };
    let at = target.snapshot().refs.get(bstr::BStr::new(REF)).copied();
    if at.is_none_or(|at| at.id != scenery.base) {
        return Told::Refused;
    }
    let options = IncomingOptions {
        hash: HashKind::Sha1,
        limits: Limits::default(),
        pointers: false,
    };
    let body = Box::pin(futures_util::stream::iter([Ok(commit.pack.clone())]));
    let change = RefChange {
        name: REF.into(),
        old: Some(scenery.base),
        new: Some(RefTarget {
            id: commit.id,
            peeled: None,
        }),
    };
    let push = Push {
        changes: vec![change],
        pack: Some(Incoming::new(body, &options)),
        ..Push::default()
    };
    match target.push(push).await {
        Ok(report) => {
            assert_eq!(report.refs[0].1, RefOutcome::Done);
            Told::Ok
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{}", error.report());
            Told::Refused
        }
    }
}

/// The requests of the Python client's push, one by one, and its decisions on them.
async fn python(store: Arc<Gated>, bucket: BucketName, now: impl Fn() -> i64, n: usize) -> Told {
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
        return Told::Refused;
    }
    let base = key(&format!("{}.bundle", scenery.base));
    // `git merge-base --is-ancestor`: it knows `base` alone.
    if before.first().is_some_and(|key| *key != base) {
        return Told::Refused;
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
        return Told::Refused;
    }
    let told = if bundles().await == before {
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
        Told::Ok
    } else {
        Told::Refused
    };
    store
        .delete(&bucket, &lock, &Precondition::None)
        .await
        .unwrap();
    told
}

#[derive(Debug, Clone, Copy)]
enum Turn {
    /// That writer's next request is executed.
    Step(usize),
    /// That writer dies.
    Kill(usize),
    /// All locks that nobody renews are old now.
    Age,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    // Some requests of one writer at once, so that others may be left behind anywhere.
    let run = (0..3_usize, prop_oneof![1..4_usize, 1..40_usize])
        .prop_map(|(writer, steps)| vec![Turn::Step(writer); steps]);
    let turn = prop_oneof![
        8 => run,
        1 => (0..3_usize).prop_map(|writer| vec![Turn::Kill(writer)]),
        3 => Just(vec![Turn::Age]),
    ];
    prop::collection::vec(turn, 0..24).prop_map(|turns| turns.concat())
}

type Writer = Pin<Box<dyn Future<Output = Told>>>;

/// Runs the writers by these turns, and to their ends after that.
async fn play(
    world: &World,
    mut writers: Vec<Option<Writer>>,
    turns: &[Turn],
) -> Vec<Option<Told>> {
    let mut told = vec![None; writers.len()];
    let mut context = Context::from_waker(Waker::noop());
    let mut turns = turns.iter().copied();
    let mut round = 0;
    let mut quiet = 0;
    while writers.iter().any(Option::is_some) {
        let turn = turns.next().unwrap_or_else(|| {
            round += 1;
            Turn::Step(round % writers.len())
        });
        match turn {
            Turn::Age => {
                world.clock.fetch_add(1000, Ordering::Relaxed);
            }
            Turn::Kill(writer) => {
                // Its requests end with it. What its destructors would still do is not
                // waited for: a process that is killed has none.
                if let Some(writer) = writers.get_mut(writer).and_then(Option::take) {
                    std::mem::forget(writer);
                }
            }
            Turn::Step(writer) => {
                let Some(slot) = writers.get_mut(writer) else {
                    continue;
                };
                let Some(future) = slot else { continue };
                if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
                    told[writer] = Some(answer);
                    *slot = None;
                    quiet = 0;
                }
            }
        }
        // Tasks that a writer has started make their steps, too.
        tokio::task::yield_now().await;
        quiet += 1;
        assert!(quiet < 10_000, "a writer never ends");
    }
    told
}

/// What the remote says in the end, and after a repair.
async fn judge(world: &World, told: &[Option<Told>], python: &[bool]) -> Result<(), TestCaseError> {
    let scenery = &*SCENERY;
    // Whatever the locks are, they grow old.
    world.clock.fetch_add(100_000, Ordering::Relaxed);
    let acknowledged: BTreeSet<ObjectId> = told
        .iter()
        .zip(&scenery.writers)
        .filter(|(told, _)| **told == Some(Told::Ok))
        .map(|(_, writer)| writer.id)
        .collect();
    let of_ours = told.iter().zip(python);
    let of_ours = of_ours.filter(|(told, python)| **told == Some(Told::Ok) && !**python);
    prop_assert!(of_ours.count() <= 1, "one of ours wins: {told:?}");
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
            prop_assert_eq!(refs.len(), 1, "among ours nobody loses a ref: {:?}", refs);
        }
        for target in refs.values() {
            let wanted = Wanted {
                wants: vec![target.id],
                haves: Vec::new(),
                thin: false,
                offset_deltas: true,
            };
            let pack = source.fetch(&wanted).await.unwrap();
            let pack = crate::s3_bundle_world::collect(pack).await.unwrap();
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

/// Plays, judges, and tells how many were told that they had won.
fn case(python_writers: &[bool], turns: &[Turn]) -> Result<usize, TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(false)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::new(5 << 20);
        let scenery = &*SCENERY;
        let key = format!("{FOLDER}{}.bundle", scenery.base);
        world.put(&key, scenery.base_bundle.clone()).await;
        world.put("r/HEAD", REF).await;
        let written = Arc::default();
        let gated = || {
            Arc::new(Gated {
                store: Arc::clone(&world.store),
                clock: Arc::clone(&world.clock),
                written: Arc::clone(&written),
            })
        };
        let writers = python_writers
            .iter()
            .enumerate()
            .map(|(number, is_python)| {
                let writer: Writer = if *is_python {
                    let clock = Arc::clone(&world.clock);
                    let now = move || clock.load(Ordering::Relaxed);
                    Box::pin(python(gated(), world.bucket.clone(), now, number))
                } else {
                    let remote = world.remote_over(gated(), "r", world.options());
                    Box::pin(ours(remote, number))
                };
                Some(writer)
            });
        let told = play(&world, writers.collect(), turns).await;
        judge(&world, &told, python_writers).await?;
        Ok(told.iter().filter(|told| **told == Some(Told::Ok)).count())
    })
}

proptest! {


    #[test]
    fn one_of_ours_wins_whatever_the_order(turns in turns(), writers in 2..4_usize) {
        case(&vec![false; writers], &turns)?;
    }

    #[test]
    fn nothing_acknowledged_is_lost_beside_the_python_client(
        turns in turns(),
        others in 1..3_usize,
    ) {
        let mut python = vec![false; others];
        python.push(true);
        case(&python, &turns)?;
    }

    #[test]
    fn two_python_clients_beside_ours_lose_nothing_that_can_be_kept(turns in turns()) {
        case(&[true, false, true], &turns)?;
    }
}

/// A writer is left behind after each of its requests, another one runs to its end, and the
/// first one goes on and dies after each of the rest.
fn left_behind(python_writers: &[bool]) {
    const MOST: usize = 34;
    for before in 0..MOST {
        for after in 0..6 {
            for aged in [false, true] {
                let mut turns = vec![Turn::Step(0); before];
                turns.extend(aged.then_some(Turn::Age));
                turns.extend(vec![Turn::Step(1); 60]);
                turns.extend(vec![Turn::Step(0); after]);
                turns.push(Turn::Kill(0));
                if let Err(error) = case(python_writers, &turns) {
                    panic!("left behind after {before}, {after} more, aged: {aged}: {error}");
                }
            }
        }
    }
}

#[test]
fn one_of_ours_that_was_left_behind_publishes_nothing() {
    left_behind(&[false, false]);
}

#[test]
fn a_python_client_that_was_left_behind_loses_nothing() {
    left_behind(&[true, false]);
}

#[test]
fn one_of_ours_that_a_python_client_overtakes_loses_nothing() {
    left_behind(&[false, true]);
}

/// The Python client takes a lock of ours for left behind that is not, and stops anywhere.
#[test]
fn a_lock_that_is_stolen_while_its_owner_lives_makes_no_second_winner() {
    for ours in 0..34 {
        for python in 0..14 {
            let mut turns = vec![Turn::Step(0); ours];
            turns.push(Turn::Age);
            turns.extend(vec![Turn::Step(1); python]);
            turns.extend(vec![Turn::Step(0); 80]);
            turns.extend(vec![Turn::Step(1); 40]);
            let won = case(&[false, true], &turns)
                .unwrap_or_else(|error| panic!("{ours} and {python} steps: {error}"));
            assert!(won <= 1, "both have won after {ours} and {python} steps");
        }
    }
}
