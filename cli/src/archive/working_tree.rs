//! The `.gitattributes` of a working tree (`--worktree-attributes`).

use std::path::PathBuf;

use branchline_core::archive::AttributesFiles;
use branchline_core::remote::url::RemoteUrl;
use branchline_core::{Error, ErrorKind, Result};
use bytes::Bytes;

/// Maximum size of a file, in bytes; git ignores a larger one (`ATTR_MAX_FILE_SIZE`).
const MAX_FILE_BYTES: u64 = 100 * 1024 * 1024;

/// The files of a working tree.
pub(super) struct WorkingTreeAttributes {
    /// Root of the working tree; `None` for a bare repository, which has no files.
    root: Option<PathBuf>,
}

impl WorkingTreeAttributes {
    /// Finds the working tree of a local repository.
    ///
    /// # Errors
    /// `Config` for the URL of another remote, which has none.
    pub(super) fn of(url: &RemoteUrl) -> Result<Self> {
        let RemoteUrl::Local(path) = url else {
            let message = format!("`--worktree-attributes`: `{url}` has no working tree");
            return Err(Error::new(ErrorKind::Config, message)
                .with_hint("name a repository on the disk, such as `.`"));
        };
        let root = if path.join(".git").exists() {
            Some(path.clone())
        } else if path.file_name().is_some_and(|name| name == ".git") {
            path.parent().map(PathBuf::from)
        } else {
            None
        };
        Ok(Self { root })
    }
}

impl AttributesFiles for WorkingTreeAttributes {
    fn read(&self, folder: &str) -> Result<Option<Bytes>> {
        let Some(root) = &self.root else {
            return Ok(None);
        };
        let path = root.join(folder).join(".gitattributes");
        // As by git, a symbolic link is not followed.
        let is_read = std::fs::symlink_metadata(&path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_FILE_BYTES);
        if !is_read {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).map_err(|error| {
            let message = format!("`{}` cannot be read", path.display());
            Error::new(ErrorKind::Config, message).with_source(error)
        })?;
        Ok(Some(bytes.into()))
    }
}
