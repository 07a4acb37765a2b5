//! Objects of other clients under the prefix: bundles of every kind, and keys that are not
//! bundles, refs or locks.

use std::sync::atomic::Ordering;

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_core::name::ObjectKey;
use branchline_core::remote::{Head, Remote};
use branchline_core::storage::{ObjectStoreExt as _, PutOptions};

use crate::remote::s3_bundle_faults::{commit, listed, small};
use crate::remote::s3_bundle_fixture::{BundleFixture, bundle, fetch_all, mirror_all};
use branchline_test_support::repo::{Repo, history};

const MIN: usize = 5 << 20;

#[tokio::test]
async fn a_bundle_of_version_3_is_read_whatever_refs_its_header_has() {
    let world = BundleFixture::new(MIN);
    let repo = Repo::with_history(HashKind::Sha1, 6, 4);
    for (name, source) in [("main", "main"), ("head", "HEAD"), ("renamed", "side")] {
        let bytes = bundle(&repo, &["--version=3", source]);
        let text = String::from_utf8_lossy(&bytes[..60]);
        assert!(text.starts_with("# v3 git bundle\n@object-format=sha1\n"));
        let key = format!("r/refs/heads/{name}/{}.bundle", repo.id(source));
        world.put(&key, bytes).await;
    }
    let remote = world.remote("r");
    let expected = [("head", "HEAD"), ("main", "main"), ("renamed", "side")];
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, source)| format!("{} refs/heads/{name}", repo.id(source)))
        .collect();
    assert_eq!(listed(&remote).await, expected);
    fetch_all(&remote).await;
    // A push onto it writes a bundle of version 2.
    let remote = world.remote("r");
    repo.input(&["fast-import", "--quiet", "--force"], &history(50, 1, 4));
    mirror_all(&repo, &remote).await.unwrap();
    let key = format!("r/refs/heads/main/{}.bundle", repo.id("main"));
    assert!(world.get(&key).await.starts_with(b"# v2 git bundle\n"));
    assert_eq!(fetch_all(&remote).await.refs(), repo.refs());
}

#[tokio::test]
async fn a_bundle_with_a_filter_is_refused_by_name() {
    let world = BundleFixture::new(MIN);
    let repo = small();
    let id = repo.id("main");
    let key = format!("r/refs/heads/main/{id}.bundle");
    let filtered = ["-", "--filter=blob:none", "main"];
    let bytes = repo.bytes(&[&["bundle", "create", "--version=3"], &filtered[..]].concat());
    world.put(&key, bytes).await;
    let remote = world.remote("r");
    let source = remote.source(&[]).await.unwrap();
    let wanted = branchline_core::remote::PackRequest {
        wants: vec![id],
        offset_deltas: true,
        ..Default::default()
    };
    let error = source.fetch(&wanted).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let report = error.report();
    assert!(
        report.contains(&key) && report.contains("without a filter"),
        "it names the bundle and the remedy: {report}"
    );
    // A push onto it is refused, too.
    let more = commit(&repo, &["main"], "more");
    repo.git(&["update-ref", "refs/heads/main", &more]);
    let error = mirror_all(&repo, &remote).await.unwrap_err();
    assert!(error.report().contains(&key), "{}", error.report());
    assert_eq!(world.keys().await, [key], "nothing was written");
}

/// An incremental bundle competes with another one; its prerequisite is another ref's bundle.
#[tokio::test]
async fn competing_bundles_with_prerequisites_in_other_refs_are_resolved() {
    let world = BundleFixture::new(MIN);
    let repo = small();
    repo.git(&["branch", "base", "main~1"]);
    let next = commit(&repo, &["main"], "next");
    repo.git(&["branch", "next", &next]);
    let put = async |name: &str, revision: &str, arguments: &[&str]| {
        let key = format!("r/refs/heads/{name}/{}.bundle", repo.id(revision));
        world.put(&key, bundle(&repo, arguments)).await;
    };
    put("base", "base", &["base"]).await;
    put("main", "next", &["next", "^main"]).await;
    put("main", "main", &["main", "^base"]).await;
    let remote = world.remote("r");
    let expected = [
        format!("{} refs/heads/base", repo.id("base")),
        format!("{next} refs/heads/main"),
    ];
    assert_eq!(listed(&remote).await, expected, "the younger one");
    fetch_all(&remote).await;
    // Prerequisites of an incremental bundle are not deleted until it is full.
    assert!(remote.repair().await.unwrap().is_empty());
    fetch_all(&remote).await;
    let more = commit(&repo, &["next"], "more");
    repo.git(&["branch", "--delete", "--force", "next"]);
    repo.git(&["update-ref", "refs/heads/main", &more]);
    mirror_all(&repo, &remote).await.unwrap();
    assert_eq!(world.keys().await.len(), 3, "one each, and `HEAD`");
    assert_eq!(fetch_all(&remote).await.refs(), repo.refs());
}

/// Each incremental bundle needs the one before, which is not named by the needed object.
#[tokio::test]
async fn a_long_chain_of_incremental_bundles_is_read() {
    const LENGTH: usize = 40;
    let world = BundleFixture::new(MIN);
    let repo = small();
    let mut below = repo.id("main").to_string();
    for n in 0..=LENGTH {
        let middle = commit(&repo, &[&below], &format!("middle {n}"));
        let tip = commit(&repo, &[&middle], &format!("tip {n}"));
        repo.git(&["branch", "--force", "b", &tip]);
        let key = format!("r/refs/heads/b{n:02}/{tip}.bundle");
        let excluded = format!("^{below}");
        let arguments = ["b", excluded.as_str()];
        let arguments = if n == 0 {
            &arguments[..1]
        } else {
            &arguments[..]
        };
        world.put(&key, bundle(&repo, arguments)).await;
        below = middle;
    }
    let source = world.remote("r").source(&[]).await.unwrap();
    let wanted = branchline_core::remote::PackRequest {
        wants: vec![repo.id("b")],
        offset_deltas: true,
        ..Default::default()
    };
    let pack = source.fetch(&wanted).await.unwrap();
    let pack = crate::remote::s3_bundle_fixture::collect(pack)
        .await
        .unwrap();
    let copy = Repo::new(HashKind::Sha1);
    copy.index_pack(&pack, false);
    copy.git(&["update-ref", "refs/heads/b", &repo.id("b").to_string()]);
    copy.fsck();
    // Without one of them the error names the missing object.
    let gone = repo.git(&["rev-parse", "b~20"]);
    let keys = world.keys().await;
    let key = keys.iter().find(|key| key.contains("/b30/")).unwrap();
    let key = ObjectKey::new(key).unwrap();
    let any = branchline_core::storage::Precondition::None;
    world.store.delete(&world.bucket, &key, &any).await.unwrap();
    let source = world.remote("r").source(&[]).await.unwrap();
    let error = source.fetch(&wanted).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "not found: {gone}");
    assert!(
        error.report().contains("which is needed"),
        "{}",
        error.report()
    );
}

#[tokio::test]
async fn a_sha_256_repository_is_pushed_and_fetched_and_never_mixed_with_sha_1() {
    let world = BundleFixture::new(MIN);
    let repo = Repo::with_history(HashKind::Sha256, 8, 5);
    let remote = world.remote("ours");
    mirror_all(&repo, &remote).await.unwrap();
    let main = repo.id("main");
    assert_eq!(main.to_string().len(), 64);
    let key = format!("ours/refs/heads/main/{main}.bundle");
    let bytes = world.get(&key).await;
    assert!(bytes.starts_with(b"# v3 git bundle\n@object-format=sha256\n"));
    assert_eq!(fetch_all(&remote).await.refs(), repo.refs());
    repo.input(&["fast-import", "--quiet", "--force"], &history(50, 2, 5));
    mirror_all(&repo, &remote).await.unwrap();
    assert_eq!(fetch_all(&remote).await.refs(), repo.refs());

    // As the Python client writes it, which cannot read it.
    world
        .python_push(&repo, "theirs", "main", "refs/heads/main")
        .await;
    let remote = world.remote("theirs");
    let found = listed(&remote).await;
    assert_eq!(found, [format!("{} refs/heads/main", repo.id("main"))]);
    fetch_all(&remote).await;

    // A repository of the other hash function is refused before anything is written.
    let other = small();
    let before = world.objects().await;
    let error = mirror_all(&other, &remote).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(world.objects().await, before);
    // If another client wrote both, listing fails.
    world
        .python_push(&other, "theirs", "main", "refs/heads/other")
        .await;
    let error = remote.source(&[]).await.err().unwrap();
    let report = error.report();
    assert!(report.contains("another prefix"), "{report}");
    assert!(
        report.contains("refs/heads/other/") && report.contains("refs/heads/main/"),
        "it names one of each: {report}"
    );
}

#[tokio::test]
async fn a_push_of_another_hash_function_is_refused_at_the_target() {
    use branchline_core::remote::{Push, RefUpdate, RefValue};
    let world = BundleFixture::new(MIN);
    mirror_all(&small(), &world.remote("r")).await.unwrap();
    let other = Repo::with_history(HashKind::Sha256, 2, 2);
    let change = RefUpdate {
        name: "refs/heads/other".into(),
        old: None,
        new: Some(RefValue {
            id: other.id("main"),
            peeled: None,
        }),
    };
    let before = world.objects().await;
    let mut target = world.remote("r").target().await.unwrap();
    let push = Push {
        changes: vec![change],
        ..Push::default()
    };
    let error = target.push(push).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(
        error.report().contains("empty prefix"),
        "{}",
        error.report()
    );
    assert_eq!(world.objects().await, before);
}

#[tokio::test]
async fn keys_that_are_not_refs_are_ignored() {
    let world = BundleFixture::new(MIN);
    let repo = small();
    let id = repo.id("main");
    let remote = world.remote("r");
    mirror_all(&repo, &remote).await.unwrap();
    let upper = id.to_string().to_uppercase();
    for key in [
        format!("refs/heads/a..b/{id}.bundle"),
        format!("refs/heads/x.lock/{id}.bundle"),
        format!("refs/heads/.x/{id}.bundle"),
        format!("refs/heads/a//b/{id}.bundle"),
        format!("refs/heads/a b/{id}.bundle"),
        format!("refs/heads/x~1/{id}.bundle"),
        format!("refs/heads/upper/{upper}.bundle"),
        format!("refs/heads/short/{}.bundle", &id.to_string()[..39]),
        format!("refs/heads/part/{id}.bundle.part"),
        format!("refs/heads/name/{id}"),
        format!("refs/{id}.bundle"),
        "refs/heads/main/notes.txt".to_owned(),
        "refs/heads/".to_owned(),
    ] {
        world.put(&format!("r/{key}"), "not ours").await;
    }
    let before = world.keys().await;
    assert_eq!(listed(&remote).await, [format!("{id} refs/heads/main")]);
    let again = mirror_all(&repo, &remote).await.unwrap();
    assert_eq!(again.deleted, 0, "nothing of it is a ref to prune");
    assert_eq!(world.keys().await, before);
}

#[tokio::test]
async fn a_head_that_names_a_missing_ref_is_replaced() {
    let world = BundleFixture::new(MIN);
    let repo = small();
    let remote = world.remote("r");
    mirror_all(&repo, &remote).await.unwrap();
    world.put("r/HEAD", "refs/heads/gone").await;
    let source = remote.source(&[]).await.unwrap();
    let head = source.snapshot().head.clone();
    assert_eq!(head, Some(Head::Symbolic("refs/heads/gone".into())));
    fetch_all(&remote).await;
    mirror_all(&repo, &remote).await.unwrap();
    assert_eq!(world.get("r/HEAD").await, "refs/heads/main");
    for nonsense in ["", "\n", "ref: ", "not a ref", "HEAD", "\u{0}\u{1}"] {
        world.put("r/HEAD", nonsense).await;
        let source = remote.source(&[]).await.unwrap();
        assert_eq!(source.snapshot().head, None, "{nonsense:?}");
        assert_eq!(source.snapshot().refs.len(), 1);
        mirror_all(&repo, &remote).await.unwrap();
        assert_eq!(world.get("r/HEAD").await, "refs/heads/main", "{nonsense:?}");
    }
}

#[tokio::test]
async fn a_thousand_keys_cost_one_list() {
    let world = BundleFixture::new(MIN);
    let id = small().id("main");
    for n in 0..2100 {
        let key = format!("r/refs/tags/{n:04}/{id}.bundle");
        world.put(&key, "").await;
    }
    for n in 0..1500 {
        world.put(&format!("r/lfs/{n:064}"), "x").await;
        world.put(&format!("r/branchline/{n}"), "x").await;
    }
    let before = world.store.traffic().calls().len();
    let source = world.remote("r").source(&[]).await.unwrap();
    assert_eq!(source.snapshot().refs.len(), 2100);
    let mut calls = world.store.traffic().calls().split_off(before);
    calls.sort_unstable();
    assert_eq!(calls, ["get", "list", "list", "list"], "and `HEAD`");
}

/// Many bundles in one folder, as clients without locks leave them.
#[tokio::test]
async fn a_folder_of_very_many_bundles_is_read_and_repaired() {
    const MANY: usize = 60;
    let world = BundleFixture::new(MIN);
    let repo = small();
    for n in 0..MANY {
        let next = commit(&repo, &["main"], &n.to_string());
        repo.git(&["update-ref", "refs/heads/main", &next]);
        world
            .python_push(&repo, "r", "main", "refs/heads/main")
            .await;
    }
    world.put("r/HEAD", "refs/heads/main").await;
    let remote = world.remote("r");
    let before = world.store.traffic().count("get");
    let expected = format!("{} refs/heads/main", repo.id("main"));
    assert_eq!(listed(&remote).await, [expected]);
    let gets = world.store.traffic().count("get") - before;
    assert!(gets <= 12, "a large one has nearly all: {gets} reads");
    let more = commit(&repo, &["main"], "more");
    repo.git(&["update-ref", "refs/heads/main", &more]);
    mirror_all(&repo, &remote).await.unwrap();
    let key = format!("r/refs/heads/main/{more}.bundle");
    assert_eq!(world.keys().await, ["r/HEAD".to_owned(), key.clone()]);
    let metadata = world.store.versions(&world.bucket, &key).pop().unwrap();
    let user = metadata.metadata.user;
    let size: usize = user
        .iter()
        .map(|(name, text)| name.len() + text.len())
        .sum();
    assert!(size < 2048 - 64, "S3 takes 2 KB: {size}");
}

/// The bundles that a push can name at once fit into S3's 2 KB, even of SHA-256.
#[tokio::test]
async fn the_ids_of_replaced_bundles_fit_into_the_metadata() {
    let world = BundleFixture::new(MIN);
    let repo = Repo::new(HashKind::Sha256);
    repo.input(&["fast-import", "--quiet"], &history(0, 3, 3));
    repo.git(&["update-ref", "-d", "refs/heads/side"]);
    for n in 0..16 {
        let next = commit(&repo, &["main"], &n.to_string());
        repo.git(&["update-ref", "refs/heads/main", &next]);
        world
            .python_push(&repo, "r", "main", "refs/heads/main")
            .await;
    }
    let more = commit(&repo, &["main"], "more");
    repo.git(&["update-ref", "refs/heads/main", &more]);
    mirror_all(&repo, &world.remote("r")).await.unwrap();
    let key = format!("r/refs/heads/main/{more}.bundle");
    let metadata = world.store.versions(&world.bucket, &key).pop().unwrap();
    let user = metadata.metadata.user;
    assert_eq!(user["branchline-replaces"].split(',').count(), 16);
    let size: usize = user
        .iter()
        .map(|(name, text)| name.len() + text.len())
        .sum();
    assert!(size < 2048 - 64, "S3 takes 2 KB: {size}");
}

#[tokio::test]
async fn an_invalid_bundle_does_not_affect_other_refs() {
    let world = BundleFixture::new(MIN);
    let repo = small();
    let remote = world.remote("r");
    mirror_all(&repo, &remote).await.unwrap();
    repo.git(&["branch", "other", "main~1"]);
    mirror_all(&repo, &remote).await.unwrap();
    let junk = commit(&repo, &["main"], "never there");
    let key = format!("r/refs/heads/other/{junk}.bundle");
    world.put(&key, "no bundle").await;
    let refs = listed(&remote).await;
    let main = format!("{} refs/heads/main", repo.id("main"));
    assert!(refs.contains(&main), "{refs:?}");
    assert_eq!(refs.len(), 3, "and both that claim to be `other`: {refs:?}");
    let source = remote.source(&[]).await.unwrap();
    let wanted = branchline_core::remote::PackRequest {
        wants: vec![repo.id("main"), repo.id("other")],
        offset_deltas: true,
        ..Default::default()
    };
    let pack = source.fetch(&wanted).await.unwrap();
    let pack = crate::remote::s3_bundle_fixture::collect(pack)
        .await
        .unwrap();
    Repo::new(HashKind::Sha1).index_pack(&pack, false);
}

#[tokio::test]
async fn a_lock_with_any_other_content_counts_by_age_only() {
    let repo = small();
    let upload = |key: &str, id: &str| {
        format!(r#"{{"owner":"x","renewed":1,"upload":{{"key":"{key}","id":"{id}"}}}}"#)
    };
    let huge = "x".repeat(3 << 20);
    let deep = "[".repeat(10_000);
    let bundle = format!("r/refs/heads/main/{}.bundle", "1".repeat(40));
    for lock in [
        huge,
        deep,
        "{}".to_owned(),
        "\u{0}".to_owned(),
        upload("", "1"),
        upload("\\u0000", "1"),
        upload(&bundle, ""),
        upload(&bundle, "never there"),
        upload(&"x".repeat(2000), "1"),
    ] {
        let world = BundleFixture::new(MIN);
        let remote = world.remote("r");
        let shown: String = lock.chars().take(80).collect();
        world.put("r/refs/heads/main/LOCK#.lock", lock).await;
        let error = mirror_all(&repo, &remote).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "it is young: {shown}");
        world.clock.fetch_add(1000, Ordering::Relaxed);
        mirror_all(&repo, &remote).await.unwrap();
        let keys = world.keys().await;
        assert!(!keys.iter().any(|key| key.contains("LOCK#")), "{shown}");
    }
}

#[tokio::test]
async fn a_lock_cannot_cause_uploads_outside_its_folder_to_be_aborted() {
    let repo = small();
    for victim in [
        "elsewhere/backup.tar",
        "r/refs/heads/other/1111111111111111111111111111111111111111.bundle",
        "r/refs/heads/main/x/1111111111111111111111111111111111111111.bundle",
        "r/refs/heads/main/repo.zip",
    ] {
        let world = BundleFixture::new(MIN);
        let remote = world.remote("r");
        let key = ObjectKey::new(victim).unwrap();
        let options = PutOptions::default();
        let create = world.store.create_upload(&world.bucket, &key, &options);
        let id = create.await.unwrap().id();
        let lock = format!(
            r#"{{"owner":"x","upload":{{"key":"{victim}","id":"{}"}}}}"#,
            id.0
        );
        world.put("r/refs/heads/main/LOCK#.lock", lock).await;
        world.clock.fetch_add(1000, Ordering::Relaxed);
        mirror_all(&repo, &remote).await.unwrap();
        let left = world.store.uploads().len();
        assert_eq!(
            left, 1,
            "the upload of `{victim}` does not belong to this ref"
        );
    }
}
