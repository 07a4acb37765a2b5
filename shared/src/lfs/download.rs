//! The download of one object into a file below a repository's `lfs` directory. A large one that
//! ends early is continued by the next download.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;

use super::local::{TempFile, create_parent, failed, read_file};
use super::resumable::{MIN_RESUMABLE_BYTES, skip};
use super::{LfsBody, LfsStore, Pointer, verify_stream};
use crate::blocking::try_run;
use crate::error::{ErrorKind, Result};
use crate::os;

/// Downloads an object into a file of its own in `directory`/tmp, where `directory` is the
/// repository's `lfs`; returns its path. `count` is called with the number of bytes that arrived.
///
/// # Errors
/// `NotFound` for a missing object, `Corrupt` for one whose content does not match the pointer. A
/// file is left only of a large object whose transfer was interrupted, in `directory`/incomplete.
pub async fn download(
    store: &dyn LfsStore,
    pointer: &Pointer,
    directory: &Path,
    count: &(dyn Fn(u64) + Sync),
) -> Result<PathBuf> {
    let random: u128 = rand::random();
    let complete = directory.join("tmp");
    let complete = complete.join(format!("{}-{random:032x}", pointer.oid));
    if pointer.size_bytes >= MIN_RESUMABLE_BYTES {
        let path = directory.join("incomplete");
        let path = path.join(format!("{}.branchline", pointer.oid));
        if let Some(mut file) = PartialFile::claim(path).await? {
            let mut written = file.fill(store, pointer, count).await;
            // Its begin, which an earlier download left, may be wrong.
            if file.was_resumed && is_corrupt(&written) {
                file = file.truncate().await?;
                written = file.fill(store, pointer, count).await;
            }
            return match written {
                Ok(()) => file.publish(complete).await,
                Err(error) => {
                    if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Config) {
                        // Wrong content, or a full disk.
                        file.remove().await;
                    }
                    Err(error)
                }
            };
        }
    }
    let mut content = verify_stream(pointer, store.read(pointer).await?);
    let mut file = try_run(move || TempFile::create(complete)).await?;
    while let Some(bytes) = content.next().await.transpose()? {
        let size = bytes.len() as u64;
        file = try_run(move || file.push(&bytes)).await?;
        count(size);
    }
    Ok(file.keep())
}

fn is_corrupt(result: &Result<()>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::Corrupt)
}

/// The begin of an object, which one process at a time writes.
struct PartialFile {
    path: PathBuf,
    file: File,
    was_resumed: bool,
}

impl PartialFile {
    /// Opens the file, and locks it as long as it is open; `None` if another process has it, or if
    /// the file system has no locks.
    async fn claim(path: PathBuf) -> Result<Option<Self>> {
        if !os::HAS_ADVISORY_LOCKS {
            return Ok(None);
        }
        try_run(move || {
            create_parent(&path)?;
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            let file = options.open(&path).map_err(|error| failed(&path, error))?;
            if file.try_lock().is_err() {
                return Ok(None);
            }
            // Its last owner may have moved the file before the lock.
            let is_same = match (file.metadata(), fs::metadata(&path)) {
                (Ok(opened), Ok(named)) => os::is_same_file(&opened, &named),
                _ => false,
            };
            Ok(is_same.then_some(Self {
                path,
                file,
                was_resumed: false,
            }))
        })
        .await
    }

    /// Appends what is missing, after a check of all content.
    async fn fill(
        &mut self,
        store: &dyn LfsStore,
        pointer: &Pointer,
        count: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let position = self.file.metadata().map_or(0, |found| found.len());
        let position = position.min(pointer.size_bytes);
        self.was_resumed = position > 0;
        let rest = store.read_from(pointer, position).await?;
        let content: LfsBody = if self.was_resumed {
            count(position);
            Box::pin(read_file(self.path.clone(), 0).await?.chain(rest))
        } else {
            rest
        };
        let mut content = skip(verify_stream(pointer, content), position);
        let mut file = self.try_clone()?;
        let seek = file.seek(SeekFrom::Start(position));
        seek.map_err(|error| failed(&self.path, error))?;
        while let Some(bytes) = content.next().await.transpose()? {
            let (size, path) = (bytes.len() as u64, self.path.clone());
            file = try_run(move || {
                let written = file.write_all(&bytes);
                written.map_err(|error| failed(&path, error))?;
                Ok(file)
            })
            .await?;
            count(size);
        }
        Ok(())
    }

    fn try_clone(&self) -> Result<File> {
        let file = self.file.try_clone();
        file.map_err(|error| failed(&self.path, error))
    }

    async fn truncate(self) -> Result<Self> {
        try_run(move || {
            let truncated = self.file.set_len(0);
            truncated.map_err(|error| failed(&self.path, error))?;
            Ok(self)
        })
        .await
    }

    async fn publish(self, path: PathBuf) -> Result<PathBuf> {
        try_run(move || {
            create_parent(&path)?;
            let moved = fs::rename(&self.path, &path);
            moved.map_err(|error| failed(&path, error))?;
            Ok(path)
        })
        .await
    }

    async fn remove(self) {
        // The failure that led here is reported.
        let _ =
            try_run(move || fs::remove_file(&self.path).map_err(|e| failed(&self.path, e))).await;
    }
}
