//! The record of a mirror's LFS objects, which is stored alongside them at the target.
//!
//! A line of text for each fact:
//!
//! ```text
//! branchline-lfs 1
//! unscanned <commit id> ..
//! verified <oid>
//! stored <oid> <size>
//! missing <oid> <size>
//! ```
//!
//! `unscanned` says that refs were mirrored without LFS objects: the pointers in their history are
//! unknown, except for those reachable from the named commits. `verified` is the last object
//! that an unfinished verification has read.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use bytes::Bytes;

use super::Pointer;
use super::pointer::parse_oid;
use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::git::ObjectId;

/// First line of a record.
const FIRST_LINE: &str = "branchline-lfs 1";
/// Maximum size of a record that is read, in bytes.
const MAX_RECORD_BYTES: usize = 64 << 20;
/// Maximum number of stored objects in a record; further ones are not checked by later runs.
const MAX_STORED: usize = 500_000;
/// Maximum number of commits that limit the unscanned history.
const MAX_SCANNED_TIPS: usize = 1000;

/// The LFS objects of a mirror that are known at its target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LfsRecord {
    /// Objects that the target had when they were last checked.
    pub(super) stored: BTreeSet<Pointer>,
    /// Objects that the target lacks.
    pub(super) missing: BTreeSet<Pointer>,
    /// Refs were mirrored without their objects: history from here on was not scanned for
    /// pointers, except for what these commits reach. `None` if all was scanned.
    pub(super) unscanned: Option<Vec<ObjectId>>,
    /// Id of the last object that an unfinished verification has read.
    pub(super) verified: Option<String>,
}

impl LfsRecord {
    /// Parses a record.
    ///
    /// # Errors
    /// `Config` for a record of a later version, `Corrupt` for another text.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let invalid = |line: &str| {
            let line = crate::git::escaped_excerpt(line.as_bytes());
            corrupt(format!("`{line}` is not a line of a record"))
        };
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(corrupt(format!(
                "a record of LFS objects has more than {MAX_RECORD_BYTES} bytes"
            )));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|_| corrupt("a record of LFS objects is not text"))?;
        let mut lines = text.lines();
        match lines.next() {
            Some(FIRST_LINE) => {}
            Some(line) if line.starts_with("branchline-lfs ") => {
                let message = "a later version of branchline wrote the record of LFS objects";
                return Err(Error::new(ErrorKind::Config, message).with_hint("update branchline"));
            }
            _ => return Err(corrupt("a record of LFS objects has no header")),
        }
        let mut record = Self::default();
        for line in lines {
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            match kind {
                "stored" => {
                    let pointer = pointer(rest).ok_or_else(|| invalid(line))?;
                    record.stored.insert(pointer);
                }
                "missing" => {
                    let pointer = pointer(rest).ok_or_else(|| invalid(line))?;
                    record.missing.insert(pointer);
                }
                "verified" => {
                    let oid = parse_oid(rest.as_bytes()).ok_or_else(|| invalid(line))?;
                    record.verified = Some(oid.to_owned());
                }
                "unscanned" => {
                    let ids = rest.split_ascii_whitespace();
                    let ids = ids.map(|id| ObjectId::from_hex(id.as_bytes()).ok());
                    let ids = ids.collect::<Option<Vec<_>>>();
                    record.unscanned = Some(ids.ok_or_else(|| invalid(line))?);
                }
                _ => return Err(invalid(line)),
            }
        }
        record.stored = &record.stored - &record.missing;
        Ok(record)
    }

    /// Formats the record.
    pub fn to_bytes(&self) -> Bytes {
        let mut text = format!("{FIRST_LINE}\n");
        if let Some(ids) = &self.unscanned {
            text.push_str("unscanned");
            for id in ids.iter().take(MAX_SCANNED_TIPS) {
                let _ = write!(text, " {id}");
            }
            text.push('\n');
        }
        if let Some(oid) = &self.verified {
            let _ = writeln!(text, "verified {oid}");
        }
        let stored = self.stored.iter().take(MAX_STORED);
        let stored = stored.map(|pointer| ("stored", pointer));
        let missing = self.missing.iter().map(|pointer| ("missing", pointer));
        for (kind, Pointer { oid, size_bytes }) in stored.chain(missing) {
            let _ = writeln!(text, "{kind} {oid} {size_bytes}");
        }
        text.into()
    }

    /// Records that the target has an object.
    pub(super) fn set_stored(&mut self, pointer: Pointer) {
        self.missing.remove(&pointer);
        self.stored.insert(pointer);
    }

    /// Records that the target lacks an object.
    pub(super) fn set_missing(&mut self, pointer: Pointer) {
        self.stored.remove(&pointer);
        self.missing.insert(pointer);
    }

    /// Records that refs move without their objects; `scanned` are the tips before.
    pub(super) fn set_unscanned(&mut self, scanned: &[ObjectId]) {
        self.unscanned
            .get_or_insert_with(|| scanned.iter().take(MAX_SCANNED_TIPS).copied().collect());
    }
}

fn pointer(text: &str) -> Option<Pointer> {
    let (oid, size) = text.split_once(' ')?;
    Some(Pointer {
        oid: parse_oid(oid.as_bytes())?.to_owned(),
        size_bytes: size.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(digit: char, size_bytes: u64) -> Pointer {
        Pointer {
            oid: digit.to_string().repeat(64),
            size_bytes,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let id = ObjectId::from_hex("1".repeat(40).as_bytes()).unwrap();
        let mut record = LfsRecord::default();
        assert_eq!(LfsRecord::parse(&record.to_bytes()).unwrap(), record);
        record.set_stored(pointer('a', 1));
        record.set_missing(pointer('b', 2));
        record.set_missing(pointer('a', 1));
        record.set_stored(pointer('c', u64::MAX));
        record.verified = Some("a".repeat(64));
        for tips in [vec![], vec![id]] {
            record.unscanned = Some(tips);
            assert_eq!(LfsRecord::parse(&record.to_bytes()).unwrap(), record);
        }
        record.set_unscanned(&[]);
        assert_eq!(
            record.unscanned,
            Some(vec![id]),
            "the first run without objects decides"
        );
    }

    #[test]
    fn a_foreign_text_is_not_a_record() {
        let oid = "a".repeat(64);
        for text in [
            "",
            "hello",
            "branchline-lfs 1\nstored x 1\n",
            "branchline-lfs 1\nstored\n",
            &format!("branchline-lfs 1\nstored {oid} -1\n"),
            &format!("branchline-lfs 1\nverified {}\n", oid.to_ascii_uppercase()),
            "branchline-lfs 1\nunscanned x\n",
            "branchline-lfs 1\nmore\n",
        ] {
            let error = LfsRecord::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{text}");
        }
        let error = LfsRecord::parse(b"branchline-lfs 2\n").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{}", error.report());
        assert!(error.hint().is_some());
    }
}
