//! What the store refuses, in S3's own distinctions.

use std::path::PathBuf;

/// The store's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the store did not do what it was asked.
#[derive(Debug)]
pub enum Error {
    /// The bucket is not there.
    NoSuchBucket(String),
    /// The bucket is there already.
    BucketExists(String),
    /// The bucket still holds objects, versions or delete markers.
    BucketNotEmpty(String),
    /// The name is none that S3 allows.
    InvalidBucketName(String),
    /// There is no current object of this key.
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
        /// When it was written, in seconds since the epoch.
        last_modified: i64,
    },
    /// The key has no such version.
    NoSuchVersion {
        /// The key.
        key: String,
        /// The version that was asked for.
        version_id: String,
    },
    /// The text is no version id at all.
    InvalidVersionId(String),
    /// A condition of the request does not hold; the header is named.
    PreconditionFailed(&'static str),
    /// The upload is not there: never started, completed or aborted.
    NoSuchUpload(String),
    /// A listed part is missing or has another entity tag.
    InvalidPart(u32),
    /// The parts are not listed in ascending order.
    InvalidPartOrder,
    /// A part that is not the last is under 5 MiB.
    EntityTooSmall {
        /// The part's number.
        number: u32,
        /// Its size.
        size: u64,
    },
    /// The key is longer than 1024 bytes.
    KeyTooLong,
    /// User metadata is larger than 2 KiB.
    MetadataTooLarge,
    /// A range lies outside of the object.
    InvalidRange,
    /// What arrived is not what the named checksum says.
    BadDigest(String),
    /// A checksum is not even of its algorithm's form.
    InvalidDigest(String),
    /// A tag set that S3 does not accept.
    InvalidTag(String),
    /// More tags than an object may have.
    TooManyTags,
    /// A value that S3 does not accept.
    InvalidArgument(String),
    /// Values that do not go together.
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
        /// What is wrong with it.
        reason: String,
    },
    /// The file system failed.
    Io {
        /// What was being done.
        action: &'static str,
        /// What the system says.
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
                "part {number} was not found, or its entity tag is another than the one given"
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

/// Names what was being done when the file system failed.
pub(super) trait Context<T> {
    /// Wraps the error.
    fn context(self, action: &'static str) -> Result<T>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, action: &'static str) -> Result<T> {
        self.map_err(|source| Error::Io { action, source })
    }
}
