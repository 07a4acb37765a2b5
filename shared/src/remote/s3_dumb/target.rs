//! Receives a push.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use bstr::BString;

use super::files::remove_found_loose;
use super::keys::{ObjectRole, RepositoryKeys};
use super::publish::{PackToPublish, upload_staged};
use super::{DumbOptions, DumbSnapshot, loose, parse, refs, repack};
use crate::error::{Error, ErrorKind, Result};
use crate::git::dumb_http::{write_head, write_info_refs};
use crate::git::object::ObjectKind;
use crate::git::odb::Database;
use crate::git::pack::{Bases, Index, NoBases};
use crate::git::{HashKind, ObjectId};
use crate::remote::dumb_files::odb::{Indexes, database, packs};
use crate::remote::dumb_files::pack_list::{PackList, PackSize};
use crate::remote::lazy_bases::LazyBases;
use crate::remote::{
    BatchPolicy, Head, IncomingPack, Leftovers, Push, PushReport, ReceivedObjects, RefUpdate,
    RefValue, Refs, Snapshot, Target, TargetCapabilities, VerifiedPack, is_branch, is_head_valid,
    missing_objects_error,
};
use crate::storage::spool::Spool;
use crate::storage::{ETag, delete_leftovers};

/// Retries when the pack list was changed by another client.
const MAX_LIST_RETRIES: u32 = 10;

/// Repository opened for writing.
pub(super) struct DumbTarget {
    keys: RepositoryKeys,
    options: Arc<DumbOptions>,
    snapshot: Snapshot,
    refs: Option<ETag>,
    head: Option<ETag>,
    listed: Option<Listed>,
    indexes: Indexes,
    // Packs that contain objects which the new ones reference.
    required_packs: Vec<ObjectId>,
    // Whether refs get stored objects that no ref need have named until now.
    uses_stored: bool,
    // Index of the last pack that was pushed.
    pushed_index: Option<Index>,
    // New ids of refs that the pack contains and that are tags, trees and blobs.
    pushed_non_commits: Vec<ObjectId>,
}

/// `objects/info/packs` with its entity tag.
#[derive(Debug, Clone, Default)]
struct Listed {
    list: PackList,
    etag: Option<ETag>,
}

impl Listed {
    async fn read(keys: &RepositoryKeys) -> Result<Self> {
        Ok(match keys.read(&ObjectRole::Packs).await? {
            None => Self::default(),
            Some((bytes, etag)) => Self {
                list: parse(keys, "objects/info/packs", PackList::parse(&bytes))?,
                etag: Some(etag),
            },
        })
    }
}

#[async_trait]
impl Target for DumbTarget {
    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn capabilities(&self) -> TargetCapabilities {
        TargetCapabilities {
            batches: BatchPolicy::BySize,
            thin: false,
            offset_deltas: true,
            head: true,
            unborn_head: true,
            sets_aside: true,
            max_changes: usize::MAX,
        }
    }

    fn bases(&self) -> Option<Arc<dyn Bases>> {
        let (keys, options) = (self.keys.clone(), Arc::clone(&self.options));
        let hash = self.snapshot.hash;
        Some(Arc::new(LazyBases::new(move || {
            let (keys, limits) = (keys.clone(), options.read_limits());
            async move {
                let list = Listed::read(&keys).await?.list;
                let files = keys.files();
                let packs = packs(&files, &list, hash, &mut Indexes::default()).await?;
                let database: Arc<dyn Bases> = Arc::new(database(&files, limits, hash, packs)?);
                Ok(database)
            }
        })))
    }

    fn is_atomic(&self) -> bool {
        // All refs are in one object.
        true
    }

    async fn delete_leftovers(&mut self, which: Leftovers) -> Result<()> {
        let keys = &self.keys;
        let written_before = which.written_before((self.options.clock)());
        let prefix = keys.staged_prefix();
        let deleted = delete_leftovers(&*keys.store, &keys.bucket, &prefix, written_before);
        deleted.await.map(drop)
    }

    async fn push(&mut self, push: Push) -> Result<PushReport> {
        // A conflict is found before anything is written.
        refs::check_unchanged(&self.snapshot.refs, &push.changes)?;
        let named = push
            .changes
            .iter()
            .filter_map(|change| Some(change.new?.id));
        let detached = match push.head {
            Some(Head::Detached(id)) => Some(id),
            _ => None,
        };
        let mut roots: Vec<ObjectId> = named.chain(detached).collect();
        roots.sort_unstable();
        roots.dedup();
        self.pushed_index = None;
        self.pushed_non_commits = Vec::new();
        self.uses_stored = false;
        let mut report = PushReport::default();
        let objects = match push.pack {
            None => {
                self.uses_stored = self.has_other_than_tips(&roots);
                self.require(roots).await?;
                None
            }
            Some(incoming) => Some(self.receive_pack(incoming, &roots, &mut report).await?),
        };
        if self.uses_stored {
            self.record_use().await?;
        }
        if let (Some(publish_hook), Some(objects)) = (&push.publish_hook, &objects) {
            publish_hook.before_publish(objects).await?;
        }
        let non_commits = self.non_commits(&push.changes).await?;
        let changes = push.changes;
        let mut after = refs::apply(&self.snapshot.refs, changes, objects.as_ref(), &non_commits)?;
        drop(objects);
        if push.atomic && after.has_rejection() {
            report.refs = after.into_none_changed();
            return Ok(report);
        }
        self.peel(&mut after.refs).await?;
        if self.refs.is_none() || after.refs != self.snapshot.refs {
            let bytes = write_info_refs(&after.refs);
            let etag = self
                .keys
                .replace(&ObjectRole::Refs, bytes, self.refs.as_ref());
            self.refs = Some(etag.await?);
            let first = after.refs.values().next();
            self.snapshot.hash = first.map_or(self.snapshot.hash, |target| target.id.kind());
            self.snapshot.refs = after.refs;
        }
        if let Some(head) = push.head
            && self.snapshot.head.as_ref() != Some(&head)
            && is_head_valid(&head, &self.snapshot.refs)
        {
            let bytes = write_head(&head);
            let etag = self
                .keys
                .replace(&ObjectRole::Head, bytes, self.head.as_ref());
            self.head = Some(etag.await?);
            self.snapshot.head = Some(head);
        }
        report.refs = after.outcomes;
        Ok(report)
    }
}

impl DumbTarget {
    pub(super) fn new(
        keys: RepositoryKeys,
        options: Arc<DumbOptions>,
        opened: DumbSnapshot,
    ) -> Self {
        Self {
            keys,
            options,
            snapshot: opened.snapshot,
            refs: opened.refs,
            head: opened.head,
            listed: None,
            indexes: Indexes::default(),
            required_packs: Vec::new(),
            uses_stored: false,
            pushed_index: None,
            pushed_non_commits: Vec::new(),
        }
    }

    /// Peels new refs whose tag objects were stored before.
    async fn peel(&mut self, refs: &mut Refs) -> Result<()> {
        let old = &self.snapshot.refs;
        let needs_peeling = |name: &BString, target: &RefValue| {
            target.peeled.is_none()
                && !is_branch(name)
                && old.get(name) != Some(target)
                && self
                    .pushed_index
                    .as_ref()
                    .is_none_or(|index| index.find(target.id).is_none())
        };
        let unknown = refs
            .iter_mut()
            .filter(|(name, target)| needs_peeling(name, target));
        let unknown: Vec<&mut RefValue> = unknown.map(|(_, target)| target).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let database = self.stored_objects(unknown[0].id.kind()).await?;
        for target in unknown {
            let (peeled, _) = database.peel(target.id).await?;
            target.peeled = (peeled != target.id).then_some(peeled);
        }
        Ok(())
    }

    /// Returns the new values of branches that are not commits.
    async fn non_commits(&mut self, changes: &[RefUpdate]) -> Result<Vec<ObjectId>> {
        let mut non_commits = self.pushed_non_commits.clone();
        let branches = self.snapshot.refs.iter();
        let known = branches.filter(|(name, _)| is_branch(name));
        let known: HashSet<ObjectId> = known.map(|(_, value)| value.id).collect();
        let pushed = self.pushed_index.as_ref();
        let is_pushed = |id| pushed.is_some_and(|index| index.find(id).is_some());
        let stored: BTreeSet<ObjectId> = changes
            .iter()
            .filter(|change| is_branch(&change.name))
            .filter_map(|change| Some(change.new?.id))
            .filter(|id| !known.contains(id) && !is_pushed(*id))
            .collect();
        let Some(first) = stored.first() else {
            return Ok(non_commits);
        };
        let database = self.stored_objects(first.kind()).await?;
        for id in stored {
            if database.peel(id).await? != (id, ObjectKind::Commit) {
                non_commits.push(id);
            }
        }
        Ok(non_commits)
    }

    /// Opens the objects that were stored before the push.
    async fn stored_objects(&mut self, hash: HashKind) -> Result<Arc<Database>> {
        let list = match &self.listed {
            Some(listed) => listed.list.clone(),
            None => Listed::read(&self.keys).await?.list,
        };
        let files = self.keys.files();
        let packs = packs(&files, &list, hash, &mut self.indexes).await?;
        let database = database(&files, self.options.read_limits(), hash, packs)?;
        Ok(Arc::new(database))
    }

    async fn listed(&mut self) -> Result<&mut Listed> {
        if self.listed.is_none() {
            self.listed = Some(Listed::read(&self.keys).await?);
        }
        Ok(self.listed.as_mut().expect("because it was just set"))
    }

    /// Checks that the repository has these objects. A stored object's references are stored
    /// too, because a pack is listed only after they were checked.
    async fn require(&mut self, mut missing: Vec<ObjectId>) -> Result<()> {
        let tips = self.snapshot.tips();
        missing.retain(|id| tips.binary_search(id).is_err());
        if missing.is_empty() {
            return Ok(());
        }
        if self.options.loose {
            remove_found_loose(&self.keys, &mut missing).await?;
        }
        if !missing.is_empty() {
            let packs = self.listed().await?.list.packs.clone();
            let (keys, indexes) = (&self.keys, &mut self.indexes);
            indexes.remove_found(keys, &packs, &mut missing).await?;
            self.required_packs = packs;
        }
        if !missing.is_empty() && !self.options.loose {
            remove_found_loose(&self.keys, &mut missing).await?;
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(missing_objects_error(&missing).into())
        }
    }

    /// Receives a pack, verifies it, and publishes its objects.
    async fn receive_pack(
        &mut self,
        mut incoming: IncomingPack,
        roots: &[ObjectId],
        report: &mut PushReport,
    ) -> Result<ReceivedObjects> {
        let mut writer = upload_staged(&self.keys, self.options.memory / 2)?;
        while let Some(bytes) = incoming.chunk().await? {
            writer.push(bytes).await?;
        }
        let verified = incoming.finish()?;
        report.objects = verified.received.objects() as u64;
        report.bytes = verified.received.size_bytes();
        let spool = writer.finish().await?;
        let published = self.publish_received(verified, &spool, roots).await;
        spool.remove().await;
        published
    }

    async fn publish_received(
        &mut self,
        verified: VerifiedPack,
        spool: &Spool,
        roots: &[ObjectId],
    ) -> Result<ReceivedObjects> {
        let (resolved, objects, missing) = verified.resolve(spool, &NoBases, roots).await?;
        self.require(missing).await?;
        let is_sent = |id: &ObjectId| resolved.index.find(*id).is_some();
        let stored = roots.iter().copied().filter(|id| !is_sent(id));
        self.uses_stored = self.has_other_than_tips(&stored.collect::<Vec<_>>());
        self.pushed_index = Some(resolved.index.clone());
        let is_commit = |at: usize| resolved.kinds.get(at) == Some(&ObjectKind::Commit);
        let non_commits = roots.iter().copied().filter(|id| {
            let at = resolved.index.find(*id);
            at.is_some_and(|at| !is_commit(at))
        });
        self.pushed_non_commits = non_commits.collect();
        if resolved.index.is_empty() {
            return Ok(objects);
        }
        if self.options.loose {
            loose::write(&self.keys, &self.options, &resolved, spool).await?;
        } else {
            let index = &resolved.index;
            self.add(PackToPublish { index, spool }).await?;
        }
        Ok(objects)
    }

    /// Publishes a pack, merged with small stored ones.
    async fn add(&mut self, new: PackToPublish<'_>) -> Result<()> {
        if self.refs.is_none() && self.listed.is_none() {
            // A repository without refs has no list; if it has one, writing this one fails.
            self.listed = Some(Listed::default());
        }
        let (keys, options) = (self.keys.clone(), Arc::clone(&self.options));
        let list = self.listed().await?.list.clone();
        if list.covers(new.id()) {
            self.uses_stored = true;
            self.required_packs.push(new.id());
            return Ok(());
        }
        let old = repack::select_packs(&list, new.size(), options.largest_merged);
        let mut merged = None;
        if !old.is_empty() {
            let indexes = &mut self.indexes;
            match repack::merge_packs(&keys, &options, &list, indexes, &old, new).await {
                Ok(made) => merged = Some(made),
                // Not an error, because many packs are only slower to read.
                Err(error) => tracing::warn!(
                    remote = %keys,
                    error = %error.report(),
                    "small packs could not be merged"
                ),
            }
        }
        let (packed, old) = match &merged {
            Some((index, spool)) => (PackToPublish { index, spool }, old),
            None => (new, Vec::new()),
        };
        let (now, grace) = ((options.clock)(), options.grace_seconds());
        let other = if list.is_being_deleted(packed.id(), now, grace) {
            Some(repack::with_other_id(&keys, &options, packed).await?)
        } else {
            None
        };
        let packed = match &other {
            Some((index, spool)) => PackToPublish { index, spool },
            None => packed,
        };
        let listed = self.list(packed, &old).await;
        for (_, spool) in merged.into_iter().chain(other) {
            spool.remove().await;
        }
        listed
    }

    fn has_other_than_tips(&self, ids: &[ObjectId]) -> bool {
        let tips = self.snapshot.tips();
        ids.iter().any(|id| tips.binary_search(id).is_err())
    }

    /// Checks that no other client has removed packs on which the push depends.
    fn check_required_packs(&self, list: &PackList) -> Result<()> {
        if self.required_packs.iter().all(|pack| list.covers(*pack)) {
            return Ok(());
        }
        let message = format!("another client removed packs of {}", self.keys);
        Err(Error::new(ErrorKind::Conflict, message).with_hint("push again"))
    }

    /// Records in the list of packs that stored objects are used which need not be reachable, so
    /// that they are not pruned before the refs are written.
    async fn record_use(&mut self) -> Result<()> {
        let (now, grace) = ((self.options.clock)(), self.options.grace_seconds());
        for _ in 0..MAX_LIST_RETRIES {
            let read = self.listed().await?.clone();
            self.check_required_packs(&read.list)?;
            let is_recorded = read
                .list
                .used
                .is_some_and(|since| now.saturating_sub(since) < grace / 2);
            let Some(etag) = read.etag.filter(|_| !is_recorded) else {
                return Ok(());
            };
            let mut list = read.list;
            list.used = Some(now);
            let bytes = list.write();
            match (self.keys)
                .replace(&ObjectRole::Packs, bytes, Some(&etag))
                .await
            {
                Ok(etag) => {
                    let etag = Some(etag);
                    self.listed = Some(Listed { list, etag });
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Conflict => self.listed = None,
                Err(error) => return Err(error),
            }
        }
        Err(self.list_changed_error())
    }

    fn list_changed_error(&self) -> Error {
        let message = format!(
            "the pack list of {} was changed by other clients in each of {MAX_LIST_RETRIES} tries",
            self.keys
        );
        Error::new(ErrorKind::Conflict, message)
    }

    /// Writes a pack and lists it in place of the packs `old`.
    async fn list(&mut self, packed: PackToPublish<'_>, old: &[ObjectId]) -> Result<()> {
        packed.publish(&self.keys).await?;
        let (id, size) = (packed.id(), packed.size());
        self.indexes.insert(id, packed.index.clone());
        for _ in 0..MAX_LIST_RETRIES {
            let read = self.listed().await?.clone();
            self.check_required_packs(&read.list)?;
            let (now, grace) = ((self.options.clock)(), self.options.grace_seconds());
            if read.list.is_being_deleted(id, now, grace) {
                let message = format!("another client deletes pack {id} of {}", self.keys);
                return Err(Error::new(ErrorKind::Conflict, message).with_hint("push again"));
            }
            if let Some(etag) = self.write_list(&read, id, size, old).await? {
                let listed = self.listed().await?;
                listed.etag = Some(etag);
                return Ok(());
            }
            self.listed = None;
        }
        Err(self.list_changed_error())
    }

    /// Writes the list of packs; `None` when another client changed it since it was read.
    async fn write_list(
        &mut self,
        read: &Listed,
        id: ObjectId,
        size: PackSize,
        old: &[ObjectId],
    ) -> Result<Option<ETag>> {
        let mut list = read.list.clone();
        let now = (self.options.clock)();
        list.add(id, size, old, now);
        if self.uses_stored {
            list.used = Some(now);
        }
        repack::delete_superseded(&self.keys, &self.options, &mut list).await;
        if let Some(etag) = &read.etag
            && list == read.list
        {
            return Ok(Some(etag.clone()));
        }
        let written = self
            .keys
            .replace(&ObjectRole::Packs, list.write(), read.etag.as_ref());
        match written.await {
            Ok(etag) => {
                self.listed().await?.list = list;
                Ok(Some(etag))
            }
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }
}
