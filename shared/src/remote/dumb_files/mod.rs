//! A repository as the files that git fetches over plain HTTP (git's "dumb" protocol), read from
//! wherever they are stored: below a prefix in S3, or on a web server.
//!
//! | file | job |
//! |---|---|
//! | `pack_list` | `objects/info/packs`, with extension lines that git ignores |
//! | `odb` | finds and reads objects by the indexes of packs, and loose ones |
//! | `source` | sends packs |

pub(super) mod odb;
pub(super) mod pack_list;
pub(super) mod source;

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::dumb_http::{index_name, pack_name};
use crate::remote::PackBody;

/// Path of the list of packs.
pub(super) const INFO_PACKS: &str = "objects/info/packs";

/// Returns the path of a pack.
pub(super) fn pack_path(id: ObjectId) -> String {
    format!("objects/pack/{}", pack_name(id))
}

/// Returns the path of the index of a pack.
pub(super) fn index_path(id: ObjectId) -> String {
    format!("objects/pack/{}", index_name(id))
}

/// Returns the path of a loose object.
pub(super) fn loose_path(id: ObjectId) -> String {
    format!("objects/{}", crate::git::object::loose_path(id))
}

/// Files of a repository, by their paths.
///
/// `Display` is the repository's URL.
#[async_trait]
pub(super) trait RepositoryFiles: fmt::Display + Send + Sync {
    /// Reads a file whole; `None` if it is missing.
    async fn read(&self, path: &str) -> Result<Option<Bytes>>;

    /// Opens a file of any size; `None` if it is missing.
    async fn open(&self, path: &str) -> Result<Option<PackBody>>;

    /// Returns the size of a file in bytes; `None` if it is missing.
    async fn size(&self, path: &str) -> Result<Option<u64>>;

    /// Reads a range of a file; less where the file ends before.
    ///
    /// # Errors
    /// `NotFound` for a missing file.
    async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Bytes>;

    /// Returns whether there may be loose objects.
    async fn may_have_loose(&self) -> Result<bool>;
}

/// Returns the error for a missing file.
fn missing_file(files: &dyn RepositoryFiles, path: &str) -> Error {
    let message = format!("`{path}` of {files} does not exist");
    Error::new(ErrorKind::NotFound, message)
}
