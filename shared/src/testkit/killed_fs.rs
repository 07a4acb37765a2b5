//! A file system of a process that is killed.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::remote::local::{DurableFs, StdFs};

/// A file system on which every write fails after the first few, as if the process had been
/// killed there: what is on disk stays as it is.
#[derive(Debug, Clone)]
pub struct KilledFs {
    writes_left: Arc<AtomicU64>,
}

impl KilledFs {
    /// Allows `writes` writes.
    pub fn after(writes: u64) -> Self {
        Self {
            writes_left: Arc::new(AtomicU64::new(writes)),
        }
    }

    fn count_write(&self) -> io::Result<StdFs> {
        let one_less = |left: u64| left.checked_sub(1);
        self.writes_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
            .map(|_| StdFs)
            .map_err(|_| io::Error::other("killed"))
    }
}

impl DurableFs for KilledFs {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.count_write()?.create(path)
    }

    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        self.count_write()?.write(file, bytes)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.count_write()?.write_at(file, bytes, offset)
    }

    fn set_len(&self, file: &File, length: u64) -> io::Result<()> {
        self.count_write()?.set_len(file, length)
    }

    fn make_read_only(&self, file: &File) -> io::Result<()> {
        self.count_write()?.make_read_only(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.count_write()?.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.count_write()?.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.count_write()?.remove_dir(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.count_write()?.remove_dir_all(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.count_write()?.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.count_write()?.sync_dir(path)
    }
}
