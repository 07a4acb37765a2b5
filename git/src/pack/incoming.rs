//! An incoming pack, verified while it passes from a source to a target.

use std::any::Any;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::error::{Error, ErrorKind, Result};
use crate::object::{ObjectKind, Reference, references};
use crate::pack::{
    Bases, Connectivity, PackBody, PackBytes, PackIndexer, PackLimits, PackObject, UnresolvedPack,
};
use crate::pack::{Resolved, Visitor};
use crate::{HashKind, ObjectId, corrupt};

/// Options for the verification of an incoming pack.
#[derive(Debug, Clone)]
pub struct IncomingOptions {
    /// The hash function of the pack's ids.
    pub hash: HashKind,
    /// The limits of the verification.
    pub limits: PackLimits,
    /// Makes the scanner of the pack's blobs, where blobs are to be scanned.
    pub scanner: Option<fn() -> Box<dyn BlobScanner>>,
    /// Receives the parents of the pack's commits, where they are to be known.
    pub commits: Option<Arc<CommitTrace>>,
}

/// The parents of commits that passed in packs, up to a number of commits.
#[derive(Debug, Default)]
pub struct CommitTrace(Mutex<HashMap<ObjectId, Box<[ObjectId]>>>);

impl CommitTrace {
    /// The most commits that are kept: about 5 MiB.
    pub const MAX_COMMITS: usize = 50_000;

    fn add(&self, commit: ObjectId, parents: Vec<ObjectId>) {
        let mut commits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if commits.len() < Self::MAX_COMMITS {
            commits.insert(commit, parents.into());
        }
    }

    /// Returns whether these commits show that `ancestor` is `commit` or an ancestor of it.
    pub fn proves_ancestor(&self, ancestor: ObjectId, commit: ObjectId) -> bool {
        let commits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        is_ancestor(&commits, ancestor, commit)
    }
}

/// Returns whether `ancestor` is `commit`, or an ancestor of it over commits of `graph`.
pub fn is_ancestor<S: BuildHasher>(
    graph: &HashMap<ObjectId, Box<[ObjectId]>, S>,
    ancestor: ObjectId,
    commit: ObjectId,
) -> bool {
    let mut seen = HashSet::from([commit]);
    let mut stack = vec![commit];
    while let Some(at) = stack.pop() {
        if at == ancestor {
            return true;
        }
        let parents = graph.get(&at).map_or(&[][..], AsRef::as_ref);
        stack.extend(
            parents
                .iter()
                .copied()
                .filter(|parent| seen.insert(*parent)),
        );
    }
    false
}

/// Scans the blobs of a pack while it passes.
pub trait BlobScanner: Any + Send + Sync + fmt::Debug {
    /// Scans the content of a blob that is held whole.
    fn scan(&mut self, content: &[u8]);

    /// Decides whether refs may move although `blobs` blobs of at most
    /// [`SMALL_BLOB`](super::SMALL_BLOB) bytes were not scanned, because memory did not
    /// suffice for their deltas.
    fn check_unscanned(&self, blobs: usize) -> Result<()>;
}

/// Facts about a pack's objects, collected while it passes.
#[derive(Debug)]
pub struct ReceivedObjects {
    hash: HashKind,
    connectivity: Connectivity,
    scanner: Option<Box<dyn BlobScanner>>,
    commits: Option<Arc<CommitTrace>>,
    /// Annotated tags, each with the object that it names directly.
    pub tags: HashMap<ObjectId, ObjectId>,
}

impl ReceivedObjects {
    fn new(options: &IncomingOptions) -> Self {
        Self {
            hash: options.hash,
            connectivity: Connectivity::new(options.hash, []),
            scanner: options.scanner.map(|new| new()),
            commits: options.commits.clone(),
            tags: HashMap::new(),
        }
    }

    /// Returns the scanner of type `S` that scanned the blobs.
    pub fn scanner<S: BlobScanner>(&self) -> Option<&S> {
        let scanner: &dyn Any = self.scanner.as_deref()?;
        scanner.downcast_ref()
    }

    /// Returns the object that a tag of this pack peels to; `None` for an id that is not a
    /// tag's.
    pub fn peel(&self, id: ObjectId) -> Option<ObjectId> {
        let mut at = *self.tags.get(&id)?;
        // A tag contains the hash of the object that it names, so there are no circles.
        while let Some(next) = self.tags.get(&at) {
            at = *next;
        }
        Some(at)
    }
}

impl Visitor for ReceivedObjects {
    fn object(&mut self, object: PackObject<'_>) -> Result<()> {
        self.connectivity.object(object)?;
        let Some(content) = object.content else {
            return Ok(());
        };
        match object.kind {
            ObjectKind::Tag => references(self.hash, object.kind, content, |reference| {
                if let Reference::Target(target, _) = reference {
                    self.tags.insert(object.id, target);
                }
            })?,
            ObjectKind::Blob => {
                if let Some(scanner) = &mut self.scanner {
                    scanner.scan(content);
                }
            }
            ObjectKind::Commit => {
                if let Some(commits) = &self.commits {
                    let mut parents = Vec::new();
                    references(self.hash, object.kind, content, |reference| {
                        if let Reference::Parent(id) = reference {
                            parents.push(id);
                        }
                    })?;
                    commits.add(object.id, parents);
                }
            }
            ObjectKind::Tree => {}
        }
        Ok(())
    }
}

/// A step between the arrival of objects and the update of refs.
#[async_trait]
pub trait PublishHook: Send + Sync {
    /// Runs after all objects have arrived; an error prevents the update of refs.
    async fn before_publish(&self, received: &ReceivedObjects) -> Result<()>;
}

/// A pack that is verified while it is read.
pub struct IncomingPack {
    body: PackBody,
    receiver: PackIndexer,
    objects: ReceivedObjects,
    /// Chunks that were read ahead.
    held: VecDeque<Result<Bytes>>,
    has_ended: bool,
    ends_with_trailer: bool,
}

impl fmt::Debug for IncomingPack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingPack")
            .field("position", &self.receiver.position())
            .finish_non_exhaustive()
    }
}

/// A pack that has arrived with valid framing and trailer; deltas may be unresolved.
#[derive(Debug)]
pub struct VerifiedPack {
    /// The entries of the pack.
    pub received: UnresolvedPack,
    /// Facts about the objects that are resolved.
    pub objects: ReceivedObjects,
}

impl IncomingPack {
    /// Creates a pack that verifies `body`.
    pub fn new(body: PackBody, options: &IncomingOptions) -> Self {
        Self {
            body,
            receiver: PackIndexer::new(options.hash, options.limits),
            objects: ReceivedObjects::new(options),
            held: VecDeque::new(),
            has_ended: false,
            ends_with_trailer: false,
        }
    }

    /// Ends the pack with its trailer, for a connection on which the sender then waits for an
    /// answer. Else the end of the stream is awaited, and bytes after the trailer are an error.
    #[must_use]
    pub fn ending_with_trailer(self) -> Self {
        Self {
            ends_with_trailer: true,
            ..self
        }
    }

    /// Reads the next chunk, after its objects were verified; `None` after the last chunk.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        match self.held.pop_front() {
            Some(held) => held.map(Some),
            None => self.next().await,
        }
    }

    /// Reads chunks into memory until they exceed `max_bytes` bytes or the pack ends, and
    /// returns whether it ended. An error is returned by the [`chunk`](Self::chunk) that
    /// follows the chunks before it.
    pub async fn read_ahead(&mut self, max_bytes: u64) -> bool {
        let mut size = 0;
        while size <= max_bytes
            && let Some(bytes) = self.next().await.transpose()
        {
            size += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
            self.held.push_back(bytes);
        }
        self.has_ended
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.ends_with_trailer && self.receiver.is_done() {
            self.has_ended = true;
        }
        if self.has_ended {
            return Ok(None);
        }
        let Some(bytes) = self.body.next().await else {
            self.has_ended = true;
            return Ok(None);
        };
        let bytes = bytes.inspect_err(|_| self.has_ended = true)?;
        let verified = self.receiver.push(&bytes, &mut self.objects);
        verified.inspect_err(|_| self.has_ended = true)?;
        Ok(Some(bytes))
    }

    /// Returns the verified pack, after [`chunk`](Self::chunk) returned `None`.
    ///
    /// # Errors
    /// `Corrupt` when the pack was cut off.
    pub fn finish(self) -> Result<VerifiedPack> {
        Ok(VerifiedPack {
            received: self.receiver.finish()?,
            objects: self.objects,
        })
    }

    /// Returns the pack as a stream for a server that updates refs as soon as it has the last
    /// byte.
    ///
    /// The last chunk is withheld until the pack is verified and `publish_hook` has succeeded;
    /// a failure cuts the stream, so that the server updates no refs. The second value is the
    /// number of objects and bytes, set with the last chunk.
    pub fn into_outgoing(
        self,
        publish_hook: Option<Arc<dyn PublishHook>>,
    ) -> (PackBody, Arc<Mutex<(u64, u64)>>) {
        let counts = Arc::new(Mutex::new((0, 0)));
        let state = HeldBackChunks {
            incoming: Some(self),
            last: None,
            publish_hook,
            counts: Arc::clone(&counts),
        };
        let stream = futures_util::stream::try_unfold(state, HeldBackChunks::next);
        (Box::pin(stream), counts)
    }
}

struct HeldBackChunks {
    incoming: Option<IncomingPack>,
    last: Option<Bytes>,
    publish_hook: Option<Arc<dyn PublishHook>>,
    counts: Arc<Mutex<(u64, u64)>>,
}

impl HeldBackChunks {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        let Some(incoming) = &mut self.incoming else {
            return Ok(None);
        };
        while let Some(bytes) = incoming.chunk().await? {
            if let Some(before) = self.last.replace(bytes) {
                return Ok(Some((before, self)));
            }
        }
        let Some(incoming) = self.incoming.take() else {
            return Ok(None);
        };
        let VerifiedPack { received, objects } = incoming.finish()?;
        let unseen = received.small_blobs_pending();
        if let Some(scanner) = objects.scanner.as_deref().filter(|_| unseen > 0)
            && self.publish_hook.is_some()
        {
            scanner.check_unscanned(unseen)?;
        }
        if let Some(publish_hook) = &self.publish_hook {
            publish_hook.before_publish(&objects).await?;
        }
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) =
            (received.objects() as u64, received.size_bytes());
        Ok(self.last.take().map(|last| (last, self)))
    }
}

impl VerifiedPack {
    /// Resolves the remaining deltas, and returns also the objects that the pack's objects and
    /// `roots` (the new ids of refs) need and that are not in the pack. The target must have
    /// them.
    pub async fn resolve(
        mut self,
        bytes: &dyn PackBytes,
        bases: &dyn Bases,
        roots: &[ObjectId],
    ) -> Result<(Resolved, ReceivedObjects, Vec<ObjectId>)> {
        let objects = &mut self.objects;
        let resolved = self.received.resolve(bytes, bases, objects).await?;
        let fresh = Connectivity::new(objects.hash, []);
        let connectivity = std::mem::replace(&mut objects.connectivity, fresh);
        let missing = connectivity.missing_objects(&resolved, roots)?;
        Ok((resolved, self.objects, missing))
    }
}

/// Returns the error for a pack without objects that refs need.
pub fn missing_objects_error(missing: &[ObjectId]) -> Error {
    let Some(first) = missing.first() else {
        return Error::new(
            ErrorKind::Internal,
            "an error for missing objects was requested, and none is missing",
        );
    };
    corrupt(format!(
        "the source did not send {first}, which is needed and the target does not have \
         ({} objects are missing)",
        missing.len()
    ))
}
