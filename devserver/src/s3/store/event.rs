//! Who is told when a bucket's content changes.

use std::sync::{PoisonError, RwLock};

/// A change that has happened and is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A key has a new current object.
    Written {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// The version; `None` where the bucket never had versions.
        version_id: Option<String>,
        /// The entity tag, without quotes.
        etag: String,
        /// The size in bytes.
        size: u64,
    },
    /// An object, a version or a delete marker went, or a delete marker came.
    Removed {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// The version that went, or the one of the delete marker that came.
        version_id: Option<String>,
        /// Whether a delete marker came.
        marker: bool,
    },
}

type Observer = Box<dyn Fn(&Event) + Send + Sync>;

/// Everyone who asked to be told.
#[derive(Default)]
pub(super) struct Observers(RwLock<Vec<Observer>>);

impl Observers {
    pub(super) fn add(&self, observer: Observer) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(observer);
    }

    pub(super) fn notify(&self, event: &Event) {
        for observer in &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            observer(event);
        }
    }
}

impl std::fmt::Debug for Observers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observers")
    }
}
