//! Loose objects: one zlib stream each, that lie anywhere.

use async_trait::async_trait;
use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use futures_util::StreamExt as _;

use crate::error::{Error, ErrorKind, Result};
use crate::object::{ObjectHasher, ObjectKind, decode_loose};
use crate::pack::{PackBody, PackLimits};
use crate::{ObjectId, corrupt};

/// Where loose objects lie.
#[async_trait]
pub trait LooseObjects: Send + Sync {
    /// The bytes of a loose object as they lie there, as a stream; `None` when there is
    /// none.
    async fn open(&self, id: ObjectId) -> Result<Option<PackBody>>;

    /// Whether there is one.
    async fn contains(&self, id: ObjectId) -> Result<bool> {
        Ok(self.open(id).await?.is_some())
    }
}

/// Bytes that are held, as a stream.
pub fn whole(bytes: Bytes) -> PackBody {
    Box::pin(futures_util::stream::once(async { Ok(bytes) }))
}

/// Reads a loose object whole.
pub(super) async fn read(
    loose: &dyn LooseObjects,
    id: ObjectId,
    limits: PackLimits,
) -> Result<Option<(ObjectKind, Bytes)>> {
    let Some(mut body) = loose.open(id).await? else {
        return Ok(None);
    };
    // The bytes and their content are held side by side.
    let limit = limits.memory / 2;
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await.transpose()? {
        if bytes.len() + piece.len() > limit {
            return Err(Error::new(
                ErrorKind::FileTooLarge,
                format!("loose object {id} has more than the {limit} bytes that are allowed"),
            )
            .with_hint("raise the memory limit"));
        }
        bytes.extend_from_slice(&piece);
    }
    let (kind, content) = decode_loose(id, &bytes, limit)?;
    Ok(Some((kind, content.into())))
}

/// Takes a loose object in as its bytes come, and verifies it.
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

/// The longest header: a kind, a space, twenty digits and a zero byte.
const MAX_HEADER: usize = 32;

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

    /// The kind and the size, as soon as they are known.
    pub(super) fn header(&self) -> Option<(ObjectKind, u64)> {
        self.object
            .as_ref()
            .map(|object| (object.kind, object.size))
    }

    /// Inflates what it can of `input` into `content`, at most 64 KiB; how much of the
    /// input it used. It is to be called until all is used and nothing more is made.
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
            rest = self.start(rest)?;
        }
        if let Some(object) = &mut self.object {
            object.made += rest.len() as u64;
            object.hasher.update(rest);
            content.extend_from_slice(rest);
        }
        let used = self.inflate.total_in() - before;
        Ok(usize::try_from(used).expect("because it was read from a slice"))
    }

    /// Reads the header; what is left is content.
    fn start<'a>(&mut self, made: &'a [u8]) -> Result<&'a [u8]> {
        let room = MAX_HEADER - self.header.len();
        let end = made.iter().take(room).position(|&byte| byte == 0);
        let Some(end) = end else {
            if made.len() >= room {
                return Err(self.broken("it has no header"));
            }
            self.header.extend_from_slice(made);
            return Ok(&[]);
        };
        self.header.extend_from_slice(&made[..end]);
        let text = std::str::from_utf8(&self.header).ok();
        let (kind, size) = text
            .and_then(|text| text.split_once(' '))
            .and_then(|(kind, size)| {
                let kind = ObjectKind::from_name(kind.as_bytes())?;
                let number = size.parse::<u64>().ok()?;
                // No sign, and no leading zeros.
                (number.to_string() == size).then_some((kind, number))
            })
            .ok_or_else(|| self.broken("it has no header"))?;
        self.object = Some(Started {
            kind,
            size,
            made: 0,
            hasher: ObjectHasher::new(self.id.kind(), kind, size),
        });
        Ok(&made[end + 1..])
    }

    /// Ends it.
    pub(super) fn finish(mut self) -> Result<()> {
        let Some(object) = self.object.take().filter(|_| self.ended) else {
            return Err(self.broken("it is cut off"));
        };
        if object.made != object.size {
            return Err(self.broken("its size is another"));
        }
        if object.hasher.finish()? != self.id {
            return Err(self.broken("its content is another"));
        }
        Ok(())
    }

    fn broken(&self, what: &str) -> Error {
        corrupt(format!("loose object {} is broken: {what}", self.id))
    }
}
