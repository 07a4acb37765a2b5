//! Access to files that the standard library offers for each system alone.
//!
//! | file | system |
//! |---|---|
//! | `unix` | Linux, macOS |
//! | `windows` | Windows, where the access rights of the user's own directories protect files |

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::{
    HAS_ADVISORY_LOCKS, create_private_dir, file_stamp, free_bytes, is_private_dir, is_same_file,
    is_transient, only_for_this_user, open_without_link, sync_dir, write_all_at,
};
#[cfg(unix)]
pub use unix::{create_private_dirs, is_executable, read_exact_at, unnamed_file};
#[cfg(windows)]
pub(crate) use windows::{
    HAS_ADVISORY_LOCKS, create_private_dir, file_stamp, free_bytes, is_private_dir, is_same_file,
    is_transient, only_for_this_user, open_without_link, sync_dir, write_all_at,
};
#[cfg(windows)]
pub use windows::{create_private_dirs, is_executable, read_exact_at, unnamed_file};

/// Times, length and number of a file; another one if its content was replaced.
pub(crate) type FileStamp = (i64, i64, u64, u64);
