//! A versioned, atomic and durable object store in a folder.
//!
//! ```text
//! lock                          held by the one process that has the store open
//! buckets/<name>/journal        every change, a line each (see `journal`)
//! buckets/<name>/blobs/<id>     bytes, named by the journal; keys are not paths
//! trash/                        deleted buckets, removed as soon as possible
//! ```
//!
//! All calls block on the disk: asynchronous callers use `spawn_blocking`. This module
//! does not depend on HTTP or S3's protocol, but every rule is S3's.

mod access_point;
mod blob;
mod bucket;
mod checksum;
mod durability;
mod error;
mod event;
mod index;
mod journal;
mod list;
mod multipart;
mod object;
#[cfg(test)]
mod tests;
mod upload;

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

pub use self::blob::{Reader, Sealed, Staged};
pub use self::bucket::Bucket;
pub use self::checksum::{Algorithm, Checksum, Kind};
pub use self::durability::Durability;
pub use self::error::{Error, Result};
pub use self::event::BucketEvent;
pub use self::list::{ListedObject, ListedVersion, Page, Query};
pub use self::object::{
    Attributes, Condition, Deleted, Encryption, Head, Precondition, PutOptions, Tags, Versioning,
};
pub use self::upload::{Completion, NamedPart, PartInfo, UploadInfo};

use super::policy::Policy;

use self::access_point::AccessPoints;
use self::error::Context as _;
use self::event::Observers;

/// Permissions of anonymous requests in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PublicAccess {
    /// None.
    #[default]
    None,
    /// Read objects, but not list them: a missing key is answered as forbidden.
    Read,
    /// Read objects and list them.
    ReadAndList,
}

/// The store; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    durability: Durability,
    buckets: RwLock<BTreeMap<String, Arc<Bucket>>>,
    public: RwLock<BTreeMap<String, PublicAccess>>,
    policies: RwLock<BTreeMap<String, Arc<Policy>>>,
    access_points: AccessPoints,
    observers: Arc<Observers>,
    /// Lock of the folder, held while the store is open.
    _lock: File,
}

impl Store {
    /// Opens the store in a folder, creating it if necessary, and removes leftovers of a
    /// crash or of interrupted requests.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(folder.as_ref(), Durability::Disk)
    }

    /// Like [`open`](Self::open), with the given durability.
    pub fn open_with(folder: &Path, durability: Durability) -> Result<Self> {
        fs::create_dir_all(folder.join("buckets")).context("opening the store")?;
        let lock = File::create(folder.join("lock")).context("opening the store")?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked(folder.to_owned())),
            Err(TryLockError::Error(source)) => {
                return Err(Error::Io {
                    action: "locking the store",
                    source,
                });
            }
        }
        let trash = folder.join("trash");
        if trash.try_exists().context("opening the store")? {
            fs::remove_dir_all(&trash).context("removing deleted buckets")?;
        }
        fs::create_dir(&trash).context("opening the store")?;
        let observers = Arc::new(Observers::default());
        let mut buckets = BTreeMap::new();
        for entry in fs::read_dir(folder.join("buckets")).context("opening the store")? {
            let entry = entry.context("opening the store")?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            match Bucket::open(&entry.path(), &name, durability, Arc::clone(&observers))? {
                Some(bucket) => {
                    buckets.insert(name, Arc::new(bucket));
                }
                None => fs::remove_dir_all(entry.path()).context("removing an unmade bucket")?,
            }
        }
        Ok(Self {
            inner: Arc::new(Inner {
                folder: folder.to_owned(),
                durability,
                buckets: RwLock::new(buckets),
                public: RwLock::default(),
                policies: RwLock::default(),
                access_points: AccessPoints::default(),
                observers,
                _lock: lock,
            }),
        })
    }

    /// Calls `observer` after each change, from the thread that made it and while the
    /// bucket's other writers wait: it must be quick, and must not write to the bucket.
    pub fn on_event(&self, observer: impl Fn(&BucketEvent) + Send + Sync + 'static) {
        self.inner.observers.add(Box::new(observer));
    }

    /// Creates a bucket.
    pub fn create_bucket(&self, name: &str, region: &str) -> Result<Arc<Bucket>> {
        check_bucket_name(name)?;
        let mut buckets = self
            .inner
            .buckets
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if buckets.contains_key(name) {
            return Err(Error::BucketExists(name.to_owned()));
        }
        let folder = self.inner.folder.join("buckets").join(name);
        let bucket = Bucket::create(
            &folder,
            name,
            region,
            self.inner.durability,
            Arc::clone(&self.inner.observers),
        )?;
        let bucket = Arc::new(bucket);
        buckets.insert(name.to_owned(), Arc::clone(&bucket));
        Ok(bucket)
    }

    /// Deletes a bucket that has no objects, versions or delete markers left. Its multipart
    /// uploads are deleted with it.
    pub fn delete_bucket(&self, name: &str) -> Result<()> {
        let mut buckets = self
            .inner
            .buckets
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets
            .get(name)
            .ok_or_else(|| Error::NoSuchBucket(name.to_owned()))?;
        let trashed = self
            .inner
            .folder
            .join("trash")
            .join(uuid::Uuid::new_v4().simple().to_string());
        bucket.schedule_delete(&trashed)?;
        buckets.remove(name);
        drop(buckets);
        // A folder that cannot be removed now is removed at the next start.
        let _ = fs::remove_dir_all(trashed);
        Ok(())
    }

    /// Adds an access point of a bucket; returns its alias. The bucket is then also reached by the
    /// host that starts with the access point's name and the account, and by the alias in place of
    /// its name.
    pub fn add_access_point(&self, name: &str, bucket: &str) -> String {
        self.inner.access_points.add(name, bucket)
    }

    /// Returns the name of the bucket of an access point.
    pub fn bucket_of_access_point(&self, name: &str) -> Option<String> {
        self.inner.access_points.bucket(name)
    }

    /// Returns the name of the bucket that `name`, itself such a name or an alias, stands for.
    pub fn resolve_alias(&self, name: &str) -> String {
        self.inner.access_points.resolve(name)
    }

    /// Finds a bucket by its name, or by the alias of an access point.
    pub fn bucket(&self, name: &str) -> Result<Arc<Bucket>> {
        let name = &self.resolve_alias(name);
        self.inner
            .buckets
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
            .ok_or_else(|| Error::NoSuchBucket(name.to_owned()))
    }

    /// Makes a bucket public, whether or not it exists yet. The setting is not stored on disk.
    pub fn set_public_access(&self, bucket: &str, access: PublicAccess) {
        let public = self.inner.public.write();
        public
            .unwrap_or_else(PoisonError::into_inner)
            .insert(bucket.to_owned(), access);
    }

    /// Returns the permissions of anonymous requests in a bucket.
    pub fn public_access(&self, bucket: &str) -> PublicAccess {
        let public = self.inner.public.read();
        public
            .unwrap_or_else(PoisonError::into_inner)
            .get(bucket)
            .copied()
            .unwrap_or_default()
    }

    /// Sets or removes the policy of a bucket, whether or not the bucket exists yet. The policy
    /// is not stored on disk.
    pub fn set_policy(&self, bucket: &str, policy: Option<Policy>) {
        let policies = self.inner.policies.write();
        let mut policies = policies.unwrap_or_else(PoisonError::into_inner);
        match policy {
            Some(policy) => policies.insert(bucket.to_owned(), Arc::new(policy)),
            None => policies.remove(bucket),
        };
    }

    /// Returns the policy of a bucket.
    pub fn policy(&self, bucket: &str) -> Option<Arc<Policy>> {
        let policies = self.inner.policies.read();
        let policies = policies.unwrap_or_else(PoisonError::into_inner);
        policies.get(bucket).cloned()
    }

    /// Returns all buckets, by name.
    pub fn buckets(&self) -> Vec<Arc<Bucket>> {
        self.inner
            .buckets
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Describes an object, current or of a version, and opens its bytes.
    pub fn get(&self, bucket: &str, key: &str, version_id: Option<&str>) -> Result<(Head, Reader)> {
        self.bucket(bucket)?.get(key, version_id)
    }

    /// Reads an object into memory.
    pub fn get_bytes(
        &self,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<(Head, Bytes)> {
        let (head, mut reader) = self.get(bucket, key, version_id)?;
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).context("reading a blob")?;
        Ok((head, bytes.into()))
    }

    /// Writes an object from memory.
    pub fn put(&self, bucket: &str, key: &str, bytes: &[u8], options: PutOptions) -> Result<Head> {
        let bucket = self.bucket(bucket)?;
        let mut staged = bucket.stage(None)?;
        staged.write(bytes)?;
        bucket.put(key, staged.seal()?, options)
    }

    /// Returns the multipart uploads of a bucket that are neither completed nor aborted.
    pub fn uploads(&self, bucket: &str) -> Result<Vec<UploadInfo>> {
        Ok(self.bucket(bucket)?.uploads())
    }
}

/// Refuses names that S3 does not allow; an accepted name is also a safe folder name.
fn check_bucket_name(name: &str) -> Result<()> {
    let legal = (3..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
        && !name.contains("..")
        && name.parse::<std::net::Ipv4Addr>().is_err();
    if legal {
        Ok(())
    } else {
        Err(Error::InvalidBucketName(name.to_owned()))
    }
}

/// Returns the present time in whole seconds, as S3 stores it.
fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or_default()
}
