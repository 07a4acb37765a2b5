//! Request bodies as streams of bytes, decompressed if the headers say gzip.

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;

use std::io::Write as _;

use crate::http_body::BoxError;

/// Compressed bytes inflated at once: deflate expands them at most 1032 times, and the
/// result is held in memory.
const GZIP_CHUNK_BYTES: usize = 4096;

/// A request's body.
pub(super) struct RequestBody {
    body: UnsyncBoxBody<Bytes, BoxError>,
    gzip: Option<MultiGzDecoder<Vec<u8>>>,
    /// Received bytes that are not inflated yet.
    compressed: Bytes,
}

impl RequestBody {
    /// Wraps `body`, which came with `headers`. Errors: a content encoding that git does
    /// not use.
    pub(super) fn new(
        headers: &HeaderMap,
        body: UnsyncBoxBody<Bytes, BoxError>,
    ) -> Result<Self, BoxError> {
        let encoding = headers.get(header::CONTENT_ENCODING);
        let gzip = match encoding.map(http::HeaderValue::as_bytes) {
            None | Some(b"identity") => None,
            Some(b"gzip" | b"x-gzip") => Some(MultiGzDecoder::new(Vec::new())),
            Some(_) => return Err("the content encoding is neither gzip nor identity".into()),
        };
        Ok(Self {
            body,
            gzip,
            compressed: Bytes::new(),
        })
    }

    /// Returns the next piece, never an empty one; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        loop {
            if let Some(gzip) = &mut self.gzip {
                while !self.compressed.is_empty() {
                    let length = self.compressed.len().min(GZIP_CHUNK_BYTES);
                    gzip.write_all(&self.compressed.split_to(length))?;
                    let made = std::mem::take(gzip.get_mut());
                    if !made.is_empty() {
                        return Ok(Some(made.into()));
                    }
                }
            }
            let Some(frame) = self.body.frame().await else {
                let Some(mut gzip) = self.gzip.take() else {
                    return Ok(None);
                };
                gzip.try_finish()?;
                let made = std::mem::take(gzip.get_mut());
                return Ok((!made.is_empty()).then(|| made.into()));
            };
            // Trailers are not used.
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            if data.is_empty() {
                continue;
            }
            if self.gzip.is_none() {
                return Ok(Some(data));
            }
            self.compressed = data;
        }
    }

    /// Reads to the end and discards the bytes, because git reads an answer only after it
    /// has sent its whole request.
    pub(super) async fn drain(&mut self) -> Result<(), BoxError> {
        while self.next().await?.is_some() {}
        Ok(())
    }
}
