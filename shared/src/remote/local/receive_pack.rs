//! Received packs: written under a temporary name, verified, completed, published.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;

use super::blocking;
use super::durable_fs::{DurableFs, io_error};
use super::git_dir::GitDir;
use super::odb::LocalPackFile;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::dumb_http::{index_name, pack_name};
use crate::git::object::ObjectKind;
use crate::git::odb::{Database, StoredPack};
use crate::git::pack::{Bases, Index};
use crate::remote::{IncomingPack, ReceivedObjects, VerifiedPack};

/// Bytes of a pack written at once.
const WRITE_CHUNK_BYTES: usize = 1 << 20;

/// A temporary file, removed on drop unless it was renamed.
struct TemporaryFile {
    fs: Arc<dyn DurableFs>,
    path: PathBuf,
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // Ignored, because a renamed file does not exist under this name.
        let _ = self.fs.remove_file(&self.path);
    }
}

/// A complete, verified pack in a temporary file.
pub(super) struct ReceivedPack {
    pub(super) objects: u64,
    pub(super) bytes: u64,
    pub(super) received_objects: ReceivedObjects,
    /// Objects that the pack refers to and does not contain.
    pub(super) missing: Vec<ObjectId>,
    /// The pack; `None` if it has no objects.
    pub(super) pack: Option<StoredPack>,
    file: Arc<File>,
    temporary: TemporaryFile,
}

/// Bases of a thin pack: the objects of the repository.
struct RepositoryBases<'a>(&'a Database);

#[async_trait::async_trait]
impl Bases for RepositoryBases<'_> {
    async fn base(&self, id: ObjectId) -> crate::git::Result<Option<(ObjectKind, bytes::Bytes)>> {
        self.0.read(id).await
    }
}

/// Receives and verifies a pack, and completes a thin one. `before` are the objects that the
/// repository has, `roots` the objects that refs will name.
pub(super) async fn receive(
    fs: &Arc<dyn DurableFs>,
    git_dir: &GitDir,
    mut incoming: IncomingPack,
    before: &Database,
    roots: &[ObjectId],
) -> Result<ReceivedPack> {
    // Git's name for it, so that `git gc` removes leftovers.
    let name = format!("pack/tmp_pack_{:016x}", rand::random::<u64>());
    let path = git_dir.own_objects().join(name);
    let (file, temporary) = {
        let fs = Arc::clone(fs);
        blocking(move || {
            let created = path
                .parent()
                .map_or(Ok(()), |directory| fs.create_dir_all(directory))
                .and_then(|()| fs.create(&path));
            let file = created.map_err(|error| io_error("creating", &path, error))?;
            Ok((Arc::new(file), TemporaryFile { fs, path }))
        })
        .await?
    };
    let mut held = BytesMut::new();
    loop {
        let chunk = incoming.chunk().await?;
        let ended = chunk.is_none();
        held.extend_from_slice(&chunk.unwrap_or_default());
        if held.len() >= WRITE_CHUNK_BYTES || ended {
            let (fs, file) = (Arc::clone(fs), Arc::clone(&file));
            let (path, bytes) = (temporary.path.clone(), held.split().freeze());
            blocking(move || {
                fs.write(&file, &bytes)
                    .map_err(|error| io_error("writing", &path, error))
            })
            .await?;
        }
        if ended {
            break;
        }
    }
    let arrived: VerifiedPack = incoming.finish()?;
    let objects = arrived.received.objects() as u64;
    let bytes = arrived.received.size_bytes();
    let pack_bytes = LocalPackFile(Arc::clone(&file));
    let (resolved, received_objects, missing) = arrived
        .resolve(&pack_bytes, &RepositoryBases(before), roots)
        .await?;
    if let Some(completed) = resolved.completed {
        let (fs, file) = (Arc::clone(fs), Arc::clone(&file));
        let path = temporary.path.clone();
        blocking(move || {
            fs.set_len(&file, completed.body.end)
                .and_then(|()| fs.write_at(&file, &completed.tail, completed.body.end))
                .and_then(|()| fs.write_at(&file, &completed.header, 0))
                .map_err(|error| io_error("writing", &path, error))
        })
        .await?;
    }
    let pack = pack(resolved.index, &file, pack_bytes, &temporary)?;
    Ok(ReceivedPack {
        objects,
        bytes,
        received_objects,
        missing,
        pack,
        file,
        temporary,
    })
}

fn pack(
    index: Index,
    file: &File,
    bytes: LocalPackFile,
    temporary: &TemporaryFile,
) -> Result<Option<StoredPack>> {
    if index.is_empty() {
        return Ok(None);
    }
    let metadata = file.metadata();
    let metadata = metadata.map_err(|error| io_error("reading", &temporary.path, error))?;
    Ok(Some(StoredPack {
        index,
        size_bytes: metadata.len(),
        bytes: Arc::new(bytes),
    }))
}

impl ReceivedPack {
    /// Renames the pack and its index into `objects/pack`; the index last, because git uses a
    /// pack as soon as its index exists.
    pub(super) async fn publish(self, fs: &Arc<dyn DurableFs>, git_dir: &GitDir) -> Result<()> {
        let Some(pack) = self.pack else {
            return Ok(());
        };
        let directory = git_dir.own_objects().join("pack");
        let (fs, file, temporary) = (Arc::clone(fs), self.file, self.temporary);
        blocking(move || {
            let id = pack.index.pack_id();
            let place = directory.join(index_name(id));
            let name = format!("tmp_idx_{:016x}", rand::random::<u64>());
            let index = TemporaryFile {
                fs: Arc::clone(&fs),
                path: directory.join(name),
            };
            fs.make_read_only(&file)
                .and_then(|()| file.sync_all())
                .and_then(|()| fs.rename(&temporary.path, &directory.join(pack_name(id))))
                .and_then(|()| {
                    let file = fs.create(&index.path)?;
                    fs.write(&file, pack.index.bytes())?;
                    fs.make_read_only(&file)?;
                    file.sync_all()
                })
                .and_then(|()| fs.rename(&index.path, &place))
                .and_then(|()| fs.sync_dir(&directory))
                .map_err(|error| match error.kind() {
                    // Only `git gc --prune=now` removes a temporary pack this young.
                    io::ErrorKind::NotFound => {
                        let message = "a pack was removed while it was published";
                        Error::new(ErrorKind::Conflict, message).with_source(error)
                    }
                    _ => io_error("writing", &place, error),
                })
        })
        .await
    }
}
