//! Every parser of foreign bytes on damaged real input: no parser panics, and accepted
//! input is within bounds.

use std::sync::OnceLock;

use branchline_git::HashKind;
use branchline_git::advertisement::{Advertisement, AdvertisementReader, LsRefsReader, Service};
use branchline_git::bundle::Header;
use branchline_git::dumb_http::{parse_head, parse_info_packs, parse_info_refs};
use branchline_git::object::{ObjectKind, decode_loose, encode_loose, id_of, references};
use branchline_git::pack::{
    Connectivity, EntryHeader, Index, NoBases, Pack, PackIndexer, PackLimits, apply_delta,
};
use branchline_git::pkt_line::{Decoder, MAX_LINE, Packet, demultiplex};
use bytes::Bytes;
use proptest::prelude::*;

use super::pack::only_pack;
use branchline_test_support::repo::Repo;

/// Real input of each kind.
struct Corpus {
    info_refs: Vec<u8>,
    info_packs: Vec<u8>,
    head: Vec<u8>,
    bundle: Vec<u8>,
    advertisement_v0: Vec<u8>,
    advertisement_v2: Vec<u8>,
    ls_refs: Vec<u8>,
    packs: Vec<Vec<u8>>,
    index: Vec<u8>,
    commit: Vec<u8>,
    tree: Vec<u8>,
    tag: Vec<u8>,
}

fn corpus() -> &'static Corpus {
    static CORPUS: OnceLock<Corpus> = OnceLock::new();
    CORPUS.get_or_init(|| {
        let repo = Repo::with_history(HashKind::Sha1, 12, 4);
        repo.git(&["repack", "-adfq"]);
        repo.git(&["update-server-info"]);
        let read = |name: &str| std::fs::read(repo.path.join(name)).unwrap();
        let (pack, index) = only_pack(&repo);
        let by_id = repo.bytes(&[
            "pack-objects",
            "--all",
            "--stdout",
            "--no-reuse-delta",
            "-q",
        ]);
        let path = repo.path.to_str().unwrap();
        let advertise = |version: &str| {
            let mut command = repo.command(&["upload-pack", "--http-backend-info-refs", path]);
            command
                .env("GIT_PROTOCOL", version)
                .output()
                .unwrap()
                .stdout
        };
        let mut ls_refs = Vec::new();
        for line in repo.refs().lines() {
            let line = format!("{line} symref-target:refs/heads/x peeled:{}\n", &line[..40]);
            ls_refs.extend_from_slice(format!("{:04x}{line}", line.len() + 4).as_bytes());
        }
        ls_refs.extend_from_slice(b"0000");
        Corpus {
            info_refs: read("info/refs"),
            info_packs: read("objects/info/packs"),
            head: read("HEAD"),
            bundle: repo.bytes(&[
                "bundle",
                "create",
                "-q",
                "--version=3",
                "-",
                "main",
                "^main~2",
            ]),
            advertisement_v0: [b"001e# service=git-upload-pack\n0000", &advertise("")[..]].concat(),
            advertisement_v2: advertise("version=2"),
            ls_refs,
            packs: vec![pack.to_vec(), by_id],
            index: index.bytes().to_vec(),
            commit: repo.bytes(&["cat-file", "commit", "main"]),
            tree: repo.bytes(&["cat-file", "tree", "main^{tree}"]),
            tag: repo.bytes(&["cat-file", "tag", "v1"]),
        }
    })
}

/// One damage to bytes.
#[derive(Debug, Clone)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let place = any::<prop::sample::Index>;
    let one = prop_oneof![
        4 => (place(), any::<u8>()).prop_map(|(at, by)| Damage::Flip(at, by)),
        1 => place().prop_map(Damage::Cut),
        1 => (place(), prop::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => (place(), 1..40_usize).prop_map(|(at, n)| Damage::Remove(at, n)),
        1 => (place(), 1..200_usize).prop_map(|(at, n)| Damage::Repeat(at, n)),
    ];
    prop::collection::vec(one, 0..4)
}

fn damaged(bytes: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for damage in damages {
        if out.is_empty() {
            break;
        }
        let length = out.len();
        match damage {
            Damage::Flip(at, by) => out[at.index(length)] ^= by,
            Damage::Cut(at) => out.truncate(at.index(length)),
            Damage::Insert(at, bytes) => {
                let at = at.index(length);
                out.splice(at..at, bytes.iter().copied());
            }
            Damage::Remove(at, n) => {
                let at = at.index(length);
                out.drain(at..length.min(at + n));
            }
            Damage::Repeat(at, n) => {
                let at = at.index(length);
                let piece = out[at..length.min(at + n)].to_vec();
                out.splice(at..at, piece);
            }
        }
    }
    out
}

fn packets(bytes: &[u8], piece: usize, mut each: impl FnMut(Packet) -> bool) {
    let mut decoder = Decoder::new();
    for piece in bytes.chunks(piece.max(1)) {
        decoder.push(piece);
        loop {
            match decoder.next_packet() {
                Ok(Some(packet)) => {
                    if each(packet) {
                        return;
                    }
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(decoder.remaining().len() < MAX_LINE + piece.len());
    }
}

fn read_advertisement(bytes: &[u8], piece: usize) -> Option<Advertisement> {
    let mut reader = AdvertisementReader::new(Service::UploadPack);
    packets(bytes, piece, |packet| reader.push(&packet).unwrap_or(true));
    reader.finish().ok()
}

/// Receives and resolves a pack with little memory; returns true if it was accepted.
pub(crate) fn read_pack(hash: HashKind, bytes: &[u8], piece: usize) -> bool {
    let limits = PackLimits {
        memory: 64 << 10,
        object_bytes: 16 << 20,
        ..PackLimits::default()
    };
    let mut connectivity = Connectivity::new(hash, []);
    let mut receiver = PackIndexer::new(hash, limits);
    for piece in bytes.chunks(piece.max(1)) {
        if receiver.push(piece, &mut connectivity).is_err() {
            return false;
        }
    }
    let Ok(arrived) = receiver.finish() else {
        return false;
    };
    let bytes = Bytes::copy_from_slice(bytes);
    let resolving = arrived.resolve(&bytes, &NoBases, &mut connectivity);
    futures_util::FutureExt::now_or_never(resolve_all(resolving)).is_some_and(|ok| ok)
}

async fn resolve_all<T>(future: impl Future<Output = branchline_git::Result<T>>) -> bool {
    // `yield_now` is ready at the next poll, so no timer is needed.
    let mut future = Box::pin(future);
    loop {
        if let std::task::Poll::Ready(done) = futures_util::poll!(&mut future) {
            return done.is_ok();
        }
    }
}

/// Recomputes the trailer of a damaged pack.
pub(crate) fn with_trailer(mut pack: Vec<u8>) -> Vec<u8> {
    use sha1::Digest as _;
    pack.truncate(pack.len().saturating_sub(20));
    let trailer = sha1::Sha1::digest(&pack);
    pack.extend_from_slice(&trailer);
    pack
}

#[test]
fn an_index_with_two_objects_at_one_offset_is_corrupt() {
    let mut bytes = corpus().index.clone();
    let fanout = 8 + 255 * 4;
    let count = u32::from_be_bytes(bytes[fanout..fanout + 4].try_into().unwrap()) as usize;
    assert!(count > 1);
    // Behind the fan-out, the ids and the checksums.
    let offsets = fanout + 4 + count * (20 + 4);
    bytes.copy_within(offsets..offsets + 4, offsets + 4);
    let index = Index::parse(HashKind::Sha1, with_trailer(bytes).into()).unwrap();
    let size = corpus().packs[0].len() as u64;
    let error = Pack::new(index, size, PackLimits::default()).unwrap_err();
    assert!(error.to_string().contains("at one offset"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn text_files_survive_damage(damages in damages()) {
        let corpus = corpus();
        if let Ok(refs) = parse_info_refs(&damaged(&corpus.info_refs, &damages)) {
            for name in refs.keys() {
                prop_assert!(gix_validate::reference::name(name.as_ref()).is_ok());
            }
        }
        let _ = parse_info_packs(&damaged(&corpus.info_packs, &damages));
        let _ = parse_head(&damaged(&corpus.head, &damages));
        if let Ok(Some((header, length))) = Header::parse(&damaged(&corpus.bundle, &damages)) {
            prop_assert!(length <= corpus.bundle.len() + 1000);
            prop_assert!(header.write().is_ok());
        }
    }

    #[test]
    fn advertisements_survive_damage(damages in damages(), piece in 1..500_usize) {
        let corpus = corpus();
        let seen = read_advertisement(&damaged(&corpus.advertisement_v0, &damages), piece);
        let whole = read_advertisement(&corpus.advertisement_v0, piece).unwrap();
        if damages.is_empty() {
            prop_assert_eq!(seen.as_ref(), Some(&whole));
        }
        let _ = read_advertisement(&damaged(&corpus.advertisement_v2, &damages), piece);
        let mut into = whole;
        let mut reader = LsRefsReader::new();
        packets(&damaged(&corpus.ls_refs, &damages), piece, |packet| {
            reader.push(&packet, &mut into).unwrap_or(true)
        });
        let _ = into.head();
    }

    #[test]
    fn damaged_packets_are_read_or_corrupt(bytes: Vec<u8>, piece in 1..50_usize) {
        packets(&bytes, piece, |packet| {
            if let Packet::Data(data) = packet {
                let _ = demultiplex(data);
            }
            false
        });
        let _ = read_advertisement(&bytes, piece);
        let _ = EntryHeader::parse(HashKind::Sha1, &bytes);
        let _ = Header::parse(&bytes);
        let _ = Index::parse(HashKind::Sha1, bytes.into());
    }

    #[test]
    fn objects_survive_damage(damages in damages()) {
        let corpus = corpus();
        for (kind, bytes) in [
            (ObjectKind::Commit, &corpus.commit),
            (ObjectKind::Tree, &corpus.tree),
            (ObjectKind::Tag, &corpus.tag),
        ] {
            let mut found = 0;
            let read = references(HashKind::Sha1, kind, &damaged(bytes, &damages), |_| found += 1);
            prop_assert!(!damages.is_empty() || read.is_ok());
            prop_assert!(found <= bytes.len());
            let id = id_of(HashKind::Sha1, kind, bytes).unwrap();
            let loose = damaged(&encode_loose(kind, bytes), &damages);
            if let Ok((_, content)) = decode_loose(id, &loose, 1 << 20) {
                prop_assert_eq!(&content, bytes, "what is accepted has its id");
            }
        }
    }

    #[test]
    fn deltas_survive_damage(base: Vec<u8>, delta: Vec<u8>) {
        let mut made = 0;
        if let Ok(size) = apply_delta(&base, &delta, |piece| made += piece.len() as u64) {
            prop_assert_eq!(size, made);
        }
    }

    #[test]
    fn indexes_survive_damage(damages in damages(), fix in any::<bool>()) {
        let corpus = corpus();
        let mut bytes = damaged(&corpus.index, &damages);
        if fix {
            bytes = with_trailer(bytes);
        }
        if let Ok(index) = Index::parse(HashKind::Sha1, bytes.into()) {
            let pack = Bytes::from(corpus.packs[0].clone());
            let limits = PackLimits::default().with_memory(1 << 20);
            let ids: Vec<_> = index.ids().collect();
            for (position, id) in ids.iter().enumerate() {
                prop_assert_eq!(index.find(*id), Some(position));
                let _ = (index.offset(position), index.crc(position));
            }
            let Ok(mut reader) = Pack::new(index, pack.len() as u64, limits) else {
                return Ok(());
            };
            for id in ids {
                let read = futures_util::FutureExt::now_or_never(reader.read(&pack, id));
                if let Some(Ok(Some((kind, content)))) = read {
                    prop_assert_eq!(id_of(HashKind::Sha1, kind, &content).unwrap(), id);
                }
            }
        }
    }

    #[test]
    fn packs_survive_damage(
        damages in damages(),
        which in 0..2_usize,
        fix in any::<bool>(),
        piece in 1..3000_usize,
    ) {
        let whole = &corpus().packs[which];
        let mut bytes = damaged(whole, &damages);
        if fix {
            bytes = with_trailer(bytes);
        }
        let accepted = read_pack(HashKind::Sha1, &bytes, piece);
        prop_assert!(accepted || bytes != *whole, "the whole pack is accepted");
    }
}
