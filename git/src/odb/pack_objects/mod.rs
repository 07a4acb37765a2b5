//! Packs of chosen objects, made of stored entries.

mod output;
mod plan;
mod stored_entries;

use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::{mpsc, oneshot};
use tracing::Instrument as _;

use self::output::{Out, SendError, Sent};
use self::plan::PackPlan;
use self::stored_entries::{ReadBuffer, read};
use super::Database;
use super::object_set::ReceiverObjects;
use crate::ObjectId;
use crate::error::{Error, ErrorKind, Result};
use crate::pack::{Index, PackBody, pack_header};

/// Options for making a pack.
#[derive(Debug, Clone, Default)]
pub struct PackOptions {
    /// Objects of the receiver that may be bases of deltas, for a thin pack.
    pub known: Option<Arc<ReceiverObjects>>,
    /// Allows deltas that name their bases by distance.
    pub offset_deltas: bool,
}

/// Returns a pack of `objects`, each once, in the order in which they are stored.
///
/// Entries are copied compressed: undeltified objects, and deltas whose bases are sent too or
/// are in `known`. Other deltas are expanded, one at a time in memory.
///
/// # Errors
/// `FileTooLarge` for more objects than a pack can have. Later failures end the stream.
pub fn pack_objects(
    database: &Arc<Database>,
    objects: impl IntoIterator<Item = ObjectId>,
    options: PackOptions,
) -> Result<PackBody> {
    begin(database, objects, options, None)
}

/// Returns a pack like [`pack_objects`], and its index, which is sent when the pack was read to
/// its end. The index of a thin pack does not contain the bases.
pub fn indexed_pack(
    database: &Arc<Database>,
    objects: impl IntoIterator<Item = ObjectId>,
    options: PackOptions,
) -> Result<(PackBody, oneshot::Receiver<Index>)> {
    let (index_sender, index) = oneshot::channel();
    let body = begin(database, objects, options, Some(index_sender))?;
    Ok((body, index))
}

fn begin(
    database: &Arc<Database>,
    objects: impl IntoIterator<Item = ObjectId>,
    options: PackOptions,
    index_sender: Option<oneshot::Sender<Index>>,
) -> Result<PackBody> {
    let mut sent = Vec::new();
    let mut loose = Vec::new();
    for id in objects {
        match database.find(id) {
            Some(slot) => sent.push(slot),
            None => loose.push(id),
        }
    }
    sent.sort_unstable();
    sent.dedup();
    loose.sort_unstable();
    loose.dedup();
    let count = u32::try_from(sent.len() + loose.len()).map_err(|_| {
        let message = "more objects are to be sent than a pack can have";
        Error::new(ErrorKind::FileTooLarge, message)
    })?;
    let plan = Arc::new(PackPlan {
        database: Arc::clone(database),
        sent,
        options,
    });
    let (sender, receiver) = mpsc::channel(2);
    let work = async move {
        let out = Out::new(&plan.database, sender.clone(), index_sender);
        if let Err(error) = send(&plan, &loose, count, out).await
            && let SendError::Failed(error) = error
        {
            // Fails when the stream was dropped.
            let _ = sender.send(Err(error)).await;
        }
    };
    let task = Task(tokio::spawn(work.in_current_span()));
    Ok(Box::pin(futures_util::stream::unfold(
        (receiver, task),
        |(mut receiver, task)| async move {
            let next = receiver.recv().await?;
            Some((next, (receiver, task)))
        },
    )))
}

/// A task that is aborted when its stream is dropped.
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn send(plan: &Arc<PackPlan>, loose: &[ObjectId], count: u32, mut out: Out) -> Sent {
    if loose.is_empty()
        && let Some(pack) = plan.whole_pack()
    {
        let size = plan.database.layout(pack).size_bytes();
        let mut pieces = read(&plan.database, std::iter::once(Ok((pack, 0..size))));
        while let Some(piece) = pieces.next().await.transpose()? {
            out.forward(piece.bytes).await?;
        }
        if let Some((_, index_sender)) = out.index.take() {
            let _ = index_sender.send(plan.database.layout(pack).index().clone());
        }
        return Ok(());
    }
    out.push(&pack_header(count)).await?;
    let mut window = ReadBuffer::new(read(&plan.database, plan.runs()));
    // Only distances need the positions of entries.
    let mut offsets = Vec::new();
    for slot in &plan.sent {
        if plan.options.offset_deltas {
            offsets.push(out.position());
        }
        out.begin(plan.database.layout(slot.pack).id(slot.entry));
        plan.entry(*slot, &mut window, &offsets, &mut out).await?;
    }
    for id in loose {
        out.begin(*id);
        plan.loose(*id, &mut out).await?;
    }
    out.finish().await
}
