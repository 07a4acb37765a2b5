//! Files that CodeCommit's API does not serve: read from elsewhere, and put into the
//! archive as a stream, without ever being held.
//!
//! A header of the zip carries the checksum and the sizes of what follows, so a file is
//! read twice: once to learn them, and once to be written. Both times it is deflated in
//! the same steps, which gives the same bytes as for a file that was held.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, try_unfold};
use gix_filter::eol;
use gix_hash::ObjectId;

use super::zip::{EntrySizes, LEVEL};
use crate::codecommit::EntryMode;
use crate::error::{Error, ErrorKind, Result};

/// The largest file that is held to be converted, in bytes. Line ends are converted in
/// files of any size.
pub(super) const MAX_CONVERTED_BYTES: u64 = 32 * 1024 * 1024;

/// The content of a file, from its start.
pub type FileBody = BoxStream<'static, Result<Bytes>>;

/// Where files are read that CodeCommit's API refuses as too large.
#[async_trait]
pub trait LargeFiles: fmt::Debug + Send + Sync {
    /// Opens the file that is the blob `id`.
    async fn open(&self, id: ObjectId) -> Result<Arc<dyn LargeFile>>;

    /// How many requests to CodeCommit this took so far.
    fn requests(&self) -> u64;

    /// Removes what was put aside. Called once, when the archive is complete or given up;
    /// where it could not be called, dropping must do the same.
    async fn close(&self);
}

/// A file that is too large to be held.
pub trait LargeFile: Send + Sync {
    /// Its size.
    fn size_bytes(&self) -> u64;

    /// Reads it, verified, in pieces of a few hundred kilobytes at most. Each call starts
    /// anew.
    fn content(self: Arc<Self>) -> FileBody;
}

/// A large file as an entry of the archive.
#[derive(Clone)]
pub(super) struct LargeEntry {
    file: Arc<dyn LargeFile>,
    to_crlf: bool,
    pub(super) kind: EntryMode,
    pub(super) measured: EntrySizes,
}

impl LargeEntry {
    /// Reads `file` to learn what its header needs; converts its line ends as `digest`
    /// says.
    pub(super) async fn measure(
        file: Arc<dyn LargeFile>,
        kind: EntryMode,
        digest: eol::AttributesDigest,
    ) -> Result<Self> {
        let to_crlf = to_crlf(&file, digest).await?;
        let deflates = kind != EntryMode::Symlink;
        let mut packing = DeflateStream::new(Arc::clone(&file).content(), to_crlf, deflates);
        loop {
            let (piece, next) = packing.step().await?;
            packing = next;
            if piece.is_none() {
                break;
            }
        }
        let mut measured = packing.measured();
        // Stored where that is shorter, as small files are.
        if measured.packed_size >= measured.size {
            measured.deflated = false;
            measured.packed_size = measured.size;
        }
        Ok(Self {
            file,
            to_crlf,
            kind,
            measured,
        })
    }

    /// What follows the header.
    pub(super) fn packed(&self) -> FileBody {
        let expected = self.measured;
        let content = Arc::clone(&self.file).content();
        let packing = DeflateStream::new(content, self.to_crlf, expected.deflated);
        Box::pin(try_unfold(packing, move |packing| async move {
            let (piece, packing) = packing.step().await?;
            if piece.is_none() && packing.measured() != expected {
                let message = "a large file was another when it was read again";
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            Ok(piece.map(|piece| (piece, packing)))
        }))
    }
}

/// Reads a file whole.
pub(super) async fn read_into_memory(file: Arc<dyn LargeFile>) -> Result<Bytes> {
    let size = usize::try_from(file.size_bytes())
        .map_err(|_| Error::new(ErrorKind::FileTooLarge, "the file does not fit into memory"))?;
    let mut held = Vec::with_capacity(size);
    let mut content = file.content();
    while let Some(piece) = content.next().await.transpose()? {
        held.extend_from_slice(&piece);
    }
    Ok(held.into())
}

/// Whether the line ends of a file become CRLF: for `text=auto` that depends on all of it.
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

/// Counts over pieces what [`eol::Stats`] counts over a whole file.
#[derive(Default)]
struct EolStats {
    stats: eol::Stats,
    // The end of the last piece, when it is a `\r` whose fate is open.
    carriage_return: bool,
    last: Option<u8>,
}

/// The end-of-file mark of DOS, which does not count at the end of a file.
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
        // It left the mark out at the end of this piece.
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

/// A file on its way into the archive.
struct DeflateStream {
    content: FileBody,
    work: Work,
    ended: bool,
}

impl DeflateStream {
    fn new(content: FileBody, to_crlf: bool, deflates: bool) -> Self {
        let deflate =
            deflates.then(|| Compress::new(Compression::new(LEVEL), /* zlib header */ false));
        Self {
            content,
            work: Work {
                line_ends: to_crlf.then(LineEnds::default),
                crc: crc32fast::Hasher::new(),
                size: 0,
                packed_size: 0,
                deflate,
            },
            ended: false,
        }
    }

    /// The next bytes, which may be none yet; `None` after the last ones.
    async fn step(mut self) -> Result<(Option<Bytes>, Self)> {
        if self.ended {
            return Ok((None, self));
        }
        let piece = self.content.next().await.transpose()?;
        self.ended = piece.is_none();
        let mut work = self.work;
        let span = tracing::Span::current();
        let done = tokio::task::spawn_blocking(move || {
            span.in_scope(|| {
                let packed = work.push(piece);
                (packed, work)
            })
        });
        let (packed, work) = done.await.map_err(|error| {
            Error::new(ErrorKind::Internal, "compressing failed").with_source(error)
        })?;
        Ok((Some(packed), Self { work, ..self }))
    }

    fn measured(&self) -> EntrySizes {
        EntrySizes {
            crc: self.work.crc.clone().finalize(),
            size: self.work.size,
            packed_size: self.work.packed_size,
            deflated: self.work.deflate.is_some(),
        }
    }
}

/// What is done with each piece.
struct Work {
    line_ends: Option<LineEnds>,
    crc: crc32fast::Hasher,
    size: u64,
    packed_size: u64,
    deflate: Option<Compress>,
}

impl Work {
    /// Takes a piece in, or the end.
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

/// Turns LF into CRLF, where it is not already.
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
        fn line_ends_in_pieces_are_those_of_the_whole(bytes in text(), size in 1_usize..7) {
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
