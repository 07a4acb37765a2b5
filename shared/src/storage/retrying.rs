//! [`ObjectStore`] under a [`RetryPolicy`](crate::retry::RetryPolicy): limited and tried again.
//!
//! **Writes whose answer was lost.** A write that is tried again after its answer was lost
//! may find its own first try in the way: a precondition that no longer holds, an upload
//! that is already complete. So every logical write marks what it writes with a random id
//! in the user metadata ([`WRITE_ID`]), the same for all its tries; after a lost answer it
//! first looks whether the current object carries that id, and then answers what it finds
//! instead of writing once more. Entity tags would not do: with SSE-KMS they are no digest, and
//! another writer of the same bytes would be taken for us.
//!
//! A multipart upload gets its id when it is created; since its completion must know it
//! too, the [`UploadId`] that comes out of here is the id, a colon, and the store's own.
//! An upload whose *creation* lost its answer stays behind unseen: buckets need a lifecycle
//! rule with `AbortIncompleteMultipartUpload`, as for a process that is killed.
//!
//! A first try that arrives *after* the second (a request held up on its way) can still add
//! a version with the same bytes, when there is no precondition.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    ETag, ListPage, ObjectHead, ObjectStore, Part, Precondition, PutOptions, PutResult, UploadId,
};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, ObjectKey};
use crate::retry::Retrying;

/// The user metadata by which a write recognises itself; not shown by
/// [`ObjectStore::head`] of a [`Retrying`] store.
pub const WRITE_ID: &str = "branchline-write-id";

/// The length of a write id: 128 bits in hexadecimal.
const ID_LEN: usize = 32;

#[async_trait]
impl<S: ObjectStore> ObjectStore for Retrying<S> {
    async fn is_versioned(&self, bucket: &BucketName) -> Result<bool> {
        self.pace.run(|| self.inner.is_versioned(bucket)).await
    }

    async fn head(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<ObjectHead>> {
        let head = self.pace.run(|| self.inner.head(bucket, key)).await?;
        Ok(head.map(|mut head| {
            head.metadata.user.remove(WRITE_ID);
            head
        }))
    }

    async fn get(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        range: Option<Range<u64>>,
    ) -> Result<Bytes> {
        self.pace
            .run(|| self.inner.get(bucket, key, version, range.clone()))
            .await
    }

    async fn get_with_etag(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
    ) -> Result<Option<(Bytes, ETag)>> {
        self.pace
            .run(|| self.inner.get_with_etag(bucket, key))
            .await
    }

    async fn list(
        &self,
        bucket: &BucketName,
        prefix: &str,
        delimiter: Option<&str>,
        next: Option<&str>,
    ) -> Result<ListPage> {
        self.pace
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

    async fn delete(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        precondition: &Precondition,
    ) -> Result<()> {
        // What is gone is deleted, whoever did it.
        self.write(
            || self.inner.delete(bucket, key, precondition),
            || async {
                let head = self.inner.head(bucket, key).await?;
                Ok(head.is_none().then_some(()))
            },
        )
        .await
    }

    async fn delete_version(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: &str,
    ) -> Result<()> {
        self.pace
            .run(|| self.inner.delete_version(bucket, key, version))
            .await
    }

    async fn create_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &PutOptions,
    ) -> Result<UploadId> {
        let (options, id) = with_write_id(options);
        let upload = self
            .pace
            .run(|| self.inner.create_upload(bucket, key, &options))
            .await?;
        Ok(UploadId(format!("{id}:{}", upload.0)))
    }

    async fn upload_part(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> Result<Part> {
        let (_, upload) = split(upload);
        self.pace
            .run(|| {
                self.inner
                    .upload_part(bucket, key, &upload, number, body.clone())
            })
            .await
    }

    async fn upload_part_copy(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        source: (&BucketName, &ObjectKey, Option<&str>),
        range: Range<u64>,
    ) -> Result<Part> {
        let (_, upload) = split(upload);
        self.pace
            .run(|| {
                self.inner
                    .upload_part_copy(bucket, key, &upload, number, source, range.clone())
            })
            .await
    }

    async fn complete_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[Part],
        precondition: &Precondition,
    ) -> Result<PutResult> {
        let (id, upload) = split(upload);
        self.write(
            || {
                self.inner
                    .complete_upload(bucket, key, &upload, parts, precondition)
            },
            || self.find(bucket, key, id),
        )
        .await
    }

    async fn abort_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<()> {
        let (_, upload) = split(upload);
        self.pace
            .run(|| self.inner.abort_upload(bucket, key, &upload))
            .await
    }

    async fn get_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<BTreeMap<String, String>> {
        self.pace
            .run(|| self.inner.get_tags(bucket, key, version))
            .await
    }

    async fn put_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        tags: &BTreeMap<String, String>,
    ) -> Result<()> {
        self.pace
            .run(|| self.inner.put_tags(bucket, key, version, tags))
            .await
    }
}

impl<S: ObjectStore> Retrying<S> {
    /// Runs `write` under the pace; once an answer was lost, asks `done` whether the write
    /// has happened before it writes again, and before it believes a refusal.
    async fn write<T, W, D>(
        &self,
        write: impl Fn() -> W + Send + Sync,
        done: impl Fn() -> D + Send + Sync,
    ) -> Result<T>
    where
        W: Future<Output = Result<T>> + Send,
        D: Future<Output = Result<Option<T>>> + Send,
        T: Send,
    {
        let lost = AtomicBool::new(false);
        let (lost, write, done) = (&lost, &write, &done);
        self.pace
            .run(|| async move {
                if lost.load(Ordering::Acquire)
                    && let Some(written) = done().await?
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
                        if let Some(written) = done().await? {
                            return Ok(written);
                        }
                    }
                    _ => {}
                }
                Err::<T, Error>(error)
            })
            .await
    }

    /// The current object, when it carries this write id.
    async fn find(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        id: Option<&str>,
    ) -> Result<Option<PutResult>> {
        let Some(id) = id else { return Ok(None) };
        let head = self.inner.head(bucket, key).await?;
        Ok(head
            .filter(|head| {
                head.metadata
                    .user
                    .get(WRITE_ID)
                    .is_some_and(|other| other == id)
            })
            .map(|head| PutResult {
                etag: head.etag,
                version_id: head.version_id,
            }))
    }
}

/// The options with a write id of their own.
fn with_write_id(options: &PutOptions) -> (PutOptions, String) {
    let id = format!("{:032x}", rand::random::<u128>());
    let mut options = options.clone();
    options
        .metadata
        .user
        .insert(WRITE_ID.to_owned(), id.clone());
    (options, id)
}

/// The write id and the store's own id of an upload. One that was not created here has no
/// write id.
fn split(upload: &UploadId) -> (Option<&str>, UploadId) {
    match upload.0.split_once(':') {
        Some((id, own)) if id.len() == ID_LEN && id.bytes().all(|b| b.is_ascii_hexdigit()) => {
            (Some(id), UploadId(own.to_owned()))
        }
        _ => (None, upload.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::retry::RetryPolicy;
    use crate::testkit::MemoryStore;

    /// Runs a write whose tries and looks answer in turn what is given.
    async fn run(
        tries: &[Result<&'static str, ErrorKind>],
        looks: &[Option<&'static str>],
    ) -> Result<&'static str, ErrorKind> {
        let tries = Mutex::new(tries.iter());
        let looks = Mutex::new(looks.iter());
        let store = Retrying::new(MemoryStore::new(), RetryPolicy::new(1));
        let next_try = || async {
            let next = tries.lock().unwrap().next().expect("no further try");
            next.map_err(|kind| Error::new(kind, "as planned"))
        };
        let next_look = || async {
            let next = looks.lock().unwrap().next().expect("no further look");
            Ok(*next)
        };
        let result = store.write(next_try, next_look).await;
        assert!(
            looks.lock().unwrap().next().is_none(),
            "all looks were taken"
        );
        assert!(
            tries.lock().unwrap().next().is_none(),
            "all tries were made"
        );
        result.map_err(|error| error.kind())
    }

    const LOST: Result<&str, ErrorKind> = Err(ErrorKind::Transport);
    const CONFLICT: Result<&str, ErrorKind> = Err(ErrorKind::Conflict);
    const GONE: Result<&str, ErrorKind> = Err(ErrorKind::NotFound);

    #[tokio::test(start_paused = true)]
    async fn a_first_try_that_arrives_late_is_recognised_in_the_refusal() {
        for refusal in [CONFLICT, GONE] {
            // The look before the second try sees nothing yet.
            let result = run(&[LOST, refusal], &[None, Some("ours")]).await;
            assert_eq!(result, Ok("ours"));
            let result = run(&[LOST, refusal], &[None, None]).await;
            assert_eq!(result, refusal, "another writer's refusal stays one");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_lost_answer_nothing_is_looked_at() {
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
