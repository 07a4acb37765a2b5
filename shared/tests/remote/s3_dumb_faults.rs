//! Mirrors that fail at every request, before and after it took effect: the published
//! repository is complete at every moment, and the next run completes the mirror.

use std::sync::Arc;

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_core::mirror::mirror;
use branchline_core::remote::s3_dumb::DumbOptions;
use branchline_core::storage::ObjectStore;
use branchline_core::testkit::{Failing, FaultPlan, When};

use crate::remote::s3_dumb_fixture::{DumbFixture, Judge, mirror_options};
use branchline_test_support::git_remote::GitRemote;
use branchline_test_support::repo::{Repo, history};

/// State of the target before the mirror that fails.
#[derive(Clone, Copy, Debug)]
enum Start {
    Empty,
    Grown,
    Merging,
    Loose,
}

impl Start {
    fn options(self, world: &DumbFixture) -> DumbOptions {
        DumbOptions {
            loose: matches!(self, Self::Loose),
            ..world.options()
        }
    }

    /// A world to be mirrored into, and what is to be mirrored.
    async fn world(self) -> (DumbFixture, Repo) {
        let world = DumbFixture::new();
        let repo = Repo::with_history(HashKind::Sha1, 12, 4);
        let rounds = match self {
            Self::Empty => 0,
            Self::Loose | Self::Grown => 1,
            Self::Merging => 2,
        };
        for round in 0..rounds {
            world
                .mirror_with(&repo, self.options(&world), mirror_options(true))
                .await;
            repo.input(&["fast-import", "--quiet"], &history(12 + round, 1, 4));
        }
        repo.git(&["update-ref", "-d", "refs/heads/side"]);
        repo.git(&["symbolic-ref", "HEAD", "refs/heads/other"]);
        repo.git(&["branch", "other", "main~1"]);
        (world, repo)
    }
}

async fn cut_everywhere(start: Start) {
    let (world, repo) = start.world().await;
    let judge = Arc::new(Judge::new(&repo));
    let before = world.store.traffic().calls().len();
    // Counts the requests, and checks that the repository is complete at each.
    for call in 1..200 {
        let (world, judge) = (world.clone(), Arc::clone(&judge));
        let store = Arc::clone(&world.store);
        store
            .traffic()
            .before_call(before + call, move || world.assert_complete(&judge));
    }
    world
        .mirror_with(&repo, start.options(&world), mirror_options(true))
        .await;
    let requests = world.store.traffic().calls().len() - before;
    assert!(requests > 4, "{start:?}: {requests} requests");
    for nth in 1..=requests {
        for when in [When::Before, When::After] {
            let (world, repo) = start.world().await;
            let script = FaultPlan::new();
            let failing = Failing::new(Arc::clone(&world.store), &script);
            let target = world.remote_over(
                Arc::new(failing) as Arc<dyn ObjectStore>,
                start.options(&world),
            );
            // A kind that is not retried, so that the run ends.
            script.fail(nth, ErrorKind::AccessDenied, when);
            let source = GitRemote::new(&repo);
            let cut = mirror(&source, &target, &mirror_options(true), None).await;
            world.assert_complete(&judge);
            if let Err(error) = cut {
                assert_eq!(
                    error.kind(),
                    ErrorKind::AccessDenied,
                    "{start:?} {nth}: {error}"
                );
            }
            let (again, _) = world
                .mirror_with(&repo, start.options(&world), mirror_options(true))
                .await;
            assert!(again.complete);
            world.assert_complete(&judge);
            assert!(world.store.uploads().is_empty(), "no upload is left behind");
            let refs =
                branchline_core::git::dumb_http::parse_info_refs(&world.file("info/refs").unwrap());
            let published: Vec<_> = refs
                .unwrap()
                .iter()
                .map(|(name, target)| format!("{} {name}", target.id))
                .collect();
            assert_eq!(
                published.join("\n"),
                repo.refs(),
                "{start:?} {nth} {when:?}"
            );
            assert_eq!(world.text("HEAD"), "ref: refs/heads/other\n");
            if nth == requests {
                world.assert_clones_equal(&repo);
            }
        }
    }
}

#[tokio::test]
async fn a_first_mirror_that_fails_at_any_request_is_completed_by_the_next() {
    cut_everywhere(Start::Empty).await;
}

#[tokio::test]
async fn an_incremental_mirror_that_fails_at_any_request_is_completed_by_the_next() {
    cut_everywhere(Start::Grown).await;
}

#[tokio::test]
async fn a_merging_mirror_that_fails_at_any_request_is_completed_by_the_next() {
    cut_everywhere(Start::Merging).await;
}

#[tokio::test]
async fn a_loose_mirror_that_fails_at_any_request_is_completed_by_the_next() {
    cut_everywhere(Start::Loose).await;
}
