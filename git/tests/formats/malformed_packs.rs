//! Malformed packs: bombs, cycles and endless streams.

use async_trait::async_trait;
use branchline_git::Result;
use branchline_git::object::{ObjectKind, id_of};
use branchline_git::pack::{Bases, PackIndexer, PackLimits, Resolved};
use branchline_git::{HashKind, ObjectId};
use bytes::Bytes;

use super::fuzz::{read_pack, with_trailer};

/// Builds a pack of hand-made entries with a correct trailer.
fn pack_of(entries: &[Vec<u8>]) -> Vec<u8> {
    let count = u32::try_from(entries.len()).unwrap();
    let mut pack = [b"PACK\0\0\0\x02", &count.to_be_bytes()[..]].concat();
    for entry in entries {
        pack.extend_from_slice(entry);
    }
    pack.extend_from_slice(&[0; 20]);
    with_trailer(pack)
}

fn entry(header: &[u8], content: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut zlib = flate2::write::ZlibEncoder::new(header.to_vec(), flate2::Compression::fast());
    zlib.write_all(content).unwrap();
    zlib.finish().unwrap()
}

#[test]
fn malformed_packs_are_refused() {
    let blob = || entry(&[0x35], b"abcde");
    let id = id_of(HashKind::Sha1, ObjectKind::Blob, b"abcde").unwrap();
    let by_id = |id: &[u8], delta: &[u8]| {
        let size = u8::try_from(delta.len()).unwrap();
        entry(&[&[0x70 | size][..], id].concat(), delta)
    };
    let same = b"\x05\x05\x90\x05";
    assert!(
        read_pack(HashKind::Sha1, &pack_of(&[blob()]), 1),
        "it is a pack"
    );
    let longer = by_id(id.as_slice(), b"\x05\x06\x90\x05\x01x");
    assert!(
        read_pack(HashKind::Sha1, &pack_of(&[longer, blob()]), 1),
        "the base comes later"
    );

    // Each of two deltas has the other as its base: the ids cannot match, so any id serves.
    let circle = [by_id(&[1; 20], same), by_id(&[2; 20], same)];
    let huge = b"\x05\xff\xff\xff\xff\xff\xff\xff\xff\x7f";
    let cases = [
        ("twice the same object", pack_of(&[blob(), blob()])),
        ("deltas on nothing", pack_of(&circle)),
        ("a delta on itself", pack_of(&[entry(&[0x64, 0], same)])),
        (
            "a delta on what comes before the pack",
            pack_of(&[blob(), entry(&[0x64, 0x7f], same)]),
        ),
        (
            "a delta into the midst of an entry",
            pack_of(&[blob(), entry(&[0x64, 3], same)]),
        ),
        (
            "a delta that claims 2^63 bytes",
            pack_of(&[blob(), by_id(id.as_slice(), huge)]),
        ),
        (
            "a size that is too small",
            pack_of(&[entry(&[0x34], b"abcde")]),
        ),
        (
            "a size that is too large",
            pack_of(&[entry(&[0x36], b"abcde")]),
        ),
        (
            "a size of 2^63",
            pack_of(&[entry(
                &[0xbf, 255, 255, 255, 255, 255, 255, 255, 255, 7],
                b"",
            )]),
        ),
        ("a type that is not", pack_of(&[entry(&[0x55], b"abcde")])),
        ("fewer objects than said", {
            let mut pack = pack_of(&[blob()]);
            pack[11] = 2;
            with_trailer(pack)
        }),
        ("a wrong trailer", {
            let mut pack = pack_of(&[blob()]);
            *pack.last_mut().unwrap() ^= 1;
            pack
        }),
        (
            "something behind the trailer",
            [pack_of(&[blob()]), vec![0]].concat(),
        ),
        ("another version", {
            let mut pack = pack_of(&[blob()]);
            pack[7] = 4;
            with_trailer(pack)
        }),
    ];
    for (what, pack) in cases {
        for piece in [1, 7, usize::MAX] {
            assert!(!read_pack(HashKind::Sha1, &pack, piece), "{what}");
        }
    }
    // A delta whose result is its own base.
    let itself = by_id(id.as_slice(), same);
    for pack in [
        pack_of(&[itself.clone(), blob()]),
        pack_of(&[itself.clone(), itself]),
    ] {
        assert!(!read_pack(HashKind::Sha1, &pack, 1), "it comes to an end");
    }
    // A zlib bomb behind a small size ends at that size.
    let bomb = entry(&[0x35], &vec![0; 50 << 20]);
    assert!(!read_pack(HashKind::Sha1, &pack_of(&[bomb]), usize::MAX));
}

/// External bases: blobs that the receiver has.
struct Had(Vec<&'static [u8]>);

#[async_trait]
impl Bases for Had {
    async fn base(&self, id: ObjectId) -> Result<Option<(ObjectKind, Bytes)>> {
        let found = self.0.iter().find(|content| blob_id(content) == id);
        Ok(found.map(|content| (ObjectKind::Blob, Bytes::from_static(content))))
    }
}

fn blob_id(content: &[u8]) -> ObjectId {
    id_of(HashKind::Sha1, ObjectKind::Blob, content).unwrap()
}

async fn resolve(entries: &[Vec<u8>], had: &Had) -> Result<Resolved> {
    let pack = Bytes::from(pack_of(entries));
    let mut receiver = PackIndexer::new(HashKind::Sha1, PackLimits::default());
    receiver.push(&pack, &mut super::pack::ignore).unwrap();
    let arrived = receiver.finish().unwrap();
    arrived.resolve(&pack, had, &mut super::pack::ignore).await
}

#[tokio::test]
async fn a_thin_pack_whose_object_is_its_own_base_is_refused() {
    let by_id = |base: &[u8], delta: &[u8]| {
        let size = u8::try_from(delta.len()).unwrap();
        entry(
            &[&[0x70 | size][..], blob_id(base).as_slice()].concat(),
            delta,
        )
    };
    let had = Had(vec![b"abcde", b"xyz"]);
    let same = by_id(b"abcde", b"\x05\x05\x90\x05");
    // Indirectly: `abcdef` from `abcde`, and `abcde` from `abcdef`.
    let longer = by_id(b"abcde", b"\x05\x06\x90\x05\x01f");
    let shorter = by_id(b"abcdef", b"\x06\x05\x90\x05");
    for entries in [
        vec![same],
        vec![longer.clone(), shorter.clone()],
        vec![shorter, longer.clone()],
    ] {
        let error = resolve(&entries, &had).await.unwrap_err();
        assert_eq!(error.kind(), branchline_git::ErrorKind::Corrupt);
        assert!(error.report().contains("out of"), "{}", error.report());
    }
    // An object made from another base is accepted, even if it was looked up before.
    let other = by_id(b"xyz", b"\x03\x05\x05abcde");
    let resolved = resolve(&[longer, other], &had).await.unwrap();
    let added = resolved.completed.unwrap().added;
    assert_eq!(added, [blob_id(b"xyz")], "nothing is added that is there");
}

#[test]
fn a_zlib_stream_of_endless_empty_blocks_is_refused() {
    let pack = [b"PACK\0\0\0\x02\0\0\0\x01", &[0x35, 0x78, 0x01][..]].concat();
    let mut receiver = PackIndexer::new(HashKind::Sha1, PackLimits::default());
    receiver.push(&pack, &mut super::pack::ignore).unwrap();
    // Stored blocks of no bytes.
    let empty = [0, 0, 0, 0xff, 0xff].repeat(1000);
    let error = loop {
        assert!(receiver.position() < 100_000, "five bytes need not more");
        if let Err(error) = receiver.push(&empty, &mut super::pack::ignore) {
            break error;
        }
    };
    assert_eq!(error.kind(), branchline_git::ErrorKind::Corrupt);
    assert!(
        error.report().contains("without content"),
        "{}",
        error.report()
    );
}

#[test]
fn a_delta_bomb_ends_at_the_allowed_expansion() {
    // Each delta is one copy command that yields 16 MiB of a base of 16 MiB.
    let size = 16 << 20;
    let base = vec![0_u8; size - 1];
    let mut header = vec![0x30 | 0x80 | u8::try_from((size - 1) & 15).unwrap()];
    let mut rest = (size - 1) >> 4;
    while rest >= 0x80 {
        header.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    header.push(u8::try_from(rest).unwrap());
    let mut entries = vec![entry(&header, &base)];
    let id = id_of(HashKind::Sha1, ObjectKind::Blob, &base).unwrap();
    for n in 0..80_u8 {
        // The base, and one more byte so that each object differs.
        let mut delta = vec![0xff, 0xff, 0xff, 0x07, 0x80, 0x80, 0x80, 0x08];
        delta.extend_from_slice(&[0xf0, 0xff, 0xff, 0xff, 1, n]);
        let length = u8::try_from(delta.len()).unwrap();
        let header = [&[0x70 | length][..], id.as_slice()].concat();
        entries.push(entry(&header, &delta));
    }
    let limits = PackLimits {
        memory: 128 << 20,
        expansion: 0,
        ..PackLimits::default()
    };
    let pack = pack_of(&entries);
    let mut receiver = PackIndexer::new(HashKind::Sha1, limits);
    let error = receiver.push(&pack, &mut super::pack::ignore).unwrap_err();
    assert_eq!(error.kind(), branchline_git::ErrorKind::Corrupt);
    let report = error.report();
    assert!(
        report.contains("make more than 1073741824 bytes"),
        "{report}"
    );
}
