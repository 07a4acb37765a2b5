//! The state of the deletion of artifacts, which outlives a run: where the next one goes on, and
//! objects that need not be read again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use branchline_core::name::ObjectKey;
use branchline_core::storage::{ETag, ObjectSummary};

/// Maximum number of remembered keys of other writers; beyond that they are forgotten.
const MAX_REMEMBERED: usize = 20_000;

/// State of the deletions of one execution environment.
#[derive(Debug, Default)]
pub(crate) struct DeletionState(Mutex<Progress>);

#[derive(Debug, Default)]
struct Progress {
    /// Prefix and page at which the last run was ended by its deadline.
    position: Option<(String, Option<String>)>,
    /// Objects that are not artifacts of this function.
    foreign: HashMap<ObjectKey, ETag>,
}

impl DeletionState {
    /// Returns the prefix and the page at which the last run was ended, once.
    pub(crate) fn take_position(&self) -> Option<(String, Option<String>)> {
        self.lock().position.take()
    }

    /// Records the prefix and the page at which the deadline ends a run.
    pub(crate) fn set_position(&self, prefix: String, page: Option<String>) {
        self.lock().position = Some((prefix, page));
    }

    /// Returns true for an object that was found to be another writer's.
    pub(crate) fn is_foreign(&self, object: &ObjectSummary) -> bool {
        self.lock().foreign.get(&object.key) == Some(&object.etag)
    }

    /// Records that an object is another writer's.
    pub(crate) fn remember_foreign(&self, object: ObjectSummary) {
        let foreign = &mut self.lock().foreign;
        if foreign.len() >= MAX_REMEMBERED {
            foreign.clear();
        }
        foreign.insert(object.key, object.etag);
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
