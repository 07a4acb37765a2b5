//! The repository that a server serves.

use std::sync::Arc;

use async_trait::async_trait;
use bstr::BString;

use crate::error::{Error, ErrorKind, Result};
use crate::odb::{Database, PackRequest, fetch};
use crate::pack::PackBody;
use crate::refs::{Head, RefOutcome, RefUpdate, Refs};
use crate::{HashKind, ObjectId};

/// Refs of a repository at the time they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefSnapshot {
    /// The hash function of the object ids.
    pub hash: HashKind,
    /// Refs by full name, without `HEAD`. Tags have their peeled ids, as far as the repository
    /// records them.
    pub refs: Refs,
    /// The value of `HEAD`, also when the ref that it names does not exist; `None` if unknown.
    pub head: Option<Head>,
}

impl RefSnapshot {
    /// Returns the object that `HEAD` names; `None` when `HEAD` is unborn or unknown.
    pub fn head_id(&self) -> Option<ObjectId> {
        match self.head.as_ref()? {
            Head::Symbolic(name) => Some(self.refs.get(name)?.id),
            Head::Detached(id) => Some(*id),
        }
    }

    /// Returns the id of the ref that `name` abbreviates, by the rules of git
    /// (`gitrevisions`): a full name, or one without `refs/`, `refs/tags/`, `refs/heads/` or
    /// `refs/remotes/`.
    pub fn resolve(&self, name: &[u8]) -> Option<ObjectId> {
        if name == b"HEAD" {
            return self.head_id();
        }
        let prefixes = ["", "refs/", "refs/tags/", "refs/heads/", "refs/remotes/"];
        prefixes.into_iter().find_map(|prefix| {
            let full = BString::from([prefix.as_bytes(), name].concat());
            self.refs.get(&full).map(|target| target.id)
        })
    }
}

/// Properties of a repository that receives a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveCapabilities {
    /// Updates all refs of a push or none (`atomic`).
    pub atomic: bool,
    /// Accepts packs whose deltas have bases outside of the pack.
    pub thin: bool,
    /// Accepts deltas that name their bases by distance (`ofs-delta`).
    pub offset_deltas: bool,
}

/// The commands and the objects of a push.
pub struct ReceivedPush {
    /// Ref updates in the client's order, each ref once. An update is carried out only if the
    /// ref is at `old` when it is written.
    pub updates: Vec<RefUpdate>,
    /// The pack, not verified; the stream ends after the last byte that the client sends for it.
    /// `None` when all updates are deletions.
    pub pack: Option<PackBody>,
    /// All updates are carried out or none.
    pub atomic: bool,
}

impl std::fmt::Debug for ReceivedPush {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceivedPush")
            .field("updates", &self.updates)
            .field("pack", &self.pack.is_some())
            .field("atomic", &self.atomic)
            .finish()
    }
}

/// A repository that was opened for one push.
#[async_trait]
pub trait PushReceiver: Send + Sync {
    /// Returns all refs at the time of opening. A peeled id may be missing.
    fn snapshot(&self) -> &RefSnapshot;

    /// Returns the properties to advertise.
    fn capabilities(&self) -> ReceiveCapabilities;

    /// Stores the objects and updates the refs; returns an outcome for each update, in order.
    ///
    /// No ref is updated before all of its objects are verified to exist. An update whose ref is
    /// no longer at `old` is [`RefOutcome::Rejected`], and does not stop the others unless the
    /// push is atomic.
    ///
    /// # Errors
    /// The pack is broken or incomplete, or it cannot be stored: no ref was updated. After other
    /// failures the outcome of each ref is unknown.
    async fn receive(&mut self, push: ReceivedPush) -> Result<Vec<RefOutcome>>;

    /// Completes what interrupted pushes left, for a client that has nothing to push. Failures are
    /// not reported, because the client's push has succeeded.
    async fn complete_interrupted(&mut self) {}
}

/// A repository that is served to git clients.
///
/// One connection calls [`refs`](Self::refs) for each listing that the client asks for, and then
/// reads objects; the implementation may read the stored refs again or keep them.
#[async_trait]
pub trait Repository: Send + Sync {
    /// Lists the refs. Those without one of `prefixes` may be left out; an empty list means all
    /// refs. If one of `prefixes` is a prefix of `HEAD`, the ref that `HEAD` names is included.
    ///
    /// # Errors
    /// `NotFound` for a missing repository; an empty repository is not an error.
    async fn refs(&self, prefixes: &[BString]) -> Result<RefSnapshot>;

    /// Opens a database that has those of `ids` that the repository has, with everything that
    /// they need. Ids that the repository does not have are ignored.
    async fn objects(&self, ids: &[ObjectId]) -> Result<Arc<Database>>;

    /// Sends the pack of a request without conditions, of objects that refs name. Stored packs
    /// may be sent unchanged, with more objects than needed.
    ///
    /// # Errors
    /// `Conflict` when an object was deleted since the refs were read.
    async fn fetch(&self, request: &PackRequest) -> Result<PackBody> {
        fetch(&self.objects(&request.wants).await?, request).await
    }

    /// Opens the repository for a push.
    ///
    /// # Errors
    /// `Config` for a repository that cannot be pushed to.
    async fn push_receiver(&self) -> Result<Box<dyn PushReceiver>> {
        Err(Error::new(
            ErrorKind::Config,
            "the repository cannot be pushed to",
        ))
    }
}
