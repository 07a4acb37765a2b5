//! Packs against `git index-pack` and `git cat-file`.

use std::collections::BTreeMap;

use branchline_git::ErrorKind;
use branchline_git::object::{ObjectKind, id_of};
use branchline_git::pack::{
    Blocks, Connectivity, EntryHeader, EntryKind, Index, NoBases, Pack, PackBytes, PackIndexer,
    PackLimits, PackObject, PackWriter, UnresolvedPack,
};
use branchline_git::{HashKind, ObjectId};
use bytes::Bytes;

use branchline_test_support::repo::Repo;

/// Reads the pack of a repository that has one pack, and its index.
pub(crate) fn only_pack(repo: &Repo) -> (Bytes, Index) {
    let (pack, index) = repo.only_pack();
    let index = Index::parse(repo.hash, index.into()).unwrap();
    (pack.into(), index)
}

/// Returns kind and content of every object of a pack by id, as git prints them.
pub(crate) fn contents(repo: &Repo, index: &Index) -> BTreeMap<ObjectId, (ObjectKind, Vec<u8>)> {
    let ids: Vec<_> = index.ids().map(|id| id.to_string()).collect();
    let input = ids.join("\n") + "\n";
    let out = repo.input(&["cat-file", "--batch"], input.as_bytes());
    let mut rest = out.as_slice();
    let mut contents = BTreeMap::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'\n').unwrap();
        let line = std::str::from_utf8(&rest[..end]).unwrap();
        let words: Vec<_> = line.split(' ').collect();
        let size: usize = words[2].parse().unwrap();
        let id = ObjectId::from_hex(words[0].as_bytes()).unwrap();
        let kind = ObjectKind::from_name(words[1].as_bytes()).unwrap();
        contents.insert(id, (kind, rest[end + 1..][..size].to_vec()));
        rest = &rest[end + 1 + size + 1..];
    }
    contents
}

#[expect(clippy::unnecessary_wraps, reason = "it is a visitor")]
pub(crate) fn ignore(_: PackObject<'_>) -> branchline_git::Result<()> {
    Ok(())
}

fn receive(hash: HashKind, pack: &[u8], limits: PackLimits, piece: usize) -> UnresolvedPack {
    let mut receiver = PackIndexer::new(hash, limits);
    for piece in pack.chunks(piece) {
        receiver.push(piece, &mut ignore).unwrap();
    }
    receiver.finish().unwrap()
}

#[tokio::test]
async fn an_index_equals_gits_at_any_memory_and_delta_depth() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        let source = Repo::with_history(hash, 120, 40);
        for options in [&["--delta-base-offset"][..], &[]] {
            let mut args = vec![
                "pack-objects",
                "--all",
                "--stdout",
                "--no-reuse-delta",
                "-q",
            ];
            args.extend(options);
            let pack = Bytes::from(source.input(&args, b""));
            let index = Repo::new(hash).index_pack(&pack, false);
            let contents = {
                let index = Index::parse(hash, index.clone().into()).unwrap();
                contents(&source, &index)
            };
            let mut pending = Vec::new();
            for (memory, piece) in [(64 << 20, usize::MAX), (256 << 10, 4096), (32 << 10, 1)] {
                let limits = PackLimits::default().with_memory(memory);
                let mut seen = 0;
                let mut visitor = |object: PackObject<'_>| {
                    seen += 1;
                    let (kind, content) = &contents[&object.id];
                    assert_eq!(object.kind, *kind);
                    assert_eq!(object.size, content.len() as u64);
                    if let Some(shown) = object.content {
                        assert_eq!(shown, content);
                    }
                    Ok(())
                };
                let mut receiver = PackIndexer::new(hash, limits);
                for piece in pack.chunks(piece) {
                    receiver.push(piece, &mut visitor).unwrap();
                }
                let arrived = receiver.finish().unwrap();
                pending.push(arrived.pending());
                let resolved = arrived
                    .resolve(&pack, &NoBases, &mut visitor)
                    .await
                    .unwrap();
                assert_eq!(
                    resolved.index.bytes(),
                    &index,
                    "with {memory} bytes of memory"
                );
                assert_eq!(resolved.completed, None);
                assert_eq!(seen, contents.len(), "each object is shown once");
                for (position, id) in resolved.index.ids().enumerate() {
                    assert_eq!(resolved.kinds[position], contents[&id].0);
                }
            }
            assert_eq!(
                pending[0], 0,
                "with memory enough, all is known as it arrives"
            );
            assert!(pending[2] > 100, "with little, much is left: {pending:?}");
        }
    }
}

#[tokio::test]
async fn objects_are_read_by_id_through_blocks() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        let source = Repo::with_history(hash, 60, 20);
        source.git(&["repack", "-adfq"]);
        let (pack, index) = only_pack(&source);
        let contents = contents(&source, &index);
        let size = pack.len() as u64;
        let blocks = Blocks::new(pack, size, 1000, 3);
        let limits = PackLimits::default().with_memory(64 << 10);
        let mut reader = Pack::new(index, size, limits).unwrap();
        for (id, expected) in &contents {
            let (kind, content) = reader.read(&blocks, *id).await.unwrap().unwrap();
            assert_eq!((kind, &content[..]), (expected.0, &expected.1[..]));
        }
        let stranger = ObjectId::null(hash);
        assert!(reader.read(&blocks, stranger).await.unwrap().is_none());
        assert!(blocks.read_range(0..size + 1).await.is_err());
    }
}

#[tokio::test]
async fn a_pack_written_in_pieces_is_gits() {
    let hash = HashKind::Sha1;
    let repo = Repo::new(hash);
    let large: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let id = |content: &[u8]| id_of(hash, ObjectKind::Blob, content).unwrap();
    let mut writer = PackWriter::new(hash, 3);
    let mut out = Vec::new();
    writer.start(id(&large), ObjectKind::Blob, large.len() as u64);
    for piece in large.chunks(7777) {
        writer.data(piece);
        out.extend_from_slice(&writer.take());
    }
    writer.end();
    writer.object(id(b""), ObjectKind::Blob, b"");
    // The size of the largest object, and one word more.
    let mut delta = Vec::new();
    for size in [large.len(), large.len() + 4] {
        let mut rest = size;
        while rest >= 0x80 {
            delta.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
            rest >>= 7;
        }
        delta.push(u8::try_from(rest).unwrap());
    }
    let length = u32::try_from(large.len()).unwrap().to_le_bytes();
    delta.extend_from_slice(&[0xf0, length[0], length[1], length[2], 4]);
    delta.extend_from_slice(b"more");
    let longer = [&large[..], b"more"].concat();
    writer.delta(id(&longer), id(&large), &delta);
    let (rest, index) = writer.finish().unwrap();
    out.extend_from_slice(&rest);
    assert_eq!(index.bytes(), &repo.index_pack(&out, false));
    assert_eq!(
        repo.bytes(&["cat-file", "blob", &id(&longer).to_string()]),
        longer
    );

    let mut writer = PackWriter::new(hash, 1);
    let header = EntryHeader {
        kind: EntryKind::OffsetDelta(3),
        size: 1,
    };
    let error = writer.copy(id(b""), header, b"").unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Internal,
        "no offset delta is ever written"
    );
    assert!(writer.finish().is_err(), "one object is missing");
}

#[tokio::test]
async fn a_delta_larger_than_memory_is_refused_and_a_whole_blob_is_accepted() {
    let repo = Repo::new(HashKind::Sha1);
    let noise: Vec<u8> = (0..500_000_u64)
        .flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).to_le_bytes())
        .collect();
    repo.input(&["hash-object", "-w", "--stdin"], &noise);
    let changed = [&noise[..], b"changed"].concat();
    let first = repo.input(&["hash-object", "-w", "--stdin"], &changed);
    let second = repo.input(&["hash-object", "-w", "--stdin"], &noise);
    let limits = PackLimits::default().with_memory(256 << 10);

    let pack = repo.input(&["pack-objects", "--stdout", "-q"], &first);
    let arrived = receive(HashKind::Sha1, &pack, limits, usize::MAX);
    let pack = Bytes::from(pack);
    let resolved = arrived.resolve(&pack, &NoBases, &mut ignore).await.unwrap();
    assert_eq!(resolved.index.len(), 1, "4 MB went through 256 KiB");

    let both = [first, second].concat();
    let pack = Bytes::from(repo.input(&["pack-objects", "--stdout", "-q"], &both));
    let arrived = receive(HashKind::Sha1, &pack, limits, usize::MAX);
    assert_eq!(arrived.pending(), 1);
    let error = arrived
        .resolve(&pack, &NoBases, &mut ignore)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    let limits = limits.with_memory(9 << 20);
    let arrived = receive(HashKind::Sha1, &pack, limits, usize::MAX);
    arrived.resolve(&pack, &NoBases, &mut ignore).await.unwrap();
}

#[tokio::test]
async fn missing_objects_of_a_pack_are_reported() {
    let source = Repo::with_history(HashKind::Sha1, 20, 5);
    let ids = source.git(&["rev-list", "--objects", "--no-object-names", "--all"]);
    let left_out = source.id("main~2:link");
    let input = ids.replace(&left_out.to_string(), &source.id("main").to_string()) + "\n";
    let pack = Bytes::from(source.input(&["pack-objects", "--stdout", "-q"], input.as_bytes()));
    let mut connectivity = Connectivity::new(HashKind::Sha1, []);
    let mut receiver = PackIndexer::new(HashKind::Sha1, PackLimits::default());
    receiver.push(&pack, &mut connectivity).unwrap();
    let arrived = receiver.finish().unwrap();
    let resolved = arrived
        .resolve(&pack, &NoBases, &mut connectivity)
        .await
        .unwrap();
    let stranger = ObjectId::empty_blob(HashKind::Sha1);
    let mut expected = vec![left_out, stranger];
    expected.sort();
    assert_eq!(
        connectivity
            .missing_objects(&resolved, &[stranger])
            .unwrap(),
        expected
    );
}
