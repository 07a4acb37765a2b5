//! The entries of an archive in order, computed from the listed tree before the first file is
//! fetched.

use std::collections::HashMap;

use super::convert::UNCHANGED;
pub(super) use super::listed_tree::count;
use super::listed_tree::{Tree, WalkedEntry};
use super::pathspec::PathSelection;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::EntryMode;

/// A file that is in the archive but not in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraFile {
    /// The whole path in the archive; the prefix is not added, as with git's
    /// `--add-virtual-file`.
    pub path: String,
    /// The content.
    pub bytes: bytes::Bytes,
    /// The file is executable.
    pub executable: bool,
}

impl ExtraFile {
    /// Returns the mode of the entry.
    pub(super) fn mode(&self) -> EntryMode {
        if self.executable {
            EntryMode::BlobExecutable
        } else {
            EntryMode::Blob
        }
    }
}

/// An entry of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArchiveItem {
    /// The folder that the prefix names.
    Prefix,
    /// A folder, by index in the tree.
    Folder(u32),
    /// Entry `1` of folder `0`: a submodule.
    Submodule(u32, u32),
    /// Entry `1` of folder `0`: a file or symbolic link, with the index of the content in
    /// [`ArchivePlan::contents`].
    File(u32, u32, u32),
    /// Entry `1` of folder `0`: a file or symbolic link whose compressed data is entry `2` of
    /// the previous archive.
    Reused(u32, u32, u32),
    /// An extra file, by index in the request.
    Extra(u32),
}

/// The content of a file: a blob, its mode and its conversion. Equal contents are fetched,
/// converted and compressed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PlannedContent {
    pub(super) blob: ObjectId,
    pub(super) mode: EntryMode,
    pub(super) conversion: u32,
    /// Repository that has the blob, as in [`Tree::files`].
    pub(super) source: u32,
}

/// The entries of an archive in order, and their distinct contents.
#[derive(Debug, Default)]
pub(super) struct ArchivePlan {
    pub(super) items: Vec<ArchiveItem>,
    pub(super) contents: Vec<PlannedContent>,
    /// Number of items that use each content.
    pub(super) uses: Vec<u32>,
    /// For each content, the next one of the same blob, in a ring.
    pub(super) siblings: Vec<u32>,
}

/// Orders the entries of `tree` as `git archive` does.
///
/// A folder is written before the first file or submodule below it, even when that one is
/// ignored: so an empty folder is not written, and one whose files are all ignored is.
pub(super) fn plan(
    tree: &Tree,
    prefix: &str,
    extra: &[ExtraFile],
    paths: &PathSelection,
) -> Result<ArchivePlan> {
    check_names(prefix, extra)?;
    let mut planner = Planner::default();
    if prefix.ends_with('/') {
        planner.plan.items.push(ArchiveItem::Prefix);
    }
    let selects = *paths != PathSelection::default();
    let mut used = Vec::new();
    // The open folders: index, next entry, whether the folder is written.
    let mut stack: Vec<(u32, usize, bool)> = vec![(0, 0, true)];
    while let Some((index, next, _)) = stack.last_mut() {
        let (index, at) = (*index, *next);
        let folder = &tree.folders[index as usize];
        let Some(entry) = folder.entries.get(at) else {
            stack.pop();
            continue;
        };
        *next += 1;
        if let WalkedEntry::Folder(_, below) = entry.node {
            if let Some(below) = below {
                stack.push((below, 0, false));
            }
            continue;
        }
        if selects && !paths.selects(&folder.join(&entry.name), &mut used) {
            continue;
        }
        for (folder, _, written) in &mut stack {
            if !*written {
                *written = true;
                planner.plan.items.push(ArchiveItem::Folder(*folder));
            }
        }
        if entry.ignored {
            continue;
        }
        let number = count(at);
        let (mode, blob, conversion) = match entry.node {
            WalkedEntry::Blob(mode, blob, conversion) => (mode, blob, conversion),
            WalkedEntry::Folder(..) | WalkedEntry::Submodule(_) => {
                let submodule = ArchiveItem::Submodule(index, number);
                planner.plan.items.push(submodule);
                continue;
            }
        };
        if !extra.is_empty() {
            let path = format!("{prefix}{}", folder.join(&entry.name));
            if extra.iter().any(|extra| extra.path == path) {
                continue;
            }
        }
        planner.add_file(
            index,
            number,
            PlannedContent {
                blob,
                mode,
                conversion,
                source: folder.source,
            },
        );
    }
    paths.check_used(&used)?;
    Ok(planner.finish(extra))
}

/// A plan that is being made.
#[derive(Debug, Default)]
pub(super) struct Planner {
    pub(super) plan: ArchivePlan,
    // The first content of each blob. The others follow in the ring of siblings.
    blobs: HashMap<ObjectId, u32>,
}

impl Planner {
    /// Adds entry `entry` of `folder`, which is fetched.
    pub(super) fn add_file(&mut self, folder: u32, entry: u32, mut content: PlannedContent) {
        if content.blob.is_empty_blob() {
            content.conversion = UNCHANGED;
        }
        let plan = &mut self.plan;
        let number = count(plan.contents.len());
        let first = *self.blobs.entry(content.blob).or_insert(number);
        let number = plan.find_sibling(first, content).unwrap_or_else(|| {
            plan.contents.push(content);
            plan.uses.push(0);
            plan.siblings.push(number);
            plan.siblings.swap(first as usize, number as usize);
            number
        });
        plan.uses[number as usize] += 1;
        plan.items.push(ArchiveItem::File(folder, entry, number));
    }

    /// Adds the extra files.
    pub(super) fn finish(mut self, extra: &[ExtraFile]) -> ArchivePlan {
        let extra = (0..count(extra.len())).map(ArchiveItem::Extra);
        self.plan.items.extend(extra);
        self.plan
    }
}

impl ArchivePlan {
    /// Finds `content` in the ring of contents of one blob that begins at `first`, which may not
    /// exist yet.
    fn find_sibling(&self, first: u32, content: PlannedContent) -> Option<u32> {
        let mut at = first;
        loop {
            if *self.contents.get(at as usize)? == content {
                return Some(at);
            }
            at = self.siblings[at as usize];
            if at == first {
                return None;
            }
        }
    }

    /// Returns the number of files and symbolic links.
    pub(super) fn files(&self) -> u64 {
        let is_file = |item: &&ArchiveItem| {
            matches!(
                item,
                ArchiveItem::File(..) | ArchiveItem::Reused(..) | ArchiveItem::Extra(_)
            )
        };
        self.items.iter().filter(is_file).count() as u64
    }

    /// Returns the number of files whose data is in the previous archive.
    pub(super) fn reused(&self) -> u64 {
        let is_reused = |item: &&ArchiveItem| matches!(item, ArchiveItem::Reused(..));
        self.items.iter().filter(is_reused).count() as u64
    }

    /// Returns the path of an item in the archive.
    pub(super) fn path(
        &self,
        number: usize,
        tree: &Tree,
        prefix: &str,
        extra: &[ExtraFile],
    ) -> String {
        let folder = |folder: u32| &tree.folders[folder as usize];
        let name = |folder: u32, entry: u32| {
            let folder = &tree.folders[folder as usize];
            folder.join(&folder.entries[entry as usize].name)
        };
        match self.items[number] {
            ArchiveItem::Prefix => prefix.to_owned(),
            ArchiveItem::Folder(index) => format!("{prefix}{}/", folder(index).path),
            ArchiveItem::Submodule(index, entry) => format!("{prefix}{}/", name(index, entry)),
            ArchiveItem::File(index, entry, _) | ArchiveItem::Reused(index, entry, _) => {
                format!("{prefix}{}", name(index, entry))
            }
            ArchiveItem::Extra(index) => extra[index as usize].path.clone(),
        }
    }
}

/// Rejects names that would unpack outside of the target folder.
pub(super) fn check_names(prefix: &str, extra: &[ExtraFile]) -> Result<()> {
    let prefix_ends = prefix.strip_suffix('/').unwrap_or(prefix);
    if !prefix.is_empty() && !is_inside(prefix_ends) {
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "the prefix `{}` must be a relative path",
                prefix.escape_debug()
            ),
        )
        .with_hint("give a prefix such as `name/`, without `..` and without a slash in front"));
    }
    for (number, file) in extra.iter().enumerate() {
        let is_duplicate = extra[..number].iter().any(|other| other.path == file.path);
        if is_duplicate || !is_inside(&file.path) {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "the path `{}` of an extra file must be relative and unique",
                    file.path.escape_debug()
                ),
            ));
        }
    }
    Ok(())
}

fn is_inside(path: &str) -> bool {
    !path.contains('\0')
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}
