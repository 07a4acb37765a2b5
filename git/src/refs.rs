//! Refs: where they point, and how they change.

use std::collections::BTreeMap;

use bstr::BString;
use gix_hash::ObjectId;

use crate::escaped_excerpt;

/// The target of a ref, and for an annotated tag the object that it peels to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefValue {
    /// The object that the ref names.
    pub id: ObjectId,
    /// The object that an annotated tag peels to.
    pub peeled: Option<ObjectId>,
}

/// Refs by full name, in the order of their bytes, without `HEAD`.
pub type Refs = BTreeMap<BString, RefValue>;

/// Refs that a peer lists under names that git does not allow, and that are left out, as git
/// does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IgnoredRefs {
    /// The number of such refs.
    pub count: u64,
    /// The names of the first [`MAX_IGNORED_NAMES`](Self::MAX_IGNORED_NAMES), escaped for
    /// messages.
    pub names: Vec<String>,
}

impl IgnoredRefs {
    /// The most names that are kept.
    pub const MAX_IGNORED_NAMES: usize = 20;

    /// Adds a name that a peer listed.
    pub fn add(&mut self, name: &[u8]) {
        self.count += 1;
        if self.names.len() < Self::MAX_IGNORED_NAMES {
            self.names.push(escaped_excerpt(name));
        }
    }
}

/// The value of `HEAD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// The full name of a ref, which need not exist.
    Symbolic(BString),
    /// A commit.
    Detached(ObjectId),
}

/// A ref to be created, moved or deleted, if it still is at `old`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefUpdate {
    /// The full name.
    pub name: BString,
    /// The expected present id; `None` for a ref to be created.
    pub old: Option<ObjectId>,
    /// The new target; `None` for a ref to be deleted.
    pub new: Option<RefValue>,
}

/// The result of a [`RefUpdate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefOutcome {
    /// The ref has its new value.
    Done,
    /// The receiver refused, for this reason.
    Rejected(String),
    /// The receiver did not report the ref: read the refs again.
    Unknown,
}
