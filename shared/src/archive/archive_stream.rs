//! Streams an archive: fetches, copies, compresses and sends concurrently.

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::fetch::{Fetcher, NextContent};
use super::fetched_commit::FetchedCommit;
use super::lfs_files::LfsFiles;
use super::listed_tree::Tree;
use super::plan::{ArchiveItem, ArchivePlan, plan};
use super::request::ArchiveRequest;
use super::reuse::{ListingRecord, ReusedEntries};
use super::streamed_entry::FileBody;
use super::substitutions::Substitutions;
use super::tree_source::TreeSource;
use super::upload::PartSink;
use super::walk::walk;
use super::zip::{DEFLATE_LEVEL, EntryDefaults, PackedEntry, ZipEntryWriter};
use crate::error::{Error, ErrorKind, Result};

/// Counts of a finished archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The size of the zip.
    pub size_bytes: u64,
    /// Number of files and symbolic links.
    pub files: u64,
    /// Number of those that were copied from [`ArchiveRequest::previous`].
    pub reused_files: u64,
    /// Number of all entries, including folders and submodules.
    pub entries: u64,
    /// Requests made to CodeCommit, without retries.
    pub requests: u64,
    /// Maximum size that fetched but unwritten files had at any time, as accounted.
    pub peak_held_bytes: u64,
}

/// Lists and plans a whole commit.
pub(super) async fn full(
    files: &dyn TreeSource,
    request: &ArchiveRequest,
) -> Result<(Tree, ArchivePlan)> {
    // Checked first, because the listing takes many requests.
    request.seconds()?;
    let tree = walk(files, request).await?;
    planned(tree, request)
}

/// Plans a listed commit.
pub(super) fn planned(mut tree: Tree, request: &ArchiveRequest) -> Result<(Tree, ArchivePlan)> {
    if request.tree_only {
        tree.conversions.remove_subst();
    }
    let (prefix, extra) = (&request.prefix, &request.extra_files);
    let plan = plan(&tree, prefix, extra, &request.paths)?;
    Ok((tree, plan))
}

/// Sends all parts but the last, which is returned with its number.
pub(super) async fn stream(
    files: &dyn TreeSource,
    request: &ArchiveRequest,
    sink: &dyn PartSink,
) -> Result<(Summary, u32, Bytes)> {
    let (tree, plan) = full(files, request).await?;
    stream_plan(files, request, sink, &tree, &plan, None).await
}

/// An archive whose entries are known.
pub(super) struct PreparedArchive {
    pub(super) tree: Tree,
    pub(super) plan: ArchivePlan,
    pub(super) record: ListingRecord,
    /// The entries that the plan copies.
    pub(super) reused: Option<ReusedEntries>,
    /// The commit, if it was fetched by git.
    pub(super) fetched: Option<FetchedCommit>,
}

impl PreparedArchive {
    /// Sends all parts but the last, which is returned with its number.
    pub(super) async fn stream(
        self,
        files: &dyn TreeSource,
        request: &ArchiveRequest,
        sink: &dyn PartSink,
    ) -> Result<(Summary, u32, Bytes)> {
        let (tree, plan) = (&self.tree, &self.plan);
        let files = self.fetched.as_ref().map_or(files, |fetched| fetched as _);
        stream_plan(files, request, sink, tree, plan, self.reused).await
    }
}

async fn stream_plan(
    files: &dyn TreeSource,
    request: &ArchiveRequest,
    sink: &dyn PartSink,
    tree: &Tree,
    plan: &ArchivePlan,
    reused: Option<ReusedEntries>,
) -> Result<(Summary, u32, Bytes)> {
    let level = request.level.unwrap_or(DEFLATE_LEVEL);
    let defaults = EntryDefaults::new(request.seconds()?, level);
    let lfs = LfsFiles::find(files, request, tree, plan).await?;
    let substitutions = Substitutions::read(files, request, (tree, plan), &lfs).await?;
    sink.set_file_count(plan.files());
    let writer = ArchiveWriter {
        request,
        tree,
        plan,
        defaults,
        fetcher: Fetcher::new(files, request, defaults, (tree, plan), (substitutions, lfs)),
        archive: ZipEntryWriter::new(defaults),
        streaming: None,
        reused,
        copying: None,
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
    // Entries of a previous archive.
    reused: Option<ReusedEntries>,
    // Number of the entry of the previous archive whose remaining bytes are the last item's.
    copying: Option<u32>,
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
            if self.is_complete() {
                if let Some(reused) = &self.reused {
                    reused.check_tree(self.tree, self.plan, &self.request.commit)?;
                }
                break;
            }
            let awaited = self.next_content();
            self.fetcher.start(self.next, awaited.is_some());
            self.progress(awaited).await?;
        }
        let comment = if self.request.tree_only {
            String::new()
        } else {
            self.request.commit.id.to_string()
        };
        let size_bytes = self.archive.finish(&comment)?;
        while !self.send() || !self.sending.is_empty() {
            self.progress(None).await?;
        }
        let summary = Summary {
            size_bytes,
            files: self.files,
            reused_files: self.plan.reused(),
            entries: self.plan.items.len() as u64,
            requests: self.tree.requests + self.fetcher.requests(),
            peak_held_bytes: self.fetcher.peak_bytes(),
        };
        let rest = self.archive.take(usize::MAX);
        Ok((summary, self.part, rest.into()))
    }

    /// Returns whether all items are written, and the previous archive is checked to its end.
    fn is_complete(&self) -> bool {
        self.next == self.plan.items.len()
            && self.streaming.is_none()
            && self.copying.is_none()
            && self.reused.as_ref().is_none_or(ReusedEntries::ended)
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
        if let Some(number) = self.copying {
            return self.copy(number, None);
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
                let Some(ready) = self.fetcher.take(self.next, content) else {
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
            ArchiveItem::Reused(_, _, number) => {
                let path = path();
                if !self.copy(number, Some(&path))? {
                    return Ok(false);
                }
                self.files += 1;
            }
            ArchiveItem::Extra(index) => {
                let file = &extra[index as usize];
                let packed = PackedEntry::new(&file.bytes, file.mode(), self.defaults)?;
                self.archive.add_file(&file.path, &packed)?;
                self.files += 1;
            }
        }
        self.next += 1;
        Ok(true)
    }

    /// Copies the next bytes of entry `number` of the previous archive, after a header for
    /// `path` before the first ones; returns false while none are read.
    fn copy(&mut self, number: u32, path: Option<&str>) -> Result<bool> {
        let Some(reused) = &mut self.reused else {
            let message = "the archive copies from no previous one";
            return Err(Error::new(ErrorKind::Internal, message));
        };
        let Some(piece) = reused.take(number)? else {
            return Ok(false);
        };
        if let Some(path) = path {
            let entry = reused.entry(number);
            self.archive.add_header(path, entry.mode, entry.sizes)?;
        }
        self.archive.append(&piece.bytes)?;
        self.copying = (!piece.ends).then_some(number);
        Ok(true)
    }

    /// Waits until something has been fetched, compressed, read, written or sent.
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
        let copies = room && self.reused.as_ref().is_some_and(ReusedEntries::is_hungry);
        let reused = &mut self.reused;
        let read = async {
            match reused {
                Some(reused) => reused.read().await,
                None => Ok(()),
            }
        };
        tokio::select! {
            read = read, if copies => read,
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
