//! Zlib streams of a known length, taken in as they arrive.

use flate2::{Decompress, FlushDecompress, Status};

use crate::corrupt;
use crate::error::Result;

/// How much a zlib stream may have, beyond twice what it holds: its header and trailer,
/// and the empty blocks of writers that flush.
const EMPTY: u64 = 2048;

/// Inflates one stream after the other into a scratch buffer.
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

    /// Inflates what of `input` belongs to the stream, handing on its content.
    ///
    /// Returns how many bytes belonged to it, and whether it ended.
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
                return Err(corrupt("an object is larger than its entry says"));
            }
            // Empty blocks are legal, and could go on for ever.
            if self.zlib.total_in() / 2 > self.size.saturating_add(EMPTY) {
                return Err(corrupt("a zlib stream goes on without content"));
            }
            let made = usize::try_from(made).expect("because it was written to a slice");
            content(&self.scratch[..made]);
            if status == Status::StreamEnd {
                if self.zlib.total_out() != self.size {
                    return Err(corrupt("an object is smaller than its entry says"));
                }
                return Ok((at, true));
            }
            // With room left in the scratch, zlib has made all that it can.
            if made < self.scratch.len() && at == input.len() {
                return Ok((at, false));
            }
            if read == 0 && made == 0 {
                return Err(corrupt("a zlib stream is broken"));
            }
        }
    }
}
