//! Writes a pack's objects as loose objects.

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use futures_util::stream::{FuturesUnordered, TryStreamExt as _};

use super::DumbOptions;
use super::keys::{ObjectRole, RepositoryKeys};
use crate::error::{Result, corrupt};
use crate::git::object::{ObjectHasher, ObjectKind, encode_loose};
use crate::git::pack::{EntryHeader, EntryKind, Pack, PackBytes as _, Resolved};
use crate::git::{HashKind, ObjectId};
use crate::storage::Precondition;
use crate::storage::spool::{Spool, SpoolConfig, SpoolWriter};

/// Maximum number of concurrent writes.
const CONCURRENT_WRITES: usize = 24;
/// Objects larger than this, in bytes, are streamed if they are undeltified in the pack.
const STREAMED_BYTES: u64 = 2 << 20;
/// Bytes of a large object that are read at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// Writes all objects: blobs first, then trees, commits and tags, so that an interrupted run
/// leaves few objects whose references are missing.
pub(super) async fn write(
    keys: &RepositoryKeys,
    options: &DumbOptions,
    resolved: &Resolved,
    spool: &Spool,
) -> Result<()> {
    let index = &resolved.index;
    let limits = options
        .limits
        .with_memory(options.limits.memory.min(options.memory));
    let mut pack = Pack::new(index.clone(), spool.size_bytes(), limits)?;
    let rank = |kind: ObjectKind| match kind {
        ObjectKind::Blob => 0,
        ObjectKind::Tree => 1,
        ObjectKind::Commit => 2,
        ObjectKind::Tag => 3,
    };
    let mut order: Vec<usize> = (0..index.len()).collect();
    order.sort_unstable_by_key(|at| (rank(resolved.kinds[*at]), index.offset(*at)));
    let mut under_way = FuturesUnordered::new();
    for position in order {
        let id = index.id(position);
        if let Some(large) = LargeBlobWriter::find(&pack, spool, id).await? {
            large.write(keys, spool).await?;
            continue;
        }
        let (kind, content) = pack
            .read(spool, id)
            .await?
            .ok_or_else(|| corrupt(format!("{id} is missing in the pack")))?;
        while under_way.len() >= CONCURRENT_WRITES {
            under_way.try_next().await?;
        }
        let body = Bytes::from(encode_loose(kind, &content));
        under_way.push(async move {
            keys.put(&ObjectRole::Loose(id), body, Precondition::None)
                .await
        });
    }
    while under_way.try_next().await?.is_some() {}
    Ok(())
}

/// Streams a large object that is undeltified in the pack.
struct LargeBlobWriter {
    id: ObjectId,
    kind: ObjectKind,
    size: u64,
    /// The object's zlib stream in the pack.
    range: std::ops::Range<u64>,
}

impl LargeBlobWriter {
    async fn find(pack: &Pack, spool: &Spool, id: ObjectId) -> Result<Option<Self>> {
        let Some(range) = pack.entry_range(id)? else {
            return Ok(None);
        };
        let end = range.end.min(range.start + EntryHeader::MAX_BYTES as u64);
        let start = spool.read_range(range.start..end).await?;
        let hash: HashKind = id.kind();
        Ok(match EntryHeader::parse(hash, &start)? {
            Some((header, length)) if header.size > STREAMED_BYTES => match header.kind {
                EntryKind::Whole(kind) => Some(Self {
                    id,
                    kind,
                    size: header.size,
                    range: range.start + length as u64..range.end,
                }),
                _ => None,
            },
            _ => None,
        })
    }

    /// Inflates, verifies and deflates the object again, chunk by chunk.
    async fn write(&self, keys: &RepositoryKeys, spool: &Spool) -> Result<()> {
        let file = ObjectRole::Loose(self.id);
        let config = SpoolConfig {
            store: std::sync::Arc::clone(&keys.store),
            bucket: keys.bucket.clone(),
            key: keys.key(&file)?,
            options: keys.options(&file, Precondition::None),
        };
        // The multipart upload is completed only after the content was verified.
        let mut writer = SpoolWriter::new(config, 0);
        let mut zlib = Deflate(Compress::new(Compression::default(), true));
        let header = format!("{} {}\0", self.kind, self.size);
        writer.push(zlib.push(header.as_bytes())).await?;
        let mut hasher = ObjectHasher::new(self.id.kind(), self.kind, self.size);
        let mut inflate = Decompress::new(true);
        let mut scratch = vec![0; 256 * 1024];
        let mut position = self.range.start;
        let mut status = Status::Ok;
        while position < self.range.end && status != Status::StreamEnd {
            let end = self.range.end.min(position + CHUNK_BYTES);
            let read = spool.read_range(position..end).await?;
            let mut input = &read[..];
            loop {
                let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
                status = inflate
                    .decompress(input, &mut scratch, FlushDecompress::None)
                    .map_err(|error| corrupt("a zlib stream is invalid").with_source(error))?;
                let used = difference(inflate.total_in(), before_in);
                let made = difference(inflate.total_out(), before_out);
                input = &input[used..];
                hasher.update(&scratch[..made]);
                writer.push(zlib.push(&scratch[..made])).await?;
                if status == Status::StreamEnd || (input.is_empty() && made < scratch.len()) {
                    break;
                }
                if used == 0 && made == 0 {
                    return Err(corrupt("a zlib stream is invalid"));
                }
            }
            position = end;
        }
        if status != Status::StreamEnd || hasher.finish()? != self.id {
            return Err(corrupt(format!(
                "the content of object {} does not match its id",
                self.id
            )));
        }
        writer.push(zlib.end()).await?;
        let spooled = writer.finish().await?;
        match spooled.in_memory() {
            Some(bytes) => keys
                .put(&file, bytes.clone(), Precondition::None)
                .await
                .map(drop)?,
            // It was written under its own key.
            None => spooled.keep(),
        }
        Ok(())
    }
}

fn difference(now: u64, before: u64) -> usize {
    usize::try_from(now - before).expect("because it is the length of a slice")
}

struct Deflate(Compress);

impl Deflate {
    fn push(&mut self, mut input: &[u8]) -> Bytes {
        let mut out = Vec::new();
        while !input.is_empty() {
            let (used, _) = self.step(input, &mut out, FlushCompress::None);
            input = &input[used..];
        }
        out.into()
    }

    fn end(&mut self) -> Bytes {
        let mut out = Vec::new();
        while self.step(&[], &mut out, FlushCompress::Finish).1 != Status::StreamEnd {}
        out.into()
    }

    fn step(&mut self, input: &[u8], out: &mut Vec<u8>, flush: FlushCompress) -> (usize, Status) {
        out.reserve(64 * 1024);
        let before = self.0.total_in();
        let status = self
            .0
            .compress_vec(input, out, flush)
            .expect("because deflate takes any bytes");
        (difference(self.0.total_in(), before), status)
    }
}
