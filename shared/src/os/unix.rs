//! Files on Unix.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::Path;

use rustix::io::Errno;

use super::FileStamp;

/// A locked file can be read by others.
pub(crate) const HAS_ADVISORY_LOCKS: bool = true;

/// Reads exactly as many bytes as `bytes` has, from `offset` on.
pub fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(bytes, offset)
}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Lets new files be accessible to this user only.
pub(crate) fn only_for_this_user(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

/// Creates a directory for this user only; one that exists is an error.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Creates a directory for this user only, with those above it.
pub fn create_private_dirs(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Returns whether a directory is owned by this user, and accessible to nobody else.
pub(crate) fn is_private_dir(found: &Metadata) -> bool {
    let is_ours = found.uid() == rustix::process::geteuid().as_raw();
    let of_others = found.mode() & 0o077;
    found.is_dir() && is_ours && of_others == 0
}

/// Opens a file for reading, but not the target of a symbolic link.
pub(crate) fn open_without_link(path: &Path) -> io::Result<File> {
    let no_links = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .custom_flags(no_links)
        .open(path)
}

/// Creates a file at `path` and removes its name, so that it ends with the process.
pub fn unnamed_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

/// Returns the number of bytes that are free on the disk of a directory.
pub(crate) fn free_bytes(directory: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(directory)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Returns whether a failure is transient: too many open files or too little memory.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    let transient = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR];
    Errno::from_io_error(error).is_some_and(|error| transient.contains(&error))
}

/// Returns whether both describe one file.
pub(crate) fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Returns the stamp of a file.
pub(crate) fn file_stamp(found: &Metadata) -> FileStamp {
    (found.mtime(), found.mtime_nsec(), found.size(), found.ino())
}

/// Returns whether a file is a program that its owner may run.
pub fn is_executable(found: &Metadata) -> bool {
    found.permissions().mode() & 0o100 != 0
}

/// Makes renames within a directory durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
