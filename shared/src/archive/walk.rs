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
use tokio::sync::OnceCell;

use super::attributes::{Attributes, Rules};
use super::convert::{Conversion, Conversions, UNCHANGED};
use super::listed_tree::{FolderEntry, ListedSubmodule, Tree, WalkedEntry, WalkedFolder, count};
use super::memory_budget::{MemoryBudget, Reservation};
use super::request::{ArchiveRequest, AttributesFiles};
use super::submodules::{self, Modules, SubmoduleCommit, SubmoduleRepositories};
use super::tree_source::TreeSource;
use crate::codecommit::Unlimited;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::{EntryMode, ListedEntry, TreeListing, tree_id};

/// Maximum depth of a tree, as git's default (`core.maxTreeDepth`).
const MAX_DEPTH: u32 = 2048;

/// Maximum size of `.gitattributes` that are kept for other folders and for the archive
/// itself, in bytes; others are fetched again.
const MAX_KEPT_BYTES: usize = 2 * 1024 * 1024;

/// Maximum size of `.gitattributes` that are read concurrently, in bytes; a larger one is
/// read alone.
const MAX_READING_BYTES: u64 = 4 * 1024 * 1024;

/// The files of a repository of the archive.
#[derive(Clone)]
enum RepositoryFiles<'a> {
    Archived(&'a dyn TreeSource),
    Submodule(SubmoduleCommit),
}

impl RepositoryFiles<'_> {
    fn get(&self) -> &dyn TreeSource {
        match self {
            Self::Archived(files) => *files,
            Self::Submodule(content) => &*content.files,
        }
    }
}

#[derive(Clone, Copy)]
enum WalkTask {
    List(u32),
    /// Reads a `.gitattributes` of the repository.
    Read(ObjectId, u32),
    /// Opens the submodule that is entry `1` of folder `0`.
    Open(u32, u32, ObjectId),
}

enum WalkResult {
    Listed(u32, Result<TreeListing>),
    Read(ObjectId, u64, Result<(Bytes, Reservation)>),
    Opened(u32, u32, Result<SubmoduleCommit>),
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
    // The `.gitattributes` of the archived repository, in place of those of the commit.
    outside: Option<&'a dyn AttributesFiles>,
    // Entries with the attribute `export-ignore` are left out.
    export_ignore: bool,
    // Pointers of git LFS become their objects.
    with_lfs: bool,
    submodules: Option<&'a dyn SubmoduleRepositories>,
    // The `.gitmodules` of each repository.
    modules: HashMap<u32, Arc<OnceCell<Modules>>>,
    // Rules without any `.gitattributes`.
    built_in: Arc<Rules>,
    // Blobs of the archived repository that were found, if their number decides whether the walk
    // goes on.
    blobs: Option<HashSet<ObjectId>>,
    // Number of folders of the archived repository, without submodules.
    archived_folders: u64,
    tasks_started: u64,
}

/// Result of a walk whose requests are limited.
pub(super) enum Walked<'a> {
    /// The whole tree.
    Whole(Tree),
    /// The tree, or its files, would take more requests than allowed.
    TooMany {
        /// Number of requests that were made.
        requests: u64,
        /// Waits for those that are in flight, because cancelled ones cost their connections.
        rest: BoxFuture<'a, ()>,
    },
}

/// Lists the tree of the commit of `request`.
pub(super) async fn walk<'a>(
    files: &'a dyn TreeSource,
    request: &'a ArchiveRequest,
) -> Result<Tree> {
    match walk_within(files, request, None).await? {
        Walked::Whole(tree) => Ok(tree),
        Walked::TooMany { .. } => Err(Error::new(
            ErrorKind::Internal,
            "a walk ended although its requests are not limited",
        )),
    }
}

/// Lists the tree as [`walk`] does, unless its folders and distinct files are found to be more
/// than `max_requests`. Those of submodules do not count.
pub(super) async fn walk_within<'a>(
    files: &'a dyn TreeSource,
    request: &'a ArchiveRequest,
    max_requests: Option<u64>,
) -> Result<Walked<'a>> {
    let (attributes, built_in) = Attributes::new()?;
    let mut walk = Walk {
        files,
        tree: Tree {
            folders: Vec::new(),
            conversions: Conversions::new(),
            submodules: Vec::new(),
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
        outside: request.attributes.as_deref(),
        export_ignore: request.export_ignore,
        with_lfs: request.lfs.is_some(),
        submodules: request.submodules.as_deref(),
        modules: HashMap::new(),
        built_in: Arc::clone(&built_in),
        blobs: max_requests.map(|_| HashSet::new()),
        archived_folders: 0,
        tasks_started: 0,
    };
    let root = request.commit.tree;
    walk.add_folder(Box::default(), root, None, 0, built_in)?;
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < request.concurrency.max(1) {
            let Some(task) = walk.tasks.pop_front() else {
                break;
            };
            walk.tasks_started += 1;
            walk.tree.requests += u64::from(!walk.is_local(task));
            running.push(walk.start(task));
        }
        match running.next().await {
            None => return Ok(Walked::Whole(walk.finish())),
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
            Some(WalkResult::Opened(folder, entry, content)) => {
                walk.opened(folder, entry, content)?;
            }
        }
        if max_requests.is_some_and(|max| walk.expected_requests() > max) {
            return Ok(Walked::TooMany {
                requests: walk.tree.requests,
                rest: Box::pin(async move { while running.next().await.is_some() {} }),
            });
        }
    }
}

impl<'a> Walk<'a> {
    /// Returns the files of a repository.
    fn files_of(&self, source: u32) -> RepositoryFiles<'a> {
        match self.tree.submodule(source) {
            None => RepositoryFiles::Archived(self.files),
            Some(submodule) => RepositoryFiles::Submodule(submodule.clone()),
        }
    }

    /// Returns whether a task needs no request for the files of its repository.
    fn is_local(&self, task: WalkTask) -> bool {
        let source = match task {
            WalkTask::List(index) | WalkTask::Open(index, ..) => {
                self.tree.folders[index as usize].source
            }
            WalkTask::Read(_, source) => source,
        };
        self.files_of(source).get().is_local()
    }

    fn start(&mut self, task: WalkTask) -> BoxFuture<'a, WalkResult> {
        match task {
            WalkTask::List(index) => {
                let folder = &self.tree.folders[index as usize];
                let files = self.files_of(folder.source);
                let path = self.tree.path_in(folder.source, &folder.path).to_owned();
                let tree = folder.tree;
                Box::pin(async move {
                    let folder = files.get().folder(&path, tree).await;
                    WalkResult::Listed(index, folder)
                })
            }
            WalkTask::Open(index, entry, commit) => self.open(index, entry, commit),
            WalkTask::Read(id, source) => {
                let files = self.files_of(source);
                let number = self.tasks_started;
                let pending = self.budget.reserve(number);
                self.reading.insert(number);
                self.prioritize_first();
                Box::pin(async move {
                    let bytes = files.get().file(id, &pending).await;
                    let answer = bytes.map(|bytes| {
                        let reservation = pending.into_reservation(bytes.len());
                        (bytes, reservation)
                    });
                    WalkResult::Read(id, number, answer)
                })
            }
        }
    }

    /// Returns the number of folders and files of the archived repository that are known by now.
    fn expected_requests(&self) -> u64 {
        let blobs = self.blobs.as_ref().map_or(0, HashSet::len);
        self.archived_folders + blobs as u64
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
        source: u32,
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
            if folder.tree == tree && folder.source == source {
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
            source,
            tree,
            above,
            depth,
        });
        self.rules.push(Some(rules));
        self.archived_folders += u64::from(source == 0);
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
        let source = folder.source;
        if let Some(outside) = self.outside.filter(|_| source == 0) {
            let bytes = outside.read(&folder.path)?;
            return self.descend(index, bytes.as_ref());
        }
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
                self.tasks.push_front(WalkTask::Read(id, source));
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
        let source = self.tree.folders[at].source;
        if let Some(bytes) = rules_file {
            let is_root = self.tree.root_of(source) == index;
            rules = self.attributes.add(&rules, &path, is_root, bytes)?;
        }
        let mut entries = std::mem::take(&mut self.tree.folders[at].entries);
        for (number, entry) in entries.iter_mut().enumerate() {
            let path = self.tree.folders[at].join(&entry.name);
            let is_folder = !matches!(entry.node, WalkedEntry::Blob(..));
            let found = self.attributes.find(&rules, &path, is_folder);
            entry.ignored = found.export_ignore && self.export_ignore;
            if entry.ignored {
                continue;
            }
            if source == 0
                && let (Some(blobs), WalkedEntry::Blob(_, id, _)) = (&mut self.blobs, &entry.node)
            {
                blobs.insert(*id);
            }
            match &mut entry.node {
                WalkedEntry::Folder(tree, folder) => {
                    let tree = *tree;
                    *folder = Some(self.add_folder(
                        path.into(),
                        tree,
                        Some(index),
                        source,
                        Arc::clone(&rules),
                    )?);
                }
                WalkedEntry::Blob(mode, _, conversion) if *mode != EntryMode::Link => {
                    let selected = Conversion::new(&found, &path, self.with_lfs)?;
                    *conversion = self.tree.conversions.intern(selected);
                }
                WalkedEntry::Submodule(commit) if self.submodules.is_some() => {
                    self.tasks
                        .push_back(WalkTask::Open(index, count(number), *commit));
                }
                WalkedEntry::Blob(..) | WalkedEntry::Submodule(_) => {}
            }
        }
        self.tree.folders[at].entries = entries;
        Ok(())
    }

    /// Opens a submodule.
    fn open(&mut self, index: u32, entry: u32, commit: ObjectId) -> BoxFuture<'a, WalkResult> {
        let folder = &self.tree.folders[index as usize];
        let source = folder.source;
        let path = folder.join(&folder.entries[entry as usize].name);
        let path = self.tree.path_in(source, &path).to_owned();
        let root = &self.tree.folders[self.tree.root_of(source) as usize];
        // As by git, a symbolic link is not followed.
        let modules_file = root.entries.iter().find_map(|entry| match entry.node {
            WalkedEntry::Blob(mode, id, _) if &*entry.name == ".gitmodules" => {
                (mode != EntryMode::Link).then_some(id)
            }
            _ => None,
        });
        let parent = match (self.tree.submodule(source), self.submodules) {
            (Some(submodule), _) => submodule.name().to_owned(),
            (None, repositories) => repositories.map_or("", |all| all.root()).to_owned(),
        };
        let files = self.files_of(source);
        let modules = Arc::clone(self.modules.entry(source).or_default());
        let repositories = self.submodules;
        Box::pin(async move {
            let opened = async {
                let repositories = repositories.ok_or_else(|| {
                    Error::new(ErrorKind::Internal, "submodules are not archived")
                })?;
                let modules = modules.get_or_try_init(async || {
                    let Some(id) = modules_file else {
                        return Ok(Modules::default());
                    };
                    let bytes = files.get().file(id, &Unlimited).await;
                    Modules::parse(&bytes.map_err(|error| error.context("reading `.gitmodules`"))?)
                });
                let modules = modules.await?;
                submodules::open(repositories, &parent, modules, &path, commit).await
            };
            WalkResult::Opened(index, entry, opened.await)
        })
    }

    /// Lists the content of a submodule.
    fn opened(&mut self, index: u32, entry: u32, content: Result<SubmoduleCommit>) -> Result<()> {
        let folder = &self.tree.folders[index as usize];
        let (above, at) = (folder.source, entry as usize);
        let path = folder.join(&folder.entries[at].name);
        let shown = path.escape_debug().to_string();
        let content = content.map_err(|error| error.context(format!("submodule `{shown}`")))?;
        let mut names = vec![self.submodules.map_or("", |all| all.root())];
        let mut next = above;
        while let Some(number) = (next as usize).checked_sub(1) {
            let submodule = &self.tree.submodules[number];
            names.push(submodule.content.name());
            next = submodule.above;
        }
        if names.contains(&content.name()) || names.len() > submodules::MAX_DEPTH {
            let name = content.name();
            return Err(Error::new(
                ErrorKind::Config,
                format!("submodule `{shown}` is in a circle: `{name}` contains itself"),
            )
            .with_hint("take the submodule out of one of the repositories"));
        }
        let tree = content.commit.tree;
        let source = count(self.tree.submodules.len() + 1);
        self.tree.submodules.push(ListedSubmodule {
            content,
            above,
            root: count(self.tree.folders.len()),
        });
        let rules = Arc::clone(&self.built_in);
        let root = self.add_folder(path.into(), tree, Some(index), source, rules)?;
        self.tree.folders[index as usize].entries[at].node = WalkedEntry::Folder(tree, Some(root));
        Ok(())
    }

    fn finish(mut self) -> Tree {
        self.tree.requests += self.submodules.map_or(0, SubmoduleRepositories::requests);
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
fn sorted(path: &str, tree: ObjectId, listing: TreeListing) -> Result<Vec<FolderEntry>> {
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
        .map(|ListedEntry { name, mode, id }| FolderEntry {
            name: name.into(),
            node: match mode {
                EntryMode::Tree => WalkedEntry::Folder(id, None),
                EntryMode::Commit => WalkedEntry::Submodule(id),
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
