//! Request bodies: any body as a stream of bytes, gunzipped where it says so.

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;

use std::io::Write as _;

/// The error of any body.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How much compressed data is inflated at once: deflate makes at most 1032 times as
/// much of it, and that is held in memory.
const GZIP_PIECE: usize = 4096;

/// A request's body.
pub(super) struct RequestBody {
    body: UnsyncBoxBody<Bytes, BoxError>,
    gzip: Option<MultiGzDecoder<Vec<u8>>>,
    /// Received and not inflated yet.
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

    /// The next piece, never an empty one; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        loop {
            if let Some(gzip) = &mut self.gzip {
                while !self.compressed.is_empty() {
                    let length = self.compressed.len().min(GZIP_PIECE);
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
            // Trailers carry nothing.
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

    /// Reads to the end and throws it away: git reads an answer only after it has sent
    /// its whole request.
    pub(super) async fn drain(&mut self) -> Result<(), BoxError> {
        while self.next().await?.is_some() {}
        Ok(())
    }
}
