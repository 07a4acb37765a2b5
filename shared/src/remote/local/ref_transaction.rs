//! Refs changed as git changes them: under locks, each if it still is what was read.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bstr::{BStr, BString, ByteSlice as _};

use super::durable_fs::{DurableFs, failed};
use super::git_dir::{GitDir, is_not_found, read_file};
use super::refs::{self, LooseRef, PackedRefs};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::dumb_http::write_head;
use crate::remote::{Head, RefOutcome, RefUpdate, Refs, Snapshot};

/// A file `<name>.lock`: nobody else changes the file of that name meanwhile.
struct RefLock<'a> {
    disk: &'a DurableFs,
    path: PathBuf,
    file: File,
    held: bool,
}

/// Why there is no lock.
enum NoLock {
    /// The name is in the way of another, or the other way round.
    InTheWay,
    Failed(Error),
}

impl<'a> RefLock<'a> {
    fn take(disk: &'a DurableFs, target: &Path) -> std::result::Result<Self, NoLock> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        let path = target.with_file_name(name);
        // Twice, because someone may remove the folder that was empty.
        for is_last in [false, true] {
            if let Some(folder) = path.parent() {
                match disk.create_folders(folder) {
                    Err(error) if is_dir_file_conflict(&error) => return Err(NoLock::InTheWay),
                    Err(error) => {
                        return Err(NoLock::Failed(failed("creating", folder, error)));
                    }
                    Ok(()) => {}
                }
            }
            match disk.create(&path) {
                Ok(file) => {
                    return Ok(Self {
                        disk,
                        path,
                        file,
                        held: true,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let message = format!("`{}` is locked", target.display());
                    let hint = format!(
                        "another git process works here; if there is none, remove `{}`",
                        path.display()
                    );
                    return Err(NoLock::Failed(
                        Error::new(ErrorKind::Conflict, message).with_hint(hint),
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && !is_last => {}
                Err(error) => return Err(NoLock::Failed(failed("creating", &path, error))),
            }
        }
        let message = format!("`{}` cannot be locked", target.display());
        Err(NoLock::Failed(Error::new(ErrorKind::Conflict, message)))
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.disk
            .write(&self.file, bytes)
            .and_then(|()| self.file.sync_all())
            .map_err(|error| failed("writing", &self.path, error))
    }

    /// Makes what was written the file's content.
    fn commit(mut self, target: &Path) -> io::Result<()> {
        self.disk.rename(&self.path, target)?;
        self.held = false;
        Ok(())
    }
}

impl Drop for RefLock<'_> {
    fn drop(&mut self) {
        if self.held {
            // Nothing more can be done about it here.
            let _ = self.disk.remove(&self.path);
        }
    }
}

fn is_dir_file_conflict(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotADirectory
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::DirectoryNotEmpty
    )
}

/// A change, and why it is refused already.
type Checked = (RefUpdate, Option<RefOutcome>);

/// Changes refs: first those that are deleted, which may be in the way of others.
///
/// # Errors
/// `Conflict` when a ref is not what it was, or is locked; others may have been changed.
pub(super) fn change(
    disk: &DurableFs,
    layout: &GitDir,
    changes: Vec<Checked>,
    snapshot: &mut Snapshot,
) -> Result<Vec<(BString, RefOutcome)>> {
    let mut refs = refs::read(&layout.common, layout.hash)?;
    let checked_out: Vec<BString> = if layout.deny_current {
        layout.checked_out()?
    } else {
        Vec::new()
    };
    let refuse = |change: &RefUpdate| -> Option<RefOutcome> {
        let reason = if checked_out.contains(&change.name) {
            match change.new {
                Some(_) => "branch is currently checked out",
                None => "deletion of the current branch prohibited",
            }
        } else if refs.symbolic.contains_key(&change.name) {
            "it is a symbolic ref"
        } else {
            return None;
        };
        Some(RefOutcome::Rejected(reason.to_owned()))
    };
    let changes: Vec<Checked> = changes
        .into_iter()
        .map(|(change, refused)| {
            let refused = refused.or_else(|| refuse(&change));
            (change, refused)
        })
        .collect();
    let deletions = changes
        .iter()
        .filter(|(change, refused)| refused.is_none() && change.new.is_none())
        .map(|(change, _)| change);
    delete(
        disk,
        layout,
        &deletions.collect::<Vec<_>>(),
        &mut refs.targets,
    )?;
    let mut packed = PackedRefs::default();
    let mut outcomes = Vec::with_capacity(changes.len());
    for (change, refused) in changes {
        let outcome = match (refused, change.new) {
            (Some(refused), _) => refused,
            (None, None) => RefOutcome::Done,
            (None, Some(new)) => set(
                disk,
                layout,
                &change,
                new.id,
                &mut refs.targets,
                &mut packed,
            )?,
        };
        if outcome == RefOutcome::Done {
            match change.new {
                Some(new) => snapshot.refs.insert(change.name.clone(), new),
                None => snapshot.refs.remove(&change.name),
            };
        }
        outcomes.push((change.name, outcome));
    }
    Ok(outcomes)
}

fn path_of(layout: &GitDir, name: &BString) -> PathBuf {
    layout.common.join(name.to_path_lossy())
}

/// What a ref is now, given what is packed.
fn current(layout: &GitDir, name: &BString, packed: &Refs) -> Result<Option<ObjectId>> {
    match refs::loose(&layout.common, name, layout.hash)? {
        LooseRef::Id(id) => Ok(Some(id)),
        LooseRef::Symbolic(_) => Err(stale_rejection(name)),
        LooseRef::Absent => Ok(packed.get(name).map(|target| target.id)),
    }
}

fn stale_rejection(name: &BString) -> Error {
    let message = format!("`{name}` was changed by someone else");
    Error::new(ErrorKind::Conflict, message)
}

/// Which other ref is in the way of a name.
fn conflicting_ref(refs: &Refs, name: &BString) -> Option<BString> {
    let ends = name.find_iter("/").collect::<Vec<_>>();
    let above = ends
        .into_iter()
        .map(|end| name[..end].as_bstr())
        .find(|part| refs.contains_key::<BStr>(part));
    let folder: BString = [name.as_slice(), b"/"].concat().into();
    above.map(ToOwned::to_owned).or_else(|| {
        let (first, _) = refs.range(folder.clone()..).next()?;
        first.starts_with(&folder).then(|| first.clone())
    })
}

fn set(
    disk: &DurableFs,
    layout: &GitDir,
    change: &RefUpdate,
    new: ObjectId,
    refs: &mut Refs,
    packed: &mut PackedRefs,
) -> Result<RefOutcome> {
    let name = &change.name;
    let refused = |refs: &Refs| {
        // In git's words.
        let other = conflicting_ref(refs, name);
        let other = other.map_or_else(String::new, |other| format!("'{other}' exists; "));
        let reason = format!("cannot lock ref '{name}': {other}cannot create '{name}'");
        Ok(RefOutcome::Rejected(reason))
    };
    if conflicting_ref(refs, name).is_some() {
        return refused(refs);
    }
    let path = path_of(layout, name);
    let lock = match RefLock::take(disk, &path) {
        Ok(lock) => lock,
        Err(NoLock::InTheWay) => return refused(refs),
        Err(NoLock::Failed(error)) => return Err(error),
    };
    if current(layout, name, packed.now(&layout.common, layout.hash)?)? != change.old {
        return Err(stale_rejection(name));
    }
    lock.write(format!("{new}\n").as_bytes())?;
    if path.is_dir() {
        // Folders without refs are no names.
        remove_empty_below(disk, &path);
    }
    match lock.commit(&path) {
        Ok(()) => {}
        Err(error) if is_dir_file_conflict(&error) => return refused(refs),
        Err(error) => return Err(failed("writing", &path, error)),
    }
    let target = crate::remote::RefTarget {
        id: new,
        peeled: None,
    };
    refs.insert(name.clone(), target);
    Ok(RefOutcome::Done)
}

fn remove_empty_below(disk: &DurableFs, folder: &Path) {
    if let Ok(entries) = fs::read_dir(folder) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_empty_below(disk, &entry.path());
            }
        }
    }
    // One that is not empty stays.
    let _ = disk.remove_folder(folder);
}

/// Deletes refs: from the packed ones first, so that no older value comes to light.
fn delete(
    disk: &DurableFs,
    layout: &GitDir,
    changes: &[&RefUpdate],
    refs: &mut Refs,
) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut locks = Vec::new();
    for change in changes {
        let path = path_of(layout, &change.name);
        match RefLock::take(disk, &path) {
            Ok(lock) => locks.push((path, lock)),
            // There is no file of that name, and none can be made: it can only be packed.
            Err(NoLock::InTheWay) => {}
            Err(NoLock::Failed(error)) => return Err(error),
        }
    }
    let packed_path = layout.common.join("packed-refs");
    let packed_lock = RefLock::take(disk, &packed_path).map_err(|error| match error {
        NoLock::Failed(error) => error,
        NoLock::InTheWay => stale_rejection(&BString::from("packed-refs")),
    })?;
    let packed = refs::packed(&layout.common, layout.hash)?;
    for change in changes {
        if current(layout, &change.name, &packed)? != change.old {
            return Err(stale_rejection(&change.name));
        }
    }
    let names: BTreeSet<&BString> = changes.iter().map(|change| &change.name).collect();
    if names.iter().any(|name| packed.contains_key(*name)) {
        rewrite_packed(disk, &packed_path, &names)?;
    }
    drop(packed_lock);
    for change in changes {
        let path = path_of(layout, &change.name);
        match disk.remove(&path) {
            Ok(()) => {}
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(failed("removing", &path, error)),
        }
        refs.remove(&change.name);
    }
    let folders: Vec<PathBuf> = locks.iter().map(|(path, _)| path.clone()).collect();
    drop(locks);
    for path in folders {
        remove_empty_above(disk, layout, &path);
    }
    Ok(())
}

/// Writes the packed refs anew without some; the caller has the lock.
fn rewrite_packed(disk: &DurableFs, path: &Path, names: &BTreeSet<&BString>) -> Result<()> {
    let text = read_file(path)?.unwrap_or_default();
    let mut out = Vec::with_capacity(text.len());
    let mut is_gone = false;
    for line in text.lines_with_terminator() {
        if !line.starts_with(b"^") {
            let name = line.split_once_str(" ").map(|(_, name)| name.trim_end());
            is_gone = !line.starts_with(b"#")
                && name.is_some_and(|name| names.contains(&BString::from(name)));
        }
        if !is_gone {
            out.extend_from_slice(line);
        }
    }
    // Git's name for it; what another one left over there is of no use to anyone.
    let new = path.with_file_name("packed-refs.new");
    let _ = fs::remove_file(&new);
    disk.create(&new)
        .and_then(|file| {
            disk.write(&file, &out)?;
            file.sync_all()
        })
        .and_then(|()| disk.rename(&new, path))
        .map_err(|error| failed("writing", path, error))
}

/// Removes the folders above a ref that are empty now, but those that git always has.
fn remove_empty_above(disk: &DurableFs, layout: &GitDir, path: &Path) {
    let refs = layout.common.join("refs");
    let keep = [
        refs.join("heads"),
        refs.join("tags"),
        refs.clone(),
        layout.common.clone(),
    ];
    let mut at = path.parent();
    while let Some(folder) = at.filter(|folder| !keep.iter().any(|kept| kept == folder)) {
        if disk.remove_folder(folder).is_err() {
            return;
        }
        at = folder.parent();
    }
}

/// Sets `HEAD`.
pub(super) fn set_head(disk: &DurableFs, layout: &GitDir, head: &Head) -> Result<()> {
    let path = layout.git.join("HEAD");
    let lock = RefLock::take(disk, &path).map_err(|error| match error {
        NoLock::Failed(error) => error,
        NoLock::InTheWay => stale_rejection(&BString::from("HEAD")),
    })?;
    lock.write(&write_head(head))?;
    lock.commit(&path)
        .map_err(|error| failed("writing", &path, error))
}
