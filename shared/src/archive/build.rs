//! Makes an archive: lists, fetches, compresses and sends concurrently.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::fetch::{Fetcher, NextContent};
use super::plan::{ArchiveItem, ArchivePlan, plan};
use super::request::ArchiveRequest;
use super::streamed_entry::FileBody;
use super::tree_source::{CodeCommitTree, TreeSource};
use super::upload::{ArchiveDestination, CountedUpload, PartSink};
use super::walk::{Tree, walk};
use super::zip::{EntryDefaults, PackedEntry, ZipEntryWriter};
use crate::codecommit::CodeCommit;
use crate::error::{Error, ErrorKind, Result};
use crate::git::object::EntryMode;
use crate::name::RepositoryName;
use crate::storage::multipart::MultipartWriter;
use crate::storage::{ObjectStore, PutResult};

/// Counts of a finished archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The size of the zip.
    pub size_bytes: u64,
    /// Number of files and symbolic links.
    pub files: u64,
    /// Number of all entries, including folders and submodules.
    pub entries: u64,
    /// Requests made to CodeCommit, without retries.
    pub requests: u64,
    /// Maximum size that fetched but unwritten files had at any time, as accounted.
    pub peak_held_bytes: u64,
}

/// An archive that was written as an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// `ETag` and version of the object.
    pub written: PutResult,
    /// Counts of the archive.
    pub summary: Summary,
    /// Requests made to the object store for the archive itself.
    pub store_requests: u64,
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
    let (bucket, key) = (destination.bucket.clone(), destination.key.clone());
    let mut writer = MultipartWriter::new(Arc::clone(store), bucket, key);
    let built = with_deadline(request, async {
        let files = codecommit_tree(codecommit, repository, request);
        let sink = CountedUpload {
            destination,
            writer: &writer,
        };
        let (summary, last, rest) = Box::pin(stream(&files, request, &sink)).await?;
        let written = writer.complete(last, rest).await?;
        Ok((written, summary))
    })
    .await;
    match built {
        Ok((written, summary)) => {
            writer.disarm();
            Ok(Built {
                written,
                summary,
                store_requests: writer.requests(),
            })
        }
        Err(error) => {
            writer.abort().await;
            let commit = request.commit.id;
            Err(error.context(format!("archiving `{repository}` at {commit}")))
        }
    }
}

/// Archives a commit of `repository` into `sink`.
pub async fn write(
    codecommit: &dyn CodeCommit,
    repository: &RepositoryName,
    request: &ArchiveRequest,
    sink: &dyn PartSink,
) -> Result<Summary> {
    with_deadline(request, async {
        let files = codecommit_tree(codecommit, repository, request);
        let (summary, last, rest) = Box::pin(stream(&files, request, sink)).await?;
        if !rest.is_empty() {
            sink.part(last, rest).await?;
        }
        Ok(summary)
    })
    .await
}

async fn with_deadline<T>(
    request: &ArchiveRequest,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
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

fn codecommit_tree<'a>(
    service: &'a dyn CodeCommit,
    repository: &'a RepositoryName,
    request: &ArchiveRequest,
) -> CodeCommitTree<'a> {
    CodeCommitTree {
        service,
        repository,
        commit: request.commit.id.into(),
    }
}

/// Sends all parts but the last, which is returned with its number.
pub(super) async fn stream(
    files: &dyn TreeSource,
    request: &ArchiveRequest,
    sink: &dyn PartSink,
) -> Result<(Summary, u32, Bytes)> {
    let commit = &request.commit;
    let defaults = EntryDefaults::new(request.seconds()?);
    let mut tree = walk(files, commit.tree, request.concurrency).await?;
    if request.tree_only {
        tree.conversions.remove_subst();
    }
    let (prefix, extra) = (&request.prefix, &request.extra_files);
    let plan = plan(&tree, prefix, extra, &request.paths)?;
    sink.set_file_count(plan.files());
    let fetcher = Fetcher::new(files, request, defaults, &tree, &plan);
    let writer = ArchiveWriter {
        request,
        tree: &tree,
        plan: &plan,
        defaults,
        fetcher,
        archive: ZipEntryWriter::new(defaults),
        streaming: None,
        next: 0,
        files: 0,
        part: 1,
        sink,
        sending: FuturesUnordered::new(),
    };
    Box::pin(writer.run()).await
}

/// Writes the entries of a plan in order.
struct ArchiveWriter<'a> {
    request: &'a ArchiveRequest,
    tree: &'a Tree,
    plan: &'a ArchivePlan,
    defaults: EntryDefaults,
    fetcher: Fetcher<'a>,
    archive: ZipEntryWriter,
    // Remaining content of the last item, when that is a large file.
    streaming: Option<FileBody>,
    // Index of the item to write next.
    next: usize,
    files: u64,
    // Number of the part that is being filled.
    part: u32,
    sink: &'a dyn PartSink,
    sending: FuturesUnordered<BoxFuture<'a, Result<()>>>,
}

impl ArchiveWriter<'_> {
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
        let comment = match self.request.tree_only {
            true => String::new(),
            false => self.request.commit.id.to_string(),
        };
        let size_bytes = self.archive.finish(&comment)?;
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

    /// Starts sending the parts that are full; returns true when another part may be filled.
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

    /// Returns the content that the next item needs, if any.
    fn next_content(&self) -> Option<u32> {
        match self.plan.items.get(self.next) {
            Some(&ArchiveItem::File(_, _, content)) => Some(content),
            _ => None,
        }
    }

    /// Writes the next item; returns false when there is none, or its content is pending.
    fn write_next(&mut self) -> Result<bool> {
        if self.streaming.is_some() {
            return Ok(false);
        }
        let Some(item) = self.plan.items.get(self.next) else {
            return Ok(false);
        };
        let extra = &self.request.extra_files;
        let path = || {
            self.plan
                .path(self.next, self.tree, &self.request.prefix, extra)
        };
        match *item {
            ArchiveItem::Prefix | ArchiveItem::Folder(_) | ArchiveItem::Submodule(..) => {
                let path = path();
                self.archive.add_folder(&path)?;
            }
            ArchiveItem::File(_, _, content) => {
                let Some(ready) = self.fetcher.take(content) else {
                    return Ok(false);
                };
                let path = path();
                match ready {
                    NextContent::Packed(packed) => self.archive.add_file(&path, &packed)?,
                    NextContent::Large(large) => {
                        self.archive.add_header(&path, large.mode, large.sizes)?;
                        self.streaming = Some(large.packed());
                    }
                }
                self.files += 1;
            }
            ArchiveItem::Extra(index) => {
                let file = &extra[index as usize];
                let packed = PackedEntry::new(&file.bytes, EntryMode::Blob, self.defaults)?;
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
                "the archive waits for a content that was never requested",
            )),
        }
    }
}
