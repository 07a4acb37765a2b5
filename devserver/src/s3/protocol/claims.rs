//! Digests and lengths that a client declares for the bytes that it sends.

use http::HeaderMap;
use s3s::{S3Error, S3ErrorCode, S3Result, TrailingHeaders, s3_error};

use crate::s3::store::{Algorithm, Sealed};

use super::error::convert;

/// Digests in headers, or announced as trailers of the body.
#[derive(Debug, Default)]
pub(super) struct DeclaredChecksums {
    md5: Option<String>,
    header: Option<(Algorithm, String)>,
    trailer: Option<Algorithm>,
    /// Length of the body decoded from `aws-chunked`.
    decoded_length: Option<u64>,
    /// True if the body is signed: as a whole, or chunk by chunk.
    signed: Signed,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Signed {
    #[default]
    No,
    Whole,
    Chunks,
}

impl DeclaredChecksums {
    /// Reads the headers of a request that carries bytes.
    pub(super) fn of(headers: &HeaderMap) -> S3Result<Self> {
        let text = |name: &str| -> S3Result<Option<String>> {
            headers
                .get(name)
                .map(|value| value.to_str().map(str::to_owned))
                .transpose()
                .map_err(|error| s3_error!(error, InvalidRequest, "invalid header: {name}"))
        };
        let mut given = Vec::new();
        for name in headers.keys().map(http::HeaderName::as_str) {
            let Some(rest) = name.strip_prefix("x-amz-checksum-") else {
                continue;
            };
            match (Algorithm::of_header(name), rest) {
                (Some(algorithm), _) => {
                    given.push((algorithm, text(name)?.unwrap_or_default()));
                }
                (None, "algorithm" | "mode" | "type") => {}
                (None, _) => return Err(unsupported(rest)),
            }
        }
        if given.len() > 1 {
            return Err(s3_error!(
                InvalidRequest,
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
            ));
        }
        let trailer = match text("x-amz-trailer")? {
            Some(name) => Some(
                Algorithm::of_header(&name)
                    .ok_or_else(|| unsupported(name.trim_start_matches("x-amz-checksum-")))?,
            ),
            None => None,
        };
        let named = text("x-amz-sdk-checksum-algorithm")?;
        if named.is_some() && given.is_empty() && trailer.is_none() {
            return Err(s3_error!(
                InvalidRequest,
                "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found."
            ));
        }
        let signed = match text("x-amz-content-sha256")?.as_deref() {
            Some(value) if value.starts_with("STREAMING-AWS4") => Signed::Chunks,
            Some(value) if value.len() == 64 => Signed::Whole,
            _ => Signed::No,
        };
        Ok(Self {
            md5: text("content-md5")?,
            header: given.pop(),
            trailer,
            decoded_length: text("x-amz-decoded-content-length")?
                .and_then(|value| value.parse().ok()),
            signed,
        })
    }

    /// Returns the algorithm that must be computed while the bytes pass.
    pub(super) fn algorithm(&self) -> Option<Algorithm> {
        self.header
            .as_ref()
            .map(|(algorithm, _)| *algorithm)
            .or(self.trailer)
    }

    /// Compares the received bytes with the declared digests and length.
    pub(super) fn verify(
        &self,
        sealed: &mut Sealed,
        trailers: Option<&TrailingHeaders>,
    ) -> S3Result<()> {
        if self
            .decoded_length
            .is_some_and(|length| length != sealed.size())
        {
            return Err(s3_error!(
                IncompleteBody,
                "You did not provide the number of bytes specified by x-amz-decoded-content-length"
            ));
        }
        if let Some(md5) = &self.md5 {
            sealed.verify_md5(md5).map_err(convert)?;
        }
        if let Some((algorithm, value)) = &self.header {
            sealed.verify(*algorithm, value).map_err(convert)?;
        }
        if let Some(algorithm) = self.trailer {
            let name = format!("x-amz-checksum-{}", algorithm.name().to_ascii_lowercase());
            let value = trailers
                .and_then(|trailers| {
                    trailers.read(|headers| {
                        headers
                            .get(&name)
                            .and_then(|value| value.to_str().ok())
                            .map(str::to_owned)
                    })
                })
                .flatten()
                .ok_or_else(|| malformed_trailer(&name))?;
            sealed.verify(algorithm, value.trim()).map_err(convert)?;
        }
        Ok(())
    }

    /// Creates the error for a body that could not be read to its end although its connection
    /// is open: the bytes are not those that were signed.
    pub(super) fn broken(&self) -> S3Error {
        match self.signed {
            Signed::Whole => {
                let mut error = S3Error::with_message(
                    S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into()),
                    "The provided 'x-amz-content-sha256' header does not match what was computed.",
                );
                error.set_status_code(http::StatusCode::BAD_REQUEST);
                error
            }
            Signed::Chunks => s3_error!(
                SignatureDoesNotMatch,
                "A chunk of the body does not match its signature, or is malformed"
            ),
            Signed::No => s3_error!(IncompleteBody, "The body is malformed"),
        }
    }
}

fn unsupported(name: &str) -> S3Error {
    s3_error!(
        NotImplemented,
        "The checksum algorithm `{name}` is not implemented: use CRC32, CRC32C, CRC64NVME, SHA1 or SHA256"
    )
}

fn malformed_trailer(name: &str) -> S3Error {
    let mut error = S3Error::with_message(
        S3ErrorCode::Custom("MalformedTrailerError".into()),
        format!("The request announced the trailer {name}, which did not follow the body"),
    );
    error.set_status_code(http::StatusCode::BAD_REQUEST);
    error
}
