//! Decides how a ref's bundle is written: copied, composed of another one, or from scratch.

use std::collections::HashMap;
use std::sync::Arc;

use bstr::BString;

use super::bundle_reader::OpenBundle;
use super::catalog::BundleCatalog;
use super::competing::{ResolvedRef, is_descendant};
use super::compose::{BundleBody, Composition};
use super::indexed_bundle::IndexedBundle;
use super::receive::AvailableObjects;
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::bundle::Header;
use crate::git::odb::{Database, commit_graph, reachable_objects};
use crate::remote::STALE_PREFIX;

/// New bundle of a ref.
pub(super) struct BundlePlan {
    pub(super) body: BundleBody,
    /// Objects from which the bundle is made, and those of the old bundle.
    pub(super) database: Arc<Database>,
    /// Whether the new commit descends from the old one, or the ref is new.
    pub(super) is_fast_forward: bool,
}

/// Plans the bundle of `new` for the ref `name`, whose current state is `found`. The bundle
/// may be composed of one in `recent`.
pub(super) async fn plan(
    catalog: &BundleCatalog,
    available: &AvailableObjects,
    recent: &[Arc<IndexedBundle>],
    name: &BString,
    found: Option<&ResolvedRef>,
    new: ObjectId,
) -> Result<BundlePlan> {
    let old = match found {
        Some(found) => Some(catalog.read(&found.file).await?),
        None => None,
    };
    if found.is_none() && name.starts_with(STALE_PREFIX.as_bytes()) {
        return plan_renamed(catalog, name, new).await;
    }
    let database = available.database(catalog, old.as_ref())?;
    if let Some(bundle) = find_identical(catalog, new).await? {
        // Only protected branches need this check.
        let is_protected = found.is_some_and(|found| found.expected.protected);
        let is_fast_forward = match old.filter(|_| is_protected) {
            None => true,
            Some(old) => {
                let identical = catalog.read(&bundle.file).await?;
                let old_id = old.bundle.file.id;
                let database = catalog.database(None, &[old, identical])?;
                is_descendant(&database, new, old_id).await?
            }
        };
        return Ok(BundlePlan {
            body: BundleBody::Copy(Box::new(bundle)),
            database,
            is_fast_forward,
        });
    }
    let is_fast_forward = match &old {
        None => true,
        Some(old) => is_descendant(&database, new, old.bundle.file.id).await?,
    };
    let base = match old.filter(|old| is_fast_forward && old.bundle.is_full()) {
        Some(old) => Some(old),
        None => find_base(available, recent, &database, found.is_none(), new).await?,
    };
    let body = compose(catalog, Some(available), &database, base, name, new).await?;
    Ok(BundlePlan {
        body,
        database,
        is_fast_forward,
    })
}

/// Plans the bundle of a ref that is set aside: its objects are in other bundles, and its own
/// name is in the header, because some readers look for it there.
async fn plan_renamed(
    catalog: &BundleCatalog,
    name: &BString,
    new: ObjectId,
) -> Result<BundlePlan> {
    let bundles = catalog.find(&[new]).await?;
    let database = catalog.database(None, &bundles)?;
    let is_base =
        |bundle: &&Arc<IndexedBundle>| bundle.bundle.file.id == new && bundle.bundle.is_full();
    let base = bundles.iter().find(is_base).cloned();
    let body = compose(catalog, None, &database, base, name, new).await?;
    Ok(BundlePlan {
        body,
        database,
        is_fast_forward: true,
    })
}

/// Composes the bundle of `new` of `base`, if any, and of the objects that `base` does not have.
async fn compose(
    catalog: &BundleCatalog,
    available: Option<&AvailableObjects>,
    database: &Arc<Database>,
    base: Option<Arc<IndexedBundle>>,
    name: &BString,
    new: ObjectId,
) -> Result<BundleBody> {
    let mut header = Header::new(catalog.hash());
    header.refs.push((new, name.clone()));
    let composition = Composition {
        hash: catalog.hash(),
        header,
        base: None,
        objects: Vec::new(),
        known: None,
        spooled: None,
        database: Arc::clone(database),
        options: catalog.location().options.clone(),
    };
    let available = available.filter(|_| base.is_none());
    let spooled = available.and_then(|available| available.spooled.clone());
    // The pack has everything that its only root needs, which was checked as it was received.
    if let Some(spooled) = &spooled
        && available.is_some_and(|available| available.has_one_root)
        && spooled.index.find(new).is_some()
    {
        return Ok(BundleBody::Compose(Box::new(Composition {
            objects: spooled.index.ids().collect(),
            spooled: Some(Arc::clone(spooled)),
            ..composition
        })));
    }
    let tip: Vec<_> = base.iter().map(|base| base.bundle.file.id).collect();
    // Fails if an object that the new commit needs is missing.
    let closure = reachable_objects(database, &[new], &tip).await?;
    let mut objects = closure.objects;
    if let Some(base) = &base {
        objects.retain(|id| !base.objects.contains(*id));
    }
    Ok(BundleBody::Compose(Box::new(Composition {
        known: base.is_some().then_some(closure.known),
        base,
        spooled: spooled.filter(|spooled| spooled.consists_of(&objects)),
        objects,
        ..composition
    })))
}

/// Finds a full bundle of the same id.
async fn find_identical(catalog: &BundleCatalog, id: ObjectId) -> Result<Option<OpenBundle>> {
    let files = catalog.files();
    let Some(file) = files.into_iter().find(|file| file.id == id) else {
        return Ok(None);
    };
    let bundle = OpenBundle::open(catalog.location(), file).await?;
    Ok(bundle.is_full().then_some(bundle))
}

/// Finds a bundle of which the bundle of `id` can be composed.
async fn find_base(
    available: &AvailableObjects,
    recent: &[Arc<IndexedBundle>],
    database: &Arc<Database>,
    is_new_ref: bool,
    id: ObjectId,
) -> Result<Option<Arc<IndexedBundle>>> {
    let full = available.bundles.iter();
    let full = full.filter(|bundle| bundle.bundle.is_full());
    let mut candidates: Vec<_> = recent.iter().chain(full).collect();
    candidates.sort_by_key(|base| std::cmp::Reverse(base.bundle.file.size_bytes));
    for base in &candidates {
        if is_descendant(database, id, base.bundle.file.id).await? {
            return Ok(Some(Arc::clone(base)));
        }
    }
    if !is_new_ref {
        return Ok(None);
    }
    // Copying a base with a few superfluous objects is cheaper than sending everything.
    for base in candidates {
        let OpenBundle { location, file, .. } = &base.bundle;
        // Small bundles are rewritten with exactly the objects they need.
        let is_small = file.size_bytes < 2 * location.options.min_part_bytes as u64;
        if is_small || !database.contains(file.id).await? {
            continue;
        }
        let superfluous = commit_graph(database, &[file.id], &[id]).await?.len();
        if superfluous == 0 {
            continue;
        }
        let total = commit_graph(database, &[file.id], &[]).await?.len();
        if superfluous * 4 <= total {
            return Ok(Some(Arc::clone(base)));
        }
    }
    Ok(None)
}

/// Numbers the commits of `new` that are in `database` in topological order, without the
/// commits of `tips`.
pub(super) async fn topological_order(
    database: &Arc<Database>,
    new: &[ObjectId],
    tips: &[ObjectId],
) -> Result<HashMap<ObjectId, usize>> {
    let mut commits = Vec::new();
    for id in new {
        if database.contains(*id).await? {
            commits.push((*id, database.peel(*id).await?.0));
        }
    }
    let wants: Vec<_> = commits.iter().map(|(id, _)| *id).collect();
    let numbers: HashMap<_, _> = commit_graph(database, &wants, tips)
        .await?
        .into_iter()
        .zip(1..)
        .map(|(commit, number)| (commit.id, number))
        .collect();
    let number = |commit| numbers.get(&commit).copied().unwrap_or_default();
    Ok(commits
        .into_iter()
        .map(|(id, commit)| (id, number(commit)))
        .collect())
}
