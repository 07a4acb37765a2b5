//! Examines a bundle remote by its keys, and each ref in doubt by one request.

use std::collections::HashSet;
use std::sync::Arc;

use bstr::BString;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::keys::{BundleFile, Folders, RefFolder, common_hash};
use super::options::{BundleLocation, REPLACES};
use crate::error::Result;
use crate::git::ObjectId;
use crate::name::ObjectKey;
use crate::remote::maintenance::{
    Examination, ExaminedRef, Problem, ProblemKind, conflicting_names, head_problem,
};
use crate::remote::{RefValue, Refs};

/// Size in bytes of the smallest bundle: two lines of a header with an id of SHA-1 and a name of
/// one letter, a blank line, and an empty pack.
const MIN_BUNDLE_BYTES: u64 = 92;
/// Number of refs in doubt that are examined at once.
const CONCURRENT_REFS: usize = 16;

/// Examines a remote: one list of all refs, two requests for the remote, and one for each ref
/// with several bundles.
pub(super) async fn examine(location: &Arc<BundleLocation>) -> Result<Examination> {
    let info_refs = ObjectKey::new(&format!("{}info/refs", location.prefix))?;
    let (folders, head, other_layout) = tokio::try_join!(
        location.folders("refs/".into()),
        location.read_head(),
        location.store.head(&location.bucket, &info_refs),
    )?;
    let refs = newest_refs(&folders);
    let now = (location.options.clock)();
    let lifetime = i64::try_from(location.options.lock_lifetime.as_secs()).unwrap_or(i64::MAX);
    let lock_age = |folder: &RefFolder| {
        let lock = folder.lock.as_ref()?;
        Some(now.saturating_sub(lock.last_modified).max(0))
    };
    let mut problems = Vec::new();
    for (name, folder) in &folders {
        if let Some(age) = lock_age(folder).filter(|age| *age > lifetime) {
            let message = format!("a killed client left the lock of `{name}` {age} seconds ago");
            problems.push(problem(ProblemKind::StaleLock, name, message));
        }
        let small = folder.bundles.iter();
        for file in small.filter(|file| file.size_bytes < MIN_BUNDLE_BYTES) {
            let message = format!(
                "`{}` is not a bundle: it has {} bytes",
                file.key, file.size_bytes
            );
            problems.push(problem(ProblemKind::UnreadableBundle, name, message));
        }
    }
    // During a push a ref has two bundles for a moment.
    let mut in_doubt = Vec::new();
    for (name, folder) in &folders {
        if folder.bundles.len() > 1 && lock_age(folder).is_none_or(|age| age > lifetime) {
            let (location, name) = (Arc::clone(location), name.clone());
            in_doubt.push(several_bundles(location, name, folder.clone()));
        }
    }
    let in_doubt = futures_util::stream::iter(in_doubt).buffered(CONCURRENT_REFS);
    let in_doubt: Vec<Option<Problem>> = in_doubt.try_collect().await?;
    problems.extend(in_doubt.into_iter().flatten());
    problems.extend(conflicting_names(&refs));
    problems.extend(head_problem(head.name.as_ref(), &refs));
    if other_layout.is_some() {
        let message = format!("`{info_refs}` belongs to a repository in layout `dumb`");
        problems.push(of_remote(ProblemKind::MixedLayouts, message));
    }
    if let Err(error) = common_hash(&folders) {
        problems.push(of_remote(ProblemKind::MixedHashes, error.report()));
    }
    problems.sort_by_key(|problem| problem.kind);
    let refs = refs.iter().filter_map(|(name, value)| {
        let folder = folders.get(name)?;
        Some(ExaminedRef {
            name: name.clone(),
            id: value.id,
            bundles: folder.bundles.len(),
            protected: folder.protected,
            has_archive: folder.archive.is_some(),
            lock_age_seconds: lock_age(folder),
        })
    });
    Ok(Examination {
        layout: "bundle",
        head: head.name,
        refs: refs.collect(),
        problems,
    })
}

/// Returns the refs of folders, each at its newest bundle.
pub(super) fn newest_refs(folders: &Folders) -> Refs {
    let newest = folders.iter().filter_map(|(name, folder)| {
        let id = newest_first(folder).first()?.id;
        Some((name.clone(), RefValue { id, peeled: None }))
    });
    newest.collect()
}

/// Returns the bundles of a folder, the newest first.
pub(super) fn newest_first(folder: &RefFolder) -> Vec<&BundleFile> {
    let mut files: Vec<_> = folder.bundles.iter().collect();
    files.sort_by_key(|file| std::cmp::Reverse((file.last_modified, file.id)));
    files
}

fn problem(kind: ProblemKind, name: &BString, message: String) -> Problem {
    Problem {
        refs: vec![name.clone()],
        ..of_remote(kind, message)
    }
}

fn of_remote(kind: ProblemKind, message: String) -> Problem {
    Problem {
        kind,
        refs: Vec::new(),
        bundles: Vec::new(),
        message,
    }
}

/// Describes the bundles of a ref by the metadata of the newest; `None` if that was deleted
/// meanwhile.
async fn several_bundles(
    location: Arc<BundleLocation>,
    name: BString,
    folder: RefFolder,
) -> Result<Option<Problem>> {
    let files = newest_first(&folder);
    let Some((newest, others)) = files.split_first() else {
        return Ok(None);
    };
    let Some(head) = location.store.head(&location.bucket, &newest.key).await? else {
        return Ok(None);
    };
    let replaced = head.metadata.user.get(REPLACES).map_or("", String::as_str);
    let replaced = replaced
        .split(',')
        .map(|id| ObjectId::from_hex(id.as_bytes()));
    let replaced: HashSet<ObjectId> = replaced.filter_map(Result::ok).collect();
    let ids: Vec<String> = files
        .iter()
        .map(|file| file.id.to_hex_with_len(7).to_string())
        .collect();
    let ids = ids.join(", ");
    let message = if others.iter().all(|file| replaced.contains(&file.id)) {
        format!("an interrupted push left older bundles of `{name}`; newest first: {ids}")
    } else {
        format!("several pushes wrote `{name}` at once; its bundles, newest first: {ids}")
    };
    Ok(Some(Problem {
        bundles: files.iter().map(|file| file.id).collect(),
        ..problem(ProblemKind::SeveralBundles, &name, message)
    }))
}
