//! Pushes of several refs to bundles, all or none.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use branchline_core::git::refs::RefOutcome;
use branchline_core::remote::s3_bundle::BundleRemote;
use branchline_core::remote::{Push, RefUpdate, RefValue, Remote};
use branchline_core::testkit::{Failing, FaultPlan, MemoryStore, When};
use branchline_core::{ErrorKind, Result};
use branchline_test_support::repo::Repo;
use bstr::BString;

use super::s3_bundle_faults::{commit, listed, small};
use super::s3_bundle_fixture::{BundleFixture, fetch_all, mirror_all};

/// A bucket with `main`, `gone` and a ref with commits that others are moved to.
struct Moves {
    world: BundleFixture,
    repo: Repo,
    /// An update of `main`, a new branch and a deletion.
    updates: Vec<RefUpdate>,
    before: Vec<String>,
    after: Vec<String>,
}

impl Moves {
    async fn new() -> Self {
        let repo = small();
        let first = repo.id("main");
        let next = commit(&repo, &["main"], "next");
        let kept = commit(&repo, &[&next], "kept");
        repo.git(&["update-ref", "refs/heads/gone", &first.to_string()]);
        repo.git(&["update-ref", "refs/keep/all", &kept]);
        let world = BundleFixture::new(5 << 20);
        mirror_all(&repo, &world.remote("r")).await.unwrap();
        let id = |name: &str| repo.id(name);
        let updates = vec![
            update("refs/heads/main", Some(first), Some(id(&next))),
            update("refs/heads/new", None, Some(id(&kept))),
            update("refs/heads/gone", Some(first), None),
        ];
        let before = listed(&world.remote("r")).await;
        let after = [
            format!("{next} refs/heads/main"),
            format!("{kept} refs/heads/new"),
            format!("{kept} refs/keep/all"),
        ];
        Self {
            world,
            repo,
            updates,
            before,
            after: after.into(),
        }
    }

    async fn push(&self, remote: &BundleRemote) -> Result<Vec<(BString, Result<RefOutcome>)>> {
        let mut target = remote.target().await?;
        assert!(target.is_atomic());
        let push = Push {
            changes: self.updates.clone(),
            atomic: true,
            ..Push::default()
        };
        target.push_each(push).await
    }
}

fn update(
    name: &str,
    old: Option<branchline_core::git::ObjectId>,
    new: Option<branchline_core::git::ObjectId>,
) -> RefUpdate {
    RefUpdate {
        name: name.into(),
        old,
        new: new.map(|id| RefValue { id, peeled: None }),
    }
}

/// The refs without deleted ones, whose deletion comes after the others have moved.
fn written(refs: &[String]) -> Vec<&String> {
    let refs = refs.iter();
    refs.filter(|line| !line.ends_with("refs/heads/gone"))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn an_atomic_push_of_which_any_request_fails_moves_all_refs_or_none() {
    for when in [When::Before, When::After] {
        let (mut nth, mut none, mut all) = (1, 0, 0);
        loop {
            let moves = Moves::new().await;
            let script = FaultPlan::new();
            script.fail(nth, ErrorKind::Transport, when);
            let world = &moves.world;
            let store = Failing::new(Arc::<MemoryStore>::clone(&world.store), &script);
            let failing = world.remote_over(Arc::new(store), "r", world.options());
            let results = moves.push(&failing).await;
            let remote = world.remote("r");
            let found = listed(&remote).await;
            let failed = script.calls().get(nth - 1).copied().unwrap_or_default();
            let case = format!("request {nth} ({failed}), {when:?}: {results:?}");
            let is_done =
                |result: &(BString, Result<RefOutcome>)| matches!(result.1, Ok(RefOutcome::Done));
            if written(&found) == written(&moves.before) {
                none += 1;
                assert_eq!(found, moves.before, "{case}");
                let results = results.unwrap_or_default();
                assert!(
                    !results.iter().any(is_done),
                    "nothing is acknowledged: {case}"
                );
            } else {
                all += 1;
                assert_eq!(written(&found), written(&moves.after), "{case}");
                let results = results.unwrap_or_default();
                for (name, result) in &results {
                    let is_kept = found.iter().any(|line| line.ends_with(&name.to_string()));
                    let is_deletion = name == "refs/heads/gone";
                    let is_known = matches!(result, Ok(RefOutcome::Done));
                    assert!(
                        is_known || (is_deletion && is_kept) || when == When::After,
                        "{case}"
                    );
                }
            }
            fetch_all(&remote).await;
            // A lock whose release failed expires.
            world.clock.fetch_add(10_000, Ordering::Relaxed);
            mirror_all(&moves.repo, &remote).await.unwrap();
            assert_eq!(
                listed(&remote).await.join("\n"),
                moves.repo.refs(),
                "{case}"
            );
            if script.calls().len() < nth {
                break;
            }
            nth += 1;
        }
        assert!(none > 10 && all > 3, "both ends occur: {none}, {all}");
    }
}

#[tokio::test]
async fn an_atomic_push_changes_nothing_when_another_client_has_moved_one_of_its_refs() {
    let moves = Moves::new().await;
    let remote = moves.world.remote("r");
    let mut target = remote.target().await.unwrap();
    let other = commit(&moves.repo, &["main"], "of another client");
    moves.repo.git(&["update-ref", "refs/heads/gone", &other]);
    mirror_all(&moves.repo, &moves.world.remote("r"))
        .await
        .unwrap();
    let before = listed(&moves.world.remote("r")).await;
    let keys = moves.world.keys().await;
    let push = Push {
        changes: moves.updates.clone(),
        atomic: true,
        ..Push::default()
    };
    let results = target.push_each(push).await.unwrap();
    for (name, result) in &results {
        match result {
            Ok(RefOutcome::Rejected(reason)) => assert_eq!(reason, "atomic push failure"),
            Err(error) => {
                assert_eq!(
                    (name.to_string().as_str(), error.kind()),
                    ("refs/heads/gone", ErrorKind::Conflict)
                );
            }
            other => panic!("`{name}`: {other:?}"),
        }
    }
    assert_eq!(listed(&moves.world.remote("r")).await, before);
    assert_eq!(
        moves.world.keys().await,
        keys,
        "no lock and no bundle is left"
    );
    assert!(moves.world.store.uploads().is_empty());
}

#[tokio::test]
async fn an_atomic_push_that_one_protected_branch_forbids_changes_nothing() {
    let moves = Moves::new().await;
    moves.world.put("r/refs/heads/gone/PROTECTED#", "").await;
    let remote = moves.world.remote("r");
    let results = moves.push(&remote).await.unwrap();
    let reasons: Vec<String> = results
        .into_iter()
        .map(|(_, result)| match result {
            Ok(RefOutcome::Rejected(reason)) => reason,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(reasons[..2], ["atomic push failure", "atomic push failure"]);
    assert!(reasons[2].contains("protected"), "{reasons:?}");
    assert_eq!(listed(&remote).await, moves.before);
}
