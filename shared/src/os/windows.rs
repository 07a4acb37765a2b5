//! Files on Windows.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::windows::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::FileStamp;

/// A locked file cannot be read by others.
pub(crate) const HAS_ADVISORY_LOCKS: bool = false;

/// `FILE_FLAG_OPEN_REPARSE_POINT`: opens a link in place of its target.
const OPEN_REPARSE_POINT: u32 = 0x0020_0000;
/// `FILE_FLAG_DELETE_ON_CLOSE`.
const DELETE_ON_CLOSE: u32 = 0x0400_0000;
/// `GENERIC_READ`, `GENERIC_WRITE` and `DELETE`.
const READ_WRITE_DELETE: u32 = 0x8000_0000 | 0x4000_0000 | 0x0001_0000;
/// `ERROR_TOO_MANY_OPEN_FILES`.
const TOO_MANY_OPEN_FILES: i32 = 4;

/// Reads exactly as many bytes as `bytes` has, from `offset` on.
pub fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.seek_read(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.seek_write(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Lets new files have the rights of their directory, which is the user's own.
pub(crate) fn only_for_this_user(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

/// Creates a directory with the rights of the one above it; one that exists is an error.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().create(path)
}

/// Creates a directory with the rights of the one above it, and those above it.
pub fn create_private_dirs(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).create(path)
}

/// Returns whether this is a directory. Its rights are those of the directories above it.
pub(crate) fn is_private_dir(found: &Metadata) -> bool {
    found.is_dir()
}

/// Opens a file for reading, but not the target of a symbolic link.
pub(crate) fn open_without_link(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OPEN_REPARSE_POINT)
        .open(path)
}

/// Creates a file at `path` that is removed when it is closed.
pub fn unnamed_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .access_mode(READ_WRITE_DELETE)
        .custom_flags(DELETE_ON_CLOSE)
        .open(path)
}

/// Returns no limit, because the standard library does not read the free space of a disk.
#[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
pub(crate) fn free_bytes(_directory: &Path) -> io::Result<u64> {
    Ok(u64::MAX)
}

/// Returns whether a failure is transient: too many open files or too little memory.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::OutOfMemory
    ) || error.raw_os_error() == Some(TOO_MANY_OPEN_FILES)
}

/// Returns whether both may describe one file.
pub(crate) fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
    (one.creation_time(), one.file_size()) == (other.creation_time(), other.file_size())
}

/// Returns the stamp of a file.
pub(crate) fn file_stamp(found: &Metadata) -> FileStamp {
    let time = |ticks: u64| i64::try_from(ticks).unwrap_or(i64::MAX);
    let (written, created) = (found.last_write_time(), found.creation_time());
    (time(written), time(created), found.file_size(), 0)
}

/// Returns false, because the rights to a file do not tell programs from others.
pub fn is_executable(_found: &Metadata) -> bool {
    false
}

/// Does nothing, because directories are not opened as files.
#[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
pub(crate) fn sync_dir(_path: &Path) -> io::Result<()> {
    Ok(())
}
