//! Merged packs, packs larger than memory, loose objects, and the layout as a source.

use std::time::Duration;

use branchline_core::git::HashKind;
use branchline_core::mirror::mirror;
use branchline_core::remote::s3_dumb::DumbOptions;
use branchline_core::remote::{PackRequest, Remote as _};
use branchline_core::storage::{ObjectStore as _, PutOptions};
use futures_util::TryStreamExt as _;

use crate::remote::s3_dumb_fixture::{
    DumbFixture, Judge, NOW, PREFIX, bucket, grow, mirror_options,
};
use branchline_test_support::repo::Repo;

const DAY: i64 = 24 * 60 * 60;

/// Makes incompressible bytes, equal in each run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// Makes a repository with one commit of a blob of `length` incompressible bytes.
pub(crate) fn with_noise(length: usize) -> Repo {
    let repo = Repo::new(HashKind::Sha1);
    let mut input = b"commit refs/heads/main\ncommitter C <c@x> 1600000000 +0000\n".to_vec();
    input.extend_from_slice(b"data 4\nbig\nM 100644 inline big\n");
    input.extend_from_slice(format!("data {length}\n").as_bytes());
    input.extend_from_slice(&noise(length));
    input.push(b'\n');
    repo.input(
        &["fast-import", "--quiet", "--big-file-threshold=1g"],
        &input,
    );
    repo
}

#[tokio::test]
async fn small_packs_are_merged_and_kept_for_the_grace_period() {
    let world = DumbFixture::new();
    let repo = Repo::with_history(HashKind::Sha1, 5, 4);
    let judge = Judge::new(&repo);
    world.mirror(&repo).await;
    let mut most = 0;
    for round in 0..40 {
        grow(&repo, 5 + round);
        let (outcome, calls) = world.mirror(&repo).await;
        assert!(outcome.complete);
        assert!(calls.len() <= 20, "{calls:?}");
        world.assert_complete(&judge);
        most = most.max(world.packs().len());
    }
    assert!(
        most <= 6,
        "40 mirrors leave at most log n packs, not {most}"
    );
    world.assert_clones_equal(&repo);
    let superseded = world.text("objects/info/packs").matches("\nS ").count();
    assert!(superseded > 10, "{superseded}");
    let packs = |files: &std::collections::BTreeSet<String>| {
        files
            .iter()
            .filter(|path| path.starts_with("objects/pack/pack-"))
            .count()
    };
    let before = packs(&world.files().await);
    assert_eq!(
        before,
        2 * (superseded + world.packs().len()),
        "all are still there"
    );

    world.advance(DAY);
    grow(&repo, 45);
    world.mirror(&repo).await;
    assert!(
        packs(&world.files().await) >= before,
        "the grace period has not ended"
    );
    world.advance(1);
    grow(&repo, 46);
    world.mirror(&repo).await;
    world.assert_complete(&judge);
    let list = world.text("objects/info/packs");
    let left = packs(&world.files().await);
    let kept = list.matches("\nS ").count() + world.packs().len();
    assert_eq!(
        left,
        2 * kept,
        "packs superseded before are deleted: {list}"
    );
    assert!(list.matches("\nD ").count() >= superseded);
    world.assert_clones_equal(&repo);
    world.advance(2 * DAY);
    grow(&repo, 47);
    world.mirror(&repo).await;
    let list = world.text("objects/info/packs");
    let deleted_now = list.matches(&format!("\nD {} ", NOW + 3 * DAY + 1)).count();
    assert_eq!(
        list.matches("\nD ").count(),
        deleted_now,
        "old ones are forgotten: {list}"
    );
}

#[tokio::test]
async fn packs_of_unknown_size_and_large_packs_are_never_merged() {
    let world = DumbFixture::new();
    let repo = Repo::new(HashKind::Sha1);
    grow(&repo, 0);
    world.mirror(&repo).await;
    let first = world.packs()[0];
    // As `git update-server-info` writes it.
    let list = format!("P pack-{first}.pack\n\n");
    world.put("objects/info/packs", list).await;
    grow(&repo, 1);
    world.mirror(&repo).await;
    assert_eq!(world.packs().len(), 2);
    let second = world.packs()[0];
    grow(&repo, 2);
    let options = DumbOptions {
        largest_merged: 10,
        ..world.options()
    };
    world
        .mirror_with(&repo, options, mirror_options(true))
        .await;
    assert_eq!(world.packs().len(), 3);
    grow(&repo, 3);
    world.mirror(&repo).await;
    let packs = world.packs();
    assert_eq!(packs.len(), 2);
    assert!(packs.contains(&first) && !packs.contains(&second));
    world.assert_clones_equal(&repo);
}

#[tokio::test]
async fn a_pack_sent_again_after_it_was_merged_is_not_written() {
    let world = DumbFixture::new();
    let repo = Repo::new(HashKind::Sha1);
    grow(&repo, 0);
    let first = repo.git(&["rev-parse", "main"]);
    world.mirror(&repo).await;
    let pack = world.packs()[0];
    grow(&repo, 1);
    world.mirror(&repo).await;
    assert_eq!(world.packs().len(), 1, "both became one");
    assert_ne!(world.packs()[0], pack);
    // Without refs, the source sends its first pack again.
    world.put("info/refs", "").await;
    repo.git(&["update-ref", "refs/heads/main", &first]);
    let before = world.store.journal().len();
    world.mirror(&repo).await;
    let written = world.store.journal().split_off(before);
    // The list says that stored objects are used, so that they are not pruned meanwhile.
    let expected = ["objects/info/packs", "info/refs"];
    assert_eq!(
        written,
        expected.map(|path| format!("put mirror/{PREFIX}{path}"))
    );
    world.assert_complete(&Judge::new(&repo));
    world.assert_clones_equal(&repo);
}

#[tokio::test]
async fn a_pack_larger_than_memory_is_staged_and_copied_in_the_bucket() {
    let world = DumbFixture::new();
    let repo = with_noise(17 << 20);
    let options = || DumbOptions {
        memory: 1 << 20,
        ..world.options()
    };
    let (outcome, calls) = world
        .mirror_with(&repo, options(), mirror_options(true))
        .await;
    assert!(outcome.bytes > 17 << 20);
    let count = |name: &str| calls.iter().filter(|call| **call == name).count();
    assert_eq!(count("create_upload"), 2, "{calls:?}");
    assert_eq!(count("upload_part"), 4, "of 5 MiB each");
    assert_eq!(count("upload_part_copy"), 1);
    assert_eq!(count("delete"), 1, "the staged pack is deleted");
    assert!(world.store.uploads().is_empty());
    let files = world.files().await;
    assert_eq!(files.len(), 5, "{files:?}");
    let pack = world.packs()[0];
    let key = format!("{PREFIX}objects/pack/pack-{pack}.pack");
    let stored = world.store.versions(&bucket(), &key).pop().unwrap();
    assert_eq!(
        stored.metadata.content_type.as_deref(),
        Some("application/x-git-packed-objects")
    );
    world.assert_clones_equal(&repo);

    // Two packs are merged likewise, and a staged orphan is deleted.
    let key = format!("{PREFIX}objects/pack/tmp_pack_left");
    let key = branchline_core::name::ObjectKey::new(&key).unwrap();
    let none = PutOptions::default();
    world
        .store
        .put(&bucket(), &key, "x".into(), &none)
        .await
        .unwrap();
    grow(&repo, 0);
    world.advance(2 * DAY);
    let (_, calls) = world
        .mirror_with(&repo, options(), mirror_options(true))
        .await;
    assert_eq!(world.packs().len(), 1, "{calls:?}");
    assert!(
        world
            .files()
            .await
            .iter()
            .all(|path| !path.contains("tmp_pack_"))
    );
    world.assert_clones_equal(&repo);
}

#[tokio::test]
async fn loose_objects_are_cloned_from_a_bucket_that_denies_missing_keys() {
    let world = DumbFixture::new();
    let repo = Repo::with_history(HashKind::Sha1, 12, 6);
    let options = || DumbOptions {
        loose: true,
        ..world.options()
    };
    let (outcome, calls) = world
        .mirror_with(&repo, options(), mirror_options(true))
        .await;
    let objects = repo.objects();
    assert_eq!(outcome.objects, objects.len() as u64);
    assert_eq!(
        calls.len(),
        3 + objects.len() + 2,
        "one request for each object"
    );
    let mut expected: Vec<String> = objects
        .iter()
        .map(|id| format!("objects/{}/{}", &id[..2], &id[2..]))
        .collect();
    expected.extend(["HEAD".into(), "info/refs".into()]);
    expected.sort();
    assert_eq!(
        world.files().await.into_iter().collect::<Vec<_>>(),
        expected
    );
    world
        .clone_as(&repo, 403)
        .expect("no missing file is requested");

    grow(&repo, 12);
    let (outcome, _) = world
        .mirror_with(&repo, options(), mirror_options(true))
        .await;
    assert!(outcome.objects < 12, "only new objects are sent");
    world.assert_complete(&Judge::new(&repo));
    world.clone_as(&repo, 403).unwrap();

    // With packs: loose objects count as stored.
    grow(&repo, 13);
    world.mirror(&repo).await;
    assert_eq!(world.packs().len(), 1);
    world.assert_clones_equal(&repo);
}

#[tokio::test]
async fn many_loose_objects_are_found_by_a_list() {
    let world = DumbFixture::new();
    let repo = Repo::new(HashKind::Sha1);
    (0..80).for_each(|number| grow(&repo, number));
    let options = DumbOptions {
        loose: true,
        ..world.options()
    };
    world
        .mirror_with(&repo, options.clone(), mirror_options(true))
        .await;
    // Its tree needs all 80 files.
    grow(&repo, 80);
    let (_, calls) = world
        .mirror_with(&repo, options, mirror_options(true))
        .await;
    assert_eq!(
        calls,
        ["get", "get", "list", "put", "put", "put", "put"],
        "one list instead of 80 looks; three objects, and the refs"
    );
    world.assert_clones_equal(&repo);
}

#[tokio::test]
async fn a_large_blob_is_streamed_to_a_loose_object() {
    let world = DumbFixture::new();
    let repo = with_noise(14 << 20);
    let options = DumbOptions {
        loose: true,
        memory: 4 << 20,
        ..world.options()
    };
    let (_, calls) = world
        .mirror_with(&repo, options, mirror_options(true))
        .await;
    let parts = calls.iter().filter(|call| **call == "upload_part").count();
    assert!(
        parts >= 6,
        "both the staged pack and the blob go in parts: {calls:?}"
    );
    // Only temporary objects are deleted in the background.
    let limit = Duration::from_secs(10);
    assert!(branchline_core::background::finished(limit).await);
    assert_eq!(world.files().await.len(), 5, "three objects, refs and HEAD");
    world.clone_as(&repo, 403).unwrap();
}

/// "The dumb layout is also a source."
#[tokio::test]
async fn a_mirror_of_a_mirror_is_equal_for_packs_and_loose_objects() {
    for loose in [false, true] {
        let world = DumbFixture::new();
        let repo = Repo::with_history(HashKind::Sha1, 20, 6);
        let options = |world: &DumbFixture| DumbOptions {
            loose,
            ..world.options()
        };
        world
            .mirror_with(&repo, options(&world), mirror_options(true))
            .await;
        let second = DumbFixture::new();
        let target = second.remote();
        let done = mirror(&world.remote(), &target, &mirror_options(true), None)
            .await
            .unwrap();
        assert_eq!(done.objects, repo.objects().len() as u64);
        second.assert_clones_equal(&repo);
        if !loose {
            assert_eq!(
                second.packs(),
                world.packs(),
                "a single pack is sent unchanged"
            );
        }
        grow(&repo, 20);
        world
            .mirror_with(&repo, options(&world), mirror_options(true))
            .await;
        let done = mirror(&world.remote(), &target, &mirror_options(true), None)
            .await
            .unwrap();
        assert!(done.objects < 60, "{} objects", done.objects);
        second.assert_clones_equal(&repo);
        let before = second.store.traffic().calls().len();
        mirror(&world.remote(), &target, &mirror_options(true), None)
            .await
            .unwrap();
        assert_eq!(second.store.traffic().calls().len(), before + 3);
    }
}

#[tokio::test]
async fn a_receiver_without_offset_deltas_gets_no_offset_deltas() {
    let world = DumbFixture::new();
    let repo = Repo::with_history(HashKind::Sha1, 20, 6);
    world.mirror(&repo).await;
    let remote = world.remote();
    let source = remote.source(&[]).await.unwrap();
    for offset_deltas in [true, false] {
        let wanted = PackRequest {
            wants: source.snapshot().tips(),
            offset_deltas,
            ..PackRequest::default()
        };
        let body = source.fetch(&wanted).await.unwrap();
        let pieces: Vec<_> = body.try_collect().await.unwrap();
        let pack = pieces.concat();
        let copy = Repo::new(HashKind::Sha1);
        copy.index_pack(&pack, false);
        let same = Some(pack.as_slice())
            == world
                .file(&format!("objects/pack/pack-{}.pack", world.packs()[0]))
                .as_deref();
        assert_eq!(
            same, offset_deltas,
            "a pack is sent unchanged only with offset deltas"
        );
    }
}

#[tokio::test]
async fn the_grace_period_is_an_option() {
    let world = DumbFixture::new();
    let repo = Repo::new(HashKind::Sha1);
    let options = || DumbOptions {
        grace: Duration::from_mins(1),
        ..world.options()
    };
    for round in 0..5 {
        grow(&repo, round);
        world
            .mirror_with(&repo, options(), mirror_options(true))
            .await;
        world.advance(61);
    }
    let list = world.text("objects/info/packs");
    assert!(list.contains("\nD "), "{list}");
    world.assert_complete(&Judge::new(&repo));
}
