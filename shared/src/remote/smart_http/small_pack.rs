//! Objects of a server that are few and small enough to be held in memory: those of one commit
//! without its history, and single blobs.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::error::{Error, ErrorKind, Result};
use crate::git::object::ObjectKind;
use crate::git::odb::{Database, DatabaseOptions, StoredPack};
use crate::git::pack::{NoBases, PackIndexer, PackLimits, PackObject};
use crate::git::smart_http::{FetchFilter, FetchRequest, TipNegotiator, UploadPack};
use crate::git::{HashKind, ObjectId};
use crate::remote::root_file;

/// Maximum bytes of a pack that is held.
const MAX_PACK_BYTES: usize = 32 << 20;
/// Memory for reading the pack, in bytes.
const MEMORY_BYTES: usize = 16 << 20;

/// Reads the file `name` in the root folder of the commit `id`; `None` without such a file, and if
/// the server cannot leave the history out.
///
/// A server that can filter sends the trees of the commit, and then the file alone. Another one
/// sends all files of the commit.
///
/// # Errors
/// `FileTooLarge` if these are more than [`MAX_PACK_BYTES`].
pub(super) async fn root_file(
    server: &UploadPack,
    hash: HashKind,
    id: ObjectId,
    name: &str,
) -> Result<Option<Bytes>> {
    if !server.can_be_shallow() {
        return Ok(None);
    }
    if server.can_filter() {
        match filtered_root_file(server, hash, id, name).await {
            Ok(found) => return Ok(found),
            // The server refuses the filter, or a want that no ref names.
            Err(error) => tracing::debug!(
                error = %error.report(),
                "a filtered fetch failed; all files of the commit are fetched"
            ),
        }
    }
    let database = fetch(server, hash, &commit_request(id, None)).await?;
    root_file::read(&database, id, name).await
}

async fn filtered_root_file(
    server: &UploadPack,
    hash: HashKind,
    id: ObjectId,
    name: &str,
) -> Result<Option<Bytes>> {
    let request = commit_request(id, Some(FetchFilter::WithoutBlobs));
    let database = fetch(server, hash, &request).await?;
    match root_file::find(&database, id, name).await? {
        None => Ok(None),
        Some(blob) => Ok(Some(read_blob(server, hash, blob).await?)),
    }
}

/// Reads a blob that the server sends by its id: a ref names it, or the server allows any id.
///
/// # Errors
/// `NotFound` if the server does not have, or does not send, the blob.
pub(super) async fn read_blob(server: &UploadPack, hash: HashKind, id: ObjectId) -> Result<Bytes> {
    let request = FetchRequest {
        wants: vec![id],
        thin: true,
        offset_deltas: true,
        ..FetchRequest::default()
    };
    let database = fetch(server, hash, &request).await?;
    Ok(database.read_kind(id, ObjectKind::Blob).await?)
}

fn commit_request(id: ObjectId, filter: Option<FetchFilter>) -> FetchRequest {
    FetchRequest {
        wants: vec![id],
        depth: Some(1),
        // Without haves the pack is whole; some servers refuse clients that accept no thin packs.
        thin: true,
        offset_deltas: true,
        filter,
        ..FetchRequest::default()
    }
}

async fn fetch(server: &UploadPack, hash: HashKind, request: &FetchRequest) -> Result<Database> {
    let mut fetched = server.fetch(request, &mut TipNegotiator::default()).await?;
    let limits = PackLimits::default().with_memory(MEMORY_BYTES);
    let mut indexer = PackIndexer::new(hash, limits);
    let mut ignore = |_: PackObject<'_>| Ok(());
    let mut pack = BytesMut::new();
    while let Some(bytes) = fetched.pack.chunk().await? {
        indexer.push(&bytes, &mut ignore)?;
        pack.extend_from_slice(&bytes);
        if pack.len() > MAX_PACK_BYTES {
            let url = server.client().url();
            let message = format!("the files of one commit of {url} exceed {MAX_PACK_BYTES} bytes");
            return Err(Error::new(ErrorKind::FileTooLarge, message));
        }
    }
    let pack = pack.freeze();
    let resolved = indexer.finish()?.resolve(&pack, &NoBases, &mut ignore);
    let pack = StoredPack {
        index: resolved.await?.index,
        size_bytes: pack.len() as u64,
        bytes: Arc::new(pack),
    };
    let options = DatabaseOptions {
        limits,
        ..DatabaseOptions::default()
    };
    Ok(Database::new(hash, [pack], None, options)?)
}
