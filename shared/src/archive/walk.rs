//! Lists the tree of a commit with concurrent requests.
//!
//! A folder is listed as soon as its parent is. The subfolders of a folder with a
//! `.gitattributes` are listed after that file is read, so a folder that is not archived
//! (`export-ignore`) is never requested. The requests of a tree are therefore always the
//! same: one for each archived folder, and one for each distinct `.gitattributes`.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::attributes::{Attributes, Rules};
use super::convert::{Conversion, Conversions, UNCHANGED};
use super::memory_budget::{MemoryBudget, Reservation};
use super::tree_source::TreeSource;
use crate::error::{Error, ErrorKind, Result};
use crate::git::object::{EntryMode, ListedEntry, TreeListing, tree_id};
use crate::git::{HashKind, ObjectId};

/// Maximum depth of a tree, as git's default (`core.maxTreeDepth`).
const MAX_DEPTH: u32 = 2048;

/// Maximum size of `.gitattributes` that are kept for other folders and for the archive
/// itself, in bytes; others are fetched again.
const MAX_KEPT_BYTES: usize = 2 * 1024 * 1024;

/// Maximum size of `.gitattributes` that are read concurrently, in bytes; a larger one is
/// read alone.
const MAX_READING_BYTES: u64 = 4 * 1024 * 1024;

/// Kind of an entry of a folder, with the data that an archive needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WalkedEntry {
    /// A folder: the id of the tree, and the index in [`Tree::folders`] if it is archived.
    Folder(ObjectId, Option<u32>),
    /// A file or symbolic link, with the index of the conversion.
    Blob(EntryMode, ObjectId, u32),
    /// A submodule.
    Submodule,
}

/// An entry of a folder, in git's order.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Box<str>,
    pub(super) node: WalkedEntry,
    // Left out by `export-ignore`.
    pub(super) ignored: bool,
}

/// A listed folder.
#[derive(Debug)]
pub(super) struct WalkedFolder {
    /// Without slashes at its ends; empty for the root.
    pub(super) path: Box<str>,
    pub(super) entries: Vec<Entry>,
    tree: ObjectId,
    above: Option<u32>,
    depth: u32,
}

/// A listed tree.
#[derive(Debug)]
pub(super) struct Tree {
    /// The root is the first.
    pub(super) folders: Vec<WalkedFolder>,
    pub(super) conversions: Conversions,
    /// Contents of `.gitattributes` that were kept, by blob.
    pub(super) kept: HashMap<ObjectId, Bytes>,
    /// Number of requests.
    pub(super) requests: u64,
}

impl Tree {
    /// Makes a tree of the root folder alone, which is filled from another source than the
    /// listings of its folders.
    pub(super) fn from_other_source() -> Self {
        let mut tree = Self {
            folders: Vec::new(),
            conversions: Conversions::new(),
            kept: HashMap::new(),
            requests: 0,
        };
        tree.push_folder("");
        tree
    }

    /// Adds a folder without entries; returns its index.
    pub(super) fn push_folder(&mut self, path: &str) -> u32 {
        self.folders.push(WalkedFolder {
            path: path.into(),
            entries: Vec::new(),
            tree: ObjectId::null(HashKind::Sha1),
            above: None,
            depth: 0,
        });
        u32::try_from(self.folders.len() - 1)
            .expect("because four billion folders do not fit into memory")
    }
}

impl WalkedFolder {
    /// Returns the path of the entry `name`.
    pub(super) fn join(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.path)
        }
    }
}

#[derive(Clone, Copy)]
enum WalkTask {
    List(u32),
    Read(ObjectId),
}

enum WalkResult {
    Listed(u32, Result<TreeListing>),
    Read(ObjectId, u64, Result<(Bytes, Reservation)>),
}

/// A `.gitattributes`, by blob.
enum RulesFile {
    // The folders that wait for the content.
    Pending(Vec<u32>),
    Kept(Bytes),
}

struct Walk<'a> {
    files: &'a dyn TreeSource,
    tree: Tree,
    // The rules of each folder by its index, until its entries are matched.
    rules: Vec<Option<Arc<Rules>>>,
    attributes: Attributes,
    tasks: VecDeque<WalkTask>,
    rules_files: HashMap<ObjectId, RulesFile>,
    kept_bytes: usize,
    budget: Arc<MemoryBudget>,
    // Numbers of the pending reservations for `.gitattributes`.
    reading: BTreeSet<u64>,
}

/// Lists the tree `root` and everything below it, with up to `concurrency` concurrent
/// requests.
pub(super) async fn walk(
    files: &dyn TreeSource,
    root: ObjectId,
    concurrency: usize,
) -> Result<Tree> {
    let (attributes, built_in) = Attributes::new()?;
    let mut walk = Walk {
        files,
        tree: Tree {
            folders: Vec::new(),
            conversions: Conversions::new(),
            kept: HashMap::new(),
            requests: 0,
        },
        rules: Vec::new(),
        attributes,
        tasks: VecDeque::new(),
        rules_files: HashMap::new(),
        kept_bytes: 0,
        budget: MemoryBudget::new(MAX_READING_BYTES),
        reading: BTreeSet::new(),
    };
    walk.add_folder(Box::default(), root, None, built_in)?;
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < concurrency.max(1) {
            let Some(task) = walk.tasks.pop_front() else {
                break;
            };
            walk.tree.requests += 1;
            running.push(walk.start(task));
        }
        match running.next().await {
            None => return Ok(walk.finish()),
            Some(WalkResult::Listed(index, folder)) => {
                let path = &walk.tree.folders[index as usize].path;
                let folder =
                    folder.map_err(|error| error.context(format!("listing folder `{path}`")))?;
                walk.listed(index, folder)?;
            }
            Some(WalkResult::Read(id, number, answer)) => {
                walk.reading.remove(&number);
                walk.prioritize_first();
                walk.read(id, answer)?;
            }
        }
    }
}

impl<'a> Walk<'a> {
    fn start(&mut self, task: WalkTask) -> BoxFuture<'a, WalkResult> {
        let files = self.files;
        match task {
            WalkTask::List(index) => {
                let folder = &self.tree.folders[index as usize];
                let (path, tree) = (folder.path.clone(), folder.tree);
                Box::pin(async move {
                    let folder = files.folder(&path, tree).await;
                    WalkResult::Listed(index, folder)
                })
            }
            WalkTask::Read(id) => {
                let number = self.tree.requests;
                let pending = self.budget.reserve(number);
                self.reading.insert(number);
                self.prioritize_first();
                Box::pin(async move {
                    let bytes = files.file(id, &pending).await;
                    let answer = bytes.map(|bytes| {
                        let reservation = pending.into_reservation(bytes.len());
                        (bytes, reservation)
                    });
                    WalkResult::Read(id, number, answer)
                })
            }
        }
    }

    /// Gives the oldest pending request priority over the budget.
    fn prioritize_first(&self) {
        if let Some(&first) = self.reading.first() {
            self.budget.prioritize(first);
        }
    }

    fn add_folder(
        &mut self,
        path: Box<str>,
        tree: ObjectId,
        above: Option<u32>,
        rules: Arc<Rules>,
    ) -> Result<u32> {
        let mut depth = 0;
        let mut next = above;
        if let Some(above) = above {
            depth = self.tree.folders[above as usize].depth + 1;
        }
        // A tree cannot contain itself, because its id depends on its content.
        while let Some(index) = next {
            let folder = &self.tree.folders[index as usize];
            if folder.tree == tree {
                return Err(corrupt(&path, "contains itself"));
            }
            next = folder.above;
        }
        if depth > MAX_DEPTH {
            return Err(corrupt(&path, "is nested too deeply"));
        }
        let index = u32::try_from(self.tree.folders.len())
            .map_err(|_| corrupt(&path, "exceeds the maximum number of folders"))?;
        self.tree.folders.push(WalkedFolder {
            path,
            entries: Vec::new(),
            tree,
            above,
            depth,
        });
        self.rules.push(Some(rules));
        self.tasks.push_back(WalkTask::List(index));
        Ok(index)
    }

    fn listed(&mut self, index: u32, listing: TreeListing) -> Result<()> {
        let folder = &mut self.tree.folders[index as usize];
        let entries = sorted(&folder.path, folder.tree, listing)?;
        let rules_file = entries.iter().find_map(|entry| match entry.node {
            // git parses the target of a symbolic link like a file.
            WalkedEntry::Blob(_, id, _) if &*entry.name == ".gitattributes" => Some(id),
            _ => None,
        });
        folder.entries = entries;
        let Some(id) = rules_file.filter(|id| !id.is_empty_blob()) else {
            return self.descend(index, None);
        };
        match self.rules_files.get_mut(&id) {
            Some(RulesFile::Kept(bytes)) => {
                let bytes = bytes.clone();
                self.descend(index, Some(&bytes))
            }
            Some(RulesFile::Pending(folders)) => {
                folders.push(index);
                Ok(())
            }
            None => {
                self.rules_files.insert(id, RulesFile::Pending(vec![index]));
                self.tasks.push_front(WalkTask::Read(id));
                Ok(())
            }
        }
    }

    fn read(&mut self, id: ObjectId, answer: Result<(Bytes, Reservation)>) -> Result<()> {
        let Some(RulesFile::Pending(folders)) = self.rules_files.remove(&id) else {
            return Ok(());
        };
        let path = folders.first().map_or_else(String::new, |&folder| {
            self.tree.folders[folder as usize].join(".gitattributes")
        });
        let (bytes, _reservation) =
            answer.map_err(|error| error.context(format!("reading `{path}`")))?;
        for folder in folders {
            self.descend(folder, Some(&bytes))?;
        }
        if self.kept_bytes + bytes.len() <= MAX_KEPT_BYTES {
            self.kept_bytes += bytes.len();
            self.rules_files.insert(id, RulesFile::Kept(bytes));
        }
        Ok(())
    }

    /// Matches each entry of a folder against the rules, and lists the subfolders.
    fn descend(&mut self, index: u32, rules_file: Option<&Bytes>) -> Result<()> {
        let at = index as usize;
        let mut rules = self.rules[at]
            .take()
            .expect("because each folder is listed once");
        let path = self.tree.folders[at].path.clone();
        if let Some(bytes) = rules_file {
            rules = self.attributes.add(&rules, &path, bytes)?;
        }
        let mut entries = std::mem::take(&mut self.tree.folders[at].entries);
        for entry in &mut entries {
            let path = self.tree.folders[at].join(&entry.name);
            let is_folder = !matches!(entry.node, WalkedEntry::Blob(..));
            let found = self.attributes.find(&rules, &path, is_folder);
            entry.ignored = found.export_ignore;
            if entry.ignored {
                continue;
            }
            match &mut entry.node {
                WalkedEntry::Folder(tree, folder) => {
                    let tree = *tree;
                    *folder = Some(self.add_folder(
                        path.into(),
                        tree,
                        Some(index),
                        Arc::clone(&rules),
                    )?);
                }
                WalkedEntry::Blob(mode, _, conversion) if *mode != EntryMode::Link => {
                    let selected = Conversion::new(&found, &path)?;
                    *conversion = self.tree.conversions.intern(selected);
                }
                WalkedEntry::Blob(..) | WalkedEntry::Submodule => {}
            }
        }
        self.tree.folders[at].entries = entries;
        Ok(())
    }

    fn finish(mut self) -> Tree {
        let kept = self
            .rules_files
            .into_iter()
            .filter_map(|(id, blob)| match blob {
                RulesFile::Kept(bytes) => Some((id, bytes)),
                RulesFile::Pending(_) => None,
            });
        self.tree.kept = kept.collect();
        self.tree
    }
}

/// Checks the entries of a listing and returns them in git's order.
fn sorted(path: &str, tree: ObjectId, listing: TreeListing) -> Result<Vec<Entry>> {
    let mut listed = listing.entries;
    listed.sort_unstable_by(ListedEntry::git_order);

    let mut names = HashSet::with_capacity(listed.len());
    for ListedEntry { name, .. } in &listed {
        if name.is_empty()
            || name == "."
            || name == ".."
            || name.contains(['/', '\0'])
            || name.eq_ignore_ascii_case(".git")
        {
            return Err(corrupt(
                path,
                &format!("has an entry named `{}`", name.escape_debug()),
            ));
        }
        if !names.insert(name) {
            return Err(corrupt(
                path,
                &format!("has two entries named `{}`", name.escape_debug()),
            ));
        }
    }
    // A name with U+FFFD may be the true one, or text in place of bytes that are not UTF-8:
    // only for the true one the id matches.
    if names.iter().any(|name| name.contains('\u{fffd}'))
        && tree_id(tree.kind(), &listed).ok() != Some(tree)
    {
        return Err(
            corrupt(path, "has an entry whose name is not UTF-8").with_hint(
                "neither the CodeCommit API nor an archive carries such a name: rename the file",
            ),
        );
    }
    let entries = listed
        .into_iter()
        .map(|ListedEntry { name, mode, id }| Entry {
            name: name.into(),
            node: match mode {
                EntryMode::Tree => WalkedEntry::Folder(id, None),
                EntryMode::Commit => WalkedEntry::Submodule,
                EntryMode::Blob | EntryMode::BlobExecutable | EntryMode::Link => {
                    WalkedEntry::Blob(mode, id, UNCHANGED)
                }
            },
            ignored: false,
        });
    Ok(entries.collect())
}

fn corrupt(path: &str, what: &str) -> Error {
    let path = path.escape_debug();
    Error::new(ErrorKind::Corrupt, format!("folder `/{path}` {what}"))
}
