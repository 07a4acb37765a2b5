//! Layouts of remotes in S3, and which one a prefix has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// Objects and the list of refs that were read to find a layout.
#[derive(Default)]
pub(super) struct ReadBefore {
    /// Objects that were read whole, by their keys; `None` for a missing one.
    objects: HashMap<ObjectKey, Option<(Bytes, ETag)>>,
    /// The start of the keys of refs, and the first page of their list.
    refs: Option<(String, ListPage)>,
}

/// A layout, and what was read to find it.
pub(super) struct FoundLayout {
    /// `None` where no refs are stored.
    pub(super) layout: Option<S3Layout>,
    pub(super) read: ReadBefore,
}

/// Place where a repository may be stored.
struct Place<'a> {
    store: &'a Arc<dyn ObjectStore>,
    bucket: &'a BucketName,
    /// Without the last `/`.
    prefix: &'a str,
}

impl Place<'_> {
    /// Reads an object unless it was read before.
    async fn read(&self, name: &str, before: &ReadBefore) -> Result<ReadObject> {
        let key = ObjectKey::new(&format!("{}/{name}", self.prefix))?;
        let content = match before.objects.get(&key) {
            Some(content) => content.clone(),
            None => self.store.get_with_etag(self.bucket, &key).await?,
        };
        Ok(ReadObject { key, content })
    }

    /// Lists the first refs unless they were listed before.
    async fn list_refs(&self, before: &ReadBefore) -> Result<(String, ListPage)> {
        if let Some(refs) = &before.refs {
            return Ok(refs.clone());
        }
        let start = format!("{}/refs/", self.prefix);
        let page = self.store.list(self.bucket, &start, None, None).await?;
        Ok((start, page))
    }
}

/// An object that was read whole; `None` for a missing one.
struct ReadObject {
    key: ObjectKey,
    content: Option<(Bytes, ETag)>,
}

impl ReadObject {
    /// Records the object, and returns it.
    fn record(self, before: &mut ReadBefore) -> Option<Bytes> {
        let body = self.content.as_ref().map(|(body, _)| body.clone());
        before.objects.insert(self.key, self.content);
        body
    }
}

/// Finds the layout of the repository below `prefix`: by `HEAD`, which in the dumb layout begins
/// with `ref: `; then by `info/refs`; then by a list of refs. The request that the refs of the
/// `likely` layout take is sent together with the first one, because a round trip takes longer
/// than everything else; its failure counts only where its answer is needed.
pub(super) async fn detect(
    store: &Arc<dyn ObjectStore>,
    bucket: &BucketName,
    prefix: &KeyPrefix,
    likely: Option<S3Layout>,
) -> Result<FoundLayout> {
    let place = Place {
        store,
        bucket,
        prefix: prefix.as_str().trim_end_matches('/'),
    };
    let nothing = ReadBefore::default();
    let list = async {
        let is_likely = likely == Some(S3Layout::Bundle);
        if is_likely {
            place.list_refs(&nothing).await.ok()
        } else {
            None
        }
    };
    let info_refs = async {
        let is_likely = matches!(likely, Some(S3Layout::Dumb | S3Layout::Loose));
        if is_likely {
            place.read("info/refs", &nothing).await.ok()
        } else {
            None
        }
    };
    let head = place.read("HEAD", &nothing);
    let (head, refs, info_refs) = futures_util::future::join3(head, list, info_refs).await;
    let mut read = ReadBefore {
        refs,
        ..ReadBefore::default()
    };
    if let Some(info_refs) = info_refs {
        info_refs.record(&mut read);
    }
    let head = head?.record(&mut read);
    let found = |layout, read| Ok(FoundLayout { layout, read });
    if head.is_some_and(|body| body.starts_with(b"refs/")) {
        return found(Some(S3Layout::Bundle), read);
    }
    let info_refs = place.read("info/refs", &read).await?;
    if info_refs.record(&mut read).is_some() {
        return found(Some(S3Layout::Dumb), read);
    }
    let refs = place.list_refs(&read).await?;
    let is_bundle = !refs.1.objects.is_empty();
    read.refs = Some(refs);
    found(is_bundle.then_some(S3Layout::Bundle), read)
}

/// A store that answers the first read of some objects, and the first list of refs, from what was
/// read before.
pub(super) struct ReadOnce {
    store: Arc<dyn ObjectStore>,
    read: Mutex<ReadBefore>,
}

impl ReadOnce {
    pub(super) fn new(store: Arc<dyn ObjectStore>, read: ReadBefore) -> Self {
        Self {
            store,
            read: Mutex::new(read),
        }
    }

    fn read(&self) -> MutexGuard<'_, ReadBefore> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the first page of a list of refs, if it was read before.
    fn listed(&self, prefix: &str) -> Option<ListPage> {
        let mut read = self.read();
        let (start, page) = read.refs.as_ref()?;
        // A part of the list is known only if the whole list is.
        let is_known = prefix == start || (prefix.starts_with(start) && page.next.is_none());
        let (_, mut page) = read.refs.take_if(|_| is_known)?;
        page.objects
            .retain(|object| object.key.as_str().starts_with(prefix));
        Some(page)
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
            self.read().objects.remove(key)
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
        if (delimiter, next) == (None, None)
            && let Some(page) = self.listed(prefix)
        {
            return Ok(page);
        }
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
