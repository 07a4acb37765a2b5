//! Where artifacts come from, as a small trait.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;

/// An object that a source action reads.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its version; `None` where the bucket keeps none.
    pub version_id: Option<String>,
    /// Its entity tag, without quotes.
    pub etag: String,
    /// When it was written, in seconds since the epoch.
    pub last_modified: i64,
    /// Its user metadata, names in lower case.
    pub metadata: BTreeMap<String, String>,
}

/// Why a source action cannot read its object, in words for a pipeline's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactError(pub String);

/// A store of artifacts.
#[async_trait]
pub trait Artifacts: Send + Sync {
    /// Whether the bucket keeps versions. Errors: the bucket is not there.
    async fn is_versioned(&self, bucket: &str) -> Result<bool, ArtifactError>;

    /// Reads an object, at a version or the latest.
    async fn get(
        &self,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<Artifact, ArtifactError>;
}
