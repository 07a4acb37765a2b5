//! Reachable objects.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::object_set::{ObjectSet, ReceiverObjects};
use super::rev_walk::RevWalk;
use super::{Database, missing};
use crate::ObjectId;
use crate::error::Result;
use crate::object::{ObjectKind, tree_entries};

/// The objects that one set of objects needs and another does not have.
#[derive(Debug)]
pub struct Closure {
    /// Commits, newest first; then tags, trees, and blobs. Each occurs once.
    pub objects: Vec<ObjectId>,
    /// Objects that the receiver is known to have, as bases of thin packs.
    pub known: Arc<ReceiverObjects>,
}

/// The mode of a tree in a tree.
const FOLDER: u32 = 0o40000;
/// The mode of a submodule in a tree.
const SUBMODULE: u32 = 0o160_000;

struct Walk<'a> {
    database: &'a Database,
    known: ReceiverObjects,
    chosen: ObjectSet,
    trees: Vec<ObjectId>,
    blobs: Vec<ObjectId>,
    steps: u32,
}

/// Returns the objects that are reachable from `wants` and not from `haves`. Haves that do not
/// exist are skipped.
///
/// The objects of the receiver are found as by `git push`: commits are walked by date, and the
/// trees of boundary commits are compared along the changed paths. So a file that was copied
/// from an unchanged folder is sent again, and a needed object is never omitted. All returned
/// objects are known to exist.
///
/// # Errors
/// `NotFound` when a wanted object is missing; `Corrupt`, with the id, for other objects.
pub async fn reachable_objects(
    database: &Arc<Database>,
    wants: &[ObjectId],
    haves: &[ObjectId],
) -> Result<Closure> {
    let mut walk = Walk {
        database,
        known: ReceiverObjects {
            database: Arc::clone(database),
            marks: ObjectSet::new(database),
        },
        chosen: ObjectSet::new(database),
        trees: Vec::new(),
        blobs: Vec::new(),
        steps: 0,
    };
    let mut commits = RevWalk::new(database);
    let mut had_trees = Vec::new();
    let mut tags = Vec::new();
    for id in haves {
        if !database.contains(*id).await? {
            continue;
        }
        let (id, kind) = database.peel_recording_tags(*id, &mut tags).await?;
        match kind {
            ObjectKind::Commit => commits.start(id, true).await?,
            ObjectKind::Tree => had_trees.push(id),
            _ => {
                walk.known.insert(id);
            }
        }
    }
    for tag in tags.drain(..) {
        walk.known.insert(tag);
    }
    let mut roots = Vec::new();
    let mut blobs = Vec::new();
    for id in wants {
        let (id, kind) = database.peel_recording_tags(*id, &mut tags).await?;
        match kind {
            ObjectKind::Commit => commits.start(id, false).await?,
            ObjectKind::Tree => roots.push(id),
            _ => blobs.push(id),
        }
    }
    let found = commits.limit().await?;
    for id in commits.receiver_commits() {
        walk.known.insert(id);
    }
    let boundary = commits.boundary(&found);
    had_trees.extend(boundary.iter().filter_map(|at| commits.tree(*at)));
    roots.extend(found.iter().filter_map(|at| commits.tree(*at)));
    let mut objects: Vec<ObjectId> = found.iter().map(|at| commits.id(*at)).collect();
    drop(commits);
    tags.retain(|tag| walk.choose(*tag));
    objects.append(&mut tags);
    if !had_trees.is_empty() && !roots.is_empty() {
        walk.mark_along(&roots, had_trees).await?;
    }
    for root in roots {
        walk.collect(root).await?;
    }
    for blob in blobs {
        walk.choose_blob(blob).await?;
    }
    objects.append(&mut walk.trees);
    objects.append(&mut walk.blobs);
    Ok(Closure {
        objects,
        known: Arc::new(walk.known),
    })
}

/// The trees at one path: wanted ones, and ones that the receiver has.
type Pair = (Vec<ObjectId>, Vec<ObjectId>);

impl Walk<'_> {
    /// Chooses an object, unless the receiver has it; returns whether it is new.
    fn choose(&mut self, id: ObjectId) -> bool {
        let slot = self.database.find(id);
        !self.known.marks.contains(id, slot) && self.chosen.insert(id, slot)
    }

    async fn tree(&mut self, id: ObjectId) -> Result<bytes::Bytes> {
        self.steps += 1;
        if self.steps.is_multiple_of(64) {
            // Other tasks get their turn, because reads from memory never wait.
            tokio::task::yield_now().await;
        }
        self.database.read_kind(id, ObjectKind::Tree).await
    }

    /// Marks the content of the receiver's trees along the paths where wanted trees differ, and
    /// below the paths that wanted trees do not have.
    async fn mark_along(&mut self, wanted: &[ObjectId], had: Vec<ObjectId>) -> Result<()> {
        // A hostile repository may have equal trees at very many paths.
        let mut done = HashSet::new();
        let mut stack: Vec<Pair> = vec![(wanted.to_vec(), had)];
        while let Some((mut wanted, mut had)) = stack.pop() {
            let is_deleted = wanted.is_empty();
            had.sort_unstable();
            had.dedup();
            for tree in &had {
                self.known.insert(*tree);
            }
            wanted.retain(|tree| !self.known.contains(*tree));
            wanted.sort_unstable();
            wanted.dedup();
            if wanted.is_empty() && !is_deleted {
                continue;
            }
            let mut hasher = DefaultHasher::new();
            (&wanted, &had).hash(&mut hasher);
            // After a collision only more objects are sent than needed.
            if !done.insert(hasher.finish()) {
                continue;
            }
            let mut folders: BTreeMap<Vec<u8>, Pair> = BTreeMap::new();
            for tree in had {
                if !self.database.contains(tree).await? {
                    continue;
                }
                let content = self.tree(tree).await?;
                let known = &mut self.known;
                tree_entries(self.database.hash, &content, |entry| {
                    if entry.mode == SUBMODULE {
                        return;
                    }
                    known.insert(entry.id);
                    if entry.mode == FOLDER {
                        let at = folders.entry(entry.name.to_vec()).or_default();
                        at.1.push(entry.id);
                    }
                })?;
            }
            for tree in wanted {
                let content = self.tree(tree).await?;
                tree_entries(self.database.hash, &content, |entry| {
                    if entry.mode == FOLDER
                        && let Some(at) = folders.get_mut(entry.name)
                    {
                        at.0.push(entry.id);
                    }
                })?;
            }
            for (wanted, had) in folders.into_values() {
                if wanted.is_empty() {
                    // Pushed separately, so that each tree is read once for all paths.
                    stack.extend(had.into_iter().map(|tree| (Vec::new(), vec![tree])));
                } else {
                    stack.push((wanted, had));
                }
            }
        }
        Ok(())
    }

    /// Chooses a tree and its content.
    async fn collect(&mut self, root: ObjectId) -> Result<()> {
        let mut stack = vec![root];
        while let Some(tree) = stack.pop() {
            if !self.choose(tree) {
                continue;
            }
            self.trees.push(tree);
            let content = self.tree(tree).await?;
            let below = stack.len();
            let mut blobs = Vec::new();
            tree_entries(self.database.hash, &content, |entry| match entry.mode {
                FOLDER => stack.push(entry.id),
                SUBMODULE => {}
                _ => blobs.push(entry.id),
            })?;
            stack[below..].reverse();
            for blob in blobs {
                self.choose_blob(blob).await?;
            }
        }
        Ok(())
    }

    async fn choose_blob(&mut self, id: ObjectId) -> Result<()> {
        if !self.choose(id) {
            return Ok(());
        }
        if !self.database.contains(id).await? {
            return Err(missing(id, ObjectKind::Blob));
        }
        self.blobs.push(id);
        Ok(())
    }
}
