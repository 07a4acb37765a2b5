//! LFS objects in a repository's directory, where git-lfs stores them.

use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind as IoKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};

use super::pointer::parse_oid;
use super::{LfsBody, LfsStore, ListedStore, Pointer, RecordStore, StoredObjects, missing_object};
use crate::blocking::try_run;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::ETag;

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

    fn record_path(&self) -> PathBuf {
        self.directory.join("branchline-record")
    }
}

impl fmt::Display for LocalLfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.directory.display().fmt(f)
    }
}

/// Reads the file at `path` from byte `position` on.
///
/// # Errors
/// `NotFound` for a missing file.
pub async fn read_file(path: PathBuf, position: u64) -> Result<LfsBody> {
    let opened = {
        let path = path.clone();
        try_run(move || {
            let opened = File::open(&path).and_then(|mut file| {
                file.seek(SeekFrom::Start(position))?;
                Ok(file)
            });
            opened.map_err(|error| failed(&path, error))
        })
    };
    let file = opened.await?;
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

pub(super) fn failed(path: &Path, error: std::io::Error) -> Error {
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
        self.read_from(pointer, 0).await
    }

    async fn read_from(&self, pointer: &Pointer, position: u64) -> Result<LfsBody> {
        let opened = read_file(self.path(pointer), position).await;
        opened.map_err(|error| match error.kind() {
            ErrorKind::NotFound => missing_object(pointer, self).with_source(error),
            _ => error,
        })
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

    fn records(&self) -> Option<&dyn RecordStore> {
        Some(self)
    }

    fn listed(&self) -> Option<&dyn ListedStore> {
        Some(self)
    }
}

#[async_trait]
impl RecordStore for LocalLfs {
    async fn read_record(&self) -> Result<Option<(Bytes, ETag)>> {
        let path = self.record_path();
        try_run(move || read_record(&path)).await
    }

    async fn write_record(&self, record: Bytes, read: Option<&ETag>) -> Result<Option<ETag>> {
        let path = self.record_path();
        let random: u128 = rand::random();
        let temp_path = self.directory.join("tmp");
        let temp_path = temp_path.join(format!("branchline-record-{random:032x}"));
        let read = read.cloned();
        try_run(move || {
            let found = read_record(&path)?.map(|(_, etag)| etag);
            if found != read {
                let message = format!("another process changed `{}`", path.display());
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            let etag = content_tag(&record)?;
            TempFile::create(temp_path)?.push(&record)?.publish(&path)?;
            Ok(Some(etag))
        })
        .await
    }
}

#[async_trait]
impl ListedStore for LocalLfs {
    async fn list(&self, digits: &str) -> Result<StoredObjects> {
        let (folder, digits) = (self.directory.join("objects"), digits.to_owned());
        try_run(move || {
            let mut objects = Vec::new();
            for first in names(&folder)? {
                for second in names(&folder.join(&first))? {
                    let folder = folder.join(&first).join(&second);
                    let start = format!("{first}{second}");
                    if !start.starts_with(&digits) && !digits.starts_with(&start) {
                        continue;
                    }
                    for oid in names(&folder)? {
                        let size = fs::metadata(folder.join(&oid)).map(|found| found.len());
                        if let (Some(oid), Ok(size_bytes)) = (parse_oid(oid.as_bytes()), size)
                            && oid.starts_with(&digits)
                        {
                            let oid = oid.to_owned();
                            objects.push(Pointer { oid, size_bytes });
                        }
                    }
                }
            }
            objects.sort_unstable();
            Ok(StoredObjects {
                objects,
                is_complete: true,
            })
        })
        .await
    }
}

/// Reads a record, with a tag of its content.
fn read_record(path: &Path) -> Result<Option<(Bytes, ETag)>> {
    match fs::read(path) {
        Ok(bytes) => {
            let etag = content_tag(&bytes)?;
            Ok(Some((bytes.into(), etag)))
        }
        Err(error) if error.kind() == IoKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, error)),
    }
}

fn content_tag(bytes: &[u8]) -> Result<ETag> {
    ETag::new(hex::encode(Sha256::digest(bytes)))
}

/// Lists the names in a folder that are text; none if the folder is missing.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), IoKind::NotFound | IoKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(folder, error)),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.collect())
}

/// A temporary file, removed unless it is published or kept.
pub(super) struct TempFile {
    path: PathBuf,
    file: File,
}

impl TempFile {
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        create_parent(&path)?;
        let file = File::create_new(&path).map_err(|error| failed(&path, error))?;
        Ok(Self { path, file })
    }

    pub(super) fn push(mut self, bytes: &[u8]) -> Result<Self> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| failed(&self.path, error))?;
        Ok(self)
    }

    /// Keeps the file where it is; returns its path.
    pub(super) fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.path)
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
        // Fails for a published file, which was renamed, and for the empty path of a kept one.
        let _ = fs::remove_file(&self.path);
    }
}

pub(super) fn create_parent(file: &Path) -> Result<()> {
    let parent = file.parent().unwrap_or(file);
    fs::create_dir_all(parent).map_err(|error| failed(parent, error))
}
