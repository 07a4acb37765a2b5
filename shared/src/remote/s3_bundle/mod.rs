//! The S3 bundle layout of awslabs git-remote-s3: each ref is a folder with one bundle that
//! contains everything reachable from the ref.
//!
//! | key | content |
//! |---|---|
//! | `<prefix>/<ref>/<id>.bundle` | a full bundle; the ref names `<id>`, not the ids in the bundle's header |
//! | `<prefix>/HEAD` | the ref that `HEAD` names, without `ref: ` and newline |
//! | `<prefix>/<ref>/LOCK#.lock` | exists during a push |
//! | `<prefix>/<ref>/PROTECTED#` | exists if the ref must not be deleted or rewound |
//! | `<prefix>/<ref>/repo.zip` | an archive of the ref (`s3+zip`) |
//!
//! This and the Python client may read and write the same refs at the same time; see the module
//! `publish`.
//!
//! Each module uses only modules above it:
//!
//! | module | content |
//! |---|---|
//! | `options`, `keys`, `head`, `lock_object`, `lock`, `expected_ref` | options, keys and lists, `HEAD`, locks, refs that must not have changed |
//! | `bundle_reader`, `cached_pack`, `completed_pack`, `indexed_bundle` | one bundle, its pack and its objects |
//! | `peel` | the objects that tags peel to |
//! | `catalog`, `competing`, `source` | all bundles, the refs that they make, fetches |
//! | `spooled_pack`, `parts`, `compose` | content of a new bundle |
//! | `archive`, `delete`, `publication`, `publish`, `repair` | changes of one ref, under its lock |
//! | `receive`, `plan`, `change_order`, `ref_change`, `atomic`, `stored_copies`, `target` | pushes |
//! | `examine`, `maintain` | problems of the remote, and their fixes |

mod archive;
mod atomic;
mod bundle_reader;
mod cached_pack;
mod catalog;
mod change_order;
mod competing;
mod completed_pack;
mod compose;
mod delete;
mod examine;
mod expected_ref;
mod head;
mod indexed_bundle;
mod keys;
mod lock;
mod lock_object;
mod maintain;
mod options;
mod parts;
mod peel;
mod plan;
mod publication;
mod publish;
mod receive;
mod ref_change;
mod repair;
mod source;
mod spooled_pack;
mod stored_copies;
mod target;

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bstr::BString;

use self::options::BundleLocation;
pub use self::options::{ARCHIVED, Archiver, BundleOptions, CommitArchive, PUSH, REPLACES};
pub use self::target::{BundleTarget, PushResults};
use crate::error::Result;
use crate::lfs::{KeyScheme, LfsStore, S3Lfs};
use crate::name::{BucketName, KeyPrefix};
pub use crate::remote::Clock;
use crate::remote::maintenance::Maintenance;
use crate::remote::{Remote, Source, Target};
use crate::storage::ObjectStore;

/// A remote in the S3 bundle layout.
pub struct BundleRemote {
    location: Arc<BundleLocation>,
}

impl BundleRemote {
    /// Creates a remote under `prefix`, without a request.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        bucket: BucketName,
        prefix: KeyPrefix,
        options: BundleOptions,
    ) -> Self {
        let location = BundleLocation {
            store,
            bucket,
            prefix,
            options,
            kept_lock: Mutex::default(),
        };
        Self {
            location: Arc::new(location),
        }
    }

    /// Lists the remote, and opens it to push to it with a result for each ref.
    pub async fn open_target(&self) -> Result<BundleTarget> {
        BundleTarget::open(&self.location).await
    }

    /// Deletes leftovers of interrupted pushes: of a ref with several bundles, all but the one
    /// that the ref names. Orphans are moved to their conflict names. Returns the names of the
    /// repaired refs.
    ///
    /// # Errors
    /// `Conflict` when another client pushes to a ref meanwhile.
    pub async fn repair(&self) -> Result<Vec<BString>> {
        let mut opened = source::BundleSnapshot::new(&self.location, &[]).await?;
        let mut repaired = Vec::new();
        for (name, found) in &mut opened.refs {
            if repair::repair(&self.location, name, found).await? {
                repaired.push(name.clone());
            }
        }
        Ok(repaired)
    }
}

impl fmt::Display for BundleRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.location.fmt(f)
    }
}

#[async_trait]
impl Remote for BundleRemote {
    async fn source(&self, prefixes: &[BString]) -> Result<Box<dyn Source>> {
        let source = source::BundleSource::open(&self.location, prefixes).await?;
        Ok(Box::new(source))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        Ok(Box::new(self.open_target().await?))
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }

    fn lfs(&self) -> Option<Arc<dyn LfsStore>> {
        let BundleLocation {
            store,
            bucket,
            prefix,
            options,
            ..
        } = &*self.location;
        let store = S3Lfs::new(
            Arc::clone(store),
            bucket.clone(),
            prefix.clone(),
            KeyScheme::Flat,
            options.kms_key_id.clone(),
        );
        Some(Arc::new(store))
    }
}
