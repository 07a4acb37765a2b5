//! Remotes: repositories of refs and objects, behind one trait.
//!
//! A [`Remote`] is opened in one of two roles. A [`Source`] lists its refs and sends packs. A
//! [`Target`] lists its refs, receives a pack, and updates refs, objects first. Each opening
//! reads the refs once, and a target updates a ref only if it still has the value that was
//! read.
//!
//! Objects are transferred as an [`IncomingPack`], verified while it is streamed.
//!
//! Uses [`crate::git`], and the services as traits; does not depend on `mirror`.

mod by_commits;
pub mod codecommit;
pub mod configured_lfs;
mod dumb_files;
mod dumb_http;
#[cfg(feature = "connect")]
mod dumb_remotes;
#[cfg(feature = "connect")]
mod layout;
mod lazy_bases;
pub mod lfs_alias;
#[cfg(feature = "connect")]
mod lfs_places;
pub mod local;
pub mod maintenance;
#[cfg(feature = "connect")]
pub mod open;
mod ref_conflict;
mod root_file;
pub mod s3_bundle;
pub mod s3_dumb;
pub mod serve;
pub mod smart_http;
pub(crate) mod stale_ref;
pub mod url;

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bstr::BString;
use bytes::Bytes;

pub use crate::git::pack::incoming::{
    CommitTrace, IncomingOptions, IncomingPack, PublishHook, ReceivedObjects, VerifiedPack,
    is_ancestor, missing_objects_error,
};
pub use crate::lfs::Pointer;
pub use crate::storage::spool::{Spool, SpoolConfig, SpoolWriter};

pub use by_commits::ByCommits;
pub(crate) use ref_conflict::{conflicting_ref, conflicting_refs};

use self::maintenance::Maintenance;
use crate::error::Result;
use crate::git::odb::Database;
pub use crate::git::odb::{CommitGraph, PackRequest};
use crate::git::pack::Bases;
pub use crate::git::pack::PackBody;
pub use crate::git::refs::{Head, IgnoredRefs, RefOutcome, RefUpdate, RefValue, Refs};
use crate::git::{HashKind, ObjectId};
use crate::lfs::LfsStore;
use crate::storage::MIN_LEFTOVER_AGE_SECONDS;

/// Start of the names of refs that were set aside; `heads/a` or `tags/v1` follows.
pub const STALE_PREFIX: &str = "refs/stale/";

/// Ref under which a git server keeps the record of LFS objects that it lacks. No mirror copies or
/// deletes the ref.
pub const LFS_RECORD_REF: &str = "refs/branchline/lfs-record";

/// Returns the rejection of a branch whose new value is a tag, tree or blob, with git's message.
pub(crate) fn reject_non_commit(name: &BString, id: ObjectId) -> String {
    format!("cannot update ref '{name}': trying to write non-commit object {id} to branch '{name}'")
}

/// Reason for not changing a ref because another one of the same push could not be changed.
pub(crate) const ATOMIC_FAILURE: &str = "atomic push failure";

/// Returns true if a ref is a branch.
pub(crate) fn is_branch(name: &BString) -> bool {
    name.starts_with(b"refs/heads/")
}

/// A clock that returns seconds since the epoch.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Returns the system's time in seconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Refs of a remote at the time it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Hash function of the object ids.
    pub hash: HashKind,
    /// Refs by full name, without `HEAD`. A tag has its peeled id only if the remote advertises
    /// it.
    pub refs: Refs,
    /// Target of `HEAD`, even if that ref does not exist; `None` if unknown.
    pub head: Option<Head>,
    /// Refs that are listed under names that git does not allow; they are not in `refs`.
    pub ignored: IgnoredRefs,
}

impl Snapshot {
    /// Returns the snapshot of an empty remote.
    pub fn empty(hash: HashKind) -> Self {
        Self {
            hash,
            refs: Refs::new(),
            head: None,
            ignored: IgnoredRefs::default(),
        }
    }

    /// Returns the ids of all refs, sorted, without duplicates.
    pub fn tips(&self) -> Vec<ObjectId> {
        let mut tips: Vec<_> = self.refs.values().map(|target| target.id).collect();
        tips.sort_unstable();
        tips.dedup();
        tips
    }
}

/// Split of a long history into pushes under temporary tags, so that an interrupted run keeps its
/// progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchPolicy {
    /// By number of commits, because CodeCommit limits the time of a push.
    ByCommits,
    /// Only if one push exceeds its bytes or its time.
    BySize,
}

/// Capabilities of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a capability of its own, as in git's protocol"
)]
pub struct TargetCapabilities {
    /// Accepts thin packs.
    pub thin: bool,
    /// Accepts deltas that name their bases by offset (`ofs-delta`).
    pub offset_deltas: bool,
    /// Accepts a new `HEAD` with a push.
    pub head: bool,
    /// Accepts a `HEAD` that names a missing branch, while there is no branch at all.
    pub unborn_head: bool,
    /// A ref that is in the way of another one (`a` and `a/b`) is kept under another name; at
    /// other targets, the new ref is rejected.
    pub sets_aside: bool,
    /// Split of long histories.
    pub batches: BatchPolicy,
    /// Maximum number of refs in one push.
    pub max_changes: usize,
}

/// A push. The target receives the pack, runs `publish_hook`, updates the refs and sets `HEAD`, in
/// this order. `HEAD` stays if it would name a missing branch while there are others.
#[derive(Default)]
pub struct Push {
    /// Ref updates, at most [`TargetCapabilities::max_changes`].
    pub changes: Vec<RefUpdate>,
    /// New `HEAD`; only with [`TargetCapabilities::head`].
    pub head: Option<Head>,
    /// Objects of `changes` that the target does not have; `None` if it has all.
    pub pack: Option<IncomingPack>,
    /// Hook that runs when all objects have arrived and before refs move; its failure ends the
    /// push.
    pub publish_hook: Option<Arc<dyn PublishHook>>,
    /// The refs are temporary: no archives are written for them.
    pub temporary: bool,
    /// All refs are updated, or none; only at a target that [is atomic](Target::is_atomic).
    pub atomic: bool,
}

impl fmt::Debug for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Push")
            .field("changes", &self.changes)
            .field("head", &self.head)
            .field("pack", &self.pack)
            .finish_non_exhaustive()
    }
}

/// Result of a push.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PushReport {
    /// Outcome of each update, in the order of the push.
    pub refs: Vec<(BString, RefOutcome)>,
    /// Number of objects in the pack.
    pub objects: u64,
    /// Bytes of objects sent to the target.
    pub bytes: u64,
}

/// Temporary objects of a target to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// Objects older than the longest possible run.
    Abandoned,
    /// All objects; a run in progress fails, and can be repeated.
    All,
}

impl Leftovers {
    /// Returns the time before which the objects were written, in seconds since the epoch.
    fn written_before(self, now: i64) -> i64 {
        match self {
            Self::Abandoned => now.saturating_sub(MIN_LEFTOVER_AGE_SECONDS),
            Self::All => i64::MAX,
        }
    }
}

/// A repository of refs and objects.
///
/// `Display` is its URL without a user or a password.
#[async_trait]
pub trait Remote: fmt::Display + Send + Sync {
    /// Opens the remote to read from it. Refs without one of `prefixes` may be left out; an empty
    /// list means all refs.
    ///
    /// # Errors
    /// `NotFound` for a missing repository; an empty repository is not an error.
    async fn source(&self, prefixes: &[BString]) -> Result<Box<dyn Source>>;

    /// Opens the remote to write to it.
    ///
    /// # Errors
    /// `NotFound` if nothing can be written there; an empty location is not an error.
    async fn target(&self) -> Result<Box<dyn Target>>;

    /// Returns the store of the remote's git LFS objects; `None` if it has none.
    fn lfs(&self) -> Option<Arc<dyn LfsStore>> {
        None
    }

    /// Returns the URL of LFS objects in the repository's own settings (`lfs.url`), which takes
    /// precedence over the file `.lfsconfig`; `None` for a repository without such settings.
    async fn lfs_url(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Returns the upkeep of the repository; `None` if others do it.
    fn maintenance(&self) -> Option<&dyn Maintenance> {
        None
    }
}

/// A remote opened for reading.
#[async_trait]
pub trait Source: Send + Sync {
    /// Returns the refs at the time of opening.
    fn snapshot(&self) -> &Snapshot;

    /// Sends a pack of everything reachable from `wants` and not from `haves`. The pack may have
    /// more objects, never fewer, and is not verified.
    ///
    /// # Errors
    /// `Conflict` if an object that a ref named was removed meanwhile: open the remote again.
    async fn fetch(&self, request: &PackRequest) -> Result<PackBody>;

    /// Sends a pack like [`fetch`](Self::fetch). A source whose packs are thin although the request
    /// wants no thin one completes them with `bases`, which reads objects that `haves` reach.
    ///
    /// # Errors
    /// As of [`fetch`](Self::fetch), and failures of `bases`.
    async fn fetch_with_bases(
        &self,
        request: &PackRequest,
        bases: Option<&dyn Bases>,
    ) -> Result<PackBody> {
        let _ = bases;
        self.fetch(request).await
    }

    /// Sends a pack of everything that the commit or tag `id` needs, without the history before it;
    /// `None` if the source cannot leave the history out. The pack is not verified.
    ///
    /// # Errors
    /// `NotFound` if the source does not have, or does not send, the object.
    async fn fetch_without_history(&self, id: ObjectId) -> Result<Option<PackBody>> {
        let _ = id;
        Ok(None)
    }

    /// Sends a pack of the commits that `wants` reach, and of tags among these, without trees and
    /// files; `None` if the source cannot leave them out. The pack is not verified.
    async fn fetch_commits(&self, wants: &[ObjectId]) -> Result<Option<PackBody>> {
        let _ = wants;
        Ok(None)
    }

    /// Returns true if [`commit_graph`](Self::commit_graph) is supported and cheap compared with
    /// the objects.
    fn has_cheap_history(&self) -> bool {
        false
    }

    /// Lists the commits reachable from `wants` and not from `haves`; `None` if the source cannot
    /// list them.
    async fn commit_graph(
        &self,
        wants: &[ObjectId],
        haves: &[ObjectId],
    ) -> Result<Option<CommitGraph>> {
        let _ = (wants, haves);
        Ok(None)
    }

    /// Sets the peeled ids of tags in `refs`, which are refs of the source, as far as the source
    /// does not record them and can find them at little cost.
    async fn peel_tags(&self, refs: &mut Refs) {
        let _ = refs;
    }

    /// Opens a database that has those of `ids` that the source has, with everything that they
    /// need; `None` if the source can only send packs.
    async fn objects(&self, ids: &[ObjectId]) -> Result<Option<Arc<Database>>> {
        let _ = ids;
        Ok(None)
    }

    /// Reads the file `name` in the root folder of the commit or tag `id`; `None` without such a
    /// file, and if the source cannot send the file without the history.
    async fn root_file(&self, id: ObjectId, name: &str) -> Result<Option<Bytes>> {
        match self.objects(&[id]).await? {
            Some(database) => root_file::read(&database, id, name).await,
            None => Ok(None),
        }
    }

    /// Lists the commits reachable from `want` and not from `have`, where that is cheap: a
    /// source that cannot list commits alone lists them if they are few. `None` if it cannot.
    async fn commits_since(&self, want: ObjectId, have: ObjectId) -> Result<Option<CommitGraph>> {
        self.commit_graph(&[want], &[have]).await
    }
}

/// Returns true if `HEAD` may be set to `head` at a remote with these refs: its branch exists,
/// or there is no branch at all.
pub(crate) fn is_head_valid(head: &Head, refs: &Refs) -> bool {
    match head {
        Head::Detached(_) => true,
        Head::Symbolic(name) => refs.contains_key(name) || !has_branch(refs),
    }
}

/// Returns true if there is a branch among these refs.
pub(crate) fn has_branch(refs: &Refs) -> bool {
    let first = refs.range(BString::from("refs/heads/")..).next();
    first.is_some_and(|(name, _)| name.starts_with(b"refs/heads/"))
}

/// A remote opened for writing.
#[async_trait]
pub trait Target: Send + Sync {
    /// Returns the refs at the time of opening, with the updates pushed since.
    fn snapshot(&self) -> &Snapshot;

    /// Returns the target's capabilities.
    fn capabilities(&self) -> TargetCapabilities;

    /// Returns true if `HEAD` can be set to `head`; never without [`TargetCapabilities::head`].
    fn accepts_head(&self, _head: &Head) -> bool {
        self.capabilities().head
    }

    /// Returns objects that the target has with everything reachable from them, newest first: at
    /// least the tips of its refs.
    async fn haves(&self) -> Result<Vec<ObjectId>> {
        Ok(self.snapshot().tips())
    }

    /// Returns the access to the objects that the target has, as the bases of thin packs; `None` at a
    /// server, which completes thin packs itself or accepts none. Makes no request.
    fn bases(&self) -> Option<Arc<dyn Bases>> {
        None
    }

    /// Receives objects and updates refs.
    ///
    /// No ref is updated before all of its objects are verified to exist. A rejected ref is in
    /// the report and does not stop the others.
    ///
    /// # Errors
    /// `Conflict` if another writer changed the refs since the opening: open the remote again.
    /// `Corrupt` if objects that the refs need are missing from the pack.
    async fn push(&mut self, push: Push) -> Result<PushReport>;

    /// Returns true if a push can update all refs or none.
    fn is_atomic(&self) -> bool {
        false
    }

    /// Pushes like [`push`](Self::push), and returns a result for each ref: a failure with one
    /// ref stops no other where refs are written one by one.
    ///
    /// # Errors
    /// As of [`push`](Self::push), as far as no ref was updated.
    async fn push_each(&mut self, push: Push) -> Result<Vec<(BString, Result<RefOutcome>)>> {
        let report = self.push(push).await?;
        let refs = report.refs.into_iter();
        Ok(refs.map(|(name, outcome)| (name, Ok(outcome))).collect())
    }

    /// Deletes what interrupted pushes left of these refs. Writes nothing if they left nothing.
    ///
    /// # Errors
    /// `Conflict` if another client changes a ref meanwhile.
    async fn repair(&mut self, refs: &[BString]) -> Result<()> {
        let _ = refs;
        Ok(())
    }

    /// Refreshes derived objects, such as archives, of these refs. Writes nothing if they are
    /// current.
    ///
    /// # Errors
    /// The first failure, after all other refs were refreshed. No ref changes.
    async fn refresh_archives(&mut self, refs: &[BString]) -> Result<()> {
        let _ = refs;
        Ok(())
    }

    /// Deletes temporary objects that killed runs left: packs that were being received.
    ///
    /// # Errors
    /// The first failure. No ref changes.
    async fn delete_leftovers(&mut self, which: Leftovers) -> Result<()> {
        let _ = which;
        Ok(())
    }
}
