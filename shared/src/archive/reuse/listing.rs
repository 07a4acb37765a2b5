//! The listing of a new commit: that of the previous archive, changed by the differences.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::directory::StoredEntry;
use super::full_run::{FullRun, damaged};
use super::previous_listing::{PreviousEntry, PreviousListing, TreePosition, is_valid_path};
use super::reader::EntryUse;
use super::record::EntrySum;
use super::tree_rules::{Treatment, TreeRules};
use crate::archive::convert::Conversion;
use crate::archive::request::ArchiveRequest;
use crate::codecommit::{Difference, DifferenceSide};
use crate::git::ObjectId;
use crate::git::object::EntryMode;

/// Source of an entry of the new archive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum NewEntry {
    /// Entry of the previous archive with this number.
    Kept(u32, EntryMode),
    /// A blob that is fetched.
    Fetched(EntryMode, ObjectId, Conversion),
    /// An unchanged file that depends on the commit; its blob is not known.
    Substituted(EntryMode, Conversion),
    Submodule,
    /// A folder below which the previous archive has nothing.
    BareFolder,
    /// Not archived, although its folder is.
    Hidden,
}

/// The entries of the new archive in order, without folders.
#[derive(Debug)]
pub(super) struct NewListing<'a> {
    pub(super) entries: Vec<(&'a str, NewEntry)>,
    /// Use of each entry of the previous archive.
    pub(super) uses: Vec<EntryUse>,
    /// Sum over the copied blobs.
    pub(super) copied: EntrySum,
    /// Sum over the new archive, without its bare folders and submodules.
    pub(super) sum: EntrySum,
    /// The commit has entries that are not archived.
    pub(super) hides: bool,
}

/// Rules of the two commits.
pub(super) struct BothRules {
    pub(super) before: TreeRules,
    /// Rules of the newer commit; `None` if they are the same.
    pub(super) after: Option<TreeRules>,
}

impl BothRules {
    fn after(&mut self) -> &mut TreeRules {
        self.after.as_mut().unwrap_or(&mut self.before)
    }
}

/// Applies differences to a previous listing.
struct Merge<'a, 'r> {
    request: &'a ArchiveRequest,
    rules: &'r mut BothRules,
    removed: HashMap<&'a str, (&'a DifferenceSide, bool)>,
    listing: NewListing<'a>,
    /// Files of the new archive that are fetched, and all files.
    fetched: usize,
    files: usize,
}

/// Computes the listing of the newer commit. `sum` is that of the previous archive, `hides`
/// says that its commit had entries that are not archived.
pub(super) fn merge<'a>(
    request: &'a ArchiveRequest,
    stored: &'a [StoredEntry],
    differences: &'a [Difference],
    rules: &mut BothRules,
    sum: EntrySum,
    hides: bool,
) -> Result<NewListing<'a>, FullRun> {
    let previous = PreviousListing::new(stored, &request.prefix, &request.extra_files, hides)?;
    let mut removed = HashMap::new();
    let mut added = BTreeMap::new();
    for difference in differences {
        let sides = [&difference.before, &difference.after];
        for side in sides.into_iter().flatten() {
            check_path(&side.path)?;
        }
        let before = difference.before.as_ref();
        let before = before.and_then(|side| removed.insert(side.path.as_str(), (side, false)));
        let after = difference.after.as_ref();
        let after = after.and_then(|side| added.insert(side.path.as_str(), side));
        if before.is_some() || after.is_some() {
            return Err(odd_differences());
        }
    }
    let mut sum = sum;
    sum.subtract(previous.bare);
    let mut merge = Merge {
        request,
        rules,
        removed,
        listing: NewListing {
            entries: Vec::with_capacity(previous.entries.len() + added.len()),
            uses: vec![EntryUse::Skip; stored.len()],
            copied: sum,
            sum,
            hides,
        },
        fetched: 0,
        files: 0,
    };
    let mut to_add = added.iter().peekable();
    for entry in &previous.entries {
        let position = entry.position();
        let is_before = |path: &str| {
            let is_folder = false;
            TreePosition { path, is_folder } < position
        };
        while let Some((path, side)) = to_add.next_if(|(path, _)| is_before(path)) {
            if matches!(entry, PreviousEntry::Unclear(unclear) if path > unclear) {
                return Err(FullRun::because(
                    "it is not clear where a new file is, because of files that are not archived",
                ));
            }
            merge.add(side)?;
        }
        match *entry {
            PreviousEntry::Folder(_) => {}
            PreviousEntry::Leaf(path, mode, number) => {
                merge.keep(path, mode, number)?;
            }
            PreviousEntry::Unclear(path) => merge.keep_unclear(path)?,
        }
    }
    for (_, side) in to_add {
        merge.add(side)?;
    }
    merge.check_removed()?;
    if merge.fetched * 2 > merge.files {
        return Err(FullRun::because("more than half of the files changed"));
    }
    let listing = merge.listing;
    check_folders(&listing, added.keys().copied())?;
    if hides {
        check_emptied(&previous, &listing)?;
    }
    Ok(listing)
}

impl<'a> Merge<'a, '_> {
    fn add(&mut self, side: &'a DifferenceSide) -> Result<(), FullRun> {
        let path = side.path.as_str();
        let found = find(self.rules.after(), side)?;
        let conversion = match found {
            Treatment::Archived(conversion) if !self.is_replaced(path) => conversion,
            Treatment::InIgnoredFolder => {
                self.listing.hides = true;
                return Ok(());
            }
            Treatment::Archived(_) | Treatment::Ignored => {
                self.listing.hides = true;
                self.listing.entries.push((path, NewEntry::Hidden));
                return Ok(());
            }
        };
        let entry = if side.mode == EntryMode::Commit {
            NewEntry::Submodule
        } else {
            self.fetched += 1;
            self.files += 1;
            self.listing.sum.add(sum_of(side, conversion));
            NewEntry::Fetched(side.mode, side.id, conversion)
        };
        self.listing.entries.push((path, entry));
        Ok(())
    }

    /// Keeps an entry of the previous archive unless it was removed.
    fn keep(&mut self, path: &'a str, mode: EntryMode, number: u32) -> Result<(), FullRun> {
        if let Some((side, is_found)) = self.removed.get_mut(path) {
            *is_found = true;
            let side = *side;
            let Treatment::Archived(conversion) = find(&mut self.rules.before, side)? else {
                return Err(odd_differences());
            };
            if side.mode != mode || self.is_replaced(path) {
                return Err(odd_differences());
            }
            if mode != EntryMode::Commit {
                let sum = sum_of(side, conversion);
                self.listing.sum.subtract(sum);
                self.listing.copied.subtract(sum);
            }
            return Ok(());
        }
        let Treatment::Archived(conversion) = find_at(&mut self.rules.before, path, mode)? else {
            return Err(damaged("it has a file that is not archived"));
        };
        if let Some(after) = &mut self.rules.after
            && find_at(after, path, mode)? != Treatment::Archived(conversion)
        {
            return Err(FullRun::because(
                "the attributes of unchanged files changed",
            ));
        }
        if mode == EntryMode::Commit {
            self.listing.entries.push((path, NewEntry::Submodule));
            return Ok(());
        }
        self.files += 1;
        let used = &mut self.listing.uses[number as usize];
        if conversion.is_identity() {
            let prefix = u32::try_from(self.request.prefix.len());
            let prefix = prefix.expect("because a name has at most 65,535 bytes");
            *used = EntryUse::CopyBlob(prefix);
        } else {
            self.listing.copied.subtract(EntrySum::of(path, mode, None));
            if conversion.substitutes() {
                self.fetched += 1;
                let entry = NewEntry::Substituted(mode, conversion);
                self.listing.entries.push((path, entry));
                return Ok(());
            }
            *used = EntryUse::Copy;
        }
        self.listing
            .entries
            .push((path, NewEntry::Kept(number, mode)));
        Ok(())
    }

    /// Keeps a submodule, or a folder whose entries are not archived.
    fn keep_unclear(&mut self, path: &'a str) -> Result<(), FullRun> {
        if let Some((side, is_found)) = self.removed.get_mut(path) {
            if side.mode != EntryMode::Commit {
                return Err(odd_differences());
            }
            *is_found = true;
            return Ok(());
        }
        let is_below = |below: &&str| is_below(below, path);
        if self.removed.keys().any(is_below) {
            return Err(FullRun::because(
                "files that are not archived were removed from a folder without others",
            ));
        }
        self.listing.entries.push((path, NewEntry::BareFolder));
        Ok(())
    }

    /// Checks that each removed entry was in the archive, or is not archived.
    fn check_removed(&mut self) -> Result<(), FullRun> {
        let removed = std::mem::take(&mut self.removed);
        for (path, (side, is_found)) in removed {
            if !is_found
                && !self.is_replaced(path)
                && matches!(find(&mut self.rules.before, side)?, Treatment::Archived(_))
            {
                return Err(odd_differences());
            }
        }
        Ok(())
    }

    /// Returns whether an extra file replaces the file at `path`.
    fn is_replaced(&self, path: &str) -> bool {
        let prefix = &self.request.prefix;
        let is_equal = |name: &str| name.strip_prefix(prefix.as_str()) == Some(path);
        self.request
            .extra_files
            .iter()
            .any(|file| is_equal(&file.path))
    }
}

fn find(rules: &mut TreeRules, side: &DifferenceSide) -> Result<Treatment, FullRun> {
    find_at(rules, &side.path, side.mode)
}

fn find_at(rules: &mut TreeRules, path: &str, mode: EntryMode) -> Result<Treatment, FullRun> {
    let found = rules.find(path, mode);
    found.map_err(|error| FullRun::after("the attributes cannot be read", error))
}

fn sum_of(side: &DifferenceSide, conversion: Conversion) -> EntrySum {
    let id = conversion.is_identity().then_some(side.id);
    EntrySum::of(&side.path, side.mode, id)
}

pub(super) fn odd_differences() -> FullRun {
    FullRun::because("the differences do not match the previous archive")
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.starts_with('/'))
}

/// Accepts the paths that a walk accepts. A full run names the entry that is not valid, and
/// finds out whether U+FFFD is part of a name.
fn check_path(path: &str) -> Result<(), FullRun> {
    if !is_valid_path(path) || path.contains('\u{fffd}') {
        return Err(FullRun::because("a changed path needs to be checked"));
    }
    Ok(())
}

/// Checks that no added path is a file and a folder.
fn check_folders<'p>(
    listing: &NewListing<'_>,
    added: impl Iterator<Item = &'p str>,
) -> Result<(), FullRun> {
    let entries = &listing.entries;
    let position_of = |entry: &(&str, NewEntry), sought: TreePosition<'_>| {
        let is_folder = matches!(entry.1, NewEntry::BareFolder);
        let path = entry.0;
        TreePosition { path, is_folder }.cmp(&sought)
    };
    for path in added {
        let inside = TreePosition {
            path,
            is_folder: true,
        };
        let at = entries.partition_point(|entry| position_of(entry, inside).is_lt());
        let contains_files = entries
            .get(at)
            .is_some_and(|(next, _)| is_below(next, path));
        let is_in_file = path.match_indices('/').any(|(end, _)| {
            let path = &path[..end];
            let file = TreePosition {
                path,
                is_folder: false,
            };
            entries
                .binary_search_by(|entry| position_of(entry, file))
                .is_ok()
        });
        if contains_files || is_in_file {
            return Err(odd_differences());
        }
    }
    Ok(())
}

/// Checks that no folder lost its last archived entry, because entries that are not archived
/// may still be in it.
fn check_emptied(previous: &PreviousListing<'_>, listing: &NewListing<'_>) -> Result<(), FullRun> {
    let mut folders: HashSet<&str> = HashSet::new();
    for (path, entry) in &listing.entries {
        if *entry == NewEntry::BareFolder {
            folders.insert(path);
        }
        for (end, _) in path.rmatch_indices('/') {
            if !folders.insert(&path[..end]) {
                break;
            }
        }
    }
    for entry in &previous.entries {
        if let PreviousEntry::Folder(path) = entry
            && !folders.contains(path)
        {
            return Err(FullRun::because(
                "a folder lost its last file, and may have others that are not archived",
            ));
        }
    }
    Ok(())
}
