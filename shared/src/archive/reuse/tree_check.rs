//! Computes the id of the tree that an archive contains, from the blobs that were copied and
//! fetched. It equals that of the commit only if no file is missing, outdated or too many.

use crate::archive::listed_tree::{Tree, WalkedEntry};
use crate::archive::plan::{ArchiveItem, ArchivePlan};
use crate::error::Result;
use crate::git::object::{EntryMode, ListedEntry, tree_id};
use crate::git::{HashKind, ObjectId};

/// Entries of a folder, and its index.
type OpenFolder = (u32, Vec<ListedEntry>);

/// Returns the id of the root's tree; `None` if the archive does not determine it. `copied` has
/// the blobs of the previous archive's entries, where they are known.
pub(super) fn root_id(
    tree: &Tree,
    plan: &ArchivePlan,
    hash: HashKind,
    copied: &[Option<ObjectId>],
) -> Result<Option<ObjectId>> {
    let path_of = |folder: u32| &*tree.folders[folder as usize].path;
    let close = |open: &mut Vec<OpenFolder>| -> Result<Option<ObjectId>> {
        let Some((folder, entries)) = open.pop() else {
            return Ok(None);
        };
        let id = tree_id(hash, &entries)?;
        if let Some((_, above)) = open.last_mut() {
            let path = path_of(folder);
            let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
            above.push(ListedEntry::new(name, EntryMode::Tree, id));
        }
        Ok(Some(id))
    };
    let mut open: Vec<OpenFolder> = vec![(0, Vec::new())];
    for item in &plan.items {
        let (folder, entry, copied) = match *item {
            ArchiveItem::Prefix | ArchiveItem::Extra(_) => continue,
            // The archive does not contain its commit.
            ArchiveItem::Submodule(..) => return Ok(None),
            ArchiveItem::Folder(folder) => {
                let above = path_of(folder)
                    .rsplit_once('/')
                    .map_or("", |(above, _)| above);
                while open.last().is_some_and(|(last, _)| path_of(*last) != above) {
                    close(&mut open)?;
                }
                open.push((folder, Vec::new()));
                continue;
            }
            ArchiveItem::File(folder, entry, _) => (folder, entry, None),
            ArchiveItem::Reused(folder, entry, number) => {
                let copied = copied.get(number as usize).copied().flatten();
                let Some(copied) = copied else {
                    return Ok(None);
                };
                (folder, entry, Some(copied))
            }
        };
        while open.last().is_some_and(|(last, _)| *last != folder) {
            close(&mut open)?;
        }
        let entry = &tree.folders[folder as usize].entries[entry as usize];
        if let WalkedEntry::Blob(mode, fetched, _) = entry.node
            && let Some((_, entries)) = open.last_mut()
        {
            let id = copied.unwrap_or(fetched);
            entries.push(ListedEntry::new(&*entry.name, mode, id));
        }
    }
    while open.len() > 1 {
        close(&mut open)?;
    }
    close(&mut open)
}
