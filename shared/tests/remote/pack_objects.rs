//! Packs of chosen objects against `git index-pack`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use branchline_core::git::object::{ObjectKind, encode_loose, id_of};
use branchline_core::git::odb::{
    DatabaseOptions, LooseObjects, PackOptions, fetch, pack_objects, whole,
};
use branchline_core::git::pack::{Index, PackLimits, PackWriter};
use branchline_core::git::{ErrorKind, HashKind, ObjectId, Result};
use branchline_core::remote::{PackBody, PackRequest};
use bytes::Bytes;

use super::objects::{Folder, all, database, lay, lines, open, packs, rich};
use branchline_test_support::repo::Repo;

#[tokio::test]
async fn all_of_a_pack_is_sent_as_it_lies() {
    let repo = rich(HashKind::Sha1);
    lay(&repo, "offsets");
    let mut packs = packs(&repo);
    let size = packs[0].0.len() as u64;
    let options = DatabaseOptions::default();
    let (database, reads) = database(repo.hash, packs.clone(), None, options);
    let (bytes, index) = packs.remove(0);
    let options = PackOptions {
        known: None,
        offset_deltas: true,
    };
    let body = pack_objects(&database, index.ids(), options.clone()).unwrap();
    assert_eq!(all(body).await.unwrap(), bytes);
    assert_eq!(reads.bytes.load(Ordering::Relaxed), size);
    assert_eq!(reads.requests.load(Ordering::Relaxed), 1);

    let but_one: Vec<_> = index.ids().skip(1).collect();
    let body = pack_objects(&database, but_one, options).unwrap();
    let bytes = all(body).await.unwrap();
    // Not strictly: an object is left out.
    Repo::new(repo.hash).input(&["index-pack", "--stdin"], &bytes);
    let nothing = pack_objects(&database, [], PackOptions::default()).unwrap();
    let empty = all(nothing).await.unwrap();
    assert_eq!(empty.len(), 32, "an empty pack is a pack");
}

#[tokio::test]
async fn changed_bytes_end_the_pack() {
    let repo = rich(HashKind::Sha1);
    lay(&repo, "offsets");
    let (bytes, index) = packs(&repo).remove(0);
    let options = PackOptions::default();
    // Compressed data, and the adler sum at the end of an entry.
    for at in [bytes.len() / 2, bytes.len() - 21] {
        let mut changed = bytes.to_vec();
        changed[at] ^= 0x10;
        let packs = vec![(changed.into(), index.clone())];
        let (database, _) = database(repo.hash, packs, None, DatabaseOptions::default());
        let ids: Vec<_> = index.ids().collect();
        let body = pack_objects(&database, ids, options.clone()).unwrap();
        assert_eq!(all(body).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let short = vec![(bytes.slice(..bytes.len() - 1000), index.clone())];
    let (database, _) = database(repo.hash, short, None, DatabaseOptions::default());
    let body = pack_objects(&database, index.ids(), options).unwrap();
    assert_eq!(all(body).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

/// A pack of two objects: one whole, the other as a delta on it. They share all but the
/// last byte.
fn pair(first: &[u8], second: &[u8]) -> (Bytes, Index) {
    let hash = HashKind::Sha1;
    let id = |content: &[u8]| id_of(hash, ObjectKind::Blob, content).unwrap();
    let length = u8::try_from(first.len()).unwrap();
    assert!((2..128).contains(&length));
    let last = *second.last().unwrap();
    let delta = [length, length, 0x90, length - 1, 1, last];
    let mut writer = PackWriter::new(hash, 2);
    writer.object(id(first), ObjectKind::Blob, first);
    writer.delta(id(second), id(first), &delta);
    let (bytes, index) = writer.finish().unwrap();
    (bytes, index)
}

#[tokio::test]
async fn deltas_of_two_packs_form_no_circle() {
    let (one, two) = (b"the same but 1", b"the same but 2");
    let packs = vec![pair(one, two), pair(two, one)];
    for packs in [packs.clone(), packs.into_iter().rev().collect()] {
        let ids: Vec<_> = packs[0].1.ids().collect();
        let (database, _) = database(HashKind::Sha1, packs, None, DatabaseOptions::default());
        for offset_deltas in [false, true] {
            let options = PackOptions {
                known: None,
                offset_deltas,
            };
            let twice = [ids.clone(), ids.clone()].concat();
            let body = pack_objects(&database, twice, options).unwrap();
            let receiver = Repo::new(HashKind::Sha1);
            receiver.index_pack(&all(body).await.unwrap(), false);
            for id in &ids {
                receiver.git(&["cat-file", "-e", &id.to_string()]);
            }
        }
    }
}

#[tokio::test]
async fn a_large_blob_goes_through_little_memory() {
    let repo = Repo::new(HashKind::Sha1);
    let noise: Vec<u8> = (0..2_000_000_u64)
        .flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).to_le_bytes())
        .collect();
    let id = id_of(HashKind::Sha1, ObjectKind::Blob, &noise).unwrap();
    let options = DatabaseOptions {
        limits: PackLimits::default().with_memory(1 << 20),
        block_bytes: 1 << 20,
    };
    repo.input(&["hash-object", "-w", "--stdin"], &noise);
    let loose: Arc<dyn LooseObjects> = Arc::new(Folder(repo.path.join("objects")));
    let (unpacked, _) = database(repo.hash, Vec::new(), Some(loose), options);
    repo.input(
        &["pack-objects", "-q", "objects/pack/pack"],
        format!("{id}\n").as_bytes(),
    );
    let (packed, reads) = database(repo.hash, packs(&repo), None, options);
    for database in [unpacked, packed] {
        let error = database.read(id).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::FileTooLarge,
            "it is not to be held"
        );
        let body = pack_objects(&database, [id], PackOptions::default()).unwrap();
        let receiver = Repo::new(HashKind::Sha1);
        receiver.index_pack(&all(body).await.unwrap(), false);
        let content = receiver.bytes(&["cat-file", "blob", &id.to_string()]);
        assert!(content == noise);
    }
    let ranges = reads.ranges.lock().unwrap();
    let longest = ranges.iter().map(|range| range.end - range.start).max();
    assert!(longest.unwrap() <= 256 << 10, "{longest:?}");
}

#[tokio::test]
async fn broken_loose_objects_end_the_pack() {
    struct One(Bytes);
    #[async_trait]
    impl LooseObjects for One {
        async fn open(&self, _: ObjectId) -> Result<Option<PackBody>> {
            Ok(Some(whole(self.0.clone())))
        }
    }
    let content = b"hello\n".repeat(50_000);
    let id = id_of(HashKind::Sha1, ObjectKind::Blob, &content).unwrap();
    let good = encode_loose(ObjectKind::Blob, &content);
    let short = encode_loose(ObjectKind::Blob, &content[1..]);
    let other = encode_loose(ObjectKind::Tag, &content);
    let cases = [
        (good.clone(), true),
        ([&good[..], b"x"].concat(), false),
        (good[..good.len() - 1].to_vec(), false),
        (good[..1].to_vec(), false),
        (Vec::new(), false),
        (b"no zlib".to_vec(), false),
        (short, false),
        (other, false),
    ];
    for (bytes, is_good) in cases {
        let loose: Arc<dyn LooseObjects> = Arc::new(One(bytes.into()));
        let options = DatabaseOptions::default();
        let (database, _) = database(HashKind::Sha1, Vec::new(), Some(loose), options);
        let body = pack_objects(&database, [id], PackOptions::default()).unwrap();
        match all(body).await {
            Ok(pack) => {
                assert!(is_good);
                Repo::new(HashKind::Sha1).index_pack(&pack, false);
            }
            Err(error) => {
                assert!(!is_good);
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
        }
        assert_eq!(database.read(id).await.is_ok(), is_good);
    }
}

#[tokio::test]
async fn an_update_after_pushes_is_as_small_as_gits() {
    // As a server has it: a first pack, and thin ones that were completed.
    let source = Repo::with_history(HashKind::Sha1, 200, 40);
    let server = Repo::new(HashKind::Sha1);
    for (want, have) in [
        ("main~20", None),
        ("main~10", Some("main~20")),
        ("main", Some("main~10")),
    ] {
        let haves: Vec<_> = have.into_iter().map(|have| source.id(have)).collect();
        let input = lines(&[source.id(want)], &haves);
        let args = ["pack-objects", "--revs", "--thin", "--stdout", "-q"];
        let pack = source.input(&args, &input);
        server.index_pack(&pack, true);
        server.git(&[
            "update-ref",
            "refs/heads/main",
            &source.id(want).to_string(),
        ]);
    }
    let want = source.id("main");
    // Where deltas end where pushes did, all of them are of use. In between, what stood on
    // left out objects is made whole, and no new deltas are made.
    for (have, percent) in [("main~10", 105), ("main~15", 170)] {
        let have = source.id(have);
        let wanted = PackRequest {
            wants: vec![want],
            haves: vec![have],
            thin: true,
            offset_deltas: true,
        };
        let body = fetch(&open(&server), &wanted).await.unwrap();
        let ours = all(body).await.unwrap();
        let args = [
            "pack-objects",
            "--revs",
            "--thin",
            "--delta-base-offset",
            "--stdout",
            "-q",
        ];
        let gits = server.input(&args, &lines(&[want], &[have]));
        let count = |pack: &[u8]| u32::from_be_bytes(*pack[8..].first_chunk().unwrap());
        let sizes = format!("{} bytes, git {}", ours.len(), gits.len());
        println!("{sizes}");
        assert_eq!(count(&ours), count(&gits));
        assert!(ours.len() * 100 <= gits.len() * percent, "{sizes}");
    }
}
