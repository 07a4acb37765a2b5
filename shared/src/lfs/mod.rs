//! Objects of git LFS, which are stored alongside a repository: found by the pointers in its
//! blobs, copied from one store to another.
//!
//! | file | job |
//! |---|---|
//! | `pointer` | parses pointer blobs |
//! | `verify` | checks size and SHA-256 of a stream |
//! | `batch`, `http` | servers with git-lfs's batch API |
//! | `s3`, `local` | objects in a bucket, objects in a repository's directory |
//! | `s3_repository` | objects in a bucket, whose keys follow from the layout of the repository |
//! | `agent` | lines of git-lfs's protocol for transfer agents |
//! | `download` | one object into a file, resumed if it is large |
//! | `part_reader`, `resumable` | uploads to S3 in parts, also over several runs |
//! | `config` | the place of objects that a repository's `.lfsconfig` names (pure) |
//! | `record` | the objects of a mirror, as remembered at its target (pure) |
//! | `inventory` | the record of one target, read once and written after each change |
//! | `transfer` | copies the objects that new pointers name |
//! | `restore` | copies objects that were missing, have vanished, or were never copied |
//! | `skipped_scan` | remembers at the target that a run copies no objects |
//!
//! # Missing objects
//! An object that the source cannot provide does not stop the others, nor the refs. The target
//! remembers the object in its record ([`LfsRecord`]), and each run requests it again.

pub mod agent;
mod batch;
mod config;
mod download;
mod http;
mod inventory;
mod local;
mod part_reader;
mod pointer;
mod record;
mod restore;
mod resumable;
mod s3;
mod s3_repository;
mod scanner;
mod skipped_scan;
mod transfer;
mod verify;

use std::fmt;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;

pub use config::{CONFIG_FILE, configured_url};
pub use download::download;
pub use http::HttpLfs;
pub use local::{LocalLfs, read_file};
pub use pointer::{MAX_POINTER, Pointer};
pub use record::LfsRecord;
pub use restore::read_all;
pub(crate) use resumable::skip;
pub use s3::{KeyScheme, S3Lfs};
pub use s3_repository::S3RepositoryLfs;
pub use scanner::PointerScanner;
pub use skipped_scan::SkippedScan;
pub use transfer::{LfsTransfer, MAX_NAMED_OBJECTS, TransferReport};
pub use verify::verify_stream;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::ETag;

/// Content of an object as a stream, which ends after its first error.
pub type LfsBody = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// Maximum number of objects in a batch, because servers accept no more.
pub const MAX_BATCH_OBJECTS: usize = 100;

/// Store of LFS objects. `Display` shows its URL without secrets.
#[async_trait]
pub trait LfsStore: fmt::Display + Send + Sync {
    /// Returns those of at most [`MAX_BATCH_OBJECTS`] objects that are missing or have another
    /// size.
    async fn missing(&self, pointers: &[Pointer]) -> Result<Vec<Pointer>>;

    /// Prepares reading these objects, at most [`MAX_BATCH_OBJECTS`], in a store that is queried in
    /// batches; returns those that the store reports not to have. The failure of a single object
    /// is returned when it is read.
    ///
    /// # Errors
    /// `NotFound` if the store serves no objects at all.
    async fn prepare(&self, _pointers: &[Pointer]) -> Result<Vec<Pointer>> {
        Ok(Vec::new())
    }

    /// Returns false if the repository has no place of LFS objects, which may take requests to
    /// find.
    async fn has_place(&self) -> Result<bool> {
        Ok(true)
    }

    /// Reads an object, without verifying its content.
    ///
    /// # Errors
    /// `NotFound` for a missing object.
    async fn read(&self, pointer: &Pointer) -> Result<LfsBody>;

    /// Reads an object from byte `position` on.
    ///
    /// # Errors
    /// `NotFound` for a missing object.
    async fn read_from(&self, pointer: &Pointer, position: u64) -> Result<LfsBody> {
        Ok(resumable::skip(self.read(pointer).await?, position))
    }

    /// Writes an object, which becomes visible only after `content` has ended without an
    /// error: see [`verify_stream`].
    async fn write(&self, pointer: &Pointer, content: LfsBody) -> Result<()>;

    /// Writes an object like [`write`](Self::write) unless it exists with its size; returns whether
    /// it was written.
    async fn write_if_missing(&self, pointer: &Pointer, content: LfsBody) -> Result<bool> {
        let missing = !self
            .missing(std::slice::from_ref(pointer))
            .await?
            .is_empty();
        if missing {
            self.write(pointer, content).await?;
        }
        Ok(missing)
    }

    /// Opens the upload of an object that may take longer than one run, which an earlier run may
    /// have begun; `None` if this store or an object of this size has no such uploads.
    async fn resume(&self, _pointer: &Pointer) -> Result<Option<Box<dyn ResumableUpload>>> {
        Ok(None)
    }

    /// Returns the access to this store's record; `None` if it keeps none.
    fn records(&self) -> Option<&dyn RecordStore> {
        None
    }

    /// Returns the access to the list of this store's objects; `None` if it cannot list them. The
    /// record of a store without a list does not name the objects that it has.
    fn listed(&self) -> Option<&dyn ListedStore> {
        None
    }
}

/// Upload of an object that keeps the bytes it has sent, also when it is dropped.
#[async_trait]
pub trait ResumableUpload: Send {
    /// Returns the number of bytes that were sent before.
    fn position(&self) -> u64;

    /// Sends the object's content from [`position`](Self::position) on; `count` is called with the
    /// number of bytes that were sent. The object becomes visible only if it matches its pointer.
    ///
    /// # Errors
    /// `Corrupt` for content that does not match the pointer; the next upload starts from the beginning.
    async fn write(self: Box<Self>, content: LfsBody, count: &(dyn Fn(u64) + Sync)) -> Result<()>;
}

/// Store of LFS objects that keeps a record of them.
#[async_trait]
pub trait RecordStore: Send + Sync {
    /// Reads the record; `None` if there is none yet. One request.
    async fn read_record(&self) -> Result<Option<(Bytes, ETag)>>;

    /// Writes the record if the stored one is still `read`; returns its new tag, or `None` if a
    /// record without facts was deleted.
    ///
    /// # Errors
    /// `Conflict` if another client wrote it since.
    async fn write_record(&self, record: Bytes, read: Option<&ETag>) -> Result<Option<ETag>>;
}

/// Store of LFS objects that lists them.
#[async_trait]
pub trait ListedStore: Send + Sync {
    /// Lists the objects whose ids start with `digits` (at most 3), in the order of their ids. One
    /// request, which may end early.
    async fn list(&self, digits: &str) -> Result<StoredObjects>;

    /// Deletes the uploads of large objects that earlier runs began and did not complete.
    async fn delete_unfinished(&self) -> Result<()> {
        Ok(())
    }
}

/// Objects that a store has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObjects {
    /// The listed objects, by their ids and sizes, in order.
    pub objects: Vec<Pointer>,
    /// No more objects follow the listed ones.
    pub is_complete: bool,
}

/// Makes the error for an object that is missing in `store`.
pub(crate) fn missing_object(pointer: &Pointer, store: &dyn fmt::Display) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("{store} does not have LFS object {}", pointer.oid),
    )
    .with_hint("push it with `git lfs push --all`, or mirror without LFS objects: `\"lfs\": false`")
}
