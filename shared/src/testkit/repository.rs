//! A git repository in memory, whose object ids are equal to git's.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use gix_hash::{Kind, ObjectId};

use crate::codecommit::{Difference, DifferenceSide, Trigger};
use crate::git::object::{Commit, EntryMode, ListedEntry, Signature, TreeListing};
use crate::name::{BlobId, BranchName, CommitId, TagName};

/// Change of a commit at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A file, mode 100644.
    File(Bytes),
    /// A file, mode 100755.
    Executable(Bytes),
    /// A symbolic link to this target.
    Symlink(String),
    /// A submodule at this commit.
    Submodule(CommitId),
    /// Removes the path.
    Removed,
}

impl Entry {
    /// Makes a file with this content.
    pub fn file(content: impl AsRef<[u8]>) -> Self {
        Self::File(Bytes::copy_from_slice(content.as_ref()))
    }

    /// Makes an executable file with this content.
    pub fn executable(content: impl AsRef<[u8]>) -> Self {
        Self::Executable(Bytes::copy_from_slice(content.as_ref()))
    }

    /// Makes a symbolic link to `target`.
    pub fn symlink(target: impl Into<String>) -> Self {
        Self::Symlink(target.into())
    }
}

/// Message, author and committer of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitText {
    /// Stored message, which git ends with a newline.
    pub message: String,
    /// Author of the change.
    pub author: Signature,
    /// Committer of the change.
    pub committer: Signature,
}

impl CommitText {
    /// Makes a commit with this message and fixed persons and times.
    pub fn new(message: impl Into<String>) -> Self {
        let person = Signature {
            name: "A U Thor".into(),
            email: "author@example.com".into(),
            date: "1112911993 -0700".into(),
        };
        Self {
            message: message.into(),
            author: person.clone(),
            committer: person,
        }
    }
}

type Tree = Vec<(String, EntryMode, ObjectId)>;

#[derive(Debug, Default)]
pub(super) struct MemoryRepository {
    blobs: HashMap<ObjectId, Bytes>,
    trees: HashMap<ObjectId, Tree>,
    commits: HashMap<ObjectId, Commit>,
    pub(super) branches: BTreeMap<BranchName, CommitId>,
    pub(super) tags: BTreeMap<TagName, CommitId>,
    pub(super) odd_branches: Vec<String>,
    pub(super) default_branch: Option<BranchName>,
    pub(super) triggers: Vec<Trigger>,
    pub(super) configuration: u64,
}

impl MemoryRepository {
    /// Commits changes on top of `parents`, of which the first has the tree.
    pub(super) fn commit(
        &mut self,
        parents: &[CommitId],
        changes: &[(&str, Entry)],
        text: &CommitText,
    ) -> CommitId {
        let mut paths = BTreeMap::new();
        let parent = parents
            .first()
            .and_then(|id| self.commits.get(&id.object_id()));
        if let Some(commit) = parent {
            self.flatten(commit.tree, "", &mut paths);
        }
        for (path, entry) in changes {
            let (mode, id) = match entry {
                Entry::File(content) => (EntryMode::Blob, self.blob(content.clone())),
                Entry::Executable(content) => {
                    (EntryMode::BlobExecutable, self.blob(content.clone()))
                }
                Entry::Symlink(target) => (EntryMode::Link, self.blob(target.clone().into())),
                Entry::Submodule(commit) => (EntryMode::Commit, commit.object_id()),
                Entry::Removed => {
                    paths.remove(*path);
                    continue;
                }
            };
            paths.insert((*path).to_owned(), (mode, id));
        }
        let paths: Vec<_> = paths.iter().map(|(path, e)| (path.as_str(), *e)).collect();
        let tree = self.tree(&paths);
        let line = |who: &Signature| format!("{} <{}> {}", who.name, who.email, who.date);
        let parent_lines: Vec<_> = parents.iter().map(|id| format!("parent {id}\n")).collect();
        let parent_lines = parent_lines.concat();
        let raw = format!(
            "tree {tree}\n{parent_lines}author {}\ncommitter {}\n\n{}",
            line(&text.author),
            line(&text.committer),
            text.message
        );
        let id = object_id("commit", raw.as_bytes());
        let commit = Commit {
            id,
            tree,
            parents: parents.iter().map(|id| id.object_id()).collect(),
            message: text.message.clone(),
            author: text.author.clone(),
            committer: text.committer.clone(),
            extra_headers: String::new(),
        };
        self.commits.insert(id, commit);
        id.into()
    }

    pub(super) fn find_commit(&self, id: CommitId) -> Option<&Commit> {
        self.commits.get(&id.object_id())
    }

    /// Returns a common ancestor that no other common ancestor follows.
    pub(super) fn merge_base(&self, one: CommitId, other: CommitId) -> Option<CommitId> {
        let (mine, theirs) = (self.ancestors(one), self.ancestors(other));
        let common: BTreeSet<CommitId> = mine.intersection(&theirs).copied().collect();
        let is_best = |candidate: &&CommitId| {
            let mut others = common.iter().filter(|other| other != candidate);
            !others.any(|other| self.ancestors(*other).contains(*candidate))
        };
        common.iter().find(is_best).copied()
    }

    /// Returns a commit and all that it follows.
    fn ancestors(&self, commit: CommitId) -> BTreeSet<CommitId> {
        let mut found = BTreeSet::new();
        let mut open = vec![commit];
        while let Some(commit) = open.pop() {
            if found.insert(commit)
                && let Some(commit) = self.find_commit(commit)
            {
                open.extend(commit.parents.iter().map(|&parent| CommitId::from(parent)));
            }
        }
        found
    }

    pub(super) fn find_blob(&self, id: BlobId) -> Option<&Bytes> {
        self.blobs.get(&id.object_id())
    }

    /// Returns one level of a commit's tree; `None` for a missing folder.
    pub(super) fn folder(&self, commit: &Commit, path: &str) -> Option<TreeListing> {
        let mut id = commit.tree;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let tree = self.trees.get(&id)?;
            let (_, mode, child) = tree.iter().find(|(name, ..)| name == part)?;
            if *mode != EntryMode::Tree {
                return None;
            }
            id = *child;
        }
        let entries = self.trees.get(&id)?.iter();
        let entries = entries.map(|(name, mode, id)| ListedEntry::new(name, *mode, *id));
        Some(TreeListing {
            id,
            entries: entries.collect(),
        })
    }

    /// Returns the differences between two commits, in the order of their paths.
    pub(super) fn differences(&self, before: &Commit, after: &Commit) -> Vec<Difference> {
        let list = |commit: &Commit| {
            let mut paths = BTreeMap::new();
            self.flatten(commit.tree, "", &mut paths);
            paths
        };
        let (before, after) = (list(before), list(after));
        let paths: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let side = |list: &BTreeMap<String, (EntryMode, ObjectId)>, path: &str| {
            list.get(path).map(|&(mode, id)| DifferenceSide {
                path: path.to_owned(),
                mode,
                id,
            })
        };
        let differences = paths.into_iter().map(|path| Difference {
            before: side(&before, path),
            after: side(&after, path),
        });
        differences
            .filter(|difference| difference.before != difference.after)
            .collect()
    }

    fn blob(&mut self, content: Bytes) -> ObjectId {
        let id = object_id("blob", &content);
        self.blobs.insert(id, content);
        id
    }

    /// Writes the tree of sorted paths.
    fn tree(&mut self, paths: &[(&str, (EntryMode, ObjectId))]) -> ObjectId {
        let mut tree: Tree = Vec::new();
        let mut rest = paths;
        while let Some(&(path, (mode, id))) = rest.first() {
            let Some((folder, _)) = path.split_once('/') else {
                tree.push((path.to_owned(), mode, id));
                rest = &rest[1..];
                continue;
            };
            let prefix = format!("{folder}/");
            let count = rest.partition_point(|(path, _)| path.starts_with(&prefix));
            let inside: Vec<_> = rest[..count]
                .iter()
                .map(|(path, entry)| (&path[prefix.len()..], *entry))
                .collect();
            let id = self.tree(&inside);
            tree.push((folder.to_owned(), EntryMode::Tree, id));
            rest = &rest[count..];
        }
        // Because git compares folders as if their names ended in a slash.
        tree.sort_by_key(|(name, mode, _)| match mode {
            EntryMode::Tree => format!("{name}/"),
            _ => name.clone(),
        });
        let mut raw = Vec::new();
        for (name, mode, id) in &tree {
            raw.extend_from_slice(mode.as_octal_str());
            raw.push(b' ');
            raw.extend_from_slice(name.as_bytes());
            raw.push(0);
            raw.extend_from_slice(id.as_bytes());
        }
        let id = object_id("tree", &raw);
        self.trees.insert(id, tree);
        id
    }

    fn flatten(
        &self,
        tree: ObjectId,
        prefix: &str,
        paths: &mut BTreeMap<String, (EntryMode, ObjectId)>,
    ) {
        for (name, mode, id) in &self.trees[&tree] {
            let path = format!("{prefix}{name}");
            if *mode == EntryMode::Tree {
                self.flatten(*id, &format!("{path}/"), paths);
            } else {
                paths.insert(path, (*mode, *id));
            }
        }
    }
}

fn object_id(kind: &str, content: &[u8]) -> ObjectId {
    let mut hasher = gix_hash::hasher(Kind::Sha1);
    hasher.update(format!("{kind} {}\0", content.len()).as_bytes());
    hasher.update(content);
    hasher
        .try_finalize()
        .expect("because no test attacks SHA-1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_git() {
        let mut repository = MemoryRepository::default();
        // From `git hash-object --stdin </dev/null` and `git hash-object -t tree /dev/null`.
        assert_eq!(
            repository.blob(Bytes::new()).to_string(),
            "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
        );
        assert_eq!(
            repository.tree(&[]).to_string(),
            "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
        );
    }
}
