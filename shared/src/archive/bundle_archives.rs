//! Archives that the bundle layout keeps next to each bundle (`s3+zip` remotes).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::archive_stream::stream;
use super::odb_source::DatabaseFiles;
use super::request::ArchiveRequest;
use crate::codecommit::MAX_BLOB_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::{Commit, ObjectKind};
use crate::git::odb::Database;
use crate::pipeline::revision_summary;
use crate::remote::s3_bundle;
use crate::storage::multipart::MultipartWriter;

/// Bounds of the memory for unwritten files, in bytes.
const MEMORY_BYTES: std::ops::RangeInclusive<u64> = (4 << 20)..=(16 << 20);
/// Maximum number of files that are fetched concurrently; a database reads one at a time.
const CONCURRENT_READS: usize = 8;

/// Makes archives of commits in an object database, one at a time.
#[derive(Debug)]
pub struct ZipArchiver {
    memory_bytes: u64,
    build_slot: Arc<Semaphore>,
}

impl ZipArchiver {
    /// Limits the bytes of unwritten files to about `memory_bytes` (at least 4 MiB, at most
    /// 16). Each archive takes more than that: see [`crate::archive`].
    pub fn new(memory_bytes: usize) -> Self {
        Self {
            memory_bytes: (memory_bytes as u64).clamp(*MEMORY_BYTES.start(), *MEMORY_BYTES.end()),
            build_slot: Arc::new(Semaphore::new(1)),
        }
    }
}

#[async_trait]
impl s3_bundle::Archiver for ZipArchiver {
    async fn open(
        &self,
        objects: &Arc<Database>,
        id: ObjectId,
    ) -> Result<Option<Box<dyn s3_bundle::CommitArchive>>> {
        let (id, kind) = objects.peel(id).await?;
        if kind != ObjectKind::Commit {
            return Ok(None);
        }
        let content = objects.read_kind(id, ObjectKind::Commit).await?;
        let commit = Commit::decode(id, &content)?;
        // The limit is that of the API, because a file that is deflated in other pieces may
        // deflate to other bytes.
        let files = Arc::new(DatabaseFiles::new(Arc::clone(objects), MAX_BLOB_BYTES));
        Ok(Some(Box::new(PreparedArchive {
            summary: revision_summary(&objects.abbreviated(id), &commit),
            request: ArchiveRequest {
                concurrency: CONCURRENT_READS,
                memory_bytes: self.memory_bytes,
                large_files: Some(Arc::clone(&files) as _),
                ..ArchiveRequest::new(commit)
            },
            files,
            build_slot: Arc::clone(&self.build_slot),
        })))
    }
}

/// An archive that is not yet made.
struct PreparedArchive {
    summary: String,
    request: ArchiveRequest,
    files: Arc<DatabaseFiles>,
    build_slot: Arc<Semaphore>,
}

#[async_trait]
impl s3_bundle::CommitArchive for PreparedArchive {
    fn summary(&self) -> &str {
        &self.summary
    }

    async fn send(&self, upload: &MultipartWriter) -> Result<(u32, Bytes)> {
        let _slot = self.build_slot.acquire().await.map_err(|error| {
            Error::new(ErrorKind::Internal, "the archiver was closed").with_source(error)
        })?;
        let sent = Box::pin(stream(&*self.files, &self.request, upload)).await;
        let (_, last, rest) = sent.map_err(|error| {
            let commit = self.request.commit.id;
            error.context(format!("archiving {commit}"))
        })?;
        Ok((last, rest))
    }
}
