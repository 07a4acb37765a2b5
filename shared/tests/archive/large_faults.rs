//! What goes wrong with files that are read over git, and that nothing is left of it.

use std::sync::Arc;
use std::time::Duration;

use branchline_core::storage::ObjectStore;
use branchline_core::testkit::{Failing, FaultPlan, MemoryStore, When};
use branchline_core::{Error, ErrorKind};

use super::compare::same;
use super::faults::{noise, target};
use super::git::{Item, Repo};
use super::large::World;
use branchline_test_support::git_server::Response;
use branchline_test_support::http::ReceivedRequest;

const MIB: usize = 1 << 20;

/// So large that the pack does not stay in memory.
fn staged() -> (Repo, String) {
    let repo = Repo::new();
    let commit = repo.files(&[
        ("a", &noise(1, 7 * MIB)),
        ("b", &noise(2, 3000)),
        ("c", b"3"),
    ]);
    (repo, commit)
}

const LARGEST: u64 = 1000;

fn world(repo: &Repo, commit: &str) -> World {
    let mut world = World::new(repo, commit, LARGEST);
    world.memory = 16 * MIB;
    world
}

/// Waits for what goes on behind the caller's back.
async fn assert_nothing_is_left(world: &World, what: &str) {
    for _ in 0..200 {
        if world.left().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(world.left(), Vec::<String>::new(), "{what}");
    let archives = world.store.versions(&target().bucket, "r/main.zip");
    assert!(archives.is_empty(), "{what}: there is no archive");
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_call_fails_nothing_is_left_and_the_next_run_succeeds() {
    let (repo, commit) = staged();
    let clean = world(&repo, &commit);
    let script = FaultPlan::new();
    let store = Failing::new(Arc::clone(&clean.store), &script);
    clean.build(Arc::new(store)).await.unwrap();
    assert_eq!(clean.left(), Vec::<String>::new());
    let names = script.calls();
    let service_calls = clean.disk.calls.lock().unwrap().len();
    assert!(
        names.contains(&"complete_upload") && names.contains(&"get"),
        "the pack was staged: {names:?}"
    );
    for nth in 1..=names.len() {
        let world = world(&repo, &commit);
        let script = FaultPlan::new();
        script.fail(nth, ErrorKind::AccessDenied, When::Before);
        let store = Arc::new(Failing::new(Arc::clone(&world.store), &script));
        let result = world.build(store as Arc<dyn ObjectStore>).await;
        let calls = script.calls();
        // The archive is complete by then, and a lifecycle rule removes what is left.
        if calls[nth - 1] == "delete_version" {
            result.expect("the archive is complete");
            continue;
        }
        let error = result.expect_err("a call failed");
        let what = format!("call {nth}, {}: {}", calls[nth - 1], error.report());
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{what}");
        assert_nothing_is_left(&world, &what).await;
        let (zip, _) = world.archive().await;
        same(&zip, &repo.archive("", &commit));
    }
    for k in 0..service_calls {
        let mut world = world(&repo, &commit);
        Arc::get_mut(&mut world.disk).unwrap().fails = Some(k);
        let error = world.build(Arc::clone(&world.store) as _).await;
        let error = error.expect_err("a call failed");
        assert!(
            error.to_string().contains("broken on purpose"),
            "call {k}: {error}"
        );
        assert_nothing_is_left(&world, &format!("call {k}")).await;
    }
}

async fn fails(rule: impl Fn(&ReceivedRequest) -> Response + Send + Sync + 'static) -> Error {
    let (repo, commit) = staged();
    let mut world = World::with(&repo, &commit, LARGEST, rule);
    world.memory = 16 * MIB;
    let error = world.build(Arc::clone(&world.store) as _).await;
    let error = error.expect_err("git does not answer well");
    assert_nothing_is_left(&world, &error.report()).await;
    let text = error.to_string();
    assert!(text.contains("`a`") || text.contains("`b`"), "{text}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_git_server_that_refuses_or_breaks_off_fails_the_archive_by_its_kind() {
    let denied = || Response::Fixed(403, "text/xml", b"<AccessDeniedException/>".to_vec());
    for method in ["GET", "POST"] {
        let error = fails(move |seen| {
            if seen.method == method {
                denied()
            } else {
                Response::Git
            }
        })
        .await;
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{}", error.report());
        assert!(
            error.report().contains("codecommit:GitPull"),
            "the permission is named: {}",
            error.report()
        );
    }
    for bytes in [10, 100_000, 6 * MIB + MIB / 2] {
        let error = fails(move |seen| {
            if seen.method == "POST" {
                Response::Cut(bytes)
            } else {
                Response::Git
            }
        })
        .await;
        assert_eq!(error.kind(), ErrorKind::Transport, "{}", error.report());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_leaves_no_pack() {
    let (repo, commit) = staged();
    for call in ["upload_part", "get"] {
        let world = world(&repo, &commit);
        let build = world.build(Arc::clone(&world.store) as _);
        let traffic = world.store.traffic();
        traffic.set_latency(Duration::from_millis(20));
        tokio::select! {
            _ = build => panic!("it takes longer"),
            () = async {
                while traffic.count(call) == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            } => {}
        }
        assert_nothing_is_left(&world, call).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_held_is_refused_by_name() {
    let film = noise(1, 7 * MIB);
    let mut cut = film.clone();
    cut.splice(MIB..MIB + 4, *b"other");
    let repo = Repo::new();
    let commit = repo.files(&[("film", &film), ("film (cut)", &cut)]);
    let mut world = World::new(&repo, &commit, 6 * MIB as u64);
    world.memory = 16 * MIB;
    let error = world.build(Arc::clone(&world.store) as _).await;
    let error = error.expect_err("one is a delta on the other");
    assert_eq!(error.kind(), ErrorKind::FileTooLarge, "{}", error.report());
    assert!(error.to_string().contains("`film"), "{error}");
    assert!(error.report().contains("more memory"), "{}", error.report());
    assert_nothing_is_left(&world, "a delta").await;

    for (attribute, told) in [
        ("ident", "`ident`"),
        ("export-subst", "`export-subst`"),
        ("working-tree-encoding=UTF-16", "`working-tree-encoding`"),
    ] {
        let repo = Repo::new();
        let rules = format!("big {attribute}\n");
        let big = vec![b'x'; 32 * MIB + 1];
        let items: [(&[u8], Item<'_>); 2] = [
            (b".gitattributes", Item::File(rules.as_bytes())),
            (b"big", Item::File(&big)),
        ];
        let commit = repo.commit(b"big\n", &items);
        let world = World::new(&repo, &commit, 6 * MIB as u64);
        let store = Arc::clone(&world.store) as Arc<MemoryStore>;
        let error = world.build(store).await.expect_err("it is too large");
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        let text = error.to_string();
        assert!(text.contains("`big`") && text.contains(told), "{text}");
        assert_nothing_is_left(&world, attribute).await;
    }
}
