//! Walks over commits.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use bstr::ByteSlice as _;

use super::{Database, missing};
use crate::error::{Error, ErrorKind, Result};
use crate::object::{ObjectKind, Reference, references};
use crate::{HashKind, ObjectId, corrupt};

/// Commits, each with its parents in their order.
pub type CommitGraph = HashMap<ObjectId, Box<[ObjectId]>>;

/// The number of commits that are read after all queued commits seem to be known, because
/// wrong clocks order known commits after unknown ones. Git's value.
const SLOP: u32 = 5;

/// A commit of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryCommit {
    /// The id.
    pub id: ObjectId,
    /// The tree.
    pub tree: ObjectId,
    /// The committer's time, in seconds since 1970.
    pub time: i64,
    /// The parents in their order.
    pub parents: Vec<ObjectId>,
}

/// A commit of the walk.
struct CommitNode {
    id: ObjectId,
    // `None` until it is read.
    read: Option<ParsedCommit>,
    // The receiver has the commit, and so all objects that it needs.
    receiver_has: bool,
    queued: bool,
    seen: bool,
}

struct ParsedCommit {
    tree: ObjectId,
    time: i64,
    parents: Box<[u32]>,
}

/// Commits by number.
pub(super) struct RevWalk<'a> {
    database: &'a Database,
    nodes: Vec<CommitNode>,
    by_id: HashMap<ObjectId, u32>,
    queue: BinaryHeap<(i64, Reverse<u64>, u32)>,
    pushed: u64,
    // The number of queued commits that the receiver is not known to have.
    open: usize,
    reads: u32,
    // Commits whose parents are not followed.
    shallow: Option<&'a HashSet<ObjectId>>,
    // Older commits count as the receiver's.
    min_time: Option<i64>,
}

impl<'a> RevWalk<'a> {
    pub(super) fn new(database: &'a Database) -> Self {
        Self {
            database,
            nodes: Vec::new(),
            by_id: HashMap::new(),
            queue: BinaryHeap::new(),
            pushed: 0,
            open: 0,
            reads: 0,
            shallow: None,
            min_time: None,
        }
    }

    /// Treats the commits `shallow` as if they had no parents.
    pub(super) fn with_shallow(self, shallow: Option<&'a HashSet<ObjectId>>) -> Self {
        Self { shallow, ..self }
    }

    /// Treats commits before `min_time`, in seconds since 1970, as the receiver's.
    pub(super) fn with_min_time(self, min_time: Option<i64>) -> Self {
        Self { min_time, ..self }
    }

    fn node(&self, at: u32) -> &CommitNode {
        &self.nodes[at as usize]
    }

    fn number(&mut self, id: ObjectId) -> u32 {
        let nodes = &mut self.nodes;
        *self.by_id.entry(id).or_insert_with(|| {
            nodes.push(CommitNode {
                id,
                read: None,
                receiver_has: false,
                queued: false,
                seen: false,
            });
            u32::try_from(nodes.len() - 1).expect("because memory ends before 2^32 commits")
        })
    }

    /// Reads a commit, unless it was read before; returns `false` when it is missing.
    async fn load(&mut self, at: u32) -> Result<bool> {
        let node = self.node(at);
        if node.read.is_some() {
            return Ok(true);
        }
        let id = node.id;
        if !self.database.contains(id).await? {
            return Ok(false);
        }
        let content = self.database.read_kind(id, ObjectKind::Commit).await?;
        self.reads += 1;
        if self.reads.is_multiple_of(64) {
            // Other tasks get their turn, because reads from memory never wait.
            tokio::task::yield_now().await;
        }
        let mut commit = parse_commit(self.database.hash(), id, &content)?;
        if self.shallow.is_some_and(|shallow| shallow.contains(&id)) {
            commit.parents.clear();
        }
        let parents = commit.parents.iter().map(|id| self.number(*id)).collect();
        self.nodes[at as usize].read = Some(ParsedCommit {
            tree: commit.tree,
            time: commit.time,
            parents,
        });
        Ok(true)
    }

    async fn load_or_fail(&mut self, at: u32) -> Result<()> {
        if self.load(at).await? {
            return Ok(());
        }
        Err(missing(self.node(at).id, ObjectKind::Commit))
    }

    /// Starts the walk at a commit. A missing commit that the receiver has is skipped.
    pub(super) async fn start(&mut self, id: ObjectId, had: bool) -> Result<()> {
        let at = self.number(id);
        if had {
            if !self.load(at).await? {
                return Ok(());
            }
            self.mark_uninteresting(at);
        } else {
            self.load_or_fail(at).await?;
        }
        self.push(at);
        Ok(())
    }

    fn push(&mut self, at: u32) {
        let node = &mut self.nodes[at as usize];
        if node.seen {
            return;
        }
        node.seen = true;
        node.queued = true;
        self.open += usize::from(!node.receiver_has);
        let time = node.read.as_ref().map_or(0, |read| read.time);
        self.pushed += 1;
        self.queue.push((time, Reverse(self.pushed), at));
    }

    /// Marks a commit and its ancestors that were read as the receiver's.
    fn mark_uninteresting(&mut self, at: u32) {
        let mut stack = vec![at];
        while let Some(at) = stack.pop() {
            let node = &mut self.nodes[at as usize];
            if std::mem::replace(&mut node.receiver_has, true) {
                continue;
            }
            self.open -= usize::from(node.queued);
            if let Some(read) = &node.read {
                stack.extend(read.parents.iter());
            }
        }
    }

    /// Walks until all commits are found that the receiver does not have, and returns their
    /// numbers, newest first.
    pub(super) async fn limit(&mut self) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        let mut oldest = i64::MAX;
        let mut slop = SLOP;
        while let Some((time, _, at)) = self.queue.pop() {
            let mut had = self.node(at).receiver_has;
            self.nodes[at as usize].queued = false;
            self.open -= usize::from(!had);
            if !had && self.min_time.is_some_and(|min_time| time < min_time) {
                self.mark_uninteresting(at);
                had = true;
            }
            let parents = match &self.node(at).read {
                Some(read) => read.parents.clone(),
                None => Box::default(),
            };
            for parent in parents {
                if had {
                    self.mark_uninteresting(parent);
                    // The receiver may have commits that this database does not have.
                    if !self.load(parent).await? {
                        continue;
                    }
                } else {
                    self.load_or_fail(parent).await?;
                }
                self.push(parent);
            }
            if !had {
                found.push(at);
                oldest = oldest.min(time);
                continue;
            }
            slop = match self.queue.peek() {
                None => break,
                Some((newest, ..)) if oldest <= *newest && !found.is_empty() => SLOP,
                Some(_) if self.open > 0 => SLOP,
                Some(_) => slop - 1,
            };
            if slop == 0 {
                break;
            }
        }
        found.retain(|at| !self.node(*at).receiver_has);
        Ok(found)
    }

    pub(super) fn id(&self, at: u32) -> ObjectId {
        self.node(at).id
    }

    /// Returns the tree of a commit that was read.
    pub(super) fn tree(&self, at: u32) -> Option<ObjectId> {
        self.node(at).read.as_ref().map(|read| read.tree)
    }

    /// Returns the tree of the commit `id`; `None` when the walk has not read it.
    pub(super) fn tree_of(&self, id: ObjectId) -> Option<ObjectId> {
        self.by_id.get(&id).and_then(|at| self.tree(*at))
    }

    /// Returns the parents of a commit that was read.
    pub(super) fn parents(&self, at: u32) -> &[u32] {
        self.node(at)
            .read
            .as_ref()
            .map_or(&[], |read| &read.parents)
    }

    /// Returns the commits of the receiver that are parents of those in `found`.
    pub(super) fn boundary(&self, found: &[u32]) -> Vec<u32> {
        let parents = found
            .iter()
            .filter_map(|at| self.node(*at).read.as_ref())
            .flat_map(|read| read.parents.iter().copied());
        let mut boundary: Vec<u32> = parents.filter(|at| self.node(*at).receiver_has).collect();
        boundary.sort_unstable();
        boundary.dedup();
        boundary
    }

    /// Returns the commits that the receiver is known to have.
    pub(super) fn receiver_commits(&self) -> impl Iterator<Item = ObjectId> {
        self.nodes
            .iter()
            .filter(|node| node.receiver_has)
            .map(|n| n.id)
    }

    /// Sorts `found` so that parents precede children; siblings are in the order of `starts`
    /// and of parents.
    fn parents_first(&self, found: &[u32], starts: &[u32]) -> Vec<HistoryCommit> {
        let mut left = vec![false; self.nodes.len()];
        for at in found {
            left[*at as usize] = true;
        }
        let mut out = Vec::with_capacity(found.len());
        let mut stack: Vec<(u32, usize)> = Vec::new();
        // All found commits are reachable from the starts; `found` is appended as a safeguard.
        for start in starts.iter().chain(found) {
            if std::mem::replace(&mut left[*start as usize], false) {
                stack.push((*start, 0));
            }
            while let Some((at, next)) = stack.last_mut() {
                let node = &self.nodes[*at as usize];
                let Some(read) = &node.read else {
                    stack.pop();
                    continue;
                };
                if let Some(parent) = read.parents.get(*next) {
                    *next += 1;
                    if std::mem::replace(&mut left[*parent as usize], false) {
                        stack.push((*parent, 0));
                    }
                    continue;
                }
                let ids = read.parents.iter().map(|parent| self.id(*parent));
                out.push(HistoryCommit {
                    id: node.id,
                    tree: read.tree,
                    time: read.time,
                    parents: ids.collect(),
                });
                stack.pop();
            }
        }
        out
    }
}

/// Parses the content of the commit `id`.
///
/// # Errors
/// `Corrupt` when the content is not a commit.
pub(super) fn parse_commit(hash: HashKind, id: ObjectId, content: &[u8]) -> Result<HistoryCommit> {
    let mut tree = None;
    let mut parents = Vec::new();
    references(hash, ObjectKind::Commit, content, |found| match found {
        Reference::Tree(id) => tree = Some(id),
        Reference::Parent(id) => parents.push(id),
        Reference::Blob(_) | Reference::Target(..) => {}
    })?;
    Ok(HistoryCommit {
        id,
        tree: tree.ok_or_else(|| corrupt(format!("commit {id} has no tree")))?,
        time: commit_time(content),
        parents,
    })
}

/// Returns the time of a commit's `committer` line, or 0 for a broken line, as git does.
///
/// `gix-object` reads no line after a broken `author` line, which git ignores here.
fn commit_time(content: &[u8]) -> i64 {
    content
        .lines()
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.strip_prefix(b"committer "))
        .and_then(|line| {
            line[line.rfind_byte(b'>')? + 1..]
                .trim_ascii_start()
                .to_str()
                .ok()
        })
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or(0)
}

/// Returns the result of [`commit_graph`] as a map.
///
/// # Errors
/// `Conflict` when a wanted object is missing, as for [`fetch`](super::fetch); `Corrupt`, with
/// the id, for other objects.
pub async fn graph(
    database: &Database,
    wants: &[ObjectId],
    haves: &[ObjectId],
) -> Result<CommitGraph> {
    let commits = commit_graph(database, wants, haves).await;
    let commits = commits.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::new(
            ErrorKind::Conflict,
            "the source has changed since its refs were read",
        )
        .with_source(error),
        _ => error,
    })?;
    let parents = |commit: HistoryCommit| (commit.id, commit.parents.into_boxed_slice());
    Ok(commits.into_iter().map(parents).collect())
}

/// Returns the result of [`graph`] for one id each; an empty graph without reading a commit if
/// the database does not have `have`.
///
/// # Errors
/// As [`graph`].
pub async fn graph_since(
    database: &Database,
    want: ObjectId,
    have: ObjectId,
) -> Result<CommitGraph> {
    if database.contains(have).await? {
        graph(database, &[want], &[have]).await
    } else {
        Ok(CommitGraph::new())
    }
}

/// Returns the commits that are reachable from `wants` and not from `haves`, parents before
/// children. Tags are peeled; objects other than commits and missing `haves` are skipped.
///
/// # Errors
/// `NotFound` when a wanted object is missing; `Corrupt`, with the id, for other objects.
pub async fn commit_graph(
    database: &Database,
    wants: &[ObjectId],
    haves: &[ObjectId],
) -> Result<Vec<HistoryCommit>> {
    let mut commits = RevWalk::new(database);
    for id in haves {
        if !database.contains(*id).await? {
            continue;
        }
        let (id, kind) = database.peel(*id).await?;
        if kind == ObjectKind::Commit {
            commits.start(id, true).await?;
        }
    }
    let mut starts = Vec::new();
    for id in wants {
        let (id, kind) = database.peel(*id).await?;
        if kind == ObjectKind::Commit {
            commits.start(id, false).await?;
            starts.push(commits.number(id));
        }
    }
    let found = commits.limit().await?;
    Ok(commits.parents_first(&found, &starts))
}
