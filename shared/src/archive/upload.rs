//! Destinations of an archive, which arrives in parts.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::reuse::ListingRecord;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, ObjectKey};
use crate::storage::multipart::MultipartWriter;
pub use crate::storage::multipart::part_bytes;
use crate::storage::{PutOptions, WRITE_ID};

/// Receives the parts of an archive.
#[async_trait]
pub trait PartSink: Send + Sync {
    /// Returns the size of part `number` (from 1), unless that is the last part.
    fn part_bytes(&self, number: u32) -> usize {
        part_bytes(number)
    }

    /// Maximum number of parts that are sent concurrently, not counting the part that is
    /// being filled.
    fn parts_at_once(&self) -> usize {
        2
    }

    /// Receives the number of files and symbolic links before the first part.
    fn set_file_count(&self, files: u64) {
        let _ = files;
    }

    /// Receives one part. Calls begin in the order of `number`; concurrent ones may end in
    /// any order.
    async fn part(&self, number: u32, bytes: Bytes) -> Result<()>;
}

/// Writes an archive to a file, a pipe or memory.
#[derive(Debug)]
pub struct WriteSink<W>(Mutex<W>);

impl<W: Write + Send> WriteSink<W> {
    /// Makes a sink that writes to `writer`.
    pub fn new(writer: W) -> Self {
        Self(Mutex::new(writer))
    }

    /// Returns the writer.
    pub fn into_inner(self) -> W {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl<W: Write + Send> PartSink for WriteSink<W> {
    fn part_bytes(&self, _number: u32) -> usize {
        256 * 1024
    }

    fn parts_at_once(&self) -> usize {
        1
    }

    async fn part(&self, _number: u32, bytes: Bytes) -> Result<()> {
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write_all(&bytes).map_err(|error| {
            Error::new(ErrorKind::Transport, "the archive cannot be written").with_source(error)
        })
    }
}

/// The options of the writer must be set before.
#[async_trait]
impl PartSink for MultipartWriter {
    async fn part(&self, number: u32, bytes: Bytes) -> Result<()> {
        MultipartWriter::part(self, number, bytes).await
    }
}

/// The object that an archive is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveDestination {
    /// The bucket.
    pub bucket: BucketName,
    /// The key.
    pub key: ObjectKey,
    /// Metadata, precondition and encryption.
    pub options: PutOptions,
    /// Name of the user metadata that records the number of files; `None` records nothing.
    pub files_metadata: Option<String>,
    /// Name of the user metadata with the record by which a later archive reuses this one;
    /// `None` records nothing. Left out where the metadata would exceed S3's limit.
    pub record_metadata: Option<String>,
}

/// Maximum size of user metadata, names and values together, in bytes (S3 user guide, "Working
/// with object metadata").
const MAX_METADATA_BYTES: usize = 2048;

/// Size of the [`WRITE_ID`], which is added to the metadata of a write, in bytes.
const WRITE_ID_BYTES: usize = WRITE_ID.len() + 32;

/// Sets the options of a writer once the number of files is known.
pub(super) struct CountedUpload<'a> {
    pub(super) destination: &'a ArchiveDestination,
    pub(super) writer: &'a MultipartWriter,
    pub(super) record: &'a ListingRecord,
}

#[async_trait]
impl PartSink for CountedUpload<'_> {
    fn set_file_count(&self, files: u64) {
        let mut options = self.destination.options.clone();
        if let Some(name) = &self.destination.files_metadata {
            let user = &mut options.metadata.user;
            user.insert(name.clone(), files.to_string());
        }
        if let Some(name) = &self.destination.record_metadata {
            let user = &mut options.metadata.user;
            let sizes = user.iter().map(|(name, value)| name.len() + value.len());
            let taken = sizes.sum::<usize>() + name.len() + WRITE_ID_BYTES;
            let record = self.record.encode(MAX_METADATA_BYTES.saturating_sub(taken));
            user.extend(record.map(|record| (name.clone(), record)));
        }
        self.writer.set_options(options);
    }

    async fn part(&self, number: u32, bytes: Bytes) -> Result<()> {
        self.writer.part(number, bytes).await
    }
}
