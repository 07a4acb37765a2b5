//! The objects of one revision: read where the remote has them, or fetched into a temporary file.

use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use branchline_core::git::odb::{Database, DatabaseOptions, PackRequest, StoredPack};
use branchline_core::git::pack::{
    NoBases, PackBody, PackBytes, PackIndexer, PackLimits, PackObject,
};
use branchline_core::git::{HashKind, ObjectId};
use branchline_core::os;
use branchline_core::remote::Source;
use branchline_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures_util::StreamExt as _;

use super::ArchiveMeter;

/// Bytes of the temporary file that are read at once.
const BLOCK_BYTES: u64 = 256 * 1024;

/// Opens a database that has the object `id` and all that its tree needs. What a server sends is
/// stored in `temporary`, in a file that has no name.
///
/// # Errors
/// `NotFound` for an object that the source does not have.
pub(super) async fn open(
    source: &dyn Source,
    id: ObjectId,
    limits: PackLimits,
    temporary: &Path,
    meter: &ArchiveMeter,
) -> Result<Arc<Database>> {
    if let Some(database) = source.objects(&[id]).await? {
        if database.contains(id).await? {
            return Ok(database);
        }
        // An older commit is among the objects that the refs need.
        let tips = source.snapshot().tips();
        if let Some(database) = source.objects(&tips).await?
            && database.contains(id).await?
        {
            return Ok(database);
        }
        let message = format!("the repository has no object {id}");
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    let pack = if let Some(pack) = source.fetch_without_history(id).await? {
        pack
    } else {
        let request = PackRequest {
            wants: vec![id],
            offset_deltas: true,
            ..PackRequest::default()
        };
        source.fetch(&request).await?
    };
    store(pack, source.snapshot().hash, limits, temporary, meter).await
}

/// Stores a pack in `temporary`, in a file that has no name, and indexes it.
pub(super) async fn store(
    mut pack: PackBody,
    hash: HashKind,
    limits: PackLimits,
    temporary: &Path,
    meter: &ArchiveMeter,
) -> Result<Arc<Database>> {
    let file = Arc::new(unnamed_file(temporary)?);
    let mut indexer = PackIndexer::new(hash, limits);
    let mut ignore = |_: PackObject<'_>| Ok(());
    let mut size_bytes = 0;
    while let Some(bytes) = pack.next().await.transpose()? {
        indexer.push(&bytes, &mut ignore)?;
        size_bytes += bytes.len() as u64;
        meter.add_received(bytes.len() as u64);
        let written = Arc::clone(&file);
        blocking(move || (&*written).write_all(&bytes))
            .await
            .map_err(|error| file_error(temporary, error))?;
    }
    let stored = StoredFile(file);
    let resolved = indexer.finish()?.resolve(&stored, &NoBases, &mut ignore);
    let index = resolved.await?.index;
    let pack = StoredPack {
        index,
        size_bytes,
        bytes: Arc::new(stored),
    };
    let options = DatabaseOptions {
        limits,
        block_bytes: BLOCK_BYTES,
    };
    Ok(Arc::new(Database::new(hash, [pack], None, options)?))
}

/// Creates a file in `directory` and removes its name, so that it ends with the process.
fn unnamed_file(directory: &Path) -> Result<File> {
    // Several files, if the history is fetched as well.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = directory.join(format!("branchline-{}-{number}.pack", std::process::id()));
    os::unnamed_file(&path).map_err(|error| file_error(directory, error))
}

fn file_error(directory: &Path, error: std::io::Error) -> Error {
    let message = format!("the objects cannot be stored in `{}`", directory.display());
    Error::new(ErrorKind::Config, message)
        .with_source(error)
        .with_hint("make room there, or set TMPDIR to another directory")
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let done = branchline_core::blocking::run(work).await;
    done.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

/// The bytes of the temporary file.
struct StoredFile(Arc<File>);

#[async_trait]
impl PackBytes for StoredFile {
    async fn read_range(&self, range: Range<u64>) -> branchline_core::git::Result<Bytes> {
        let file = Arc::clone(&self.0);
        let read = blocking(move || {
            let length = usize::try_from(range.end.saturating_sub(range.start));
            let mut bytes = vec![0; length.unwrap_or(usize::MAX)];
            os::read_exact_at(&file, &mut bytes, range.start)?;
            Ok(Bytes::from(bytes))
        });
        read.await.map_err(|error| {
            let message = "a temporary file cannot be read";
            let kind = branchline_core::git::ErrorKind::Internal;
            branchline_core::git::Error::new(kind, message).with_source(error)
        })
    }
}
