//! Which of several bundles in one folder is the ref.
//!
//! There are several while a push is between its last steps, or was cut off there; or when
//! two writers met of whom at least one was the Python client. A bundle that says that it
//! replaces another, or that descends from another, stands for both. If more than one is
//! left, the newest one is the ref, and the others have lost it without being obsolete:
//! they are listed under names of their own, and the next push moves them there.
//!
//! Whatever lies in a folder, the other refs are listed: where no descent can be read off
//! bundles that are no bundles, only their dates are looked at.

use std::collections::HashSet;
use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice};
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::catalog::{BundleCatalog, database};
use super::delete::{conflict_name, unique_conflict_name};
use super::expected_ref::{ExpectedRef, stale_ref_error};
use super::keys::{BundleFile, Folders, RefFolder};
use super::{BundleLocation, REPLACES};
use crate::error::{ErrorKind, Result};
use crate::git::object::ObjectKind;
use crate::git::odb::{Database, commit_graph};
use crate::git::{HashKind, ObjectId};

/// How often a folder is looked at while it changes.
const MAX_RELISTS: usize = 5;
/// How many bundles are asked for their metadata at once.
const HEADS_AT_ONCE: usize = 16;

/// A ref and the bundles behind it.
#[derive(Debug, Clone)]
pub(super) struct Ref {
    /// The bundle that counts.
    pub(super) file: BundleFile,
    /// All bundles of the folder where it lies.
    pub(super) seen: ExpectedRef,
    /// Those of them that lost the ref and hold something of their own.
    pub(super) strays: Vec<BundleFile>,
    pub(super) zip: bool,
}

/// What several bundles come to.
struct Resolution {
    winner: BundleFile,
    strays: Vec<BundleFile>,
}

/// All refs, those of bundles that lost theirs included.
pub(super) async fn refs(
    place: &Arc<BundleLocation>,
    hash: HashKind,
    folders: Folders,
) -> Result<Vec<(BString, Ref)>> {
    let mut refs = Vec::new();
    for name in folders.keys() {
        let chosen = resolve_folder(place, hash, name, &folders).await?;
        let Some((folder, choice)) = chosen else {
            continue;
        };
        let seen = ExpectedRef {
            name: name.clone(),
            files: folder.bundles.clone(),
            protected: folder.protected,
        };
        // While someone pushes, there may be two for a moment.
        if !has_live_lock(place, &folder) {
            for stray in &choice.strays {
                let Some(apart) = conflict_ref_name(&folders, name.as_bstr(), stray) else {
                    continue;
                };
                let found = Ref {
                    file: stray.clone(),
                    seen: ExpectedRef {
                        files: vec![stray.clone()],
                        ..ExpectedRef::absent(name.clone())
                    },
                    strays: Vec::new(),
                    zip: false,
                };
                refs.push((apart, found));
            }
        }
        let found = Ref {
            file: choice.winner,
            seen,
            strays: choice.strays,
            zip: folder.zip.is_some(),
        };
        refs.push((name.clone(), found));
    }
    Ok(refs)
}

/// The name under which a bundle that lost the ref is listed; `None` when it was moved
/// there already, and only its original is left. Where that is the name of another ref,
/// the longer one is free.
fn conflict_ref_name(folders: &Folders, name: &BStr, stray: &BundleFile) -> Option<BString> {
    let short = conflict_name(name, stray.id);
    match folders.get(&short).map(|folder| folder.bundles.as_slice()) {
        None | Some([]) => Some(short),
        Some(there) if there.iter().any(|file| file.id == stray.id) => None,
        Some(_) => Some(unique_conflict_name(name, stray.id)),
    }
}

fn has_live_lock(place: &BundleLocation, folder: &RefFolder) -> bool {
    let lifetime = i64::try_from(place.options.lock_lifetime.as_secs()).unwrap_or(i64::MAX);
    let now = (place.options.clock)();
    folder
        .lock
        .as_ref()
        .is_some_and(|lock| now.saturating_sub(lock.last_modified) <= lifetime)
}

/// Chooses; looks again when the folder changes meanwhile. `None` when it has no bundle.
async fn resolve_folder(
    place: &Arc<BundleLocation>,
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
                let strays = Vec::new();
                return Ok(Some((folder, Resolution { winner, strays })));
            }
            files => {
                // An incremental one may stand on a bundle of any ref.
                let others = folders.iter().filter(|(other, _)| *other != name);
                let others = others.flat_map(|(_, folder)| &folder.bundles);
                let all = files.iter().chain(others).cloned().collect();
                let library = BundleCatalog::new(place, hash, all);
                if let Some(choice) = resolve_competing(place, hash, &library, files).await? {
                    return Ok(Some((folder, choice)));
                }
            }
        }
        folder = place.folder(name.as_bstr()).await?;
    }
    Err(stale_ref_error(name.as_bstr()))
}

/// Chooses among several; `None` when one of them is gone meanwhile.
async fn resolve_competing(
    place: &Arc<BundleLocation>,
    hash: HashKind,
    library: &BundleCatalog,
    files: &[BundleFile],
) -> Result<Option<Resolution>> {
    let heads = files.iter().cloned().map(|file| {
        let place = Arc::clone(place);
        async move { place.store.head(&place.bucket, &file.key).await }
    });
    let heads = futures_util::stream::iter(heads).buffered(HEADS_AT_ONCE);
    let heads: Vec<_> = heads.try_collect().await?;
    let mut replaced: Vec<HashSet<ObjectId>> = Vec::new();
    for head in heads {
        let Some(head) = head else {
            return Ok(None);
        };
        let ids = head.metadata.user.get(REPLACES).map_or("", String::as_str);
        let ids = ids.split(',').map(|id| ObjectId::from_hex(id.as_bytes()));
        replaced.push(ids.filter_map(Result::ok).collect());
    }
    let says = |by: usize, of: usize| replaced[by].contains(&files[of].id);
    let age = |file: &BundleFile| (file.last_modified, file.id);
    let mut left: Vec<&BundleFile> = Vec::new();
    for (of, file) in files.iter().enumerate() {
        let obsolete = (0..files.len())
            .any(|by| by != of && says(by, of) && (!says(of, by) || age(&files[by]) > age(file)));
        if !obsolete {
            left.push(file);
        }
    }
    if left.len() > 1 {
        left = match maximal_commits(place, hash, library, &left).await {
            Ok(younger) => younger,
            Err(error) if error.kind() == ErrorKind::Conflict => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(
                    error = %error.report(),
                    "one of several bundles cannot be read: the newest one counts"
                );
                left
            }
            Err(error) => return Err(error),
        };
    }
    left.sort_by_key(|file| age(file));
    // If all replace each other in a circle, none is left.
    let newest = || files.iter().max_by_key(|file| age(file));
    Ok(left.pop().or_else(newest).map(|winner| Resolution {
        winner: winner.clone(),
        strays: left.into_iter().cloned().collect(),
    }))
}

/// Those that no other one descends from. Only so many bundles are read as it takes to
/// have all their commits.
///
/// # Errors
/// `Conflict` when one is gone meanwhile, `Corrupt` when one is no bundle.
async fn maximal_commits<'a>(
    place: &Arc<BundleLocation>,
    hash: HashKind,
    library: &BundleCatalog,
    left: &[&'a BundleFile],
) -> Result<Vec<&'a BundleFile>> {
    let ids: Vec<_> = left.iter().map(|file| file.id).collect();
    let books = library.find(&ids).await?;
    let database = database(place, hash, &books)?;
    let mut younger: Vec<&BundleFile> = Vec::new();
    'files: for file in left {
        for other in &younger {
            if is_descendant(&database, other.id, file.id).await? {
                continue 'files;
            }
        }
        let mut still = Vec::new();
        for other in younger {
            if !is_descendant(&database, file.id, other.id).await? {
                still.push(other);
            }
        }
        still.push(file);
        younger = still;
    }
    Ok(younger)
}

/// Whether a commit, or the commit of a tag, has another one among its ancestors, or is it.
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
