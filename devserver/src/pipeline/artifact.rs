//! Sources of executions, as small traits.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;

/// An object that a source action reads.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// Content.
    pub bytes: Bytes,
    /// Version; `None` where the bucket is not versioned.
    pub version_id: Option<String>,
    /// Entity tag, without quotes.
    pub etag: String,
    /// Time of writing, in seconds since the epoch.
    pub last_modified: i64,
    /// User metadata, names in lower case.
    pub metadata: BTreeMap<String, String>,
}

/// Reason why a source action cannot read its object, in words for a pipeline's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactError(pub String);

/// A store of artifacts.
#[async_trait]
pub trait Artifacts: Send + Sync {
    /// Returns true if the bucket is versioned. Errors: the bucket does not exist.
    async fn is_versioned(&self, bucket: &str) -> Result<bool, ArtifactError>;

    /// Reads an object, at a version or the latest.
    async fn get(
        &self,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<Artifact, ArtifactError>;
}

/// A commit that a source action reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceCommit {
    /// Full id.
    pub commit_id: String,
    /// Message.
    pub message: String,
}

/// A store of commits.
#[async_trait]
pub trait Commits: Send + Sync {
    /// Finds a commit of a repository by its id or a full ref.
    async fn find(&self, repository: &str, specifier: &str) -> Result<SourceCommit, ArtifactError>;
}
