//! Files that an installation wrote.

use std::io;
use std::path::{Path, PathBuf};

use branchline_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::io_error;
use crate::invocation::Invocation;

/// Links and settings that installations wrote, and that are removed with them.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) links: Vec<RecordedLink>,
    pub(super) settings: Vec<RecordedSetting>,
}

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RecordedLink {
    pub(super) path: PathBuf,
    pub(super) target: PathBuf,
}

/// A setting in git's global configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RecordedSetting {
    pub(super) key: String,
    pub(super) value: String,
}

impl Record {
    /// Returns the path of the record.
    pub(super) fn path(invocation: &Invocation) -> Result<PathBuf> {
        let base = invocation.base_directory("XDG_STATE_HOME", ".local/state");
        let base = base.ok_or_else(|| {
            Error::new(ErrorKind::Config, "the home directory is not known")
                .with_hint("set HOME or XDG_STATE_HOME to an absolute path")
        })?;
        Ok(base.join("branchline/install.json"))
    }

    /// Reads the record; empty if there is none.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(io_error("reading", path, error)),
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            let message = format!("`{}` is not a record of an installation", path.display());
            Error::new(ErrorKind::Corrupt, message)
                .with_source(error)
                .with_hint("remove the file, and the links that it names")
        })
    }

    /// Writes the record; an empty one is removed.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        if *self == Self::default() {
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(io_error("removing", path, error))
                }
                _ => Ok(()),
            };
        }
        let directory = path.parent().expect("because the file has a name");
        std::fs::create_dir_all(directory)
            .map_err(|error| io_error("creating", directory, error))?;
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::new(ErrorKind::Internal, "the record").with_source(error))?;
        let written = path.with_extension("json.new");
        std::fs::write(&written, text).map_err(|error| io_error("writing", &written, error))?;
        std::fs::rename(&written, path).map_err(|error| io_error("writing", path, error))
    }
}
