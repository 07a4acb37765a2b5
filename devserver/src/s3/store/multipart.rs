//! State of a multipart upload: its parts as blobs, which completing only concatenates.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::checksum::{Algorithm, Kind};
use super::object::{Attributes, Tags};

/// A multipart upload under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct MultipartUpload {
    pub(super) key: String,
    pub(super) initiated: i64,
    pub(super) attributes: Attributes,
    pub(super) tags: Tags,
    pub(super) checksum: Option<(Algorithm, Kind)>,
    pub(super) parts: BTreeMap<u32, StoredPart>,
}

impl MultipartUpload {
    pub(super) fn blobs(&self) -> impl Iterator<Item = &str> {
        self.parts.values().map(|part| part.blob.as_str())
    }
}

/// A received part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredPart {
    pub(super) md5: [u8; 16],
    pub(super) size: u64,
    pub(super) blob: String,
    pub(super) modified: i64,
    /// Every computed digest.
    pub(super) digests: Vec<(Algorithm, Vec<u8>)>,
    /// Algorithm of the checksum that the client sent.
    pub(super) asked: Option<Algorithm>,
}

impl StoredPart {
    pub(super) fn digest(&self, algorithm: Algorithm) -> Option<&[u8]> {
        self.digests
            .iter()
            .find(|(of, _)| *of == algorithm)
            .map(|(_, digest)| &digest[..])
    }
}
