//! LFS objects in a repository's directory, where git-lfs stores them.

use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind as IoKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::{LfsBody, LfsStore, Pointer, missing_object};
use crate::blocking::try_run;
use crate::error::{Error, ErrorKind, Result};

/// Bytes of a file that are read at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// LFS objects of a repository on disk.
#[derive(Debug, Clone)]
pub struct LocalLfs {
    directory: PathBuf,
}

impl LocalLfs {
    /// Makes the store of the repository with this gitdir (`.git`, or a bare repository),
    /// without reading it.
    pub fn new(gitdir: impl Into<PathBuf>) -> Self {
        Self {
            directory: gitdir.into().join("lfs"),
        }
    }

    fn path(&self, pointer: &Pointer) -> PathBuf {
        self.directory.join("objects").join(pointer.path())
    }
}

impl fmt::Display for LocalLfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.directory.display().fmt(f)
    }
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        IoKind::PermissionDenied | IoKind::ReadOnlyFilesystem => ErrorKind::AccessDenied,
        IoKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Config,
    };
    let message = format!("`{}` cannot be read or written", path.display());
    Error::new(kind, message).with_source(error)
}

#[async_trait]
impl LfsStore for LocalLfs {
    async fn missing(&self, pointers: &[Pointer]) -> Result<Vec<Pointer>> {
        let (store, pointers) = (self.clone(), pointers.to_vec());
        try_run(move || {
            let is_stored = |pointer: &Pointer| {
                let found = fs::metadata(store.path(pointer));
                found.is_ok_and(|found| found.is_file() && found.len() == pointer.size_bytes)
            };
            let missing = pointers.into_iter().filter(|pointer| !is_stored(pointer));
            Ok(missing.collect())
        })
        .await
    }

    async fn read(&self, pointer: &Pointer) -> Result<LfsBody> {
        let path = self.path(pointer);
        let opened = {
            let path = path.clone();
            try_run(move || File::open(&path).map_err(|error| failed(&path, error))).await
        };
        let file = opened.map_err(|error| match error.kind() {
            ErrorKind::NotFound => missing_object(pointer, self).with_source(error),
            _ => error,
        })?;
        Ok(Box::pin(stream::try_unfold(
            (file, path),
            |(mut file, path)| {
                try_run(move || {
                    let mut chunk = Vec::new();
                    let read = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
                    read.map_err(|error| failed(&path, error))?;
                    Ok((!chunk.is_empty()).then(|| (Bytes::from(chunk), (file, path))))
                })
            },
        )))
    }

    async fn write(&self, pointer: &Pointer, mut content: LfsBody) -> Result<()> {
        let path = self.path(pointer);
        let random: u128 = rand::random();
        // git-lfs deletes files that are left behind in this directory.
        let temp_path = self.directory.join("tmp");
        let temp_path = temp_path.join(format!("{}-{random:032x}", pointer.oid));
        let mut file = try_run(move || TempFile::create(temp_path)).await?;
        while let Some(bytes) = content.next().await.transpose()? {
            file = try_run(move || file.push(&bytes)).await?;
        }
        try_run(move || file.publish(&path)).await
    }
}

/// A temporary file, removed unless published.
struct TempFile {
    path: PathBuf,
    file: File,
}

impl TempFile {
    fn create(path: PathBuf) -> Result<Self> {
        create_parent(&path)?;
        let file = File::create_new(&path).map_err(|error| failed(&path, error))?;
        Ok(Self { path, file })
    }

    fn push(mut self, bytes: &[u8]) -> Result<Self> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| failed(&self.path, error))?;
        Ok(self)
    }

    fn publish(self, path: &Path) -> Result<()> {
        create_parent(path)?;
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, path))
            .map_err(|error| failed(path, error))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // Fails for a published file, which was renamed.
        let _ = fs::remove_file(&self.path);
    }
}

fn create_parent(file: &Path) -> Result<()> {
    let parent = file.parent().unwrap_or(file);
    fs::create_dir_all(parent).map_err(|error| failed(parent, error))
}
