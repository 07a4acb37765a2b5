//! Two concurrent mirrors into one prefix: the second runs completely before each request of
//! the first.

use std::sync::Arc;

use branchline_core::git::HashKind;
use branchline_core::git::dumb_http::parse_info_refs;
use branchline_core::mirror::{self, mirror};
use branchline_core::remote::s3_dumb::DumbOptions;
use bstr::ByteSlice as _;

use crate::remote::s3_dumb_fixture::{DumbFixture, Judge, mirror_options};
use branchline_test_support::git_remote::GitRemote;
use branchline_test_support::repo::{Repo, history};

fn only(pattern: &str) -> mirror::MirrorOptions {
    mirror::MirrorOptions {
        refs: mirror::RefSelection::new([pattern]).unwrap(),
        ..mirror::MirrorOptions::default()
    }
}

/// Runs a mirror to its end on its own thread.
fn run_meanwhile(
    world: DumbFixture,
    repo: Arc<Repo>,
    how: mirror::MirrorOptions,
    options: DumbOptions,
) {
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let target = world.remote_with(options);
        let source = GitRemote::new(&repo);
        let done = runtime.block_on(mirror(&source, &target, &how, None));
        assert!(done.unwrap().complete);
    });
    thread.join().expect("the other mirror succeeds");
}

/// Difference between the two mirrors.
#[derive(Clone, Copy, Debug)]
enum Case {
    /// Both mirror everything.
    Same,
    /// Each mirrors another branch, into an empty prefix.
    Apart,
    /// Each mirrors another branch, into a prefix with packs to merge.
    ApartMerging,
    /// The second writes loose objects.
    OneLoose,
    /// Both delete expired packs.
    Overdue,
}

async fn start(case: Case) -> (DumbFixture, Arc<Repo>) {
    let world = DumbFixture::new();
    let repo = Repo::with_history(HashKind::Sha1, 8, 4);
    if let Case::ApartMerging | Case::Overdue = case {
        for round in 0..3 {
            world.mirror(&repo).await;
            repo.input(&["fast-import", "--quiet"], &history(8 + round, 1, 4));
        }
        if let Case::Overdue = case {
            world.advance(3 * 24 * 60 * 60);
        }
    }
    let tree = repo.git(&["rev-parse", "main^{tree}"]);
    for name in ["left", "right"] {
        let commit = repo.git(&["commit-tree", &tree, "-p", "main", "-m", name]);
        repo.git(&["update-ref", &format!("refs/heads/{name}"), &commit]);
    }
    repo.git(&["symbolic-ref", "HEAD", "refs/heads/left"]);
    (world, Arc::new(repo))
}

async fn interleave(case: Case) {
    let (mine, theirs) = match case {
        Case::Same | Case::Overdue => (mirror_options(true), mirror_options(true)),
        _ => (only("refs/heads/left"), only("refs/heads/right")),
    };
    let mut nth = 0;
    loop {
        nth += 1;
        let (world, repo) = start(case).await;
        let judge = Arc::new(Judge::new(&repo));
        let before = world.store.traffic().calls().len();
        let other = DumbOptions {
            loose: matches!(case, Case::OneLoose),
            ..world.options()
        };
        let (at, source, how) = (world.clone(), Arc::clone(&repo), theirs.clone());
        world
            .store
            .traffic()
            .before_call(before + nth, move || run_meanwhile(at, source, how, other));
        for call in 1..150 {
            let (at, judge) = (world.clone(), Arc::clone(&judge));
            let traffic = world.store.traffic();
            traffic.before_call(before + call, move || at.assert_complete(&judge));
        }
        let (outcome, calls) = world
            .mirror_with(&repo, world.options(), mine.clone())
            .await;
        assert!(outcome.complete, "{case:?}, before request {nth}");
        world.assert_complete(&judge);
        let refs = parse_info_refs(&world.file("info/refs").unwrap()).unwrap();
        for name in ["left", "right"] {
            let full = format!("refs/heads/{name}");
            let published = refs.get(full.as_bytes().as_bstr()).map(|target| target.id);
            let expected = Some(repo.id(name));
            if calls.len() < nth && name == "right" && !matches!(case, Case::Same | Case::Overdue) {
                continue;
            }
            assert_eq!(
                published, expected,
                "{case:?}, `{name}`, before request {nth}"
            );
        }
        assert_eq!(world.text("HEAD"), "ref: refs/heads/left\n");
        assert!(world.store.uploads().is_empty());
        if calls.len() < nth {
            assert!(nth > 5, "{case:?}: {nth} requests");
            world.mirror(&repo).await;
            world.assert_clones_equal(&repo);
            return;
        }
    }
}

#[tokio::test]
async fn two_mirrors_of_one_source_are_complete() {
    interleave(Case::Same).await;
}

#[tokio::test]
async fn two_mirrors_of_different_branches_into_an_empty_prefix_are_complete() {
    interleave(Case::Apart).await;
}

#[tokio::test]
async fn two_mirrors_that_merge_packs_are_complete() {
    interleave(Case::ApartMerging).await;
}

#[tokio::test]
async fn a_mirror_of_packs_and_a_mirror_of_loose_objects_are_complete() {
    interleave(Case::OneLoose).await;
}

#[tokio::test]
async fn two_mirrors_that_delete_expired_packs_are_complete() {
    interleave(Case::Overdue).await;
}
