//! A client's connection: packets and raw bytes in both directions.

use bytes::{Bytes, BytesMut};
use futures_util::stream::try_unfold;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::error::{Error, ErrorKind, Result};
use crate::pack::PackBody;
use crate::protocol::pkt_line::{Decoder, MAX_DATA, Packet};
use crate::{corrupt, escaped_excerpt};

/// The most bytes of lines in one request: more than 300,000 wants and haves.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;

/// Bytes that are read from the client at once.
const READ_BYTES: usize = 64 * 1024;

/// Reads packets from a client.
pub(super) struct PacketReader<R> {
    reader: R,
    decoder: Decoder,
    buffer: Vec<u8>,
    // The first packet of the next message, if it was read already.
    peeked: Option<Option<Packet>>,
}

impl<R: AsyncRead + Send + Unpin> PacketReader<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            decoder: Decoder::new(),
            buffer: vec![0; READ_BYTES],
            peeked: None,
        }
    }

    /// Reads the next packet; `None` when the client has closed the connection.
    ///
    /// # Errors
    /// `Transport` when the connection ends inside of a packet.
    pub(super) async fn next(&mut self) -> Result<Option<Packet>> {
        if let Some(peeked) = self.peeked.take() {
            return Ok(peeked);
        }
        loop {
            if let Some(packet) = self.decoder.next_packet()? {
                if let Packet::Data(data) = &packet
                    && let Some(message) = data.strip_prefix(b"ERR ")
                {
                    let shown = escaped_excerpt(message.trim_ascii_end());
                    let message = format!("the client reported `{shown}`");
                    return Err(Error::new(ErrorKind::Transport, message));
                }
                return Ok(Some(packet));
            }
            let length = self.reader.read(&mut self.buffer).await.map_err(|error| {
                Error::new(ErrorKind::Transport, "reading from the client failed")
                    .with_source(error)
            })?;
            if length == 0 {
                return match self.decoder.remaining() {
                    [] => Ok(None),
                    _ => Err(closed()),
                };
            }
            self.decoder.push(&self.buffer[..length]);
        }
    }

    /// Returns whether the client has closed the connection instead of sending another packet.
    pub(super) async fn is_at_end(&mut self) -> Result<bool> {
        let next = self.next().await?;
        let ended = next.is_none();
        self.peeked = Some(next);
        Ok(ended)
    }

    /// Reads the next packet of an unfinished message.
    ///
    /// # Errors
    /// `Transport` when the client has closed the connection.
    pub(super) async fn expect(&mut self) -> Result<Packet> {
        self.next().await?.ok_or_else(closed)
    }

    /// Returns the bytes after the packets that were read, up to the end of the connection.
    pub(super) fn into_body(mut self) -> PackBody
    where
        R: 'static,
    {
        let first = self.decoder.take_remaining();
        let state = (first, self.reader, self.buffer);
        Box::pin(try_unfold(
            state,
            |(first, mut reader, mut buffer)| async move {
                if !first.is_empty() {
                    return Ok(Some((first, (Bytes::new(), reader, buffer))));
                }
                let length = reader.read(&mut buffer).await.map_err(|error| {
                    Error::new(
                        ErrorKind::Transport,
                        "reading a pack from the client failed",
                    )
                    .with_source(error)
                })?;
                let bytes = Bytes::copy_from_slice(&buffer[..length]);
                Ok((length > 0).then_some((bytes, (first, reader, buffer))))
            },
        ))
    }
}

/// Returns the error for a connection that ends inside of a message.
pub(super) fn closed() -> Error {
    Error::new(
        ErrorKind::Transport,
        "the client closed the connection before its request was complete",
    )
}

/// Counts the bytes of the lines of a request.
#[derive(Debug, Default)]
pub(super) struct RequestSize(usize);

impl RequestSize {
    /// Adds a line.
    ///
    /// # Errors
    /// `Corrupt` beyond [`MAX_REQUEST_BYTES`].
    pub(super) fn add(&mut self, line: &[u8]) -> Result<()> {
        // With the length digits, so that empty lines are bounded, too.
        self.0 += line.len() + 4;
        if self.0 <= MAX_REQUEST_BYTES {
            return Ok(());
        }
        Err(corrupt(format!(
            "a request has more than {MAX_REQUEST_BYTES} bytes"
        )))
    }
}

/// The form of side-band in which data is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SideBand {
    /// Raw bytes without packets; messages and errors are not sent.
    None,
    /// `side-band`: packets of at most 1,000 bytes.
    Small,
    /// `side-band-64k`.
    Large,
}

/// Writes packets to a client.
pub(super) struct PacketWriter<W> {
    writer: W,
    buffer: BytesMut,
    /// Lines are sent in band 1 (`sideband-all`).
    pub(super) sideband_all: bool,
    /// The form in which a pack or a report is being sent; `None` between packs.
    pub(super) side_band: Option<SideBand>,
}

impl<W: AsyncWrite + Send + Unpin> PacketWriter<W> {
    pub(super) fn new(writer: W) -> Self {
        Self {
            writer,
            buffer: BytesMut::new(),
            sideband_all: false,
            side_band: None,
        }
    }

    /// Adds a line.
    pub(super) fn line(&mut self, line: impl AsRef<[u8]>) {
        let line = line.as_ref();
        let band: &[u8] = if self.sideband_all { &[1] } else { &[] };
        self.packet(band, line);
    }

    fn packet(&mut self, band: &[u8], data: &[u8]) {
        let most = MAX_DATA - band.len();
        // No line of a server is longer, because names of refs are not.
        let data = &data[..data.len().min(most)];
        let digits = format!("{:04x}", data.len() + band.len() + 4);
        self.buffer.extend_from_slice(digits.as_bytes());
        self.buffer.extend_from_slice(band);
        self.buffer.extend_from_slice(data);
    }

    /// Adds `0000`.
    pub(super) fn flush_packet(&mut self) {
        self.buffer.extend_from_slice(b"0000");
    }

    /// Adds `0001`.
    pub(super) fn delimiter(&mut self) {
        self.buffer.extend_from_slice(b"0001");
    }

    /// Adds data in a band, in as many packets as it needs. Without side-band only data of
    /// band 1 is sent.
    pub(super) fn band(&mut self, side_band: SideBand, band: u8, data: &[u8]) {
        let most = match side_band {
            SideBand::None => {
                if band == 1 {
                    self.buffer.extend_from_slice(data);
                }
                return;
            }
            SideBand::Small => 1000 - 5,
            SideBand::Large => MAX_DATA - 1,
        };
        for piece in data.chunks(most) {
            self.packet(&[band], piece);
        }
    }

    /// Adds bytes that are packets already.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Adds an empty packet of band 1, which keeps the connection alive.
    pub(super) fn keep_alive(&mut self, side_band: SideBand) {
        if side_band != SideBand::None {
            self.buffer.extend_from_slice(b"0005\x01");
        }
    }

    /// Adds the report of a failure: in side band 3 while a pack is sent, else as an `ERR`
    /// packet.
    pub(super) fn error(&mut self, error: &Error) {
        let report = error.report();
        match self.side_band {
            Some(side_band) => self.band(side_band, 3, report.as_bytes()),
            None if self.sideband_all => self.packet(&[3], report.as_bytes()),
            None => self.packet(b"", format!("ERR {report}").as_bytes()),
        }
    }

    /// Sends what was added.
    ///
    /// # Errors
    /// `Transport` when the client has closed the connection.
    pub(super) async fn send(&mut self) -> Result<()> {
        let bytes = self.buffer.split();
        let failed = |error| {
            Error::new(ErrorKind::Transport, "writing to the client failed").with_source(error)
        };
        self.writer.write_all(&bytes).await.map_err(failed)?;
        self.writer.flush().await.map_err(failed)
    }

    /// Sends what was added if that is at least 64 KiB.
    pub(super) async fn send_if_full(&mut self) -> Result<()> {
        if self.buffer.len() < READ_BYTES {
            return Ok(());
        }
        self.send().await
    }
}
