//! Archives from an object database, also for `git archive --remote`: tar, compressed tar and zip,
//! of a commit or of a tree.
//!
//! Memory: that of [`crate::archive`] for a zip; for a tar the listing of the tree, the files that
//! are read ahead, of 6 MiB at most, and one of at most 32 MiB. Larger files are streamed.

use std::borrow::Cow;
use std::io::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use gix_filter::eol::AttributesDigest;
use tokio::sync::mpsc;

use super::archive_stream::stream;
use super::convert::{Conversion, LargeConversion};
use super::history::DatabaseHistory;
use super::lfs_files::{LfsFile, LfsFiles};
use super::listed_tree::Tree;
use super::odb_source::DatabaseFiles;
use super::pathspec::PathSelection;
use super::plan::{ArchiveItem, ExtraFile, PlannedContent, plan};
use super::request::ArchiveRequest;
use super::streamed_entry::{FileBody, LargeFile, LargeFiles, MAX_CONVERTED_BYTES};
use super::submodules::SubmoduleCommit;
use super::substitutions::Substitutions;
use super::tar::TarWriter;
use super::tree_source::TreeSource;
use super::upload::PartSink;
use super::walk::walk;
use crate::codecommit::{MAX_BLOB_BYTES, Unlimited};
use crate::error::{Error, ErrorKind, Result};
use crate::git::date::LocalTime;
use crate::git::object::{Commit, EntryMode, ObjectKind, Signature};
use crate::git::odb::Database;
use crate::git::server::{ArchiveBody, ArchiveFormat, ArchiveOptions, ArchivePiece, TreeArchiver};
use crate::git::{HashKind, ObjectId};

/// Bytes of a piece of an archive.
const PIECE_BYTES: usize = 256 * 1024;
/// Maximum number of files that are read ahead.
const CONCURRENT_READS: usize = 8;

/// Makes archives for clients of git's protocol.
#[derive(Debug, Clone)]
pub struct ServedArchives {
    now: LocalTime,
}

impl ServedArchives {
    /// Makes archives; those of trees without a commit have the time `now`.
    pub fn new(now: LocalTime) -> Self {
        Self { now }
    }
}

#[async_trait]
impl TreeArchiver for ServedArchives {
    async fn archive(
        &self,
        objects: Arc<Database>,
        options: &ArchiveOptions,
    ) -> crate::git::Result<ArchiveBody> {
        let history = DatabaseHistory::new(Arc::clone(&objects), options.refs.clone());
        let request = ArchiveRequest {
            prefix: options.prefix.clone(),
            history: Some(Arc::new(history)),
            paths: PathSelection::new(&options.paths)?,
            time: time(options.mtime.as_deref(), &self.now)?,
            level: options.level,
            ..stored_archive(&objects, options.commit, options.tree, self.now.seconds()).await?
        };
        Ok(archive_objects(objects, request, options.format))
    }
}

/// Parses the date of `--mtime`.
pub(super) fn time(mtime: Option<&str>, now: &LocalTime) -> Result<Option<i64>> {
    Ok(mtime.map(|text| now.parse(text)).transpose()?)
}

/// Makes a request for a commit, or for a tree without one, whose objects `objects` has. Entries of
/// a tree without a commit have the time `now`, in seconds since the epoch.
pub async fn stored_archive(
    objects: &Database,
    commit: Option<ObjectId>,
    tree: ObjectId,
    now: i64,
) -> Result<ArchiveRequest> {
    let tree_only = commit.is_none();
    let commit = match commit {
        Some(id) => {
            let content = objects.read_kind(id, ObjectKind::Commit).await?;
            Commit::decode(id, &content)?
        }
        None => commit_of_tree(tree, now),
    };
    Ok(ArchiveRequest {
        concurrency: CONCURRENT_READS,
        tree_only,
        ..ArchiveRequest::new(commit)
    })
}

/// Archives a tree whose objects `objects` has. The archive is abandoned when the stream is
/// dropped.
pub fn archive_objects(
    objects: Arc<Database>,
    request: ArchiveRequest,
    format: ArchiveFormat,
) -> ArchiveBody {
    let files = DatabaseFiles::new(Arc::clone(&objects), MAX_BLOB_BYTES);
    let large_files = DatabaseFiles::new(objects, MAX_BLOB_BYTES);
    let request = ArchiveRequest {
        large_files: Some(Arc::new(large_files)),
        ..request
    };
    body(Arc::new(files), request, format)
}

/// Makes an archive while it is read.
pub(super) fn body(
    files: Arc<dyn TreeSource>,
    request: ArchiveRequest,
    format: ArchiveFormat,
) -> ArchiveBody {
    let (sender, receiver) = mpsc::channel(2);
    let work = async move {
        let made = match format {
            ArchiveFormat::Zip => zip(&*files, &request, &sender).await,
            ArchiveFormat::Tar => tar(files, &request, &sender, None).await,
            ArchiveFormat::TarGz => {
                let level = Compression::new(request.level.unwrap_or(6));
                // Git's header: no time, and Unix as the system.
                let gzip = GzBuilder::new()
                    .operating_system(3)
                    .write(Vec::new(), level);
                tar(files, &request, &sender, Some(gzip)).await
            }
        };
        if let Some(large_files) = &request.large_files {
            large_files.close().await;
        }
        if let Err(error) = made {
            // Fails when the archive was abandoned.
            let _ = sender.send(Err(error.into())).await;
        }
    };
    let task = Task(tokio::spawn(work));
    let pieces = unfold((receiver, task), |(mut receiver, task)| async move {
        let next = receiver.recv().await?;
        Some((next, (receiver, task)))
    });
    pieces.boxed()
}

/// A task that is aborted when its archive is abandoned.
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Sender = mpsc::Sender<crate::git::Result<ArchivePiece>>;

async fn send(sender: &Sender, piece: ArchivePiece) -> Result<()> {
    sender
        .send(Ok(piece))
        .await
        .map_err(|_| Error::new(ErrorKind::Transport, "nobody reads the archive any more"))
}

/// Returns a commit that stands for a tree alone.
pub(super) fn commit_of_tree(tree: ObjectId, now: i64) -> Commit {
    let nobody = || Signature {
        name: String::new(),
        email: String::new(),
        date: format!("{now} +0000"),
    };
    Commit {
        id: tree,
        tree,
        parents: Vec::new(),
        author: nobody(),
        committer: nobody(),
        extra_headers: String::new(),
        message: String::new(),
    }
}

/// Sends the parts of a zip in order.
struct PieceSink<'a>(&'a Sender);

#[async_trait]
impl PartSink for PieceSink<'_> {
    fn part_bytes(&self, _number: u32) -> usize {
        PIECE_BYTES
    }

    fn parts_at_once(&self) -> usize {
        1
    }

    async fn part(&self, _number: u32, bytes: Bytes) -> Result<()> {
        send(self.0, ArchivePiece::Data(bytes)).await
    }
}

async fn zip(files: &dyn TreeSource, request: &ArchiveRequest, sender: &Sender) -> Result<()> {
    let (_, _, rest) = Box::pin(stream(files, request, &PieceSink(sender))).await?;
    send(sender, ArchivePiece::Data(rest)).await
}

/// Bytes of a tar on the way to the client.
struct TarOut<'a> {
    sender: &'a Sender,
    tar: TarWriter,
    gzip: Option<GzEncoder<Vec<u8>>>,
}

impl TarOut<'_> {
    /// Sends the bytes that were written, if they fill a piece or `all` are to be sent.
    async fn send(&mut self, all: bool) -> Result<()> {
        if self.tar.waiting() < PIECE_BYTES && !all {
            return Ok(());
        }
        let mut bytes = self.tar.take();
        if let Some(gzip) = &mut self.gzip {
            gzip.write_all(&bytes)
                .expect("because writing to a Vec cannot fail");
            bytes = std::mem::take(gzip.get_mut());
        }
        send(self.sender, ArchivePiece::Data(bytes.into())).await
    }

    /// Adds a file that is not in the repository.
    fn add_extra(&mut self, path: &str, file: &ExtraFile, hash: HashKind) -> Result<()> {
        let id = ObjectId::null(hash);
        let size = file.bytes.len() as u64;
        self.tar.add_entry(path, file.mode(), id, size, b"")?;
        self.tar.append(&file.bytes);
        self.tar.pad();
        Ok(())
    }

    async fn finish(mut self) -> Result<()> {
        self.tar.finish();
        self.send(true).await?;
        if let Some(gzip) = self.gzip {
            let bytes = gzip.finish().expect("because writing to a Vec cannot fail");
            send(self.sender, ArchivePiece::Data(bytes.into())).await?;
        }
        Ok(())
    }
}

/// The content of a file of a tar.
enum TarContent {
    InMemory(Bytes),
    Large(Arc<dyn LargeFile>),
}

impl TarContent {
    async fn read(
        files: &dyn TreeSource,
        large_files: Option<&dyn LargeFiles>,
        id: ObjectId,
    ) -> Result<Self> {
        match (files.file(id, &Unlimited).await, large_files) {
            (Err(error), Some(large_files)) if error.kind() == ErrorKind::FileTooLarge => {
                Ok(Self::Large(large_files.open(id).await?))
            }
            (read, _) => Ok(Self::InMemory(read?)),
        }
    }

    fn size_bytes(&self) -> u64 {
        match self {
            Self::InMemory(bytes) => bytes.len() as u64,
            Self::Large(file) => file.size_bytes(),
        }
    }

    fn pieces(self) -> FileBody {
        match self {
            Self::InMemory(bytes) => futures_util::stream::iter([Ok(bytes)]).boxed(),
            Self::Large(file) => file.content(),
        }
    }

    async fn into_bytes(self) -> Result<Bytes> {
        match self {
            Self::InMemory(bytes) => Ok(bytes),
            Self::Large(file) => {
                let mut bytes = BytesMut::new();
                let mut pieces = file.content();
                while let Some(piece) = pieces.next().await.transpose()? {
                    bytes.extend_from_slice(&piece);
                }
                Ok(bytes.freeze())
            }
        }
    }
}

/// A file of a tar that is read ahead.
struct TarRead {
    blob: ObjectId,
    submodule: Option<SubmoduleCommit>,
    object: Option<Arc<LfsFile>>,
}

impl TarRead {
    async fn read(
        self,
        files: Arc<dyn TreeSource>,
        large_files: Option<Arc<dyn LargeFiles>>,
    ) -> Result<TarContent> {
        if let Some(object) = self.object {
            return Ok(TarContent::Large(object));
        }
        let Some(submodule) = self.submodule else {
            return TarContent::read(&*files, large_files.as_deref(), self.blob).await;
        };
        let large_files = submodule.large_files.as_deref();
        TarContent::read(&*submodule.files, large_files, self.blob).await
    }
}

/// Returns the conversion of a file.
fn conversion_of(
    tree: &Tree,
    planned: PlannedContent,
    is_lfs: bool,
    request: &ArchiveRequest,
) -> Conversion {
    let mut conversion = tree.conversions.get(planned.conversion);
    if is_lfs {
        conversion = conversion.of_lfs_object();
    }
    if request.tree_only {
        conversion = conversion.without_subst();
    }
    conversion
}

async fn tar(
    files: Arc<dyn TreeSource>,
    request: &ArchiveRequest,
    sender: &Sender,
    gzip: Option<GzEncoder<Vec<u8>>>,
) -> Result<()> {
    let commit = &request.commit;
    let tree = walk(&*files, request).await?;
    let (prefix, extra) = (&request.prefix, &request.extra_files);
    let plan = plan(&tree, prefix, extra, &request.paths)?;
    let lfs = LfsFiles::find(&*files, request, &tree, &plan).await?;
    let substitutions = Substitutions::read(&*files, request, (&tree, &plan), &lfs).await?;
    let facts = substitutions.facts();
    let commits = tree.commits(commit);
    let comment = (!request.tree_only).then_some(commit.id);
    let mut out = TarOut {
        sender,
        tar: TarWriter::new(request.seconds()?, comment),
        gzip,
    };
    let blobs = plan.items.iter().filter_map(|item| match *item {
        ArchiveItem::File(_, _, content) => {
            let planned = plan.contents[content as usize];
            Some(TarRead {
                blob: planned.blob,
                submodule: tree.submodule(planned.source).cloned(),
                object: lfs.get(content),
            })
        }
        _ => None,
    });
    let blobs: Vec<_> = blobs.collect();
    let large_files = request.large_files.clone();
    let mut reads = futures_util::stream::iter(blobs)
        .map(move |read| read.read(Arc::clone(&files), large_files.clone()))
        .buffered(request.concurrency.max(1));
    for (number, item) in plan.items.iter().enumerate() {
        let path = plan.path(number, &tree, prefix, extra);
        let (planned, mode, is_lfs) = match *item {
            ArchiveItem::Prefix | ArchiveItem::Folder(_) | ArchiveItem::Submodule(..) => {
                let id = ObjectId::null(commit.tree.kind());
                out.tar.add_entry(&path, EntryMode::Tree, id, 0, b"")?;
                send(sender, ArchivePiece::Entry(path)).await?;
                out.send(false).await?;
                continue;
            }
            ArchiveItem::File(_, _, content) => {
                let planned = plan.contents[content as usize];
                (planned, planned.mode, lfs.has(content))
            }
            ArchiveItem::Extra(index) => {
                out.add_extra(&path, &extra[index as usize], commit.tree.kind())?;
                send(sender, ArchivePiece::Entry(path)).await?;
                out.send(false).await?;
                continue;
            }
            ArchiveItem::Reused(..) => continue,
        };
        let id = planned.blob;
        let content = reads
            .next()
            .await
            .expect("because each file is read once")
            .map_err(|error| error.context(format!("reading `{path}`")))?;
        let conversion = conversion_of(&tree, planned, is_lfs, request);
        let is_unchanged = mode == EntryMode::Link
            || conversion.of_large_file() == LargeConversion::LineEnds(AttributesDigest::Binary);
        let size = content.size_bytes();
        if size > MAX_CONVERTED_BYTES && is_unchanged && mode != EntryMode::Link {
            out.tar.add_entry(&path, mode, id, size, b"")?;
            let mut pieces = content.pieces();
            while let Some(piece) = pieces.next().await.transpose()? {
                out.tar.append(&piece);
                out.send(false).await?;
            }
        } else if size > MAX_CONVERTED_BYTES {
            let message = format!("`{path}` has {size} bytes, too many to be converted");
            return Err(Error::new(ErrorKind::FileTooLarge, message));
        } else {
            let bytes = content.into_bytes().await;
            let bytes = bytes.map_err(|error| error.context(format!("reading `{path}`")))?;
            let converted = if is_unchanged {
                Cow::Borrowed(&bytes[..])
            } else {
                let describes = substitutions.describes(number);
                let source = planned.source as usize;
                let known = facts.context_of(&commits[source], source, describes);
                conversion.apply(id, &bytes, known)?
            };
            let size = converted.len() as u64;
            out.tar.add_entry(&path, mode, id, size, &converted)?;
            if mode != EntryMode::Link {
                out.tar.append(&converted);
            }
        }
        out.tar.pad();
        send(sender, ArchivePiece::Entry(path)).await?;
        out.send(false).await?;
    }
    out.finish().await
}
