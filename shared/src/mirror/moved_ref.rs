//! Refs that have moved.

use bstr::BString;

use crate::git::ObjectId;
use crate::remote::RefUpdate;

/// A ref that has moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MovedRef {
    pub(super) name: BString,
    pub(super) old: ObjectId,
    pub(super) new: ObjectId,
}

impl MovedRef {
    /// Returns the move that an update makes; `None` if it creates or deletes its ref.
    pub(super) fn of(change: &RefUpdate) -> Option<Self> {
        Some(Self {
            name: change.name.clone(),
            old: change.old?,
            new: change.new?.id,
        })
    }
}

/// An update that is not a fast-forward, of a branch or of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForcedUpdate {
    /// Former id. Commits that only this id reached are lost at the target.
    pub old: ObjectId,
    /// New id.
    pub new: ObjectId,
}

impl From<MovedRef> for ForcedUpdate {
    fn from(moved: MovedRef) -> Self {
        Self {
            old: moved.old,
            new: moved.new,
        }
    }
}
