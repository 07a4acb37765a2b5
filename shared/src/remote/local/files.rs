//! Reading a repository's files, and the error for a repository that cannot be used.

use std::fs;
use std::io;
use std::path::Path;

use super::durable_fs::io_error;
use crate::error::{Error, ErrorKind, Result};

/// Reads a file; `None` if missing.
pub(super) fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(io_error("reading", path, error)),
    }
}

pub(super) fn is_not_found(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}

/// The error for a repository that cannot be used; `what` continues "the repository at ..".
pub(super) fn config_error(path: &Path, what: &str) -> Error {
    let message = format!("the repository at `{}` {what}", path.display());
    Error::new(ErrorKind::Config, message)
}
