//! Fetches from servers that refuse a client without certain capabilities.
//!
//! Such a server (dulwich's, for example) serves only clients that request `thin-pack`,
//! `ofs-delta` and `side-band-64k`, whether or not they want such packs. All that the server
//! offers is requested then. A thin pack that the receiver does not accept is completed with the
//! receiver's objects; where these cannot be read, it is fetched again without haves, which cannot
//! be thin. Where the receiver does not accept offset deltas, the pack is made again without them.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use super::into_body;
use crate::error::{Error, ErrorKind, Result};
use crate::git::advertisement::Version;
use crate::git::odb::{self, Database, DatabaseOptions, StoredPack, whole};
use crate::git::pack::{
    Bases, Completed, Index, NoBases, PackIndexer, PackLimits, PackObject, Visitor,
};
use crate::git::smart_http::{FetchRequest, TipNegotiator, UploadPack};
use crate::git::{HashKind, ObjectId};
use crate::remote::{PackBody, PackRequest};

/// Returns whether the failure of a request may be due to capabilities that it did not name.
pub(super) fn may_demand(server: &UploadPack, wanted: &PackRequest, error: &Error) -> bool {
    let offered = &server.advertisement.capabilities;
    let unsaid = !wanted.thin && offered.has("thin-pack")
        || !wanted.offset_deltas && offered.has("ofs-delta");
    server.advertisement.version == Version::V0
        && unsaid
        && matches!(
            error.kind(),
            ErrorKind::Transport | ErrorKind::Config | ErrorKind::Corrupt
        )
}

/// Fetches with all capabilities that the server offers. Packs that have to be checked, completed
/// with `bases` or made again are held within `memory` bytes.
///
/// # Errors
/// `FileTooLarge` for a larger one that has to be made again.
pub(super) async fn fetch(
    server: &UploadPack,
    hash: HashKind,
    (wanted, bases): (&PackRequest, Option<&dyn Bases>),
    memory: usize,
) -> Result<PackBody> {
    let mut pack = request(server, wanted, &wanted.haves).await?;
    if wanted.offset_deltas && (wanted.thin || wanted.haves.is_empty()) {
        return Ok(pack);
    }
    let limits = PackLimits::default().with_memory(memory);
    let held = collect(&mut pack, memory).await?;
    let is_held = held.is_some();
    let complete = match &held {
        Some(bytes) => completed(hash, limits, bytes, bases.unwrap_or(&NoBases)).await?,
        None => None,
    };
    if wanted.offset_deltas {
        return match complete {
            Some((bytes, _)) => Ok(whole(bytes)),
            // Without haves the server knows no base outside of the pack.
            None => request(server, wanted, &[]).await,
        };
    }
    let (bytes, index) = match complete {
        Some(complete) => complete,
        None if !is_held => return Err(too_large(server, memory)),
        None => {
            let mut pack = request(server, wanted, &[]).await?;
            let bytes = collect(&mut pack, memory).await?;
            let bytes = bytes.ok_or_else(|| too_large(server, memory))?;
            let complete = completed(hash, limits, &bytes, &NoBases).await?;
            complete.ok_or_else(|| {
                let message = format!("{} sent a pack with missing bases", server.client().url());
                Error::new(ErrorKind::Corrupt, message)
            })?
        }
    };
    let objects: Vec<ObjectId> = index.ids().collect();
    let stored = StoredPack {
        index,
        size_bytes: bytes.len() as u64,
        bytes: Arc::new(bytes),
    };
    let options = DatabaseOptions {
        limits,
        ..DatabaseOptions::default()
    };
    let database = Arc::new(Database::new(hash, [stored], None, options)?);
    Ok(odb::pack_objects(
        &database,
        objects,
        odb::PackOptions::default(),
    )?)
}

async fn request(
    server: &UploadPack,
    wanted: &PackRequest,
    haves: &[ObjectId],
) -> Result<PackBody> {
    let request = FetchRequest {
        wants: wanted.wants.clone(),
        thin: true,
        offset_deltas: true,
        ..FetchRequest::default()
    };
    let mut haves = TipNegotiator::new(haves.iter().copied());
    into_body(server, server.fetch(&request, &mut haves).await?)
}

/// Reads a pack into memory; `None` if it has more than `max_bytes` bytes.
async fn collect(pack: &mut PackBody, max_bytes: usize) -> Result<Option<Bytes>> {
    let mut held = BytesMut::new();
    while let Some(bytes) = pack.next().await.transpose()? {
        if held.len() + bytes.len() > max_bytes {
            return Ok(None);
        }
        held.extend_from_slice(&bytes);
    }
    Ok(Some(held.freeze()))
}

/// Indexes a pack, and completes a thin one with `bases`; `None` if a base is missing, or the pack
/// is damaged in the same way.
async fn completed(
    hash: HashKind,
    limits: PackLimits,
    pack: &Bytes,
    bases: &dyn Bases,
) -> Result<Option<(Bytes, Index)>> {
    struct Ignored;
    impl Visitor for Ignored {
        fn object(&mut self, _object: PackObject<'_>) -> crate::git::Result<()> {
            Ok(())
        }
    }
    let mut indexer = PackIndexer::new(hash, limits);
    indexer.push(pack, &mut Ignored)?;
    let received = indexer.finish()?;
    match received.resolve(pack, bases, &mut Ignored).await {
        Ok(resolved) => {
            let added = resolved.completed;
            let pack = added.map_or_else(|| pack.clone(), |added| with_added(pack, &added));
            Ok(Some((pack, resolved.index)))
        }
        Err(error) if error.kind() == crate::git::ErrorKind::Corrupt => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns a thin pack with the objects that complete it.
fn with_added(thin: &Bytes, added: &Completed) -> Bytes {
    let at = |offset| {
        usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(thin.len())
    };
    let kept = &thin[at(added.body.start)..at(added.body.end)];
    [&added.header[..], kept, &added.tail[..]].concat().into()
}

fn too_large(server: &UploadPack, memory: usize) -> Error {
    let url = server.client().url();
    let message = format!(
        "the pack of {url} has more than {memory} bytes, and has deltas that the target does not \
         accept"
    );
    Error::new(ErrorKind::FileTooLarge, message).with_hint(
        "raise the memory limit, or mirror to S3 first, which accepts such packs, and from there",
    )
}
