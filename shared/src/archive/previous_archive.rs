//! An archive that another one is made from.

use crate::name::{BucketName, CommitId, ObjectKey};
use crate::storage::ETag;

/// An archive of another commit of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousArchive {
    /// Bucket of the archive.
    pub bucket: BucketName,
    /// Key of the archive.
    pub key: ObjectKey,
    /// Entity tag; an archive with another one is not reused.
    pub etag: ETag,
    /// Size of the archive.
    pub size_bytes: u64,
    /// Commit that was archived.
    pub commit: CommitId,
    /// Number of its files. More differences than half of this number are not read.
    pub files: u64,
    /// Value of the archive's
    /// [`record_metadata`](super::ArchiveDestination::record_metadata), if it has one.
    pub record: Option<String>,
}
