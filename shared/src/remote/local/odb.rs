//! Packs and loose objects on the disk.

use std::fs::{self, File};
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::blocking;
use super::durable_fs::failed;
use super::git_dir::{GitDir, is_not_found};
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::object::loose_path;
use crate::git::odb::{Database, DatabaseOptions, LooseObjects, StoredPack};
use crate::git::pack::{Index, PackBytes, PackLimits};
use crate::remote::PackBody;

/// How much of a pack is looked at at once: a disk is near.
const BLOCK: u64 = 256 * 1024;
/// How much of a loose object is read at once.
const PIECE: usize = 128 * 1024;

/// A pack in a file.
pub(super) struct PackFile(pub(super) Arc<File>);

#[async_trait]
impl PackBytes for PackFile {
    async fn read_range(&self, range: Range<u64>) -> crate::git::Result<Bytes> {
        let file = Arc::clone(&self.0);
        blocking(move || {
            let length = usize::try_from(range.end.saturating_sub(range.start));
            let mut bytes = vec![0; length.unwrap_or(usize::MAX)];
            file.read_exact_at(&mut bytes, range.start)
                .map_err(|error| failed("reading a pack in", Path::new("objects/pack"), error))?;
            Ok(bytes.into())
        })
        .await
        .map_err(Into::into)
    }
}

struct LooseFiles(Vec<PathBuf>);

impl LooseFiles {
    fn find(&self, id: ObjectId) -> Result<Option<(PathBuf, File)>> {
        for folder in &self.0 {
            let path = folder.join(loose_path(id));
            match File::open(&path) {
                Ok(file) => return Ok(Some((path, file))),
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(failed("reading", &path, error)),
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
                let mut bytes = vec![0; PIECE];
                let read = file
                    .read(&mut bytes)
                    .map_err(|error| failed("reading", &path, error))?;
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

/// The packs of a repository, the largest first.
fn packs(layout: &GitDir) -> Result<Vec<StoredPack>> {
    let mut packs = Vec::new();
    for folder in &layout.objects {
        let folder = folder.join("pack");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if is_not_found(&error) => continue,
            Err(error) => return Err(failed("listing", &folder, error)),
        };
        for entry in entries {
            let path = entry
                .map_err(|error| failed("listing", &folder, error))?
                .path();
            let stem = path.file_stem().and_then(|name| name.to_str());
            let is_index = path.extension().is_some_and(|end| end == "idx");
            if !is_index || !stem.is_some_and(|name| name.starts_with("pack-")) {
                continue;
            }
            let pack = path.with_extension("pack");
            let file = match File::open(&pack) {
                Ok(file) => file,
                // One that is just being replaced; or left over.
                Err(error) if is_not_found(&error) => continue,
                Err(error) => return Err(failed("reading", &pack, error)),
            };
            let index = match fs::read(&path) {
                Ok(index) => index,
                Err(error) if is_not_found(&error) => continue,
                Err(error) => return Err(failed("reading", &path, error)),
            };
            let index = Index::parse(layout.hash, index.into())
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
        .map_err(|error| failed("reading", path, error))?
        .len();
    Ok(StoredPack {
        index,
        size_bytes: size,
        bytes: Arc::new(PackFile(Arc::new(file))),
    })
}

fn database(layout: &GitDir, limits: PackLimits, packs: Vec<StoredPack>) -> Result<Arc<Database>> {
    let loose: Arc<dyn LooseObjects> = Arc::new(LooseFiles(layout.objects.clone()));
    let options = DatabaseOptions {
        limits,
        block_bytes: BLOCK,
    };
    let database = Database::new(layout.hash, packs, Some(loose), options)?;
    Ok(Arc::new(database))
}

/// Opens the objects of a repository. Its files are kept open: packs that are removed
/// meanwhile can be read to their end.
pub(super) fn open(layout: &GitDir, limits: PackLimits) -> Result<Arc<Database>> {
    database(layout, limits, packs(layout)?)
}

/// The same, from where nothing may block.
pub(super) async fn open_blocking(layout: &GitDir, limits: PackLimits) -> Result<Arc<Database>> {
    let layout = layout.clone();
    blocking(move || open(&layout, limits)).await
}

/// A repository's objects together with a pack that is not in its place yet.
pub(super) async fn with_pack(
    layout: &GitDir,
    limits: PackLimits,
    pack: &StoredPack,
) -> Result<Arc<Database>> {
    let (layout, pack) = (layout.clone(), pack.clone());
    blocking(move || {
        let mut packs = packs(&layout)?;
        packs.insert(0, pack);
        database(&layout, limits, packs)
    })
    .await
}
