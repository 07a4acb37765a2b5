//! Zlib streams of a known inflated size that arrive in pieces.

use flate2::{Decompress, FlushDecompress, Status};

use crate::corrupt;
use crate::error::Result;

/// The most bytes of a zlib stream beyond twice its inflated size: for its header and trailer,
/// and for the empty blocks of writers that flush.
const MAX_EXTRA_BYTES: u64 = 2048;

/// Inflates streams, one after another, into a scratch buffer.
pub(super) struct Inflater {
    zlib: Decompress,
    scratch: Box<[u8]>,
    size: u64,
}

impl Inflater {
    pub(super) fn new() -> Self {
        Self {
            zlib: Decompress::new(true),
            scratch: vec![0; 32 * 1024].into_boxed_slice(),
            size: 0,
        }
    }

    /// Starts a stream that must inflate to exactly `size` bytes.
    pub(super) fn start(&mut self, size: u64) {
        self.zlib.reset(true);
        self.size = size;
    }

    /// Inflates the part of `input` that belongs to the stream, and passes its content to
    /// `content`. Returns the length of that part, and whether the stream ended.
    pub(super) fn push(
        &mut self,
        input: &[u8],
        mut content: impl FnMut(&[u8]),
    ) -> Result<(usize, bool)> {
        let mut at = 0;
        loop {
            let (total_in, total_out) = (self.zlib.total_in(), self.zlib.total_out());
            let status = self
                .zlib
                .decompress(&input[at..], &mut self.scratch, FlushDecompress::None)
                .map_err(|error| corrupt("a zlib stream is broken").with_source(error))?;
            let read = self.zlib.total_in() - total_in;
            let made = self.zlib.total_out() - total_out;
            at += usize::try_from(read).expect("because it was read from a slice");
            if self.zlib.total_out() > self.size {
                return Err(corrupt("an object is larger than its entry states"));
            }
            // Empty blocks are legal, and could continue without end.
            if self.zlib.total_in() / 2 > self.size.saturating_add(MAX_EXTRA_BYTES) {
                return Err(corrupt("a zlib stream continues without content"));
            }
            let made = usize::try_from(made).expect("because it was written to a slice");
            content(&self.scratch[..made]);
            if status == Status::StreamEnd {
                if self.zlib.total_out() != self.size {
                    return Err(corrupt("an object is smaller than its entry states"));
                }
                return Ok((at, true));
            }
            // With space left in the scratch buffer, zlib has consumed all input.
            if made < self.scratch.len() && at == input.len() {
                return Ok((at, false));
            }
            if read == 0 && made == 0 {
                return Err(corrupt("a zlib stream is broken"));
            }
        }
    }
}
