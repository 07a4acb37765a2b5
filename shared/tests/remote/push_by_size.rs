//! Pushes that exceed a limit are split, to any target, and the parts are kept.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use branchline_core::git::{HashKind, ObjectId};
use branchline_core::mirror::{MirrorOptions, MirrorStats, mirror};
use branchline_core::remote::local::LocalRepository;
use branchline_core::remote::{CommitGraph, PackBody, PackRequest, Remote, Snapshot, Source};
use branchline_core::testkit::{Failing, FaultPlan, When};
use branchline_core::{ErrorKind, Result};
use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use super::local::local;
use super::ref_layouts::{LAYOUTS, Layout, Mirrored};
use super::s3_dumb_fixture::mirror_options as all;
use branchline_test_support::repo::Repo;
use branchline_test_support::wrapped_remote::WrappedRemote;

/// Makes `commits` commits with one incompressible file of `bytes` bytes each, and a branch from
/// the middle.
pub(crate) fn noise(commits: usize, bytes: usize) -> Repo {
    let source = Repo::new(HashKind::Sha1);
    let mut stream = String::new();
    let mut noise = 1_u64;
    for n in 0..commits {
        let text: String = (0..bytes)
            .map(|_| {
                noise = noise
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                char::from(b'!' + u8::try_from((noise >> 33) % 90).unwrap())
            })
            .collect();
        let time = 1_700_000_000 + n;
        write!(
            stream,
            "commit refs/heads/main\ncommitter A <a@b> {time} +0000\ndata 2\nc\n\
             M 644 inline f{n}\ndata {}\n{text}\n",
            text.len(),
        )
        .unwrap();
    }
    source.input(&["fast-import", "--quiet"], stream.as_bytes());
    let middle = format!("main~{}", commits / 2);
    source.git(&["branch", "middle", &middle]);
    source.git(&["tag", "-a", "v1", "-m", "one", &middle]);
    source
}

fn with_max_bytes(bytes: u64) -> MirrorOptions {
    let mut options = all(true);
    options.batch.bytes = Some(bytes);
    options
}

/// Asserts that a remote has the source's refs and all of their objects.
async fn assert_equal(source: &Repo, remote: &dyn Remote, copy: &Path) {
    let outcome = mirror(remote, &local(copy), &all(true), None)
        .await
        .unwrap();
    assert!(outcome.complete);
    let copied = super::local::at(copy, HashKind::Sha1);
    assert_eq!(
        copied.refs(),
        source.refs(),
        "the refs must be equal, without temporary tags"
    );
    assert_eq!(
        copied.git(&["fsck", "--full", "--strict", "--no-dangling"]),
        ""
    );
}

#[tokio::test]
async fn a_run_killed_between_parts_is_completed_by_the_next_ones() {
    let source = noise(8, 60_000);
    for layout in LAYOUTS {
        let options = with_max_bytes(120_000);
        let whole = Mirrored::with_small_parts(layout);
        let counted = FaultPlan::new();
        let remote = whole.remote_over(Arc::new(Failing::new(Arc::clone(whole.store()), &counted)));
        let all = mirror(&local(&source.path), &*remote, &options, None)
            .await
            .unwrap();
        assert!(all.complete);
        let dir = tempfile::tempdir().unwrap();
        assert_equal(&source, &*whole.remote(), &dir.path().join("whole.git")).await;
        let calls = counted.calls().len();
        // Each run is killed after some requests to S3, and the next one resumes.
        for died_after in [calls * 2 / 3, calls / 2, calls * 4 / 9] {
            let place = Mirrored::with_small_parts(layout);
            let mut runs = 0;
            loop {
                runs += 1;
                assert!(runs < 20, "{layout:?}: each run must make progress");
                let script = FaultPlan::new();
                for call in died_after..died_after + 1000 {
                    script.fail(call, ErrorKind::AccessDenied, When::Before);
                }
                let store = Failing::new(Arc::clone(place.store()), &script);
                place.expire_locks();
                let remote = place.remote_over(Arc::new(store));
                match mirror(&local(&source.path), &*remote, &options, None).await {
                    Ok(outcome) => {
                        assert!(outcome.complete);
                        break;
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::AccessDenied),
                }
            }
            assert!(runs > 1, "{layout:?}: a run must have been killed");
            place.expire_locks();
            let copy = dir.path().join(format!("{died_after}.git"));
            assert_equal(&source, &*place.remote(), &copy).await;
        }
    }
}

/// Returns a repository as a source that sends packs at 10,000 bytes per second.
fn slow(repo: &Repo) -> WrappedRemote<LocalRepository> {
    WrappedRemote::new(local(&repo.path)).with_source(|source| Box::new(SlowSource(source)))
}

struct SlowSource(Box<dyn Source>);

#[async_trait]
impl Source for SlowSource {
    fn snapshot(&self) -> &Snapshot {
        self.0.snapshot()
    }

    async fn fetch(&self, wanted: &PackRequest) -> Result<PackBody> {
        let body = self.0.fetch(wanted).await?;
        let slices = body.flat_map(|chunk| {
            let slices: Vec<_> = match chunk {
                Ok(chunk) => {
                    let starts = (0..chunk.len()).step_by(10_000);
                    let slice = |at: usize| chunk.slice(at..chunk.len().min(at + 10_000));
                    starts.map(|at| Ok(slice(at))).collect()
                }
                Err(error) => vec![Err(error)],
            };
            stream::iter(slices)
        });
        let slowly = slices.then(|slice| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            slice
        });
        Ok(slowly.boxed())
    }

    fn has_cheap_history(&self) -> bool {
        self.0.has_cheap_history()
    }

    async fn commit_graph(
        &self,
        wants: &[ObjectId],
        haves: &[ObjectId],
    ) -> Result<Option<CommitGraph>> {
        self.0.commit_graph(wants, haves).await
    }
}

async fn run(source: &dyn Remote, place: &Mirrored, seconds: u64) -> MirrorStats {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    place.expire_locks();
    let remote = place.remote();
    let outcome = mirror(source, &*remote, &all(true), Some(deadline)).await;
    outcome.unwrap()
}

/// "A mirroring that does not fit one run is finished by several."
#[tokio::test(start_paused = true)]
async fn a_mirroring_longer_than_one_run_is_completed_by_several() {
    // The transfer takes about 100 seconds, and a run has 25.
    let repo = noise(64, 12_000);
    let source = slow(&repo);
    for layout in [Layout::Bundle, Layout::Dumb] {
        let place = Mirrored::with_small_parts(layout);
        let mut runs = 0;
        loop {
            runs += 1;
            let outcome = run(&source, &place, 25).await;
            if outcome.complete {
                break;
            }
            assert!(
                outcome.objects > 0,
                "{layout:?}: each run must make progress"
            );
        }
        assert!(runs > 3, "it took {runs} runs");
        let dir = tempfile::tempdir().unwrap();
        assert_equal(&repo, &*place.remote(), &dir.path().join("t.git")).await;
    }
}

/// The first commit takes half of a run and is pushed alone, after the whole was too slow.
#[tokio::test(start_paused = true)]
async fn a_commit_that_takes_half_of_a_run_is_pushed_alone() {
    let repo = noise(1, 110_000);
    let mut stream = String::new();
    for n in 0..40 {
        let from = if n == 0 {
            "from refs/heads/main^0\n"
        } else {
            ""
        };
        let time = 1_700_001_000 + n;
        write!(
            stream,
            "commit refs/heads/main\ncommitter A <a@b> {time} +0000\ndata 2\nc\n{from}\
             M 644 inline small\ndata 2\n{n:02}\n"
        )
        .unwrap();
    }
    repo.input(&["fast-import", "--quiet"], stream.as_bytes());
    let source = slow(&repo);
    let place = Mirrored::with_small_parts(Layout::Dumb);
    let mut runs = 1;
    while !run(&source, &place, 24).await.complete {
        runs += 1;
        assert!(runs < 5, "each run must make progress");
    }
    let dir = tempfile::tempdir().unwrap();
    assert_equal(&repo, &*place.remote(), &dir.path().join("t.git")).await;
}

/// On a target that the script does not serve, tags with its names are ordinary ones.
#[tokio::test]
async fn tags_with_names_of_the_script_stay_on_other_targets() {
    let source = noise(2, 100);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.git");
    let target = local(&path);
    let mut options = all(false);
    options.refs = branchline_core::mirror::RefSelection::new(["refs/heads/*"]).unwrap();
    mirror(&local(&source.path), &target, &options, None)
        .await
        .unwrap();
    let there = super::local::at(&path, HashKind::Sha1);
    for tag in [
        "codecommit_migration_1",
        "codecommit_migration_part_0123456789abcdef",
    ] {
        there.git(&["tag", tag, "main"]);
    }
    mirror(&local(&source.path), &target, &options, None)
        .await
        .unwrap();
    assert_eq!(there.git(&["tag", "--list"]), "codecommit_migration_1");
}

#[tokio::test(start_paused = true)]
async fn a_mirroring_that_fits_one_run_is_one_push_without_tags() {
    let repo = noise(6, 12_000);
    let source = slow(&repo);
    let place = Mirrored::with_small_parts(Layout::Dumb);
    let outcome = run(&source, &place, 100).await;
    assert!(outcome.complete);
    assert_eq!(place.dumb.packs().len(), 1);
}
