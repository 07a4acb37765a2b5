//! The conditions of reads, in the order of RFC 9110 §13.2.2.

use s3s::dto::{ETagCondition, Timestamp};

use crate::s3::store::Head;

use super::convert::{condition, timestamp};

/// What a reader says about the object that it wants.
pub(super) struct Conditions<'a> {
    /// `If-Match`.
    pub(super) matching: Option<&'a ETagCondition>,
    /// `If-None-Match`.
    pub(super) not_matching: Option<&'a ETagCondition>,
    /// `If-Modified-Since`; `If-None-Match` goes before it.
    pub(super) modified_since: Option<&'a Timestamp>,
    /// `If-Unmodified-Since`; `If-Match` goes before it.
    pub(super) unmodified_since: Option<&'a Timestamp>,
}

impl Conditions<'_> {
    /// Whether this is the object that the reader wants to have.
    pub(super) fn is_wanted(&self, head: &Head) -> bool {
        match (self.matching, self.unmodified_since) {
            (Some(given), _) => condition(given).matches(&head.etag),
            (None, Some(since)) => timestamp(head.last_modified) <= *since,
            (None, None) => true,
        }
    }

    /// Whether this is another object than the reader has already.
    pub(super) fn is_modified(&self, head: &Head) -> bool {
        match (self.not_matching, self.modified_since) {
            (Some(given), _) => !condition(given).matches(&head.etag),
            (None, Some(since)) => timestamp(head.last_modified) > *since,
            (None, None) => true,
        }
    }
}
