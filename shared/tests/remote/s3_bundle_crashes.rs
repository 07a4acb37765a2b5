//! Writers that crash after any request, requests that arrive late, and other clients between
//! two requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use branchline_core::ErrorKind;
use branchline_core::git::ObjectId;
use branchline_core::mirror::{self, MirrorOptions, RefSelection};
use branchline_core::name::ObjectKey;
use branchline_core::remote::s3_bundle::{BundleOptions, BundleRemote};
use branchline_core::remote::{Push, RefUpdate, Remote};
use branchline_core::storage::{ObjectStore, ObjectStoreExt as _, Precondition, PutOptions};
use branchline_core::testkit::{Failing, FaultPlan, MemoryStore, When};
use bstr::BStr;
use futures_util::FutureExt as _;

use crate::remote::s3_bundle_faults::{commit, listed, small};
use crate::remote::s3_bundle_fixture::{BundleFixture, bundle, fetch_all, mirror_all};
use branchline_test_support::git_remote::GitRemote;
use branchline_test_support::repo::Repo;

const MIN: usize = 5 << 20;
const LOCK: &str = "r/refs/heads/main/LOCK#.lock";

/// Returns a remote whose writer crashes at request `nth`, before or after it is executed.
fn dying(world: &BundleFixture, nth: usize, when: When) -> (BundleRemote, FaultPlan) {
    let script = FaultPlan::new();
    script.fail(nth, ErrorKind::Transport, when);
    for later in 1..400 {
        script.fail(nth + later, ErrorKind::Transport, When::Before);
    }
    let store = Failing::new(Arc::<MemoryStore>::clone(&world.store), &script);
    let remote = world.remote_over(Arc::new(store), "r", world.options());
    (remote, script)
}

/// Pushes only `main` of a repository.
async fn push_main(repo: &Repo, remote: &BundleRemote) -> branchline_core::Result<()> {
    let options = MirrorOptions {
        refs: RefSelection::new(["refs/heads/main"]).unwrap(),
        ..MirrorOptions::default()
    };
    let pushed = mirror::mirror(&GitRemote::new(repo), remote, &options, None).await;
    pushed.map(drop)
}

async fn one_bundle_each(world: &BundleFixture) {
    let mut folders: BTreeMap<String, usize> = BTreeMap::new();
    for key in world.keys().await {
        if key.ends_with(".bundle") {
            let (folder, _) = key.rsplit_once('/').unwrap();
            *folders.entry(folder.to_owned()).or_default() += 1;
        }
    }
    assert!(folders.values().all(|count| *count == 1), "{folders:?}");
}

/// Two concurrent Python clients both reported `ok`; then a client of this kind crashes.
#[tokio::test(start_paused = true)]
async fn an_orphan_survives_a_crash_of_the_client_that_moves_it() {
    let repo = small();
    let (older, newer) = (
        commit(&repo, &["main"], "one"),
        commit(&repo, &["main"], "two"),
    );
    repo.git(&["branch", "one", &older]);
    repo.git(&["branch", "two", &newer]);
    let more = commit(&repo, &["two"], "more");
    repo.git(&["update-ref", "refs/heads/main", &more]);
    for when in [When::Before, When::After] {
        let mut nth = 1;
        loop {
            let world = BundleFixture::new(MIN);
            for name in ["one", "two"] {
                world.python_push(&repo, "r", name, "refs/heads/main").await;
            }
            world.put("r/HEAD", "refs/heads/main").await;
            let (remote, script) = dying(&world, nth, when);
            let reported = push_main(&repo, &remote).await.is_ok();
            world.clock.fetch_add(10_000, Ordering::Relaxed);
            let remote = world.remote("r");
            for step in ["left", "repaired", "pushed"] {
                let refs = listed(&remote).await;
                let what = format!("request {nth}, {when:?}, {step}: {refs:?}");
                let has = |id: &str| refs.iter().any(|line| line.starts_with(id));
                assert!(has(&older), "the older commit is listed: {what}");
                assert!(has(&newer) || has(&more), "so is the newer commit: {what}");
                assert!(
                    !reported || has(&more),
                    "so is a commit whose push succeeded: {what}"
                );
                let names = refs.iter().filter_map(|line| line.split_once(' '));
                let mut names: Vec<_> = names.map(|(_, name)| name).collect();
                names.dedup();
                assert_eq!(names.len(), refs.len(), "each is listed once: {what}");
                match step {
                    "left" => drop(remote.repair().await.unwrap()),
                    "repaired" => {
                        one_bundle_each(&world).await;
                        push_main(&repo, &remote).await.unwrap();
                    }
                    _ => one_bundle_each(&world).await,
                }
            }
            fetch_all(&remote).await;
            if script.calls().len() < nth {
                assert!(reported, "nothing failed");
                break;
            }
            nth += 1;
        }
        assert!(nth > 15, "there are that many requests to die at: {nth}");
    }
}

/// The ref is unchanged or deleted; an older bundle in its folder does not become the ref.
#[tokio::test(start_paused = true)]
async fn an_interrupted_deletion_does_not_rewind_the_ref() {
    let repo = small();
    let tip = repo.id("main").to_string();
    repo.git(&["branch", "keep", "main~2"]);
    repo.git(&["branch", "old", "main~1"]);
    for names in [["old", "main"], ["main", "old"]] {
        let mut nth = 1;
        loop {
            let world = BundleFixture::new(MIN);
            for name in names {
                world.python_push(&repo, "r", name, "refs/heads/main").await;
            }
            world
                .python_push(&repo, "r", "keep", "refs/heads/keep")
                .await;
            world.put("r/HEAD", "refs/heads/keep").await;
            let source = Repo::new(repo.hash);
            source.input(
                &["bundle", "unbundle", "/dev/stdin"],
                &bundle(&repo, &["keep"]),
            );
            source.git(&[
                "update-ref",
                "refs/heads/keep",
                &repo.id("keep").to_string(),
            ]);
            source.git(&["symbolic-ref", "HEAD", "refs/heads/keep"]);
            let (remote, script) = dying(&world, nth, When::Before);
            let reported = mirror_all(&source, &remote).await.is_ok();
            world.clock.fetch_add(10_000, Ordering::Relaxed);
            let remote = world.remote("r");
            let main = listed(&remote).await;
            let main = main.iter().find(|line| line.ends_with(" refs/heads/main"));
            assert!(
                main.is_none_or(|line| !reported && line.starts_with(&tip)),
                "request {nth}: {main:?}"
            );
            mirror_all(&source, &remote).await.unwrap();
            assert_eq!(listed(&remote).await.len(), 1);
            if script.calls().len() < nth {
                break;
            }
            nth += 1;
        }
        assert!(nth > 5, "there are that many requests to die at: {nth}");
    }
}

#[tokio::test]
async fn an_orphan_never_takes_the_name_of_another_ref() {
    let repo = small();
    let (older, newer) = (
        commit(&repo, &["main"], "one"),
        commit(&repo, &["main"], "two"),
    );
    repo.git(&["branch", "one", &older]);
    repo.git(&["branch", "two", &newer]);
    let world = BundleFixture::new(MIN);
    let conflict = format!("refs/heads/main__{}", &older[..7]);
    for (source, name) in [
        ("one", "refs/heads/main"),
        ("two", "refs/heads/main"),
        ("main", conflict.as_str()),
    ] {
        world.python_push(&repo, "r", source, name).await;
    }
    let remote = world.remote("r");
    let expected = [
        format!("{newer} refs/heads/main"),
        format!("{} {conflict}", repo.id("main")),
        format!("{older} refs/heads/main__{older}"),
    ];
    assert_eq!(listed(&remote).await, expected);
    remote.repair().await.unwrap();
    assert_eq!(listed(&remote).await, expected, "each keeps its own name");
    assert_eq!(fetch_all(&remote).await.id(&older).to_string(), older);
}

fn deletion(name: &str, old: ObjectId) -> Push {
    let change = RefUpdate {
        name: name.into(),
        old: Some(old),
        new: None,
    };
    Push {
        changes: vec![change],
        ..Push::default()
    }
}

#[tokio::test]
async fn a_ref_that_becomes_protected_meanwhile_is_not_deleted() {
    let repo = small();
    let world = BundleFixture::new(MIN);
    let remote = world.remote("r");
    mirror_all(&repo, &remote).await.unwrap();
    let mut target = remote.target().await.unwrap();
    world.put("r/refs/heads/main/PROTECTED#", "").await;
    let keys = world.keys().await;
    let push = deletion("refs/heads/main", repo.id("main"));
    let error = target.push(push).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(world.keys().await, keys, "nothing was touched");
}

#[tokio::test]
async fn the_deletion_of_an_orphan_that_was_moved_meanwhile_fails() {
    let repo = small();
    let (older, newer) = (
        commit(&repo, &["main"], "one"),
        commit(&repo, &["main"], "two"),
    );
    let world = BundleFixture::new(MIN);
    for (name, id) in [("one", &older), ("two", &newer)] {
        repo.git(&["branch", name, id]);
        world.python_push(&repo, "r", name, "refs/heads/main").await;
    }
    let remote = world.remote("r");
    let conflict = format!("refs/heads/main__{}", &older[..7]);
    let mut target = remote.target().await.unwrap();
    assert!(target.snapshot().refs.contains_key(BStr::new(&conflict)));
    remote.repair().await.unwrap();
    let error = target.push(deletion(&conflict, repo.id("one"))).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Conflict);
    let mut target = remote.target().await.unwrap();
    target
        .push(deletion(&conflict, repo.id("one")))
        .await
        .unwrap();
    assert_eq!(listed(&remote).await, [format!("{newer} refs/heads/main")]);
}

/// Another client replaces the bundle by one of the same commit with different bytes, while
/// parts are copied from it.
#[tokio::test]
async fn parts_copied_from_a_replaced_bundle_are_never_published() {
    let least = 2000;
    let repo = Repo::new(branchline_core::git::HashKind::Sha1);
    repo.input(
        &["fast-import", "--quiet"],
        &branchline_test_support::repo::history(0, 30, 20),
    );
    repo.git(&["update-ref", "-d", "refs/heads/side"]);
    let tip = repo.id("main");
    let key = format!("r/refs/heads/main/{tip}.bundle");
    repo.git(&["config", "pack.compression", "0"]);
    repo.git(&["repack", "-adFq"]);
    let other = bundle(&repo, &["main"]);
    let more = commit(&repo, &["main"], "more");
    for name in ["refs/heads/main", "refs/heads/new"] {
        let world = BundleFixture::new(least);
        let options = BundleOptions {
            min_part_bytes: least,
            ..world.options()
        };
        let remote = world.remote_with("r", options);
        repo.git(&["update-ref", "refs/heads/main", &tip.to_string()]);
        repo.git(&["config", "pack.compression", "9"]);
        repo.git(&["repack", "-adFq"]);
        mirror_all(&repo, &remote).await.unwrap();
        let before = world.get(&key).await;
        assert!(before != other && before.len() < other.len());
        repo.git(&["update-ref", name, &more]);
        let (store, bucket) = (Arc::clone(&world.store), world.bucket.clone());
        let (written, body) = (ObjectKey::new(&key).unwrap(), other.clone());
        let first = world.store.traffic().count("upload_part_copy") + 1;
        world
            .store
            .traffic()
            .before("upload_part_copy", first, move || {
                let options = PutOptions::default();
                let put = store.put(&bucket, &written, body.into(), &options);
                put.now_or_never().unwrap().unwrap();
            });
        // A mirror reads the refs again and succeeds; its first bundle must not exist.
        mirror_all(&repo, &remote).await.unwrap();
        let copy = fetch_all(&remote).await;
        assert_eq!(copy.refs(), repo.refs(), "{name}");
        assert!(world.store.traffic().count("upload_part_copy") >= first);
        repo.git(&["update-ref", "-d", "refs/heads/new"]);
    }
}

/// The completion may still arrive, and aborting the upload fails: the lock remains until
/// another client aborts it.
#[tokio::test(start_paused = true)]
async fn a_lock_is_not_released_while_its_upload_may_be_completed() {
    let repo = small();
    let world = BundleFixture::new(MIN);
    mirror_all(&repo, &world.remote("r")).await.unwrap();
    let more = commit(&repo, &["main"], "more");
    repo.git(&["update-ref", "refs/heads/main", &more]);
    let script = FaultPlan::new();
    for nth in 1..10 {
        script.fail_method("complete_upload", nth, ErrorKind::Transport, When::Before);
        script.fail_method("abort_upload", nth, ErrorKind::Transport, When::Before);
    }
    let store = Failing::new(Arc::<MemoryStore>::clone(&world.store), &script);
    let failing = world.remote_over(Arc::new(store), "r", world.options());
    push_main(&repo, &failing).await.unwrap_err();
    assert!(world.keys().await.contains(&LOCK.to_owned()));
    assert_eq!(world.store.uploads().len(), 1, "it may still be completed");
    let remote = world.remote("r");
    let error = push_main(&repo, &remote).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "the lock is young");
    world.clock.fetch_add(1000, Ordering::Relaxed);
    push_main(&repo, &remote).await.unwrap();
    assert!(world.store.uploads().is_empty(), "nothing can arrive late");
    assert!(!world.keys().await.contains(&LOCK.to_owned()));
}

/// A renewal of the lock gets no answer, and arrives after the next one was written.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_arrives_late_does_not_hide_the_upload_from_the_lock() {
    let repo = small();
    let world = BundleFixture::new(MIN);
    mirror_all(&repo, &world.remote("r")).await.unwrap();
    let more = commit(&repo, &["main"], "more");
    repo.git(&["update-ref", "refs/heads/main", &more]);
    let traffic = world.store.traffic();
    let script = FaultPlan::new();
    // The lock, then a renewal; the next write names the upload.
    script.fail_method("put", 2, ErrorKind::Transport, When::Before);
    let latency = Duration::from_millis(600);
    let first = traffic.count("put") + 1;
    let (store, bucket) = (Arc::clone(&world.store), world.bucket.clone());
    traffic.before("put", first + 1, move || {
        store.traffic().set_latency(Duration::ZERO);
        let key = ObjectKey::new(LOCK).unwrap();
        let read = store.get_with_etag(&bucket, &key).now_or_never().unwrap();
        let (body, etag) = read.unwrap().unwrap();
        let mut body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["renewed"], 0, "the renewal has not arrived before");
        body["renewed"] = 1.into();
        let options = PutOptions {
            precondition: Precondition::Matches(etag),
            ..PutOptions::default()
        };
        let put = store.put(&bucket, &key, body.to_string().into(), &options);
        put.now_or_never().unwrap().unwrap();
        store.traffic().set_latency(latency);
    });
    let (store, bucket) = (Arc::clone(&world.store), world.bucket.clone());
    let completion = traffic.count("complete_upload") + 1;
    traffic.before("complete_upload", completion, move || {
        store.traffic().set_latency(Duration::ZERO);
        let key = ObjectKey::new(LOCK).unwrap();
        let lock = store.get(&bucket, &key, None, None).now_or_never().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&lock.unwrap()).unwrap();
        assert!(body["upload"]["id"].is_string(), "{body} names the upload");
        store.traffic().set_latency(latency);
    });
    traffic.set_latency(latency);
    let store = Failing::new(Arc::<MemoryStore>::clone(&world.store), &script);
    let options = BundleOptions {
        lock_lifetime: Duration::from_secs(3),
        ..world.options()
    };
    let remote = world.remote_over(Arc::new(store), "r", options);
    push_main(&repo, &remote).await.unwrap();
    traffic.set_latency(Duration::ZERO);
    assert!(traffic.count("complete_upload") >= completion);
    assert!(traffic.count("put") > first + 2, "the renewal arrived late");
    let expected = [format!("{more} refs/heads/main")];
    assert_eq!(listed(&world.remote("r")).await, expected);
}

#[tokio::test]
async fn the_deletion_of_a_ref_that_moved_meanwhile_fails() {
    let repo = small();
    let world = BundleFixture::new(MIN);
    let remote = world.remote("r");
    mirror_all(&repo, &remote).await.unwrap();
    let old = repo.id("main");
    let mut target = remote.target().await.unwrap();
    let more = commit(&repo, &["main"], "more");
    repo.git(&["update-ref", "refs/heads/main", &more]);
    push_main(&repo, &remote).await.unwrap();
    let error = target.push(deletion("refs/heads/main", old)).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Conflict);
    let expected = [format!("{more} refs/heads/main")];
    assert_eq!(listed(&remote).await, expected);
}

/// A client that lost its lock writes the same commit again, just before its deletion.
#[tokio::test]
async fn a_replaced_bundle_is_not_deleted_in_place_of_the_old_one() {
    let repo = small();
    let world = BundleFixture::new(MIN);
    let remote = world.remote("r");
    mirror_all(&repo, &remote).await.unwrap();
    let id = repo.id("main");
    let key = ObjectKey::new(&format!("r/refs/heads/main/{id}.bundle")).unwrap();
    let mut target = remote.target().await.unwrap();
    let (store, bucket) = (Arc::clone(&world.store), world.bucket.clone());
    let (written, body) = (key.clone(), bundle(&repo, &["--version=3", "main"]));
    let nth = world.store.traffic().count("delete") + 1;
    world.store.traffic().before("delete", nth, move || {
        let options = PutOptions::default();
        let put = store.put(&bucket, &written, body.into(), &options);
        put.now_or_never().unwrap().unwrap();
    });
    target.push(deletion("refs/heads/main", id)).await.unwrap();
    let expected = [format!("{id} refs/heads/main")];
    assert_eq!(listed(&remote).await, expected, "what came later stays");
}
