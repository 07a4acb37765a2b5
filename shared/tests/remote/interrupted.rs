//! Interrupted mirroring: the target is valid at any time, and the next run completes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_core::git::advertisement::Version;
use branchline_core::mirror::{MirrorOptions, MirrorStats, mirror};
use tokio::time::Instant;

use crate::remote::http::{BOTH, assert_equal, count, everything, few, remote, strict};
use crate::remote::proxy::{Fault, Proxy};
use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::repo::{Repo, history};

/// A source, and a target that lacks some of its objects, both behind relays.
struct Scene {
    source: Repo,
    target: Repo,
    from: Proxy,
    to: Proxy,
    before: String,
    version: Version,
    _servers: [GitServer; 2],
}

impl Scene {
    async fn new(version: Version) -> Self {
        let (source, target) = (
            Repo::with_history(HashKind::Sha1, 25, 10),
            strict(HashKind::Sha1),
        );
        let servers = [GitServer::new(&source), GitServer::new(&target)];
        let from = Proxy::new(servers[0].address());
        let to = Proxy::new(servers[1].address());
        let scene = Self {
            before: String::new(),
            source,
            target,
            from,
            to,
            version,
            _servers: servers,
        };
        let first = scene.run().await.unwrap();
        assert!(first.complete);
        let before = scene.target.refs();
        let repo = &scene.source;
        repo.input(&["fast-import", "--quiet", "--force"], &history(25, 15, 10));
        repo.git(&["update-ref", "refs/heads/new", "main~2"]);
        repo.git(&["tag", "-a", "v2", "-m", "two", "main"]);
        repo.git(&["update-ref", "-d", "refs/tags/light"]);
        Self { before, ..scene }
    }

    async fn run(&self) -> branchline_core::Result<MirrorStats> {
        let source = remote(&self.from.url(), self.version);
        let target = remote(&self.to.url(), Version::V2);
        let options = MirrorOptions {
            prune: true,
            ..everything()
        };
        mirror(&source, &target, &options, None).await
    }

    /// Asserts that the target is valid and each of its refs has its old or its new value.
    fn assert_valid(&self) {
        self.target.fsck();
        let after = self.source.refs();
        let now = self.target.refs();
        for line in now.lines() {
            let known = self.before.lines().chain(after.lines());
            assert!(
                known.clone().any(|other| other == line),
                "{line} is neither an old nor a new ref"
            );
        }
    }
}

fn counts(outcome: &MirrorStats) -> [u64; 4] {
    [
        outcome.created,
        outcome.updated,
        outcome.deleted,
        outcome.unchanged,
    ]
}

/// Counts of an undisturbed run: `new` and `v2` are created, both branches move, `light` is
/// deleted, and the other tags and the notes stay.
const CLEAN: [u64; 4] = [2, 2, 1, 3];

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_request_or_answer_is_retried_and_each_ref_counts_once() {
    for version in BOTH {
        let scene = Scene::new(version).await;
        scene.from.set(Fault::None);
        scene.to.set(Fault::None);
        assert_eq!(counts(&scene.run().await.unwrap()), CLEAN);
        let requests = [scene.from.connections(), scene.to.connections()];
        assert_eq!(requests[1], 2, "one request for refs, one push");
        for (side, requests) in requests.into_iter().enumerate() {
            for k in 1..=requests {
                for fault in [Fault::Refuse(k), Fault::LoseAnswer(k)] {
                    let scene = Scene::new(version).await;
                    [&scene.from, &scene.to][side].set(fault);
                    let outcome = scene.run().await.unwrap();
                    assert_equal(&scene.source, &scene.target);
                    assert_eq!(
                        counts(&outcome),
                        CLEAN,
                        "{version:?}, side {side}: {fault:?}"
                    );
                    assert!(outcome.complete);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_at_any_request_leaves_a_valid_target_and_the_next_run_completes_it() {
    for version in BOTH {
        for side in 0..2 {
            for k in 1.. {
                let scene = Scene::new(version).await;
                let proxy = [&scene.from, &scene.to][side];
                proxy.set(Fault::DieAt(k));
                let result = scene.run().await;
                scene.assert_valid();
                if let Ok(outcome) = result {
                    assert!(
                        outcome.complete && k > 2,
                        "the run must complete after some requests"
                    );
                    break;
                }
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Transport, "{}", error.report());
                assert_eq!(scene.target.refs(), scene.before, "no ref may have moved");
                proxy.set(Fault::None);
                assert_eq!(counts(&scene.run().await.unwrap()), CLEAN);
                assert_equal(&scene.source, &scene.target);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_at_any_byte_leaves_a_valid_target_and_the_next_run_completes_it() {
    for side in 0..2 {
        let scene = Scene::new(Version::V2).await;
        scene.from.set(Fault::None);
        scene.to.set(Fault::None);
        scene.run().await.unwrap();
        let bytes = [scene.from.bytes(), scene.to.bytes()][side];
        assert!(bytes > 3000, "the exchange must be long enough to cut");
        // Evenly spread, each off by a prime number of bytes.
        for n in 0..10 {
            let at = (bytes * n / 10 + 37 * n).min(bytes - 1);
            let scene = Scene::new(Version::V2).await;
            let proxy = [&scene.from, &scene.to][side];
            proxy.set(Fault::DieAfter(at));
            let result = scene.run().await;
            scene.assert_valid();
            if let Err(error) = &result {
                assert_eq!(error.kind(), ErrorKind::Transport, "{}", error.report());
            }
            proxy.set(Fault::None);
            let again = scene.run().await.unwrap();
            assert_equal(&scene.source, &scene.target);
            assert!(again.complete, "cut after {at} of {bytes} bytes");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_change_refs_do_not_count_against_the_limit() {
    let (source, target) = (
        Repo::with_history(HashKind::Sha1, 12, 3),
        strict(HashKind::Sha1),
    );
    for n in 0..8 {
        source.git(&[
            "update-ref",
            &format!("refs/heads/b{n}"),
            &format!("main~{n}"),
        ]);
    }
    let (from, to) = (GitServer::new(&source), GitServer::new(&target));
    let proxy = Proxy::new(to.address());
    // Each reading of refs and one push of one ref succeed, then the next push fails.
    proxy.set(Fault::RefuseEvery(4));
    let few = few(remote(&proxy.url(), Version::V2), 1);
    let from = remote(&from.url(), Version::V2);
    let outcome = mirror(&from, &few, &everything(), None).await.unwrap();
    assert_equal(&source, &target);
    assert_eq!(counts(&outcome), [count(&source), 0, 0, 0]);
    assert!(
        proxy.connections() > 4 * 5,
        "there must be more failures than allowed attempts"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_ends_a_run_and_the_next_one_resumes() {
    let (source, target) = (
        Repo::with_history(HashKind::Sha1, 20, 5),
        strict(HashKind::Sha1),
    );
    let from = GitServer::new(&source);
    // From the second pack on the server does not answer, until the fault is cleared.
    let (stuck, well) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (seen_by_rule, is_well) = (Arc::clone(&stuck), Arc::clone(&well));
    let packs = std::sync::Mutex::new(0);
    let to = GitServer::with(&target, move |seen| {
        // The rule is called before the body is read, and again afterwards.
        let push = seen.method == "POST" && seen.target.ends_with("/git-receive-pack");
        if push && seen.body.is_empty() {
            let mut packs = packs.lock().unwrap();
            *packs += 1;
            if *packs >= 2 && !is_well.load(Ordering::SeqCst) {
                seen_by_rule.store(true, Ordering::SeqCst);
                return Response::Silence;
            }
        }
        Response::Git
    });
    let source_remote = remote(&from.url(), Version::V2);
    let few = few(remote(&to.url(), Version::V2), 3);
    let deadline = Instant::now() + Duration::from_secs(6);
    let outcome = mirror(&source_remote, &few, &everything(), Some(deadline)).await;
    let outcome = outcome.unwrap();
    assert!(
        stuck.load(Ordering::SeqCst),
        "the second push must have started"
    );
    assert!(!outcome.complete);
    assert_eq!(
        counts(&outcome),
        [3, 0, 0, 0],
        "updates that took effect must be counted"
    );
    target.fsck();
    assert_eq!(count(&target), 3);

    well.store(true, Ordering::SeqCst);
    let outcome = mirror(&source_remote, &few, &everything(), None)
        .await
        .unwrap();
    assert_eq!(counts(&outcome), [count(&source) - 3, 0, 0, 3]);
    assert!(outcome.complete);
    assert_equal(&source, &target);
    let past = Instant::now();
    source.git(&["update-ref", "refs/heads/late", "main~1"]);
    let outcome = mirror(&source_remote, &few, &everything(), Some(past))
        .await
        .unwrap();
    assert!(!outcome.complete, "without time the run is incomplete");
    assert_eq!(counts(&outcome), [0; 4]);
}
