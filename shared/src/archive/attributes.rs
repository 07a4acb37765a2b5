//! Attributes of a path from `.gitattributes`, as `git archive` reads them: from the tree
//! itself (git's `GIT_ATTR_INDEX` direction), never from a work tree or configuration.
//!
//! `gix-attributes` parses and matches. Git reads a file from a tree in another way than from
//! disk, so the bytes are changed before they are parsed: no byte order mark is skipped, the
//! first NUL ends the file, and lines of 2,048 bytes and more are ignored.

use std::path::PathBuf;
use std::sync::Arc;

use bstr::{BString, ByteSlice as _};
use gix_attributes::search::{MetadataCollection, Outcome};
use gix_attributes::{Search, StateRef};
use gix_glob::pattern::Case;

use crate::error::{Error, ErrorKind, Result};

/// Lines of this many bytes and more are ignored, as git does (`ATTR_MAX_LINE_LENGTH`).
const MAX_LINE_BYTES: usize = 2048;

/// The attributes that an archive depends on, in the order of [`AttributeMatch`]'s members.
const SELECTED: [&str; 8] = [
    "export-ignore",
    "export-subst",
    "text",
    "crlf",
    "eol",
    "ident",
    "working-tree-encoding",
    "filter",
];

/// State of an attribute for a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AttributeState {
    Unspecified,
    Set,
    Unset,
    Value(BString),
}

/// The attributes of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AttributeMatch {
    pub(super) export_ignore: bool,
    pub(super) export_subst: bool,
    pub(super) text: AttributeState,
    pub(super) crlf: AttributeState,
    pub(super) eol: AttributeState,
    pub(super) ident: bool,
    pub(super) encoding: AttributeState,
    pub(super) filter: AttributeState,
}

/// The rules of one folder's `.gitattributes`, over those of the folders above it.
#[derive(Debug)]
pub(super) struct Rules {
    above: Option<Arc<Rules>>,
    // Length of the folder's path in bytes, with the final slash.
    base_bytes: usize,
    search: Search,
}

/// All attribute names so far, and the state of a lookup.
pub(super) struct Attributes {
    collection: MetadataCollection,
    outcome: Outcome,
}

impl Attributes {
    /// Starts with git's built-in macro `binary`.
    pub(super) fn new() -> Result<(Self, Arc<Rules>)> {
        let mut collection = MetadataCollection::default();
        let search = Search::new_globals(
            std::iter::empty::<PathBuf>(),
            &mut Vec::new(),
            &mut collection,
        )
        .map_err(|error| {
            Error::new(ErrorKind::Internal, "the built-in attributes do not parse")
                .with_source(error)
        })?;
        let mut this = Self {
            collection,
            outcome: Outcome::default(),
        };
        this.reset_outcome();
        let rules = Rules {
            above: None,
            base_bytes: 0,
            search,
        };
        Ok((this, Arc::new(rules)))
    }

    /// Adds the `.gitattributes` of the folder at `folder` (empty for the root) to the
    /// rules `above`. Macros are defined only in that of a repository's root.
    pub(super) fn add(
        &mut self,
        above: &Arc<Rules>,
        folder: &str,
        is_root: bool,
        bytes: &[u8],
    ) -> Result<Arc<Rules>> {
        let mut search = Search::default();
        search
            .add_patterns_buffer(
                &strip_unsupported_lines(bytes),
                PathBuf::from(".gitattributes"),
                None,
                &mut self.collection,
                is_root,
            )
            .map_err(|error| {
                Error::new(
                    ErrorKind::Internal,
                    format!("`{folder}/.gitattributes` cannot be read"),
                )
                .with_source(error)
            })?;
        self.reset_outcome();
        Ok(Arc::new(Rules {
            above: Some(Arc::clone(above)),
            base_bytes: if folder.is_empty() {
                0
            } else {
                folder.len() + 1
            },
            search,
        }))
    }

    /// Returns the attributes of `path`. A submodule counts as a folder, as for git.
    pub(super) fn find(&mut self, rules: &Rules, path: &str, is_folder: bool) -> AttributeMatch {
        self.outcome.reset();
        let mut next = Some(rules);
        while let Some(rules) = next {
            let relative = path.as_bytes()[rules.base_bytes..].as_bstr();
            rules.search.pattern_matching_relative_path(
                relative,
                Case::Sensitive,
                Some(is_folder),
                &mut self.outcome,
            );
            if self.outcome.is_done() {
                break;
            }
            next = rules.above.as_deref();
        }
        let mut states = self
            .outcome
            .iter_selected()
            .map(|found| match found.assignment.state {
                StateRef::Unspecified => AttributeState::Unspecified,
                StateRef::Set => AttributeState::Set,
                StateRef::Unset => AttributeState::Unset,
                StateRef::Value(value) => AttributeState::Value(value.as_bstr().to_owned()),
            });
        let mut state = || states.next().unwrap_or(AttributeState::Unspecified);
        AttributeMatch {
            export_ignore: state() == AttributeState::Set,
            export_subst: state() == AttributeState::Set,
            text: state(),
            crlf: state(),
            eol: state(),
            ident: state() == AttributeState::Set,
            encoding: state(),
            filter: state(),
        }
    }

    /// Resets the match outcome after the collection has grown.
    fn reset_outcome(&mut self) {
        self.outcome = Outcome::default();
        self.outcome
            .initialize_with_selection(&self.collection, SELECTED);
    }
}

/// Removes from a `.gitattributes` what git ignores when reading it from a tree.
fn strip_unsupported_lines(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.find_byte(0).unwrap_or(bytes.len());
    // A byte order mark is not skipped after a line feed.
    let mut kept = Vec::with_capacity(end + 1);
    kept.push(b'\n');
    for line in bytes[..end].split(|&byte| byte == b'\n') {
        if line.len() < MAX_LINE_BYTES {
            kept.extend_from_slice(line);
        }
        kept.push(b'\n');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_rules_override_those_above_and_macros_are_defined_only_at_the_root() {
        let (mut attributes, built_in) = Attributes::new().unwrap();
        let root = attributes
            .add(
                &built_in,
                "",
                true,
                b"[attr]removed export-ignore\n*.c removed\n*.b binary\n",
            )
            .unwrap();
        let nested = attributes
            .add(
                &root,
                "sub",
                false,
                b"[attr]lost export-ignore\n/a.c -export-ignore\n*.d lost\n",
            )
            .unwrap();
        assert!(attributes.find(&root, "x/a.c", false).export_ignore);
        assert!(!attributes.find(&nested, "sub/a.c", false).export_ignore);
        assert!(attributes.find(&nested, "sub/x/a.c", false).export_ignore);
        assert!(!attributes.find(&nested, "sub/x.d", false).export_ignore);
        assert_eq!(
            attributes.find(&nested, "sub/x.b", false).text,
            AttributeState::Unset
        );
    }
}
