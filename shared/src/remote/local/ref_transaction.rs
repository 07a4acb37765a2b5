//! Updates of refs as git makes them: under locks, each only if the ref still has the value
//! that was read.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bstr::{BString, ByteSlice as _};

use super::durable_fs::{DurableFs, io_error};
use super::files::{is_not_found, read_file};
use super::git_dir::GitDir;
use super::refs::{self, LooseRef, PackedRefs};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::dumb_http::write_head;
use crate::remote::{Head, RefOutcome, RefUpdate, Refs, Snapshot, conflicting_ref};

/// A `<name>.lock` file, git's lock for the file `<name>`. Removed on drop.
struct RefLock<'a> {
    fs: &'a dyn DurableFs,
    path: PathBuf,
    file: File,
    held: bool,
}

/// Reason why a lock was not acquired.
enum LockError {
    /// A file of another ref has the name of a needed directory, or the reverse (D/F conflict).
    DirFileConflict,
    Failed(Error),
}

impl<'a> RefLock<'a> {
    fn acquire(fs: &'a dyn DurableFs, target: &Path) -> std::result::Result<Self, LockError> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        let path = target.with_file_name(name);
        // Twice, because git may remove the directory while it is empty.
        for is_last in [false, true] {
            if let Some(directory) = path.parent() {
                match fs.create_dir_all(directory) {
                    Err(error) if is_dir_file_conflict(&error) => {
                        return Err(LockError::DirFileConflict);
                    }
                    Err(error) => {
                        return Err(LockError::Failed(io_error("creating", directory, error)));
                    }
                    Ok(()) => {}
                }
            }
            match fs.create(&path) {
                Ok(file) => {
                    return Ok(Self {
                        fs,
                        path,
                        file,
                        held: true,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let message = format!("`{}` is locked", target.display());
                    let hint = format!(
                        "another git process uses the repository; if none does, remove `{}`",
                        path.display()
                    );
                    return Err(LockError::Failed(
                        Error::new(ErrorKind::Conflict, message).with_hint(hint),
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && !is_last => {}
                Err(error) => return Err(LockError::Failed(io_error("creating", &path, error))),
            }
        }
        let message = format!("`{}` cannot be locked", target.display());
        Err(LockError::Failed(Error::new(ErrorKind::Conflict, message)))
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.fs
            .write(&self.file, bytes)
            .and_then(|()| self.file.sync_all())
            .map_err(|error| io_error("writing", &self.path, error))
    }

    /// Replaces `target` by what was written.
    fn commit(mut self, target: &Path) -> io::Result<()> {
        self.fs.rename(&self.path, target)?;
        self.held = false;
        Ok(())
    }
}

impl Drop for RefLock<'_> {
    fn drop(&mut self) {
        if self.held {
            // Ignored: the next writer reports the stale lock.
            let _ = self.fs.remove_file(&self.path);
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

/// A change, and its rejection if already known.
type CheckedUpdate = (RefUpdate, Option<RefOutcome>);

/// Updates refs and `snapshot`. Deletions go first, because deleted refs may conflict with
/// others.
///
/// # Errors
/// `Conflict` if a ref has moved or is locked; other refs may have been updated.
pub(super) fn update_refs(
    fs: &dyn DurableFs,
    git_dir: &GitDir,
    changes: Vec<CheckedUpdate>,
    snapshot: &mut Snapshot,
) -> Result<Vec<(BString, RefOutcome)>> {
    let mut refs = refs::read(&git_dir.common, git_dir.hash)?;
    let checked_out: Vec<BString> = if git_dir.deny_current {
        git_dir.checked_out()?
    } else {
        Vec::new()
    };
    let rejection = |change: &RefUpdate| -> Option<RefOutcome> {
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
    let changes: Vec<CheckedUpdate> = changes
        .into_iter()
        .map(|(change, rejected)| {
            let rejected = rejected.or_else(|| rejection(&change));
            (change, rejected)
        })
        .collect();
    let deletions = changes
        .iter()
        .filter(|(change, rejected)| rejected.is_none() && change.new.is_none())
        .map(|(change, _)| change);
    delete(
        fs,
        git_dir,
        &deletions.collect::<Vec<_>>(),
        &mut refs.targets,
    )?;
    let mut packed = PackedRefs::default();
    let mut outcomes = Vec::with_capacity(changes.len());
    for (change, rejected) in changes {
        let outcome = match (rejected, change.new) {
            (Some(rejected), _) => rejected,
            (None, None) => RefOutcome::Done,
            (None, Some(new)) => set(fs, git_dir, &change, new.id, &mut refs.targets, &mut packed)?,
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

fn path_of(git_dir: &GitDir, name: &BString) -> PathBuf {
    git_dir.common.join(name.to_path_lossy())
}

/// Reads the current value of a ref: loose, else packed.
fn current(git_dir: &GitDir, name: &BString, packed: &Refs) -> Result<Option<ObjectId>> {
    match refs::loose(&git_dir.common, name, git_dir.hash)? {
        LooseRef::Id(id) => Ok(Some(id)),
        LooseRef::Symbolic(_) => Err(stale_rejection(name)),
        LooseRef::Absent => Ok(packed.get(name).map(|target| target.id)),
    }
}

fn stale_rejection(name: &BString) -> Error {
    let message = format!("another writer changed `{name}`");
    Error::new(ErrorKind::Conflict, message)
}

/// Creates or moves one ref.
fn set(
    fs: &dyn DurableFs,
    git_dir: &GitDir,
    change: &RefUpdate,
    new: ObjectId,
    refs: &mut Refs,
    packed: &mut PackedRefs,
) -> Result<RefOutcome> {
    let name = &change.name;
    let rejected = |refs: &Refs| {
        // Git's message.
        let other = conflicting_ref(refs, name.as_ref());
        let other = other.map_or_else(String::new, |other| format!("'{other}' exists; "));
        let reason = format!("cannot lock ref '{name}': {other}cannot create '{name}'");
        Ok(RefOutcome::Rejected(reason))
    };
    if conflicting_ref(refs, name.as_ref()).is_some() {
        return rejected(refs);
    }
    let path = path_of(git_dir, name);
    let lock = match RefLock::acquire(fs, &path) {
        Ok(lock) => lock,
        Err(LockError::DirFileConflict) => return rejected(refs),
        Err(LockError::Failed(error)) => return Err(error),
    };
    if current(
        git_dir,
        name,
        packed.current(&git_dir.common, git_dir.hash)?,
    )? != change.old
    {
        return Err(stale_rejection(name));
    }
    lock.write(format!("{new}\n").as_bytes())?;
    if path.is_dir() {
        // Empty directories do not conflict with a ref.
        remove_empty_below(fs, &path);
    }
    match lock.commit(&path) {
        Ok(()) => {}
        Err(error) if is_dir_file_conflict(&error) => return rejected(refs),
        Err(error) => return Err(io_error("writing", &path, error)),
    }
    let target = crate::remote::RefValue {
        id: new,
        peeled: None,
    };
    refs.insert(name.clone(), target);
    Ok(RefOutcome::Done)
}

fn remove_empty_below(fs: &dyn DurableFs, directory: &Path) {
    if let Ok(entries) = fs::read_dir(directory) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_empty_below(fs, &entry.path());
            }
        }
    }
    // Ignored, because a directory that is not empty stays.
    let _ = fs.remove_dir(directory);
}

/// Deletes refs, from `packed-refs` first: else removing a loose ref would expose an older
/// packed value.
fn delete(
    fs: &dyn DurableFs,
    git_dir: &GitDir,
    changes: &[&RefUpdate],
    refs: &mut Refs,
) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut locks = Vec::new();
    for change in changes {
        let path = path_of(git_dir, &change.name);
        match RefLock::acquire(fs, &path) {
            Ok(lock) => locks.push((path, lock)),
            // A loose ref of that name cannot exist: the ref can only be packed.
            Err(LockError::DirFileConflict) => {}
            Err(LockError::Failed(error)) => return Err(error),
        }
    }
    let packed_path = git_dir.common.join("packed-refs");
    let packed_lock = RefLock::acquire(fs, &packed_path).map_err(|error| match error {
        LockError::Failed(error) => error,
        LockError::DirFileConflict => stale_rejection(&BString::from("packed-refs")),
    })?;
    let packed = refs::packed(&git_dir.common, git_dir.hash)?;
    for change in changes {
        if current(git_dir, &change.name, &packed)? != change.old {
            return Err(stale_rejection(&change.name));
        }
    }
    let names: BTreeSet<&BString> = changes.iter().map(|change| &change.name).collect();
    if names.iter().any(|name| packed.contains_key(*name)) {
        rewrite_packed(fs, &packed_path, &names)?;
    }
    drop(packed_lock);
    for change in changes {
        let path = path_of(git_dir, &change.name);
        match fs.remove_file(&path) {
            Ok(()) => {}
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(io_error("removing", &path, error)),
        }
        refs.remove(&change.name);
    }
    let directories: Vec<PathBuf> = locks.iter().map(|(path, _)| path.clone()).collect();
    drop(locks);
    for path in directories {
        remove_empty_above(fs, git_dir, &path);
    }
    Ok(())
}

/// Rewrites `packed-refs` without these refs; the caller holds the lock.
fn rewrite_packed(fs: &dyn DurableFs, path: &Path, names: &BTreeSet<&BString>) -> Result<()> {
    let text = read_file(path)?.unwrap_or_default();
    let mut out = Vec::with_capacity(text.len());
    let mut is_deleted = false;
    for line in text.lines_with_terminator() {
        if !line.starts_with(b"^") {
            let name = line.split_once_str(" ").map(|(_, name)| name.trim_end());
            is_deleted = !line.starts_with(b"#")
                && name.is_some_and(|name| names.contains(&BString::from(name)));
        }
        if !is_deleted {
            out.extend_from_slice(line);
        }
    }
    // Git's name for it. A leftover is removed, because only the holder of the lock uses it.
    let new = path.with_file_name("packed-refs.new");
    let _ = fs::remove_file(&new);
    fs.create(&new)
        .and_then(|file| {
            fs.write(&file, &out)?;
            file.sync_all()
        })
        .and_then(|()| fs.rename(&new, path))
        .map_err(|error| io_error("writing", path, error))
}

/// Removes the empty directories above a ref, except those that every repository has.
fn remove_empty_above(fs: &dyn DurableFs, git_dir: &GitDir, path: &Path) {
    let refs = git_dir.common.join("refs");
    let keep = [
        refs.join("heads"),
        refs.join("tags"),
        refs.clone(),
        git_dir.common.clone(),
    ];
    let mut at = path.parent();
    while let Some(directory) = at.filter(|directory| !keep.iter().any(|kept| kept == directory)) {
        if fs.remove_dir(directory).is_err() {
            return;
        }
        at = directory.parent();
    }
}

/// Writes `HEAD`.
pub(super) fn set_head(fs: &dyn DurableFs, git_dir: &GitDir, head: &Head) -> Result<()> {
    let path = git_dir.git.join("HEAD");
    let lock = RefLock::acquire(fs, &path).map_err(|error| match error {
        LockError::Failed(error) => error,
        LockError::DirFileConflict => stale_rejection(&BString::from("HEAD")),
    })?;
    lock.write(&write_head(head))?;
    lock.commit(&path)
        .map_err(|error| io_error("writing", &path, error))
}
