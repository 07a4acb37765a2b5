//! Durability of writes.

use std::fs::File;
use std::io;
use std::path::Path;

use super::error::{Context as _, Result};

/// Extent to which a completed write is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Survives a crash of the machine.
    #[default]
    Disk,
    /// Survives a crash of the process only. For temporary folders; small writes are many
    /// times as fast.
    System,
}

impl Durability {
    /// Makes a file's content durable.
    pub(super) fn file(self, file: &File) -> io::Result<()> {
        match self {
            Self::Disk => file.sync_data(),
            Self::System => Ok(()),
        }
    }

    /// Makes created, renamed and removed entries of a folder durable.
    pub(super) fn folder(self, folder: &Path) -> Result<()> {
        match self {
            Self::Disk => File::open(folder)
                .and_then(|folder| folder.sync_all())
                .context("synchronising a folder"),
            Self::System => Ok(()),
        }
    }
}
