//! Observers of a bucket's content.

use std::sync::{PoisonError, RwLock};

/// A change that has happened and is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BucketEvent {
    /// A key has a new current object.
    Written {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// Version; `None` where the bucket never had versions.
        version_id: Option<String>,
        /// Entity tag, without quotes.
        etag: String,
        /// Size in bytes.
        size: u64,
    },
    /// An object, a version or a delete marker was removed, or a delete marker was added.
    Removed {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// Removed version, or the version of the added delete marker.
        version_id: Option<String>,
        /// True if a delete marker was added.
        marker: bool,
    },
}

type Observer = Box<dyn Fn(&BucketEvent) + Send + Sync>;

/// All registered observers.
#[derive(Default)]
pub(super) struct Observers(RwLock<Vec<Observer>>);

impl Observers {
    pub(super) fn add(&self, observer: Observer) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(observer);
    }

    pub(super) fn notify(&self, event: &BucketEvent) {
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
