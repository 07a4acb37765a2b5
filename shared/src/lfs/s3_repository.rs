//! LFS objects of a repository in a bucket, whose keys follow from the layout of the repository:
//! `lfs/<oid>` beside bundles, `lfs/objects/aa/bb/<oid>` beside a `dumb` repository.
//!
//! Nothing is listed, so that permissions for objects suffice.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::{KeyScheme, LfsBody, LfsStore, Pointer, ResumableUpload, S3Lfs};
use crate::error::{Error, ErrorKind, Result};

/// LFS objects of a repository in a bucket, read under the keys of both schemes, and written under
/// those of the repository's layout.
pub struct S3RepositoryLfs {
    flat: S3Lfs,
    fanned: S3Lfs,
    keys_if_empty: KeyScheme,
    keys: OnceCell<KeyScheme>,
    /// The last object that was found has a fanned key.
    found_fanned: AtomicBool,
}

impl S3RepositoryLfs {
    /// Makes the store from `objects` under either keys; where no repository exists yet, objects
    /// are written under `keys_if_empty`.
    pub fn new(objects: S3Lfs, keys_if_empty: KeyScheme) -> Self {
        Self {
            flat: objects.clone().with_keys(KeyScheme::Flat),
            fanned: objects.with_keys(KeyScheme::Fanned),
            keys_if_empty,
            keys: OnceCell::new(),
            found_fanned: AtomicBool::new(keys_if_empty == KeyScheme::Fanned),
        }
    }

    /// Finds the keys of the repository's layout: only the `dumb` layout has `info/refs`.
    async fn find_keys(&self) -> Result<KeyScheme> {
        let has = async |name: &str| match self.flat.has_file(name).await {
            // S3 answers so for a missing object if its reader may not list the bucket.
            Err(error) if error.kind() == ErrorKind::AccessDenied => Ok(false),
            found => found,
        };
        if has("info/refs").await? {
            return Ok(KeyScheme::Fanned);
        }
        if self.keys_if_empty == KeyScheme::Fanned && has("HEAD").await? {
            return Ok(KeyScheme::Flat);
        }
        Ok(self.keys_if_empty)
    }

    async fn written(&self) -> Result<&S3Lfs> {
        let keys = self.keys.get_or_try_init(|| self.find_keys()).await?;
        Ok(match keys {
            KeyScheme::Flat => &self.flat,
            KeyScheme::Fanned => &self.fanned,
        })
    }

    /// Returns both stores; first the one that had the last object.
    fn both(&self) -> [(&S3Lfs, bool); 2] {
        let (flat, fanned) = ((&self.flat, false), (&self.fanned, true));
        if self.found_fanned.load(Ordering::Relaxed) {
            [fanned, flat]
        } else {
            [flat, fanned]
        }
    }
}

impl fmt::Display for S3RepositoryLfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.flat.fmt(f)
    }
}

/// Returns whether a failure may mean that the object has another key.
fn may_be_elsewhere(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AccessDenied)
        && error.aws_code() != Some("NoSuchBucket")
}

#[async_trait]
impl LfsStore for S3RepositoryLfs {
    async fn missing(&self, pointers: &[Pointer]) -> Result<Vec<Pointer>> {
        let [(first, _), (second, _)] = self.both();
        let missing = first.missing(pointers).await?;
        if missing.is_empty() {
            return Ok(missing);
        }
        second.missing(&missing).await
    }

    async fn read(&self, pointer: &Pointer) -> Result<LfsBody> {
        self.read_from(pointer, 0).await
    }

    async fn read_from(&self, pointer: &Pointer, position: u64) -> Result<LfsBody> {
        let [(first, _), (second, is_fanned)] = self.both();
        let error = match first.read_from(pointer, position).await {
            Err(error) if may_be_elsewhere(&error) => error,
            read => return read,
        };
        match second.read_from(pointer, position).await {
            Ok(body) => {
                self.found_fanned.store(is_fanned, Ordering::Relaxed);
                Ok(body)
            }
            Err(other) if may_be_elsewhere(&other) => Err(error),
            Err(other) => Err(other),
        }
    }

    async fn write(&self, pointer: &Pointer, content: LfsBody) -> Result<()> {
        self.written().await?.write(pointer, content).await
    }

    async fn write_if_missing(&self, pointer: &Pointer, content: LfsBody) -> Result<bool> {
        let store = self.written().await?;
        store.write_if_missing(pointer, content).await
    }

    async fn resume(&self, pointer: &Pointer) -> Result<Option<Box<dyn ResumableUpload>>> {
        self.written().await?.resume(pointer).await
    }
}
