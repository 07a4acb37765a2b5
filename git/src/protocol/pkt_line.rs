//! Pkt-lines: git's framing on the wire (`gitprotocol-common`), and the side-band inside.
//!
//! [`Decoder`] does no I/O: it is given bytes as they arrive, and holds at most one incomplete
//! packet in addition. It does not use `gix-packetline`, which refuses the empty line `0004`;
//! git accepts that line and servers send it.

use bstr::ByteSlice;
use bytes::{Buf, Bytes, BytesMut};

use crate::error::{Error, ErrorKind, Result};
use crate::{corrupt, escaped_excerpt, foreign_message};

/// The longest pkt-line in bytes, its four length digits included.
pub const MAX_LINE: usize = 65520;
/// The most bytes of data in a pkt-line.
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
    /// The data of any other line, without its length digits.
    Data(Bytes),
}

impl Packet {
    /// Returns the data of a line without its final newline; `None` for the special packets.
    pub fn text(&self) -> Option<&[u8]> {
        match self {
            Self::Data(data) => Some(data.strip_suffix(b"\n").unwrap_or(data)),
            _ => None,
        }
    }
}

/// Decodes packets from bytes that arrive in pieces.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Creates a decoder for one message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next complete packet; `None` when more bytes are needed.
    ///
    /// # Errors
    /// `Corrupt` for a length that no pkt-line has.
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
            3 => Err(corrupt("invalid pkt-line length `0003`")),
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

    /// Returns the bytes after the last complete packet.
    pub fn remaining(&self) -> &[u8] {
        &self.buffer
    }

    /// Takes the bytes after the last complete packet, for a message that continues without
    /// framing (a pack without side-band).
    pub fn take_remaining(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }
}

fn parse_length(digits: [u8; 4]) -> Result<usize> {
    let mut length = 0;
    for digit in digits {
        let value = char::from(digit).to_digit(16).ok_or_else(|| {
            corrupt(format!(
                "invalid pkt-line length `{}`",
                escaped_excerpt(digits.as_slice())
            ))
        })?;
        length = length * 16 + value as usize;
    }
    Ok(length)
}

/// Words by which servers refuse a client for good, in lower case.
const REFUSALS: [&str; 5] = [
    "access denied",
    "permission denied",
    "not authorized",
    "unauthorized",
    "forbidden",
];

/// Words by which servers report that they do not have a repository, in lower case.
const MISSING: [&str; 3] = ["not found", "does not exist", "no such repository"];

/// Returns the failure that an `ERR` line reports; `None` for any other line. The failure is
/// `AccessDenied` or `NotFound` if the server says so, which a retry does not change.
pub fn server_error(line: &[u8]) -> Option<Error> {
    let message = line.strip_prefix(b"ERR ")?;
    let message = message.strip_suffix(b"\n").unwrap_or(message);
    // Git's protocol has no error codes. After `not our ref` the caller reads the refs again.
    let words = message.to_ascii_lowercase();
    let says = |any: &[&str]| any.iter().any(|text| words.contains_str(text));
    let kind = if says(&["not our ref"]) || says(&["repository"]) && says(&MISSING) {
        ErrorKind::NotFound
    } else if says(&REFUSALS) {
        ErrorKind::AccessDenied
    } else {
        ErrorKind::Transport
    };
    Some(Error::new(
        kind,
        format!("the server reported `{}`", foreign_message(message)),
    ))
}

/// A packet of a side-band stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Band {
    /// Band 1: data.
    Data(Bytes),
    /// Band 2: messages for the user, as progress.
    Progress(Bytes),
}

/// Splits the data of a packet into its band and its payload.
///
/// # Errors
/// `Transport` for band 3, which reports a failure of the server; `Corrupt` for other bands.
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
            format!("the server failed: `{}`", foreign_message(&data)),
        )),
        _ => Err(corrupt(format!("unknown side-band {band}"))),
    }
}

/// Encodes packets into one buffer.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: BytesMut,
}

impl Encoder {
    /// Creates an encoder for one message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line with `data` unchanged; the caller adds the newline where git does.
    ///
    /// # Errors
    /// `Config` when `data` exceeds [`MAX_DATA`].
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

    /// Returns the encoded packets.
    pub fn finish(self) -> Bytes {
        self.buffer.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_bytewise(bytes: &[u8]) -> Result<Vec<Packet>> {
        let mut decoder = Decoder::new();
        let mut packets = Vec::new();
        // One byte at a time, so that every boundary is a boundary of arrival.
        for byte in bytes {
            decoder.push(&[*byte]);
            while let Some(packet) = decoder.next_packet()? {
                packets.push(packet);
            }
        }
        assert!(
            decoder.remaining().is_empty(),
            "the input ends after a packet"
        );
        Ok(packets)
    }

    #[test]
    fn encoded_packets_are_decoded_unchanged() {
        let mut encoder = Encoder::new();
        let long = vec![b'x'; MAX_DATA];
        encoder.line("a\n").unwrap().flush().delimiter();
        encoder.line("").unwrap().line(&long).unwrap();
        let bytes = encoder.finish();
        assert!(bytes.starts_with(b"0006a\n000000010004fff0xxx"));
        assert_eq!(
            decode_bytewise(&bytes).unwrap(),
            [
                Packet::Data("a\n".into()),
                Packet::Flush,
                Packet::Delimiter,
                Packet::Data("".into()),
                Packet::Data(long.into()),
            ]
        );
        assert_eq!(decode_bytewise(b"0002").unwrap(), [Packet::ResponseEnd]);
    }

    #[test]
    fn invalid_lengths_are_corrupt() {
        for bytes in [&b"0003"[..], b"fff1", b"ffff", b"00g0", b"\x00\x01\x02\x03"] {
            assert_eq!(
                decode_bytewise(bytes).unwrap_err().kind(),
                ErrorKind::Corrupt
            );
        }
        let mut encoder = Encoder::new();
        let error = encoder.line(vec![0; MAX_DATA + 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }

    #[test]
    fn bands_are_split_and_band_three_is_a_failure() {
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
