//! The text files by which stock git clones over plain HTTP (`git update-server-info`):
//! `info/refs`, `objects/info/packs` and `HEAD`.

use std::collections::BTreeMap;

use bstr::{BString, ByteSlice};

use crate::error::Result;
use crate::git::{ObjectId, check_ref_name, corrupt, escaped_excerpt, parse_id, split_id};

/// Where a ref points, and for an annotated tag the object that it names in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefTarget {
    /// The object that the ref names.
    pub id: ObjectId,
    /// What an annotated tag peels to.
    pub peeled: Option<ObjectId>,
}

/// Refs by full name, in the order of their bytes. `HEAD` is not among them.
pub type Refs = BTreeMap<BString, RefTarget>;

/// Writes `info/refs`.
pub fn write_info_refs(refs: &Refs) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, target) in refs {
        out.extend_from_slice(format!("{}\t", target.id).as_bytes());
        out.extend_from_slice(name);
        out.push(b'\n');
        if let Some(peeled) = target.peeled {
            out.extend_from_slice(format!("{peeled}\t").as_bytes());
            out.extend_from_slice(name);
            out.extend_from_slice(b"^{}\n");
        }
    }
    out
}

/// Reads `info/refs`.
pub fn parse_info_refs(bytes: &[u8]) -> Result<Refs> {
    let mut refs = Refs::new();
    for line in bytes.lines() {
        let (id, name) = split_id(line, b'\t')?;
        if let Some(tag) = name.strip_suffix(b"^{}") {
            let target = refs
                .get_mut(tag.as_bstr())
                .filter(|target| target.peeled.is_none())
                .ok_or_else(|| corrupt(format!("`{}` peels nothing", escaped_excerpt(name))))?;
            target.peeled = Some(id);
            continue;
        }
        let name = check_ref_name(name.as_bstr())?;
        let target = RefTarget { id, peeled: None };
        if refs.insert(name, target).is_some() {
            return Err(corrupt(format!(
                "`info/refs` has `{}` twice",
                escaped_excerpt(line)
            )));
        }
    }
    if refs.values().any(|target| {
        let hash = target.id.kind();
        refs.values()
            .next()
            .is_some_and(|first| first.id.kind() != hash)
            || target.peeled.is_some_and(|peeled| peeled.kind() != hash)
    }) {
        return Err(corrupt("`info/refs` mixes two hash functions"));
    }
    Ok(refs)
}

/// The name of a pack file: `pack-<id>.pack`.
pub fn pack_name(id: ObjectId) -> String {
    format!("pack-{id}.pack")
}

/// The name of a pack's index: `pack-<id>.idx`.
pub fn index_name(id: ObjectId) -> String {
    format!("pack-{id}.idx")
}

/// Writes `objects/info/packs`, in the order given.
pub fn write_info_packs(packs: &[ObjectId]) -> Vec<u8> {
    let mut out = String::new();
    for id in packs {
        out.push_str("P ");
        out.push_str(&pack_name(*id));
        out.push('\n');
    }
    out.push('\n');
    out.into_bytes()
}

/// Reads `objects/info/packs`. As git does, lines of other kinds are passed over.
pub fn parse_info_packs(bytes: &[u8]) -> Result<Vec<ObjectId>> {
    let mut packs = Vec::new();
    for line in bytes.lines() {
        let Some(name) = line.strip_prefix(b"P ") else {
            continue;
        };
        let hex = name
            .strip_prefix(b"pack-")
            .and_then(|name| name.strip_suffix(b".pack"))
            .ok_or_else(|| corrupt(format!("`{}` is no name of a pack", escaped_excerpt(name))))?;
        packs.push(parse_id(hex)?);
    }
    Ok(packs)
}

/// What `HEAD` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// The ref that it stands for, whether or not that exists.
    Symbolic(BString),
    /// The commit itself.
    Detached(ObjectId),
}

/// Writes `HEAD`.
pub fn write_head(head: &Head) -> Vec<u8> {
    match head {
        Head::Symbolic(name) => [b"ref: ".as_slice(), name, b"\n"].concat(),
        Head::Detached(id) => format!("{id}\n").into_bytes(),
    }
}

/// Reads `HEAD`, with or without its final newline.
pub fn parse_head(bytes: &[u8]) -> Result<Head> {
    let line = bytes.trim_end();
    match line.strip_prefix(b"ref:") {
        Some(name) => Ok(Head::Symbolic(check_ref_name(name.trim().as_bstr())?)),
        None => Ok(Head::Detached(parse_id(line)?)),
    }
}
