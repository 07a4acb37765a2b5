//! The S3 bundle layout of awslabs git-remote-s3: each ref is a folder that holds one
//! bundle with all that the ref needs.
//!
//! | key | content |
//! |---|---|
//! | `<prefix>/<ref>/<id>.bundle` | a full bundle; the ref names `<id>`, whatever names its header has |
//! | `<prefix>/HEAD` | the ref that `HEAD` stands for, without `ref: ` and newline |
//! | `<prefix>/<ref>/LOCK#.lock` | there while someone pushes |
//! | `<prefix>/<ref>/PROTECTED#` | there when the ref must not be deleted or rewound |
//! | `<prefix>/<ref>/repo.zip` | an archive of the ref, where one is kept (`s3+zip`) |
//!
//! Both this and the Python client read and write it, at the same time on the same refs:
//! the module `publish` says what that takes.

mod archive;
mod bundle_reader;
mod cached_pack;
mod catalog;
mod checksum;
mod competing;
mod completed_pack;
mod compose;
mod delete;
mod expected_ref;
mod keys;
mod lock;
mod outcome;
mod plan;
mod publish;
mod source;
mod target;
mod tend;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bstr::{BString, ByteSlice};
use bytes::Bytes;

pub use target::{BundleTarget, PushResults};

use crate::error::Result;
use crate::git::ObjectId;
use crate::git::odb::Database;
use crate::git::pack::PackLimits;
use crate::lfs::{KeyScheme, LfsStore, S3Lfs};
use crate::name::{BucketName, KeyPrefix};
use crate::pack_cache::PackCache;
pub use crate::remote::Clock;
use crate::remote::{Remote, Source, Target, now};
use crate::storage::multipart::MultipartWriter;
use crate::storage::{MIN_PART_BYTES, ObjectStore};

/// The user metadata that names the ids that a bundle took the place of.
pub const REPLACES: &str = "branchline-replaces";
/// The user metadata of `repo.zip` that names what its ref named.
pub const ARCHIVED: &str = "branchline-archived";
/// The user metadata by which a push recognises its bundle.
pub const PUSH: &str = "branchline-push";

/// How a bundle remote is used.
#[derive(Clone)]
pub struct BundleOptions {
    /// When a lock that nobody renewed counts as left behind. The Python client waits as
    /// long by default.
    pub lock_lifetime: Duration,
    /// The time by which locks are judged.
    pub clock: Clock,
    /// The KMS key that objects are encrypted with.
    pub kms_key_id: Option<String>,
    /// What reading packs may use. Packs of up to a quarter of the memory are held.
    pub limits: PackLimits,
    /// Where packs may lie that need not be read from S3.
    pub copies: Option<Arc<PackCache>>,
    /// Makes `repo.zip`, which CodePipeline can read; none is kept without.
    pub archiver: Option<Arc<dyn Archiver>>,
    /// The smallest part of an upload but the last. S3's own is 5 MiB.
    pub part_bytes: usize,
    /// The largest range that one part is copied from. S3's own is 5 GiB.
    pub copy_bytes: u64,
}

/// Makes archives of commits, for remotes that keep one beside each bundle (`s3+zip`).
#[async_trait]
pub trait Archiver: Send + Sync {
    /// Prepares the archive of a commit, or of what a tag names, whose objects are all in
    /// `objects`; `None` when that is no commit, of which there is no archive.
    async fn open(
        &self,
        objects: &Arc<Database>,
        id: ObjectId,
    ) -> Result<Option<Box<dyn CommitArchive>>>;
}

/// The archive of a commit.
#[async_trait]
pub trait CommitArchive: Send + Sync {
    /// What CodePipeline shows: `<abbreviated id> <subject>`. Any text may be in it.
    fn summary(&self) -> &str;

    /// Sends all parts of the zip but the last one, which is returned with its number.
    async fn send(&self, upload: &MultipartWriter) -> Result<(u32, Bytes)>;
}

impl Default for BundleOptions {
    fn default() -> Self {
        Self {
            lock_lifetime: Duration::from_mins(1),
            clock: Arc::new(now),
            kms_key_id: None,
            limits: PackLimits::default(),
            copies: None,
            archiver: None,
            part_bytes: MIN_PART_BYTES,
            copy_bytes: 5 << 30,
        }
    }
}

impl fmt::Debug for BundleOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleOptions")
            .field("lock_lifetime", &self.lock_lifetime)
            .field("kms_key_id", &self.kms_key_id)
            .finish_non_exhaustive()
    }
}

/// Where a remote lies, and how it is used.
struct BundleLocation {
    store: Arc<dyn ObjectStore>,
    bucket: BucketName,
    prefix: KeyPrefix,
    options: BundleOptions,
}

impl fmt::Display for BundleLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = self.prefix.as_str().trim_end_matches('/');
        write!(f, "s3://{}/{prefix}", self.bucket)
    }
}

/// A remote in the S3 bundle layout.
pub struct BundleRemote {
    place: Arc<BundleLocation>,
}

impl BundleRemote {
    /// The remote under `prefix`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        bucket: BucketName,
        prefix: KeyPrefix,
        options: BundleOptions,
    ) -> Self {
        let place = BundleLocation {
            store,
            bucket,
            prefix,
            options,
        };
        Self {
            place: Arc::new(place),
        }
    }

    /// Looks at it, to write to it; tells of each ref what became of it.
    pub async fn open_target(&self) -> Result<BundleTarget> {
        BundleTarget::open(&self.place).await
    }

    /// Removes what pushes have left that ended half way: where a ref has several bundles,
    /// all but the one that counts. One that lost the ref without being obsolete is moved
    /// to a ref of its own. The names of the refs that were repaired.
    ///
    /// # Errors
    /// `Conflict` when a ref is pushed to meanwhile.
    pub async fn repair(&self) -> Result<Vec<BString>> {
        let opened = source::BundleSnapshot::new(&self.place, &[]).await?;
        let mut repaired = Vec::new();
        for (name, found) in &opened.refs {
            if found.seen.name == *name && found.seen.files.len() > 1 {
                if !bundle_reader::OpenBundle::open(&self.place, &found.file)
                    .await?
                    .is_full()
                {
                    // The next push makes it full, and then removes them.
                    tracing::info!(ref.name = %name, "an incremental bundle may need the others");
                    continue;
                }
                delete::repair(&self.place, &found.seen, &found.file, &found.strays)
                    .await
                    .map_err(|error| error.context(format!("repairing `{}`", name.as_bstr())))?;
                repaired.push(name.clone());
            }
        }
        Ok(repaired)
    }
}

impl fmt::Display for BundleRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}

#[async_trait]
impl Remote for BundleRemote {
    async fn source(&self, prefixes: &[BString]) -> Result<Box<dyn Source>> {
        let source = source::BundleSource::open(&self.place, prefixes).await?;
        Ok(Box::new(source))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        Ok(Box::new(self.open_target().await?))
    }

    fn lfs(&self) -> Option<Arc<dyn LfsStore>> {
        let BundleLocation {
            store,
            bucket,
            prefix,
            options,
        } = &*self.place;
        let place = S3Lfs::new(
            Arc::clone(store),
            bucket.clone(),
            prefix.clone(),
            KeyScheme::Flat,
            options.kms_key_id.clone(),
        );
        Some(Arc::new(place))
    }
}
