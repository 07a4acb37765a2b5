//! [`ObjectStore`] under a [`RetryPolicy`](crate::retry::RetryPolicy): limited and retried.
//!
//! **Writes whose answer was lost.** A write that is retried after its answer was lost may
//! conflict with its own first try: a precondition that no longer holds, an upload that is
//! already complete. So every logical write adds a random id to the user metadata
//! ([`WRITE_ID`]), used by all its tries. After a lost answer the current object's id is
//! compared first; if it matches, that object is the result and nothing is written again.
//! Entity tags would not do: with SSE-KMS they are not digests, and another writer of equal
//! bytes would be taken for this one.
//!
//! A multipart upload gets its write id when it is created; because a process that opens
//! the upload later must know the write id too, the [`UploadId`] returned here is the write
//! id, a colon, and the store's own id. An upload whose *creation* lost its answer is never
//! aborted: buckets need a lifecycle rule with `AbortIncompleteMultipartUpload`, as for a
//! killed process.
//!
//! A first try that arrives *after* the second (a delayed request) can still add a version
//! with equal bytes when there is no precondition.

use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    CopySource, Deletion, GetOptions, ListPage, MultipartUpload, Object, ObjectHead, ObjectStore,
    Part, Precondition, PutOptions, PutResult, Tags, UploadId, UploadStart,
};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, ObjectKey};
use crate::retry::Retrying;

/// User metadata that holds the id of a write; removed from the answers of
/// [`ObjectStore::head`] by a [`Retrying`] store.
pub const WRITE_ID: &str = "branchline-write-id";

/// Characters of a write id: 128 bits in hexadecimal.
const WRITE_ID_CHARS: usize = 32;

#[async_trait]
impl<S: ObjectStore + Clone + 'static> ObjectStore for Retrying<S> {
    async fn is_versioned(&self, bucket: &BucketName) -> Result<bool> {
        self.policy.run(|| self.inner.is_versioned(bucket)).await
    }

    async fn head(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<ObjectHead>> {
        let head = self.policy.run(|| self.inner.head(bucket, key)).await?;
        Ok(head.map(|mut head| {
            head.metadata.user.remove(WRITE_ID);
            head
        }))
    }

    async fn get_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &GetOptions<'_>,
    ) -> Result<Object> {
        self.policy
            .run(|| self.inner.get_object(bucket, key, options))
            .await
    }

    async fn list(
        &self,
        bucket: &BucketName,
        prefix: &str,
        delimiter: Option<&str>,
        next: Option<&str>,
    ) -> Result<ListPage> {
        self.policy
            .run(|| self.inner.list(bucket, prefix, delimiter, next))
            .await
    }

    async fn put(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutResult> {
        let (options, id) = with_write_id(options);
        self.write(
            || self.inner.put(bucket, key, body.clone(), &options),
            || self.find(bucket, key, Some(&id)),
        )
        .await
    }

    async fn delete_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        deletion: Deletion<'_>,
    ) -> Result<()> {
        let delete = || self.inner.delete_object(bucket, key, deletion);
        let is_missing = || async {
            // A missing object counts as deleted.
            let head = self.inner.head(bucket, key).await?;
            Ok(head.is_none().then_some(()))
        };
        match deletion {
            Deletion::Current(_) => self.write(delete, is_missing).await,
            Deletion::Version(_) => self.policy.run(delete).await,
        }
    }

    async fn open_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        start: UploadStart<'_>,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (inner, write_id) = match start {
            UploadStart::New(options) => {
                let (options, id) = with_write_id(options);
                let start = UploadStart::New(&options);
                let open = || self.inner.open_upload(bucket, key, start);
                (self.policy.run(open).await?, Some(id))
            }
            UploadStart::Existing(id) => {
                let (write_id, own) = split(id);
                let start = UploadStart::Existing(&own);
                let inner = self.inner.open_upload(bucket, key, start).await?;
                (inner, write_id.map(str::to_owned))
            }
        };
        Ok(Box::new(RetryingUpload {
            inner,
            store: self.clone(),
            bucket: bucket.clone(),
            key: key.clone(),
            write_id,
        }))
    }

    async fn tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        replacement: Option<&Tags>,
    ) -> Result<Tags> {
        self.policy
            .run(|| self.inner.tags(bucket, key, version, replacement))
            .await
    }
}

/// [`MultipartUpload`] of a [`Retrying`] store.
struct RetryingUpload<S> {
    inner: Box<dyn MultipartUpload>,
    store: Retrying<S>,
    bucket: BucketName,
    key: ObjectKey,
    // Missing for an upload that another kind of store created.
    write_id: Option<String>,
}

#[async_trait]
impl<S: ObjectStore + Clone + 'static> MultipartUpload for RetryingUpload<S> {
    fn id(&self) -> UploadId {
        let own = self.inner.id();
        match &self.write_id {
            Some(id) => UploadId(format!("{id}:{}", own.0)),
            None => own,
        }
    }

    async fn part(&self, number: u32, body: Bytes) -> Result<Part> {
        let send = || self.inner.part(number, body.clone());
        self.store.policy.run(send).await
    }

    async fn part_copy(
        &self,
        number: u32,
        source: CopySource<'_>,
        range: Range<u64>,
    ) -> Result<Part> {
        let copy = || self.inner.part_copy(number, source, range.clone());
        self.store.policy.run(copy).await
    }

    async fn complete(&self, parts: &[Part], precondition: &Precondition) -> Result<PutResult> {
        let id = self.write_id.as_deref();
        self.store
            .write(
                || self.inner.complete(parts, precondition),
                || self.store.find(&self.bucket, &self.key, id),
            )
            .await
    }

    async fn abort(&self) -> Result<()> {
        self.store.policy.run(|| self.inner.abort()).await
    }
}

impl<S: ObjectStore> Retrying<S> {
    /// Runs `write` under the policy. Once an answer was lost, `find_written` is asked
    /// whether the write has happened: before each further try, and before a refusal is
    /// returned.
    async fn write<T, W, F>(
        &self,
        write: impl Fn() -> W + Send + Sync,
        find_written: impl Fn() -> F + Send + Sync,
    ) -> Result<T>
    where
        W: Future<Output = Result<T>> + Send,
        F: Future<Output = Result<Option<T>>> + Send,
        T: Send,
    {
        let lost = AtomicBool::new(false);
        let (lost, write, find_written) = (&lost, &write, &find_written);
        self.policy
            .run(|| async move {
                if lost.load(Ordering::Acquire)
                    && let Some(written) = find_written().await?
                {
                    return Ok(written);
                }
                let error = match write().await {
                    Ok(written) => return Ok(written),
                    Err(error) => error,
                };
                match error.kind() {
                    ErrorKind::Transport => lost.store(true, Ordering::Release),
                    ErrorKind::Conflict | ErrorKind::NotFound if lost.load(Ordering::Acquire) => {
                        if let Some(written) = find_written().await? {
                            return Ok(written);
                        }
                    }
                    _ => {}
                }
                Err::<T, Error>(error)
            })
            .await
    }

    /// Returns the current object if it carries the write id `id`.
    async fn find(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        id: Option<&str>,
    ) -> Result<Option<PutResult>> {
        let Some(id) = id else { return Ok(None) };
        let head = self.inner.head(bucket, key).await?;
        Ok(head
            .filter(|head| head.metadata.user.get(WRITE_ID).map(String::as_str) == Some(id))
            .map(|head| PutResult {
                etag: head.etag,
                version_id: head.version_id,
            }))
    }
}

/// Returns the options with a new write id, and the id.
fn with_write_id(options: &PutOptions) -> (PutOptions, String) {
    let id = format!("{:032x}", rand::random::<u128>());
    let mut options = options.clone();
    options
        .metadata
        .user
        .insert(WRITE_ID.to_owned(), id.clone());
    (options, id)
}

/// Splits the id of an upload into the write id, where it has one, and the store's own id.
fn split(upload: &UploadId) -> (Option<&str>, UploadId) {
    match upload.0.split_once(':') {
        Some((id, own))
            if id.len() == WRITE_ID_CHARS && id.bytes().all(|b| b.is_ascii_hexdigit()) =>
        {
            (Some(id), UploadId(own.to_owned()))
        }
        _ => (None, upload.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::retry::RetryPolicy;
    use crate::testkit::MemoryStore;

    /// Runs a write with these answers of its tries and of its lookups, in turn.
    async fn run(
        tries: &[Result<&'static str, ErrorKind>],
        lookups: &[Option<&'static str>],
    ) -> Result<&'static str, ErrorKind> {
        let tries = Mutex::new(tries.iter());
        let lookups = Mutex::new(lookups.iter());
        let store = Retrying::new(Arc::new(MemoryStore::new()), RetryPolicy::new(1));
        let next_try = || async {
            let next = tries.lock().unwrap().next().expect("no further try");
            next.map_err(|kind| Error::new(kind, "as planned"))
        };
        let next_lookup = || async {
            let next = lookups.lock().unwrap().next().expect("no further lookup");
            Ok(*next)
        };
        let result = store.write(next_try, next_lookup).await;
        assert!(
            lookups.lock().unwrap().next().is_none(),
            "all lookups were made"
        );
        assert!(
            tries.lock().unwrap().next().is_none(),
            "all tries were made"
        );
        result.map_err(|error| error.kind())
    }

    const LOST: Result<&str, ErrorKind> = Err(ErrorKind::Transport);
    const CONFLICT: Result<&str, ErrorKind> = Err(ErrorKind::Conflict);
    const MISSING: Result<&str, ErrorKind> = Err(ErrorKind::NotFound);

    #[tokio::test(start_paused = true)]
    async fn a_refusal_caused_by_a_delayed_first_try_is_a_success() {
        for refusal in [CONFLICT, MISSING] {
            // The lookup before the second try finds nothing yet.
            let result = run(&[LOST, refusal], &[None, Some("ours")]).await;
            assert_eq!(result, Ok("ours"));
            let result = run(&[LOST, refusal], &[None, None]).await;
            assert_eq!(
                result, refusal,
                "a refusal caused by another writer is returned"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_lost_answer_no_object_is_looked_up() {
        assert_eq!(run(&[Ok("new")], &[]).await, Ok("new"));
        assert_eq!(run(&[CONFLICT], &[]).await, CONFLICT);
        assert_eq!(
            run(&[Err(ErrorKind::Throttled), CONFLICT], &[]).await,
            CONFLICT
        );
    }

    #[test]
    fn an_upload_of_another_store_has_no_write_id() {
        let own = UploadId("abc:def".into());
        assert_eq!(split(&own), (None, own.clone()));
        let id = "0123456789abcdef0123456789abcdef";
        let ours = UploadId(format!("{id}:own:id"));
        assert_eq!(split(&ours), (Some(id), UploadId("own:id".into())));
    }
}
