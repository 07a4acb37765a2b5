//! Leftovers of failed requests and of other clients are read and repaired; costs of a push.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_core::remote::Remote;
use branchline_core::remote::s3_bundle::BundleRemote;
use branchline_core::testkit::{Failing, FaultPlan, MemoryStore, When};

use crate::remote::s3_bundle_fixture::{BundleFixture, fetch_all, mirror_all};
use branchline_test_support::repo::{Repo, history};

pub(crate) fn commit(repo: &Repo, parents: &[&str], message: &str) -> String {
    let tree = repo.git(&["rev-parse", "main^{tree}"]);
    let mut args = vec!["commit-tree", &tree, "-m", message];
    args.extend(parents.iter().flat_map(|parent| ["-p", parent]));
    repo.git(&args)
}

pub(crate) fn small() -> Repo {
    let repo = Repo::new(HashKind::Sha1);
    repo.input(&["fast-import", "--quiet"], &history(0, 4, 3));
    repo.git(&["update-ref", "-d", "refs/heads/side"]);
    repo
}

/// Returns the refs of the remote as `git for-each-ref` prints them.
pub(crate) async fn listed(remote: &BundleRemote) -> Vec<String> {
    let source = remote.source(&[]).await.unwrap();
    let refs = source.snapshot().refs.iter();
    refs.map(|(name, target)| format!("{} {name}", target.id))
        .collect()
}

/// Each failure of the k-th request ends in a clean error or in success; the next push reaches
/// the desired state.
#[tokio::test(start_paused = true)]
async fn the_push_after_a_failure_of_any_request_reaches_the_desired_state() {
    let repo = small();
    let first = repo.id("main").to_string();
    for when in [When::Before, When::After] {
        let mut nth = 1;
        loop {
            repo.git(&["update-ref", "refs/heads/main", &first]);
            repo.git(&["update-ref", "-d", "refs/heads/new"]);
            repo.git(&["update-ref", "refs/tags/gone", &first]);
            let world = BundleFixture::new(5 << 20);
            mirror_all(&repo, &world.remote("r")).await.unwrap();
            repo.git(&[
                "update-ref",
                "refs/heads/main",
                &commit(&repo, &["main"], "second"),
            ]);
            repo.git(&[
                "update-ref",
                "refs/heads/new",
                &commit(&repo, &["main"], "new"),
            ]);
            repo.git(&["update-ref", "-d", "refs/tags/gone"]);
            let script = FaultPlan::new();
            script.fail(nth, ErrorKind::Transport, when);
            let store = Failing::new(Arc::<MemoryStore>::clone(&world.store), &script);
            let failing = world.remote_over(Arc::new(store), "r", world.options());
            if let Err(error) = mirror_all(&repo, &failing).await {
                assert!(
                    matches!(error.kind(), ErrorKind::Transport | ErrorKind::Conflict),
                    "request {nth}: {}",
                    error.report()
                );
            }
            // A lock whose release failed expires.
            world.clock.fetch_add(10_000, Ordering::Relaxed);
            let remote = world.remote("r");
            mirror_all(&repo, &remote).await.unwrap();
            assert_eq!(
                listed(&remote).await.join("\n"),
                repo.refs(),
                "request {nth}"
            );
            remote.repair().await.unwrap();
            let keys = world.keys().await;
            let bundles = keys.iter().filter(|key| key.ends_with(".bundle")).count();
            assert_eq!(bundles, 2, "request {nth}, {when:?}: {keys:?}");
            let failed = script.calls().get(nth - 1).copied().unwrap_or_default();
            // An upload whose creation got no answer cannot be aborted, because its id is unknown.
            let is_unknown = failed == "abort_upload" || failed == "create_upload";
            assert!(
                is_unknown || world.store.uploads().is_empty(),
                "request {nth}, {failed}: uploads are left"
            );
            if script.calls().len() < nth {
                break;
            }
            nth += 1;
        }
        assert!(nth > 25, "there are that many requests to fail");
    }
}

#[tokio::test]
async fn of_two_bundles_the_descendant_is_the_ref() {
    let repo = small();
    let world = BundleFixture::new(5 << 20);
    repo.git(&["branch", "old", "main~2"]);
    // The younger one was written first.
    world
        .python_push(&repo, "r", "main", "refs/heads/main")
        .await;
    world
        .python_push(&repo, "r", "old", "refs/heads/main")
        .await;
    let remote = world.remote("r");
    assert_eq!(
        listed(&remote).await,
        [format!("{} refs/heads/main", repo.id("main"))]
    );
    repo.git(&["update-ref", "-d", "refs/heads/old"]);
    repo.git(&[
        "update-ref",
        "refs/heads/main",
        &commit(&repo, &["main"], "more"),
    ]);
    let outcome = mirror_all(&repo, &remote).await.unwrap();
    assert_eq!(outcome.updated, 1);
    let keys = world.keys().await;
    let key = format!("r/refs/heads/main/{}.bundle", repo.id("main"));
    assert_eq!(
        keys,
        ["r/HEAD".to_owned(), key],
        "the superseded bundle was deleted"
    );
}

#[tokio::test]
async fn of_two_divergent_bundles_the_newest_is_the_ref_and_the_other_is_kept() {
    let repo = small();
    let world = BundleFixture::new(5 << 20);
    let (older, newer) = (
        commit(&repo, &["main"], "one"),
        commit(&repo, &["main"], "two"),
    );
    repo.git(&["branch", "one", &older]);
    repo.git(&["branch", "two", &newer]);
    world
        .python_push(&repo, "r", "one", "refs/heads/main")
        .await;
    world
        .python_push(&repo, "r", "two", "refs/heads/main")
        .await;
    world.put("r/HEAD", "refs/heads/main").await;
    let remote = world.remote("r");
    let kept = format!("refs/heads/main__{}", &older[..7]);
    let expected = [
        format!("{newer} refs/heads/main"),
        format!("{older} {kept}"),
    ];
    assert_eq!(listed(&remote).await, expected);
    fetch_all(&remote).await;
    // A push onto the winner moves the orphan to its conflict name.
    let more = commit(&repo, &["two"], "more");
    let merged = commit(&repo, &["one", "two"], "merged");
    for (new, keeps) in [(more, true), (merged, false)] {
        let world = BundleFixture::new(5 << 20);
        world
            .python_push(&repo, "r", "one", "refs/heads/main")
            .await;
        world
            .python_push(&repo, "r", "two", "refs/heads/main")
            .await;
        world.put("r/HEAD", "refs/heads/main").await;
        let remote = world.remote("r");
        push_one(&repo, &remote, &new).await;
        let mut expected = vec![format!("r/refs/heads/main/{new}.bundle")];
        expected.extend(keeps.then(|| format!("r/{kept}/{older}.bundle")));
        let keys = world.keys().await;
        assert_eq!(keys[1..], expected, "merged commits are in the new bundle");
        fetch_all(&remote).await;
    }
}

/// Pushes only `main`.
async fn push_one(repo: &Repo, remote: &BundleRemote, id: &str) {
    use branchline_core::mirror::{self, MirrorOptions, RefSelection};
    let before = repo.git(&["rev-parse", "main"]);
    repo.git(&["update-ref", "refs/heads/main", id]);
    let options = MirrorOptions {
        refs: RefSelection::new(["refs/heads/main"]).unwrap(),
        ..MirrorOptions::default()
    };
    let local = branchline_test_support::git_remote::GitRemote::new(repo);
    mirror::mirror(&local, remote, &options, None)
        .await
        .unwrap();
    repo.git(&["update-ref", "refs/heads/main", &before]);
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_respected_until_it_expires_and_then_taken_over() {
    let repo = small();
    let world = BundleFixture::new(5 << 20);
    let remote = world.remote("r");
    // As a killed Python client leaves it.
    world.put("r/refs/heads/main/LOCK#.lock", "").await;
    let error = mirror_all(&repo, &remote).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.report().contains("LOCK#.lock"), "{}", error.report());
    world.clock.fetch_add(1000, Ordering::Relaxed);
    mirror_all(&repo, &remote).await.unwrap();
    let keys = world.keys().await;
    assert!(!keys.iter().any(|key| key.contains("LOCK#")), "{keys:?}");
}

/// "2-byte change in a 60 MB remote: at most 6 MiB sent."
#[tokio::test]
async fn two_bytes_of_sixty_megabytes_send_less_than_six_mebibytes() {
    let repo = Repo::new(HashKind::Sha1);
    let mut state = 1_u64;
    let mut noise = |length: usize| {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
        }
        bytes
    };
    let put = |bytes: &[u8]| {
        let id = repo.input(&["hash-object", "-w", "--stdin"], bytes);
        String::from_utf8(id).unwrap().trim().to_owned()
    };
    let (mut one, two) = (noise(30_000_000), put(&noise(30_000_000)));
    for round in 0..2 {
        let tree = format!("100644 blob {}\tone\n100644 blob {two}\ttwo\n", put(&one));
        let tree = String::from_utf8(repo.input(&["mktree"], tree.as_bytes())).unwrap();
        let mut args = vec!["commit-tree", tree.trim(), "-m", "x"];
        args.extend((round > 0).then_some(["-p", "main"]).into_iter().flatten());
        let commit = repo.git(&args);
        repo.git(&["update-ref", "refs/heads/main", &commit]);
        one[17_000_000] ^= 1;
        one[17_000_001] ^= 1;
    }
    let world = BundleFixture::new(5 << 20);
    let remote = world.remote("r");
    let tip = repo.git(&["rev-parse", "main"]);
    repo.git(&["update-ref", "refs/heads/main", "main~1"]);
    let first = mirror_all(&repo, &remote).await.unwrap();
    assert!(first.bytes > 60_000_000);
    repo.git(&["update-ref", "refs/heads/main", &tip]);
    let outcome = mirror_all(&repo, &remote).await.unwrap();
    assert!(
        outcome.bytes <= 6 << 20,
        "{} bytes were sent",
        outcome.bytes
    );
    assert_eq!(fetch_all(&remote).await.refs(), repo.refs());
}

#[tokio::test]
async fn a_push_makes_few_requests() {
    let repo = small();
    let world = BundleFixture::new(5 << 20);
    let remote = world.remote("r");
    mirror_all(&repo, &remote).await.unwrap();
    let more = commit(&repo, &["main"], "more");
    repo.git(&["update-ref", "refs/heads/main", &more]);
    let before = world.store.traffic().calls().len();
    mirror_all(&repo, &remote).await.unwrap();
    let calls = world.store.traffic().calls().split_off(before);
    assert_eq!(
        calls.iter().filter(|call| **call == "list").count(),
        4,
        "{calls:?}"
    );
    assert_eq!(calls.len(), 15, "{calls:?}");
    let before = world.store.traffic().calls().len();
    mirror_all(&repo, &remote).await.unwrap();
    let calls = world.store.traffic().calls().split_off(before);
    assert_eq!(
        calls,
        ["list", "get", "list"],
        "nothing to do: the refs, `HEAD`, and temporary objects"
    );
}

/// Each bundle contains everything reachable from its ref, and is composed of an older one.
#[tokio::test]
async fn five_hundred_refs_are_pushed_and_listed_at_once() {
    let repo = small();
    let mut tip = repo.git(&["rev-parse", "main"]);
    for n in 0..500 {
        tip = commit(&repo, &[&tip], &n.to_string());
        repo.git(&["update-ref", &format!("refs/tags/t{n}"), &tip]);
    }
    let world = BundleFixture::new(5 << 20);
    let remote = world.remote("r");
    let outcome = mirror_all(&repo, &remote).await.unwrap();
    assert_eq!(outcome.created, 501);
    let before = world.store.traffic().count("list");
    assert_eq!(listed(&remote).await.join("\n"), repo.refs());
    assert_eq!(world.store.traffic().count("list") - before, 1);
    let again = mirror_all(&repo, &remote).await.unwrap();
    assert_eq!((again.unchanged, again.bytes), (501, 0));
}
