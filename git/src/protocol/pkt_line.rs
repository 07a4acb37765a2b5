//! Pkt-lines: git's framing on the wire (`gitprotocol-common`), and the side-band inside.
//!
//! [`Decoder`] does no I/O: bytes go in as they arrive, packets come out. It holds at most
//! one incomplete packet beyond what it was given.

use bstr::ByteSlice;
use bytes::{Buf, Bytes, BytesMut};

use crate::error::{Error, ErrorKind, Result};
use crate::{corrupt, escaped_excerpt};

/// The longest pkt-line, its four length digits included.
pub const MAX_LINE: usize = 65520;
/// The most bytes of data in one pkt-line.
pub const MAX_DATA: usize = MAX_LINE - 4;

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// `0000`: the end of a message.
    Flush,
    /// `0001`: the end of a section (protocol v2).
    Delimiter,
    /// `0002`: the end of a stateless response (protocol v2).
    ResponseEnd,
    /// Anything else, its length digits taken off.
    Data(Bytes),
}

impl Packet {
    /// The data of a line without its final newline; `None` for the special packets.
    pub fn text(&self) -> Option<&[u8]> {
        match self {
            Self::Data(data) => Some(data.strip_suffix(b"\n").unwrap_or(data)),
            _ => None,
        }
    }
}

/// Turns bytes into packets.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// A decoder that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next packet that has arrived whole; `None` when more bytes are needed.
    pub fn next_packet(&mut self) -> Result<Option<Packet>> {
        let Some(digits) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = parse_length(*digits)?;
        match length {
            0..=2 => {
                self.buffer.advance(4);
                Ok(Some(match length {
                    0 => Packet::Flush,
                    1 => Packet::Delimiter,
                    _ => Packet::ResponseEnd,
                }))
            }
            3 => Err(corrupt("a pkt-line of length 3 means nothing")),
            _ if length > MAX_LINE => Err(corrupt(format!(
                "a pkt-line of {length} bytes is longer than {MAX_LINE}"
            ))),
            _ if self.buffer.len() < length => Ok(None),
            _ => {
                let mut line = self.buffer.split_to(length).freeze();
                line.advance(4);
                Ok(Some(Packet::Data(line)))
            }
        }
    }

    /// Bytes that have arrived and are not yet part of a packet.
    pub fn remaining(&self) -> &[u8] {
        &self.buffer
    }

    /// Takes the bytes that are not yet part of a packet, for a message that goes on
    /// without framing (a pack without side-band).
    pub fn take_remaining(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }
}

fn parse_length(digits: [u8; 4]) -> Result<usize> {
    let mut length = 0;
    for digit in digits {
        let value = char::from(digit).to_digit(16).ok_or_else(|| {
            corrupt(format!(
                "`{}` is no length of a pkt-line",
                escaped_excerpt(digits.as_slice())
            ))
        })?;
        length = length * 16 + value as usize;
    }
    Ok(length)
}

/// The failure that a server tells in an `ERR` line; `None` for any other line.
pub fn server_error(line: &[u8]) -> Option<Error> {
    let message = line.strip_prefix(b"ERR ")?;
    let message = message.strip_suffix(b"\n").unwrap_or(message);
    // Git's protocol has no codes; this one text decides what a caller does next (look
    // at the refs again), so it is told apart.
    let kind = if message.contains_str("not our ref") {
        ErrorKind::NotFound
    } else {
        ErrorKind::Transport
    };
    Some(Error::new(
        kind,
        format!("the server said `{}`", escaped_excerpt(message)),
    ))
}

/// A packet of a side-band stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Band {
    /// Band 1: the data itself.
    Data(Bytes),
    /// Band 2: progress, for people.
    Progress(Bytes),
}

/// Takes the band off a packet's data; band 3 is the server's failure.
pub fn demultiplex(mut data: Bytes) -> Result<Band> {
    if let Some(error) = server_error(&data) {
        return Err(error);
    }
    let Some(&band) = data.first() else {
        return Err(corrupt("a side-band packet is empty"));
    };
    data.advance(1);
    match band {
        1 => Ok(Band::Data(data)),
        2 => Ok(Band::Progress(data)),
        3 => Err(Error::new(
            ErrorKind::Transport,
            format!(
                "the server failed: `{}`",
                escaped_excerpt(data.trim_ascii())
            ),
        )),
        _ => Err(corrupt(format!("there is no side-band {band}"))),
    }
}

/// Writes packets into one buffer.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: BytesMut,
}

impl Encoder {
    /// An encoder that has written nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line as it is; callers add the newline where git does.
    ///
    /// # Errors
    /// `Config` when it is longer than a pkt-line can be.
    pub fn line(&mut self, data: impl AsRef<[u8]>) -> Result<&mut Self> {
        let data = data.as_ref();
        if data.len() > MAX_DATA {
            return Err(Error::new(
                ErrorKind::Config,
                format!("`{}` does not fit into a pkt-line", escaped_excerpt(data)),
            ));
        }
        let digits = format!("{:04x}", data.len() + 4);
        self.buffer.extend_from_slice(digits.as_bytes());
        self.buffer.extend_from_slice(data);
        Ok(self)
    }

    /// Adds `0000`.
    pub fn flush(&mut self) -> &mut Self {
        self.buffer.extend_from_slice(b"0000");
        self
    }

    /// Adds `0001`.
    pub fn delimiter(&mut self) -> &mut Self {
        self.buffer.extend_from_slice(b"0001");
        self
    }

    /// What was written.
    pub fn finish(self) -> Bytes {
        self.buffer.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Packet>> {
        let mut decoder = Decoder::new();
        let mut packets = Vec::new();
        // One byte at a time: every boundary is a boundary of arrival.
        for byte in bytes {
            decoder.push(&[*byte]);
            while let Some(packet) = decoder.next_packet()? {
                packets.push(packet);
            }
        }
        assert!(decoder.remaining().is_empty(), "the input was whole");
        Ok(packets)
    }

    #[test]
    fn packets_come_out_as_they_went_in() {
        let mut encoder = Encoder::new();
        let long = vec![b'x'; MAX_DATA];
        encoder.line("a\n").unwrap().flush().delimiter();
        encoder.line("").unwrap().line(&long).unwrap();
        let bytes = encoder.finish();
        assert!(bytes.starts_with(b"0006a\n000000010004fff0xxx"));
        assert_eq!(
            all(&bytes).unwrap(),
            [
                Packet::Data("a\n".into()),
                Packet::Flush,
                Packet::Delimiter,
                Packet::Data("".into()),
                Packet::Data(long.into()),
            ]
        );
        assert_eq!(all(b"0002").unwrap(), [Packet::ResponseEnd]);
    }

    #[test]
    fn lengths_that_lie_are_corrupt() {
        for bytes in [&b"0003"[..], b"fff1", b"ffff", b"00g0", b"\x00\x01\x02\x03"] {
            assert_eq!(all(bytes).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        let mut encoder = Encoder::new();
        let error = encoder.line(vec![0; MAX_DATA + 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }

    #[test]
    fn bands_are_told_apart_and_band_three_is_a_failure() {
        let band = |bytes: &'static [u8]| demultiplex(Bytes::from_static(bytes));
        assert_eq!(band(b"\x01PACK").unwrap(), Band::Data("PACK".into()));
        assert_eq!(band(b"\x0250%").unwrap(), Band::Progress("50%".into()));
        let error = band(b"\x03disk full\n").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transport);
        assert_eq!(error.to_string(), "the server failed: `disk full`");
        assert_eq!(band(b"\x04").unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(band(b"").unwrap_err().kind(), ErrorKind::Corrupt);
        let error = band(b"ERR upload-pack: not our ref 12").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
