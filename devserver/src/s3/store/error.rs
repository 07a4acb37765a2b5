//! Errors of the store, as S3 distinguishes them.

use std::path::PathBuf;

/// Result of the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Reason of a failed call of the store.
#[derive(Debug)]
pub enum Error {
    /// The bucket does not exist.
    NoSuchBucket(String),
    /// The bucket exists already.
    BucketExists(String),
    /// The bucket still holds objects, versions or delete markers.
    BucketNotEmpty(String),
    /// S3 does not allow the name.
    InvalidBucketName(String),
    /// The key has no current object.
    NoSuchKey(String),
    /// The current version of the key is a delete marker.
    DeleteMarker {
        /// The key.
        key: String,
        /// The marker's version.
        version_id: Option<String>,
    },
    /// The version that was asked for is a delete marker, which has no content.
    MarkerVersion {
        /// The key.
        key: String,
        /// The marker's version.
        version_id: String,
        /// Time of writing, in seconds since the epoch.
        last_modified: i64,
    },
    /// The key has no such version.
    NoSuchVersion {
        /// The key.
        key: String,
        /// Id of the requested version.
        version_id: String,
    },
    /// The text is not a version id.
    InvalidVersionId(String),
    /// The condition of the named header does not hold.
    PreconditionFailed(&'static str),
    /// The upload does not exist: never started, completed or aborted.
    NoSuchUpload(String),
    /// A listed part is missing or has another entity tag.
    InvalidPart(u32),
    /// The parts are not listed in ascending order.
    InvalidPartOrder,
    /// A part that is not the last is under 5 MiB.
    EntityTooSmall {
        /// The part's number.
        number: u32,
        /// Size of the part, in bytes.
        size: u64,
    },
    /// The key is longer than 1024 bytes.
    KeyTooLong,
    /// User metadata is larger than 2 KiB.
    MetadataTooLarge,
    /// A range is outside of the object.
    InvalidRange,
    /// The received bytes do not match the named checksum.
    BadDigest(String),
    /// A checksum is malformed for its algorithm.
    InvalidDigest(String),
    /// A tag set that S3 does not accept.
    InvalidTag(String),
    /// More tags than an object may have.
    TooManyTags,
    /// A value that S3 does not accept.
    InvalidArgument(String),
    /// Contradicting values.
    InvalidRequest(String),
    /// The list of parts is empty or incomplete.
    MalformedXml(String),
    /// The sender stopped before the end.
    Incomplete,
    /// Another process has this folder open.
    Locked(PathBuf),
    /// A file of the store is damaged.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Description of the damage.
        reason: String,
    },
    /// The file system failed.
    Io {
        /// Action that failed.
        action: &'static str,
        /// Error of the system.
        source: std::io::Error,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSuchBucket(name) => write!(f, "the bucket `{name}` does not exist"),
            Self::BucketExists(name) => write!(f, "the bucket `{name}` exists already"),
            Self::BucketNotEmpty(name) => write!(
                f,
                "the bucket `{name}` still holds objects: delete all of its versions first"
            ),
            Self::InvalidBucketName(name) => write!(f, "`{name}` is not a valid bucket name"),
            Self::NoSuchKey(key) | Self::DeleteMarker { key, .. } => {
                write!(f, "the key `{key}` does not exist")
            }
            Self::MarkerVersion {
                key, version_id, ..
            } => write!(f, "version `{version_id}` of `{key}` is a delete marker"),
            Self::NoSuchVersion { key, version_id } => {
                write!(f, "the key `{key}` has no version `{version_id}`")
            }
            Self::InvalidVersionId(text) => write!(f, "invalid version id specified: `{text}`"),
            Self::PreconditionFailed(header) => write!(
                f,
                "at least one of the preconditions you specified did not hold: {header}"
            ),
            Self::NoSuchUpload(id) => write!(
                f,
                "the upload `{id}` does not exist: it may have been aborted or completed"
            ),
            Self::InvalidPart(number) => write!(
                f,
                "part {number} was not found, or its entity tag does not match the one given"
            ),
            Self::InvalidPartOrder => f.write_str("the parts are not in ascending order"),
            Self::EntityTooSmall { number, size } => write!(
                f,
                "part {number} has {size} bytes; every part but the last needs 5242880"
            ),
            Self::KeyTooLong => f.write_str("the key is longer than 1024 bytes"),
            Self::MetadataTooLarge => f.write_str("user metadata is larger than 2048 bytes"),
            Self::InvalidRange => f.write_str("the requested range is not satisfiable"),
            Self::BadDigest(what) => {
                write!(
                    f,
                    "the {what} you specified did not match what was received"
                )
            }
            Self::InvalidDigest(what) => write!(f, "the value of {what} is not valid"),
            Self::InvalidTag(text)
            | Self::InvalidArgument(text)
            | Self::InvalidRequest(text)
            | Self::MalformedXml(text) => f.write_str(text),
            Self::TooManyTags => f.write_str("Object tags cannot be greater than 10"),
            Self::Incomplete => f.write_str("the body ended before its declared length"),
            Self::Locked(path) => write!(
                f,
                "another server has the folder `{}` open: stop it or choose another folder",
                path.display()
            ),
            Self::Corrupt { path, reason } => write!(
                f,
                "`{}` is damaged ({reason}): restore it or delete the bucket's folder",
                path.display()
            ),
            Self::Io { action, .. } => write!(f, "{action} failed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Adds the failed action to an error of the file system.
pub(super) trait Context<T> {
    /// Wraps the error.
    fn context(self, action: &'static str) -> Result<T>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, action: &'static str) -> Result<T> {
        self.map_err(|source| Error::Io { action, source })
    }
}
