//! Archives for `git archive --remote`: tar, compressed tar and zip, of a commit or of a tree.
//!
//! Memory: that of [`crate::archive`] for a zip; for a tar the listing of the tree, and one file of
//! at most 32 MiB. Larger files are streamed.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use std::io::Write as _;
use tokio::sync::mpsc;

use super::build::stream;
use super::convert::LargeConversion;
use super::odb_source::DatabaseFiles;
use super::pathspec::PathSelection;
use super::plan::{ArchiveItem, plan};
use super::request::ArchiveRequest;
use super::streamed_entry::MAX_CONVERTED_BYTES;
use super::tar::TarWriter;
use super::upload::PartSink;
use super::walk::walk;
use crate::codecommit::MAX_BLOB_BYTES;
use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::git::ObjectId;
use crate::git::object::{Commit, EntryMode, ObjectKind, Signature};
use crate::git::odb::Database;
use crate::git::server::{ArchiveBody, ArchiveFormat, ArchiveOptions, ArchivePiece, TreeArchiver};
use gix_filter::eol::AttributesDigest;

/// Bytes of a piece of an archive.
const PIECE_BYTES: usize = 256 * 1024;
/// Maximum number of files that are read ahead.
const CONCURRENT_READS: usize = 8;

/// Makes archives for clients of git's protocol.
#[derive(Debug, Clone, Copy)]
pub struct ServedArchives {
    now: i64,
}

impl ServedArchives {
    /// Makes archives; those of trees without a commit have the time `now`, in seconds since the
    /// epoch.
    pub fn new(now: i64) -> Self {
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
        let commit = match options.commit {
            Some(id) => {
                let content = objects.read_kind(id, ObjectKind::Commit).await?;
                Commit::decode(id, &content)?
            }
            None => tree_only(options.tree, self.now),
        };
        let files = DatabaseFiles::new(Arc::clone(&objects), MAX_BLOB_BYTES);
        let request = ArchiveRequest {
            prefix: options.prefix.clone(),
            concurrency: CONCURRENT_READS,
            paths: PathSelection::new(&options.paths)?,
            time: options.time,
            tree_only: options.commit.is_none(),
            large_files: Some(Arc::new(DatabaseFiles::new(
                Arc::clone(&objects),
                MAX_BLOB_BYTES,
            ))),
            ..ArchiveRequest::new(commit)
        };
        let (sender, receiver) = mpsc::channel(2);
        let (format, level) = (options.format, options.level);
        let work = async move {
            let made = match format {
                ArchiveFormat::Zip => zip(&files, &request, &sender).await,
                ArchiveFormat::Tar => tar(&files, &objects, &request, &sender, None).await,
                ArchiveFormat::TarGz => {
                    let level = Compression::new(level.unwrap_or(6));
                    // Git's header: no time, and Unix as the system.
                    let gzip = GzBuilder::new()
                        .operating_system(3)
                        .write(Vec::new(), level);
                    tar(&files, &objects, &request, &sender, Some(gzip)).await
                }
            };
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
        Ok(pieces.boxed())
    }
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
fn tree_only(tree: ObjectId, now: i64) -> Commit {
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

async fn zip(files: &DatabaseFiles, request: &ArchiveRequest, sender: &Sender) -> Result<()> {
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

async fn tar(
    files: &DatabaseFiles,
    objects: &Arc<Database>,
    request: &ArchiveRequest,
    sender: &Sender,
    gzip: Option<GzEncoder<Vec<u8>>>,
) -> Result<()> {
    let commit = &request.commit;
    let tree = walk(files, commit.tree, request.concurrency).await?;
    let plan = plan(&tree, &request.prefix, &[], &request.paths)?;
    let comment = (!request.tree_only).then_some(commit.id);
    let mut out = TarOut {
        sender,
        tar: TarWriter::new(request.seconds()?, comment),
        gzip,
    };
    for (number, item) in plan.items.iter().enumerate() {
        let path = plan.path(number, &tree, &request.prefix, &[]);
        let (content, mode) = match *item {
            ArchiveItem::Prefix | ArchiveItem::Folder(_) | ArchiveItem::Submodule(..) => {
                let id = ObjectId::null(commit.tree.kind());
                out.tar.add_entry(&path, EntryMode::Tree, id, 0, b"")?;
                send(sender, ArchivePiece::Entry(path)).await?;
                out.send(false).await?;
                continue;
            }
            ArchiveItem::File(_, _, content) => {
                let content = plan.contents[content as usize];
                (content, content.mode)
            }
            ArchiveItem::Extra(_) => continue,
        };
        let id = content.blob;
        let missing = || corrupt(format!("blob {id} of `{path}` is missing"));
        let blob = objects.open(id).await?.ok_or_else(missing)?;
        let conversion = tree.conversions.get(content.conversion);
        let conversion = match request.tree_only {
            true => conversion.without_subst(),
            false => conversion,
        };
        let is_unchanged = mode == EntryMode::Link
            || conversion.of_large_file() == LargeConversion::LineEnds(AttributesDigest::Binary);
        let size = blob.size_bytes();
        if size > MAX_CONVERTED_BYTES && is_unchanged && mode != EntryMode::Link {
            out.tar.add_entry(&path, mode, id, size, b"")?;
            let mut pieces = blob.content();
            while let Some(piece) = pieces.next().await.transpose()? {
                out.tar.append(&piece);
                out.send(false).await?;
            }
        } else if size > MAX_CONVERTED_BYTES {
            let message = format!("`{path}` has {size} bytes, too many to be converted");
            return Err(Error::new(ErrorKind::FileTooLarge, message));
        } else {
            let bytes = objects.read_kind(id, ObjectKind::Blob).await?;
            let converted = match is_unchanged {
                true => std::borrow::Cow::Borrowed(&bytes[..]),
                false => conversion.apply(id, &bytes, commit)?,
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
