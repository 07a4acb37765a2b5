//! Refs in each other's way, renamed default branches, `HEAD`, forced updates and pruning, in
//! each S3 layout and at git servers.

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_core::mirror::{ForcedUpdate, MirrorOptions, RefSelection};

use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::Repo;

use crate::remote::http::{remote, strict};
use crate::remote::ref_layouts::{LAYOUTS, Layout, Mirrored, read_refs};
use branchline_core::git::advertisement::Version;
use branchline_core::mirror::{MirrorStats, mirror, preview};

fn prune() -> MirrorOptions {
    MirrorOptions {
        prune: true,
        ..MirrorOptions::default()
    }
}

/// A source with the branches `main` and `side`, and the tags `v1` and `light`.
fn source() -> Repo {
    let repo = Repo::with_history(HashKind::Sha1, 8, 3);
    repo.git(&["update-ref", "-d", "refs/notes/commits"]);
    repo
}

fn rename(repo: &Repo, from: &str, to: &str) {
    let id = repo.id(from).to_string();
    repo.git(&["update-ref", "-d", from]);
    repo.git(&["update-ref", to, &id]);
}

/// Adds a commit without a parent.
fn other_root(repo: &Repo) -> String {
    let tree = repo.git(&["rev-parse", "main^{tree}"]);
    repo.git(&["commit-tree", &tree, "-m", "another root"])
}

fn set_aside(stats: &MirrorStats) -> Vec<(String, String)> {
    let pairs = stats.set_aside.iter();
    pairs
        .map(|(name, kept)| (name.to_string(), kept.to_string()))
        .collect()
}

#[tokio::test]
async fn a_stale_ref_is_set_aside_when_its_name_is_in_the_way() {
    for layout in LAYOUTS {
        let (place, repo) = (Mirrored::new(layout), source());
        repo.git(&["update-ref", "refs/heads/a", "main~1"]);
        repo.git(&["update-ref", "refs/tags/t/1", "main~2"]);
        place.mirror(&repo, &MirrorOptions::default()).await;
        let stale = repo.id("refs/heads/a").to_string();
        // `a` becomes a folder, and the folder `t` a tag.
        repo.git(&["update-ref", "-d", "refs/heads/a"]);
        repo.git(&["update-ref", "refs/heads/a/b", "main"]);
        repo.git(&["update-ref", "refs/heads/a/c/d", "side"]);
        repo.git(&["update-ref", "-d", "refs/tags/t/1"]);
        repo.git(&["update-ref", "refs/tags/t", "side"]);
        let stats = place.mirror(&repo, &MirrorOptions::default()).await;
        let expected = [
            ("refs/heads/a".to_owned(), "refs/stale/heads/a".to_owned()),
            ("refs/tags/t/1".to_owned(), "refs/stale/tags/t/1".to_owned()),
        ];
        assert_eq!(set_aside(&stats), expected, "{layout:?}");
        assert_eq!((stats.created, stats.deleted), (3, 0), "{layout:?}");
        assert!(stats.rejected.is_empty(), "{:?}", stats.rejected);
        let clone = place.clone().await;
        for (name, id) in read_refs(&repo.path) {
            assert_eq!(clone.refs.get(&name), Some(&id), "{layout:?}: {name}");
        }
        assert_eq!(clone.refs["refs/stale/heads/a"], stale);
        assert_eq!(clone.head.as_deref(), Some("refs/heads/main"));

        // The other way, with another `a`: the first one keeps its name.
        repo.git(&["update-ref", "-d", "refs/heads/a/b"]);
        repo.git(&["update-ref", "-d", "refs/heads/a/c/d"]);
        repo.git(&["update-ref", "refs/heads/a", "main"]);
        let stats = place.mirror(&repo, &MirrorOptions::default()).await;
        let kept: Vec<_> = set_aside(&stats)
            .into_iter()
            .map(|(_, kept)| kept)
            .collect();
        let expected = ["refs/stale/heads/a-2/b", "refs/stale/heads/a-2/c/d"];
        assert_eq!(kept, expected, "{layout:?}");
        let clone = place.clone().await;
        assert_eq!(clone.refs["refs/stale/heads/a"], stale);
        assert_eq!(clone.refs["refs/heads/a"], repo.id("main").to_string());
        let again = place.mirror(&repo, &MirrorOptions::default()).await;
        let nothing = (again.created, again.updated, again.deleted);
        assert_eq!((nothing, again.set_aside.len()), ((0, 0, 0), 0));

        // `refs/*` with `prune` deletes no stale ref.
        let everything = MirrorOptions {
            refs: RefSelection::new(["refs/*"]).unwrap(),
            ..prune()
        };
        place.mirror(&repo, &everything).await;
        assert_eq!(place.clone().await.refs["refs/stale/heads/a"], stale);
    }
}

#[tokio::test]
async fn a_pruned_ref_in_the_way_is_deleted_first() {
    for layout in LAYOUTS {
        let (place, repo) = (Mirrored::new(layout), source());
        repo.git(&["update-ref", "refs/heads/a", "main~1"]);
        place.mirror(&repo, &prune()).await;
        rename(&repo, "refs/heads/a", "refs/heads/a/b");
        let stats = place.mirror(&repo, &prune()).await;
        assert_eq!((stats.created, stats.deleted), (1, 1), "{layout:?}");
        assert!(stats.set_aside.is_empty() && stats.rejected.is_empty());
        assert_eq!(place.clone().await.refs, read_refs(&repo.path));
    }
}

#[tokio::test]
async fn refs_that_the_python_client_left_in_each_other_s_way_are_repaired() {
    for kept in ["refs/heads/a", "refs/heads/a/b", "refs/heads/main"] {
        let (place, repo) = (Mirrored::new(Layout::Bundle), source());
        let other = source();
        for (name, from) in [("refs/heads/a", "main~1"), ("refs/heads/a/b", "side")] {
            other.git(&["branch", "-f", "pushed", from]);
            let pushed = place.bundle.python_push(&other, "r", "pushed", name);
            pushed.await;
        }
        place.bundle.put("r/HEAD", "refs/heads/a").await;
        repo.git(&["update-ref", kept, "main"]);
        let stats = place.mirror(&repo, &MirrorOptions::default()).await;
        let aside = set_aside(&stats);
        let stale = if kept == "refs/heads/a" {
            "refs/heads/a/b"
        } else {
            "refs/heads/a"
        };
        assert_eq!(aside.len(), 1, "{kept}: {aside:?}");
        assert_eq!(aside[0].0, stale, "the source has {kept}");
        let clone = place.clone().await;
        assert_eq!(clone.refs[kept], repo.id("main").to_string());
    }
}

#[tokio::test]
async fn a_ref_in_the_way_at_a_git_server_rejects_the_new_one_by_name() {
    let (repo, to) = (source(), strict(HashKind::Sha1));
    let (from_server, to_server) = (GitServer::new(&repo), GitServer::new(&to));
    let from = remote(&from_server.url(), Version::V2);
    let target = remote(&to_server.url(), Version::V2);
    repo.git(&["update-ref", "refs/heads/a", "main~1"]);
    let options = MirrorOptions::default();
    mirror(&from, &target, &options, None).await.unwrap();
    rename(&repo, "refs/heads/a", "refs/heads/a/b");
    repo.git(&["update-ref", "refs/heads/fine", "side"]);
    let stats = mirror(&from, &target, &options, None).await.unwrap();
    assert_eq!((stats.created, stats.rejected.len()), (1, 1));
    let reason = &stats.rejected.values().next().unwrap();
    assert!(reason.contains("`refs/heads/a` of the target is in the way"));
    assert!(
        reason.contains("hint: delete or rename it there"),
        "{reason}"
    );
    let stats = mirror(&from, &target, &prune(), None).await.unwrap();
    assert_eq!((stats.created, stats.deleted), (1, 1), "{stats:?}");
    assert_eq!(to.refs(), repo.refs());
}

/// "A mirror can be cloned, and its default branch is checked out, also after a rename."
#[tokio::test]
async fn head_follows_a_renamed_default_branch() {
    for layout in LAYOUTS {
        for options in [MirrorOptions::default(), prune()] {
            for renamed in ["refs/heads/trunk", "refs/heads/main/line"] {
                let (place, repo) = (Mirrored::new(layout), source());
                place.mirror(&repo, &options).await;
                rename(&repo, "refs/heads/main", renamed);
                repo.git(&["symbolic-ref", "HEAD", renamed]);
                let stats = place.mirror(&repo, &options).await;
                assert!(stats.rejected.is_empty() && stats.undeleted.is_empty());
                let clone = place.clone().await;
                assert_eq!(clone.head.as_deref(), Some(renamed), "{layout:?}");
                if options.prune {
                    assert_eq!(clone.refs, read_refs(&repo.path), "{layout:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn head_names_a_branch_that_is_there_whatever_is_selected() {
    for layout in LAYOUTS {
        let (place, repo) = (Mirrored::new(layout), source());
        let only_side = MirrorOptions {
            refs: RefSelection::new(["refs/heads/side", "refs/tags/*"]).unwrap(),
            ..prune()
        };
        place.mirror(&repo, &only_side).await;
        let head = place.clone().await.head;
        assert_eq!(head.as_deref(), Some("refs/heads/side"), "{layout:?}");
        // The source's `HEAD` names nothing: the target's stays.
        repo.git(&["symbolic-ref", "HEAD", "refs/heads/nowhere"]);
        let stats = place.mirror(&repo, &MirrorOptions::default()).await;
        assert_eq!(stats.created, 1);
        let head = place.clone().await.head;
        assert_eq!(head.as_deref(), Some("refs/heads/side"), "{layout:?}");
        let other = Mirrored::new(layout);
        other.mirror(&repo, &MirrorOptions::default()).await;
        let head = other.clone().await.head;
        assert_eq!(head.as_deref(), Some("refs/heads/main"), "{layout:?}");
    }
}

#[tokio::test]
async fn an_emptied_source_deletes_everything_only_on_request() {
    for layout in LAYOUTS {
        let (place, repo) = (Mirrored::new(layout), source());
        place.mirror(&repo, &prune()).await;
        let before = place.clone().await;
        for name in before.refs.keys() {
            repo.git(&["update-ref", "-d", name]);
        }
        let calls = place.store().journal().len();
        let error = place.run(&repo, &prune(), None).await.error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Rejected);
        let count = format!("delete all {} of", before.refs.len());
        assert!(error.to_string().contains(&count), "{error}");
        assert_eq!(place.store().journal().len(), calls, "nothing is written");
        assert_eq!(place.clone().await, before);
        let all = MirrorOptions {
            prune_all: true,
            ..prune()
        };
        let stats = place.mirror(&repo, &all).await;
        assert_eq!(stats.deleted, before.refs.len() as u64);
        assert!(place.clone().await.refs.is_empty());
    }
}

#[tokio::test]
async fn updates_that_are_not_fast_forwards_are_counted_and_can_be_rejected() {
    for layout in LAYOUTS {
        let (place, repo) = (Mirrored::new(layout), source());
        repo.git(&["update-ref", "refs/heads/behind", "main~3"]);
        repo.git(&["update-ref", "refs/heads/ahead", "main"]);
        repo.git(&["update-ref", "refs/heads/elsewhere", "main~2"]);
        place.mirror(&repo, &MirrorOptions::default()).await;
        let before = read_refs(&repo.path);
        let root = other_root(&repo);
        let next = ["commit-tree", "main^{tree}", "-p", "main", "-m", "next"];
        let next = repo.git(&next);
        for (name, to) in [
            ("refs/heads/behind", "main~1"),
            ("refs/heads/ahead", "main~2"),
            ("refs/heads/elsewhere", root.as_str()),
            ("refs/heads/main", next.as_str()),
            ("refs/tags/light", "main~1"),
        ] {
            repo.git(&["update-ref", name, to]);
        }
        let now = read_refs(&repo.path);
        let forced = [
            "refs/heads/ahead",
            "refs/heads/elsewhere",
            "refs/tags/light",
        ];
        let forward = MirrorOptions {
            fast_forward_only: true,
            ..MirrorOptions::default()
        };
        let planned = {
            let target = place.remote_over(std::sync::Arc::clone(place.store()) as _);
            let source = branchline_core::remote::local::LocalRepository::new(
                repo.path.clone(),
                branchline_core::git::pack::PackLimits::default(),
            );
            let writes = place.store().journal().len();
            let options = MirrorOptions::default();
            let found = preview(&source, &*target, &options, false, None).await;
            assert_eq!(
                place.store().journal().len(),
                writes,
                "a preview writes nothing"
            );
            found.unwrap()
        };
        let stats = place.mirror(&repo, &forward).await;
        assert_eq!((stats.updated, stats.forced.len()), (2, 0), "{layout:?}");
        let rejected: Vec<_> = stats.rejected.keys().map(ToString::to_string).collect();
        assert_eq!(rejected, forced, "{layout:?}: {:?}", stats.rejected);
        for name in forced {
            let reason = &stats.rejected[bstr::BStr::new(name)];
            assert!(reason.contains(&before[name]) && reason.contains(&now[name]));
            assert_eq!(place.clone().await.refs[name], before[name]);
        }
        let stats = place.mirror(&repo, &MirrorOptions::default()).await;
        let moved = forced.map(|name| {
            let id = |refs: &std::collections::BTreeMap<String, String>| {
                branchline_core::git::ObjectId::from_hex(refs[name].as_bytes()).unwrap()
            };
            let update = ForcedUpdate {
                old: id(&before),
                new: id(&now),
            };
            (name.into(), update)
        });
        assert_eq!(stats.forced, moved.into(), "{layout:?}");
        assert_eq!(planned.stats.forced, stats.forced, "{layout:?}");
        assert_eq!(planned.updated.len(), 5, "{layout:?}");
        assert_eq!(stats.updated, 3, "{layout:?}");
        assert_eq!(place.clone().await.refs, now);
    }
}

#[tokio::test]
async fn a_git_server_that_cannot_filter_still_tells_forced_updates_apart() {
    for version in [Version::V0, Version::V2] {
        for filters in ["true", "false"] {
            let (repo, to) = (source(), strict(HashKind::Sha1));
            repo.git(&["config", "uploadpack.allowFilter", filters]);
            repo.git(&["update-ref", "refs/heads/behind", "main~3"]);
            repo.git(&["update-ref", "refs/heads/ahead", "main"]);
            let (from_server, to_server) = (GitServer::new(&repo), GitServer::new(&to));
            let from = remote(&from_server.url(), version);
            let target = remote(&to_server.url(), Version::V2);
            let options = MirrorOptions::default();
            mirror(&from, &target, &options, None).await.unwrap();
            // The target has these commits, so no pack shows that one of them is forward.
            repo.git(&["update-ref", "refs/heads/behind", "main"]);
            repo.git(&["update-ref", "refs/heads/ahead", "main~3"]);
            // A commit that only the target has.
            let lost = to.git(&["commit-tree", "main^{tree}", "-p", "side", "-m", "lost"]);
            to.git(&["update-ref", "refs/heads/side", &lost]);
            let before = from_server.requests().len();
            let stats = mirror(&from, &target, &options, None).await.unwrap();
            let forced: Vec<_> = stats.forced.keys().map(ToString::to_string).collect();
            assert_eq!(
                forced,
                ["refs/heads/ahead", "refs/heads/side"],
                "{version:?}"
            );
            assert_eq!(stats.updated, 3, "{version:?}, filters: {filters}");
            assert_eq!(to.refs(), repo.refs());
            // A fast-forward with new commits costs no further request.
            let tree = "main^{tree}";
            let next = repo.git(&["commit-tree", tree, "-p", "main", "-m", "next"]);
            repo.git(&["update-ref", "refs/heads/main", &next]);
            let used = from_server.requests().len();
            assert!(used > before);
            let stats = mirror(&from, &target, &options, None).await.unwrap();
            assert_eq!((stats.updated, stats.forced.len()), (1, 0));
            let requests = from_server.requests().len() - used;
            let refs = if version == Version::V0 { 1 } else { 2 };
            assert_eq!(requests, refs + 1, "the refs, and one pack");
        }
    }
}

/// Kills runs at each request while refs are set aside.
async fn kill_at_each_request(layout: Layout) {
    for options in [MirrorOptions::default(), prune()] {
        let mut kill = 1;
        loop {
            let (place, repo) = (Mirrored::new(layout), source());
            repo.git(&["update-ref", "refs/heads/a", "side"]);
            repo.git(&["symbolic-ref", "HEAD", "refs/heads/a"]);
            place.mirror(&repo, &options).await;
            let stale = repo.id("refs/heads/a").to_string();
            rename(&repo, "refs/heads/a", "refs/heads/a/b");
            let more = ["commit-tree", "main^{tree}", "-p", "a/b", "-m", "more"];
            let more = repo.git(&more);
            repo.git(&["update-ref", "refs/heads/a/b", &more]);
            repo.git(&["symbolic-ref", "HEAD", "refs/heads/a/b"]);
            let killed = place.run(&repo, &options, Some(kill)).await;
            let clone = place.clone().await;
            if !options.prune {
                let kept = clone.refs.values().any(|id| *id == stale);
                assert!(kept, "{layout:?}, killed at request {kill}: {clone:?}");
            }
            place.mirror(&repo, &options).await;
            let clone = place.clone().await;
            assert_eq!(clone.head.as_deref(), Some("refs/heads/a/b"), "{layout:?}");
            if options.prune {
                assert_eq!(clone.refs, read_refs(&repo.path), "{layout:?}");
            }
            if killed.error.is_none() {
                assert!(kill > 8, "{layout:?}: {kill} requests");
                break;
            }
            kill += 1;
        }
    }
}

#[tokio::test]
async fn a_run_killed_while_refs_of_a_dumb_layout_are_set_aside_loses_no_history() {
    kill_at_each_request(Layout::Dumb).await;
}

#[tokio::test]
async fn a_run_killed_while_bundles_are_set_aside_loses_no_history() {
    kill_at_each_request(Layout::Bundle).await;
}
