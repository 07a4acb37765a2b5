//! Objects in a repository's folder, where git-lfs keeps them.

use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind as IoKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::{LfsBody, LfsStore, Pointer, not_there};
use crate::error::{Error, ErrorKind, Result};

/// How much is read at once.
const PIECE: usize = 256 * 1024;

/// The objects of the repository whose git folder (`.git`, or a bare repository) is given.
#[derive(Debug, Clone)]
pub struct LocalLfs {
    folder: PathBuf,
}

impl LocalLfs {
    /// Nothing is looked at yet.
    pub fn new(git_folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: git_folder.into().join("lfs"),
        }
    }

    fn path(&self, pointer: &Pointer) -> PathBuf {
        self.folder.join("objects").join(pointer.path())
    }
}

impl fmt::Display for LocalLfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.folder.display().fmt(f)
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

/// Runs what waits for the disk where nobody waits for it.
async fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Internal, "a file could not be worked on").with_source(error))
    })
}

#[async_trait]
impl LfsStore for LocalLfs {
    async fn missing(&self, pointers: &[Pointer]) -> Result<Vec<Pointer>> {
        let (place, pointers) = (self.clone(), pointers.to_vec());
        spawn_blocking(move || {
            let is_there = |pointer: &Pointer| {
                let found = fs::metadata(place.path(pointer));
                found.is_ok_and(|found| found.is_file() && found.len() == pointer.size_bytes)
            };
            Ok(pointers.into_iter().filter(|one| !is_there(one)).collect())
        })
        .await
    }

    async fn read(&self, pointer: &Pointer) -> Result<LfsBody> {
        let path = self.path(pointer);
        let opened = {
            let path = path.clone();
            spawn_blocking(move || File::open(&path).map_err(|error| failed(&path, error))).await
        };
        let file = opened.map_err(|error| match error.kind() {
            ErrorKind::NotFound => not_there(pointer, self).with_source(error),
            _ => error,
        })?;
        Ok(Box::pin(stream::try_unfold(
            (file, path),
            |(mut file, path)| {
                spawn_blocking(move || {
                    let mut piece = Vec::new();
                    let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece);
                    read.map_err(|error| failed(&path, error))?;
                    Ok((!piece.is_empty()).then(|| (Bytes::from(piece), (file, path))))
                })
            },
        )))
    }

    async fn write(&self, pointer: &Pointer, mut content: LfsBody) -> Result<()> {
        let path = self.path(pointer);
        let random: u128 = rand::random();
        // git-lfs clears this folder of what is left behind.
        let draft = self.folder.join("tmp");
        let draft = draft.join(format!("{}-{random:032x}", pointer.oid));
        let mut draft = spawn_blocking(move || TempFile::create(draft)).await?;
        while let Some(bytes) = content.next().await.transpose()? {
            draft = spawn_blocking(move || draft.push(&bytes)).await?;
        }
        spawn_blocking(move || draft.publish(&path)).await
    }
}

/// A file that is not called by its name yet; removed unless it is published.
struct TempFile {
    path: PathBuf,
    file: File,
}

impl TempFile {
    fn create(path: PathBuf) -> Result<Self> {
        make_folder(&path)?;
        let file = File::create_new(&path).map_err(|error| failed(&path, error))?;
        Ok(Self { path, file })
    }

    fn push(mut self, bytes: &[u8]) -> Result<Self> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| failed(&self.path, error))?;
        Ok(self)
    }

    fn publish(self, path: &Path) -> Result<()> {
        make_folder(path)?;
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, path))
            .map_err(|error| failed(path, error))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // Nothing is there any more when it was published.
        let _ = fs::remove_file(&self.path);
    }
}

fn make_folder(file: &Path) -> Result<()> {
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder).map_err(|error| failed(folder, error))
}
