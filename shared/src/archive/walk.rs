//! Lists the tree of a commit, folder by folder, as many at once as the service lets us.
//!
//! A folder is listed as soon as the one above it is known; one with a `.gitattributes`
//! holds its subfolders back until that file is read, so that a folder that is not
//! archived (`export-ignore`) is never asked for, and the requests of a tree are always
//! the same: one for each archived folder, one for each distinct `.gitattributes`.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use gix_hash::ObjectId;

use super::attributes::{Attributes, Rules};
use super::convert::{Conversion, Conversions, UNCHANGED};
use super::memory_budget::{MemoryBudget, Reservation};
use super::tree_source::TreeSource;
use crate::codecommit::{self, EntryMode};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BlobId, TreeId};

/// How deep a tree may be; git's own limit (`core.maxTreeDepth`).
const MAX_DEPTH: u32 = 2048;

/// How many bytes of `.gitattributes` are kept, for folders that have the same and for
/// the archive itself; what is beyond is fetched again.
const KEPT_BYTES: usize = 2 * 1024 * 1024;

/// How many bytes of `.gitattributes` may be on their way into memory at once; one that
/// needs more is let in alone.
const READING_BYTES: u64 = 4 * 1024 * 1024;

/// What an entry of a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WalkedEntry {
    /// A folder: its tree, and its index unless it is not archived.
    Folder(ObjectId, Option<u32>),
    /// A file or symbolic link and the index of its conversion.
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
    /// `.gitattributes` that were read already.
    pub(super) kept: HashMap<ObjectId, Bytes>,
    /// How many requests it took.
    pub(super) requests: u64,
}

impl WalkedFolder {
    /// The path of an entry of this folder.
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
    Listed(u32, Result<codecommit::TreeListing>),
    Read(ObjectId, u64, Result<(Bytes, Reservation)>),
}

/// Who waits for a `.gitattributes`.
enum Blob {
    Awaited(Vec<u32>),
    Here(Bytes),
}

struct Walk<'a> {
    files: &'a dyn TreeSource,
    tree: Tree,
    // Beside `tree.folders`: the rules that hold in each, until its children are known.
    rules: Vec<Option<Arc<Rules>>>,
    attributes: Attributes,
    jobs: VecDeque<WalkTask>,
    blobs: HashMap<ObjectId, Blob>,
    kept_bytes: usize,
    budget: Arc<MemoryBudget>,
    // Numbers of the `.gitattributes` that are being read.
    reading: BTreeSet<u64>,
}

/// Lists the tree of a commit, whose root is `root`, with at most `concurrency` requests at
/// once.
pub(super) async fn walk(files: &dyn TreeSource, root: TreeId, concurrency: usize) -> Result<Tree> {
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
        jobs: VecDeque::new(),
        blobs: HashMap::new(),
        kept_bytes: 0,
        budget: MemoryBudget::new(READING_BYTES),
        reading: BTreeSet::new(),
    };
    walk.add_folder(Box::default(), root.object_id(), None, built_in)?;
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < concurrency.max(1) {
            let Some(job) = walk.jobs.pop_front() else {
                break;
            };
            walk.tree.requests += 1;
            running.push(walk.start(job));
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
    fn start(&mut self, job: WalkTask) -> BoxFuture<'a, WalkResult> {
        let files = self.files;
        match job {
            WalkTask::List(index) => {
                let folder = &self.tree.folders[index as usize];
                let (path, tree) = (folder.path.clone(), TreeId::from(folder.tree));
                Box::pin(async move {
                    let folder = files.folder(&path, tree).await;
                    WalkResult::Listed(index, folder)
                })
            }
            WalkTask::Read(id) => {
                let number = self.tree.requests;
                let ticket = self.budget.ticket(number);
                self.reading.insert(number);
                self.prioritize_first();
                Box::pin(async move {
                    let bytes = files.file(BlobId::from(id), &ticket).await;
                    let answer = bytes.map(|bytes| {
                        let grant = ticket.into_grant(bytes.len());
                        (bytes, grant)
                    });
                    WalkResult::Read(id, number, answer)
                })
            }
        }
    }

    /// Whatever its size, the first of those that are being read is let in.
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
        // No tree holds itself: its id depends on what it holds.
        while let Some(index) = next {
            let folder = &self.tree.folders[index as usize];
            if folder.tree == tree {
                return Err(corrupt(&path, "contains itself"));
            }
            next = folder.above;
        }
        if depth > MAX_DEPTH {
            return Err(corrupt(&path, "lies too deep"));
        }
        let index = u32::try_from(self.tree.folders.len())
            .map_err(|_| corrupt(&path, "is one folder too many"))?;
        self.tree.folders.push(WalkedFolder {
            path,
            entries: Vec::new(),
            tree,
            above,
            depth,
        });
        self.rules.push(Some(rules));
        self.jobs.push_back(WalkTask::List(index));
        Ok(index)
    }

    fn listed(&mut self, index: u32, listing: codecommit::TreeListing) -> Result<()> {
        let folder = &mut self.tree.folders[index as usize];
        let entries = sorted(&folder.path, folder.tree, listing)?;
        let rules_file = entries.iter().find_map(|entry| match entry.node {
            // git reads a symbolic link's target as if it were the file.
            WalkedEntry::Blob(_, id, _) if &*entry.name == ".gitattributes" => Some(id),
            _ => None,
        });
        folder.entries = entries;
        let Some(id) = rules_file.filter(|id| !id.is_empty_blob()) else {
            return self.descend(index, None);
        };
        match self.blobs.get_mut(&id) {
            Some(Blob::Here(bytes)) => {
                let bytes = bytes.clone();
                self.descend(index, Some(&bytes))
            }
            Some(Blob::Awaited(folders)) => {
                folders.push(index);
                Ok(())
            }
            None => {
                self.blobs.insert(id, Blob::Awaited(vec![index]));
                self.jobs.push_front(WalkTask::Read(id));
                Ok(())
            }
        }
    }

    fn read(&mut self, id: ObjectId, answer: Result<(Bytes, Reservation)>) -> Result<()> {
        let Some(Blob::Awaited(folders)) = self.blobs.remove(&id) else {
            return Ok(());
        };
        let path = folders.first().map_or_else(String::new, |&folder| {
            self.tree.folders[folder as usize].join(".gitattributes")
        });
        let (bytes, _grant) = answer.map_err(|error| error.context(format!("reading `{path}`")))?;
        for folder in folders {
            self.descend(folder, Some(&bytes))?;
        }
        if self.kept_bytes + bytes.len() <= KEPT_BYTES {
            self.kept_bytes += bytes.len();
            self.blobs.insert(id, Blob::Here(bytes));
        }
        Ok(())
    }

    /// Finds what the rules say about each entry of a folder, and lists its subfolders.
    fn descend(&mut self, index: u32, rules_file: Option<&Bytes>) -> Result<()> {
        let at = index as usize;
        let mut rules = self.rules[at]
            .take()
            .expect("because a folder is descended into once");
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
                WalkedEntry::Blob(kind, _, conversion) if *kind != EntryMode::Symlink => {
                    let wanted = Conversion::new(&found, &path)?;
                    *conversion = self.tree.conversions.intern(wanted);
                }
                WalkedEntry::Blob(..) | WalkedEntry::Submodule => {}
            }
        }
        self.tree.folders[at].entries = entries;
        Ok(())
    }

    fn finish(mut self) -> Tree {
        let kept = self.blobs.into_iter().filter_map(|(id, blob)| match blob {
            Blob::Here(bytes) => Some((id, bytes)),
            Blob::Awaited(_) => None,
        });
        self.tree.kept = kept.collect();
        self.tree
    }
}

/// The entries of a listing in git's order, checked.
fn sorted(path: &str, tree: ObjectId, listing: codecommit::TreeListing) -> Result<Vec<Entry>> {
    let folders = listing
        .folders
        .into_iter()
        .map(|(name, id)| (name, WalkedEntry::Folder(id.object_id(), None)));
    let blobs = listing
        .blobs
        .into_iter()
        .map(|(name, kind, id)| (name, WalkedEntry::Blob(kind, id.object_id(), UNCHANGED)));
    // Submodules are rare: their ids are needed only to recompute a tree's.
    let submodules: HashMap<String, ObjectId> = listing
        .submodules
        .into_iter()
        .map(|(name, id)| (name, id.object_id()))
        .collect();
    let mut entries: Vec<Entry> = folders
        .chain(blobs)
        .chain(
            submodules
                .keys()
                .cloned()
                .map(|name| (name, WalkedEntry::Submodule)),
        )
        .map(|(name, node)| Entry {
            name: name.into(),
            node,
            ignored: false,
        })
        .collect();
    entries.sort_unstable_by(|a, b| sort_key(a).cmp(sort_key(b)));

    let mut names = HashSet::with_capacity(entries.len());
    for entry in &entries {
        let name = &*entry.name;
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
    if entries.iter().any(|entry| entry.name.contains('\u{fffd}'))
        && tree_id(&entries, &submodules, tree.kind()) != Some(tree)
    {
        return Err(
            corrupt(path, "has an entry whose name is not UTF-8").with_hint(
                "neither the CodeCommit API nor an archive carries such a name: rename the file",
            ),
        );
    }
    Ok(entries)
}

/// git compares a folder's name as if it ended in a slash.
fn sort_key(entry: &Entry) -> impl Iterator<Item = u8> + '_ {
    let slash = matches!(entry.node, WalkedEntry::Folder(..)).then_some(b'/');
    entry.name.bytes().chain(slash)
}

/// The id of the tree object that holds these entries.
fn tree_id(
    entries: &[Entry],
    submodules: &HashMap<String, ObjectId>,
    kind: gix_hash::Kind,
) -> Option<ObjectId> {
    let mut tree = Vec::new();
    for entry in entries {
        let (mode, id) = match entry.node {
            WalkedEntry::Folder(id, _) => ("40000", id),
            WalkedEntry::Blob(EntryMode::File, id, _) => ("100644", id),
            WalkedEntry::Blob(EntryMode::Executable, id, _) => ("100755", id),
            WalkedEntry::Blob(EntryMode::Symlink, id, _) => ("120000", id),
            WalkedEntry::Submodule => ("160000", *submodules.get(&*entry.name)?),
        };
        tree.extend_from_slice(mode.as_bytes());
        tree.push(b' ');
        tree.extend_from_slice(entry.name.as_bytes());
        tree.push(0);
        tree.extend_from_slice(id.as_slice());
    }
    let mut hasher = gix_hash::hasher(kind);
    hasher.update(format!("tree {}\0", tree.len()).as_bytes());
    hasher.update(&tree);
    hasher.try_finalize().ok()
}

fn corrupt(path: &str, what: &str) -> Error {
    let path = path.escape_debug();
    Error::new(ErrorKind::Corrupt, format!("folder `/{path}` {what}"))
}
