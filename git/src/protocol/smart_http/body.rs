//! Bodies of responses: bytes, packets, and packs.

use std::collections::VecDeque;
use std::io::Write as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::write::GzDecoder;
use futures_util::{Stream, StreamExt as _};

use super::connector::ResponseStream;
use crate::corrupt;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::advertisement::MAX_REF_BYTES;
use crate::protocol::pkt_line::{Band, Decoder, Packet, demultiplex};

/// Bytes of a gzip stream that are expanded at a time, so that a bomb stays small.
const GZIP_CHUNK_BYTES: usize = 4096;
/// The most bytes of a gzip stream without content: empty blocks are legal, and could go on
/// without end.
const MAX_EMPTY_GZIP_BYTES: usize = 1 << 20;
/// The most bytes of packets between two pieces of a pack. Lists of refs and of shallow
/// commits are the longest legal ones.
const MAX_PACKET_BYTES: usize = MAX_REF_BYTES;
/// Bytes that a packet shorter than an id counts for: one such packet a second is accepted
/// for a day.
const SHORT_PACKET_BYTES: usize = 512;

/// The body of a response.
pub(super) struct ResponseBody {
    inner: ResponseStream,
    idle: Duration,
    gzip: Option<GzDecoder<Vec<u8>>>,
    compressed: Bytes,
    // The server's URL, for errors.
    url: String,
}

impl ResponseBody {
    pub(super) fn new(inner: ResponseStream, idle: Duration, gzip: bool, url: String) -> Self {
        Self {
            inner,
            idle,
            gzip: gzip.then(|| GzDecoder::new(Vec::new())),
            compressed: Bytes::new(),
            url,
        }
    }

    /// Reads the next bytes; `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if self.gzip.is_none() {
            return self.raw_chunk().await;
        }
        let mut empty = 0;
        loop {
            if self.compressed.is_empty() {
                match self.raw_chunk().await? {
                    Some(chunk) => self.compressed = chunk,
                    None => return self.end_gzip(),
                }
            }
            let step = self.compressed.len().min(GZIP_CHUNK_BYTES);
            let piece = self.compressed.split_to(step);
            let broken = |error| corrupt("a gzip response is broken").with_source(error);
            if let Some(gzip) = &mut self.gzip {
                gzip.write_all(&piece).map_err(broken)?;
                // The decoder writes inflated bytes to the Vec only when it is flushed.
                gzip.flush().map_err(broken)?;
                let plain = std::mem::take(gzip.get_mut());
                if !plain.is_empty() {
                    return Ok(Some(plain.into()));
                }
                empty += step;
                if empty > MAX_EMPTY_GZIP_BYTES {
                    return Err(corrupt("a gzip response continues without content"));
                }
            }
        }
    }

    fn end_gzip(&mut self) -> Result<Option<Bytes>> {
        let Some(gzip) = self.gzip.take() else {
            return Ok(None);
        };
        let plain = gzip
            .finish()
            .map_err(|error| corrupt("a gzip response is cut off").with_source(error))?;
        Ok((!plain.is_empty()).then(|| plain.into()))
    }

    async fn raw_chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            let next = tokio::time::timeout(self.idle, self.inner.next()).await;
            let chunk = next.map_err(|_| {
                Error::new(
                    ErrorKind::Transport,
                    format!(
                        "{} sent nothing for {} seconds",
                        self.url,
                        self.idle.as_secs_f32()
                    ),
                )
            })?;
            let Some(chunk) = chunk else {
                return Ok(None);
            };
            let chunk = chunk.map_err(|error| {
                Error::new(
                    ErrorKind::Transport,
                    format!("the response of {} was cut off", self.url),
                )
                .with_source(error)
            })?;
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// `Corrupt` when it has more than `max_bytes` bytes.
    pub(super) async fn read(mut self, max_bytes: usize) -> Result<Bytes> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > max_bytes {
                let url = &self.url;
                return Err(corrupt(format!(
                    "{url} returned more than {max_bytes} bytes"
                )));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// Reads at most `max_bytes` bytes of the body, for an error message.
    pub(super) async fn excerpt(mut self, max_bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < max_bytes {
            match self.chunk().await {
                Ok(Some(chunk)) => out.extend_from_slice(&chunk),
                _ => break,
            }
        }
        out.truncate(max_bytes);
        out
    }
}

/// The body of a response, as packets.
pub(super) struct ResponseReader {
    body: ResponseBody,
    decoder: Decoder,
    peeked: VecDeque<Packet>,
    // Bytes of packets since the last piece of a pack.
    packet_bytes: usize,
}

impl ResponseReader {
    pub(super) fn new(body: ResponseBody) -> Self {
        Self {
            body,
            decoder: Decoder::new(),
            peeked: VecDeque::new(),
            packet_bytes: 0,
        }
    }

    /// Reads the next packet; `None` when the response ends after a packet.
    pub(super) async fn packet(&mut self) -> Result<Option<Packet>> {
        if let Some(packet) = self.peeked.pop_front() {
            return Ok(Some(packet));
        }
        loop {
            if let Some(packet) = self.decoder.next_packet()? {
                self.count(&packet)?;
                return Ok(Some(packet));
            }
            match self.body.chunk().await? {
                Some(chunk) => self.decoder.push(&chunk),
                None if self.decoder.remaining().is_empty() => return Ok(None),
                None => return Err(self.cut_off()),
            }
        }
    }

    /// Reads the next packet of a response that must not end yet.
    pub(super) async fn expect_packet(&mut self) -> Result<Packet> {
        match self.packet().await? {
            Some(packet) => Ok(packet),
            None => Err(self.cut_off()),
        }
    }

    pub(super) fn put_back(&mut self, packet: Packet) {
        self.peeked.push_front(packet);
    }

    /// Reads bytes that follow the packets without framing.
    async fn raw(&mut self) -> Result<Option<Bytes>> {
        let rest = self.decoder.take_remaining();
        if rest.is_empty() {
            self.body.chunk().await
        } else {
            Ok(Some(rest))
        }
    }

    fn count(&mut self, packet: &Packet) -> Result<()> {
        let length = packet.text().map_or(0, <[u8]>::len);
        self.packet_bytes += if length < 40 {
            SHORT_PACKET_BYTES
        } else {
            length
        };
        if self.packet_bytes <= MAX_PACKET_BYTES {
            return Ok(());
        }
        Err(corrupt(format!(
            "{} sends more packets than any legal response has",
            self.body.url
        )))
    }

    fn cut_off(&self) -> Error {
        Error::new(
            ErrorKind::Transport,
            format!("the response of {} is cut off", self.body.url),
        )
    }
}

/// The bytes of a pack as they arrive. Nothing is read ahead, so that a slow reader slows
/// the server down.
pub struct PackStream {
    packets: ResponseReader,
    side_band: bool,
    ended: bool,
}

impl std::fmt::Debug for PackStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackStream")
            .field("side_band", &self.side_band)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl PackStream {
    pub(super) fn new(packets: ResponseReader, side_band: bool) -> Self {
        Self {
            packets,
            side_band,
            ended: false,
        }
    }

    /// Reads the next bytes of the pack; `None` after the last ones.
    ///
    /// # Errors
    /// `Transport` when the server fails or is silent, or when the connection ends.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        if !self.side_band {
            let chunk = self.packets.raw().await?;
            self.ended = chunk.is_none();
            return Ok(chunk);
        }
        loop {
            let data = match self.packets.expect_packet().await? {
                Packet::Data(data) => data,
                Packet::Flush => {
                    self.ended = true;
                    return Ok(None);
                }
                _ => {
                    return Err(corrupt(
                        "the packets of a pack contain an unexpected special packet",
                    ));
                }
            };
            match demultiplex(data)? {
                // Servers send empty packets to keep the connection alive.
                Band::Data(data) if data.is_empty() => {}
                Band::Data(data) => {
                    self.packets.packet_bytes = 0;
                    return Ok(Some(data));
                }
                Band::Progress(_) => {}
            }
        }
    }

    /// Returns the pack as a [`Stream`], which ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send {
        futures_util::stream::try_unfold(self, |mut this| async move {
            let chunk = this.chunk().await?;
            Ok(chunk.map(|chunk| (chunk, this)))
        })
    }
}
