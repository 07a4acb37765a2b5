//! The conditions of reads, in the order of RFC 9110 §13.2.2.

use s3s::dto::{ETagCondition, Timestamp};

use crate::s3::store::Head;

use super::convert::{condition, timestamp};

/// Conditions of a read.
pub(super) struct Conditions<'a> {
    /// `If-Match`.
    pub(super) matching: Option<&'a ETagCondition>,
    /// `If-None-Match`.
    pub(super) not_matching: Option<&'a ETagCondition>,
    /// `If-Modified-Since`; ignored if `If-None-Match` is given.
    pub(super) modified_since: Option<&'a Timestamp>,
    /// `If-Unmodified-Since`; ignored if `If-Match` is given.
    pub(super) unmodified_since: Option<&'a Timestamp>,
}

impl Conditions<'_> {
    /// Returns true if the object meets `If-Match` and `If-Unmodified-Since`.
    pub(super) fn preconditions_hold(&self, head: &Head) -> bool {
        match (self.matching, self.unmodified_since) {
            (Some(given), _) => condition(given).matches(&head.etag),
            (None, Some(since)) => timestamp(head.last_modified) <= *since,
            (None, None) => true,
        }
    }

    /// Returns true if the object differs from the reader's copy (`If-None-Match`,
    /// `If-Modified-Since`).
    pub(super) fn is_modified(&self, head: &Head) -> bool {
        match (self.not_matching, self.modified_since) {
            (Some(given), _) => !condition(given).matches(&head.etag),
            (None, Some(since)) => timestamp(head.last_modified) > *since,
            (None, None) => true,
        }
    }
}
