//! Events of the functions; a test compares each with its example in `docs/events.md`.

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::Error;

/// Source of all events.
pub const SOURCE: &str = "branchline";

/// Version of the events' content. New members may be added to a version.
const VERSION: &str = "1";

/// Maximum number of characters of an error's message.
const MAX_MESSAGE_CHARS: usize = 1_000;

/// Commit of a branch that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BranchCommit {
    /// The repository.
    pub repository: String,
    /// The branch's short name, or the full name of another ref.
    pub branch: String,
    /// The commit, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// An artifact in S3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArchivedArtifact {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The version; missing in a bucket without versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Number of files and symbolic links, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
}

/// Numbers of a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names are those of the answer")]
pub struct MirrorCounts {
    pub created: u64,
    pub updated: u64,
    pub deleted: u64,
    pub objects: u64,
    pub bytes: u64,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announcement {
    /// A commit was archived.
    ArtifactArchived {
        /// Archived commit.
        work: BranchCommit,
        /// Location of the artifact.
        artifact: ArchivedArtifact,
    },
    /// A pipeline was started on an artifact.
    ExecutionStarted {
        /// Commit of the artifact.
        work: BranchCommit,
        /// The pipeline.
        pipeline: String,
        /// The execution.
        execution_id: String,
        /// The artifact.
        artifact: ArchivedArtifact,
    },
    /// No pipeline could be started for a branch.
    ExecutionFailed {
        /// Commit that was to be built.
        work: BranchCommit,
        /// `branchline.Throttled`.
        error_type: String,
        /// The reason.
        message: String,
    },
    /// A mapping is mirrored completely.
    MirrorCompleted {
        /// URL of the source.
        source: String,
        /// URL of the target.
        target: String,
        /// Changes in the target.
        counts: MirrorCounts,
    },
    /// A mapping failed.
    MirrorFailed {
        /// URL of the source.
        source: String,
        /// URL of the target.
        target: String,
        /// `branchline.NotFound`.
        error_type: String,
        /// The reason.
        message: String,
    },
}

impl Announcement {
    /// Makes the event of a branch that failed.
    pub fn execution_failed(work: BranchCommit, error: &Error) -> Self {
        let (error_type, message) = error_fields(error);
        Self::ExecutionFailed {
            work,
            error_type,
            message,
        }
    }

    /// Makes the event of a mapping that failed.
    pub fn mirror_failed(source: String, target: String, error: &Error) -> Self {
        let (error_type, message) = error_fields(error);
        Self::MirrorFailed {
            source,
            target,
            error_type,
            message,
        }
    }

    /// Returns `detail-type`.
    pub fn detail_type(&self) -> &'static str {
        match self {
            Self::ArtifactArchived { .. } => "Artifact Archived",
            Self::ExecutionStarted { .. } => "Execution Started",
            Self::ExecutionFailed { .. } => "Execution Failed",
            Self::MirrorCompleted { .. } => "Mirror Completed",
            Self::MirrorFailed { .. } => "Mirror Failed",
        }
    }

    /// Returns `detail`.
    pub fn detail(&self) -> Value {
        let error = |error_type: &String, message: &String| json!({ "type": error_type, "message": message });
        let mut detail = match self {
            Self::ArtifactArchived { work, artifact } => {
                detail_with(work, "artifact", json!(artifact))
            }
            Self::ExecutionStarted {
                work,
                pipeline,
                execution_id,
                artifact,
            } => {
                let mut detail = detail_with(work, "artifact", json!(artifact));
                detail["pipeline"] = pipeline.clone().into();
                detail["execution_id"] = execution_id.clone().into();
                detail
            }
            Self::ExecutionFailed {
                work,
                error_type,
                message,
            } => detail_with(work, "error", error(error_type, message)),
            Self::MirrorCompleted {
                source,
                target,
                counts,
            } => json!({ "source": source, "target": target, "counts": counts }),
            Self::MirrorFailed {
                source,
                target,
                error_type,
                message,
            } => json!({
                "source": source, "target": target, "error": error(error_type, message),
            }),
        };
        detail["version"] = VERSION.into();
        detail
    }
}

fn detail_with(work: &BranchCommit, member: &str, value: Value) -> Value {
    let mut detail = json!(work);
    detail[member] = value;
    detail
}

fn error_fields(error: &Error) -> (String, String) {
    let message = error.to_string().chars().take(MAX_MESSAGE_CHARS).collect();
    (format!("branchline.{}", error.kind()), message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// One event of each kind, with the values of `docs/events.md`.
    fn examples() -> Vec<Announcement> {
        let work = BranchCommit {
            repository: "demo".into(),
            branch: "feature/x".into(),
            commit: Some("6b4ae12f0c4a5d7e8f90123456789abcdef01234".into()),
        };
        let artifact = ArchivedArtifact {
            bucket: "artifacts".into(),
            key: "demo/feature/x.zip".into(),
            version_id: Some("f466f934".into()),
            size_bytes: 1234,
            files: Some(56),
        };
        let (source, target) = (
            "codecommit://demo".to_owned(),
            "s3://mirrors/demo".to_owned(),
        );
        let error = Error::new(ErrorKind::Throttled, "pipeline `deploy` is busy");
        let missing = Error::new(ErrorKind::NotFound, "repository `demo` does not exist");
        vec![
            Announcement::ArtifactArchived {
                work: work.clone(),
                artifact: artifact.clone(),
            },
            Announcement::ExecutionStarted {
                work: work.clone(),
                pipeline: "deploy".into(),
                execution_id: "12345678-1234-5678-abcd-12345678abcd".into(),
                artifact,
            },
            Announcement::execution_failed(work, &error),
            Announcement::MirrorCompleted {
                source: source.clone(),
                target: target.clone(),
                counts: MirrorCounts {
                    created: 1,
                    updated: 2,
                    deleted: 0,
                    objects: 345,
                    bytes: 67_890,
                },
            },
            Announcement::mirror_failed(source, target, &missing),
        ]
    }

    #[test]
    fn the_documented_events_are_those_that_are_sent() {
        let path = format!("{}/../docs/events.md", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("the document is there");
        let blocks = text.split("```json\n").skip(1);
        let documented: Vec<Value> = blocks
            .map(|block| {
                let json = block.split("```").next().unwrap_or_default();
                serde_json::from_str(json).expect("an example is JSON")
            })
            .collect();
        let sent: Vec<Value> = examples()
            .iter()
            .map(|event| {
                json!({
                    "source": SOURCE, "detail-type": event.detail_type(), "detail": event.detail(),
                })
            })
            .collect();
        assert_eq!(documented, sent);
    }
}
