//! The lock of a ref: `LOCK#.lock`, the Python client's lock with an owner.
//!
//! The Python client writes the lock as an empty object if it is missing, considers a lock
//! older than 60 seconds abandoned, and deletes the lock of any owner. This client writes
//! a JSON object that names the owner:
//!
//! ```json
//! {"owner": "<32 digits>", "renewed": 0, "upload": {"key": "…", "id": "…"}}
//! ```
//!
//! `renewed` changes with each write, so that each state has its own `ETag`, including writes
//! that got no answer and may arrive late. Every write but the first is conditional on our
//! last `ETag`; the lock has therefore been ours without interruption, because no other
//! client can write our token.
//!
//! `upload` names the multipart upload by which the owner is about to publish. A client that
//! takes the lock over aborts that upload before it lists the ref's folder: S3 performs either
//! the abort or the former owner's completion. Either the completion fails, or the bundle is
//! in the list. So among clients of this kind, a writer that lost its lock does not publish
//! unseen, however late its requests arrive. A lock with any other content belongs to another
//! kind of client: only its age counts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::lock_object::{LockContent, UploadName, delete, read, write};
use super::options::BundleLocation;
use crate::background;
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectKey;
use crate::retry::Backoff;
use crate::storage::{ETag, ObjectStoreExt as _, Precondition, UploadId};

/// Maximum number of attempts to acquire a lock that is being released, and to rewrite it
/// while own writes arrive late.
const MAX_ATTEMPTS: usize = 4;
/// Minimum time between renewals, which bounds the requests of locks with short lifetimes.
const MIN_RENEWAL_INTERVAL: Duration = Duration::from_millis(100);

/// Minimum wait between two attempts to acquire the lock of another client.
const MIN_WAIT_FOR_LOCK: Duration = Duration::from_millis(250);
/// Further waits between these attempts.
const WAIT_FOR_LOCK: Backoff = Backoff {
    tries: u32::MAX,
    base: Duration::from_millis(250),
    cap: Duration::from_secs(4),
};

/// Fails when the lock is lost and the upload should stop.
pub(super) type LockCheck<'a> = &'a (dyn Fn() -> Result<()> + Sync);

/// A lock that this client owns. It is renewed until it is dropped, and released then.
pub(super) struct Lock {
    held: Arc<LockState>,
    renewing: JoinHandle<()>,
    is_released: bool,
}

struct LockState {
    location: Arc<BundleLocation>,
    key: ObjectKey,
    state: tokio::sync::Mutex<State>,
    /// Reason why the lock is lost; `None` while it is ours.
    lost: Mutex<Option<String>>,
}

struct State {
    /// Content of the last write, whether or not it was confirmed.
    body: LockContent,
    /// `ETag` of the last write that was confirmed.
    etag: ETag,
}

/// Result of an attempt to acquire a lock.
enum AcquireResult {
    Ours(ETag),
    /// Another client released the lock meanwhile, or renewed it.
    Retry,
    /// Another client holds the lock.
    Taken {
        age_seconds: i64,
    },
}

impl Lock {
    /// Acquires the lock, or takes over an abandoned one. Waits for the lock of another client for
    /// at most [`BundleOptions::lock_wait`](super::BundleOptions::lock_wait).
    ///
    /// # Errors
    /// `Conflict`, with the age of the lock, while another client holds it.
    pub(super) async fn acquire(location: &Arc<BundleLocation>, key: ObjectKey) -> Result<Self> {
        let body = LockContent {
            owner: format!("{:032x}", rand::random::<u128>()),
            renewed: 0,
            upload: None,
        };
        let begin = Instant::now();
        let mut attempts = 0;
        let mut waits = 0;
        loop {
            let age_seconds = match Acquisition::new(location, &key, &body).result().await? {
                AcquireResult::Ours(etag) => return Ok(Self::held(location, key, body, etag)),
                AcquireResult::Retry if attempts < MAX_ATTEMPTS => {
                    attempts += 1;
                    continue;
                }
                AcquireResult::Retry => 0,
                AcquireResult::Taken { age_seconds } => age_seconds,
            };
            attempts = 0;
            let time_left = location.options.lock_wait.saturating_sub(begin.elapsed());
            if time_left.is_zero() {
                return Err(lock_taken_error(location, &key, age_seconds));
            }
            if waits == 0 {
                tracing::info!(
                    object.key = %key,
                    age_s = age_seconds,
                    "waiting for another client's lock"
                );
            }
            waits += 1;
            let wait = WAIT_FOR_LOCK.wait(waits, rand::random()) + MIN_WAIT_FOR_LOCK;
            tokio::time::sleep(wait.min(time_left)).await;
        }
    }

    fn held(location: &Arc<BundleLocation>, key: ObjectKey, body: LockContent, etag: ETag) -> Self {
        let held = Arc::new(LockState {
            location: Arc::clone(location),
            key,
            state: tokio::sync::Mutex::new(State { body, etag }),
            lost: Mutex::new(None),
        });
        let interval = (location.options.lock_lifetime / 3).max(MIN_RENEWAL_INTERVAL);
        let renewing = tokio::spawn(extend_lease(Arc::clone(&held), interval));
        Self {
            held,
            renewing,
            is_released: false,
        }
    }

    /// Verifies that the lock is still ours, and restarts its lifetime.
    ///
    /// # Errors
    /// `Conflict` when the lock is lost.
    pub(super) async fn verify(&self) -> Result<()> {
        self.held.rewrite(None).await
    }

    /// Like [`verify`](Self::verify), and records the upload that is about to publish.
    pub(super) async fn record_upload(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        let name = UploadName {
            key: key.to_string(),
            id: upload.0.clone(),
        };
        self.held.rewrite(Some(name)).await
    }

    /// Fails if the lock is known to be lost. Sends no request, so it may be called often.
    pub(super) fn ensure_held(&self) -> Result<()> {
        match &*self.held.lost() {
            None => Ok(()),
            Some(why) => Err(lost(&self.held.key, why)),
        }
    }

    /// Releases the lock if it is still ours, also if this future is dropped. Failures are only
    /// logged, because the lock expires with its lifetime.
    pub(super) async fn release(mut self) {
        self.is_released = true;
        let (held, renewing) = (Arc::clone(&self.held), self.renewing.abort_handle());
        background::complete(async move { held.release(&renewing).await }).await;
    }

    /// Releases the lock in the background, if `before` returns true: for destructors.
    pub(super) fn release_later(mut self, before: impl Future<Output = bool> + Send + 'static) {
        self.is_released = true;
        let (held, renewing) = (Arc::clone(&self.held), self.renewing.abort_handle());
        background::spawn(async move {
            if before.await {
                held.release(&renewing).await;
            } else {
                renewing.abort();
            }
        });
    }

    /// Leaves the lock to its lifetime.
    pub(super) fn expire(mut self) {
        self.is_released = true;
        self.renewing.abort();
    }
}

impl Drop for Lock {
    /// Releases the lock of a cancelled caller.
    fn drop(&mut self) {
        if !self.is_released {
            let (held, renewing) = (Arc::clone(&self.held), self.renewing.abort_handle());
            background::spawn(async move { held.release(&renewing).await });
        }
    }
}

/// An attempt to acquire a lock. If it is dropped, the lock that it may acquire is released.
struct Acquisition {
    location: Arc<BundleLocation>,
    key: ObjectKey,
    owner: String,
    /// A task, because the lock of a request that is cancelled may be written nevertheless.
    task: Option<JoinHandle<Result<AcquireResult>>>,
}

impl Acquisition {
    fn new(location: &Arc<BundleLocation>, key: &ObjectKey, body: &LockContent) -> Self {
        let (location, key) = (Arc::clone(location), key.clone());
        let acquire = {
            let (location, key, body) = (Arc::clone(&location), key.clone(), body.clone());
            async move { try_acquire(&location, &key, &body).await }
        };
        Self {
            location,
            key,
            owner: body.owner.clone(),
            task: Some(tokio::spawn(acquire.in_current_span())),
        }
    }

    async fn result(mut self) -> Result<AcquireResult> {
        let Some(task) = &mut self.task else {
            return Err(Error::new(ErrorKind::Internal, "a lock was acquired twice"));
        };
        let result = task.await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Internal, "acquiring a lock failed").with_source(error))
        });
        self.task = None;
        result
    }
}

impl Drop for Acquisition {
    fn drop(&mut self) {
        let Some(task) = self.task.take() else {
            return;
        };
        let (location, key) = (Arc::clone(&self.location), self.key.clone());
        let owner = self.owner.clone();
        background::spawn(async move {
            if let Ok(Ok(AcquireResult::Ours(etag))) = task.await {
                delete(&location, &key, &owner, etag).await;
            }
        });
    }
}

async fn extend_lease(held: Arc<LockState>, interval: Duration) {
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
        let mut attempts = 1;
        loop {
            let condition = Precondition::Matches(state.etag.clone());
            let error = match write(&self.location, &self.key, &state.body, condition).await {
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
            let Some(found) = read(&self.location, &self.key).await? else {
                return Err(self.mark_lost("another client has removed it"));
            };
            let is_unchanged = found.etag == state.etag;
            match found.parsed() {
                // The write succeeded, and only the answer was lost.
                Some(body) if body == state.body => {
                    state.etag = found.etag;
                    return Ok(());
                }
                // Not written, and the lock is still ours: the caller may retry.
                _ if is_unchanged => return Err(error),
                // An older write of ours that got no answer has arrived only now.
                Some(body) if body.owner == state.body.owner => {
                    state.etag = found.etag;
                    if attempts == MAX_ATTEMPTS {
                        return Err(error);
                    }
                    attempts += 1;
                }
                _ => return Err(self.mark_lost("another client has taken it over")),
            }
        }
    }

    fn mark_lost(&self, why: &str) -> Error {
        *self.lost() = Some(why.to_owned());
        lost(&self.key, why)
    }

    /// Ends the renewal, and deletes the lock if it is still ours.
    async fn release(&self, renewing: &AbortHandle) {
        renewing.abort();
        let state = self.state.lock().await;
        if self.lost().is_some() {
            return;
        }
        let State { body, etag } = &*state;
        delete(&self.location, &self.key, &body.owner, etag.clone()).await;
    }
}

async fn try_acquire(
    location: &Arc<BundleLocation>,
    key: &ObjectKey,
    body: &LockContent,
) -> Result<AcquireResult> {
    let error = match write(location, key, body, Precondition::Absent).await {
        Ok(etag) => return Ok(AcquireResult::Ours(etag)),
        Err(error) => error,
    };
    if !matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Transport) {
        return Err(error);
    }
    let Some(found) = read(location, key).await? else {
        return if error.kind() == ErrorKind::Conflict {
            Ok(AcquireResult::Retry)
        } else {
            Err(error)
        };
    };
    if found.is(body) {
        return Ok(AcquireResult::Ours(found.etag));
    }
    let lifetime = i64::try_from(location.options.lock_lifetime.as_secs()).unwrap_or(i64::MAX);
    let age = (location.options.clock)().saturating_sub(found.last_modified);
    if age <= lifetime {
        return Ok(AcquireResult::Taken { age_seconds: age });
    }
    tracing::info!(object.key = %key, age_s = age, "taking over an abandoned lock");
    let former = found.upload(key);
    // Names the former owner's upload until it is aborted: if this client crashes here, the
    // next one aborts it.
    let mut ours = body.clone();
    ours.upload = former.as_ref().map(|(key, id)| UploadName {
        key: key.to_string(),
        id: id.0.clone(),
    });
    let condition = Precondition::Matches(found.etag);
    let etag = match write(location, key, &ours, condition).await {
        Ok(etag) => etag,
        Err(error) => match error.kind() {
            // The owner renewed it, or another client took it over first.
            ErrorKind::Conflict | ErrorKind::NotFound => return Ok(AcquireResult::Retry),
            ErrorKind::Transport => match read(location, key).await? {
                Some(found) if found.is(&ours) => found.etag,
                _ => return Err(error),
            },
            _ => return Err(error),
        },
    };
    if let Some((key, id)) = former {
        location
            .store
            .abort_upload(&location.bucket, &key, &id)
            .await?;
    }
    Ok(AcquireResult::Ours(etag))
}

fn lock_taken_error(location: &BundleLocation, key: &ObjectKey, age_seconds: i64) -> Error {
    let lifetime = location.options.lock_lifetime.as_secs();
    Error::new(
        ErrorKind::Conflict,
        format!(
            "another client is pushing: it has the lock `{key}`, which is {age_seconds} seconds old"
        ),
    )
    .with_hint(format!(
        "fetch, and push again; a lock that is older than {lifetime} seconds was left by a killed \
         client, and is taken over; if that client is gone for certain, `branchline remote doctor \
         --fix=locks --lock-ttl=1` with the remote deletes its lock at once"
    ))
}

fn lost(key: &ObjectKey, why: &str) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("the lock `{key}` was lost: {why}"),
    )
    .with_hint("fetch, and push again")
}
