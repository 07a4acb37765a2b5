//! Objects of git LFS, which lie beside a repository: found by the pointers in its blobs,
//! copied from place to place.
//!
//! | file | |
//! |---|---|
//! | `pointer` | blobs that stand for an object |
//! | `verify` | size and SHA-256 of what passes |
//! | `batch`, `http` | servers with git-lfs's batch API |
//! | `s3`, `local` | folders |
//! | `copy` | what a new pack names, from one place to another |
//!
//! A repository's own settings (`.lfsconfig`) are not read: what a server has is asked for
//! where git-lfs asks by default.

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

/// The content of an object as it comes. It ends after the first error.
pub type LfsBody = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// How many objects are asked for at once; servers take no more.
pub const BATCH: usize = 100;

/// A place that holds objects of git LFS.
///
/// `Display` is its URL as it may be shown.
#[async_trait]
pub trait LfsStore: fmt::Display + Send + Sync {
    /// Those of at most [`BATCH`] objects that it does not have in that size.
    async fn missing(&self, pointers: &[Pointer]) -> Result<Vec<Pointer>>;

    /// Says that these, at most [`BATCH`], are about to be read, for places that are asked
    /// for many at once.
    ///
    /// # Errors
    /// `NotFound` for one that is not there, if that is known already.
    async fn prepare(&self, _pointers: &[Pointer]) -> Result<()> {
        Ok(())
    }

    /// Reads an object. Its content is not verified yet.
    ///
    /// # Errors
    /// `NotFound` when it is not there.
    async fn read(&self, pointer: &Pointer) -> Result<LfsBody>;

    /// Writes an object. It becomes visible only when `content` has ended without an
    /// error: see [`verify_stream`].
    async fn write(&self, pointer: &Pointer, content: LfsBody) -> Result<()>;
}

/// The error for an object that a place does not have.
pub(super) fn not_there(pointer: &Pointer, place: &dyn fmt::Display) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("{place} does not have LFS object {}", pointer.oid),
    )
    .with_hint("push it with `git lfs push --all`, or mirror without LFS objects: `\"lfs\": false`")
}
