//! A listed tree: the folders of a commit, and those of its submodules.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::convert::Conversions;
use super::submodules::SubmoduleCommit;
use super::tree_source::TreeSource;
use crate::git::object::{Commit, EntryMode};
use crate::git::{HashKind, ObjectId};

/// Kind of an entry of a folder, with the data that an archive needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WalkedEntry {
    /// A folder: the id of the tree, and the index in [`Tree::folders`] if it is archived.
    Folder(ObjectId, Option<u32>),
    /// A file or symbolic link, with the index of the conversion.
    Blob(EntryMode, ObjectId, u32),
    /// A submodule that is not opened: its commit.
    Submodule(ObjectId),
}

/// An entry of a folder, in git's order.
#[derive(Debug)]
pub(super) struct FolderEntry {
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
    pub(super) entries: Vec<FolderEntry>,
    /// Repository that has the folder, as in [`Tree::files`].
    pub(super) source: u32,
    pub(super) tree: ObjectId,
    pub(super) above: Option<u32>,
    pub(super) depth: u32,
}

/// A submodule whose content is listed.
#[derive(Debug)]
pub(super) struct ListedSubmodule {
    pub(super) content: SubmoduleCommit,
    /// The repository that has the submodule.
    pub(super) above: u32,
    /// Index of the submodule's root in the folders.
    pub(super) root: u32,
}

/// A listed tree.
#[derive(Debug)]
pub(super) struct Tree {
    /// The root is the first.
    pub(super) folders: Vec<WalkedFolder>,
    pub(super) conversions: Conversions,
    /// The submodules by the number of their repository, without the archived repository.
    pub(super) submodules: Vec<ListedSubmodule>,
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
            submodules: Vec::new(),
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
            source: 0,
            tree: ObjectId::null(HashKind::Sha1),
            above: None,
            depth: 0,
        });
        count(self.folders.len() - 1)
    }

    /// Returns the submodule that is repository `source`; `None` for 0, the archived one.
    pub(super) fn submodule(&self, source: u32) -> Option<&SubmoduleCommit> {
        let number = (source as usize).checked_sub(1)?;
        Some(&self.submodules[number].content)
    }

    /// Returns the commits of all repositories by their numbers. The first is `archived`.
    pub(super) fn commits(&self, archived: &Commit) -> Vec<Arc<Commit>> {
        let submodules = self.submodules.iter();
        let submodules = submodules.map(|submodule| Arc::clone(&submodule.content.commit));
        std::iter::once(Arc::new(archived.clone()))
            .chain(submodules)
            .collect()
    }

    /// Returns the files of repository `source`. Those of the archived one are `archived`.
    pub(super) fn files<'a>(
        &'a self,
        source: u32,
        archived: &'a dyn TreeSource,
    ) -> &'a dyn TreeSource {
        self.submodule(source)
            .map_or(archived, |submodule| &*submodule.files)
    }

    /// Returns the length of the path of a repository's root, in bytes.
    fn root_bytes(&self, source: u32) -> usize {
        self.folders[self.root_of(source) as usize].path.len()
    }

    /// Returns the index of a repository's root in the folders.
    pub(super) fn root_of(&self, source: u32) -> u32 {
        let number = (source as usize).checked_sub(1);
        number.map_or(0, |number| self.submodules[number].root)
    }

    /// Returns a path in the archive as one in its repository.
    pub(super) fn path_in<'p>(&self, source: u32, path: &'p str) -> &'p str {
        path[self.root_bytes(source)..].trim_start_matches('/')
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

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).expect("because four billion entries do not fit into memory")
}
