//! Keys of a repository's files, with their media types and cache headers.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::name::{BucketName, KeyPrefix, ObjectKey};
use crate::remote::dumb_files::{INFO_PACKS, index_path, loose_path, pack_path};
use crate::storage::{
    ETag, ObjectMetadata, ObjectStore, ObjectStoreExt as _, Precondition, PutOptions, PutResult,
};

/// File of the layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ObjectRole {
    /// `info/refs`.
    Refs,
    /// `HEAD`.
    Head,
    /// `objects/info/packs`.
    Packs,
    /// A pack, by the id in its name.
    Pack(ObjectId),
    /// The index of a pack.
    Index(ObjectId),
    /// A loose object.
    Loose(ObjectId),
    /// A pack whose name is not known yet.
    Staged(u128),
}

/// Start of the names of unpublished packs, as git names its own.
const STAGED: &str = "tmp_pack_";

impl ObjectRole {
    fn path(&self) -> String {
        match self {
            Self::Refs => "info/refs".into(),
            Self::Head => "HEAD".into(),
            Self::Packs => INFO_PACKS.into(),
            Self::Pack(id) => pack_path(*id),
            Self::Index(id) => index_path(*id),
            Self::Loose(id) => loose_path(*id),
            Self::Staged(random) => format!("objects/pack/{STAGED}{random:032x}"),
        }
    }

    /// Returns the media type. `info/refs` must not have `application/x-git-*`, by which git
    /// recognises a smart server.
    fn content_type(&self) -> &'static str {
        match self {
            Self::Refs | Self::Head | Self::Packs => "text/plain; charset=utf-8",
            Self::Pack(_) | Self::Staged(_) => "application/x-git-packed-objects",
            Self::Index(_) => "application/x-git-packed-objects-toc",
            Self::Loose(_) => "application/x-git-loose-object",
        }
    }

    /// Returns the cache header. Objects are immutable; the files that name them are not.
    fn cache_control(&self) -> &'static str {
        match self {
            Self::Refs | Self::Head | Self::Packs => "no-cache, must-revalidate",
            Self::Staged(_) => "no-store",
            Self::Pack(_) | Self::Index(_) | Self::Loose(_) => {
                "public, max-age=31536000, immutable"
            }
        }
    }
}

/// Keys below a prefix of a bucket, and access to their objects.
#[derive(Clone)]
pub(super) struct RepositoryKeys {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) bucket: BucketName,
    pub(super) prefix: KeyPrefix,
    pub(super) kms_key_id: Option<String>,
}

impl fmt::Display for RepositoryKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.prefix.as_str().trim_end_matches('/');
        write!(f, "s3://{}", self.bucket)?;
        if path.is_empty() {
            return Ok(());
        }
        write!(f, "/{path}")
    }
}

impl RepositoryKeys {
    pub(super) fn key(&self, file: &ObjectRole) -> Result<ObjectKey> {
        ObjectKey::new(&format!("{}{}", self.prefix, file.path()))
    }

    /// Returns the start of the keys of staged packs.
    pub(super) fn staged_prefix(&self) -> String {
        format!("{}objects/pack/{STAGED}", self.prefix)
    }

    pub(super) fn options(&self, file: &ObjectRole, precondition: Precondition) -> PutOptions {
        PutOptions {
            metadata: ObjectMetadata {
                content_type: Some(file.content_type().into()),
                cache_control: Some(file.cache_control().into()),
                ..ObjectMetadata::default()
            },
            precondition,
            kms_key_id: self.kms_key_id.clone(),
        }
    }

    /// Reads a file that may be missing.
    pub(super) async fn read(&self, file: &ObjectRole) -> Result<Option<(Bytes, ETag)>> {
        self.store
            .get_with_etag(&self.bucket, &self.key(file)?)
            .await
    }

    pub(super) async fn put(
        &self,
        file: &ObjectRole,
        body: Bytes,
        precondition: Precondition,
    ) -> Result<PutResult> {
        let (key, options) = (self.key(file)?, self.options(file, precondition));
        self.store.put(&self.bucket, &key, body, &options).await
    }

    /// Replaces a file that was read with the entity tag `read_etag`. Errors: `Conflict` if
    /// another client changed the file since.
    pub(super) async fn replace(
        &self,
        file: &ObjectRole,
        body: Vec<u8>,
        read_etag: Option<&ETag>,
    ) -> Result<ETag> {
        let precondition = match read_etag {
            Some(etag) => Precondition::Matches(etag.clone()),
            None => Precondition::Absent,
        };
        let written = self.put(file, body.into(), precondition).await;
        written.map(|written| written.etag).map_err(|error| {
            if error.kind() == ErrorKind::Conflict {
                let message = format!("another client changed `{}` of {self}", file.path());
                Error::new(ErrorKind::Conflict, message).with_source(error)
            } else {
                error
            }
        })
    }

    pub(super) async fn delete(&self, file: &ObjectRole) -> Result<()> {
        let key = self.key(file)?;
        let unconditionally = Precondition::None;
        self.store
            .delete(&self.bucket, &key, &unconditionally)
            .await
    }
}
