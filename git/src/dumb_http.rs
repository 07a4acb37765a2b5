//! The text files by which stock git clones over plain HTTP (`git update-server-info`):
//! `info/refs`, `objects/info/packs` and `HEAD`.

use bstr::ByteSlice;

use crate::error::{Result, corrupt};
use crate::refs::{Head, IgnoredRefs, RefValue, Refs};
use crate::{ObjectId, check_ref_name, escaped_excerpt, parse_id, split_id};

/// Encodes `info/refs`.
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

/// Parses `info/refs`, without refs whose names git does not allow.
///
/// # Errors
/// As [`parse_info_refs_and_ignored`].
pub fn parse_info_refs(bytes: &[u8]) -> Result<Refs> {
    parse_info_refs_and_ignored(bytes).map(|(refs, _)| refs)
}

/// Parses `info/refs`; refs whose names git does not allow are returned apart.
///
/// # Errors
/// `Corrupt` for a malformed line, a ref that occurs twice, and ids of two hash functions.
pub fn parse_info_refs_and_ignored(bytes: &[u8]) -> Result<(Refs, IgnoredRefs)> {
    let mut refs = Refs::new();
    let mut ignored = IgnoredRefs::default();
    for line in bytes.lines() {
        let (id, name) = split_id(line, b'\t')?;
        if let Some(tag) = name.strip_suffix(b"^{}") {
            if check_ref_name(tag.as_bstr()).is_err() {
                // It follows the line of an ignored ref.
                continue;
            }
            let target = refs
                .get_mut(tag.as_bstr())
                .filter(|target| target.peeled.is_none())
                .ok_or_else(|| {
                    corrupt(format!(
                        "`{}` does not follow the line of its tag",
                        escaped_excerpt(name)
                    ))
                })?;
            target.peeled = Some(id);
            continue;
        }
        let Ok(name) = check_ref_name(name.as_bstr()) else {
            ignored.add(name);
            continue;
        };
        let target = RefValue { id, peeled: None };
        if refs.insert(name, target).is_some() {
            return Err(corrupt(format!(
                "`info/refs` contains a ref twice: `{}`",
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
        return Err(corrupt("`info/refs` contains ids of two hash functions"));
    }
    Ok((refs, ignored))
}

/// Returns the file name of a pack: `pack-<id>.pack`.
pub fn pack_name(id: ObjectId) -> String {
    format!("pack-{id}.pack")
}

/// Returns the file name of the index of a pack: `pack-<id>.idx`.
pub fn index_name(id: ObjectId) -> String {
    format!("pack-{id}.idx")
}

/// Parses `objects/info/packs`. Lines that do not start with `P ` are skipped, as git does.
///
/// # Errors
/// `Corrupt` for a line whose file name is not that of a pack.
pub fn parse_info_packs(bytes: &[u8]) -> Result<Vec<ObjectId>> {
    let mut packs = Vec::new();
    for line in bytes.lines() {
        let Some(name) = line.strip_prefix(b"P ") else {
            continue;
        };
        let hex = name
            .strip_prefix(b"pack-")
            .and_then(|name| name.strip_suffix(b".pack"))
            .ok_or_else(|| {
                corrupt(format!(
                    "`{}` is not the file name of a pack",
                    escaped_excerpt(name)
                ))
            })?;
        packs.push(parse_id(hex)?);
    }
    Ok(packs)
}

/// Encodes `HEAD`.
pub fn write_head(head: &Head) -> Vec<u8> {
    match head {
        Head::Symbolic(name) => [b"ref: ".as_slice(), name, b"\n"].concat(),
        Head::Detached(id) => format!("{id}\n").into_bytes(),
    }
}

/// Parses `HEAD`, with or without its final newline.
///
/// # Errors
/// `Corrupt` for a value that is neither a ref name nor an id.
pub fn parse_head(bytes: &[u8]) -> Result<Head> {
    let line = bytes.trim_ascii_end();
    match line.strip_prefix(b"ref:") {
        Some(name) => Ok(Head::Symbolic(check_ref_name(name.trim_ascii().as_bstr())?)),
        None => Ok(Head::Detached(parse_id(line)?)),
    }
}
