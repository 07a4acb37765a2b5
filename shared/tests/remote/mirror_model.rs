//! A model of mirrors: random changes of a source, and runs that may be killed at any request.
//! After each run the target is cloned as its own readers do it.
//!
//! Promises that hold after each complete run:
//!
//! - every selected ref of the source is in the clone, except rejected ones;
//! - `HEAD` names the source's default branch, else a branch that is there;
//! - without `prune`, no ref of the target vanishes: each is under its name or was set aside;
//! - with `prune`, the clone has the source's refs, and those that were set aside before;
//! - LFS objects that the source has, the target has, and the others are counted as missing;
//! - an equal run changes nothing.
//!
//! After a killed run, what the target lists can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_core::git::advertisement::Version;
use branchline_core::lfs::LocalLfs;
use branchline_core::mirror::{LfsOptions, MirrorOptions, mirror};
use branchline_core::remote::{LFS_RECORD_REF, STALE_PREFIX};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use branchline_test_support::git::git;
use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::lfs_server::LfsServer;
use branchline_test_support::repo::Repo;

use crate::remote::http::{remote, strict};
use crate::remote::lfs::MEMORY;
use crate::remote::lfs_fixture::Beside;
use crate::remote::lfs_model::LargeFiles;
use crate::remote::ref_layouts::{Cloned, Layout, Mirrored, read_refs};

/// Names that are in each other's way, and names with characters that need care.
const NAMES: [&str; 10] = [
    "refs/heads/main",
    "refs/heads/main/line",
    "refs/heads/a",
    "refs/heads/a/b",
    "refs/heads/a/b/c",
    "refs/heads/ü/日本",
    "refs/heads/-x.y@z",
    "refs/tags/v",
    "refs/tags/v/1",
    "refs/tags/'w\"",
];

#[derive(Debug, Clone, Copy)]
enum Change {
    /// A commit on a ref, which is created at another one if it is missing.
    Commit(usize),
    /// A commit without a parent, by force.
    Force(usize),
    /// A commit with the pointer to an LFS object, which the source has or not.
    LargeFile(usize, bool),
    /// The source gets all LFS objects that were missing.
    ProvideLargeFiles,
    Delete(usize),
    /// The default branch gets another name.
    RenameDefault(usize),
    /// An annotated tag, moved if it exists.
    Tag(usize),
    /// All refs are deleted.
    Empty,
    /// `HEAD` names a missing branch.
    DanglingHead,
}

#[derive(Debug, Clone)]
struct Step {
    changes: Vec<Change>,
    prune: bool,
    prune_all: bool,
    /// Number of the first request that fails.
    kill: Option<usize>,
    /// Number of an LFS object that vanishes from a target in S3 before the run.
    loses: Option<usize>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let branch = 0..7_usize;
    let change = prop_oneof![
        4 => branch.clone().prop_map(Change::Commit),
        1 => (0..10_usize).prop_map(Change::Force),
        3 => (0..4_usize, any::<bool>()).prop_map(|(at, is_there)| Change::LargeFile(at, is_there)),
        1 => Just(Change::ProvideLargeFiles),
        2 => (0..10_usize).prop_map(Change::Delete),
        2 => branch.prop_map(Change::RenameDefault),
        2 => (7..10_usize).prop_map(Change::Tag),
        1 => Just(Change::Empty),
        1 => Just(Change::DanglingHead),
    ];
    let step = (
        prop::collection::vec(change, 1..5),
        any::<bool>(),
        any::<bool>(),
        prop::option::of(1..40_usize),
        prop::option::weighted(0.3, 0..10_usize),
    );
    let step = step.prop_map(|(changes, prune, prune_all, kill, loses)| Step {
        changes,
        prune,
        prune_all,
        kill,
        loses,
    });
    prop::collection::vec(step, 1..6)
}

/// The source, changed by git.
struct Source {
    repo: Repo,
    commits: usize,
    large_files: LargeFiles,
}

impl Source {
    fn new() -> Self {
        Self {
            repo: Repo::new(HashKind::Sha1),
            commits: 0,
            large_files: LargeFiles::default(),
        }
    }

    fn refs(&self) -> BTreeMap<String, String> {
        let listed = self.repo.refs();
        let refs = listed.lines().filter_map(|line| line.split_once(' '));
        refs.map(|(id, name)| (name.to_owned(), id.to_owned()))
            .collect()
    }

    /// The branch that `HEAD` names, if it is there.
    fn default_branch(&self) -> Option<String> {
        let head = self.repo.git(&["symbolic-ref", "HEAD"]);
        self.refs().contains_key(&head).then_some(head)
    }

    /// Deletes the refs that are in the way of a name.
    fn delete_conflicting_refs(&self, name: &str) {
        for other in self.refs().keys() {
            let is_conflicting = |long: &str, short: &str| {
                long.strip_prefix(short)
                    .is_some_and(|rest| rest.starts_with('/'))
            };
            if is_conflicting(other, name) || is_conflicting(name, other) {
                self.repo.git(&["update-ref", "-d", other]);
            }
        }
    }

    fn commit(&mut self, name: &str, parent: Option<&str>, pointer: Option<&str>) {
        self.delete_conflicting_refs(name);
        self.commits += 1;
        let number = self.commits;
        let mut input = String::new();
        // Under a name without special characters, which the stream would have to quote.
        let _ = write!(
            input,
            "commit refs/model/new\ncommitter C <c@x> {} +0000\ndata 5\nmodel\n",
            1_600_000_000 + number
        );
        if let Some(parent) = parent {
            let _ = writeln!(input, "from {parent}");
        }
        let _ = write!(
            input,
            "M 100644 inline file-{number}\ndata 6\n{number:06}\n"
        );
        if let Some(pointer) = pointer {
            let _ = write!(
                input,
                "M 100644 inline large.bin\ndata {}\n{pointer}\n",
                pointer.len()
            );
        }
        let arguments = ["fast-import", "--quiet", "--force"];
        self.repo.input(&arguments, input.as_bytes());
        let id = self.repo.id("refs/model/new").to_string();
        self.repo.git(&["update-ref", "-d", "refs/model/new"]);
        self.repo.git(&["update-ref", name, &id]);
    }

    fn apply(&mut self, change: Change) {
        let refs = self.refs();
        match change {
            Change::Commit(at) | Change::LargeFile(at, _) => {
                let other = refs
                    .iter()
                    .find(|(name, _)| name.starts_with("refs/heads/"));
                let parent = refs.get(NAMES[at]).or(other.map(|(_, id)| id));
                let pointer = if let Change::LargeFile(_, is_there) = change {
                    Some(self.large_files.add(&self.repo, is_there))
                } else {
                    None
                };
                self.commit(NAMES[at], parent.map(String::as_str), pointer.as_deref());
            }
            Change::Force(at) => self.commit(NAMES[at], None, None),
            Change::ProvideLargeFiles => self.large_files.provide_all(&self.repo),
            Change::Delete(at) => {
                if refs.contains_key(NAMES[at]) {
                    self.repo.git(&["update-ref", "-d", NAMES[at]]);
                }
            }
            Change::RenameDefault(at) => {
                if let Some(old) = self.default_branch() {
                    let id = &refs[&old];
                    self.repo.git(&["update-ref", "-d", &old]);
                    self.delete_conflicting_refs(NAMES[at]);
                    self.repo.git(&["update-ref", NAMES[at], id]);
                }
                self.repo.git(&["symbolic-ref", "HEAD", NAMES[at]]);
            }
            Change::Tag(at) => {
                if let Some(id) = refs.values().next() {
                    self.delete_conflicting_refs(NAMES[at]);
                    let name = NAMES[at].strip_prefix("refs/tags/").unwrap();
                    self.commits += 1;
                    let message = format!("tag {}", self.commits);
                    self.repo
                        .git(&["tag", "-f", "-a", "-m", &message, name, id]);
                }
            }
            Change::Empty => {
                for name in refs.keys() {
                    self.repo.git(&["update-ref", "-d", name]);
                }
            }
            Change::DanglingHead => {
                let missing = "refs/heads/missing";
                self.repo.git(&["symbolic-ref", "HEAD", missing]);
            }
        }
    }
}

fn is_stale(name: &str) -> bool {
    name.starts_with(STALE_PREFIX)
}

/// Checks the clone after a complete run.
fn check_complete(source: &Source, before: &Cloned, now: &Cloned, step: &Step) -> TestCaseResult {
    let wanted = source.refs();
    for (name, id) in &wanted {
        prop_assert_eq!(now.refs.get(name), Some(id), "{} of the source", name);
    }
    if let Some(branch) = source.default_branch() {
        prop_assert_eq!(
            now.head.as_ref(),
            Some(&branch),
            "`HEAD` follows the source"
        );
    }
    if step.prune {
        let rest = now.refs.keys().filter(|name| !wanted.contains_key(*name));
        for name in rest {
            prop_assert!(is_stale(name), "`{}` is pruned", name);
            prop_assert_eq!(now.refs.get(name), before.refs.get(name));
        }
    } else {
        let stale: BTreeSet<&String> = now
            .refs
            .iter()
            .filter(|(name, _)| is_stale(name))
            .map(|(_, id)| id)
            .collect();
        for (name, id) in before
            .refs
            .iter()
            .filter(|(name, _)| !wanted.contains_key(*name))
        {
            let is_kept = now.refs.get(name) == Some(id) || stale.contains(id);
            prop_assert!(is_kept, "`{}` has vanished", name);
        }
    }
    Ok(())
}

async fn play(layout: Layout, steps: &[Step]) -> TestCaseResult {
    let place = Mirrored::new(layout);
    let mut source = Source::new();
    let mut before = Cloned {
        refs: BTreeMap::new(),
        head: None,
    };
    for step in steps {
        for change in &step.changes {
            source.apply(*change);
        }
        let options = MirrorOptions {
            prune: step.prune,
            prune_all: step.prune_all,
            lfs: Some(LfsOptions::new(MEMORY)),
            ..MirrorOptions::default()
        };
        if let Some(number) = step.loses {
            source.large_files.lose(&place, number).await;
        }
        if step.kill.is_some() {
            place.run(&source.repo, &options, step.kill).await;
            place.assert_readable().await;
        }
        let result = place.run(&source.repo, &options, None).await;
        if let Some(error) = result.error {
            let is_refused = error.kind() == ErrorKind::Rejected && source.refs().is_empty();
            prop_assert!(is_refused && !step.prune_all, "{}", error.report());
            let now = place.clone().await;
            let vanished = before
                .refs
                .keys()
                .find(|name| !now.refs.contains_key(*name));
            prop_assert!(vanished.is_none(), "nothing is deleted");
            before = now;
            continue;
        }
        let stats = result.stats;
        prop_assert!(
            stats.complete && stats.rejected.is_empty(),
            "{:?}",
            stats.rejected
        );
        let now = place.clone().await;
        check_complete(&source, &before, &now, step)?;
        let Source {
            repo, large_files, ..
        } = &mut source;
        large_files.check_mirror(repo, &place, &stats.lfs)?;
        let writes = place.store().journal().len();
        let again = place.mirror(&source.repo, &options).await;
        prop_assert_eq!((again.created, again.updated, again.deleted), (0, 0, 0));
        prop_assert_eq!(
            (again.lfs.objects, again.lfs.missing),
            (0, stats.lfs.missing)
        );
        prop_assert!(again.set_aside.is_empty() && again.rejected.is_empty());
        prop_assert_eq!(
            place.store().journal().len(),
            writes,
            "an equal run writes nothing"
        );
        before = now;
    }
    Ok(())
}

/// Plays the steps with a git server as the target.
async fn play_at_server(steps: &[Step]) -> TestCaseResult {
    let target = strict(HashKind::Sha1);
    target.git(&["config", "receive.denyDeleteCurrent", "ignore"]);
    let mut source = Source::new();
    let lfs = LfsServer::new(&[]);
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let (base, calls) = (lfs.base(), Arc::clone(&left));
    let to = GitServer::with(&target, move |seen| {
        if calls.load(Ordering::Relaxed) == 0 {
            return Response::Fixed(403, "text/plain", b"killed".to_vec());
        }
        calls.fetch_sub(1, Ordering::Relaxed);
        if seen.target.contains("/info/lfs/") {
            Response::Redirect(307, format!("{base}{}", seen.target))
        } else {
            Response::Git
        }
    });
    let from = GitServer::new(&source.repo);
    let stored = Arc::new(LocalLfs::new(&source.repo.path));
    let from = Beside(remote(&from.url(), Version::V2), stored);
    let to = remote(&to.url(), Version::V2);
    for step in steps {
        for change in &step.changes {
            source.apply(*change);
        }
        let options = MirrorOptions {
            prune: step.prune,
            prune_all: true,
            lfs: Some(LfsOptions::new(MEMORY)),
            ..MirrorOptions::default()
        };
        if let Some(kill) = step.kill {
            // The rule of a server is called twice a request.
            left.store(kill % 12, Ordering::Relaxed);
            // The failure of a killed run is of no interest.
            let _ = mirror(&from, &to, &options, None).await;
            left.store(usize::MAX, Ordering::Relaxed);
            assert_cloned(&target);
        }
        let stats = mirror(&from, &to, &options, None).await;
        let stats = stats.map_err(|error| TestCaseError::fail(error.report()))?;
        let mut found = assert_cloned(&target);
        let record = found.remove(LFS_RECORD_REF);
        prop_assert_eq!(record.is_some(), stats.lfs.missing > 0, "{:?}", stats.lfs);
        let stored = lfs.objects().into_keys().collect();
        source
            .large_files
            .check_server(&source.repo, &target, &stored, &stats.lfs)?;
        for (name, id) in source.refs() {
            let rejected = stats.rejected.get(bstr::BStr::new(&name));
            if let Some(reason) = rejected {
                prop_assert!(reason.contains("is in the way"), "{}", reason);
                prop_assert!(!step.prune, "{}", reason);
            } else {
                prop_assert_eq!(found.get(&name), Some(&id), "{}", name);
            }
        }
        if step.prune {
            prop_assert_eq!(found, source.refs());
        }
    }
    Ok(())
}

/// Clones a git server's repository as its readers do: all refs, and the default branch if it is there;
/// returns the refs.
fn assert_cloned(target: &Repo) -> BTreeMap<String, String> {
    let refs = read_refs(&target.path);
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", target.path.display());
    git(folder.path(), ["clone", "-q", "--mirror", &url, "all.git"]).unwrap();
    assert_eq!(read_refs(&folder.path().join("all.git")), refs);
    git(folder.path(), ["clone", "-q", &url, "tree"]).unwrap();
    let head = target.git(&["symbolic-ref", "HEAD"]);
    if let Some(id) = refs.get(&head) {
        let tree = folder.path().join("tree");
        let checked_out = git(&tree, ["rev-parse", "HEAD"]).unwrap();
        assert_eq!(checked_out, *id, "the default branch is checked out");
    }
    refs
}

fn run(layout: Option<Layout>, steps: &[Step]) -> TestCaseResult {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        match layout {
            Some(layout) => play(layout, steps).await,
            None => play_at_server(steps).await,
        }
    })
}

/// Few cases, because each runs git some hundred times; `BRANCHLINE_MODEL_CASES` is another number.
fn config() -> ProptestConfig {
    let cases = std::env::var("BRANCHLINE_MODEL_CASES").ok();
    ProptestConfig {
        cases: cases.and_then(|text| text.parse().ok()).unwrap_or(8),
        max_shrink_iters: 60,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_dumb_mirror_can_be_cloned_whatever_the_source_does(steps in steps()) {
        run(Some(Layout::Dumb), &steps)?;
    }

    #[test]
    fn a_loose_mirror_can_be_cloned_whatever_the_source_does(steps in steps()) {
        run(Some(Layout::Loose), &steps)?;
    }

    #[test]
    fn a_bundle_mirror_can_be_cloned_whatever_the_source_does(steps in steps()) {
        run(Some(Layout::Bundle), &steps)?;
    }

    #[test]
    fn a_git_server_is_complete_whatever_the_source_does(steps in steps()) {
        run(None, &steps)?;
    }
}

/// Between the new bundle and the deletion of the old one, a kill leaves both.
#[test]
fn a_forced_push_that_is_killed_at_any_request_leaves_one_bundle_after_the_next_run() {
    let step = |change, kill| Step {
        changes: vec![change],
        prune: false,
        prune_all: false,
        kill,
        loses: None,
    };
    for kill in 5..16 {
        let steps = [
            step(Change::Commit(1), None),
            step(Change::Force(1), Some(kill)),
        ];
        if let Err(error) = run(Some(Layout::Bundle), &steps) {
            panic!("request {kill}: {error}");
        }
    }
}

#[test]
fn head_is_settled_in_the_run_that_prunes_the_last_branch() {
    let step = |changes: &[Change], prune| Step {
        changes: changes.to_vec(),
        prune,
        prune_all: false,
        kill: None,
        loses: None,
    };
    let steps = [
        step(&[Change::Commit(2), Change::Tag(7)], false),
        step(&[Change::Commit(4), Change::Delete(4)], true),
    ];
    for layout in [Layout::Dumb, Layout::Loose, Layout::Bundle] {
        run(Some(layout), &steps).unwrap();
    }
}
