//! Reachable objects.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::filter::ObjectFilter;
use super::object_set::{ObjectSet, ReceiverObjects};
use super::rev_walk::RevWalk;
use super::{Database, missing};
use crate::ObjectId;
use crate::error::Result;
use crate::object::{ObjectKind, tree_entries};

/// The objects that one set of objects needs and another does not have.
pub struct Closure {
    /// Commits, newest first; then tags, trees, and blobs. Each occurs once.
    pub objects: Vec<ObjectId>,
    /// Objects that the receiver is known to have, as bases of thin packs.
    pub known: Arc<ReceiverObjects>,
    chosen: ObjectSet,
}

impl fmt::Debug for Closure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closure")
            .field("objects", &self.objects.len())
            .finish_non_exhaustive()
    }
}

impl Closure {
    /// Returns whether `objects` has an object.
    pub fn contains(&self, id: ObjectId) -> bool {
        self.chosen.contains(id, self.known.database.find(id))
    }

    /// Adds a tag, and the tags that it names, unless `objects` has them.
    ///
    /// # Errors
    /// `NotFound` when the tag is missing.
    pub async fn add_tag(&mut self, id: ObjectId) -> Result<()> {
        let mut tags = Vec::new();
        let database = &self.known.database;
        database.peel_recording_tags(id, &mut tags).await?;
        for tag in tags {
            if self.chosen.insert(tag, database.find(tag)) {
                self.objects.push(tag);
            }
        }
        Ok(())
    }
}

/// The objects that a receiver wants and has, and those that it does not want with them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Selection<'a> {
    /// Objects to choose, with all objects that they need.
    pub wants: &'a [ObjectId],
    /// Objects that the receiver has, with all objects that they need. Those that do not exist
    /// are skipped.
    pub haves: &'a [ObjectId],
    /// Commits of a shallow receiver: it has no parents of them and wants none. `None` for a
    /// receiver of whole histories.
    pub shallow: Option<&'a HashSet<ObjectId>>,
    /// Omits objects that `wants` does not name.
    pub filter: Option<ObjectFilter>,
}

/// The mode of a tree in a tree.
const FOLDER: u32 = 0o40000;
/// The mode of a submodule in a tree.
const SUBMODULE: u32 = 0o160_000;

struct Walk<'a> {
    database: &'a Arc<Database>,
    known: ReceiverObjects,
    chosen: ObjectSet,
    filter: ObjectFilter,
    // Trees that were walked, if a filter may omit them or their content.
    walked: ObjectSet,
    depths: HashMap<ObjectId, u64>,
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
    let selection = Selection {
        wants,
        haves,
        ..Selection::default()
    };
    select_objects(database, &selection).await
}

/// Returns the objects of a [`Selection`], like [`reachable_objects`].
///
/// # Errors
/// As of [`reachable_objects`].
pub async fn select_objects(
    database: &Arc<Database>,
    selection: &Selection<'_>,
) -> Result<Closure> {
    let filter = selection.filter.unwrap_or_default();
    let mut walk = Walk {
        database,
        known: ReceiverObjects {
            database: Arc::clone(database),
            marks: ObjectSet::new(database),
        },
        chosen: ObjectSet::new(database),
        filter,
        walked: ObjectSet::new(database),
        depths: HashMap::new(),
        trees: Vec::new(),
        blobs: Vec::new(),
        steps: 0,
    };
    let mut commits = RevWalk::new(database).with_shallow(selection.shallow);
    let mut had_trees = Vec::new();
    let mut had_commits = Vec::new();
    let mut tags = Vec::new();
    for id in selection.haves {
        if !database.contains(*id).await? {
            continue;
        }
        let (id, kind) = database.peel_recording_tags(*id, &mut tags).await?;
        match kind {
            ObjectKind::Commit => {
                commits.start(id, true).await?;
                had_commits.push(id);
            }
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
    let mut wanted_trees = Vec::new();
    let mut wanted_commits = HashSet::new();
    for id in selection.wants {
        let (id, kind) = database.peel_recording_tags(*id, &mut tags).await?;
        match kind {
            ObjectKind::Commit => {
                commits.start(id, false).await?;
                wanted_commits.insert(id);
            }
            ObjectKind::Tree => wanted_trees.push(id),
            _ => blobs.push(id),
        }
    }
    let found = commits.limit().await?;
    for id in commits.receiver_commits() {
        walk.known.insert(id);
    }
    let boundary = commits.boundary(&found);
    had_trees.extend(boundary.iter().filter_map(|at| commits.tree(*at)));
    if selection.shallow.is_some() {
        // The commits that a shallow receiver has need not be parents of those that it wants.
        had_trees.extend(had_commits.iter().filter_map(|id| commits.tree_of(*id)));
    }
    roots.extend(found.iter().filter_map(|at| commits.tree(*at)));
    let ids = found.iter().map(|at| commits.id(*at));
    let shown = |id: &ObjectId| filter.shows(ObjectKind::Commit) || wanted_commits.contains(id);
    let mut objects: Vec<ObjectId> = ids.filter(shown).collect();
    for commit in &objects {
        walk.choose(*commit);
    }
    drop(commits);
    tags.retain(|tag| walk.choose(*tag));
    objects.append(&mut tags);
    if filter.omits_all_trees() {
        roots.clear();
    }
    let compared: Vec<ObjectId> = roots.iter().chain(&wanted_trees).copied().collect();
    if !had_trees.is_empty() && !compared.is_empty() {
        walk.mark_along(&compared, had_trees).await?;
    }
    for tree in wanted_trees {
        walk.collect_wanted(tree).await?;
    }
    for root in roots {
        walk.collect(root, 0).await?;
    }
    for blob in blobs {
        walk.choose_blob(blob).await?;
    }
    objects.append(&mut walk.trees);
    objects.append(&mut walk.blobs);
    Ok(Closure {
        objects,
        known: Arc::new(walk.known),
        chosen: walk.chosen,
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

    /// Chooses a tree that was asked for by its id, and its content as far as the filter shows it.
    async fn collect_wanted(&mut self, tree: ObjectId) -> Result<()> {
        if self.choose(tree) {
            self.trees.push(tree);
        }
        // Git's filters do not count a tree that was asked for.
        let mut folders = Vec::new();
        self.walk_tree(tree, 0, &mut folders).await?;
        for (folder, depth) in folders {
            self.collect(folder, depth).await?;
        }
        Ok(())
    }

    /// Chooses a tree and its content, as far as the filter shows them.
    async fn collect(&mut self, root: ObjectId, depth: u64) -> Result<()> {
        let mut stack = vec![(root, depth)];
        while let Some((tree, depth)) = stack.pop() {
            if self.filter.omits_depth(depth) || self.known.contains(tree) {
                continue;
            }
            let slot = self.database.find(tree);
            if self.filter.depends_on_depth() {
                match self.depths.entry(tree) {
                    Entry::Occupied(seen) if *seen.get() <= depth => continue,
                    Entry::Occupied(mut seen) => drop(seen.insert(depth)),
                    Entry::Vacant(new) => drop(new.insert(depth)),
                }
            } else if !self.walked.insert(tree, slot) {
                continue;
            }
            if self.filter.shows(ObjectKind::Tree) && self.choose(tree) {
                self.trees.push(tree);
            }
            let below = stack.len();
            self.walk_tree(tree, depth + 1, &mut stack).await?;
            stack[below..].reverse();
        }
        Ok(())
    }

    /// Chooses the files of a tree, whose content has `depth`, and appends its folders.
    async fn walk_tree(
        &mut self,
        tree: ObjectId,
        depth: u64,
        folders: &mut Vec<(ObjectId, u64)>,
    ) -> Result<()> {
        if self.filter.omits_depth(depth) {
            // Only whether the tree exists is of interest.
            return match self.database.contains(tree).await? {
                true => Ok(()),
                false => Err(missing(tree, ObjectKind::Tree)),
            };
        }
        let content = self.tree(tree).await?;
        let mut blobs = Vec::new();
        tree_entries(self.database.hash, &content, |entry| match entry.mode {
            FOLDER => folders.push((entry.id, depth)),
            SUBMODULE => {}
            _ => blobs.push(entry.id),
        })?;
        if self.filter.omits_all_blobs() {
            return Ok(());
        }
        for blob in blobs {
            if self.is_small_enough(blob).await? {
                self.choose_blob(blob).await?;
            }
        }
        Ok(())
    }

    async fn is_small_enough(&self, blob: ObjectId) -> Result<bool> {
        let Some(limit) = self.filter.blob_limit() else {
            return Ok(true);
        };
        let slot = self.database.find(blob);
        if self.known.marks.contains(blob, slot) || self.chosen.contains(blob, slot) {
            return Ok(true);
        }
        let size = self.database.blob_size(blob).await?;
        Ok(size.is_none_or(|size| size < limit))
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
