//! Loose objects of a database.

use async_trait::async_trait;
use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use futures_util::StreamExt as _;

use crate::error::{Error, ErrorKind, Result};
use crate::object::{ObjectHasher, ObjectKind, decode_loose, parse_loose_header};
use crate::pack::{PackBody, PackLimits};
use crate::{ObjectId, corrupt};

/// A store of loose objects.
#[async_trait]
pub trait LooseObjects: Send + Sync {
    /// Opens the stored bytes of a loose object; `None` when it is missing.
    async fn open(&self, id: ObjectId) -> Result<Option<PackBody>>;

    /// Returns whether a loose object exists.
    async fn contains(&self, id: ObjectId) -> Result<bool> {
        Ok(self.open(id).await?.is_some())
    }

    /// Returns whether [`contains`](Self::contains) needs a request to another machine.
    fn is_remote(&self) -> bool {
        false
    }
}

/// Returns bytes in memory as a stream.
pub fn whole(bytes: Bytes) -> PackBody {
    Box::pin(futures_util::stream::once(async { Ok(bytes) }))
}

/// Reads a loose object into memory.
pub(super) async fn read(
    loose: &dyn LooseObjects,
    id: ObjectId,
    limits: PackLimits,
) -> Result<Option<(ObjectKind, Bytes)>> {
    let Some(mut body) = loose.open(id).await? else {
        return Ok(None);
    };
    // The deflated and the inflated bytes are in memory together.
    let limit = limits.memory / 2;
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await.transpose()? {
        if bytes.len() + piece.len() > limit {
            return Err(Error::new(
                ErrorKind::FileTooLarge,
                format!("loose object {id} has more than the allowed {limit} bytes"),
            )
            .with_hint("raise the memory limit"));
        }
        bytes.extend_from_slice(&piece);
    }
    let (kind, content) = decode_loose(id, &bytes, limit)?;
    Ok(Some((kind, content.into())))
}

/// Decodes a loose object whose bytes arrive in pieces, and verifies its id.
pub(super) struct LooseDecoder {
    id: ObjectId,
    inflate: Decompress,
    header: Vec<u8>,
    object: Option<Started>,
    ended: bool,
}

struct Started {
    kind: ObjectKind,
    size: u64,
    made: u64,
    hasher: ObjectHasher,
}

impl LooseDecoder {
    pub(super) fn new(id: ObjectId) -> Self {
        Self {
            id,
            inflate: Decompress::new(true),
            header: Vec::new(),
            object: None,
            ended: false,
        }
    }

    /// Returns the type and the size, once the header has arrived.
    pub(super) fn header(&self) -> Option<(ObjectKind, u64)> {
        self.object
            .as_ref()
            .map(|object| (object.kind, object.size))
    }

    /// Appends at most 64 KiB of inflated `input` to `content`, and returns how many bytes of
    /// `input` were used. The caller repeats this until all input is used and no content is
    /// added.
    pub(super) fn push(&mut self, input: &[u8], content: &mut Vec<u8>) -> Result<usize> {
        if self.ended {
            return match input {
                [] => Ok(0),
                _ => Err(self.broken("bytes follow its end")),
            };
        }
        let before = self.inflate.total_in();
        let mut made = Vec::with_capacity(64 * 1024);
        let status = self
            .inflate
            .decompress_vec(input, &mut made, FlushDecompress::None)
            .map_err(|error| self.broken("zlib").with_source(error))?;
        self.ended = status == Status::StreamEnd;
        let mut rest = made.as_slice();
        if self.object.is_none() {
            rest = self.read_header(rest)?;
        }
        if let Some(object) = &mut self.object {
            object.made += rest.len() as u64;
            object.hasher.update(rest);
            content.extend_from_slice(rest);
        }
        let used = self.inflate.total_in() - before;
        Ok(usize::try_from(used).expect("because it is at most the length of a slice"))
    }

    /// Reads the header and returns the bytes of `inflated` after it.
    fn read_header<'a>(&mut self, inflated: &'a [u8]) -> Result<&'a [u8]> {
        let before = self.header.len();
        self.header.extend_from_slice(inflated);
        let Some((kind, size, length)) = parse_loose_header(&self.header)
            .map_err(|error| error.context(format!("object {}", self.id)))?
        else {
            return Ok(&[]);
        };
        self.header.clear();
        self.object = Some(Started {
            kind,
            size,
            made: 0,
            hasher: ObjectHasher::new(self.id.kind(), kind, size),
        });
        Ok(&inflated[length - before..])
    }

    /// Verifies the size and the id, after the last bytes.
    pub(super) fn finish(mut self) -> Result<()> {
        let Some(object) = self.object.take().filter(|_| self.ended) else {
            return Err(self.broken("it is cut off"));
        };
        if object.made != object.size {
            return Err(self.broken("its size does not match its header"));
        }
        if object.hasher.finish()? != self.id {
            return Err(self.broken("its content does not match its id"));
        }
        Ok(())
    }

    fn broken(&self, what: &str) -> Error {
        corrupt(format!("loose object {} is broken: {what}", self.id))
    }
}
