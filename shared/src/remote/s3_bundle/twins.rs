//! Which of several bundles in one folder is the ref.
//!
//! There are several while a push is between its last steps, or was cut off there; or when
//! two writers met of whom at least one was the Python client. A bundle that says that it
//! replaces another, or that descends from another, stands for both. If more than one is
//! left, the newest one is the ref, and the others have lost it without being obsolete.

use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice};

use super::layout::{BundleFile, Folder, Folders};
use super::library::{Library, database};
use super::publish::{Seen, stray_name};
use super::{Place, REPLACES};
use crate::error::Result;
use crate::git::object::ObjectKind;
use crate::git::{HashKind, ObjectId, corrupt};
use crate::remote::objects::{Database, history};

/// How often a folder is looked at while it changes.
const LOOKS: usize = 5;

/// A ref and the bundles behind it.
#[derive(Debug, Clone)]
pub(super) struct Ref {
    /// The bundle that counts.
    pub(super) file: BundleFile,
    /// All bundles of the folder where it lies.
    pub(super) seen: Seen,
    /// Those of them that lost the ref and hold something of their own.
    pub(super) strays: Vec<BundleFile>,
    pub(super) protected: bool,
    pub(super) zip: bool,
}

/// What several bundles come to.
struct Choice {
    winner: BundleFile,
    strays: Vec<BundleFile>,
}

/// All refs, those of bundles that lost theirs included.
pub(super) async fn refs(
    place: &Arc<Place>,
    hash: HashKind,
    folders: Folders,
) -> Result<Vec<(BString, Ref)>> {
    let mut refs = Vec::new();
    for (name, folder) in folders {
        let Some((folder, choice)) = choose(place, hash, name.as_bstr(), folder).await? else {
            continue;
        };
        let seen = Seen {
            name: name.clone(),
            files: folder.bundles.clone(),
        };
        // While someone pushes, there may be two for a moment.
        if !is_busy(place, &folder) {
            for stray in &choice.strays {
                let apart = Ref {
                    file: stray.clone(),
                    seen: Seen {
                        name: name.clone(),
                        files: vec![stray.clone()],
                    },
                    strays: Vec::new(),
                    protected: false,
                    zip: false,
                };
                refs.push((stray_name(name.as_bstr(), stray.id), apart));
            }
        }
        let found = Ref {
            file: choice.winner,
            seen,
            strays: choice.strays,
            protected: folder.protected,
            zip: folder.zip,
        };
        refs.push((name, found));
    }
    Ok(refs)
}

fn is_busy(place: &Place, folder: &Folder) -> bool {
    let lifetime = i64::try_from(place.options.lock_lifetime.as_secs()).unwrap_or(i64::MAX);
    let now = (place.options.clock)();
    folder
        .lock
        .as_ref()
        .is_some_and(|lock| now.saturating_sub(lock.last_modified) <= lifetime)
}

/// Chooses; looks again when the folder changes meanwhile. `None` when it has no bundle.
async fn choose(
    place: &Arc<Place>,
    hash: HashKind,
    name: &BStr,
    mut folder: Folder,
) -> Result<Option<(Folder, Choice)>> {
    for _ in 0..LOOKS {
        match folder.bundles.as_slice() {
            [] => return Ok(None),
            [only] => {
                let winner = only.clone();
                let strays = Vec::new();
                return Ok(Some((folder, Choice { winner, strays })));
            }
            files => {
                if let Some(choice) = among(place, hash, files).await? {
                    return Ok(Some((folder, choice)));
                }
            }
        }
        folder = place.folder(name).await?;
    }
    Err(super::publish::stale(name))
}

/// Chooses among several; `None` when one of them is gone meanwhile.
async fn among(place: &Arc<Place>, hash: HashKind, files: &[BundleFile]) -> Result<Option<Choice>> {
    let mut replaced = Vec::new();
    for file in files {
        let Some(head) = place.store.head(&place.bucket, &file.key).await? else {
            return Ok(None);
        };
        let ids = head.metadata.user.get(REPLACES).cloned();
        replaced.push(ids.unwrap_or_default());
    }
    let says = |by: usize, of: usize| {
        let id = files[of].id.to_string();
        replaced[by].split(',').any(|other| other == id)
    };
    let is_newer = |one: &BundleFile, other: &BundleFile| {
        (one.last_modified, one.id) > (other.last_modified, other.id)
    };
    let mut left: Vec<&BundleFile> = Vec::new();
    for (of, file) in files.iter().enumerate() {
        let obsolete = (0..files.len())
            .any(|by| by != of && says(by, of) && (!says(of, by) || is_newer(&files[by], file)));
        if !obsolete {
            left.push(file);
        }
    }
    if left.len() > 1 {
        let Some(younger) = youngest(place, hash, files, &left).await? else {
            return Ok(None);
        };
        left = younger;
    }
    left.sort_by_key(|file| (file.last_modified, file.id));
    let winner = left
        .pop()
        .ok_or_else(|| corrupt("bundles of one ref replace each other in a circle"))?;
    Ok(Some(Choice {
        winner: winner.clone(),
        strays: left.into_iter().cloned().collect(),
    }))
}

/// Those that no other one descends from; `None` when one is gone meanwhile.
async fn youngest<'a>(
    place: &Arc<Place>,
    hash: HashKind,
    files: &[BundleFile],
    left: &[&'a BundleFile],
) -> Result<Option<Vec<&'a BundleFile>>> {
    let library = Library::new(place, hash, files.to_vec());
    let mut books = Vec::new();
    for file in left {
        match library.read(file).await {
            Ok(book) => books.push(book),
            Err(error) if error.kind() == crate::ErrorKind::Conflict => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let database = database(place, hash, &books)?;
    let mut younger = Vec::new();
    for file in left {
        let mut obsolete = false;
        for other in left {
            obsolete |= other.id != file.id && descends(&database, other.id, file.id).await?;
        }
        if !obsolete {
            younger.push(*file);
        }
    }
    Ok(Some(younger))
}

/// Whether a commit, or the commit of a tag, has another one among its ancestors, or is it.
pub(super) async fn descends(
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
    Ok(history(database, &[ancestor], &[id]).await?.is_empty())
}
