//! Plan of an archive from its listing.

use std::collections::HashMap;

use super::full_run::FullRun;
use super::listing::{NewEntry, NewListing, odd_differences};
use crate::archive::convert::{Conversion, UNCHANGED};
use crate::archive::listed_tree::{FolderEntry, Tree, WalkedEntry};
use crate::archive::plan::{ArchiveItem, ArchivePlan, PlannedContent, Planner, count};
use crate::archive::request::ArchiveRequest;
use crate::git::ObjectId;
use crate::git::object::EntryMode;

/// Plans the entries of `listing`, as a full run does. `substituted` has the blobs of the files
/// whose blobs the listing does not know, by path.
pub(super) fn new_plan(
    request: &ArchiveRequest,
    listing: &NewListing<'_>,
    substituted: &HashMap<String, ObjectId>,
) -> Result<(Tree, ArchivePlan), FullRun> {
    let mut builder = PlanBuilder {
        tree: Tree::from_other_source(),
        planner: Planner::default(),
        open: Vec::new(),
    };
    if request.prefix.ends_with('/') {
        builder.planner.plan.items.push(ArchiveItem::Prefix);
    }
    for &(path, entry) in &listing.entries {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if entry == NewEntry::BareFolder {
            builder.enter(path);
            continue;
        }
        let folder = builder.enter(parent);
        match entry {
            NewEntry::BareFolder | NewEntry::Hidden => {}
            NewEntry::Submodule => {
                let node = WalkedEntry::Submodule(unknown(request));
                let number = builder.add_entry(folder, name, node);
                let submodule = ArchiveItem::Submodule(folder, number);
                builder.planner.plan.items.push(submodule);
            }
            NewEntry::Kept(stored, mode) => {
                let node = WalkedEntry::Blob(mode, unknown(request), UNCHANGED);
                let number = builder.add_entry(folder, name, node);
                let reused = ArchiveItem::Reused(folder, number, stored);
                builder.planner.plan.items.push(reused);
            }
            NewEntry::Fetched(mode, blob, conversion) => {
                builder.add_file(folder, name, mode, blob, conversion);
            }
            NewEntry::Substituted(mode, conversion) => {
                let blob = *substituted.get(path).ok_or_else(odd_differences)?;
                builder.add_file(folder, name, mode, blob, conversion);
            }
        }
    }
    let plan = builder.planner.finish(&request.extra_files);
    Ok((builder.tree, plan))
}

/// Returns an id for entries whose blob is neither known nor needed.
fn unknown(request: &ArchiveRequest) -> ObjectId {
    ObjectId::null(request.commit.id.kind())
}

struct PlanBuilder {
    tree: Tree,
    planner: Planner,
    /// The folders that contain the last entry, below the root.
    open: Vec<u32>,
}

impl PlanBuilder {
    /// Adds the folders of `path` that are not open yet; returns the index of the last one.
    fn enter(&mut self, path: &str) -> u32 {
        let contains = |folder: &str| {
            path.strip_prefix(folder)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        while let Some(&last) = self.open.last()
            && !contains(&self.tree.folders[last as usize].path)
        {
            self.open.pop();
        }
        let (mut index, mut start) = match self.open.last() {
            Some(&last) => (last, self.tree.folders[last as usize].path.len() + 1),
            None => (0, 0),
        };
        while start < path.len() {
            let end = path[start..].find('/').map_or(path.len(), |at| start + at);
            index = self.tree.push_folder(&path[..end]);
            self.open.push(index);
            self.planner.plan.items.push(ArchiveItem::Folder(index));
            start = end + 1;
        }
        index
    }

    /// Adds an entry to the tree; returns its number.
    fn add_entry(&mut self, folder: u32, name: &str, node: WalkedEntry) -> u32 {
        let entries = &mut self.tree.folders[folder as usize].entries;
        entries.push(FolderEntry {
            name: name.into(),
            node,
            ignored: false,
        });
        count(entries.len() - 1)
    }

    /// Adds a file that is fetched.
    fn add_file(
        &mut self,
        folder: u32,
        name: &str,
        mode: EntryMode,
        blob: ObjectId,
        conversion: Conversion,
    ) {
        let conversion = self.tree.conversions.intern(conversion);
        let number = self.add_entry(folder, name, WalkedEntry::Blob(mode, blob, conversion));
        let content = PlannedContent {
            blob,
            mode,
            conversion,
            source: 0,
        };
        self.planner.add_file(folder, number, content);
    }
}
