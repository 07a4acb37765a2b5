//! The layout byte by byte, read and written both ways.

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_core::remote::s3_bundle::BundleOptions;
use branchline_core::remote::{Head, Remote};

use crate::remote::s3_bundle_fixture::{
    BundleFixture, bundle, collect, fetch_all, mirror_all, set_refs,
};
use branchline_test_support::repo::{Repo, history};

const MIN: usize = 5 << 20;

fn names(repo: &Repo) -> Vec<(String, String)> {
    let refs = repo.refs();
    let line = |line: &str| {
        let (id, name) = line.split_once(' ').unwrap();
        (id.to_owned(), name.to_owned())
    };
    refs.lines().map(line).collect()
}

/// The bundle of a ref stands for itself: git takes it, and has all that the ref needs.
pub(crate) fn check_bundle(bytes: &[u8], id: &str, exactly: Option<&Repo>) {
    let repo = Repo::new(HashKind::Sha1);
    let path = repo.path.join("../x.bundle");
    std::fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    repo.git(&["bundle", "verify", "--quiet", path]);
    let heads = repo.git(&["bundle", "list-heads", path]);
    assert!(heads.starts_with(id), "the header names the id: {heads}");
    repo.git(&["bundle", "unbundle", path]);
    repo.git(&["update-ref", "refs/x/it", id]);
    repo.fsck();
    if let Some(original) = exactly {
        let has = repo.git(&[
            "cat-file",
            "--batch-all-objects",
            "--batch-check=%(objectname)",
        ]);
        let needs = original.git(&["rev-list", "--objects", "--no-object-names", id]);
        let mut needs: Vec<_> = needs.lines().collect();
        needs.sort_unstable();
        let has: Vec<_> = has.lines().collect();
        assert!(
            has == needs,
            "nothing but what is needed: {} and {}",
            has.len(),
            needs.len()
        );
    }
}

#[tokio::test]
async fn keys_and_contents_are_those_of_the_python_client() {
    let world = BundleFixture::new(MIN);
    let repo = Repo::with_history(HashKind::Sha1, 12, 8);
    repo.git(&[
        "update-ref",
        "refs/heads/größe/ä b".replace(' ', "-").as_str(),
        "main~2",
    ]);
    let remote = world.remote("team/repo1");
    let outcome = mirror_all(&repo, &remote).await.unwrap();
    assert_eq!(outcome.created, names(&repo).len() as u64);
    let mut expected: Vec<String> = names(&repo)
        .iter()
        .map(|(id, name)| format!("team/repo1/{name}/{id}.bundle"))
        .collect();
    expected.push("team/repo1/HEAD".to_owned());
    expected.sort();
    assert_eq!(world.keys().await, expected, "nothing else is left");
    assert_eq!(
        world.get("team/repo1/HEAD").await,
        "refs/heads/main",
        "bare, without newline"
    );
    for (id, name) in names(&repo) {
        let bundle = world.get(&format!("team/repo1/{name}/{id}.bundle")).await;
        assert!(bundle.starts_with(format!("# v2 git bundle\n{id} ").as_bytes()));
        check_bundle(&bundle, &id, Some(&repo));
    }
    let copy = fetch_all(&remote).await;
    assert_eq!(copy.refs(), repo.refs());
    let again = mirror_all(&repo, &remote).await.unwrap();
    assert_eq!((again.created, again.updated, again.bytes), (0, 0, 0));
}

#[tokio::test]
async fn what_the_python_client_writes_is_read() {
    let world = BundleFixture::new(MIN);
    let repo = Repo::with_history(HashKind::Sha1, 9, 6);
    let id = repo.id("main");
    // Names in headers are the writer's own.
    world
        .python_push(&repo, "a/b", "HEAD", "refs/heads/viahead")
        .await;
    world
        .python_push(&repo, "a/b", "main", "refs/heads/other")
        .await;
    world.python_push(&repo, "a/b", "v1", "refs/tags/v1").await;
    world
        .python_push(&repo, "a/b", "refs/notes/commits", "refs/notes/commits")
        .await;
    world.put("a/b/HEAD", "refs/heads/other").await;
    world.put("a/b/refs/heads/other/PROTECTED#", "").await;
    world.put("a/b/refs/heads/other/repo.zip", "PK").await;
    world.put("a/b/refs/heads/README", "not ours").await;
    world.put("a/bc/refs/heads/stranger/x.bundle", "").await;
    let remote = world.remote("a/b");
    let source = remote.source(&[]).await.unwrap();
    let snapshot = source.snapshot();
    let found: Vec<_> = snapshot.refs.keys().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "refs/heads/other",
            "refs/heads/viahead",
            "refs/notes/commits",
            "refs/tags/v1"
        ]
    );
    assert_eq!(
        snapshot.head,
        Some(Head::Symbolic("refs/heads/other".into()))
    );
    assert_eq!(snapshot.refs[bstr::BStr::new("refs/heads/viahead")].id, id);
    fetch_all(&remote).await;
}

#[tokio::test]
async fn bundles_of_version_3_and_incremental_ones_are_read() {
    let world = BundleFixture::new(MIN);
    let repo = Repo::with_history(HashKind::Sha1, 9, 6);
    let put = async |name: &str, revision: &str, arguments: &[&str]| {
        let id = repo.id(revision);
        let key = format!("r/refs/heads/{name}/{id}.bundle");
        world.put(&key, bundle(&repo, arguments)).await;
    };
    repo.git(&["branch", "mid", "main~2"]);
    repo.git(&["branch", "low", "main~4"]);
    put("three", "low", &["--version=3", "low"]).await;
    put("mid", "mid", &["mid", "^low"]).await;
    put("main", "main", &["main", "^mid"]).await;
    let remote = world.remote("r");
    let copy = fetch_all(&remote).await;
    assert_eq!(copy.id("refs/heads/main"), repo.id("main"));
    // What is pushed on top is full all the same.
    repo.input(&["fast-import", "--quiet", "--force"], &history(100, 1, 6));
    let main = repo.id("main");
    repo.git(&["update-ref", "-d", "refs/heads/side"]);
    mirror_all(&repo, &remote).await.unwrap();
    check_bundle(
        &world.get(&format!("r/refs/heads/main/{main}.bundle")).await,
        &main.to_string(),
        None,
    );
}

#[tokio::test]
async fn a_prefix_never_sees_another_and_lists_never_walk_lfs() {
    let world = BundleFixture::new(MIN);
    let repo = Repo::with_history(HashKind::Sha1, 3, 2);
    mirror_all(&repo, &world.remote("repo10")).await.unwrap();
    for n in 0..30 {
        world.put(&format!("repo1/lfs/{n:064}"), "x").await;
    }
    let remote = world.remote("repo1");
    let before = world.store.traffic().count("list");
    let source = remote.source(&[]).await.unwrap();
    assert!(source.snapshot().refs.is_empty(), "repo10 is another");
    // The second one looks whether there is anything at all, without going into folders.
    assert_eq!(world.store.traffic().count("list") - before, 2);
    let target = remote.target().await.unwrap();
    assert!(target.snapshot().refs.is_empty());
    let error = world.remote("repo").source(&[]).await.err().unwrap();
    assert_eq!(
        error.kind(),
        ErrorKind::NotFound,
        "nothing is under `repo/`"
    );
    let before = world.store.traffic().count("list");
    world.remote("repo10").source(&[]).await.unwrap();
    assert_eq!(
        world.store.traffic().count("list") - before,
        1,
        "one list of a thousand keys"
    );
}

#[tokio::test]
async fn a_push_composes_the_bundle_of_the_old_one() {
    let least = 2000;
    let world = BundleFixture::new(least);
    let options = || BundleOptions {
        min_part_bytes: least,
        max_copy_bytes: 5000,
        ..world.options()
    };
    let remote = world.remote_with("r", options());
    let repo = Repo::new(HashKind::Sha1);
    repo.input(&["fast-import", "--quiet"], &history(0, 30, 20));
    repo.git(&["update-ref", "-d", "refs/heads/side"]);
    mirror_all(&repo, &remote).await.unwrap();
    for n in 1..4 {
        let more = history(n * 100, 1, 20);
        repo.input(&["fast-import", "--quiet"], &more);
        let copied = world.store.traffic().count("upload_part_copy");
        let outcome = mirror_all(&repo, &remote).await.unwrap();
        let main = repo.id("main").to_string();
        let bundle = world.get(&format!("r/refs/heads/main/{main}.bundle")).await;
        assert!(
            world.store.traffic().count("upload_part_copy") - copied >= 3,
            "in ranges"
        );
        assert!(
            outcome.bytes < bundle.len() as u64 / 2,
            "{} sent of {}",
            outcome.bytes,
            bundle.len()
        );
        check_bundle(&bundle, &main, Some(&repo));
        assert_eq!(world.keys().await.len(), 2, "the old bundle is gone");
    }
    // A branch of the same commit is a copy; one with a commit more is composed.
    repo.git(&["branch", "same", "main"]);
    let outcome = mirror_all(&repo, &remote).await.unwrap();
    assert_eq!(
        (outcome.created, outcome.bytes),
        (1, 0),
        "copied inside the store"
    );
    let tree = repo.git(&["rev-parse", "main^{tree}"]);
    let new = repo.git(&["commit-tree", &tree, "-p", "main", "-m", "more"]);
    repo.git(&["branch", "more", &new]);
    let outcome = mirror_all(&repo, &remote).await.unwrap();
    assert!(outcome.bytes < 2 * least as u64, "{} sent", outcome.bytes);
    check_bundle(
        &world.get(&format!("r/refs/heads/more/{new}.bundle")).await,
        &new,
        Some(&repo),
    );
    // From a little below: composed of a bundle that has more.
    let new = repo.git(&["commit-tree", &tree, "-p", "main~2", "-m", "low"]);
    repo.git(&["branch", "low", &new]);
    let outcome = mirror_all(&repo, &remote).await.unwrap();
    assert!(outcome.bytes < 2 * least as u64, "{} sent", outcome.bytes);
    check_bundle(
        &world.get(&format!("r/refs/heads/low/{new}.bundle")).await,
        &new,
        None,
    );
    assert_eq!(fetch_all(&remote).await.refs(), repo.refs());
}

/// However many of them there are, more than are remembered.
#[tokio::test]
async fn refs_of_one_history_are_composed_of_its_bundle() {
    let least = 1000;
    let world = BundleFixture::new(least);
    let repo = Repo::new(HashKind::Sha1);
    repo.input(&["fast-import", "--quiet"], &history(0, 40, 20));
    repo.git(&["update-ref", "-d", "refs/heads/side"]);
    let tree = repo.git(&["rev-parse", "main^{tree}"]);
    for n in 0..40 {
        let message = n.to_string();
        let new = repo.git(&["commit-tree", &tree, "-p", "main", "-m", &message]);
        repo.git(&["branch", &format!("topic/{n}"), &new]);
    }
    let mut options = world.options();
    options.min_part_bytes = least;
    let outcome = mirror_all(&repo, &world.remote_with("r", options))
        .await
        .unwrap();
    let main = repo.id("main").to_string();
    let whole = world.get(&format!("r/refs/heads/main/{main}.bundle")).await;
    let most = whole.len() + 40 * 2 * least;
    assert!(whole.len() > 8 * least, "there is something to copy");
    assert!(outcome.bytes < most as u64, "{} sent", outcome.bytes);
}

#[tokio::test]
async fn a_force_push_leaves_nothing_of_the_old_history() {
    let world = BundleFixture::new(1000);
    let remote = world.remote("r");
    let repo = Repo::new(HashKind::Sha1);
    repo.input(&["fast-import", "--quiet"], &history(0, 12, 8));
    repo.git(&["update-ref", "-d", "refs/heads/side"]);
    mirror_all(&repo, &remote).await.unwrap();
    repo.git(&["update-ref", "refs/heads/main", "main~3"]);
    let outcome = mirror_all(&repo, &remote).await.unwrap();
    assert_eq!(outcome.updated, 1);
    let main = repo.id("main").to_string();
    let bundle = world.get(&format!("r/refs/heads/main/{main}.bundle")).await;
    check_bundle(&bundle, &main, Some(&repo));
    let unrelated = repo.git(&[
        "commit-tree",
        &repo.git(&["rev-parse", "main^{tree}"]),
        "-m",
        "new root",
    ]);
    repo.git(&["update-ref", "refs/heads/main", &unrelated]);
    mirror_all(&repo, &remote).await.unwrap();
    let bundle = world
        .get(&format!("r/refs/heads/main/{unrelated}.bundle"))
        .await;
    check_bundle(&bundle, &unrelated, Some(&repo));
    assert_eq!(world.keys().await.len(), 2);
}

#[tokio::test]
async fn a_protected_branch_is_neither_deleted_nor_rewound() {
    let world = BundleFixture::new(MIN);
    let remote = world.remote("r");
    let repo = Repo::new(HashKind::Sha1);
    repo.input(&["fast-import", "--quiet"], &history(0, 6, 4));
    mirror_all(&repo, &remote).await.unwrap();
    world.put("r/refs/heads/main/PROTECTED#", "").await;
    let keys = world.keys().await;
    let tip = repo.id("main").to_string();
    repo.git(&["update-ref", "refs/heads/main", "main~2"]);
    let outcome = mirror_all(&repo, &remote).await.unwrap();
    assert_eq!(outcome.rejected.len(), 1, "{outcome:?}");
    repo.git(&["branch", "x", &tip]);
    repo.git(&["symbolic-ref", "HEAD", "refs/heads/x"]);
    repo.git(&["update-ref", "-d", "refs/heads/main"]);
    repo.git(&["update-ref", "-d", "refs/heads/x"]);
    let outcome = mirror_all(&repo, &remote).await.unwrap();
    assert_eq!(outcome.rejected.len(), 1, "{outcome:?}");
    assert_eq!(world.keys().await, keys, "nothing was touched");
    repo.git(&["update-ref", "refs/heads/main", &tip]);
    repo.input(&["fast-import", "--quiet"], &history(100, 1, 4));
    let outcome = mirror_all(&repo, &remote).await.unwrap();
    assert_eq!(
        (outcome.updated, outcome.rejected.len()),
        (1, 0),
        "forward is allowed"
    );
}

#[tokio::test]
async fn a_deleted_ref_leaves_no_key() {
    let world = BundleFixture::new(MIN);
    let remote = world.remote("r");
    let repo = Repo::with_history(HashKind::Sha1, 4, 3);
    mirror_all(&repo, &remote).await.unwrap();
    world.put("r/refs/tags/v1/repo.zip", "PK").await;
    repo.git(&["update-ref", "-d", "refs/tags/v1"]);
    let outcome = mirror_all(&repo, &remote).await.unwrap();
    assert_eq!(outcome.deleted, 1);
    let keys = world.keys().await;
    assert!(
        !keys.iter().any(|key| key.starts_with("r/refs/tags/v1/")),
        "{keys:?}"
    );
}

#[tokio::test]
async fn a_pack_without_what_its_refs_need_is_refused() {
    use branchline_core::git::pack::PackLimits;
    use branchline_core::remote::{
        IncomingOptions, IncomingPack, PackRequest, Push, RefUpdate, RefValue,
    };
    let world = BundleFixture::new(MIN);
    let remote = world.remote("r");
    let repo = Repo::new(HashKind::Sha1);
    repo.input(&["fast-import", "--quiet"], &history(0, 6, 4));
    let wanted = PackRequest {
        wants: vec![repo.id("main")],
        haves: vec![repo.id("main~1")],
        thin: false,
        offset_deltas: true,
    };
    let pack = branchline_test_support::git_remote::pack_objects(&repo.path, &wanted);
    let pack = pack.unwrap();
    let options = IncomingOptions {
        hash: repo.hash,
        limits: PackLimits::default(),
        scanner: None,
        commits: None,
    };
    let body = Box::pin(futures_util::stream::iter([Ok(pack.into())]));
    let change = RefUpdate {
        name: "refs/heads/main".into(),
        old: None,
        new: Some(RefValue {
            id: repo.id("main"),
            peeled: None,
        }),
    };
    let mut target = remote.target().await.unwrap();
    let error = target
        .push(Push {
            changes: vec![change],
            pack: Some(IncomingPack::new(body, &options)),
            ..Push::default()
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(world.keys().await.is_empty(), "no ref was made");
}

#[tokio::test]
async fn what_several_refs_share_is_fetched_once() {
    let world = BundleFixture::new(MIN);
    let remote = world.remote("r");
    let repo = Repo::new(HashKind::Sha1);
    repo.input(&["fast-import", "--quiet"], &history(0, 12, 8));
    repo.git(&["update-ref", "-d", "refs/heads/side"]);
    for n in 1..4 {
        repo.git(&["branch", &format!("b{n}"), &format!("main~{n}")]);
        repo.git(&["branch", &format!("same{n}"), "main"]);
    }
    mirror_all(&repo, &remote).await.unwrap();
    let source = remote.source(&[]).await.unwrap();
    let before = world.store.traffic().count("get");
    let wanted = branchline_core::remote::PackRequest {
        wants: source.snapshot().tips(),
        haves: Vec::new(),
        thin: false,
        offset_deltas: true,
    };
    let pack = collect(source.fetch(&wanted).await.unwrap()).await.unwrap();
    // The header and the whole of the largest bundle, which has the others' commits.
    assert_eq!(world.store.traffic().count("get") - before, 2);
    let copy = Repo::new(HashKind::Sha1);
    copy.index_pack(&pack, false);
    set_refs(&copy, source.snapshot());
    assert_eq!(copy.refs(), repo.refs());
}

#[tokio::test]
async fn a_repository_that_stock_git_clones_is_not_written_over() {
    let world = BundleFixture::new(MIN);
    let repo = Repo::with_history(HashKind::Sha1, 3, 2);
    world.put("r/HEAD", "ref: refs/heads/main\n").await;
    let refs = repo.refs().replace(' ', "\t") + "\n";
    world.put("r/info/refs", refs).await;
    let before = world.objects().await;
    let error = mirror_all(&repo, &world.remote("r")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains("`dumb`"), "{}", error.report());
    assert_eq!(world.objects().await, before, "nothing is touched");
    let opened = world.remote("r").source(&[]).await;
    let error = opened.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "it is not empty");
    // A neighbour is none of its business.
    mirror_all(&repo, &world.remote("r1")).await.unwrap();
}
