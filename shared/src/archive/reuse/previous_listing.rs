//! The tree entries of a previous archive, from its directory.

use std::cmp::Ordering;

use super::directory::StoredEntry;
use super::full_run::{FullRun, damaged};
use super::record::EntrySum;
use crate::archive::plan::ExtraFile;
use crate::git::object::EntryMode;

/// An entry of a previous archive, by its path in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreviousEntry<'a> {
    /// A file, symbolic link or submodule, with its mode and the index of its entry.
    Leaf(&'a str, EntryMode, u32),
    /// A folder with archived entries.
    Folder(&'a str),
    /// A submodule, or a folder without archived entries.
    Unclear(&'a str),
}

/// Maximum depth of a path, as of a walked tree.
const MAX_DEPTH: usize = 2048;

/// Returns whether a walk accepts the names of a path.
pub(super) fn is_valid_path(path: &str) -> bool {
    let is_valid =
        |name: &str| !matches!(name, "" | "." | "..") && !name.eq_ignore_ascii_case(".git");
    !path.contains('\0') && path.split('/').all(is_valid) && path.split('/').count() <= MAX_DEPTH
}

/// Position of an entry in a traversal of a tree: a folder sorts as if its name ended in a
/// slash, a submodule as a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TreePosition<'a> {
    pub(super) path: &'a str,
    pub(super) is_folder: bool,
}

impl Ord for TreePosition<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let bytes = |position: Self| {
            let slash = position.is_folder.then_some(b'/');
            position.path.bytes().chain(slash)
        };
        bytes(*self).cmp(bytes(*other))
    }
}

impl PartialOrd for TreePosition<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The entries of a previous archive without its prefix and its extra files.
#[derive(Debug)]
pub(super) struct PreviousListing<'a> {
    pub(super) entries: Vec<PreviousEntry<'a>>,
    /// Sum over the folders and submodules below which nothing is archived.
    pub(super) bare: EntrySum,
    /// Number of files and symbolic links.
    pub(super) files: usize,
}

impl<'a> PreviousListing<'a> {
    /// Reads the entries of an archive with this prefix and these extra files. `hides` says
    /// that its commit had entries that are not archived.
    pub(super) fn new(
        stored: &'a [StoredEntry],
        prefix: &str,
        extra: &[ExtraFile],
        hides: bool,
    ) -> Result<Self, FullRun> {
        let mut first = 0;
        if prefix.ends_with('/') {
            first = 1;
            if stored.first().is_none_or(|entry| *entry.name != *prefix) {
                return Err(damaged("it has another prefix"));
            }
        }
        let last = stored.len().checked_sub(extra.len());
        let tree = last.and_then(|last| stored.get(first..last));
        let tree = tree.ok_or_else(|| damaged("it has too few entries"))?;
        let is_extra = |(entry, file): (&StoredEntry, &ExtraFile)| {
            entry.mode == EntryMode::Blob && *entry.name == *file.path
        };
        if !stored[first + tree.len()..].iter().zip(extra).all(is_extra) {
            return Err(damaged("its last files have other names"));
        }

        let mut listing = Self {
            entries: Vec::with_capacity(tree.len()),
            bare: EntrySum::default(),
            files: 0,
        };
        let mut before: Option<TreePosition<'_>> = None;
        for (at, entry) in tree.iter().enumerate() {
            let stripped = |entry: &'a StoredEntry| entry.name.strip_prefix(prefix);
            let odd = || {
                let name = entry.name.escape_debug();
                damaged(format!("`{name}` is not in its place"))
            };
            let name = stripped(entry)
                .filter(|name| !name.is_empty())
                .ok_or_else(odd)?;
            let next = tree.get(at + 1).and_then(stripped).unwrap_or_default();
            let path = name.trim_end_matches('/');
            let number = u32::try_from(first + at)
                .expect("because an archive below 4 GiB has fewer entries");
            let found = if entry.mode != EntryMode::Tree {
                listing.files += 1;
                PreviousEntry::Leaf(path, entry.mode, number)
            } else if next.starts_with(name) {
                PreviousEntry::Folder(path)
            } else {
                listing
                    .bare
                    .add(EntrySum::of(path, EntryMode::Commit, None));
                // Of the two positions that an unclear entry may have, only that of a
                // submodule is before `next`.
                let is_before = !next.is_empty() && next.trim_end_matches('/') < name;
                if !hides || is_before {
                    PreviousEntry::Leaf(path, EntryMode::Commit, number)
                } else {
                    PreviousEntry::Unclear(path)
                }
            };
            let is_folder = !matches!(found, PreviousEntry::Leaf(..));
            let position = TreePosition { path, is_folder };
            if !is_valid_path(path) || before.is_some_and(|before| before >= position) {
                return Err(odd());
            }
            // The smaller of the two positions of an unclear entry.
            before = Some(TreePosition {
                path,
                is_folder: matches!(found, PreviousEntry::Folder(_)),
            });
            listing.entries.push(found);
        }
        Ok(listing)
    }
}

impl<'a> PreviousEntry<'a> {
    /// Returns the path in the tree.
    pub(super) fn path(&self) -> &'a str {
        match self {
            Self::Leaf(path, ..) | Self::Folder(path) | Self::Unclear(path) => path,
        }
    }

    /// Returns the position in the tree; of an unclear entry that of a folder.
    pub(super) fn position(&self) -> TreePosition<'a> {
        TreePosition {
            path: self.path(),
            is_folder: !matches!(self, Self::Leaf(..)),
        }
    }
}
