//! Check and repair of a repository's LFS objects: what its pointers name, and what is stored.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bstr::BString;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::lfs::scan;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::{ObjectKind, id_of, tree_entries};
use crate::git::odb::{Database, commit_graph};
use crate::git::pack::PackLimits;
use crate::lfs::{LfsStore, MAX_BATCH_OBJECTS, Pointer, read_all, verify_stream};
use crate::remote::{Remote, Source};
use crate::retry::RetryPolicy;

/// Maximum number of objects that are read or copied at once.
const CONCURRENT_OBJECTS: usize = 8;
/// Bits of a mode with an entry's kind.
const KIND_BITS: u32 = 0o170_000;
/// Kind bits of a directory.
const DIRECTORY: u32 = 0o040_000;

/// Commit and path by which a pointer came into a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LfsNeed {
    /// First commit that has the pointer.
    pub commit: ObjectId,
    /// Path of the pointer in that commit.
    pub path: BString,
}

/// Result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LfsCheck {
    /// All objects that pointers name.
    pub objects: Vec<Pointer>,
    /// Objects that are not stored, or have another size.
    pub missing: Vec<Pointer>,
    /// Objects whose content does not match their ids.
    pub wrong: Vec<Pointer>,
    /// Reasons why missing and wrong objects are needed, as far as they were found.
    pub needs: BTreeMap<Pointer, LfsNeed>,
}

/// Checks that `store` has the objects which all refs of `remote` need; with `content` also that
/// their contents are right, which reads them all.
///
/// # Errors
/// Failures of the remote or of the store as a whole.
pub async fn check_lfs(
    remote: &dyn Remote,
    store: &dyn LfsStore,
    limits: PackLimits,
    content: bool,
) -> Result<LfsCheck> {
    let source = remote.source(&[]).await?;
    let tips = source.snapshot().tips();
    let mut objects = scan(&*source, limits, tips, Vec::new()).await?;
    // git-lfs does not store empty objects.
    objects.retain(|pointer| pointer.size_bytes > 0);
    let retry = RetryPolicy::new(CONCURRENT_OBJECTS);
    let mut missing = Vec::new();
    for batch in objects.chunks(MAX_BATCH_OBJECTS) {
        missing.extend(retry.run(|| store.missing(batch)).await?);
    }
    let mut wrong = Vec::new();
    if content {
        let absent: HashSet<&Pointer> = missing.iter().collect();
        let present = objects.iter().filter(|pointer| !absent.contains(pointer));
        let present: Vec<Pointer> = present.cloned().collect();
        for batch in present.chunks(MAX_BATCH_OBJECTS) {
            wrong.extend(wrong_ones(store, batch, &retry).await?);
        }
    }
    let damaged: Vec<&Pointer> = missing.iter().chain(&wrong).collect();
    let needs = needs(&*source, &damaged).await?;
    Ok(LfsCheck {
        objects,
        missing,
        wrong,
        needs,
    })
}

/// Returns the objects whose content is wrong.
async fn wrong_ones(
    store: &dyn LfsStore,
    batch: &[Pointer],
    retry: &RetryPolicy,
) -> Result<Vec<Pointer>> {
    retry.run(|| store.prepare(batch)).await?;
    let reads = stream::iter(batch.to_vec()).map(|pointer| async move {
        match retry.run(|| read_all(store, &pointer)).await {
            Ok(()) => Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                Ok(Some(pointer))
            }
            Err(error) => Err(error),
        }
    });
    let reads = reads.buffered(CONCURRENT_OBJECTS);
    reads
        .try_filter_map(async |wrong| Ok(wrong))
        .try_collect()
        .await
}

/// Finds the first commit and path of each object, where the source can read its objects. Pointers
/// in another form than git-lfs writes are not found.
async fn needs(source: &dyn Source, objects: &[&Pointer]) -> Result<BTreeMap<Pointer, LfsNeed>> {
    let mut found = BTreeMap::new();
    if objects.is_empty() {
        return Ok(found);
    }
    let snapshot = source.snapshot();
    let tips = snapshot.tips();
    let Some(database) = source.objects(&tips).await? else {
        return Ok(found);
    };
    let mut blobs = HashMap::new();
    for pointer in objects {
        let blob = pointer.to_blob();
        let id = id_of(snapshot.hash, ObjectKind::Blob, blob.as_bytes())?;
        blobs.insert(id, (*pointer).clone());
    }
    // Parents before children, so that the first commit of a pointer is found first.
    let mut seen = HashSet::new();
    for commit in commit_graph(&database, &tips, &[]).await? {
        for (blob, path) in new_blobs(&database, commit.tree, &mut seen).await? {
            if let Some(pointer) = blobs.remove(&blob) {
                let commit = commit.id;
                found.insert(pointer, LfsNeed { commit, path });
            }
        }
        if blobs.is_empty() {
            break;
        }
    }
    Ok(found)
}

/// Returns the files of a tree that are not in the trees which were `seen`.
async fn new_blobs(
    database: &Database,
    root: ObjectId,
    seen: &mut HashSet<ObjectId>,
) -> Result<Vec<(ObjectId, BString)>> {
    let mut blobs = Vec::new();
    let mut trees = vec![(root, BString::default())];
    while let Some((tree, folder)) = trees.pop() {
        if !seen.insert(tree) {
            continue;
        }
        let content = database.read_kind(tree, ObjectKind::Tree).await?;
        tree_entries(database.hash(), &content, |entry| {
            let mut path = folder.clone();
            path.extend_from_slice(entry.name);
            if entry.mode & KIND_BITS == DIRECTORY {
                path.push(b'/');
                trees.push((entry.id, path));
            } else {
                blobs.push((entry.id, path));
            }
        })?;
    }
    Ok(blobs)
}

/// Copies objects from one store to another; returns those that `from` cannot provide, with the
/// reasons.
///
/// # Errors
/// Failures of `to`.
pub async fn repair_lfs(
    objects: &[Pointer],
    from: &Arc<dyn LfsStore>,
    to: &Arc<dyn LfsStore>,
) -> Result<BTreeMap<Pointer, Error>> {
    let retry = RetryPolicy::new(CONCURRENT_OBJECTS);
    let mut unavailable = BTreeMap::new();
    for batch in objects.chunks(MAX_BATCH_OBJECTS) {
        if let Err(error) = retry.run(|| from.prepare(batch)).await {
            if error.kind() != ErrorKind::NotFound {
                return Err(error);
            }
            let reason = error.report();
            let failed = batch.iter().map(|pointer| {
                let error = Error::new(ErrorKind::NotFound, reason.clone());
                (pointer.clone(), error)
            });
            unavailable.extend(failed);
            continue;
        }
        let copies = stream::iter(batch.to_vec()).map(|pointer| async {
            let copied = retry.run(|| copy(&pointer, &**from, &**to)).await?;
            Ok::<_, Error>(copied.err().map(|error| (pointer, error)))
        });
        let failed = copies.buffer_unordered(CONCURRENT_OBJECTS);
        let failed = failed.try_filter_map(async |failed| Ok(failed));
        unavailable.extend(failed.try_collect::<Vec<_>>().await?);
    }
    Ok(unavailable)
}

/// Copies an object. The inner failure is one of `from`.
async fn copy(pointer: &Pointer, from: &dyn LfsStore, to: &dyn LfsStore) -> Result<Result<()>> {
    let content = match from.read(pointer).await {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Err(error)),
        Err(error) => return Err(error),
    };
    match to.write(pointer, verify_stream(pointer, content)).await {
        Ok(()) => Ok(Ok(())),
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
            Ok(Err(error))
        }
        Err(error) => Err(error),
    }
}
