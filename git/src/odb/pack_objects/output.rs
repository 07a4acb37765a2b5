//! The bytes of a new pack, and its index.

use std::io::Write as _;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use tokio::sync::{mpsc, oneshot};

use super::super::Database;
use crate::ObjectId;
use crate::error::{Error, Result};
use crate::object::ObjectKind;
use crate::pack::{EntryHeader, EntryKind, FileHasher, Index, IndexBuilder};

/// Bytes of a chunk of the new pack.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

/// The reason why a pack was not sent.
pub(super) enum SendError {
    Failed(Error),
    Dropped,
}

impl From<Error> for SendError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

pub(super) type Sent = std::result::Result<(), SendError>;

/// The output of a new pack.
pub(super) struct Out {
    sender: mpsc::Sender<Result<Bytes>>,
    held: BytesMut,
    hasher: FileHasher,
    taken: u64,
    pub(super) index: Option<(IndexBuilder, oneshot::Sender<Index>)>,
}

impl Out {
    pub(super) fn new(
        database: &Database,
        sender: mpsc::Sender<Result<Bytes>>,
        index_sender: Option<oneshot::Sender<Index>>,
    ) -> Self {
        Self {
            sender,
            held: BytesMut::new(),
            hasher: FileHasher::new(database.hash()),
            taken: 0,
            index: index_sender
                .map(|index_sender| (IndexBuilder::new(database.hash()), index_sender)),
        }
    }

    /// Starts the entry of an object.
    pub(super) fn begin(&mut self, id: ObjectId) {
        let position = self.position();
        if let Some((index, _)) = &mut self.index {
            index.begin(id, position);
        }
    }

    pub(super) fn position(&self) -> u64 {
        self.taken + self.held.len() as u64
    }

    pub(super) async fn push(&mut self, bytes: &[u8]) -> Sent {
        self.held.extend_from_slice(bytes);
        if let Some((index, _)) = &mut self.index {
            index.update(bytes);
        }
        if self.held.len() >= CHUNK_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Sent {
        if self.held.is_empty() {
            return Ok(());
        }
        let bytes = self.held.split().freeze();
        self.hasher.update(&bytes);
        self.taken += bytes.len() as u64;
        self.forward(bytes).await
    }

    pub(super) async fn forward(&self, bytes: Bytes) -> Sent {
        let sent = self.sender.send(Ok(bytes)).await;
        sent.map_err(|_| SendError::Dropped)
    }

    pub(super) async fn finish(mut self) -> Sent {
        self.flush().await?;
        let trailer = self.hasher.clone().finish();
        if let Some((index, index_sender)) = self.index.take() {
            let _ = index_sender.send(index.finish(trailer));
        }
        self.forward(Bytes::copy_from_slice(trailer.as_slice()))
            .await
    }
}

pub(super) async fn push_header(kind: ObjectKind, size: u64, out: &mut Out) -> Sent {
    let mut head = Vec::new();
    EntryHeader {
        kind: EntryKind::Whole(kind),
        size,
    }
    .write(&mut head);
    out.push(&head).await
}

/// Sends an object whose content is in memory.
pub(super) async fn write_undeltified(kind: ObjectKind, content: &[u8], out: &mut Out) -> Sent {
    push_header(kind, content.len() as u64, out).await?;
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    for piece in content.chunks(CHUNK_BYTES) {
        deflate(&mut encoder, piece, out).await?;
    }
    end(encoder, out).await
}

pub(super) async fn deflate(
    encoder: &mut ZlibEncoder<Vec<u8>>,
    content: &[u8],
    out: &mut Out,
) -> Sent {
    encoder
        .write_all(content)
        .expect("because writing to a Vec cannot fail");
    let made = std::mem::take(encoder.get_mut());
    out.push(&made).await
}

pub(super) async fn end(encoder: ZlibEncoder<Vec<u8>>, out: &mut Out) -> Sent {
    let made = encoder
        .finish()
        .expect("because writing to a Vec cannot fail");
    out.push(&made).await
}
