//! Puts an archive together: lists, fetches, compresses and sends, all at the same time.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::export_subst;
use super::fetch::{Fetcher, NextContent};
use super::plan::{ArchiveItem, ArchivePlan, ExtraFile, plan};
use super::streamed_entry::{FileBody, LargeFiles};
use super::tree_source::{CodeCommitTree, TreeSource};
use super::upload::{ArchiveDestination, ArchiveUpload, PartSink};
use super::walk::{Tree, walk};
use super::zip::{EntryDefaults, PackedEntry, ZipEntryWriter};
use crate::codecommit::{CodeCommit, Commit, EntryMode};
use crate::error::{Error, ErrorKind, Result};
use crate::name::RepositoryName;
use crate::storage::{ObjectStore, PutResult};

/// What to archive, and how.
#[derive(Debug, Clone)]
pub struct ArchiveRequest {
    /// The repository.
    pub repository: RepositoryName,
    /// The commit; everything is read at its id, never at a branch.
    pub commit: Commit,
    /// What every path starts with, as `git archive --prefix`; empty for nothing.
    pub prefix: String,
    /// Files that are added at the end; one replaces a file of the same path.
    pub extra_files: Vec<ExtraFile>,
    /// How many requests to begin at once. The service's pace may let fewer through.
    pub concurrency: usize,
    /// How many bytes fetched but unwritten files may hold, in bytes.
    pub memory_bytes: u64,
    /// When to give up.
    pub deadline: Option<Instant>,
    /// Where files are read that the API refuses as too large. Without it they end the
    /// archive with `FileTooLarge`.
    pub large_files: Option<Arc<dyn LargeFiles>>,
}

impl ArchiveRequest {
    /// The archive of `commit` without prefix and extra files: 32 requests at once,
    /// 16 MiB, no deadline.
    pub fn new(repository: RepositoryName, commit: Commit) -> Self {
        Self {
            repository,
            commit,
            prefix: String::new(),
            extra_files: Vec::new(),
            concurrency: 32,
            memory_bytes: 16 * 1024 * 1024,
            deadline: None,
            large_files: None,
        }
    }
}

/// What an archive turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The size of the zip.
    pub size_bytes: u64,
    /// Files and symbolic links in it.
    pub files: u64,
    /// All entries, folders and submodules included.
    pub entries: u64,
    /// Requests made to CodeCommit, not counting what its pace tried again.
    pub requests: u64,
    /// The most bytes that fetched but unwritten files held at once, as accounted.
    pub peak_held_bytes: u64,
}

/// An archive that has become an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// What the store answered.
    pub written: PutResult,
    /// What is in it.
    pub summary: Summary,
    /// Requests made to the object store for the archive itself.
    pub store_requests: u64,
}

/// Archives a commit as one object of `store`.
///
/// Errors leave neither an object nor an upload behind; so does dropping the future, as
/// far as the runtime goes on. `FileTooLarge` names the file that the API does not serve
/// (or that cannot be held, where it must be, when [`ArchiveRequest::large_files`] does),
/// `Conflict` means that the precondition did not hold, `Deadline` that time was up.
pub async fn build(
    codecommit: &dyn CodeCommit,
    store: &Arc<dyn ObjectStore>,
    request: &ArchiveRequest,
    target: &ArchiveDestination,
) -> Result<Built> {
    let mut upload = ArchiveUpload::new(Arc::clone(store), target.clone());
    let built = in_time(request, async {
        let files = files(codecommit, request);
        let (summary, next, rest) = Box::pin(stream(&files, &request.job(), &upload)).await?;
        let written = upload.complete(next, rest).await?;
        Ok((written, summary))
    })
    .await;
    match built {
        Ok((written, summary)) => {
            upload.forget();
            Ok(Built {
                written,
                summary,
                store_requests: upload.requests(),
            })
        }
        Err(error) => {
            upload.abort().await;
            let commit = request.commit.commit_id;
            Err(error.context(format!("archiving `{}` at {commit}", request.repository)))
        }
    }
}

/// Archives a commit into `sink`.
pub async fn write(
    codecommit: &dyn CodeCommit,
    request: &ArchiveRequest,
    sink: &dyn PartSink,
) -> Result<Summary> {
    in_time(request, async {
        let files = files(codecommit, request);
        let (summary, next, rest) = Box::pin(stream(&files, &request.job(), sink)).await?;
        if !rest.is_empty() {
            sink.part(next, rest).await?;
        }
        Ok(summary)
    })
    .await
}

async fn in_time<T>(request: &ArchiveRequest, work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = match request.deadline {
        None => work.await,
        Some(deadline) => tokio::time::timeout_at(deadline.into(), work)
            .await
            .unwrap_or_else(|_| Err(deadline_error())),
    };
    if let Some(large_files) = &request.large_files {
        large_files.close().await;
    }
    done
}

fn deadline_error() -> Error {
    Error::new(ErrorKind::Deadline, "the archive was not complete in time")
        .with_hint("give the function more time and memory: memory brings processors")
}

fn files<'a>(codecommit: &'a dyn CodeCommit, request: &'a ArchiveRequest) -> CodeCommitTree<'a> {
    CodeCommitTree {
        service: codecommit,
        repository: &request.repository,
        commit: request.commit.commit_id,
    }
}

/// What to archive, wherever its files are read.
#[derive(Clone, Copy)]
pub(super) struct ArchiveJob<'a> {
    pub(super) commit: &'a Commit,
    pub(super) prefix: &'a str,
    pub(super) extra_files: &'a [ExtraFile],
    pub(super) concurrency: usize,
    pub(super) memory_bytes: u64,
    pub(super) large_files: Option<&'a dyn LargeFiles>,
}

impl ArchiveRequest {
    fn job(&self) -> ArchiveJob<'_> {
        ArchiveJob {
            commit: &self.commit,
            prefix: &self.prefix,
            extra_files: &self.extra_files,
            concurrency: self.concurrency,
            memory_bytes: self.memory_bytes,
            large_files: self.large_files.as_deref(),
        }
    }
}

/// Sends all parts but the last, which is returned with its number.
pub(super) async fn stream(
    files: &dyn TreeSource,
    job: &ArchiveJob<'_>,
    sink: &dyn PartSink,
) -> Result<(Summary, u32, Bytes)> {
    let commit = job.commit;
    let seconds = export_subst::seconds(&commit.committer.date).ok_or_else(|| {
        Error::new(
            ErrorKind::Corrupt,
            format!("commit {} has no committer date", commit.commit_id),
        )
    })?;
    let stamp = EntryDefaults::new(seconds);
    let tree = walk(files, commit.tree_id, job.concurrency).await?;
    let plan = plan(&tree, job.prefix, job.extra_files)?;
    sink.set_file_count(plan.files());
    let fetcher = Fetcher::new(
        (files, job.large_files),
        commit,
        stamp,
        (&tree, &plan),
        (job.concurrency, job.memory_bytes),
    );
    let run = ArchiveWriter {
        job: *job,
        tree: &tree,
        plan: &plan,
        stamp,
        fetcher,
        archive: ZipEntryWriter::new(stamp),
        streaming: None,
        next: 0,
        files: 0,
        part: 1,
        sink,
        sending: FuturesUnordered::new(),
    };
    Box::pin(run.run()).await
}

/// An archive under way.
struct ArchiveWriter<'a, S> {
    job: ArchiveJob<'a>,
    tree: &'a Tree,
    plan: &'a ArchivePlan,
    stamp: EntryDefaults,
    fetcher: Fetcher<'a>,
    archive: ZipEntryWriter,
    // What is left of the content of the last item, when that is a large file.
    streaming: Option<FileBody>,
    // The item to write next.
    next: usize,
    files: u64,
    // The number of the part that is being filled.
    part: u32,
    sink: &'a dyn PartSink,
    sending: FuturesUnordered<S>,
}

type Sending<'a> = futures_util::future::BoxFuture<'a, Result<()>>;

impl<'a> ArchiveWriter<'a, Sending<'a>> {
    async fn run(mut self) -> Result<(Summary, u32, Bytes)> {
        loop {
            while self.send() && self.write_next()? {}
            if self.next == self.plan.items.len() && self.streaming.is_none() {
                break;
            }
            let awaited = self.next_content();
            self.fetcher.start(self.next, awaited.is_some());
            self.progress(awaited).await?;
        }
        let size_bytes = self
            .archive
            .finish(&self.job.commit.commit_id.to_string())?;
        while !self.send() || !self.sending.is_empty() {
            self.progress(None).await?;
        }
        let summary = Summary {
            size_bytes,
            files: self.files,
            entries: self.plan.items.len() as u64,
            requests: self.tree.requests + self.fetcher.requests(),
            peak_held_bytes: self.fetcher.peak_bytes(),
        };
        let rest = self.archive.take(usize::MAX);
        Ok((summary, self.part, rest.into()))
    }

    /// Sends full parts; returns whether there is room for more.
    fn send(&mut self) -> bool {
        loop {
            let size = self.sink.part_bytes(self.part);
            if self.archive.waiting() < size {
                return true;
            }
            if self.sending.len() >= self.sink.parts_at_once().max(1) {
                return false;
            }
            let bytes = self.archive.take(size).into();
            self.sending.push(self.sink.part(self.part, bytes));
            self.part += 1;
        }
    }

    /// What the next item needs.
    fn next_content(&self) -> Option<u32> {
        match self.plan.items.get(self.next) {
            Some(&ArchiveItem::File(_, _, content)) => Some(content),
            _ => None,
        }
    }

    /// Writes the next item, if there is one and what it needs is there.
    fn write_next(&mut self) -> Result<bool> {
        if self.streaming.is_some() {
            return Ok(false);
        }
        let Some(item) = self.plan.items.get(self.next) else {
            return Ok(false);
        };
        let extra = self.job.extra_files;
        let path = || self.plan.path(self.next, self.tree, self.job.prefix, extra);
        match *item {
            ArchiveItem::Prefix | ArchiveItem::Folder(_) | ArchiveItem::Submodule(..) => {
                let path = path();
                self.archive.add_folder(&path)?;
            }
            ArchiveItem::File(_, _, content) => {
                let Some(taken) = self.fetcher.take(content) else {
                    return Ok(false);
                };
                let path = path();
                match taken {
                    NextContent::Packed(packed) => self.archive.add_file(&path, &packed)?,
                    NextContent::Large(large) => {
                        self.archive.add_header(&path, large.kind, large.measured)?;
                        self.streaming = Some(large.packed());
                    }
                }
                self.files += 1;
            }
            ArchiveItem::Extra(index) => {
                let file = &extra[index as usize];
                let packed = PackedEntry::new(&file.bytes, EntryMode::File, self.stamp)?;
                self.archive.add_file(&file.path, &packed)?;
                self.files += 1;
            }
        }
        self.next += 1;
        Ok(true)
    }

    /// Waits until something has been fetched, compressed, written or sent.
    async fn progress(&mut self, awaited: Option<u32>) -> Result<()> {
        let room = self.archive.waiting() < self.sink.part_bytes(self.part);
        let streams = room && self.streaming.is_some();
        let streaming = &mut self.streaming;
        let piece = async {
            match streaming {
                Some(content) => content.next().await,
                None => None,
            }
        };
        tokio::select! {
            Some(sent) = self.sending.next(), if !self.sending.is_empty() => sent,
            piece = piece, if streams => {
                match piece.transpose()? {
                    Some(piece) => self.archive.append(&piece)?,
                    None => self.streaming = None,
                }
                Ok(())
            }
            Some(done) = self.fetcher.progress(awaited) => done,
            else => Err(Error::new(
                ErrorKind::Internal,
                "the archive waits for something that was never asked for",
            )),
        }
    }
}
