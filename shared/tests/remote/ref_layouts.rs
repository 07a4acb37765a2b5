//! One repository in each S3 layout, mirrored into, killed, and cloned as its own readers do it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_core::git::pack::PackLimits;
use branchline_core::mirror::{self, MirrorOptions, MirrorResult, MirrorStats};
use branchline_core::remote::local::LocalRepository;
use branchline_core::remote::s3_dumb::DumbOptions;
use branchline_core::remote::{Remote, STALE_PREFIX};
use branchline_core::storage::ObjectStore;
use branchline_core::testkit::{Failing, FaultPlan, MemoryStore, When};
use bytes::Bytes;

use branchline_test_support::git::git;
use branchline_test_support::repo::Repo;

use crate::remote::{s3_bundle_fixture, s3_dumb_fixture};

/// Layout of a repository in S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    Dumb,
    Loose,
    Bundle,
}

pub(crate) const LAYOUTS: [Layout; 3] = [Layout::Dumb, Layout::Loose, Layout::Bundle];

/// A bucket with one repository.
pub(crate) struct Mirrored {
    pub(crate) layout: Layout,
    pub(crate) bundle: s3_bundle_fixture::BundleFixture,
    pub(crate) dumb: s3_dumb_fixture::DumbFixture,
}

/// A clone: its refs with their ids, and the branch that is checked out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cloned {
    pub(crate) refs: BTreeMap<String, String>,
    pub(crate) head: Option<String>,
}

impl Mirrored {
    pub(crate) fn new(layout: Layout) -> Self {
        Self {
            layout,
            bundle: s3_bundle_fixture::BundleFixture::new(5 << 20),
            dumb: s3_dumb_fixture::DumbFixture::new(),
        }
    }

    /// Makes a bucket that accepts parts of any size, so that little content has several.
    pub(crate) fn with_small_parts(layout: Layout) -> Self {
        Self {
            bundle: s3_bundle_fixture::BundleFixture::new(1),
            ..Self::new(layout)
        }
    }

    pub(crate) fn store(&self) -> &Arc<MemoryStore> {
        match self.layout {
            Layout::Bundle => &self.bundle.store,
            Layout::Dumb | Layout::Loose => &self.dumb.store,
        }
    }

    pub(crate) fn remote_over(&self, store: Arc<dyn ObjectStore>) -> Box<dyn Remote> {
        match self.layout {
            Layout::Bundle => {
                let options = self.bundle.options();
                Box::new(self.bundle.remote_over(store, "r", options))
            }
            Layout::Dumb | Layout::Loose => Box::new(self.dumb.remote_over(
                store,
                DumbOptions {
                    loose: self.layout == Layout::Loose,
                    ..self.dumb.options()
                },
            )),
        }
    }

    /// Mirrors a repository; all requests from number `kill` on fail, if it is given.
    pub(crate) async fn run(
        &self,
        source: &Repo,
        options: &MirrorOptions,
        kill: Option<usize>,
    ) -> MirrorResult {
        let faults = FaultPlan::new();
        for nth in kill.into_iter().flat_map(|kill| kill..kill + 2000) {
            faults.fail(nth, ErrorKind::AccessDenied, When::Before);
        }
        let store = Failing::new(Arc::clone(self.store()), &faults);
        let target = self.remote_over(Arc::new(store));
        let source = LocalRepository::new(source.path.clone(), PackLimits::default());
        let result = mirror::mirror_with_stats(&source, &*target, options, None).await;
        self.expire_locks();
        result
    }

    /// Lets the locks of a killed run expire, before the next one.
    pub(crate) fn expire_locks(&self) {
        self.bundle.clock.fetch_add(1000, Ordering::Relaxed);
    }

    pub(crate) fn remote(&self) -> Box<dyn Remote> {
        self.remote_over(Arc::clone(self.store()) as _)
    }

    /// Mirrors a repository and expects success.
    pub(crate) async fn mirror(&self, source: &Repo, options: &MirrorOptions) -> MirrorStats {
        let result = self.run(source, options, None).await;
        let stats = result.into_result();
        let stats = stats.unwrap_or_else(|error| panic!("{:?}: {}", self.layout, error.report()));
        assert!(stats.complete, "a mirroring without a deadline ends");
        stats
    }

    /// Clones the repository as the layout's own client does, and checks the clone with git.
    ///
    /// # Panics
    /// If it cannot be cloned.
    pub(crate) async fn clone(&self) -> Cloned {
        match self.layout {
            Layout::Bundle => self.clone_bundles().await,
            Layout::Dumb | Layout::Loose => self.clone_over_http(),
        }
    }

    /// Checks after a killed run that all refs which the target lists can be read: git clones a `dumb`
    /// mirror, and verifies each bundle.
    pub(crate) async fn assert_readable(&self) {
        if self.layout != Layout::Bundle {
            if self.dumb.file("info/refs").is_some() {
                let server = s3_dumb_fixture::StaticServer::start(self.dumb.clone(), 404);
                let dir = tempfile::tempdir().unwrap();
                let url = server.url();
                git(dir.path(), ["clone", "-q", "--mirror", &url, "all.git"]).unwrap();
                read_refs(&dir.path().join("all.git"));
            }
            return;
        }
        let repo = Repo::new(HashKind::Sha1);
        let keys = self.bundle.keys().await;
        for (number, key) in keys
            .iter()
            .filter(|key| key.ends_with(".bundle"))
            .enumerate()
        {
            let file = repo.path.join("fetched.bundle");
            std::fs::write(&file, self.bundle.get(key).await).unwrap();
            let file = file.to_str().unwrap();
            repo.git(&["bundle", "verify", "-q", file]);
            let listed = repo.git(&["bundle", "unbundle", file]);
            let (id, _) = listed.split_once(' ').expect("a bundle has a ref");
            repo.git(&["update-ref", &format!("refs/bundles/{number}"), id]);
        }
        repo.fsck();
    }

    fn clone_over_http(&self) -> Cloned {
        let server = s3_dumb_fixture::StaticServer::start(self.dumb.clone(), 404);
        let dir = tempfile::tempdir().unwrap();
        let url = server.url();
        git(dir.path(), ["clone", "-q", "--mirror", &url, "all.git"]).unwrap();
        let refs = read_refs(&dir.path().join("all.git"));
        // A clone with a working tree checks out the branch of `HEAD`.
        git(dir.path(), ["clone", "-q", &url, "tree"]).unwrap();
        let tree = dir.path().join("tree");
        let has_branch = refs.keys().any(|name| name.starts_with("refs/heads/"));
        let head = git(&tree, ["symbolic-ref", "-q", "HEAD"]).ok();
        if has_branch {
            git(&tree, ["rev-parse", "--verify", "-q", "HEAD"]).expect("a commit is checked out");
        }
        Cloned { refs, head }
    }

    /// Does what the Python client does: lists the keys, unbundles each bundle, and checks out
    /// the ref that `HEAD` names if that is listed.
    async fn clone_bundles(&self) -> Cloned {
        let repo = Repo::new(HashKind::Sha1);
        let mut refs = BTreeMap::new();
        for key in self.bundle.keys().await {
            let Some((name, id)) = key
                .strip_prefix("r/")
                .and_then(|key| key.strip_suffix(".bundle"))
                .and_then(|key| key.rsplit_once('/'))
            else {
                continue;
            };
            let file = repo.path.join("fetched.bundle");
            std::fs::write(&file, self.bundle.get(&key).await).unwrap();
            let file = file.to_str().unwrap();
            repo.git(&["bundle", "verify", "-q", file]);
            let listed = repo.git(&["bundle", "unbundle", file, name]);
            if name.starts_with(STALE_PREFIX) {
                let expected = format!("{id} {name}");
                assert_eq!(listed, expected, "the header has the name of the key");
            }
            std::fs::remove_file(file).unwrap();
            let before = refs.insert(name.to_owned(), id.to_owned());
            assert_eq!(before, None, "`{name}` has one bundle");
        }
        for (name, id) in &refs {
            repo.git(&["update-ref", name, id]);
        }
        repo.fsck();
        assert_eq!(read_refs(&repo.path), refs);
        let head = if self.bundle.keys().await.iter().any(|key| key == "r/HEAD") {
            let head: Bytes = self.bundle.get("r/HEAD").await;
            let head = String::from_utf8(head.to_vec()).unwrap();
            Some(head).filter(|head| refs.contains_key(head))
        } else {
            None
        };
        let has_branch = refs.keys().any(|name| name.starts_with("refs/heads/"));
        assert!(head.is_some() || !has_branch, "a commit is checked out");
        Cloned { refs, head }
    }
}

/// Reads the refs of a repository, after git has checked it.
pub(crate) fn read_refs(folder: &Path) -> BTreeMap<String, String> {
    let report = git(folder, ["fsck", "--full", "--strict", "--no-dangling"]).unwrap();
    assert_eq!(report, "", "git fsck finds nothing");
    let listed = git(
        folder,
        ["for-each-ref", "--format=%(objectname) %(refname)"],
    )
    .unwrap();
    let refs = listed.lines().filter_map(|line| line.split_once(' '));
    refs.map(|(id, name)| (name.to_owned(), id.to_owned()))
        .collect()
}
