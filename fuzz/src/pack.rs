//! Packs, their indexes, and deltas.

use branchline_git::object::id_of;
use branchline_git::pack::{
    Bases, Connectivity, Index, NoBases, Pack, PackIndexer, PackLimits, PackObject, Resolved,
    Visitor, apply_delta,
};
use branchline_git::{ErrorKind, Result};
use branchline_git::{HashKind, ObjectId};
use bytes::Bytes;
use sha1::Digest as _;

use crate::block_on;
use crate::byte_source::ByteSource;
use crate::pack_builder::{ExternalBase, make, with_trailer};

/// Little, so that what depends on it is reached with little input.
const LIMITS: PackLimits = PackLimits {
    memory: 1 << 20,
    object_bytes: 4 << 20,
    objects: 10_000,
    expansion: 1024,
};

fn receive(
    bytes: &Bytes,
    piece: usize,
    limits: PackLimits,
    bases: &dyn Bases,
    visitor: &mut dyn Visitor,
) -> Result<Resolved> {
    let mut receiver = PackIndexer::new(HashKind::Sha1, limits);
    for bytes in bytes.chunks(piece.max(1)) {
        receiver.push(bytes, visitor)?;
    }
    let arrived = receiver.finish()?;
    assert_eq!(
        arrived.size_bytes(),
        bytes.len() as u64,
        "every byte was counted"
    );
    block_on(arrived.resolve(bytes, bases, visitor))
}

#[expect(clippy::unnecessary_wraps, reason = "visitors may fail")]
fn ignore(_: PackObject<'_>) -> Result<()> {
    Ok(())
}

/// A pack by its index is what its index says.
fn check_pack(resolved: &Resolved, bytes: &Bytes) {
    let index = Index::parse(HashKind::Sha1, resolved.index.bytes().clone())
        .expect("because we made the index");
    assert_eq!(index, resolved.index, "indexes come back");
    assert_eq!(
        sha1::Sha1::digest(&bytes[..bytes.len() - 20]).as_slice(),
        index.pack_id().as_slice(),
        "the index names its pack"
    );
    let ids: Vec<_> = index.ids().collect();
    let mut pack = Pack::new(index, bytes.len() as u64, LIMITS).expect("because it was accepted");
    for (id, kind) in ids.iter().zip(&resolved.kinds) {
        match block_on(pack.read(bytes, *id)) {
            Ok(Some((read, content))) => {
                assert_eq!(read, *kind, "an object keeps its kind");
                assert_eq!(
                    id_of(HashKind::Sha1, read, &content).ok(),
                    Some(*id),
                    "an object has its id"
                );
            }
            // An object that was hashed while it arrived may exceed the memory limit.
            Err(error) if error.kind() == ErrorKind::FileTooLarge => {}
            other => panic!("{id} was accepted and cannot be read back: {other:?}"),
        }
    }
}

/// The whole pack that a thin one becomes.
fn completed(resolved: &Resolved, bytes: &Bytes) -> Bytes {
    let Some(completed) = &resolved.completed else {
        return bytes.clone();
    };
    let range = |at: u64| usize::try_from(at).expect("because it is in memory");
    let body = range(completed.body.start)..range(completed.body.end);
    [&completed.header[..], &bytes[body], &completed.tail]
        .concat()
        .into()
}

/// A pack as it comes over the wire. The first byte says whether its trailer is made
/// right, and how it arrives.
pub fn pack(bytes: &[u8]) {
    let mut choices = ByteSource::new(bytes);
    let how = choices.byte();
    let piece = choices.piece();
    let mut bytes = choices.rest().to_vec();
    if how & 1 == 1 {
        bytes = with_trailer(bytes);
    }
    let bytes = Bytes::from(bytes);
    let mut connectivity = Connectivity::new(HashKind::Sha1, []);
    let whole = receive(&bytes, bytes.len(), LIMITS, &NoBases, &mut connectivity);
    let mut again = Connectivity::new(HashKind::Sha1, []);
    let parts = receive(&bytes, piece, LIMITS, &NoBases, &mut again);
    assert_eq!(
        whole.as_ref().ok().map(|resolved| &resolved.index),
        parts.as_ref().ok().map(|resolved| &resolved.index),
        "pieces make no difference"
    );
    if let Ok(resolved) = whole {
        check_pack(&resolved, &bytes);
        let _ = connectivity.missing_objects(&resolved, &[]);
    }
}

/// A pack whose framing is right, and whose entries are anything: what it holds is worked
/// out a second time, and compared.
pub fn pack_entries(bytes: &[u8]) {
    let _ = accepted(bytes);
}

/// The whole pack that [`pack_entries`] accepts, for others to look at.
pub fn accepted(bytes: &[u8]) -> Option<Bytes> {
    let mut choices = ByteSource::new(bytes);
    let piece = choices.piece();
    // With no memory for bases, all deltas are left to the second step.
    let memory = match choices.byte() & 1 {
        0 => LIMITS.memory,
        _ => 16 << 10,
    };
    let outside = ExternalBase::new(HashKind::Sha1);
    let made = make(choices, &outside);
    let bytes = Bytes::from(made.bytes);
    let limits = LIMITS.with_memory(memory);
    let resolved = match receive(&bytes, piece, limits, &outside, &mut ignore) {
        Ok(resolved) => resolved,
        Err(error) if error.kind() == ErrorKind::FileTooLarge => return None,
        Err(error) => {
            assert_eq!(
                error.kind(),
                ErrorKind::Corrupt,
                "bytes are corrupt: {error}"
            );
            assert!(
                made.objects.is_none(),
                "a good pack is accepted: {}",
                error.report()
            );
            return None;
        }
    };
    let Some(objects) = made.objects else {
        panic!("a broken pack is refused");
    };
    for (id, kind) in &objects {
        let at = resolved.index.find(*id);
        let at = at.unwrap_or_else(|| panic!("{id} is in the pack"));
        assert_eq!(resolved.kinds[at], *kind, "{id} has its kind");
    }
    let completed_by = resolved.completed.as_ref();
    let added = completed_by.map_or(0, |completed| completed.added.len());
    assert_eq!(added, made.added, "what stands on others is completed");
    assert_eq!(
        resolved.index.len(),
        objects.len() + added,
        "nothing else is in the pack"
    );
    let whole = completed(&resolved, &bytes);
    check_pack(&resolved, &whole);
    let alone = receive(&whole, whole.len(), LIMITS, &NoBases, &mut ignore)
        .expect("because what was completed stands alone");
    assert_eq!(alone.index, resolved.index, "one pack has one index");
    Some(whole)
}

/// The index of a pack, and reads by it from a pack that it need not fit. The pack comes
/// first, its length before it.
pub fn pack_index(bytes: &[u8]) {
    let mut choices = ByteSource::new(bytes);
    let how = choices.byte();
    let length = usize::from(choices.byte()) << 8 | usize::from(choices.byte());
    let pack = Bytes::copy_from_slice(choices.take(length));
    let mut index = choices.rest().to_vec();
    if how & 1 == 1 {
        index = with_trailer(index);
    }
    let Ok(index) = Index::parse(HashKind::Sha1, index.into()) else {
        return;
    };
    let ids: Vec<_> = index.ids().collect();
    for (position, id) in ids.iter().enumerate() {
        assert_eq!(index.find(*id), Some(position), "an id is where it is");
        assert_eq!(index.id(position), *id, "an id is where it is");
        let _ = (index.offset(position), index.crc(position));
    }
    assert_eq!(index.find(ObjectId::null(HashKind::Sha256)), None);
    let Ok(mut reader) = Pack::new(index, pack.len() as u64, LIMITS) else {
        return;
    };
    for id in ids.into_iter().take(64) {
        let _ = reader.entry_range(id);
        if let Ok(Some((kind, content))) = block_on(reader.read(&pack, id)) {
            assert_eq!(
                id_of(HashKind::Sha1, kind, &content).ok(),
                Some(id),
                "what is read has its id"
            );
        }
    }
}

/// A delta on any base.
pub fn delta(bytes: &[u8]) {
    let mut choices = ByteSource::new(bytes);
    let length = usize::from(choices.byte()) << 8 | usize::from(choices.byte());
    let base = choices.take(length);
    let mut made = 0;
    if let Ok(size) = apply_delta(base, choices.rest(), |piece| made += piece.len() as u64) {
        assert_eq!(size, made, "the result has the stated size");
    }
}
