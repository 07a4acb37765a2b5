//! Nearest tag of a commit, as `git describe` finds it.
//!
//! Commits are visited from the newest to the oldest. Each tag that is found is a candidate, whose
//! depth is the number of visited commits that the tag does not reach. git visits commits until
//! ten candidates are found; here the search ends as soon as the remaining commits cannot change
//! the result, because the API of CodeCommit needs a request for each of them.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};

use bstr::{BStr, BString, ByteSlice as _};
use futures_util::future::try_join_all;
use gix_glob::wildmatch;
use gix_glob::wildmatch::Mode;

use super::{Ancestor, AnnotatedTag, History};
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::refs::{RefValue, Refs};

/// Maximum number of candidates, git's default.
const MAX_CANDIDATES: usize = 10;

/// Prefix of the refs that are tags.
const TAGS: &[u8] = b"refs/tags/";

/// Options of a description.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DescribeOptions {
    /// Lightweight tags count as well.
    pub tags: bool,
    /// Digits of the abbreviated id; 0 prints the tag alone.
    pub abbreviated: Option<u32>,
    /// Globs of which one must match a tag; none for all tags.
    pub include: Vec<BString>,
    /// Globs of which none may match a tag.
    pub exclude: Vec<BString>,
}

impl DescribeOptions {
    fn selects(&self, name: &BStr) -> bool {
        let matches = |glob: &BString| wildmatch(glob.as_bstr(), name, Mode::empty());
        !self.exclude.iter().any(matches)
            && (self.include.is_empty() || self.include.iter().any(matches))
    }
}

/// A tag that names a commit.
#[derive(Debug, Clone)]
struct TagName {
    /// Name of the ref, without `refs/tags/`.
    name: BString,
    /// Id of the tag, if it is annotated.
    annotated: Option<ObjectId>,
}

/// Describes the commit `id` by the nearest tag; `None` if no tag is found.
///
/// # Errors
/// Failures to read the history, and `NotFound` for a history that is not complete.
pub async fn describe(
    history: &dyn History,
    id: ObjectId,
    options: &DescribeOptions,
) -> Result<Option<String>> {
    let refs = history.refs().await?;
    let names = names(history, &refs.refs, options).await?;
    let exact = names.get(&id);
    let (name, depth) = match exact {
        Some(name) if options.tags || name.annotated.is_some() => (name, None),
        _ => match nearest(history, id, &names, options).await? {
            Some((peeled, depth)) => (&names[&peeled], Some(depth)),
            None => return Ok(None),
        },
    };
    let peeled = names.iter().find(|(_, other)| other.name == name.name);
    let tag = match (name.annotated, peeled) {
        (Some(tag), Some((peeled, _))) => history.tag(tag, *peeled).await?,
        _ => None,
    };
    // As in git, a tag is called by its own name, and one under another ref is never alone.
    let shown = match &tag {
        Some(tag) => tag.name.clone(),
        None => name.name.to_string(),
    };
    let is_misnamed = name.name != shown;
    let suffix = match depth {
        None if is_misnamed => Some(0),
        Some(depth) if is_misnamed || options.abbreviated != Some(0) => Some(depth),
        _ => None,
    };
    Ok(Some(match suffix {
        None => shown,
        Some(depth) => {
            let digits = options
                .abbreviated
                .and_then(|digits| digits.try_into().ok());
            let short = match digits {
                Some(0) => id.to_string(),
                digits => history.abbreviated(id, digits),
            };
            format!("{shown}-{depth}-g{short}")
        }
    }))
}

/// Returns the name of the tag that names the commit `id`: an annotated one before a lightweight
/// one, and of several annotated ones the newest; `None` if no tag names it.
///
/// # Errors
/// Failures to read the refs.
pub async fn tag_of(history: &dyn History, id: ObjectId) -> Result<Option<String>> {
    let refs = history.refs().await?;
    let is_of_commit = |value: &RefValue| value.peeled.unwrap_or(value.id) == id;
    let mut refs = refs.refs.clone();
    refs.retain(|_, value| is_of_commit(value));
    let names = names(history, &refs, &DescribeOptions::default()).await?;
    Ok(names.get(&id).map(|tag| tag.name.to_string()))
}

/// Returns the tag of each commit: an annotated one before a lightweight one, and of several
/// annotated ones the newest.
async fn names(
    history: &dyn History,
    refs: &Refs,
    options: &DescribeOptions,
) -> Result<HashMap<ObjectId, TagName>> {
    let mut names: HashMap<ObjectId, TagName> = HashMap::new();
    let mut tags: HashMap<ObjectId, Option<AnnotatedTag>> = HashMap::new();
    let first = BString::from(TAGS);
    for (name, value) in refs.range(first..) {
        let Some(short) = name.strip_prefix(TAGS) else {
            break;
        };
        if !options.selects(short.as_bstr()) {
            continue;
        }
        let found = TagName {
            name: short.into(),
            annotated: value.peeled.map(|_| value.id),
        };
        let peeled = value.peeled.unwrap_or(value.id);
        let mut entry = match names.entry(peeled) {
            Entry::Vacant(vacant) => {
                vacant.insert(found);
                continue;
            }
            Entry::Occupied(occupied) => occupied,
        };
        let replaces = match (entry.get().annotated, found.annotated) {
            (None, Some(_)) => true,
            (Some(before), Some(after)) => {
                for id in [before, after] {
                    if let Entry::Vacant(vacant) = tags.entry(id) {
                        vacant.insert(history.tag(id, peeled).await?);
                    }
                }
                match (&tags[&before], &tags[&after]) {
                    (None, _) => true,
                    (Some(before), Some(after)) => before.time < after.time,
                    (Some(_), None) => false,
                }
            }
            (_, None) => false,
        };
        if replaces {
            entry.insert(found);
        }
    }
    Ok(names)
}

/// A commit of the search.
struct Visited {
    commit: Ancestor,
    /// Candidates that reach the commit, one bit each.
    within: u16,
    is_queued: bool,
}

/// A tag that may be the nearest one.
struct Candidate {
    peeled: ObjectId,
    depth: u64,
    /// Number of queued commits that the tag does not reach.
    outside: usize,
}

/// The search for the nearest tag.
struct Search<'a> {
    history: &'a dyn History,
    visited: HashMap<ObjectId, Visited>,
    queue: BinaryHeap<(i64, Reverse<u64>, ObjectId)>,
    pushed: u64,
    candidates: Vec<Candidate>,
}

/// Returns the commit of the nearest tag, and its depth.
async fn nearest(
    history: &dyn History,
    id: ObjectId,
    names: &HashMap<ObjectId, TagName>,
    options: &DescribeOptions,
) -> Result<Option<(ObjectId, u64)>> {
    let is_usable = |name: &&TagName| options.tags || name.annotated.is_some();
    let usable = names.values().filter(is_usable).count();
    if usable == 0 {
        return Ok(None);
    }
    let mut search = Search {
        history,
        visited: HashMap::new(),
        queue: BinaryHeap::new(),
        pushed: 0,
        candidates: Vec::new(),
    };
    search.push(&[id], 0).await?;
    let mut seen: u64 = 0;
    while let Some(id) = search.pop() {
        let accepts = search.candidates.len() < MAX_CANDIDATES;
        if accepts && names.get(&id).is_some_and(|name| is_usable(&name)) {
            search.add_candidate(id, seen);
        }
        seen += 1;
        let Visited {
            within, ref commit, ..
        } = search.visited[&id];
        let parents = commit.parents.clone();
        for (number, candidate) in search.candidates.iter_mut().enumerate() {
            candidate.depth += u64::from(within & (1 << number) == 0);
        }
        search.push(&parents, within).await?;
        if search.is_decided() {
            break;
        }
    }
    // Of equal depths the one that was found first.
    let best = search.candidates.iter().min_by_key(|found| found.depth);
    Ok(best.map(|best| (best.peeled, best.depth)))
}

impl Search<'_> {
    fn pop(&mut self) -> Option<ObjectId> {
        let (_, _, id) = self.queue.pop()?;
        let visited = self.visited.get_mut(&id)?;
        visited.is_queued = false;
        for (number, candidate) in self.candidates.iter_mut().enumerate() {
            candidate.outside -= usize::from(visited.within & (1 << number) == 0);
        }
        Some(id)
    }

    /// Adds the visited commit `id`, before which `seen` others were visited.
    fn add_candidate(&mut self, id: ObjectId, seen: u64) {
        let number = self.candidates.len();
        if let Some(visited) = self.visited.get_mut(&id) {
            visited.within |= 1 << number;
        }
        self.candidates.push(Candidate {
            peeled: id,
            depth: seen,
            outside: self.queue.len(),
        });
    }

    /// Reads and queues the commits `ids` that are new. Candidates of `within` reach them.
    async fn push(&mut self, ids: &[ObjectId], within: u16) -> Result<()> {
        let unknown = |id: &&ObjectId| !self.visited.contains_key(*id);
        let new: Vec<ObjectId> = ids.iter().filter(unknown).copied().collect();
        let history = self.history;
        let read = try_join_all(new.iter().map(|id| history.commit(*id))).await?;
        let mut read: HashMap<ObjectId, Ancestor> = new.into_iter().zip(read).collect();
        for &id in ids {
            if let Some(visited) = self.visited.get_mut(&id) {
                let added = within & !visited.within;
                visited.within |= added;
                if visited.is_queued {
                    for (number, candidate) in self.candidates.iter_mut().enumerate() {
                        candidate.outside -= usize::from(added & (1 << number) != 0);
                    }
                }
            } else if let Some(commit) = read.remove(&id) {
                self.pushed += 1;
                self.queue.push((commit.time, Reverse(self.pushed), id));
                for (number, candidate) in self.candidates.iter_mut().enumerate() {
                    candidate.outside += usize::from(within & (1 << number) == 0);
                }
                let visited = Visited {
                    commit,
                    within,
                    is_queued: true,
                };
                self.visited.insert(id, visited);
            }
        }
        Ok(())
    }

    /// Returns whether the remaining commits cannot change the result: the best candidate reaches
    /// all of them, so its depth stays, and depths never decrease.
    fn is_decided(&self) -> bool {
        let best = self.candidates.iter().min_by_key(|found| found.depth);
        best.is_some_and(|best| best.outside == 0)
    }
}
