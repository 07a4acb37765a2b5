//! Packs that killed runs left in a bucket: they go with a later run, and with a cleaning.

use std::sync::Arc;

use branchline_core::ErrorKind;
use branchline_core::git::pack::PackLimits;
use branchline_core::mirror::{self, IdleList, LfsOptions, MirrorOptions, MirrorResult};
use branchline_core::remote::local::LocalRepository;
use branchline_core::remote::s3_dumb::{DumbOptions, DumbRemote};
use branchline_core::storage::ObjectStore;
use branchline_core::testkit::{Failing, FaultPlan, MemoryStore, When};

use crate::remote::lfs::MEMORY;
use crate::remote::lfs_fixture::commit;
use crate::remote::lfs_model::LargeFiles;
use crate::remote::s3_dumb_fixture::DumbFixture;
use crate::remote::s3_dumb_packs::with_noise;
use branchline_test_support::repo::Repo;

/// Seconds after which a temporary pack belongs to no run.
const OLD: i64 = 25 * 60 * 60;

/// A mirror in a bucket, whose packs above 5 MiB are staged there.
struct Staging {
    world: DumbFixture,
    repo: Repo,
    loose: bool,
}

impl Staging {
    fn new(loose: bool) -> Self {
        Self {
            world: DumbFixture::new(),
            repo: with_noise(6 << 20),
            loose,
        }
    }

    fn remote(&self, store: Arc<dyn ObjectStore>) -> DumbRemote {
        let options = DumbOptions {
            loose: self.loose,
            memory: 1 << 20,
            ..self.world.options()
        };
        self.world.remote_over(store, options)
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::<MemoryStore>::clone(&self.world.store)
    }

    async fn run_over(&self, store: Arc<dyn ObjectStore>, options: MirrorOptions) -> MirrorResult {
        let source = LocalRepository::new(self.repo.path.clone(), PackLimits::default());
        let options = MirrorOptions {
            lfs: Some(LfsOptions::new(MEMORY)),
            ..options
        };
        mirror::mirror_with_stats(&source, &self.remote(store), &options, None).await
    }

    async fn run(&self, options: MirrorOptions) {
        let result = self.run_over(self.store(), options).await;
        assert!(result.stats.complete, "{:?}", result.error);
    }

    /// Runs until all requests from one on fail, and the staged pack is left.
    async fn kill(&self) {
        for first in 1..60 {
            let faults = FaultPlan::new();
            for nth in first..first + 200 {
                faults.fail(nth, ErrorKind::AccessDenied, When::Before);
            }
            let store = Failing::new(Arc::clone(&self.world.store), &faults);
            let killed = self
                .run_over(Arc::new(store), MirrorOptions::default())
                .await;
            assert!(!killed.stats.complete, "the pack was staged before");
            if self.staged().await > 0 {
                return;
            }
        }
        panic!("no run was killed while its pack was staged");
    }

    async fn staged(&self) -> usize {
        let files = self.world.files().await;
        let is_staged = |path: &&String| path.starts_with("objects/pack/tmp_pack_");
        files.iter().filter(is_staged).count()
    }
}

#[tokio::test]
async fn a_pack_of_a_killed_run_goes_with_the_next_run_and_with_clean() {
    for loose in [false, true] {
        let staging = Staging::new(loose);
        staging.kill().await;
        staging.run(MirrorOptions::default()).await;
        assert_eq!(staging.staged().await, 1, "it may be in use");
        // Without a merge, because there is no news.
        staging.world.advance(OLD);
        staging.run(MirrorOptions::default()).await;
        assert_eq!(staging.staged().await, 0, "loose: {loose}");
        staging.world.assert_clones_equal(&staging.repo);

        let staging = Staging::new(loose);
        staging.kill().await;
        let cleaned = mirror::clean(&staging.remote(staging.store()), None).await;
        assert!(cleaned.stats.complete, "{:?}", cleaned.error);
        assert_eq!(staging.staged().await, 0, "loose: {loose}");
    }
}

/// "In one of 16 such runs [..] the list is that of packs which killed runs left."
#[tokio::test]
async fn a_pack_of_a_killed_run_goes_with_a_run_without_news_in_place_of_a_list_of_lfs_objects() {
    for loose in [false, true] {
        let staging = Staging::new(loose);
        staging.kill().await;
        let pointer = LargeFiles::default().add(&staging.repo, true);
        commit(&staging.repo, "large.bin", &pointer);
        staging.run(MirrorOptions::default()).await;
        assert_eq!(staging.staged().await, 1, "it may be in use");
        staging.world.advance(OLD);
        let chosen = MirrorOptions {
            idle_list: IdleList::Leftovers,
            ..MirrorOptions::default()
        };
        for (options, left) in [(MirrorOptions::default(), 1), (chosen.clone(), 0)] {
            staging.run(options).await;
            assert_eq!(staging.staged().await, left, "loose: {loose}");
        }
        for options in [MirrorOptions::default(), chosen] {
            let before = staging.world.store.traffic().calls().len();
            staging.run(options).await;
            let calls = staging.world.store.traffic().calls().split_off(before);
            assert!(calls.len() <= 4, "{calls:?}");
        }
    }
}
