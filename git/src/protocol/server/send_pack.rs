//! Packs for clients: chooses the objects, and sends the pack.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::io::AsyncWrite;

use super::connection::{PacketWriter, SideBand};
use super::needs::Needs;
use super::negotiation::Boundary;
use super::repository::{RefSnapshot, Repository};
use crate::ObjectId;
use crate::error::Result;
use crate::odb::{Closure, Database, PackOptions, Selection, pack_objects, select_objects};
use crate::pack::PackBody;

/// The time after which an empty packet is sent, so that no proxy takes the connection for dead.
/// Git's value.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A pack to be sent, with its number of objects if that is known.
pub(super) struct OutgoingPack {
    pub(super) body: PackBody,
    pub(super) objects: Option<usize>,
}

/// Chooses the objects of a request and makes the pack. `common` are objects that the client
/// has; `tags` the refs among which `include-tag` chooses.
pub(super) async fn make_pack(
    repository: &dyn Repository,
    database: &Arc<Database>,
    needs: &Needs,
    common: &[ObjectId],
    boundary: Option<&Boundary>,
    tags: Option<&RefSnapshot>,
) -> Result<OutgoingPack> {
    let mut wants = needs.wants.clone();
    let mut haves = common.to_vec();
    if let Some(boundary) = boundary {
        wants.extend(&boundary.wants);
        haves.extend(&boundary.unshallow);
    }
    let selection = Selection {
        wants: &wants,
        haves: &haves,
        shallow: boundary.map(|boundary| &boundary.parentless),
        filter: needs.filter,
    };
    let mut closure = select_objects(database, &selection).await?;
    let mut database = Arc::clone(database);
    let tags = tags
        .map(|tags| missing_tags(tags, &closure))
        .unwrap_or_default();
    if !tags.is_empty() {
        let mut is_complete = true;
        for tag in &tags {
            is_complete &= database.contains(*tag).await?;
        }
        if !is_complete {
            // Some repositories store tags apart from the objects that they name.
            let all: Vec<ObjectId> = wants.iter().chain(&tags).copied().collect();
            database = repository.objects(&all).await?;
            closure = select_objects(&database, &selection).await?;
        }
        for tag in tags {
            closure.add_tag(tag).await?;
        }
    }
    let objects = Some(closure.objects.len());
    let options = PackOptions {
        // A partial clone need not have the bases.
        known: (needs.thin_pack && needs.filter.is_none()).then_some(closure.known),
        offset_deltas: needs.offset_deltas,
    };
    let body = pack_objects(&database, closure.objects, options)?;
    Ok(OutgoingPack { body, objects })
}

/// Returns the annotated tags that name chosen objects and are not chosen.
fn missing_tags(snapshot: &RefSnapshot, closure: &Closure) -> Vec<ObjectId> {
    let mut seen = HashSet::new();
    let tags = snapshot.refs.iter();
    tags.filter(|(name, _)| name.starts_with(b"refs/tags/"))
        .filter(|(_, tag)| tag.peeled.is_some_and(|peeled| closure.contains(peeled)))
        .map(|(_, tag)| tag.id)
        .filter(|id| !closure.contains(*id) && seen.insert(*id))
        .collect()
}

/// Sends a pack, and a flush packet after it if it is sent in side bands.
pub(super) async fn send_pack<W>(
    writer: &mut PacketWriter<W>,
    side_band: SideBand,
    no_progress: bool,
    mut pack: OutgoingPack,
) -> Result<()>
where
    W: AsyncWrite + Send + Unpin,
{
    writer.side_band = Some(side_band);
    if let Some(objects) = pack.objects.filter(|_| !no_progress) {
        let message = format!("Enumerating objects: {objects}, done.\n");
        writer.band(side_band, 2, message.as_bytes());
    }
    writer.send().await?;
    while let Some(bytes) = next(writer, side_band, &mut pack.body).await? {
        writer.band(side_band, 1, &bytes);
        writer.send().await?;
    }
    writer.side_band = None;
    if side_band != SideBand::None {
        writer.flush_packet();
    }
    writer.send().await
}

/// Returns the next bytes of a pack, and keeps the connection alive until they are there.
async fn next<W>(
    writer: &mut PacketWriter<W>,
    side_band: SideBand,
    body: &mut PackBody,
) -> Result<Option<Bytes>>
where
    W: AsyncWrite + Send + Unpin,
{
    loop {
        match tokio::time::timeout(KEEP_ALIVE, body.next()).await {
            Ok(bytes) => return bytes.transpose(),
            Err(_) => {
                writer.keep_alive(side_band);
                writer.send().await?;
            }
        }
    }
}
