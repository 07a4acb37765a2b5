//! Bucket, prefix and options of a bundle remote, and its user metadata.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::odb::Database;
use crate::git::pack::PackLimits;
use crate::name::{BucketName, KeyPrefix};
use crate::pack_cache::PackCache;
use crate::remote::{Clock, now};
use crate::storage::multipart::MultipartWriter;
use crate::storage::{MIN_PART_BYTES, ObjectStore};

/// User metadata of a bundle: the ids of the bundles that it replaces, separated by commas.
pub const REPLACES: &str = "branchline-replaces";
/// User metadata of `repo.zip`: the id that the ref named.
pub const ARCHIVED: &str = "branchline-archived";
/// User metadata of a bundle: random digits by which a push recognises its own bundle.
pub const PUSH: &str = "branchline-push";

/// Options of a bundle remote.
#[derive(Clone)]
pub struct BundleOptions {
    /// Time after which a lock that was not renewed counts as abandoned. The default is the
    /// Python client's.
    pub lock_lifetime: Duration,
    /// Maximum time to wait for another client's lock. A lock that was not renewed is taken over
    /// while this waits if it is longer than `lock_lifetime`.
    pub lock_wait: Duration,
    /// Clock for the age of locks and of temporary objects.
    pub clock: Clock,
    /// KMS key that encrypts objects.
    pub kms_key_id: Option<String>,
    /// Limits for reading packs. Packs of up to a quarter of the memory stay in memory.
    pub limits: PackLimits,
    /// Local cache of packs.
    pub pack_cache: Option<Arc<PackCache>>,
    /// Makes `repo.zip`, which CodePipeline can read; `None` for remotes without archives.
    pub archiver: Option<Arc<dyn Archiver>>,
    /// Minimum size of all parts of an upload but the last. S3 requires 5 MiB.
    pub min_part_bytes: usize,
    /// Maximum length of the range that is copied as one part. S3 allows 5 GiB.
    pub max_copy_bytes: u64,
}

/// Makes archives of commits, for remotes with an archive of each ref (`s3+zip`).
#[async_trait]
pub trait Archiver: Send + Sync {
    /// Prepares the archive of a commit or of the commit that a tag names; all its objects are
    /// in `objects`. `None` if `id` is not a commit, because other objects have no archive.
    async fn open(
        &self,
        objects: &Arc<Database>,
        id: ObjectId,
    ) -> Result<Option<Box<dyn CommitArchive>>>;
}

/// Archive of a commit.
#[async_trait]
pub trait CommitArchive: Send + Sync {
    /// Returns the text that CodePipeline shows: `<abbreviated id> <subject>`, any characters.
    fn summary(&self) -> &str;

    /// Sends all parts of the archive but the last; returns the number and the bytes of the last.
    async fn send(&self, upload: &MultipartWriter) -> Result<(u32, Bytes)>;
}

impl Default for BundleOptions {
    fn default() -> Self {
        Self {
            lock_lifetime: Duration::from_mins(1),
            lock_wait: Duration::ZERO,
            clock: Arc::new(now),
            kms_key_id: None,
            limits: PackLimits::default(),
            pack_cache: None,
            archiver: None,
            min_part_bytes: MIN_PART_BYTES,
            max_copy_bytes: 5 << 30,
        }
    }
}

impl fmt::Debug for BundleOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleOptions")
            .field("lock_lifetime", &self.lock_lifetime)
            .field("lock_wait", &self.lock_wait)
            .field("kms_key_id", &self.kms_key_id)
            .finish_non_exhaustive()
    }
}

/// Bucket and prefix of a remote, and its options.
pub(super) struct BundleLocation {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) bucket: BucketName,
    pub(super) prefix: KeyPrefix,
    pub(super) options: BundleOptions,
    /// The first lock of this client that it may not delete.
    pub(super) kept_lock: Mutex<Option<Error>>,
}

impl BundleLocation {
    /// Keeps the failure to delete a lock if it is permanent, because other clients wait for such
    /// a lock in vain.
    pub(super) fn note_kept_lock(&self, error: Error) {
        if error.kind() == ErrorKind::AccessDenied {
            let mut kept = self
                .kept_lock
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            kept.get_or_insert(error);
        }
    }

    /// Fails if a lock could not be deleted.
    ///
    /// # Errors
    /// `AccessDenied`, once.
    pub(super) fn check_kept_lock(&self) -> Result<()> {
        let mut kept = self
            .kept_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match kept.take() {
            None => Ok(()),
            Some(error) => Err(error.context("the refs are written, and their lock remains")),
        }
    }
}

impl fmt::Display for BundleLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = self.prefix.as_str().trim_end_matches('/');
        write!(f, "s3://{}/{prefix}", self.bucket)
    }
}
