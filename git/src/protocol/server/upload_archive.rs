//! `git upload-archive`: serves `git archive --remote`.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};

use super::archive_arguments::{ARCHIVE_FORMATS, ArchiveArguments, ArchiveFormat};
use super::connection::{PacketReader, PacketWriter, RequestSize, SideBand};
use super::needs::refused;
use super::repository::{RefSnapshot, Repository};
use crate::error::Result;
use crate::object::{ObjectKind, Reference, references, tree_entries};
use crate::odb::Database;
use crate::protocol::pkt_line::Packet;
use crate::{ObjectId, corrupt, escaped_excerpt};

/// The mode of a tree in a tree.
const FOLDER: u32 = 0o40000;

/// An archive to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveOptions {
    /// The format.
    pub format: ArchiveFormat,
    /// Text before each path.
    pub prefix: String,
    /// The level of compression, 0 to 9.
    pub level: Option<u32>,
    /// The time of the entries, as git's options take dates; that of the commit if `None`.
    pub mtime: Option<String>,
    /// The commit; `None` for a tree without a commit, as of `main:directory`.
    pub commit: Option<ObjectId>,
    /// The tree to archive.
    pub tree: ObjectId,
    /// Pathspecs, of which one must match each path; none for all paths.
    pub paths: Vec<String>,
    /// The refs of the repository.
    pub refs: RefSnapshot,
}

/// A piece of an archive while it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchivePiece {
    /// Bytes of the archive.
    Data(Bytes),
    /// The path of an entry that was added, for `git archive -v`.
    Entry(String),
}

/// Pieces of an archive in order.
pub type ArchiveBody = BoxStream<'static, Result<ArchivePiece>>;

/// Makes archives of trees.
#[async_trait]
pub trait TreeArchiver: Send + Sync {
    /// Makes an archive of a tree whose objects `objects` has.
    ///
    /// # Errors
    /// `Config`, in git's words, for options that are not supported, and for a path that matches
    /// no file.
    async fn archive(
        &self,
        objects: Arc<Database>,
        options: &ArchiveOptions,
    ) -> Result<ArchiveBody>;
}

/// Makes archives by the arguments of a client.
#[async_trait]
pub trait ArchiveSource: Send + Sync {
    /// Makes the archive that `arguments` describe.
    ///
    /// # Errors
    /// `Config`, in git's words, for a tree that cannot be found, for options that are not
    /// supported, and for a path that matches no file.
    async fn archive(&self, arguments: &ArchiveArguments) -> Result<ArchiveBody>;
}

/// Archives of a repository's trees.
struct RepositoryArchives<'a> {
    repository: &'a dyn Repository,
    archiver: &'a dyn TreeArchiver,
}

#[async_trait]
impl ArchiveSource for RepositoryArchives<'_> {
    async fn archive(&self, arguments: &ArchiveArguments) -> Result<ArchiveBody> {
        let (database, options) = resolve(self.repository, arguments).await?;
        self.archiver.archive(database, &options).await
    }
}

/// Serves an archive of a ref, or of a directory in it (`main:directory`). As from git, an object
/// that no ref names is refused.
///
/// # Errors
/// The first failure, which was reported to the client.
pub async fn upload_archive<R, W>(
    repository: &dyn Repository,
    archiver: &dyn TreeArchiver,
    reader: R,
    writer: W,
) -> Result<()>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    let source = RepositoryArchives {
        repository,
        archiver,
    };
    serve_archive(&source, reader, writer).await
}

/// Serves one archive of `source`.
///
/// # Errors
/// The first failure, which was reported to the client.
pub async fn serve_archive<R, W>(source: &dyn ArchiveSource, reader: R, writer: W) -> Result<()>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    let mut writer = PacketWriter::new(writer);
    let mut reader = PacketReader::new(reader);
    let served = serve(source, &mut reader, &mut writer).await;
    if let Err(error) = &served {
        writer.error(error);
        writer.flush_packet();
        // The client may have closed the connection.
        let _ = writer.send().await;
    }
    served
}

async fn serve<R, W>(
    source: &dyn ArchiveSource,
    reader: &mut PacketReader<R>,
    writer: &mut PacketWriter<W>,
) -> Result<()>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    if reader.is_at_end().await? {
        return Ok(());
    }
    let mut lines = Vec::new();
    let mut size = RequestSize::default();
    loop {
        let packet = reader.expect().await?;
        match packet.text() {
            Some(line) => {
                size.add(line)?;
                let argument = line.strip_prefix(b"argument ");
                let unexpected = || corrupt("'argument' token or flush expected");
                lines.push(argument.ok_or_else(unexpected)?.to_vec());
            }
            None if packet == Packet::Flush => break,
            None => return Err(corrupt("'argument' token or flush expected")),
        }
    }
    writer.line("ACK\n");
    writer.flush_packet();
    writer.side_band = Some(SideBand::Large);
    let arguments = ArchiveArguments::parse(&lines)?;
    if arguments.lists_formats {
        let names = ARCHIVE_FORMATS.iter().map(|(name, _)| format!("{name}\n"));
        writer.band(SideBand::Large, 1, names.collect::<String>().as_bytes());
    } else {
        let mut body = source.archive(&arguments).await?;
        while let Some(piece) = body.next().await.transpose()? {
            match piece {
                ArchivePiece::Data(bytes) => writer.band(SideBand::Large, 1, &bytes),
                ArchivePiece::Entry(path) if arguments.verbose => {
                    writer.band(SideBand::Large, 2, format!("{path}\n").as_bytes());
                }
                ArchivePiece::Entry(_) => {}
            }
            writer.send_if_full().await?;
        }
    }
    writer.flush_packet();
    writer.send().await
}

/// Finds the tree to archive.
async fn resolve(
    repository: &dyn Repository,
    arguments: &ArchiveArguments,
) -> Result<(Arc<Database>, ArchiveOptions)> {
    let tree_ish = &arguments.tree_ish;
    let (name, path) = match tree_ish.split_once(':') {
        Some((name, path)) => (name, Some(path)),
        None => (tree_ish.as_str(), None),
    };
    let shown = |name: &str| escaped_excerpt(name.as_bytes());
    let snapshot = repository.refs(&[]).await?;
    let id = snapshot
        .resolve(name.as_bytes())
        .ok_or_else(|| refused(format!("no such ref: {}", shown(name))))?;
    let database = repository.objects(&[id]).await?;
    let (commit, tree) = tree_of(&database, id, path).await?;
    let options = ArchiveOptions {
        format: arguments.format,
        prefix: arguments.prefix.clone(),
        level: arguments.level,
        mtime: arguments.mtime.clone(),
        commit,
        tree,
        paths: arguments.paths.clone(),
        refs: snapshot,
    };
    Ok((database, options))
}

/// Finds the tree of a commit, a tag or a tree, or with `path` that of a folder in it. Returns the
/// commit, too, unless the tree is archived without one, as of `main:folder`.
///
/// # Errors
/// `NotFound` when the object `id` is missing; `Config`, in git's words, when `path` is not a folder.
pub async fn tree_of(
    database: &Database,
    id: ObjectId,
    path: Option<&str>,
) -> Result<(Option<ObjectId>, ObjectId)> {
    let (id, kind) = database.peel(id).await?;
    let mut commit = None;
    let mut tree = match kind {
        ObjectKind::Commit => {
            commit = Some(id);
            let content = database.read_kind(id, ObjectKind::Commit).await?;
            let mut tree = None;
            references(id.kind(), kind, &content, |reference| {
                if let Reference::Tree(id) = reference {
                    tree = Some(id);
                }
            })?;
            tree.ok_or_else(|| corrupt(format!("commit {id} has no tree")))?
        }
        ObjectKind::Tree => id,
        _ => return Err(refused(format!("not a tree object: {id}"))),
    };
    let Some(path) = path else {
        return Ok((commit, tree));
    };
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let content = database.read_kind(tree, ObjectKind::Tree).await?;
        let mut found = None;
        tree_entries(tree.kind(), &content, |entry| {
            if entry.name == name.as_bytes() && entry.mode == FOLDER {
                found = Some(entry.id);
            }
        })?;
        let shown = escaped_excerpt(path.as_bytes());
        tree = found.ok_or_else(|| refused(format!("not a folder: {shown}")))?;
    }
    Ok((None, tree))
}
