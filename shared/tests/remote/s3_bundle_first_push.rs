//! First pushes of packs that do not fit into memory: S3 copies them, and no byte passes twice.

use std::sync::Arc;

use branchline_core::git::pack::PackLimits;
use branchline_core::pack_cache::PackCache;
use branchline_core::remote::s3_bundle::{BundleOptions, BundleRemote};
use branchline_core::storage::MIN_PART_BYTES;

use super::push_by_size::noise;
use super::s3_bundle_fixture::{BundleFixture, fetch_all, mirror_all};

/// Memory of the remote, in bytes; a pack of more than a quarter is stored in S3.
const MEMORY: usize = 16 << 20;
/// Size of the pack, in bytes, or a little more.
const PACK_BYTES: u64 = 9 << 20;

/// Bytes that are read of S3 at most where the pack is on the disk: the block with its header.
const FEW_BYTES: u64 = 2 << 20;

fn remote(world: &BundleFixture, cache: Option<PackCache>) -> BundleRemote {
    let options = BundleOptions {
        limits: PackLimits::default().with_memory(MEMORY),
        pack_cache: cache.map(Arc::new),
        ..world.options()
    };
    world.remote_with("r", options)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_beyond_the_memory_is_sent_once_and_copied_by_s3() {
    let source = noise(6, 2_000_000);
    // One ref, whose bundle is the whole pack.
    source.git(&["tag", "-d", "v1"]);
    source.git(&["branch", "-D", "middle"]);
    for cached in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let cache = || PackCache::open(&folder.path().join("c")).unwrap();
        let world = BundleFixture::new(MIN_PART_BYTES);
        mirror_all(&source, &remote(&world, cached.then(cache)))
            .await
            .unwrap();
        let traffic = world.store.traffic();
        let sent = traffic.bytes("upload_part");
        assert!(sent > PACK_BYTES, "the pack is received in parts: {sent}");
        let bundle = *world.objects().await.values().max().unwrap();
        assert!(
            sent <= bundle + 2 * MIN_PART_BYTES as u64,
            "{sent} bytes are sent of {bundle}: the start of the bundle is the only repetition"
        );
        assert_eq!(traffic.count("upload_part_copy"), 1, "S3 copies the rest");
        let read = traffic.bytes("get");
        if cached {
            assert!(
                read < FEW_BYTES,
                "the copy on the disk is read, not S3: {read}"
            );
        } else {
            let start = MIN_PART_BYTES as u64 + 10_000;
            assert!(read < start, "only the start is read again: {read}");
        }
        let keys = world.keys().await;
        assert!(
            !keys.iter().any(|key| key.contains(".pack")),
            "the temporary object is deleted: {keys:?}"
        );
        let copy = fetch_all(&remote(&world, None)).await;
        assert_eq!(copy.refs(), source.refs());
        copy.fsck();

        // The next push of a process finds the pack in its cache.
        let empty = source.git(&["mktree"]);
        let next = source.git(&["commit-tree", &empty, "-p", "main", "-m", "next"]);
        source.git(&["update-ref", "refs/heads/main", &next]);
        let before = traffic.bytes("get");
        mirror_all(&source, &remote(&world, cached.then(cache)))
            .await
            .unwrap();
        let read = traffic.bytes("get") - before;
        assert_eq!(
            read < FEW_BYTES,
            cached,
            "the old entries are read from the disk, else from S3: {read}"
        );
        let copy = fetch_all(&remote(&world, None)).await;
        assert_eq!(copy.refs(), source.refs());
        copy.fsck();
        source.git(&["update-ref", "refs/heads/main", "main~1"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refs_that_share_a_pack_beyond_the_memory_get_whole_bundles() {
    let source = noise(6, 2_000_000);
    let folder = tempfile::tempdir().unwrap();
    let cache = PackCache::open(&folder.path().join("c")).unwrap();
    let world = BundleFixture::new(MIN_PART_BYTES);
    mirror_all(&source, &remote(&world, Some(cache)))
        .await
        .unwrap();
    let read = world.store.traffic().bytes("get");
    assert!(read < PACK_BYTES, "the disk is read before S3: {read}");
    let copy = fetch_all(&remote(&world, None)).await;
    assert_eq!(copy.refs(), source.refs());
    copy.fsck();
}
