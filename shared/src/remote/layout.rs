//! Layouts of remotes in S3, and which one a prefix has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::url::S3Url;
use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;
use crate::name::{BucketName, KeyPrefix, ObjectKey};
use crate::storage::{
    Deletion, ETag, GetOptions, ListPage, MultipartUpload, Object, ObjectHead, ObjectStore,
    ObjectStoreExt as _, PutOptions, PutResult, Tags, UploadStart,
};

/// Layout of a remote in S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3Layout {
    /// Bundles, as awslabs git-remote-s3 reads and writes.
    Bundle,
    /// Packs, as stock git clones them over plain HTTP.
    Dumb,
    /// Like `Dumb` with loose objects instead of packs, as mirror-git-to-s3 writes.
    Loose,
}

impl S3Layout {
    /// Parses `bundle`, `dumb` or `loose`.
    ///
    /// # Errors
    /// `Config` for another text.
    pub fn new(text: &str) -> Result<Self> {
        match text {
            "bundle" => Ok(Self::Bundle),
            "dumb" => Ok(Self::Dumb),
            "loose" => Ok(Self::Loose),
            other => Err(Error::new(
                ErrorKind::Config,
                format!("unknown layout `{}`", escaped_excerpt(other.as_bytes())),
            )
            .with_hint("use `bundle`, `dumb` or `loose`")),
        }
    }

    /// Resolves the layout from the URL and the explicit `layout`: `s3+zip://` requires `bundle`,
    /// because archives are stored alongside bundles only. `None` if neither decides.
    ///
    /// # Errors
    /// `Config` if `s3+zip://` is combined with another layout.
    pub fn of(url: &S3Url, layout: Option<Self>) -> Result<Option<Self>> {
        match layout {
            None | Some(Self::Bundle) if url.zip => Ok(Some(Self::Bundle)),
            Some(_) if url.zip => Err(Error::new(
                ErrorKind::Config,
                format!("`{url}` can only have the layout `bundle`"),
            )
            .with_hint("leave the layout out, or use `s3://` if no `repo.zip` is needed")),
            layout => Ok(layout),
        }
    }
}

/// Objects that were read whole, by their keys; `None` for a missing one.
pub(super) type ReadObjects = HashMap<ObjectKey, Option<(Bytes, ETag)>>;

/// A layout, and what was read to find it.
pub(super) struct FoundLayout {
    /// `None` where no refs are stored.
    pub(super) layout: Option<S3Layout>,
    pub(super) read: ReadObjects,
}

/// Finds the layout of the repository below `prefix`: one request for bundles, two for the dumb
/// layout, whose `HEAD` differs from that of bundles by `ref: `, and three where nothing is
/// stored.
pub(super) async fn detect(
    store: &Arc<dyn ObjectStore>,
    bucket: &BucketName,
    prefix: &KeyPrefix,
) -> Result<FoundLayout> {
    let prefix = prefix.as_str().trim_end_matches('/');
    let mut read = ReadObjects::new();
    let key = ObjectKey::new(&format!("{prefix}/HEAD"))?;
    let head = store.get_with_etag(bucket, &key).await?;
    let is_bare = |(body, _): &(Bytes, ETag)| body.starts_with(b"refs/");
    let is_bundle = head.as_ref().is_some_and(is_bare);
    read.insert(key, head);
    let found = |layout, read| Ok(FoundLayout { layout, read });
    if is_bundle {
        return found(Some(S3Layout::Bundle), read);
    }
    let key = ObjectKey::new(&format!("{prefix}/info/refs"))?;
    let refs = store.get_with_etag(bucket, &key).await?;
    let is_dumb = refs.is_some();
    read.insert(key, refs);
    if is_dumb {
        return found(Some(S3Layout::Dumb), read);
    }
    let refs = format!("{prefix}/refs/");
    let listed = store.list(bucket, &refs, None, None).await?;
    let is_bundle = !listed.objects.is_empty();
    found(is_bundle.then_some(S3Layout::Bundle), read)
}

/// A store that answers the first read of some objects from what was read before.
pub(super) struct ReadOnce {
    store: Arc<dyn ObjectStore>,
    read: Mutex<ReadObjects>,
}

impl ReadOnce {
    pub(super) fn new(store: Arc<dyn ObjectStore>, read: ReadObjects) -> Self {
        Self {
            store,
            read: Mutex::new(read),
        }
    }
}

#[async_trait]
impl ObjectStore for ReadOnce {
    async fn is_versioned(&self, bucket: &BucketName) -> Result<bool> {
        self.store.is_versioned(bucket).await
    }

    async fn head(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<ObjectHead>> {
        self.store.head(bucket, key).await
    }

    async fn get_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &GetOptions<'_>,
    ) -> Result<Object> {
        let read = if *options == GetOptions::default() {
            let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            read.remove(key)
        } else {
            None
        };
        match read {
            Some(Some((body, etag))) => Ok(Object { body, etag }),
            Some(None) => Err(Error::new(
                ErrorKind::NotFound,
                format!("object `{key}` in bucket `{bucket}` does not exist"),
            )),
            None => self.store.get_object(bucket, key, options).await,
        }
    }

    async fn list(
        &self,
        bucket: &BucketName,
        prefix: &str,
        delimiter: Option<&str>,
        next: Option<&str>,
    ) -> Result<ListPage> {
        self.store.list(bucket, prefix, delimiter, next).await
    }

    async fn put(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutResult> {
        self.store.put(bucket, key, body, options).await
    }

    async fn delete_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        deletion: Deletion<'_>,
    ) -> Result<()> {
        self.store.delete_object(bucket, key, deletion).await
    }

    async fn open_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        start: UploadStart<'_>,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.open_upload(bucket, key, start).await
    }

    async fn tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        replacement: Option<&Tags>,
    ) -> Result<Tags> {
        self.store.tags(bucket, key, version, replacement).await
    }
}
