//! Requests for packs: the arguments of `fetch` in version 2, and wants in versions 0 and 1.

use std::collections::{BTreeSet, HashSet};

use bstr::BString;

use super::connection::SideBand;
use crate::error::{Error, ErrorKind, Result};
use crate::odb::ObjectFilter;
use crate::{HashKind, ObjectId, corrupt, escaped_excerpt};

/// The depth that clients send for whole histories (`--unshallow`).
const INFINITE_DEPTH: u32 = 0x7fff_ffff;

/// The depth of a shallow history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Commits of a distance from the wants that is less than this number.
    Commits(u32),
    /// All commits.
    Infinite,
}

/// Acknowledgment of common commits in versions 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum MultiAck {
    #[default]
    No,
    Continue,
    Detailed,
}

/// A request for a pack.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an argument of the protocol"
)]
pub(super) struct Needs {
    hash: HashKind,
    /// Objects that the client asks for, each once.
    pub(super) wants: Vec<ObjectId>,
    wanted: HashSet<ObjectId>,
    /// Refs that the client asks for by name.
    pub(super) want_refs: BTreeSet<BString>,
    /// Objects that the client has.
    pub(super) haves: Vec<ObjectId>,
    /// Commits that the client has without their parents.
    pub(super) shallow: Vec<ObjectId>,
    pub(super) depth: Option<Depth>,
    /// The depth counts from the boundary of the client's history.
    pub(super) deepen_relative: bool,
    /// Seconds since 1970.
    pub(super) deepen_since: Option<i64>,
    /// Refs whose commits the client does not want.
    pub(super) deepen_not: Vec<BString>,
    pub(super) filter: Option<ObjectFilter>,
    pub(super) thin_pack: bool,
    pub(super) offset_deltas: bool,
    pub(super) include_tag: bool,
    pub(super) no_progress: bool,
    pub(super) done: bool,
    pub(super) wait_for_done: bool,
    pub(super) sideband_all: bool,
    /// Of versions 0 and 1.
    pub(super) multi_ack: MultiAck,
    pub(super) side_band: SideBand,
    allows_filter: bool,
}

impl Needs {
    /// Creates an empty request with ids of `hash`.
    pub(super) fn new(hash: HashKind) -> Self {
        Self {
            hash,
            wants: Vec::new(),
            wanted: HashSet::new(),
            want_refs: BTreeSet::new(),
            haves: Vec::new(),
            shallow: Vec::new(),
            depth: None,
            deepen_relative: false,
            deepen_since: None,
            deepen_not: Vec::new(),
            filter: None,
            thin_pack: false,
            offset_deltas: false,
            include_tag: false,
            no_progress: false,
            done: false,
            wait_for_done: false,
            sideband_all: false,
            multi_ack: MultiAck::No,
            side_band: SideBand::None,
            allows_filter: false,
        }
    }

    /// Parses an argument of `fetch` in version 2.
    pub(super) fn add_argument(&mut self, line: &[u8]) -> Result<()> {
        self.allows_filter = true;
        match line {
            b"thin-pack" => self.thin_pack = true,
            b"ofs-delta" => self.offset_deltas = true,
            b"no-progress" => self.no_progress = true,
            b"include-tag" => self.include_tag = true,
            b"done" => self.done = true,
            b"wait-for-done" => self.wait_for_done = true,
            b"deepen-relative" => self.deepen_relative = true,
            b"sideband-all" => self.sideband_all = true,
            _ => {
                if let Some(id) = line.strip_prefix(b"want ") {
                    let id = self.id(id)?;
                    self.want(id);
                } else if let Some(name) = line.strip_prefix(b"want-ref ") {
                    if !self.want_refs.insert(name.into()) {
                        let shown = escaped_excerpt(name);
                        return Err(refused(format!("duplicate want-ref {shown}")));
                    }
                } else if let Some(id) = line.strip_prefix(b"have ") {
                    self.haves.push(self.id(id)?);
                } else if !self.add_boundary(line)? {
                    return Err(unexpected(line));
                }
            }
        }
        Ok(())
    }

    /// Parses a line of the first part of a request in version 0 or 1.
    pub(super) fn add_line(&mut self, line: &[u8]) -> Result<()> {
        let Some(want) = line.strip_prefix(b"want ") else {
            return match self.add_boundary(line)? {
                true => Ok(()),
                false => Err(unexpected(line)),
            };
        };
        let digits = self.hash.len_in_hex().min(want.len());
        let (id, features) = want.split_at(digits);
        let id = self.id(id)?;
        for feature in features.split(|byte| *byte == b' ') {
            self.add_feature(feature);
        }
        self.want(id);
        Ok(())
    }

    /// Applies a capability that the client has chosen; unknown ones are ignored, as by git.
    fn add_feature(&mut self, feature: &[u8]) {
        match feature {
            b"deepen-relative" => self.deepen_relative = true,
            b"multi_ack_detailed" => self.multi_ack = MultiAck::Detailed,
            b"multi_ack" if self.multi_ack == MultiAck::No => self.multi_ack = MultiAck::Continue,
            b"thin-pack" => self.thin_pack = true,
            b"ofs-delta" => self.offset_deltas = true,
            b"side-band-64k" => self.side_band = SideBand::Large,
            b"side-band" if self.side_band == SideBand::None => self.side_band = SideBand::Small,
            b"no-progress" => self.no_progress = true,
            b"include-tag" => self.include_tag = true,
            b"filter" => self.allows_filter = true,
            _ => {}
        }
    }

    /// Parses a line about shallow histories or a filter; returns `false` for other lines.
    fn add_boundary(&mut self, line: &[u8]) -> Result<bool> {
        let invalid = |what: &str| refused(format!("{what}: {}", escaped_excerpt(line)));
        if let Some(id) = line.strip_prefix(b"shallow ") {
            self.shallow.push(self.id(id)?);
        } else if let Some(depth) = line.strip_prefix(b"deepen ") {
            let depth = number(depth).and_then(|depth| u32::try_from(depth).ok());
            self.depth = Some(match depth {
                Some(INFINITE_DEPTH) => Depth::Infinite,
                Some(depth @ 1..INFINITE_DEPTH) => Depth::Commits(depth),
                _ => return Err(invalid("Invalid deepen")),
            });
        } else if let Some(time) = line.strip_prefix(b"deepen-since ") {
            let time = number(time).and_then(|time| i64::try_from(time).ok());
            self.deepen_since = Some(time.ok_or_else(|| invalid("Invalid deepen-since"))?);
        } else if let Some(name) = line.strip_prefix(b"deepen-not ") {
            self.deepen_not.push(name.into());
        } else if let Some(spec) = line.strip_prefix(b"filter ") {
            if !self.allows_filter {
                return Err(refused("filtering capability not negotiated"));
            }
            if self.filter.is_some() {
                return Err(refused("multiple filter-specs cannot be combined"));
            }
            self.filter = Some(ObjectFilter::parse(spec)?);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Adds a want.
    pub(super) fn want(&mut self, id: ObjectId) {
        if self.wanted.insert(id) {
            self.wants.push(id);
        }
    }

    /// Parses an id of the repository's hash function.
    pub(super) fn id(&self, hex: &[u8]) -> Result<ObjectId> {
        let id = ObjectId::from_hex(hex).ok();
        id.filter(|id| id.kind() == self.hash).ok_or_else(|| {
            let shown = escaped_excerpt(hex);
            corrupt(format!(
                "expected an object id of {}, found '{shown}'",
                self.hash
            ))
        })
    }

    /// Returns whether the request is about a shallow history.
    pub(super) fn is_shallow(&self) -> bool {
        self.depth.is_some() || self.deepens_by_commits() || !self.shallow.is_empty()
    }

    /// Returns whether commits bound the wanted history, by their time or as excluded ones.
    pub(super) fn deepens_by_commits(&self) -> bool {
        self.deepen_since.is_some() || !self.deepen_not.is_empty()
    }

    /// Checks arguments that exclude each other.
    pub(super) fn check(&self) -> Result<()> {
        if self.depth.is_some() && self.deepens_by_commits() {
            return Err(refused(
                "deepen and deepen-since (or deepen-not) cannot be used together",
            ));
        }
        Ok(())
    }
}

/// Parses a decimal number.
fn number(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok()?;
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

/// Returns the error for a request that the server refuses.
pub(super) fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message)
}

fn unexpected(line: &[u8]) -> Error {
    corrupt(format!("unexpected line: '{}'", escaped_excerpt(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(lines: &[&str]) -> Result<Needs> {
        let mut needs = Needs::new(HashKind::Sha1);
        for line in lines {
            needs.add_argument(line.as_bytes())?;
        }
        needs.check().map(|()| needs)
    }

    #[test]
    fn a_want_is_kept_once() {
        let want = format!("want {}", "1".repeat(40));
        let needs = needs(&[&want, &want, "done"]).unwrap();
        assert_eq!(needs.wants.len(), 1);
        assert!(needs.done);
    }

    #[test]
    fn lines_that_git_refuses_are_refused() {
        let long = format!("want {}", "1".repeat(64));
        for lines in [
            &["want x"][..],
            &["want 11"],
            &[&long],
            &["deepen 0"],
            &["deepen -1"],
            &["deepen 4294967296"],
            &["deepen-since x"],
            &["deepen 1", "deepen-since 1"],
            &["deepen 1", "deepen-not main"],
            &["filter nothing"],
            &["filter tree:0", "filter tree:1"],
            &["want-ref a", "want-ref a"],
            &["unknown"],
        ] {
            assert!(needs(lines).is_err(), "{lines:?}");
        }
        let mut needs = Needs::new(HashKind::Sha1);
        let error = needs.add_line(b"filter blob:none").unwrap_err();
        assert_eq!(error.to_string(), "filtering capability not negotiated");
    }

    #[test]
    fn the_features_of_a_want_are_applied() {
        let mut needs = Needs::new(HashKind::Sha1);
        let want = format!(
            "want {} multi_ack_detailed side-band-64k filter",
            "1".repeat(40)
        );
        needs.add_line(want.as_bytes()).unwrap();
        needs.add_line(b"filter tree:0").unwrap();
        assert_eq!(needs.multi_ack, MultiAck::Detailed);
        assert_eq!(needs.side_band, SideBand::Large);
    }
}
