//! Makes an archive: from the archive of another commit where that is possible, else in full.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use super::archive_stream::{PreparedArchive, Summary, stream};
use super::full_read::FullRead;
use super::large_files_over_git::GitLargeFiles;
use super::previous_archive::PreviousArchive;
use super::request::ArchiveRequest;
use super::reuse::{ArchiveComparison, Fault, READER_BYTES, Stop};
use super::streamed_entry::LargeFiles as _;
use super::tree_source::CodeCommitTree;
use super::upload::{ArchiveDestination, CountedUpload, PartSink};
use crate::codecommit::CodeCommit;
use crate::error::{Error, ErrorKind, Result};
use crate::name::RepositoryName;
use crate::storage::multipart::MultipartWriter;
use crate::storage::{ObjectStore, PutResult};

/// An archive that was written as an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// `ETag` and version of the object.
    pub written: PutResult,
    /// Counts of the archive.
    pub summary: Summary,
    /// The files were read from one fetch by git.
    pub by_git: bool,
    /// Requests made to the object store to write the archive.
    pub store_requests: u64,
    /// Reason for which nothing of [`ArchiveRequest::previous`] was reused.
    pub full_run: Option<String>,
}

/// Archives a commit of `repository` as one object of `store`.
///
/// Neither an error nor dropping the future leaves an object or an upload behind, as long as
/// the runtime continues.
///
/// # Errors
/// `FileTooLarge`, with the path, for a file that neither the API nor
/// [`ArchiveRequest::large_files`] can serve, or that is too large to be converted in memory;
/// `Conflict` when the precondition fails; `Deadline` after [`ArchiveRequest::deadline`].
pub async fn build(
    codecommit: &dyn CodeCommit,
    repository: &RepositoryName,
    store: &Arc<dyn ObjectStore>,
    request: &ArchiveRequest,
    destination: &ArchiveDestination,
) -> Result<Built> {
    let job = Build {
        codecommit,
        repository,
        store,
        request,
        destination,
        requests: AtomicU64::new(0),
    };
    let built = Box::pin(job.run()).await;
    close(request).await;
    built.map_err(|error| {
        let commit = request.commit.id;
        error.context(format!("archiving `{repository}` at {commit}"))
    })
}

/// Archives a commit of `repository` into `sink`. [`ArchiveRequest::previous`] is not used.
pub async fn write(
    codecommit: &dyn CodeCommit,
    repository: &RepositoryName,
    request: &ArchiveRequest,
    sink: &dyn PartSink,
) -> Result<Summary> {
    let written = in_time(request, async {
        let files = codecommit_tree(codecommit, repository, request);
        let (summary, last, rest) = Box::pin(stream(&files, request, sink)).await?;
        if !rest.is_empty() {
            sink.part(last, rest).await?;
        }
        Ok(summary)
    });
    let written = written.await;
    close(request).await;
    written
}

/// One object that is built.
struct Build<'a> {
    codecommit: &'a dyn CodeCommit,
    repository: &'a RepositoryName,
    store: &'a Arc<dyn ObjectStore>,
    request: &'a ArchiveRequest,
    destination: &'a ArchiveDestination,
    /// Requests to CodeCommit to compare the commit with that of the previous archive.
    requests: AtomicU64,
}

impl Build<'_> {
    async fn run(&self) -> Result<Built> {
        let mut full_run = None;
        if let Some(previous) = &self.request.previous {
            match Box::pin(self.reuse(previous)).await {
                Ok(built) => return Ok(built),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::FullRun(reason)) => {
                    reason.log(self.repository, self.request.commit.id.into());
                    full_run = Some(reason.to_string());
                }
            }
        }
        let built = self.upload(self.request, async {
            let mut prepared = Box::pin(self.full_read(self.request).prepare()).await?;
            prepared.tree.requests += self.requests.load(Ordering::Relaxed);
            Ok(prepared)
        });
        let built = Box::pin(built).await?;
        Ok(Built { full_run, ..built })
    }

    /// Builds the archive from `previous`.
    async fn reuse(&self, previous: &Arc<PreviousArchive>) -> Result<Built, Stop> {
        let comparison = ArchiveComparison {
            codecommit: self.codecommit,
            repository: self.repository,
            store: self.store,
            request: self.request,
            previous,
            requests: &self.requests,
        };
        let fault = Fault::default();
        let prepared = Box::pin(comparison.prepare(&fault));
        let prepared = in_time(self.request, async { Ok(prepared.await) });
        let reuse = prepared.await??;
        // The previous archive is read within the memory of the request.
        let memory_bytes = self.request.memory_bytes;
        let request = ArchiveRequest {
            memory_bytes: memory_bytes
                .saturating_sub(READER_BYTES)
                .max(memory_bytes / 4),
            ..self.request.clone()
        };
        let built = self.upload(&request, async {
            let files = reuse.plan.contents.len();
            Ok(PreparedArchive {
                fetched: Box::pin(self.full_read(&request).fetch_for(files)).await?,
                tree: reuse.tree,
                plan: reuse.plan,
                record: reuse.record,
                reused: Some(reuse.entries),
            })
        });
        Box::pin(built).await.map_err(|error| {
            let mut fault = fault.lock().unwrap_or_else(PoisonError::into_inner);
            fault.take().map_or(Stop::Failed(error), Stop::FullRun)
        })
    }

    fn full_read<'a>(&'a self, request: &'a ArchiveRequest) -> FullRead<'a> {
        FullRead {
            api: codecommit_tree(self.codecommit, self.repository, request),
            request,
        }
    }

    async fn upload(
        &self,
        request: &ArchiveRequest,
        prepared: impl Future<Output = Result<PreparedArchive>>,
    ) -> Result<Built> {
        let destination = self.destination;
        let (bucket, key) = (destination.bucket.clone(), destination.key.clone());
        let mut writer = MultipartWriter::new(Arc::clone(self.store), bucket, key);
        let written = in_time(request, async {
            let prepared = prepared.await?;
            let by_git = prepared.fetched.is_some();
            let files = codecommit_tree(self.codecommit, self.repository, request);
            let record = prepared.record.clone();
            let sink = CountedUpload {
                destination,
                writer: &writer,
                record: &record,
            };
            let streamed = Box::pin(prepared.stream(&files, request, &sink));
            let (summary, last, rest) = streamed.await?;
            let written = writer.complete(last, rest).await?;
            Ok((written, summary, by_git))
        });
        match written.await {
            Ok((written, summary, by_git)) => {
                writer.disarm();
                Ok(Built {
                    written,
                    summary,
                    by_git,
                    store_requests: writer.requests(),
                    full_run: None,
                })
            }
            Err(error) => {
                writer.abort().await;
                Err(error)
            }
        }
    }
}

/// Ends `work` at the deadline of `request`.
async fn in_time<T>(request: &ArchiveRequest, work: impl Future<Output = Result<T>>) -> Result<T> {
    match request.deadline {
        None => work.await,
        Some(deadline) => tokio::time::timeout_at(deadline.into(), work)
            .await
            .unwrap_or_else(|_| Err(deadline_error())),
    }
}

async fn close(request: &ArchiveRequest) {
    if let Some(large_files) = &request.large_files {
        large_files.close().await;
    }
    if let Some(over_git) = &request.over_git {
        over_git.close().await;
    }
}

fn deadline_error() -> Error {
    Error::new(ErrorKind::Deadline, "the archive was not complete in time")
        .with_hint("give the function more time and memory: memory brings processors")
}

fn codecommit_tree<'a>(
    service: &'a dyn CodeCommit,
    repository: &'a RepositoryName,
    request: &'a ArchiveRequest,
) -> CodeCommitTree<'a> {
    CodeCommitTree {
        service,
        repository,
        commit: request.commit.id.into(),
        costs: request.over_git.as_deref().map(GitLargeFiles::costs),
        head_start: request.head_start.as_deref(),
    }
}
