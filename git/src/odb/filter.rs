//! Filters of objects, as of partial clones (`git rev-list --filter`).

use bstr::ByteSlice as _;
use percent_encoding::percent_decode;

use crate::error::{Error, ErrorKind, Result};
use crate::escaped_excerpt;
use crate::object::ObjectKind;

/// The deepest nesting of `combine:` filters.
const MAX_NESTING: usize = 8;

/// Characters that git wants to be escaped in a filter of a combination.
const RESERVED: &[u8] = b"~`!@#$^&*()[]{}\\;'\",<>?";

/// A filter that omits objects of a history. Objects that a client asks for by id are never
/// omitted.
///
/// Memory while objects are chosen: with a limit of the depth, 40 bytes for each tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ObjectFilter {
    // Blobs of this size in bytes and larger ones are omitted.
    blob_limit: Option<u64>,
    // Trees and blobs of this depth and deeper ones are omitted; a root tree has depth 0.
    tree_depth: Option<u64>,
    kinds: Kinds,
}

/// The types of objects that a filter shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kinds {
    #[default]
    All,
    Only(ObjectKind),
    None,
}

impl ObjectFilter {
    /// Parses a filter as git writes it: `blob:none`, `blob:limit=<n>[kmg]`, `tree:<depth>`,
    /// `object:type=<type>`, and `combine:<filter>+<filter>`.
    ///
    /// # Errors
    /// `Config`, in git's words, for filters that are not valid or not supported
    /// (`sparse:oid`).
    pub fn parse(spec: &[u8]) -> Result<Self> {
        Self::parse_nested(spec, 0)
    }

    fn parse_nested(spec: &[u8], nesting: usize) -> Result<Self> {
        let invalid = || refused(format!("invalid filter-spec '{}'", escaped_excerpt(spec)));
        let all = Self::default();
        if spec == b"blob:none" {
            return Ok(Self {
                blob_limit: Some(0),
                ..all
            });
        }
        if let Some(limit) = spec.strip_prefix(b"blob:limit=") {
            return Ok(Self {
                blob_limit: Some(parse_size(limit).ok_or_else(invalid)?),
                ..all
            });
        }
        if let Some(depth) = spec.strip_prefix(b"tree:") {
            let depth = parse_size(depth).ok_or_else(|| refused("expected 'tree:<depth>'"))?;
            return Ok(Self {
                tree_depth: Some(depth),
                ..all
            });
        }
        if let Some(kind) = spec.strip_prefix(b"object:type=") {
            let known = ObjectKind::from_name(kind).ok_or_else(|| {
                let shown = escaped_excerpt(kind);
                refused(format!(
                    "'{shown}' for 'object:type=<type>' is not a valid object type"
                ))
            })?;
            return Ok(Self {
                kinds: Kinds::Only(known),
                ..all
            });
        }
        if spec.starts_with(b"sparse:") {
            return Err(refused("filter 'sparse:oid' not supported"));
        }
        let parts = spec.strip_prefix(b"combine:").ok_or_else(invalid)?;
        if parts.is_empty() {
            return Err(refused("expected something after combine:"));
        }
        if nesting == MAX_NESTING {
            return Err(refused(format!(
                "filters are combined more than {MAX_NESTING} times"
            )));
        }
        let mut combined = all;
        for part in parts.split(|byte| *byte == b'+') {
            if part.is_empty() {
                continue;
            }
            if let Some(reserved) = part
                .iter()
                .find(|byte| **byte <= b' ' || RESERVED.contains(byte))
            {
                let shown = escaped_excerpt(&[*reserved]);
                return Err(refused(format!(
                    "must escape char in sub-filter-spec: '{shown}'"
                )));
            }
            let decoded: Vec<u8> = percent_decode(part).collect();
            combined = combined.and(Self::parse_nested(&decoded, nesting + 1)?);
        }
        Ok(combined)
    }

    /// Returns the filter that shows the objects that both filters show.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let least = |left: Option<u64>, right: Option<u64>| match (left, right) {
            (Some(left), Some(right)) => Some(left.min(right)),
            (one, None) | (None, one) => one,
        };
        Self {
            blob_limit: least(self.blob_limit, other.blob_limit),
            tree_depth: least(self.tree_depth, other.tree_depth),
            kinds: match (self.kinds, other.kinds) {
                (Kinds::All, kinds) | (kinds, Kinds::All) => kinds,
                (left, right) if left == right => left,
                _ => Kinds::None,
            },
        }
    }

    /// Returns whether objects of type `kind` may be shown.
    pub(super) fn shows(&self, kind: ObjectKind) -> bool {
        match self.kinds {
            Kinds::All => true,
            Kinds::Only(only) => only == kind,
            Kinds::None => false,
        }
    }

    /// Returns whether all trees and blobs of a history are omitted.
    pub(super) fn omits_all_trees(&self) -> bool {
        self.tree_depth == Some(0)
            || !(self.shows(ObjectKind::Tree) || self.shows(ObjectKind::Blob))
    }

    /// Returns whether trees and blobs of `depth` are omitted.
    pub(super) fn omits_depth(&self, depth: u64) -> bool {
        self.tree_depth.is_some_and(|omitted| depth >= omitted)
    }

    /// Returns whether the same tree may be shown at one depth and omitted at another one.
    pub(super) fn depends_on_depth(&self) -> bool {
        self.tree_depth.is_some()
    }

    /// Returns whether no blob is shown, whatever its size.
    pub(super) fn omits_all_blobs(&self) -> bool {
        self.blob_limit == Some(0) || !self.shows(ObjectKind::Blob)
    }

    /// Returns the size in bytes from which on blobs are omitted.
    pub(super) fn blob_limit(&self) -> Option<u64> {
        self.blob_limit
    }
}

/// Parses a number with an optional unit of `k`, `m` or `g`.
fn parse_size(text: &[u8]) -> Option<u64> {
    let text = text.to_str().ok()?;
    let digits = text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
    let shift = match text.len() - digits.len() {
        0 => 0,
        1 => match text.as_bytes().last()?.to_ascii_lowercase() {
            b'k' => 10,
            b'm' => 20,
            _ => 30,
        },
        _ => return None,
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(spec: &str) -> ObjectFilter {
        ObjectFilter::parse(spec.as_bytes()).unwrap()
    }

    #[test]
    fn a_combination_shows_the_objects_that_all_its_filters_show() {
        let both = filter("combine:blob:limit=2k+tree:3+blob:limit=1m");
        assert_eq!(both, filter("blob:limit=2048").and(filter("tree:3")));
        let nested = filter("combine:combine%3Atree%3A3%2Bblob%3Anone");
        assert_eq!(nested, filter("tree:3").and(filter("blob:none")));
        let nothing = filter("combine:object:type=tree+object:type=blob");
        assert!(nothing.omits_all_trees());
    }

    #[test]
    fn filters_that_git_refuses_are_refused() {
        for spec in [
            "",
            "blob",
            "blob:limit=",
            "blob:limit=-1",
            "blob:limit=1kk",
            "blob:limit=99999999999999999999",
            "blob:limit=99999999999g",
            "tree:x",
            "object:type=file",
            "sparse:oid=main:x",
            "combine:",
            "combine:tree:1+blob",
            "combine:tree:1~",
        ] {
            let kind = ObjectFilter::parse(spec.as_bytes()).unwrap_err().kind();
            assert_eq!(kind, ErrorKind::Config, "{spec}");
        }
        let deep = "combine:".repeat(8000) + "tree:1";
        assert!(
            ObjectFilter::parse(deep.as_bytes()).is_err(),
            "recursion is bounded"
        );
    }
}
