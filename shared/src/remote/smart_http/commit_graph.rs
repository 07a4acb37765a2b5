//! Reads the commit graph of a server's repository, without trees and blobs if the server can
//! filter.

use std::collections::HashMap;

use bytes::BytesMut;

use crate::error::Result;
use crate::git::advertisement::Version;
use crate::git::object::{ObjectKind, Reference, references};
use crate::git::pack::{NoBases, PackIndexer, PackLimits, PackObject, Visitor};
use crate::git::smart_http::{FetchFilter, FetchRequest, TipNegotiator, UploadPack};
use crate::git::{HashKind, ObjectId};
use crate::remote::CommitGraph;

/// Maximum bytes of a filtered pack: some hundred thousand commits. A longer history is pushed
/// without batches.
const MAX_COMMITS_BYTES: usize = 32 << 20;
/// Maximum bytes of a pack with trees and blobs that is read for its commits alone.
const MAX_UNFILTERED_BYTES: usize = 16 << 20;
/// Memory of indexing the pack.
const INDEXER_MEMORY_BYTES: usize = 16 << 20;

/// Collects the commits and tags of a pack that is streamed.
struct CommitCollector {
    hash: HashKind,
    graph: CommitGraph,
    tags: HashMap<ObjectId, ObjectId>,
}

impl Visitor for CommitCollector {
    fn object(&mut self, object: PackObject<'_>) -> crate::git::Result<()> {
        let Some(content) = object.content else {
            return Ok(());
        };
        match object.kind {
            ObjectKind::Commit => {
                let mut parents = Vec::new();
                references(self.hash, object.kind, content, |reference| {
                    if let Reference::Parent(id) = reference {
                        parents.push(id);
                    }
                })?;
                self.graph.insert(object.id, parents.into());
            }
            ObjectKind::Tag => references(self.hash, object.kind, content, |reference| {
                self.tags.insert(object.id, reference.id());
            })?,
            ObjectKind::Tree | ObjectKind::Blob => {}
        }
        Ok(())
    }
}

/// Reads the commits reachable from `wants` and not from `haves`.
///
/// A server that can filter sends commits only. From another server everything is read once and
/// discarded, but only if the receiver has nothing yet, because only then the history is long.
/// `None` if the history is not complete. A server that `is_demanding` gets requests with all of
/// its capabilities.
pub(super) async fn read(
    server: &UploadPack,
    hash: HashKind,
    wants: &[ObjectId],
    haves: &[ObjectId],
    is_demanding: bool,
) -> Result<Option<CommitGraph>> {
    let filters = server.can_filter();
    if !filters && !haves.is_empty() {
        return Ok(None);
    }
    let request = FetchRequest {
        wants: wants.to_vec(),
        offset_deltas: true,
        // Without haves there is no base that the pack could leave out.
        thin: is_demanding && haves.is_empty(),
        filter: filters.then_some(FetchFilter::WithoutTrees),
        ..FetchRequest::default()
    };
    let mut tips = TipNegotiator::new(haves.iter().copied());
    let mut fetched = match server.fetch(&request, &mut tips).await {
        // A ref has moved; the fetch of objects reports that.
        Err(error) if error.kind() == crate::git::ErrorKind::NotFound => return Ok(None),
        fetched => fetched?,
    };
    let mut commits = CommitCollector {
        hash,
        graph: CommitGraph::new(),
        tags: HashMap::new(),
    };
    let mut receiver = PackIndexer::new(
        hash,
        PackLimits::default().with_memory(INDEXER_MEMORY_BYTES),
    );
    let mut pack = BytesMut::new();
    while let Some(bytes) = fetched.pack.chunk().await? {
        receiver.push(&bytes, &mut commits)?;
        if filters {
            pack.extend_from_slice(&bytes);
            if pack.len() > MAX_COMMITS_BYTES {
                return Ok(None);
            }
        }
    }
    let arrived = receiver.finish()?;
    if arrived.pending() > 0 {
        if !filters {
            // Commits may be among the deltas that were not resolved.
            return Ok(complete_graph(commits, wants));
        }
        arrived
            .resolve(&pack.freeze(), &NoBases, &mut commits)
            .await?;
    }
    Ok(Some(commits.graph))
}

/// Reads the commits reachable from `want` and not from `have` from a server that cannot filter.
///
/// The server sends trees and blobs too: `None` if they are too many. No commit if the server
/// reports that it does not know `have`.
pub(super) async fn read_since(
    server: &UploadPack,
    hash: HashKind,
    want: ObjectId,
    have: ObjectId,
) -> Result<Option<CommitGraph>> {
    let request = FetchRequest {
        wants: vec![want],
        ..FetchRequest::default()
    };
    let mut tips = TipNegotiator::new([have]);
    let mut fetched = match server.fetch(&request, &mut tips).await {
        Err(error) if error.kind() == crate::git::ErrorKind::NotFound => return Ok(None),
        fetched => fetched?,
    };
    // In version 2, the last request is not acknowledged.
    if server.advertisement.version == Version::V0 && fetched.common.is_empty() {
        return Ok(Some(CommitGraph::new()));
    }
    let mut commits = CommitCollector {
        hash,
        graph: CommitGraph::new(),
        tags: HashMap::new(),
    };
    let limits = PackLimits::default().with_memory(INDEXER_MEMORY_BYTES);
    let mut receiver = PackIndexer::new(hash, limits);
    let mut pack = BytesMut::new();
    while let Some(bytes) = fetched.pack.chunk().await? {
        receiver.push(&bytes, &mut commits)?;
        pack.extend_from_slice(&bytes);
        if pack.len() > MAX_UNFILTERED_BYTES {
            return Ok(None);
        }
    }
    let arrived = receiver.finish()?;
    if arrived.pending() > 0 {
        arrived
            .resolve(&pack.freeze(), &NoBases, &mut commits)
            .await?;
    }
    Ok(Some(commits.graph))
}

/// Returns the graph if it has all ancestors of `wants`.
fn complete_graph(commits: CommitCollector, wants: &[ObjectId]) -> Option<CommitGraph> {
    let CommitCollector { graph, tags, .. } = commits;
    let peel = |id: &ObjectId| {
        let mut at = *id;
        while let Some(next) = tags.get(&at) {
            at = *next;
        }
        at
    };
    let has = |id: &ObjectId| graph.contains_key(id);
    let is_complete = wants.iter().all(|id| has(&peel(id)))
        && graph.values().all(|parents| parents.iter().all(has));
    is_complete.then_some(graph)
}
