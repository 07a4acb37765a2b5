//! Objects of git LFS, which are stored alongside a repository: found by the pointers in its
//! blobs, copied from one store to another.
//!
//! | file | job |
//! |---|---|
//! | `pointer` | parses pointer blobs |
//! | `verify` | checks size and SHA-256 of a stream |
//! | `batch`, `http` | servers with git-lfs's batch API |
//! | `s3`, `local` | objects in a bucket, objects in a repository's directory |
//! | `transfer` | copies the objects that new pointers name |
//!
//! A repository's own settings (`.lfsconfig`) are not read: servers are called at git-lfs's
//! default URL.

mod batch;
mod http;
mod local;
mod pointer;
mod s3;
mod scanner;
mod transfer;
mod verify;

use std::fmt;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;

pub use http::HttpLfs;
pub use local::LocalLfs;
pub use pointer::{MAX_POINTER, Pointer};
pub use s3::{KeyScheme, S3Lfs};
pub use scanner::PointerScanner;
pub use transfer::{LfsTransfer, TransferReport};
pub use verify::verify_stream;

use crate::error::{Error, ErrorKind, Result};

/// Content of an object as a stream, which ends after its first error.
pub type LfsBody = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// Maximum number of objects in a batch, because servers accept no more.
pub const BATCH: usize = 100;

/// Store of LFS objects. `Display` shows its URL without secrets.
#[async_trait]
pub trait LfsStore: fmt::Display + Send + Sync {
    /// Returns those of at most [`BATCH`] objects that are missing or have another size.
    async fn missing(&self, pointers: &[Pointer]) -> Result<Vec<Pointer>>;

    /// Prepares reading these objects, at most [`BATCH`], in a store that is queried in
    /// batches.
    ///
    /// # Errors
    /// `NotFound` for a missing object, if that is known already.
    async fn prepare(&self, _pointers: &[Pointer]) -> Result<()> {
        Ok(())
    }

    /// Reads an object, without verifying its content.
    ///
    /// # Errors
    /// `NotFound` for a missing object.
    async fn read(&self, pointer: &Pointer) -> Result<LfsBody>;

    /// Writes an object, which becomes visible only after `content` has ended without an
    /// error: see [`verify_stream`].
    async fn write(&self, pointer: &Pointer, content: LfsBody) -> Result<()>;
}

/// Makes the error for an object that is missing in `store`.
pub(crate) fn missing_object(pointer: &Pointer, store: &dyn fmt::Display) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("{store} does not have LFS object {}", pointer.oid),
    )
    .with_hint("push it with `git lfs push --all`, or mirror without LFS objects: `\"lfs\": false`")
}
