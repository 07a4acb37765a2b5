//! The checksums of S3, computed while bytes pass.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::{CrcAlgorithm, checksum_combine};
use serde::{Deserialize, Serialize};
use sha1::Digest as _;

use super::error::{Error, Result};

/// An algorithm of a client's checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// CRC-32 as in zip and gzip.
    Crc32,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// CRC-64/NVME, which S3 computes when the client names none.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Self; 5] = [
        Self::Crc32,
        Self::Crc32c,
        Self::Crc64Nvme,
        Self::Sha1,
        Self::Sha256,
    ];

    /// Returns S3's name of the algorithm, `CRC32C`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// Finds an algorithm by S3's name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// Finds an algorithm by its header, `x-amz-checksum-crc32c`.
    pub fn of_header(header: &str) -> Option<Self> {
        let header = header.trim();
        let start = header.get(..15)?;
        (start.eq_ignore_ascii_case("x-amz-checksum-"))
            .then(|| Self::parse(&header[15..]))
            .flatten()
    }

    /// Returns the size of the digest in bytes.
    pub fn digest_len(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// Returns the type that a multipart upload has by default.
    pub fn default_kind(self) -> Kind {
        match self {
            Self::Crc64Nvme => Kind::FullObject,
            _ => Kind::Composite,
        }
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    /// Decodes a base64 digest and checks its length.
    pub fn decode(self, text: &str) -> Result<Vec<u8>> {
        BASE64
            .decode(text)
            .ok()
            .filter(|digest| digest.len() == self.digest_len())
            .ok_or_else(|| {
                Error::InvalidRequest(format!(
                    "Value for x-amz-checksum-{} header is invalid.",
                    self.name().to_ascii_lowercase()
                ))
            })
    }
}

/// Coverage of a multipart object's checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// All bytes of the object.
    FullObject,
    /// Checksums of the parts, with the suffix `-<parts>`.
    Composite,
}

/// An object's checksum as S3 returns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// Algorithm.
    pub algorithm: Algorithm,
    /// Coverage.
    pub kind: Kind,
    /// Base64, with `-<parts>` for a composite one.
    pub value: String,
}

/// A running computation of one algorithm.
pub(super) enum Hasher {
    Crc(Algorithm, crc_fast::Digest),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl Hasher {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        match (algorithm.crc(), algorithm) {
            (Some(crc), _) => Self::Crc(algorithm, crc_fast::Digest::new(crc)),
            (None, Algorithm::Sha1) => Self::Sha1(sha1::Sha1::new()),
            (None, _) => Self::Sha256(sha2::Sha256::new()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(_, digest) => digest.update(bytes),
            Self::Sha1(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
        }
    }

    /// Returns the digest, most significant byte first.
    pub(super) fn finish(self) -> Vec<u8> {
        match self {
            Self::Crc(algorithm, digest) => crc_bytes(algorithm, digest.finalize()),
            Self::Sha1(hash) => hash.finalize().to_vec(),
            Self::Sha256(hash) => hash.finalize().to_vec(),
        }
    }
}

fn crc_bytes(algorithm: Algorithm, value: u64) -> Vec<u8> {
    value.to_be_bytes()[8 - algorithm.digest_len()..].to_vec()
}

/// Encodes base64 as in S3's headers.
pub(super) fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Combines the parts' digests and sizes to the checksum of all bytes; `None`
/// for an algorithm that cannot be combined, or when a part has no digest.
pub(super) fn full_object<'a>(
    algorithm: Algorithm,
    parts: impl IntoIterator<Item = (Option<&'a [u8]>, u64)>,
) -> Option<Checksum> {
    let crc = algorithm.crc()?;
    let mut whole: Option<u64> = None;
    for (digest, size) in parts {
        let mut padded = [0; 8];
        padded[8 - algorithm.digest_len()..].copy_from_slice(digest?);
        let part = u64::from_be_bytes(padded);
        whole = Some(whole.map_or(part, |whole| checksum_combine(crc, whole, part, size)));
    }
    Some(Checksum {
        algorithm,
        kind: Kind::FullObject,
        value: base64(&crc_bytes(algorithm, whole?)),
    })
}

/// Computes the checksum of the parts' digests; `None` when a part has none.
pub(super) fn composite<'a>(
    algorithm: Algorithm,
    parts: impl IntoIterator<Item = Option<&'a [u8]>>,
) -> Option<Checksum> {
    let mut hasher = Hasher::new(algorithm);
    let mut count = 0;
    for digest in parts {
        hasher.update(digest?);
        count += 1;
    }
    Some(Checksum {
        algorithm,
        kind: Kind::Composite,
        value: format!("{}-{count}", base64(&hasher.finish())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(algorithm: Algorithm, bytes: &[u8]) -> String {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hex::encode(hasher.finish())
    }

    #[test]
    fn digests_are_the_published_check_values() {
        let check = b"123456789";
        for (algorithm, expected) in [
            (Algorithm::Crc32, "cbf43926"),
            (Algorithm::Crc32c, "e3069283"),
            (Algorithm::Crc64Nvme, "ae8b14860a799888"),
            (Algorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            (
                Algorithm::Sha256,
                "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ),
        ] {
            assert_eq!(
                digest(algorithm, check),
                expected,
                "the catalogue's check value of {} holds",
                algorithm.name()
            );
        }
    }

    #[test]
    fn combined_parts_have_the_checksum_of_the_whole() {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i * 7 % 251) as u8).collect();
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let parts: Vec<_> = [&bytes[..4000], &bytes[4000..4001], &bytes[4001..]]
                .into_iter()
                .map(|part| {
                    let mut hasher = Hasher::new(algorithm);
                    hasher.update(part);
                    (hasher.finish(), part.len() as u64)
                })
                .collect();
            let combined = full_object(
                algorithm,
                parts
                    .iter()
                    .map(|(digest, size)| (Some(&digest[..]), *size)),
            )
            .expect("a CRC can be combined");
            let mut whole = Hasher::new(algorithm);
            whole.update(&bytes);
            assert_eq!(
                combined.value,
                base64(&whole.finish()),
                "{} of the parts combines to that of the whole",
                algorithm.name()
            );
        }
    }
}
