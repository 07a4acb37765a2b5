//! A pack that comes in, put into its place once it is known to be good.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;

use super::blocking;
use super::durable_fs::{DurableFs, failed};
use super::git_dir::GitDir;
use super::odb::PackFile;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::dumb_http::{index_name, pack_name};
use crate::git::object::ObjectKind;
use crate::git::odb::{Database, StoredPack};
use crate::git::pack::{Bases, Index};
use crate::remote::{IncomingPack, ReceivedObjects, VerifiedPack};

/// How much is written at once.
const WRITE: usize = 1 << 20;

/// A temporary file. It goes away with this value, unless it is renamed.
struct Temporary {
    disk: DurableFs,
    path: PathBuf,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // When it was renamed, it is not there any more.
        let _ = self.disk.remove(&self.path);
    }
}

/// A pack that has arrived whole, in a file with another name.
pub(super) struct ReceivedPack {
    pub(super) objects: u64,
    pub(super) bytes: u64,
    pub(super) watch: ReceivedObjects,
    /// What is needed and not in the pack.
    pub(super) missing: Vec<ObjectId>,
    /// The pack; `None` when it has no objects.
    pub(super) pack: Option<StoredPack>,
    file: Arc<File>,
    temporary: Temporary,
}

/// What a thin pack stands on.
struct Before<'a>(&'a Database);

#[async_trait::async_trait]
impl Bases for Before<'_> {
    async fn base(&self, id: ObjectId) -> crate::git::Result<Option<(ObjectKind, bytes::Bytes)>> {
        self.0.read(id).await
    }
}

/// Takes a pack in and verifies it, and makes a thin one whole.
pub(super) async fn receive(
    disk: &DurableFs,
    layout: &GitDir,
    mut incoming: IncomingPack,
    before: &Database,
    roots: &[ObjectId],
) -> Result<ReceivedPack> {
    // `git gc` knows the name of what was left over.
    let name = format!("pack/tmp_pack_{:016x}", rand::random::<u64>());
    let path = layout.own_objects().join(name);
    let (file, temporary) = {
        let disk = disk.clone();
        blocking(move || {
            let created = path
                .parent()
                .map_or(Ok(()), |folder| disk.create_folders(folder))
                .and_then(|()| disk.create(&path));
            let file = created.map_err(|error| failed("creating", &path, error))?;
            Ok((Arc::new(file), Temporary { disk, path }))
        })
        .await?
    };
    let mut held = BytesMut::new();
    loop {
        let chunk = incoming.chunk().await?;
        let ended = chunk.is_none();
        held.extend_from_slice(&chunk.unwrap_or_default());
        if held.len() >= WRITE || ended {
            let (disk, file) = (disk.clone(), Arc::clone(&file));
            let (path, bytes) = (temporary.path.clone(), held.split().freeze());
            blocking(move || {
                disk.write(&file, &bytes)
                    .map_err(|error| failed("writing", &path, error))
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
    let pack_bytes = PackFile(Arc::clone(&file));
    let (resolved, watch, missing) = arrived.resolve(&pack_bytes, &Before(before), roots).await?;
    if let Some(completed) = resolved.completed {
        let (disk, file) = (disk.clone(), Arc::clone(&file));
        let path = temporary.path.clone();
        blocking(move || {
            disk.truncate(&file, completed.body.end)
                .and_then(|()| disk.write_at(&file, &completed.tail, completed.body.end))
                .and_then(|()| disk.write_at(&file, &completed.header, 0))
                .map_err(|error| failed("writing", &path, error))
        })
        .await?;
    }
    let pack = pack(resolved.index, &file, pack_bytes, &temporary)?;
    Ok(ReceivedPack {
        objects,
        bytes,
        watch,
        missing,
        pack,
        file,
        temporary,
    })
}

fn pack(
    index: Index,
    file: &File,
    bytes: PackFile,
    temporary: &Temporary,
) -> Result<Option<StoredPack>> {
    if index.is_empty() {
        return Ok(None);
    }
    let known = file.metadata();
    let known = known.map_err(|error| failed("reading", &temporary.path, error))?;
    Ok(Some(StoredPack {
        index,
        size_bytes: known.len(),
        bytes: Arc::new(bytes),
    }))
}

impl ReceivedPack {
    /// Puts the pack and its index where git looks for them; the index last, because with
    /// it the pack is there.
    pub(super) async fn publish(self, disk: &DurableFs, layout: &GitDir) -> Result<()> {
        let Some(pack) = self.pack else {
            return Ok(());
        };
        let folder = layout.own_objects().join("pack");
        let (disk, file, temporary) = (disk.clone(), self.file, self.temporary);
        blocking(move || {
            let id = pack.index.pack_id();
            let place = folder.join(index_name(id));
            let name = format!("tmp_idx_{:016x}", rand::random::<u64>());
            let index = Temporary {
                disk: disk.clone(),
                path: folder.join(name),
            };
            disk.make_read_only(&file)
                .and_then(|()| file.sync_all())
                .and_then(|()| disk.rename(&temporary.path, &folder.join(pack_name(id))))
                .and_then(|()| {
                    let file = disk.create(&index.path)?;
                    disk.write(&file, pack.index.bytes())?;
                    disk.make_read_only(&file)?;
                    file.sync_all()
                })
                .and_then(|()| disk.rename(&index.path, &place))
                .and_then(|()| disk.sync_folder(&folder))
                .map_err(|error| match error.kind() {
                    // Nobody but `git gc --prune=now` does that.
                    io::ErrorKind::NotFound => {
                        let message = "a pack was removed while it was put into place";
                        Error::new(ErrorKind::Conflict, message).with_source(error)
                    }
                    _ => failed("writing", &place, error),
                })
        })
        .await
    }
}
