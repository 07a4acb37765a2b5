//! Packs and loose objects of a repository on disk.

use std::fs::{self, File};
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::blocking;
use super::durable_fs::io_error;
use super::files::is_not_found;
use super::git_dir::GitDir;
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::object::loose_path;
use crate::git::odb::{Database, DatabaseOptions, LooseObjects, StoredPack};
use crate::git::pack::{Index, PackBytes, PackLimits};
use crate::os;
use crate::remote::PackBody;

/// Bytes of a pack read at once: small, because a disk has no round trips.
const PACK_BLOCK_BYTES: u64 = 256 * 1024;
/// Bytes of a loose object read at once.
const LOOSE_CHUNK_BYTES: usize = 128 * 1024;

/// Content of an open pack file.
pub(super) struct LocalPackFile(pub(super) Arc<File>);

#[async_trait]
impl PackBytes for LocalPackFile {
    async fn read_range(&self, range: Range<u64>) -> crate::git::Result<Bytes> {
        let file = Arc::clone(&self.0);
        blocking(move || {
            let length = usize::try_from(range.end.saturating_sub(range.start));
            let mut bytes = vec![0; length.unwrap_or(usize::MAX)];
            os::read_exact_at(&file, &mut bytes, range.start)
                .map_err(|error| io_error("reading a pack in", Path::new("objects/pack"), error))?;
            Ok(bytes.into())
        })
        .await
        .map_err(Into::into)
    }
}

/// Loose objects in the object directories.
struct LooseFiles(Vec<PathBuf>);

impl LooseFiles {
    fn find(&self, id: ObjectId) -> Result<Option<(PathBuf, File)>> {
        for directory in &self.0 {
            let path = directory.join(loose_path(id));
            match File::open(&path) {
                Ok(file) => return Ok(Some((path, file))),
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(io_error("reading", &path, error)),
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl LooseObjects for LooseFiles {
    async fn open(&self, id: ObjectId) -> crate::git::Result<Option<PackBody>> {
        let Some(found) = self.find(id)? else {
            return Ok(None);
        };
        let pieces = futures_util::stream::try_unfold(found, |(path, mut file)| {
            blocking(move || {
                let mut bytes = vec![0; LOOSE_CHUNK_BYTES];
                let read = file
                    .read(&mut bytes)
                    .map_err(|error| io_error("reading", &path, error))?;
                bytes.truncate(read);
                Ok((read > 0).then(|| (Bytes::from(bytes), (path, file))))
            })
        });
        Ok(Some(pieces.map_err(Into::into).boxed()))
    }

    async fn contains(&self, id: ObjectId) -> crate::git::Result<bool> {
        Ok(self.find(id)?.is_some())
    }
}

/// Opens the packs of a repository, the largest first.
fn packs(git_dir: &GitDir) -> Result<Vec<StoredPack>> {
    let mut packs = Vec::new();
    for directory in &git_dir.objects {
        let directory = directory.join("pack");
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if is_not_found(&error) => continue,
            Err(error) => return Err(io_error("listing", &directory, error)),
        };
        for entry in entries {
            let path = entry
                .map_err(|error| io_error("listing", &directory, error))?
                .path();
            let stem = path.file_stem().and_then(|name| name.to_str());
            let is_index = path.extension().is_some_and(|end| end == "idx");
            if !is_index || !stem.is_some_and(|name| name.starts_with("pack-")) {
                continue;
            }
            let pack = path.with_extension("pack");
            let file = match File::open(&pack) {
                Ok(file) => file,
                // The pack is being replaced, or only its index is left.
                Err(error) if is_not_found(&error) => continue,
                Err(error) => return Err(io_error("reading", &pack, error)),
            };
            let index = match fs::read(&path) {
                Ok(index) => index,
                Err(error) if is_not_found(&error) => continue,
                Err(error) => return Err(io_error("reading", &path, error)),
            };
            let index = Index::parse(git_dir.hash, index.into())
                .map_err(|error| error.context(path.display()))?;
            packs.push(pack_at(file, index, &pack)?);
        }
    }
    packs.sort_by_key(|pack| (std::cmp::Reverse(pack.size_bytes), pack.index.pack_id()));
    Ok(packs)
}

fn pack_at(file: File, index: Index, path: &Path) -> Result<StoredPack> {
    let size = file
        .metadata()
        .map_err(|error| io_error("reading", path, error))?
        .len();
    Ok(StoredPack {
        index,
        size_bytes: size,
        bytes: Arc::new(LocalPackFile(Arc::new(file))),
    })
}

fn database(git_dir: &GitDir, limits: PackLimits, packs: Vec<StoredPack>) -> Result<Arc<Database>> {
    let loose: Arc<dyn LooseObjects> = Arc::new(LooseFiles(git_dir.objects.clone()));
    let options = DatabaseOptions {
        limits,
        block_bytes: PACK_BLOCK_BYTES,
    };
    let database = Database::new(git_dir.hash, packs, Some(loose), options)?;
    Ok(Arc::new(database))
}

/// Opens the objects of a repository. Pack files stay open, so that removed packs remain
/// readable.
pub(super) fn open(git_dir: &GitDir, limits: PackLimits) -> Result<Arc<Database>> {
    database(git_dir, limits, packs(git_dir)?)
}

/// Like [`open`], on the blocking pool.
pub(super) async fn open_async(git_dir: &GitDir, limits: PackLimits) -> Result<Arc<Database>> {
    let git_dir = git_dir.clone();
    blocking(move || open(&git_dir, limits)).await
}

/// Opens the objects of a repository together with a pack that is not published yet.
pub(super) async fn with_pack(
    git_dir: &GitDir,
    limits: PackLimits,
    pack: &StoredPack,
) -> Result<Arc<Database>> {
    let (git_dir, pack) = (git_dir.clone(), pack.clone());
    blocking(move || {
        let mut packs = packs(&git_dir)?;
        packs.insert(0, pack);
        database(&git_dir, limits, packs)
    })
    .await
}
