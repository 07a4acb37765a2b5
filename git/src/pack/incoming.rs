//! A pack on its way from a source to a target, verified while it passes.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::fmt;
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

/// How an incoming pack is looked at.
#[derive(Debug, Clone)]
pub struct IncomingOptions {
    /// The hash function of its ids.
    pub hash: HashKind,
    /// What verifying it may use.
    pub limits: PackLimits,
    /// Makes the scanner of the pack's blobs, where blobs are to be scanned.
    pub scanner: Option<fn() -> Box<dyn BlobScanner>>,
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

/// What was seen of a pack's objects.
#[derive(Debug)]
pub struct ReceivedObjects {
    hash: HashKind,
    connectivity: Connectivity,
    scanner: Option<Box<dyn BlobScanner>>,
    /// Annotated tags and what each names directly.
    pub tags: HashMap<ObjectId, ObjectId>,
}

impl ReceivedObjects {
    fn new(options: &IncomingOptions) -> Self {
        Self {
            hash: options.hash,
            connectivity: Connectivity::new(options.hash, []),
            scanner: options.scanner.map(|new| new()),
            tags: HashMap::new(),
        }
    }

    /// Returns the scanner of type `S` that scanned the blobs.
    pub fn scanner<S: BlobScanner>(&self) -> Option<&S> {
        let scanner: &dyn Any = self.scanner.as_deref()?;
        scanner.downcast_ref()
    }

    /// What a tag of this pack peels to; `None` for what is no tag of it.
    pub fn peel(&self, id: ObjectId) -> Option<ObjectId> {
        let mut at = *self.tags.get(&id)?;
        // A tag names an older object by its hash: there are no circles.
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
            ObjectKind::Commit | ObjectKind::Tree => {}
        }
        Ok(())
    }
}

/// Done between the arrival of objects and the moving of refs.
#[async_trait]
pub trait PrePublishHook: Send + Sync {
    /// Looks at what has arrived; an error keeps the refs where they are.
    async fn pre_publish(&self, watch: &ReceivedObjects) -> Result<()>;
}

/// A pack on its way.
pub struct IncomingPack {
    body: PackBody,
    receiver: PackIndexer,
    watch: ReceivedObjects,
    /// What was read ahead.
    held: VecDeque<Result<Bytes>>,
    has_ended: bool,
}

impl fmt::Debug for IncomingPack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("position", &self.receiver.position())
            .finish_non_exhaustive()
    }
}

/// A pack whose bytes have all arrived, with a sound frame and trailer; deltas may be left
/// to resolve.
#[derive(Debug)]
pub struct VerifiedPack {
    /// What is known of its entries.
    pub received: UnresolvedPack,
    /// What was seen of its objects so far.
    pub watch: ReceivedObjects,
}

impl IncomingPack {
    /// Verifies `body` while it passes.
    pub fn new(body: PackBody, options: &IncomingOptions) -> Self {
        Self {
            body,
            receiver: PackIndexer::new(options.hash, options.limits),
            watch: ReceivedObjects::new(options),
            held: VecDeque::new(),
            has_ended: false,
        }
    }

    /// The next bytes, whose objects were looked at; `None` after the last ones.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        match self.held.pop_front() {
            Some(held) => held.map(Some),
            None => self.next().await,
        }
    }

    /// Takes in and holds all there is, or a little more than `most` bytes; whether that is
    /// all. What fails is told when its turn comes.
    pub async fn read_ahead(&mut self, most: u64) -> bool {
        let mut size = 0;
        while size <= most
            && let Some(bytes) = self.next().await.transpose()
        {
            size += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
            self.held.push_back(bytes);
        }
        self.has_ended
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.has_ended {
            return Ok(None);
        }
        let Some(bytes) = self.body.next().await else {
            self.has_ended = true;
            return Ok(None);
        };
        let bytes = bytes.inspect_err(|_| self.has_ended = true)?;
        let looked_at = self.receiver.push(&bytes, &mut self.watch);
        looked_at.inspect_err(|_| self.has_ended = true)?;
        Ok(Some(bytes))
    }

    /// Ends it, after [`chunk`](Self::chunk) returned `None`.
    ///
    /// # Errors
    /// `Corrupt` when it was cut off.
    pub fn finish(self) -> Result<VerifiedPack> {
        Ok(VerifiedPack {
            received: self.receiver.finish()?,
            watch: self.watch,
        })
    }

    /// The pack as a stream for a server that verifies and publishes by itself as soon as
    /// it has the last byte.
    ///
    /// The last chunk is held back until the pack is known to be whole and `before_refs`
    /// is done; a failure cuts the stream, so that the server publishes nothing. The
    /// second value tells the number of objects and bytes that went by.
    pub fn into_outgoing(
        self,
        before_refs: Option<Arc<dyn PrePublishHook>>,
    ) -> (PackBody, Arc<Mutex<(u64, u64)>>) {
        let counts = Arc::new(Mutex::new((0, 0)));
        let state = HeldBackChunks {
            incoming: Some(self),
            last: None,
            before_refs,
            counts: Arc::clone(&counts),
        };
        let stream = futures_util::stream::try_unfold(state, HeldBackChunks::next);
        (Box::pin(stream), counts)
    }
}

struct HeldBackChunks {
    incoming: Option<IncomingPack>,
    last: Option<Bytes>,
    before_refs: Option<Arc<dyn PrePublishHook>>,
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
        let VerifiedPack { received, watch } = incoming.finish()?;
        let unseen = received.small_blobs_pending();
        if let Some(scanner) = watch.scanner.as_deref().filter(|_| unseen > 0)
            && self.before_refs.is_some()
        {
            scanner.check_unscanned(unseen)?;
        }
        if let Some(before_refs) = &self.before_refs {
            before_refs.pre_publish(&watch).await?;
        }
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) =
            (received.objects() as u64, received.size_bytes());
        Ok(self.last.take().map(|last| (last, self)))
    }
}

impl VerifiedPack {
    /// Resolves what is left, and names what the pack's objects and `roots` (what refs
    /// will name) need and the pack does not have: the target must have that.
    pub async fn resolve(
        mut self,
        bytes: &dyn PackBytes,
        bases: &dyn Bases,
        roots: &[ObjectId],
    ) -> Result<(Resolved, ReceivedObjects, Vec<ObjectId>)> {
        let watch = &mut self.watch;
        let resolved = self.received.resolve(bytes, bases, watch).await?;
        let fresh = Connectivity::new(watch.hash, []);
        let connectivity = std::mem::replace(&mut watch.connectivity, fresh);
        let missing = connectivity.missing_objects(&resolved, roots)?;
        Ok((resolved, self.watch, missing))
    }
}

/// The error for a pack that does not hold what refs need.
pub fn missing_objects_error(missing: &[ObjectId]) -> Error {
    let Some(first) = missing.first() else {
        return Error::new(ErrorKind::Internal, "nothing is missing");
    };
    corrupt(format!(
        "the source did not send {first}, which is needed and the target does not have \
         ({} objects are missing)",
        missing.len()
    ))
}
