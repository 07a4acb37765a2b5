//! Files that CodeCommit's API does not serve, streamed into the archive from another source.
//!
//! A zip header contains the checksum and the sizes of the content, so a file is read twice:
//! first to compute them, then to be written. Both times the content is deflated in the same
//! steps, which gives the same bytes as for a file in memory.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, try_unfold};
use gix_filter::eol;

use super::zip::EntrySizes;
use crate::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::EntryMode;

/// Maximum size of a file that is converted in memory, in bytes. Line ends are converted in
/// files of any size.
pub(super) const MAX_CONVERTED_BYTES: u64 = 32 * 1024 * 1024;

/// The content of a file, from its start.
pub type FileBody = BoxStream<'static, Result<Bytes>>;

/// A source of the files that CodeCommit's API refuses as too large.
#[async_trait]
pub trait LargeFiles: fmt::Debug + Send + Sync {
    /// Opens the file whose blob is `id`.
    async fn open(&self, id: ObjectId) -> Result<Arc<dyn LargeFile>>;

    /// Returns the number of requests to CodeCommit so far.
    fn requests(&self) -> u64;

    /// Removes temporary data. Called once, when the archive is complete or abandoned; a
    /// source that is dropped without this call must remove the data as well.
    async fn close(&self);
}

/// A file that is streamed, not held in memory.
pub trait LargeFile: Send + Sync {
    /// Returns the size in bytes.
    fn size_bytes(&self) -> u64;

    /// Reads and verifies the content, in pieces of a few hundred kilobytes at most. Each
    /// call starts at the beginning.
    fn content(self: Arc<Self>) -> FileBody;
}

/// A large file as an entry of the archive.
#[derive(Clone)]
pub(super) struct LargeEntry {
    file: Arc<dyn LargeFile>,
    to_crlf: bool,
    level: u32,
    pub(super) mode: EntryMode,
    pub(super) sizes: EntrySizes,
}

impl LargeEntry {
    /// Reads `file` to compute checksum and sizes for the header, after the conversion of
    /// line ends by `digest`. `level` is that of the compression.
    pub(super) async fn measure(
        file: Arc<dyn LargeFile>,
        mode: EntryMode,
        digest: eol::AttributesDigest,
        level: u32,
    ) -> Result<Self> {
        let to_crlf = to_crlf(&file, digest).await?;
        let deflates = mode != EntryMode::Link && level > 0;
        let content = Arc::clone(&file).content();
        let mut deflating = DeflateStream::new(content, to_crlf, deflates.then_some(level));
        loop {
            let (piece, next) = deflating.step().await?;
            deflating = next;
            if piece.is_none() {
                break;
            }
        }
        let mut sizes = deflating.sizes();
        // Stored where that is shorter, as small files are.
        if sizes.packed_size >= sizes.size {
            sizes.deflated = false;
            sizes.packed_size = sizes.size;
        }
        Ok(Self {
            file,
            to_crlf,
            level,
            mode,
            sizes,
        })
    }

    /// Reads `file` again for the content after the header.
    pub(super) fn packed(&self) -> FileBody {
        let expected = self.sizes;
        let content = Arc::clone(&self.file).content();
        let level = expected.deflated.then_some(self.level);
        let deflating = DeflateStream::new(content, self.to_crlf, level);
        Box::pin(try_unfold(deflating, move |deflating| async move {
            let (piece, deflating) = deflating.step().await?;
            if piece.is_none() && deflating.sizes() != expected {
                let message = "a large file changed between its two reads";
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            Ok(piece.map(|piece| (piece, deflating)))
        }))
    }
}

/// Reads a whole file into memory.
pub(super) async fn read_into_memory(file: Arc<dyn LargeFile>) -> Result<Bytes> {
    let size = usize::try_from(file.size_bytes())
        .map_err(|_| Error::new(ErrorKind::FileTooLarge, "the file does not fit into memory"))?;
    let mut bytes = Vec::with_capacity(size);
    let mut content = file.content();
    while let Some(piece) = content.next().await.transpose()? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.into())
}

/// Returns true when the line ends of a file become CRLF. With `text=auto` this depends on the
/// whole content.
async fn to_crlf(file: &Arc<dyn LargeFile>, digest: eol::AttributesDigest) -> Result<bool> {
    let configuration = eol::Configuration::default();
    if digest.to_eol(configuration) != Some(eol::Mode::CrLf) {
        return Ok(false);
    }
    let mut counted = EolStats::default();
    let mut content = Arc::clone(file).content();
    while let Some(piece) = content.next().await.transpose()? {
        counted.push(&piece);
    }
    Ok(counted
        .finish()
        .will_convert_lf_to_crlf(digest, configuration))
}

/// Computes [`eol::Stats`] of a file from its pieces.
#[derive(Default)]
struct EolStats {
    stats: eol::Stats,
    // The last piece ended in a `\r`, which is not counted yet.
    carriage_return: bool,
    last: Option<u8>,
}

/// The end-of-file mark of DOS, which is not counted at the end of a file.
const DOS_END: u8 = 0x1a;

impl EolStats {
    fn push(&mut self, piece: &[u8]) {
        let Some(last) = piece.last() else { return };
        self.last = Some(*last);
        let mut rest = piece;
        if std::mem::take(&mut self.carriage_return) {
            if let Some(after) = rest.strip_prefix(b"\n") {
                self.stats.crlf += 1;
                rest = after;
            } else {
                self.stats.lone_cr += 1;
            }
        }
        if let Some(before) = rest.strip_suffix(b"\r") {
            self.carriage_return = true;
            rest = before;
        }
        let eol::Stats {
            null,
            lone_cr,
            lone_lf,
            crlf,
            printable,
            non_printable,
        } = eol::Stats::from_bytes(rest);
        self.stats.null += null;
        self.stats.lone_cr += lone_cr;
        self.stats.lone_lf += lone_lf;
        self.stats.crlf += crlf;
        self.stats.printable += printable;
        // `from_bytes` does not count the mark at the end of this piece.
        self.stats.non_printable += non_printable + usize::from(rest.last() == Some(&DOS_END));
    }

    fn finish(mut self) -> eol::Stats {
        self.stats.lone_cr += usize::from(self.carriage_return);
        if self.last == Some(DOS_END) {
            self.stats.non_printable -= 1;
        }
        self.stats
    }
}

/// Converts and deflates a file piece by piece.
struct DeflateStream {
    content: FileBody,
    encoder: PieceEncoder,
    ended: bool,
}

impl DeflateStream {
    /// Deflates at `level`, or stores without one.
    fn new(content: FileBody, to_crlf: bool, level: Option<u32>) -> Self {
        let deflate =
            level.map(|level| Compress::new(Compression::new(level), /* zlib header */ false));
        Self {
            content,
            encoder: PieceEncoder {
                line_ends: to_crlf.then(LineEnds::default),
                crc: crc32fast::Hasher::new(),
                size: 0,
                packed_size: 0,
                deflate,
            },
            ended: false,
        }
    }

    /// Returns the next bytes, which may be empty, and the stream; `None` at the end.
    async fn step(mut self) -> Result<(Option<Bytes>, Self)> {
        if self.ended {
            return Ok((None, self));
        }
        let piece = self.content.next().await.transpose()?;
        self.ended = piece.is_none();
        let mut encoder = self.encoder;
        let pushed = blocking::run(move || {
            let packed = encoder.push(piece);
            (packed, encoder)
        });
        let (packed, encoder) = pushed.await?;
        Ok((Some(packed), Self { encoder, ..self }))
    }

    fn sizes(&self) -> EntrySizes {
        EntrySizes {
            crc: self.encoder.crc.clone().finalize(),
            size: self.encoder.size,
            packed_size: self.encoder.packed_size,
            deflated: self.encoder.deflate.is_some(),
        }
    }
}

/// State of the conversion and compression between two pieces.
struct PieceEncoder {
    line_ends: Option<LineEnds>,
    crc: crc32fast::Hasher,
    size: u64,
    packed_size: u64,
    deflate: Option<Compress>,
}

impl PieceEncoder {
    /// Encodes a piece, or the end of the file.
    fn push(&mut self, piece: Option<Bytes>) -> Bytes {
        let ends = piece.is_none();
        let mut piece = piece.unwrap_or_default();
        if let Some(line_ends) = &mut self.line_ends {
            piece = line_ends.convert(&piece).into();
        }
        self.crc.update(&piece);
        self.size += piece.len() as u64;
        let packed = match &mut self.deflate {
            None => piece,
            Some(deflate) => deflated(deflate, &piece, ends).into(),
        };
        self.packed_size += packed.len() as u64;
        packed
    }
}

fn deflated(deflate: &mut Compress, mut input: &[u8], ends: bool) -> Vec<u8> {
    let flush = if ends {
        FlushCompress::Finish
    } else {
        FlushCompress::None
    };
    let mut out = Vec::new();
    loop {
        if input.is_empty() && !ends {
            return out;
        }
        out.reserve(64 * 1024);
        let before = deflate.total_in();
        let status = deflate
            .compress_vec(input, &mut out, flush)
            .expect("because deflate takes any bytes");
        let used = usize::try_from(deflate.total_in() - before)
            .expect("because it is the length of a slice");
        input = &input[used..];
        if status == Status::StreamEnd {
            return out;
        }
    }
}

/// Converts LF to CRLF, and leaves CRLF unchanged.
#[derive(Default)]
struct LineEnds {
    after_cr: bool,
}

impl LineEnds {
    fn convert(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(piece.len() + piece.len() / 16);
        for &byte in piece {
            if byte == b'\n' && !self.after_cr {
                out.push(b'\r');
            }
            self.after_cr = byte == b'\r';
            out.push(byte);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            Just(b'\r'),
            Just(b'\n'),
            Just(b'a'),
            Just(DOS_END),
            Just(0),
            Just(7)
        ];
        prop::collection::vec(byte, 0..40)
    }

    proptest! {
        #[test]
        fn line_ends_of_pieces_are_counted_and_converted_as_those_of_the_file(bytes in text(), size in 1_usize..7) {
            let mut counted = EolStats::default();
            bytes.chunks(size).for_each(|piece| counted.push(piece));
            prop_assert_eq!(counted.finish(), eol::Stats::from_bytes(&bytes));

            let mut ends = LineEnds::default();
            let ours: Vec<u8> = bytes.chunks(size).flat_map(|piece| ends.convert(piece)).collect();
            let mut theirs = Vec::new();
            let digest = eol::AttributesDigest::TextCrlf;
            let changed =
                eol::convert_to_worktree(&bytes, digest, &mut theirs, eol::Configuration::default());
            let theirs = if changed.unwrap() { theirs } else { bytes };
            prop_assert_eq!(ours, theirs);
        }
    }
}
