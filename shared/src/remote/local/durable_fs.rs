//! Each change of the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
#[cfg(feature = "testkit")]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::error::{Error, ErrorKind};

/// Changes files. What has been renamed into place is on the disk for good.
#[derive(Debug, Clone, Default)]
pub struct DurableFs {
    #[cfg(feature = "testkit")]
    left: Option<Arc<AtomicU64>>,
}

/// The error for something that the disk did not do.
pub(super) fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::AccessDenied
        }
        _ => ErrorKind::Transport,
    };
    Error::new(kind, format!("{what} `{}`", path.display())).with_source(error)
}

impl DurableFs {
    /// A disk on which nothing more changes after that many changes: what a process that is
    /// killed there leaves behind.
    #[cfg(feature = "testkit")]
    pub fn failing_after(changes: u64) -> Self {
        Self {
            left: Some(Arc::new(AtomicU64::new(changes))),
        }
    }

    /// Whether the process is still alive.
    #[cfg(feature = "testkit")]
    fn step(&self) -> io::Result<()> {
        let Some(left) = &self.left else {
            return Ok(());
        };
        let one_less = |left: u64| left.checked_sub(1);
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
            .map(drop)
            .map_err(|_| io::Error::other("killed"))
    }

    #[cfg(not(feature = "testkit"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "tests need both"
    )]
    fn step(&self) -> io::Result<()> {
        Ok(())
    }

    /// Creates a file that must not be there.
    pub(super) fn create(&self, path: &Path) -> io::Result<File> {
        self.step()?;
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
    }

    pub(super) fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        self.step()?;
        file.write_all(bytes)
    }

    pub(super) fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.step()?;
        std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
    }

    pub(super) fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        self.step()?;
        file.set_len(length)
    }

    pub(super) fn make_read_only(&self, file: &File) -> io::Result<()> {
        self.step()?;
        let mut permissions = file.metadata()?.permissions();
        permissions.set_readonly(true);
        file.set_permissions(permissions)
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        fs::rename(from, to)
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        fs::remove_file(path)
    }

    pub(super) fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        fs::remove_dir(path)
    }

    pub(super) fn remove_all(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        fs::remove_dir_all(path)
    }

    pub(super) fn create_folders(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        fs::create_dir_all(path)
    }

    /// Makes sure that what was renamed within a folder survives the machine.
    pub(super) fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        File::open(path)?.sync_all()
    }
}
