//! The lock of a ref: `LOCK#.lock`, as the Python client has it, and owned.
//!
//! The Python client writes the lock as an empty object if there is none, takes one that
//! is older than 60 seconds for left behind, and deletes it without looking whose it is.
//! Ours holds a JSON object that says whose it is:
//!
//! ```json
//! {"owner": "<32 digits>", "renewed": 0, "upload": {"key": "…", "id": "…"}}
//! ```
//!
//! `renewed` makes every state of it another object with another `ETag`, those included
//! that got no answer and may arrive late. All our writes but the first name the `ETag`
//! that we wrote last, so a lock that is ours has been ours without a gap since we got
//! it: nobody else can write our token.
//!
//! `upload` names the multipart upload by which the owner is about to publish. Whoever
//! takes the lock over aborts it before looking at the ref: of the abort and the former
//! owner's completion S3 lets one win. Either the completion fails, or the bundle is
//! there when we look. So among clients of this kind, a writer that lost its lock does
//! not publish unseen, however late its requests arrive. A lock that was found and says
//! anything else is one of a stranger: only its age counts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::BundleLocation;
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectKey;
use crate::storage::{ETag, ObjectStoreExt as _, Precondition, PutOptions, UploadId};

/// How often getting the lock is tried while others are seen to let go of it, and how often
/// it is rewritten while writes of our own are seen to arrive late.
const TRIES: usize = 4;
/// No lock of ours is longer than that: a key and an id have 1,024 bytes each at most.
const MAX_BYTES: u64 = 16 * 1024;
/// Short lifetimes do not make many requests.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// What the object says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LockContent {
    owner: String,
    #[serde(default)]
    renewed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upload: Option<UploadName>,
}

/// A multipart upload that publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct UploadName {
    key: String,
    id: String,
}

/// The lock while it is ours.
pub(super) struct Lock {
    held: Arc<LockState>,
    renewing: JoinHandle<()>,
}

struct LockState {
    place: Arc<BundleLocation>,
    key: ObjectKey,
    state: tokio::sync::Mutex<State>,
    lost: Mutex<Option<String>>,
}

struct State {
    /// What was written last, even if nobody knows whether it has arrived.
    body: LockContent,
    /// Of what is known to be there.
    etag: ETag,
}

/// What became of trying to get a lock.
enum AcquireResult {
    Ours(ETag),
    /// Somebody let go of it meanwhile.
    Again,
}

impl Lock {
    /// Gets the lock, over one that was left behind.
    ///
    /// # Errors
    /// `Conflict` while another client has it.
    pub(super) async fn acquire(place: &Arc<BundleLocation>, key: ObjectKey) -> Result<Self> {
        let body = LockContent {
            owner: format!("{:032x}", rand::random::<u128>()),
            renewed: 0,
            upload: None,
        };
        for _ in 0..TRIES {
            if let AcquireResult::Ours(etag) = attempt(place, &key, &body).await? {
                return Ok(Self::held(place, key, body, etag));
            }
        }
        Err(lock_taken_error(&key))
    }

    fn held(place: &Arc<BundleLocation>, key: ObjectKey, body: LockContent, etag: ETag) -> Self {
        let held = Arc::new(LockState {
            place: Arc::clone(place),
            key,
            state: tokio::sync::Mutex::new(State { body, etag }),
            lost: Mutex::new(None),
        });
        let interval = (place.options.lock_lifetime / 3).max(LEAST_INTERVAL);
        let renewing = tokio::spawn(renew(Arc::clone(&held), interval));
        Self { held, renewing }
    }

    /// Makes sure that the lock is still ours, and starts its lifetime anew.
    ///
    /// # Errors
    /// `Conflict` when it is lost.
    pub(super) async fn verify(&self) -> Result<()> {
        self.held.rewrite(None).await
    }

    /// The same, and names the upload that is about to publish.
    pub(super) async fn record_upload(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        let name = UploadName {
            key: key.to_string(),
            id: upload.0.clone(),
        };
        self.held.rewrite(Some(name)).await
    }

    /// Whether it is known to be lost. To be asked now and then during long work.
    pub(super) fn ensure_held(&self) -> Result<()> {
        match &*self.held.lost() {
            None => Ok(()),
            Some(why) => Err(lost(&self.held.key, why)),
        }
    }

    /// Lets go of it, if it still is ours. What fails is only logged: it ends by itself
    /// when its lifetime is over.
    pub(super) async fn release(self) {
        self.renewing.abort();
        self.held.release().await;
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// A lock that is released even when its holder is dropped.
pub(super) struct Guard(Option<Lock>);

impl Guard {
    /// Lets go of the lock, if it still is ours.
    pub(super) async fn release(mut self) {
        if let Some(lock) = self.0.take() {
            lock.release().await;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(lock) = self.0.take() {
            lock.release_later(async { true });
        }
    }
}

impl Lock {
    /// The same lock, released even when the caller goes away.
    pub(super) fn released_when_dropped(self) -> Guard {
        Guard(Some(self))
    }

    /// Lets go of it from a destructor, if `before` says that it may.
    pub(super) fn release_later(self, before: impl Future<Output = bool> + Send + 'static) {
        self.renewing.abort();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let held = Arc::clone(&self.held);
        runtime.spawn(async move {
            if before.await {
                held.release().await;
            }
        });
    }
}

async fn renew(held: Arc<LockState>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        match held.rewrite(None).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Conflict => return,
            Err(error) => tracing::warn!(
                object.key = %held.key,
                error = %error.report(),
                "the lock could not be renewed"
            ),
        }
    }
}

impl LockState {
    fn lost(&self) -> MutexGuard<'_, Option<String>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn rewrite(&self, upload: Option<UploadName>) -> Result<()> {
        let mut state = self.state.lock().await;
        if let Some(why) = &*self.lost() {
            return Err(lost(&self.key, why));
        }
        state.body.renewed += 1;
        if upload.is_some() {
            state.body.upload = upload;
        }
        let mut tries = 1;
        loop {
            let condition = Precondition::Matches(state.etag.clone());
            let error = match write(&self.place, &self.key, &state.body, condition).await {
                Ok(etag) => {
                    state.etag = etag;
                    return Ok(());
                }
                Err(error) => error,
            };
            if !matches!(
                error.kind(),
                ErrorKind::Conflict | ErrorKind::NotFound | ErrorKind::Transport
            ) {
                return Err(error);
            }
            let Some(found) = read(&self.place, &self.key).await? else {
                return Err(self.mark_lost("another client has removed it"));
            };
            let is_unchanged = found.etag == state.etag;
            match found.parsed() {
                // It was written all the same, and only the answer was lost.
                Some(body) if body == state.body => {
                    state.etag = found.etag;
                    return Ok(());
                }
                // Not written, and nobody else has it: the caller may try again.
                _ if is_unchanged => return Err(error),
                // An older one of ours that got no answer has arrived only now.
                Some(body) if body.owner == state.body.owner => {
                    state.etag = found.etag;
                    if tries == TRIES {
                        return Err(error);
                    }
                    tries += 1;
                }
                _ => return Err(self.mark_lost("another client has taken it over")),
            }
        }
    }

    fn mark_lost(&self, why: &str) -> Error {
        *self.lost() = Some(why.to_owned());
        lost(&self.key, why)
    }

    async fn release(&self) {
        let state = self.state.lock().await;
        if self.lost().is_some() {
            return;
        }
        let place = &self.place;
        let condition = Precondition::Matches(state.etag.clone());
        let deleted = place
            .store
            .delete(&place.bucket, &self.key, &condition)
            .await;
        if let Err(error) = deleted {
            tracing::warn!(
                object.key = %self.key,
                error = %error.report(),
                "the lock could not be released"
            );
        }
    }
}

/// A lock that was read.
struct Found {
    etag: ETag,
    last_modified: i64,
    body: Bytes,
}

impl Found {
    fn parsed(&self) -> Option<LockContent> {
        serde_json::from_slice(&self.body).ok()
    }

    fn is(&self, body: &LockContent) -> bool {
        self.parsed().is_some_and(|found| found == *body)
    }

    /// The upload by which the owner may be about to publish: a bundle, in the folder of
    /// the lock.
    fn upload(&self, lock: &ObjectKey) -> Option<(ObjectKey, UploadId)> {
        let upload = self.parsed()?.upload?;
        let (folder, _) = lock.as_str().rsplit_once('/')?;
        let last = upload.key.strip_prefix(folder)?.strip_prefix('/')?;
        let is_bundle = last.ends_with(".bundle") && !last.contains('/');
        let key = ObjectKey::new(&upload.key).ok()?;
        (is_bundle && !upload.id.is_empty()).then_some((key, UploadId(upload.id)))
    }
}

/// Reads the lock; its `ETag` is at most as new as its content.
async fn read(place: &BundleLocation, key: &ObjectKey) -> Result<Option<Found>> {
    let Some(head) = place.store.head(&place.bucket, key).await? else {
        return Ok(None);
    };
    let body = if (1..=MAX_BYTES).contains(&head.size_bytes) {
        match place.store.get(&place.bucket, key, None, None).await {
            Ok(body) => body,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    } else {
        Bytes::new()
    };
    Ok(Some(Found {
        etag: head.etag,
        last_modified: head.last_modified,
        body,
    }))
}

async fn write(
    place: &BundleLocation,
    key: &ObjectKey,
    body: &LockContent,
    precondition: Precondition,
) -> Result<ETag> {
    let bytes = serde_json::to_vec(body).expect("because it is plain text and numbers");
    let options = PutOptions {
        precondition,
        kms_key_id: place.options.kms_key_id.clone(),
        ..PutOptions::default()
    };
    let written = place
        .store
        .put(&place.bucket, key, bytes.into(), &options)
        .await?;
    Ok(written.etag)
}

async fn attempt(
    place: &Arc<BundleLocation>,
    key: &ObjectKey,
    body: &LockContent,
) -> Result<AcquireResult> {
    let error = match write(place, key, body, Precondition::Absent).await {
        Ok(etag) => return Ok(AcquireResult::Ours(etag)),
        Err(error) => error,
    };
    if !matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Transport) {
        return Err(error);
    }
    let Some(found) = read(place, key).await? else {
        return if error.kind() == ErrorKind::Conflict {
            Ok(AcquireResult::Again)
        } else {
            Err(error)
        };
    };
    if found.is(body) {
        return Ok(AcquireResult::Ours(found.etag));
    }
    let lifetime = i64::try_from(place.options.lock_lifetime.as_secs()).unwrap_or(i64::MAX);
    let age = (place.options.clock)().saturating_sub(found.last_modified);
    if age <= lifetime {
        return Err(lock_taken_error(key));
    }
    tracing::info!(object.key = %key, age_s = age, "taking over a lock that was left behind");
    let former = found.upload(key);
    // Says whose upload is to be aborted until that is done: if we end here, the next one
    // does it.
    let mut ours = body.clone();
    ours.upload = former.as_ref().map(|(key, id)| UploadName {
        key: key.to_string(),
        id: id.0.clone(),
    });
    let condition = Precondition::Matches(found.etag);
    let etag = match write(place, key, &ours, condition).await {
        Ok(etag) => etag,
        Err(error) => match error.kind() {
            // Its owner lives, or another one was faster.
            ErrorKind::Conflict | ErrorKind::NotFound => return Ok(AcquireResult::Again),
            ErrorKind::Transport => match read(place, key).await? {
                Some(found) if found.is(&ours) => found.etag,
                _ => return Err(error),
            },
            _ => return Err(error),
        },
    };
    if let Some((key, id)) = former {
        place.store.abort_upload(&place.bucket, &key, &id).await?;
    }
    Ok(AcquireResult::Ours(etag))
}

fn lock_taken_error(key: &ObjectKey) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("another client is pushing: it has the lock `{key}`"),
    )
    .with_hint("fetch, and push again")
}

fn lost(key: &ObjectKey, why: &str) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("the lock `{key}` was lost: {why}"),
    )
    .with_hint("fetch, and push again")
}
