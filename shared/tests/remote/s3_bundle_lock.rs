//! Locks of refs: waits for those of other clients, and releases by runs that are out of time.

use std::sync::Arc;
use std::time::Duration;

use branchline_core::ErrorKind;
use branchline_core::mirror::{self, MirrorOptions, MirrorStats, RefSelection};
use branchline_core::remote::s3_bundle::{BundleOptions, BundleRemote};
use tokio::time::Instant;

use crate::remote::s3_bundle_faults::small;
use crate::remote::s3_bundle_fixture::BundleFixture;
use branchline_test_support::git_remote::GitRemote;
use branchline_test_support::repo::Repo;

const LOCK: &str = "r/refs/heads/main/LOCK#.lock";
/// Age of the lock of a killed client at the start of a test, in seconds.
const AGE_SECONDS: i64 = 20;

/// Makes a remote whose clock runs with that of the test, `AGE_SECONDS` after the store's.
fn remote(world: &BundleFixture, lock_wait: Duration) -> BundleRemote {
    let (start, begin) = (Instant::now(), 1_700_000_000 + AGE_SECONDS);
    let options = BundleOptions {
        lock_wait,
        clock: Arc::new(move || {
            let elapsed = i64::try_from(start.elapsed().as_secs());
            begin + elapsed.expect("because a test is short")
        }),
        ..world.options()
    };
    world.remote_with("r", options)
}

async fn run(
    repo: &Repo,
    remote: &BundleRemote,
    deadline: Option<Instant>,
) -> mirror::MirrorResult {
    let options = MirrorOptions {
        refs: RefSelection::new(["refs/*"]).unwrap(),
        ..MirrorOptions::default()
    };
    mirror::mirror_with_stats(&GitRemote::new(repo), remote, &options, deadline).await
}

fn after(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_run_waits_for_the_lock_of_a_killed_client_while_time_remains() {
    let (repo, world) = (small(), BundleFixture::new(5 << 20));
    // As a killed Python client leaves it.
    world.put(LOCK, "").await;
    let remote = remote(&world, Duration::from_mins(2));
    let begin = Instant::now();
    let early = run(&repo, &remote, Some(after(30))).await;
    assert!(early.error.is_none() && !early.stats.complete, "{early:?}");
    assert_eq!(begin.elapsed().as_secs(), 30);
    let done = run(&repo, &remote, Some(after(90))).await;
    assert!(done.stats.complete, "{:?}", done.error);
    assert!(
        begin.elapsed().as_secs() < 60,
        "the lock is taken over when it is a minute old"
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_about_a_lock_says_how_old_it_is() {
    let (repo, world) = (small(), BundleFixture::new(5 << 20));
    world.put(LOCK, "").await;
    let result = run(&repo, &remote(&world, Duration::ZERO), None).await;
    let error = result.error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let report = error.report();
    assert!(
        report.contains(LOCK) && report.contains(" seconds old"),
        "{report}"
    );
    for remedy in ["older than 60 seconds", "is taken over", "--fix=locks"] {
        assert!(report.contains(remedy), "`{remedy}` is not in {report}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_without_a_deadline_gives_up_on_a_lock_that_is_renewed() {
    let (repo, world) = (small(), BundleFixture::new(5 << 20));
    world.put(LOCK, "").await;
    // The age does not grow, as if it were renewed.
    let options = BundleOptions {
        lock_wait: Duration::from_mins(2),
        ..world.options()
    };
    let begin = Instant::now();
    let result = run(&repo, &world.remote_with("r", options), None).await;
    assert_eq!(result.error.unwrap().kind(), ErrorKind::Conflict);
    assert!(begin.elapsed() >= Duration::from_mins(2));
}

/// "`incomplete` is answered when no lock is held."
#[tokio::test(start_paused = true)]
async fn no_lock_and_no_upload_is_left_when_a_run_is_out_of_time() {
    let repo = small();
    let mut unfinished = 0;
    for tenths in 1_u64.. {
        let world = BundleFixture::new(5 << 20);
        let remote = remote(&world, Duration::ZERO);
        let traffic = world.store.traffic();
        traffic.set_latency(Duration::from_secs(1));
        let deadline = Instant::now() + Duration::from_millis(tenths * 500 + 50);
        let result = run(&repo, &remote, Some(deadline)).await;
        traffic.set_latency(Duration::ZERO);
        let MirrorStats { complete, .. } = result.stats;
        assert!(result.error.is_none(), "{:?}", result.error);
        let keys = world.keys().await;
        assert!(
            !keys.iter().any(|key| key.contains("LOCK#")),
            "{tenths}: {keys:?}"
        );
        assert!(
            !keys.iter().any(|key| key.contains("incoming-")),
            "{tenths}: {keys:?}"
        );
        assert!(world.store.uploads().is_empty(), "{tenths}");
        if complete {
            break;
        }
        unfinished += 1;
        // The same request in another environment.
        let again = run(&repo, &remote, None).await;
        assert!(again.stats.complete, "{tenths}: {:?}", again.error);
    }
    assert!(unfinished > 10, "{unfinished} runs were out of time");
}

#[tokio::test]
async fn packs_of_killed_runs_are_deleted_by_the_next_run_and_by_clean() {
    let (repo, world) = (small(), BundleFixture::new(5 << 20));
    let leftover = "r/branchline/incoming-0123.pack";
    world.put(leftover, "PACK").await;
    world.put("r/branchline/other", "foreign").await;
    let run = async || {
        let (source, target) = (GitRemote::new(&repo), world.remote("r"));
        let options = MirrorOptions::default();
        let mirrored = mirror::mirror(&source, &target, &options, None).await;
        assert!(mirrored.unwrap().complete);
    };
    run().await;
    assert!(
        world.keys().await.iter().any(|key| key == leftover),
        "it may be in use"
    );
    world
        .clock
        .fetch_add(25 * 60 * 60, std::sync::atomic::Ordering::Relaxed);
    run().await;
    assert!(!world.keys().await.iter().any(|key| key == leftover));
    world.put(leftover, "PACK").await;
    let cleaned = mirror::clean(&world.remote("r"), None).await;
    assert!(cleaned.stats.complete, "{:?}", cleaned.error);
    let keys = world.keys().await;
    assert!(!keys.iter().any(|key| key == leftover));
    assert!(
        keys.iter().any(|key| key == "r/branchline/other"),
        "foreign objects stay"
    );
}
