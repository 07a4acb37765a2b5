//! The history of a server's repository, without its files where the server can.

use std::collections::HashMap;

use bytes::BytesMut;

use crate::error::Result;
use crate::git::object::{ObjectKind, Reference, references};
use crate::git::pack::{NoBases, PackIndexer, PackLimits, PackObject, Visitor};
use crate::git::smart_http::{FetchRequest, TipNegotiator, UploadPack};
use crate::git::{HashKind, ObjectId};
use crate::remote::CommitGraph;

/// The most bytes of commits that are held: some hundred thousand of them. A longer
/// history goes without batches.
const MOST: usize = 32 << 20;
/// What reading them may use.
const MEMORY: usize = 16 << 20;

/// Collects commits while a pack goes by.
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

/// Reads the commits that `wants` lead to and `haves` do not.
///
/// A server that can leave trees and files out sends commits alone. Of another one all is
/// read once and thrown away again, where the receiver has nothing yet: that is when a
/// history is long. `None` where neither tells the whole history.
pub(super) async fn read(
    server: &UploadPack,
    hash: HashKind,
    wants: &[ObjectId],
    haves: &[ObjectId],
) -> Result<Option<CommitGraph>> {
    let filters = server.can_filter();
    if !filters && !haves.is_empty() {
        return Ok(None);
    }
    let request = FetchRequest {
        wants: wants.to_vec(),
        offset_deltas: true,
        without_trees: filters,
        ..FetchRequest::default()
    };
    let mut tips = TipNegotiator::new(haves.iter().copied());
    let mut fetched = match server.fetch(&request, &mut tips).await {
        // What is not a tip any more shows when it is fetched.
        Err(error) if error.kind() == crate::git::ErrorKind::NotFound => return Ok(None),
        fetched => fetched?,
    };
    let mut commits = CommitCollector {
        hash,
        graph: CommitGraph::new(),
        tags: HashMap::new(),
    };
    let mut receiver = PackIndexer::new(hash, PackLimits::default().with_memory(MEMORY));
    let mut held = BytesMut::new();
    while let Some(bytes) = fetched.pack.chunk().await? {
        receiver.push(&bytes, &mut commits)?;
        if filters {
            held.extend_from_slice(&bytes);
            if held.len() > MOST {
                return Ok(None);
            }
        }
    }
    let arrived = receiver.finish()?;
    if arrived.pending() > 0 {
        if !filters {
            // A commit may be among what could not be resolved.
            return Ok(complete(commits, wants));
        }
        arrived
            .resolve(&held.freeze(), &NoBases, &mut commits)
            .await?;
    }
    Ok(Some(commits.graph))
}

/// The graph, if nothing is missing from it.
fn complete(commits: CommitCollector, wants: &[ObjectId]) -> Option<CommitGraph> {
    let CommitCollector { graph, tags, .. } = commits;
    let peel = |id: &ObjectId| {
        let mut at = *id;
        while let Some(next) = tags.get(&at) {
            at = *next;
        }
        at
    };
    let known = |id: &ObjectId| graph.contains_key(id);
    let whole = wants.iter().all(|id| known(&peel(id)))
        && graph.values().all(|parents| parents.iter().all(known));
    whole.then_some(graph)
}
