//! Places that hold refs and objects, behind one trait.
//!
//! A [`Remote`] is opened for one of two roles. A [`Source`] knows its refs and sends
//! packs. A [`Target`] knows its refs, takes a pack in, and moves refs, objects first. Each
//! opening is one look at the place: its refs are read once, and a target moves refs only
//! where they still are what was read.
//!
//! What goes from one to the other is an [`IncomingPack`] pack, verified while it passes.
//!
//! May use [`crate::git`], and the services as traits; knows nothing of who mirrors what.

pub mod codecommit;
pub mod local;
#[cfg(feature = "connect")]
pub mod open;
pub mod s3_bundle;
pub mod s3_dumb;
pub mod smart_http;
pub mod url;

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bstr::BString;

pub use crate::git::pack::incoming::{
    IncomingOptions, IncomingPack, PrePublishHook, ReceivedObjects, VerifiedPack,
    missing_objects_error,
};
pub use crate::lfs::Pointer;
pub use crate::storage::spool::{Spool, SpoolConfig, SpoolWriter};

use crate::error::Result;
pub use crate::git::odb::{CommitGraph, PackRequest};
pub use crate::git::pack::PackBody;
pub use crate::git::refs::{Head, RefOutcome, RefTarget, RefUpdate, Refs};
use crate::git::{HashKind, ObjectId};
use crate::lfs::LfsStore;

/// Tells the time, in seconds since the epoch.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The system's time, in seconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// What a remote held when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The hash function of its ids.
    pub hash: HashKind,
    /// Its refs by full name; `HEAD` is not among them. A tag's peeled id is there only
    /// where the remote tells it.
    pub refs: Refs,
    /// What `HEAD` says, whether or not that exists; `None` where nobody knows.
    pub head: Option<Head>,
}

impl Snapshot {
    /// A remote that holds nothing.
    pub fn empty(hash: HashKind) -> Self {
        Self {
            hash,
            refs: Refs::new(),
            head: None,
        }
    }

    /// All ids that refs name, each once, in order.
    pub fn tips(&self) -> Vec<ObjectId> {
        let mut tips: Vec<_> = self.refs.values().map(|target| target.id).collect();
        tips.sort_unstable();
        tips.dedup();
        tips
    }
}

/// How a long history goes to a target: in several pushes under temporary tags, so that
/// what went over once stays there whatever happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchPolicy {
    /// So many commits at once, as CodeCommit wants it.
    ByCommits,
    /// All at once, unless that is too many bytes or takes too long.
    BySize,
}

/// What a target can take in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetCapabilities {
    /// Packs whose deltas stand on objects that the target has.
    pub thin: bool,
    /// Deltas that name their bases by distance.
    pub offset_deltas: bool,
    /// `HEAD` set to what a push says.
    pub head: bool,
    /// How a long history goes to it.
    pub batches: BatchPolicy,
    /// The most refs that one push may change.
    pub max_changes: usize,
}

/// What a target is asked to do, in this order: take the pack in, `before_refs`, change
/// the refs, set `HEAD`.
#[derive(Default)]
pub struct Push {
    /// The refs to change. Beyond [`TargetCapabilities::max_changes`] is a defect of the caller.
    pub changes: Vec<RefUpdate>,
    /// What `HEAD` shall say; only where [`TargetCapabilities::head`].
    pub head: Option<Head>,
    /// All that the target lacks of what `changes` name; `None` when it lacks nothing.
    pub pack: Option<IncomingPack>,
    /// Done when all objects have arrived and no ref has moved; its failure ends the push.
    pub before_refs: Option<Arc<dyn PrePublishHook>>,
    /// The refs are there for a while only: nothing is kept beside them.
    pub temporary: bool,
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

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PushReport {
    /// Each of the push's changes, in its order.
    pub refs: Vec<(BString, RefOutcome)>,
    /// How many objects the pack had.
    pub objects: u64,
    /// How many bytes of objects were sent to the target.
    pub bytes: u64,
}

/// A place that holds refs and objects.
///
/// `Display` is its URL as it may be shown: without a user or a password.
#[async_trait]
pub trait Remote: fmt::Display + Send + Sync {
    /// Looks at it, to read from it. With `prefixes`, refs that start with none of them
    /// may be left out, where that spares something.
    ///
    /// # Errors
    /// `NotFound` when there is no such repository. One that is there and empty is none.
    async fn source(&self, prefixes: &[BString]) -> Result<Box<dyn Source>>;

    /// Looks at it, to write to it.
    ///
    /// # Errors
    /// `NotFound` where nothing can be written to; an empty place is none.
    async fn target(&self) -> Result<Box<dyn Target>>;

    /// Where its objects of git LFS are; `None` where there is no place for any.
    fn lfs(&self) -> Option<Arc<dyn LfsStore>> {
        None
    }
}

/// A remote that was opened to be read.
#[async_trait]
pub trait Source: Send + Sync {
    /// What it held when it was opened.
    fn snapshot(&self) -> &Snapshot;

    /// Sends a pack of everything that `wants` need and `haves` do not have. It may hold
    /// more than that, and never less. The pack is not verified yet.
    ///
    /// # Errors
    /// `Conflict` when an object that a ref named is not there any more: open it again.
    async fn fetch(&self, wanted: &PackRequest) -> Result<PackBody>;

    /// Whether [`commit_graph`](Self::commit_graph) is told, and costs little beside the objects.
    fn has_cheap_history(&self) -> bool {
        false
    }

    /// The commits that `wants` lead to and `haves` do not; `None` where the source cannot
    /// tell.
    async fn commit_graph(
        &self,
        wants: &[ObjectId],
        haves: &[ObjectId],
    ) -> Result<Option<CommitGraph>> {
        let _ = (wants, haves);
        Ok(None)
    }
}

/// A remote that was opened to be written to.
#[async_trait]
pub trait Target: Send + Sync {
    /// What it held when it was opened, and what was pushed since.
    fn snapshot(&self) -> &Snapshot;

    /// What it can take in.
    fn accepts(&self) -> TargetCapabilities;

    /// Whether `HEAD` can be set to that; never where [`TargetCapabilities::head`] is not.
    fn accepts_head(&self, _head: &Head) -> bool {
        self.accepts().head
    }

    /// Objects that it has with all that they need, newest first, for a source to leave
    /// out: at least the tips of its refs.
    async fn haves(&self) -> Result<Vec<ObjectId>> {
        Ok(self.snapshot().tips())
    }

    /// Takes objects in and changes refs.
    ///
    /// Nothing is published unless all objects are known to be there. A ref that the
    /// target refuses by itself is in the report, and the others go on.
    ///
    /// # Errors
    /// `Conflict` when someone else changed the target's refs since it was opened: open it
    /// again. `Corrupt` when the pack does not hold what the refs need.
    async fn push(&mut self, push: Push) -> Result<PushReport>;

    /// Brings up to date what is kept beside refs and made of what they name, such as
    /// archives, for the refs of these names. Nothing to do is no write.
    ///
    /// # Errors
    /// The first failure, when all others were done. No ref has changed.
    async fn refresh_archives(&mut self, refs: &[BString]) -> Result<()> {
        let _ = refs;
        Ok(())
    }
}
