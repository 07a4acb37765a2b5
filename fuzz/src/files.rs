//! Files of buckets and folders: bundles, the text files of dumb HTTP, objects.

use branchline_git::bundle::Header;
use branchline_git::dumb_http::{
    parse_head, parse_info_packs, parse_info_refs, write_head, write_info_refs,
};
use branchline_git::object::{
    ObjectKind, decode_loose, encode_loose, id_of, references, tree_entries,
};
use branchline_git::{HashKind, ObjectId};
use flate2::{Decompress, FlushDecompress};

use crate::byte_source::ByteSource;

/// Parses the header of a bundle.
pub fn bundle(bytes: &[u8]) {
    let Ok(Some((header, length))) = Header::parse(bytes) else {
        return;
    };
    assert!(length <= bytes.len(), "a header is within the bytes");
    assert!(
        matches!(Header::parse(&bytes[..length - 1]), Ok(None)),
        "a header that is not whole asks for more"
    );
    let written = header.write().expect("because its lines are lines");
    let (again, end) = Header::parse(&written)
        .expect("because it was written here")
        .expect("because it is whole");
    assert_eq!((again, end), (header, written.len()), "headers come back");
}

/// Parses `info/refs`.
pub fn info_refs(bytes: &[u8]) {
    let Ok(refs) = parse_info_refs(bytes) else {
        return;
    };
    for name in refs.keys() {
        assert!(
            name == "HEAD" || gix_validate::reference::name(name.as_ref()).is_ok(),
            "git would refuse {name:?}"
        );
    }
    let written = write_info_refs(&refs);
    let again = parse_info_refs(&written).expect("because it was written here");
    assert_eq!(again, refs, "refs come back");
}

/// Parses `objects/info/packs`.
pub fn info_packs(bytes: &[u8]) {
    if let Ok(packs) = parse_info_packs(bytes) {
        let lines = packs.iter().map(|id| format!("P pack-{id}.pack\n"));
        let written = lines.collect::<String>();
        let again = parse_info_packs(written.as_bytes()).expect("because it was written here");
        assert_eq!(again, packs, "packs come back");
    }
}

/// Parses `HEAD`.
pub fn head(bytes: &[u8]) {
    if let Ok(head) = parse_head(bytes) {
        let again = parse_head(&write_head(&head)).expect("because it was written here");
        assert_eq!(again, head, "HEAD comes back");
    }
}

/// Inflates at most `limit` bytes, to compute their id.
fn inflated(bytes: &[u8], limit: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(limit);
    let mut inflate = Decompress::new(true);
    // An error is ignored, because the parser under test reports it.
    let _ = inflate.decompress_vec(bytes, &mut out, FlushDecompress::Finish);
    out
}

/// Reads a loose object: zlib, its header, and its content.
pub fn loose(bytes: &[u8]) {
    const LIMIT: usize = 64 * 1024;
    let mut choices = ByteSource::new(bytes);
    let how = choices.byte();
    let hash = choices.hash();
    let mut bytes = choices.rest().to_vec();
    if how & 1 == 1 {
        // The input is compressed here, because random bytes are almost never a zlib stream.
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::none());
        std::io::Write::write_all(&mut zlib, &bytes).expect("because writing to a Vec cannot fail");
        bytes = zlib.finish().expect("because writing to a Vec cannot fail");
    }
    // The id is that of the inflated bytes, so that the content is accepted.
    let plain = inflated(&bytes, LIMIT + 100);
    let id = file_id(hash, &plain);
    let Ok((kind, content)) = decode_loose(id, &bytes, LIMIT) else {
        return;
    };
    assert!(content.len() <= LIMIT, "the limit holds");
    assert_eq!(id_of(hash, kind, &content).ok(), Some(id), "it has its id");
    let again = decode_loose(id, &encode_loose(kind, &content), LIMIT);
    assert_eq!(again.ok(), Some((kind, content)), "objects come back");
}

fn file_id(hash: HashKind, bytes: &[u8]) -> ObjectId {
    let mut hasher = gix_hash::hasher(hash);
    hasher.update(bytes);
    hasher.try_finalize().unwrap_or_else(|_| hash.null())
}

/// Parses commits, trees and tags.
pub fn object(bytes: &[u8]) {
    let mut choices = ByteSource::new(bytes);
    let hash = choices.hash();
    let kind = match choices.byte() % 3 {
        0 => ObjectKind::Commit,
        1 => ObjectKind::Tree,
        _ => ObjectKind::Tag,
    };
    let content = choices.rest();
    let mut found = Vec::new();
    let read = references(hash, kind, content, |reference| found.push(reference));
    assert!(
        found.len() <= content.len() / hash.len_in_bytes(),
        "each id that is found is there"
    );
    assert!(
        found.iter().all(|reference| reference.id().kind() == hash),
        "one hash function"
    );
    if kind != ObjectKind::Tree || read.is_err() {
        return;
    }
    let mut written = Vec::new();
    let mut as_git_writes = true;
    let mut rest = content;
    tree_entries(hash, content, |entry| {
        as_git_writes &= !rest.starts_with(b"0");
        let line = [format!("{:o} ", entry.mode).as_bytes(), entry.name, b"\0"].concat();
        rest = rest
            .get(line.len() + hash.len_in_bytes()..)
            .unwrap_or_default();
        written.extend_from_slice(&line);
        written.extend_from_slice(entry.id.as_slice());
    })
    .expect("because it was read before");
    assert!(!as_git_writes || written == content, "trees come back");
}
