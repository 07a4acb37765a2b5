//! Decides which of several bundles in one folder is the ref.
//!
//! Several exist between the last steps of a push, after a crash there, or when the Python
//! client wrote at the same time. A bundle that names another in its `branchline-replaces`
//! metadata, or descends from it, supersedes it. If several remain, the newest is the ref; the
//! others are orphans: they are listed under conflict names, and the next push moves them
//! there.
//!
//! If ancestry cannot be read because a file is not a bundle, times of modification decide, so
//! that the remote's other refs can still be listed.

use std::collections::HashSet;
use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice};
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::catalog::BundleCatalog;
use super::expected_ref::{ExpectedRef, stale_ref_error};
use super::keys::{BundleFile, Folders, RefFolder, conflict_name, unique_conflict_name};
use super::options::{BundleLocation, REPLACES};
use crate::error::{ErrorKind, Result};
use crate::git::object::ObjectKind;
use crate::git::odb::{Database, commit_graph};
use crate::git::{HashKind, ObjectId};

/// Maximum number of times that a folder is listed while it changes.
const MAX_RELISTS: usize = 5;
/// Number of bundles whose metadata are read at once.
const CONCURRENT_HEADS: usize = 16;

/// A ref and its bundles.
#[derive(Debug, Clone)]
pub(super) struct ResolvedRef {
    /// Bundle whose id the ref names.
    pub(super) file: BundleFile,
    /// State of the folder that contains `file`.
    pub(super) expected: ExpectedRef,
    /// Bundles in the folder that lost the ref, and that no other one supersedes.
    pub(super) orphans: Vec<BundleFile>,
    /// Whether the list showed an archive.
    pub(super) has_archive: bool,
    /// Whether the list showed the lock of a client that was killed.
    pub(super) has_abandoned_lock: bool,
}

/// The resolved state of a folder.
struct Resolution {
    winner: BundleFile,
    orphans: Vec<BundleFile>,
}

/// Resolves all folders to refs; orphans are included under their conflict names.
pub(super) async fn refs(
    location: &Arc<BundleLocation>,
    hash: HashKind,
    folders: Folders,
) -> Result<Vec<(BString, ResolvedRef)>> {
    let mut refs = Vec::new();
    for name in folders.keys() {
        let resolved = resolve_folder(location, hash, name, &folders).await?;
        let Some((folder, resolution)) = resolved else {
            continue;
        };
        let expected = ExpectedRef {
            name: name.clone(),
            files: folder.bundles.clone(),
            protected: folder.protected,
        };
        // During a push there are two for a moment, so nothing is an orphan yet.
        if !has_live_lock(location, &folder) {
            for orphan in &resolution.orphans {
                let Some(conflict) = conflict_ref_name(&folders, name.as_bstr(), orphan) else {
                    continue;
                };
                let found = ResolvedRef {
                    file: orphan.clone(),
                    expected: ExpectedRef {
                        files: vec![orphan.clone()],
                        ..ExpectedRef::absent(name.clone())
                    },
                    orphans: Vec::new(),
                    has_archive: false,
                    has_abandoned_lock: false,
                };
                refs.push((conflict, found));
            }
        }
        let found = ResolvedRef {
            file: resolution.winner,
            expected,
            orphans: resolution.orphans,
            has_archive: folder.archive.is_some(),
            has_abandoned_lock: folder.lock.is_some() && !has_live_lock(location, &folder),
        };
        refs.push((name.clone(), found));
    }
    Ok(refs)
}

/// Returns the name under which an orphan is listed; `None` when it was already copied there.
fn conflict_ref_name(folders: &Folders, name: &BStr, orphan: &BundleFile) -> Option<BString> {
    let short = conflict_name(name, orphan.id);
    match folders.get(&short).map(|folder| folder.bundles.as_slice()) {
        None | Some([]) => Some(short),
        Some(bundles) if bundles.iter().any(|file| file.id == orphan.id) => None,
        Some(_) => Some(unique_conflict_name(name, orphan.id)),
    }
}

fn has_live_lock(location: &BundleLocation, folder: &RefFolder) -> bool {
    let lifetime = i64::try_from(location.options.lock_lifetime.as_secs()).unwrap_or(i64::MAX);
    let now = (location.options.clock)();
    folder
        .lock
        .as_ref()
        .is_some_and(|lock| now.saturating_sub(lock.last_modified) <= lifetime)
}

/// Resolves a folder, and lists it again while it changes; `None` if it contains no bundle.
async fn resolve_folder(
    location: &Arc<BundleLocation>,
    hash: HashKind,
    name: &BString,
    folders: &Folders,
) -> Result<Option<(RefFolder, Resolution)>> {
    let mut folder = folders.get(name).cloned().unwrap_or_default();
    for _ in 0..MAX_RELISTS {
        match folder.bundles.as_slice() {
            [] => return Ok(None),
            [only] => {
                let winner = only.clone();
                let orphans = Vec::new();
                return Ok(Some((folder, Resolution { winner, orphans })));
            }
            files => {
                // Because prerequisites of an incremental bundle may be in any ref's folder.
                let elsewhere = folders.iter().filter(|(other, _)| *other != name);
                let elsewhere = elsewhere.flat_map(|(_, folder)| &folder.bundles);
                let files_of_all = files.iter().chain(elsewhere).cloned().collect();
                let catalog = BundleCatalog::new(location, hash, files_of_all);
                if let Some(resolution) = resolve_competing(&catalog, files).await? {
                    return Ok(Some((folder, resolution)));
                }
            }
        }
        folder = location.folder(name.as_bstr()).await?;
    }
    Err(stale_ref_error(name.as_bstr()))
}

/// Picks one of several bundles; `None` when one was deleted meanwhile.
async fn resolve_competing(
    catalog: &BundleCatalog,
    files: &[BundleFile],
) -> Result<Option<Resolution>> {
    let heads = files.iter().cloned().map(|file| {
        let location = Arc::clone(catalog.location());
        async move { location.store.head(&location.bucket, &file.key).await }
    });
    let heads = futures_util::stream::iter(heads).buffered(CONCURRENT_HEADS);
    let heads: Vec<_> = heads.try_collect().await?;
    let mut obsolete_ids: Vec<HashSet<ObjectId>> = Vec::new();
    for head in heads {
        let Some(head) = head else {
            return Ok(None);
        };
        let ids = head.metadata.user.get(REPLACES).map_or("", String::as_str);
        let ids = ids.split(',').map(|id| ObjectId::from_hex(id.as_bytes()));
        obsolete_ids.push(ids.filter_map(Result::ok).collect());
    }
    let replaces = |by: usize, of: usize| obsolete_ids[by].contains(&files[of].id);
    let age = |file: &BundleFile| (file.last_modified, file.id);
    let mut left: Vec<&BundleFile> = Vec::new();
    for (of, file) in files.iter().enumerate() {
        let obsolete = (0..files.len()).any(|by| {
            by != of && replaces(by, of) && (!replaces(of, by) || age(&files[by]) > age(file))
        });
        if !obsolete {
            left.push(file);
        }
    }
    if left.len() > 1 {
        left = match maximal_commits(catalog, &left).await {
            Ok(maximal) => maximal,
            Err(error) if error.kind() == ErrorKind::Conflict => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(
                    error = %error.report(),
                    "a bundle of a ref with several cannot be read: the newest bundle counts"
                );
                left
            }
            Err(error) => return Err(error),
        };
    }
    left.sort_by_key(|file| age(file));
    // None is left if all replace each other in a circle.
    let newest = || files.iter().max_by_key(|file| age(file));
    Ok(left.pop().or_else(newest).map(|winner| Resolution {
        winner: winner.clone(),
        orphans: left.into_iter().cloned().collect(),
    }))
}

/// Returns the bundles whose commit is not an ancestor of another's. Reads only as many
/// bundles as needed.
///
/// # Errors
/// `Conflict` when one was deleted meanwhile, `Corrupt` when one is not a bundle.
async fn maximal_commits<'a>(
    catalog: &BundleCatalog,
    left: &[&'a BundleFile],
) -> Result<Vec<&'a BundleFile>> {
    let ids: Vec<_> = left.iter().map(|file| file.id).collect();
    let bundles = catalog.find(&ids).await?;
    let database = catalog.database(None, &bundles)?;
    let mut maximal: Vec<&BundleFile> = Vec::new();
    'files: for file in left {
        for other in &maximal {
            if is_descendant(&database, other.id, file.id).await? {
                continue 'files;
            }
        }
        let mut remaining = Vec::new();
        for other in maximal {
            if !is_descendant(&database, file.id, other.id).await? {
                remaining.push(other);
            }
        }
        remaining.push(file);
        maximal = remaining;
    }
    Ok(maximal)
}

/// Whether `ancestor` is `id` or an ancestor of it. Both may be commits or tags of commits.
pub(super) async fn is_descendant(
    database: &Arc<Database>,
    id: ObjectId,
    ancestor: ObjectId,
) -> Result<bool> {
    if id == ancestor {
        return Ok(true);
    }
    for id in [id, ancestor] {
        if !database.contains(id).await? || database.peel(id).await?.1 != ObjectKind::Commit {
            return Ok(false);
        }
    }
    Ok(commit_graph(database, &[ancestor], &[id]).await?.is_empty())
}
