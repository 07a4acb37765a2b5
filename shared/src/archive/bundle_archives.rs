//! Archives for remotes that keep one beside each ref.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::build::{ArchiveJob, stream};
use super::odb_source::DatabaseFiles;
use super::upload::PartSink;
use super::{commit, export_subst};
use crate::codecommit::{Commit, MAX_BLOB_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::ObjectKind;
use crate::git::odb::Database;
use crate::remote::s3_bundle;
use crate::storage::multipart::MultipartWriter;

/// What unwritten files may hold, at least and at most.
const MEMORY: std::ops::RangeInclusive<u64> = (4 << 20)..=(16 << 20);
/// How many files are looked at, at once: a database reads one after the other.
const READS: usize = 8;

/// Makes archives of what lies in an object database, one at a time.
#[derive(Debug)]
pub struct ZipArchiver {
    memory_bytes: u64,
    turn: Arc<Semaphore>,
}

impl ZipArchiver {
    /// Holds about `memory` bytes of unwritten files (at least 4 MiB, at most 16), and
    /// beside them what every archive takes: see [`crate::archive`].
    pub fn new(memory: usize) -> Self {
        Self {
            memory_bytes: (memory as u64).clamp(*MEMORY.start(), *MEMORY.end()),
            turn: Arc::new(Semaphore::new(1)),
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
        let commit = commit::parse(id, &content)?;
        let subject = export_subst::subject(&commit.message).0;
        let subject = String::from_utf8_lossy(&subject);
        Ok(Some(Box::new(Prepared {
            summary: format!("{} {subject}", objects.abbreviated(id)),
            commit,
            // What is held elsewhere is held here: in other pieces, a file may deflate to
            // other bytes.
            files: DatabaseFiles::new(Arc::clone(objects), MAX_BLOB_BYTES),
            memory_bytes: self.memory_bytes,
            turn: Arc::clone(&self.turn),
        })))
    }
}

/// An archive that was not made yet.
struct Prepared {
    commit: Commit,
    summary: String,
    files: DatabaseFiles,
    memory_bytes: u64,
    turn: Arc<Semaphore>,
}

#[async_trait]
impl s3_bundle::CommitArchive for Prepared {
    fn summary(&self) -> &str {
        &self.summary
    }

    async fn send(&self, upload: &MultipartWriter) -> Result<(u32, Bytes)> {
        let _turn = self.turn.acquire().await.map_err(|error| {
            Error::new(ErrorKind::Internal, "archives are made no more").with_source(error)
        })?;
        let job = ArchiveJob {
            commit: &self.commit,
            prefix: "",
            extra_files: &[],
            concurrency: READS,
            memory_bytes: self.memory_bytes,
            large_files: Some(&self.files),
        };
        let sink = Parts(upload);
        let sent = Box::pin(stream(&self.files, &job, &sink)).await;
        let (_, last, rest) = sent.map_err(|error| {
            let commit = self.commit.commit_id;
            error.context(format!("archiving {commit}"))
        })?;
        Ok((last, rest))
    }
}

/// The parts of an upload.
struct Parts<'a>(&'a MultipartWriter);

#[async_trait]
impl PartSink for Parts<'_> {
    async fn part(&self, number: u32, bytes: Bytes) -> Result<()> {
        self.0.part(number, bytes).await
    }
}
