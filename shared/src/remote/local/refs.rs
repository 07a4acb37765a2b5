//! Reading refs: loose ones, one file each, and `packed-refs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bstr::{BString, ByteSlice as _};

use super::durable_fs::io_error;
use super::files::{is_not_found, read_file};
use crate::error::{Result, corrupt};
use crate::git::dumb_http::parse_head;
use crate::git::{HashKind, check_ref_name, escaped_excerpt, split_id};
use crate::os::{FileStamp, file_stamp};
use crate::remote::{Head, RefValue, Refs};

/// Maximum length of a chain of symbolic refs, as in git.
const MAX_SYMREF_DEPTH: usize = 5;

/// All refs of a repository.
pub(super) struct ReadRefs {
    /// Refs that resolve to an object, symbolic ones included.
    pub(super) targets: Refs,
    /// Symbolic refs and the names that they hold.
    pub(super) symbolic: BTreeMap<BString, BString>,
}

/// Content of a loose ref.
pub(super) enum LooseRef {
    Absent,
    Symbolic(BString),
    Id(crate::git::ObjectId),
}

/// Reads a loose ref.
pub(super) fn loose(common: &Path, name: &BString, hash: HashKind) -> Result<LooseRef> {
    let path = common.join(name.to_path_lossy());
    let Some(text) = read_file(&path)? else {
        return Ok(LooseRef::Absent);
    };
    let broken = |error: crate::git::Error| error.context(format!("ref `{name}`"));
    match parse_head(&text).map_err(broken)? {
        Head::Symbolic(to) => Ok(LooseRef::Symbolic(to)),
        Head::Detached(id) if id.kind() == hash => Ok(LooseRef::Id(id)),
        Head::Detached(_) => Err(corrupt(format!(
            "ref `{name}` has an id of another hash function"
        ))),
    }
}

/// Reads all refs, loose ones before packed ones.
pub(super) fn read(common: &Path, hash: HashKind) -> Result<ReadRefs> {
    // Loose refs first, because one that git packs meanwhile is then found in `packed-refs`.
    let mut names = Vec::new();
    list(common, &BString::from("refs"), &mut names)?;
    let mut targets = Refs::new();
    let mut symbolic = BTreeMap::new();
    for name in names {
        match loose(common, &name, hash)? {
            LooseRef::Absent => {}
            LooseRef::Symbolic(to) => {
                symbolic.insert(name, to);
            }
            LooseRef::Id(id) => {
                targets.insert(name, RefValue { id, peeled: None });
            }
        }
    }
    for (name, packed) in packed(common, hash)? {
        match targets.get_mut(&name) {
            Some(target) if target.id == packed.id => target.peeled = packed.peeled,
            Some(_) => {}
            None if symbolic.contains_key(&name) => {}
            None => {
                targets.insert(name, packed);
            }
        }
    }
    let found: Vec<_> = symbolic
        .keys()
        .filter_map(|name| {
            let mut to = symbolic.get(name)?;
            for _ in 0..MAX_SYMREF_DEPTH {
                match symbolic.get(to) {
                    Some(next) => to = next,
                    None => return Some((name.clone(), *targets.get(to)?)),
                }
            }
            None
        })
        .collect();
    targets.extend(found);
    Ok(ReadRefs { targets, symbolic })
}

/// Collects the names of the loose refs below a directory.
fn list(common: &Path, directory: &BString, names: &mut Vec<BString>) -> Result<()> {
    let path = common.join(directory.to_path_lossy());
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        // Removed meanwhile.
        Err(error) if is_not_found(&error) => return Ok(()),
        Err(error) => return Err(io_error("listing", &path, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| io_error("listing", &path, error))?;
        let file_name = entry.file_name();
        // On systems whose names are text, one that is not is none of git's.
        let Some(last) = <[u8]>::from_os_str(&file_name) else {
            continue;
        };
        let mut name = directory.clone();
        name.push(b'/');
        name.extend_from_slice(last);
        if entry.path().is_dir() {
            list(common, &name, names)?;
        } else if check_ref_name(name.as_ref()).is_ok() {
            // Git ignores illegal names too; most are lock files.
            names.push(name);
        }
    }
    Ok(())
}

/// Reads `packed-refs`.
pub(super) fn packed(common: &Path, hash: HashKind) -> Result<Refs> {
    let text = read_file(&common.join("packed-refs"))?.unwrap_or_default();
    let mut refs = Refs::new();
    let mut last: Option<BString> = None;
    for line in text.lines() {
        if line.starts_with(b"#") || line.is_empty() {
            continue;
        }
        let broken =
            |what: &str| corrupt(format!("`packed-refs`: `{}` {what}", escaped_excerpt(line)));
        if let Some(hex) = line.strip_prefix(b"^") {
            let target = last.take().and_then(|name| refs.get_mut(&name));
            let target: &mut RefValue = target.ok_or_else(|| broken("does not follow a ref"))?;
            target.peeled = Some(crate::git::parse_id(hex)?);
            continue;
        }
        let (id, name) = split_id(line, b' ')?;
        if id.kind() != hash {
            return Err(broken("has an id of another hash function"));
        }
        // Illegal names are skipped, as in git.
        last = check_ref_name(name.as_bstr()).ok();
        if let Some(name) = &last {
            refs.insert(name.clone(), RefValue { id, peeled: None });
        }
    }
    Ok(refs)
}

/// Cached `packed-refs`, read again when the file has changed.
#[derive(Default)]
pub(super) struct PackedRefs {
    refs: Refs,
    stamp: Option<FileStamp>,
}

impl PackedRefs {
    /// Returns the current packed refs.
    pub(super) fn current(&mut self, common: &Path, hash: HashKind) -> Result<&Refs> {
        let found = fs::metadata(common.join("packed-refs"));
        let stamp = found.ok().map(|found| file_stamp(&found));
        if self.stamp != stamp {
            self.refs = packed(common, hash)?;
            self.stamp = stamp;
        }
        Ok(&self.refs)
    }
}

/// Reads `HEAD`; `None` if missing.
pub(super) fn head(git: &Path) -> Result<Option<Head>> {
    match read_file(&git.join("HEAD"))? {
        Some(text) => Ok(Some(parse_head(&text)?)),
        None => Ok(None),
    }
}
