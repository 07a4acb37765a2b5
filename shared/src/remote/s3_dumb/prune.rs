//! Removes objects that no ref needs.
//!
//! A collection never takes away what a push needs that runs meanwhile:
//!
//! * It reads the list of packs, then the refs, and replaces the list only if it is unchanged. So
//!   of a push that writes the list meanwhile, one of both gets a conflict.
//! * A push that had written the list before has a young pack. The objects of packs that were written
//!   within the grace period are kept, with all objects that they need.
//! * A push sends all objects that no ref of its remote reaches, and writes the refs only if they
//!   are unchanged. Where it depends on other stored objects, it says so in the list (`U`), and
//!   nothing is pruned for the grace period.
//! * The files of replaced packs are kept for the grace period, for readers of an older list, and a
//!   push does not write files of these names while they may be deleted.
//!
//! A pack of any size is rewritten if it has objects that are not needed. Its entries are copied as
//! they are stored, in bounded memory, and the new pack is uploaded in parts. A delta whose base is
//! removed is expanded, one at a time; if one of these exceeds the memory, nothing is pruned.
//!
//! Loose objects are kept. A push may write an object again that is stored and not needed, with the
//! same content and entity tag, between the check and the deletion, and S3 has no precondition by
//! which a deletion would spare the new one.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt as _;

use super::keys::ObjectRole;
use super::publish::{PackToPublish, upload_staged};
use super::{DumbRemote, DumbSnapshot, repack};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::odb::{Database, PackOptions, indexed_pack, reachable_objects};
use crate::git::pack::Index;
use crate::remote::Head;
use crate::remote::dumb_files::odb::{Indexes, database, packs};
use crate::remote::dumb_files::pack_list::PackList;
use crate::storage::ETag;
use crate::storage::spool::Spool;

/// Result of a collection that pruned objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pruned {
    /// Number of objects in no listed pack any more.
    pub(super) objects: usize,
    /// Number of packs that were replaced.
    pub(super) replaced: usize,
    /// Number of packs that are listed now.
    pub(super) packs: usize,
}

/// Packs to be replaced.
struct PrunePlan {
    database: Arc<Database>,
    /// Listed packs that are older than the grace period. Those that are too large to be merged are
    /// among them only if they have objects that are not needed.
    replaced: Vec<ObjectId>,
    /// Objects of the replaced packs to keep.
    kept: Vec<ObjectId>,
    /// Number of objects of the replaced packs that are not needed.
    unneeded: usize,
}

/// Packs that were published and not listed, because the list had changed. They are listed as pruned
/// by the next attempt.
#[derive(Debug, Default)]
pub(super) struct Abandoned(Vec<ObjectId>);

/// Replaces old packs by one without the objects that no ref needs; `None` if each object is needed
/// or may be needed.
///
/// # Errors
/// `Conflict` when another client changed the list of packs meanwhile.
pub(super) async fn prune(
    remote: &DumbRemote,
    list: &PackList,
    etag: &ETag,
    abandoned: &mut Abandoned,
) -> Result<Option<Pruned>> {
    let (keys, options) = (&remote.keys, &remote.options);
    let (now, grace) = ((options.clock)(), options.grace_seconds());
    if list
        .used
        .is_some_and(|since| now.saturating_sub(since) <= grace)
    {
        tracing::info!(remote = %keys, "nothing is pruned: a push has used stored objects");
        return Ok(None);
    }
    let Some(plan) = plan(remote, list, now, grace).await? else {
        return Ok(None);
    };
    let made = if plan.kept.is_empty() {
        None
    } else {
        match pack_of(remote, &plan).await {
            Err(error) if error.kind() == ErrorKind::FileTooLarge => {
                let error = error.report();
                tracing::warn!(remote = %keys, error, "nothing is pruned: an object is too large");
                return Ok(None);
            }
            made => Some(made?),
        }
    };
    let listed = list_pruned(remote, list, etag, &plan, made.as_ref(), abandoned).await;
    if let Some((_, spool)) = made {
        spool.remove().await;
    }
    Ok(listed?.map(|packs| Pruned {
        objects: plan.unneeded,
        replaced: plan.replaced.len(),
        packs,
    }))
}

/// Writes the new pack and the list; returns the number of listed packs, or `None` if a pack of this
/// id is being deleted.
async fn list_pruned(
    remote: &DumbRemote,
    list: &PackList,
    etag: &ETag,
    plan: &PrunePlan,
    made: Option<&(Index, Spool)>,
    abandoned: &mut Abandoned,
) -> Result<Option<usize>> {
    let (keys, options) = (&remote.keys, &remote.options);
    let (now, grace) = ((options.clock)(), options.grace_seconds());
    let mut list = list.clone();
    // Each has the objects of packs that are still listed.
    for id in &abandoned.0 {
        if !list.covers(*id) {
            list.prune_unlisted(*id, now);
        }
    }
    let packed = made.map(|(index, spool)| PackToPublish { index, spool });
    if let Some(packed) = packed {
        if list.is_being_deleted(packed.id(), now, grace) {
            tracing::info!(remote = %keys, "nothing is pruned: such a pack is being deleted");
            return Ok(None);
        }
        packed.publish(keys).await?;
    }
    let new = packed.map(|packed| (packed.id(), packed.size()));
    list.prune(new, &plan.replaced, now);
    repack::delete_superseded(keys, options, &mut list).await;
    let written = keys.replace(&ObjectRole::Packs, list.write(), Some(etag));
    if let Err(error) = written.await {
        abandoned.0.extend(new.map(|(id, _)| id));
        return Err(error);
    }
    Ok(Some(list.packs.len()))
}

/// Finds the objects of old packs that no ref and no young object needs.
async fn plan(
    remote: &DumbRemote,
    list: &PackList,
    now: i64,
    grace: i64,
) -> Result<Option<PrunePlan>> {
    let (keys, options) = (&remote.keys, &remote.options);
    let written = written_times(remote).await?;
    let is_old = |id: &&ObjectId| {
        let age = written.get(*id).map(|time| now.saturating_sub(*time));
        age.is_some_and(|age| age > grace) && list.sizes.contains_key(*id)
    };
    let old: Vec<ObjectId> = list.packs.iter().filter(is_old).copied().collect();
    if old.is_empty() {
        return Ok(None);
    }
    // Read after the list: what is named by a ref that is written later is in a young pack.
    let snapshot = DumbSnapshot::read(keys).await?.snapshot;
    let mut indexes = Indexes::default();
    let files = keys.files();
    let stored = packs(&files, list, snapshot.hash, &mut indexes).await?;
    let database = database(&files, options.read_limits(), snapshot.hash, stored)?;
    let database = Arc::new(database);
    let mut roots = snapshot.tips();
    if let Some(Head::Detached(id)) = snapshot.head {
        roots.push(id);
    }
    let needed = match needed_objects(&database, list, &old, &roots, &mut indexes, remote).await {
        Ok(needed) => needed,
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
            let error = error.report();
            tracing::warn!(remote = %keys, error, "nothing is pruned: objects are missing");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let is_needed = |id| needed.iter().any(|closure| closure.contains(id));
    let (mut replaced, mut kept, mut unneeded) = (Vec::new(), Vec::new(), Vec::new());
    for pack in &old {
        let index = indexes.read(keys, snapshot.hash, *pack).await?;
        let is_large = list
            .sizes
            .get(pack)
            .is_none_or(|size| size.bytes > options.largest_merged);
        if is_large && index.ids().all(&is_needed) {
            continue;
        }
        replaced.push(*pack);
        let (here, others): (Vec<ObjectId>, Vec<ObjectId>) =
            index.ids().partition(|id| is_needed(*id));
        kept.extend(here);
        unneeded.extend(others);
    }
    unneeded.sort_unstable();
    unneeded.dedup();
    let unneeded = unneeded.len();
    Ok((unneeded > 0).then_some(PrunePlan {
        database,
        replaced,
        kept,
        unneeded,
    }))
}

/// Returns the objects that refs need, and those that young objects need.
async fn needed_objects(
    database: &Arc<Database>,
    list: &PackList,
    old: &[ObjectId],
    roots: &[ObjectId],
    indexes: &mut Indexes,
    remote: &DumbRemote,
) -> Result<[crate::git::odb::Closure; 2]> {
    let by_refs = reachable_objects(database, roots, &[]).await?;
    let mut young = Vec::new();
    for pack in list.packs.iter().filter(|pack| !old.contains(pack)) {
        let index = indexes.read(&remote.keys, database.hash(), *pack).await?;
        for id in index.ids().filter(|id| !by_refs.contains(*id)) {
            // A blob needs no other object.
            if !database.is_whole_blob(id).await? {
                young.push(id);
            }
        }
    }
    let by_young = reachable_objects(database, &young, roots).await?;
    Ok([by_refs, by_young])
}

/// Returns the times at which packs were written, in seconds since the epoch.
async fn written_times(remote: &DumbRemote) -> Result<HashMap<ObjectId, i64>> {
    let keys = &remote.keys;
    let prefix = format!("{}objects/pack/pack-", keys.prefix);
    let (mut found, mut next) = (HashMap::new(), None);
    loop {
        let page = keys
            .store
            .list(&keys.bucket, &prefix, None, next.as_deref())
            .await?;
        for object in &page.objects {
            let name = object.key.as_str().strip_prefix(&prefix);
            let hex = name.and_then(|name| name.strip_suffix(".pack"));
            let id = hex.and_then(|hex| ObjectId::from_hex(hex.as_bytes()).ok());
            found.extend(id.map(|id| (id, object.last_modified)));
        }
        next = page.next;
        if next.is_none() {
            return Ok(found);
        }
    }
}

/// Makes a pack of the objects to keep.
async fn pack_of(remote: &DumbRemote, plan: &PrunePlan) -> Result<(Index, Spool)> {
    let options = PackOptions {
        known: None,
        offset_deltas: true,
    };
    let kept = plan.kept.iter().copied();
    let (mut body, index) = indexed_pack(&plan.database, kept, options)?;
    let mut writer = upload_staged(&remote.keys, remote.options.memory / 2)?;
    while let Some(bytes) = body.next().await.transpose()? {
        writer.push(bytes).await?;
    }
    let index = index
        .await
        .map_err(|_| Error::new(ErrorKind::Internal, "a pack was made without its index"))?;
    Ok((index, writer.finish().await?))
}
