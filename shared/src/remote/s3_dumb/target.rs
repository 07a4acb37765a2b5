//! Taking in a push.

use std::sync::Arc;

use async_trait::async_trait;
use bstr::BString;

use super::keys::{ObjectRole, RepositoryKeys};
use super::odb::{Indexes, database, find_loose, packs};
use super::pack_list::{PackList, PackSize};
use super::publish::{PackToPublish, upload_staged};
use super::{DumbOptions, DumbSnapshot, consolidate, loose, parse, refs};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::dumb_http::{write_head, write_info_refs};
use crate::git::pack::{Index, NoBases};
use crate::remote::{
    BatchPolicy, Head, IncomingPack, Push, PushReport, ReceivedObjects, RefTarget, Refs, Snapshot,
    Spool, Target, TargetCapabilities, VerifiedPack, missing_objects_error,
};
use crate::storage::ETag;

/// How often the list of packs is read anew because someone else changed it.
const MAX_LIST_CONFLICTS: u32 = 10;

/// A repository that was opened to be written to.
pub(super) struct DumbTarget {
    place: RepositoryKeys,
    options: Arc<DumbOptions>,
    snapshot: Snapshot,
    refs: Option<ETag>,
    head: Option<ETag>,
    listed: Option<Listed>,
    indexes: Indexes,
    // Packs whose objects the new ones need.
    stands_on: Vec<ObjectId>,
    // The index of the last pack that was pushed.
    arrived: Option<Index>,
}

/// `objects/info/packs` as it was read.
#[derive(Debug, Clone, Default)]
struct Listed {
    list: PackList,
    etag: Option<ETag>,
}

impl Listed {
    async fn read(place: &RepositoryKeys) -> Result<Self> {
        Ok(match place.read(&ObjectRole::Packs).await? {
            None => Self::default(),
            Some((bytes, etag)) => Self {
                list: parse(place, "objects/info/packs", PackList::parse(&bytes))?,
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

    fn accepts(&self) -> TargetCapabilities {
        TargetCapabilities {
            batches: BatchPolicy::BySize,
            thin: false,
            offset_deltas: true,
            head: true,
            max_changes: usize::MAX,
        }
    }

    async fn push(&mut self, push: Push) -> Result<PushReport> {
        // Before anything is written.
        refs::apply(&self.snapshot.refs, &push.changes, None)?;
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
        self.arrived = None;
        let mut report = PushReport::default();
        let watch = match push.pack {
            None => {
                self.require(roots).await?;
                None
            }
            Some(incoming) => Some(self.receive_pack(incoming, &roots, &mut report).await?),
        };
        if let (Some(before_refs), Some(watch)) = (&push.before_refs, &watch) {
            before_refs.pre_publish(watch).await?;
        }
        let mut changed = refs::apply(&self.snapshot.refs, &push.changes, watch.as_ref())?;
        self.peel(&mut changed.refs).await?;
        if self.refs.is_none() || changed.refs != self.snapshot.refs {
            let bytes = write_info_refs(&changed.refs);
            let etag = self
                .place
                .replace(&ObjectRole::Refs, bytes, self.refs.as_ref());
            self.refs = Some(etag.await?);
            let first = changed.refs.values().next();
            self.snapshot.hash = first.map_or(self.snapshot.hash, |target| target.id.kind());
            self.snapshot.refs = changed.refs;
        }
        if let Some(head) = push.head
            && self.snapshot.head.as_ref() != Some(&head)
        {
            let bytes = write_head(&head);
            let etag = self
                .place
                .replace(&ObjectRole::Head, bytes, self.head.as_ref());
            self.head = Some(etag.await?);
            self.snapshot.head = Some(head);
        }
        report.refs = changed.outcomes;
        Ok(report)
    }
}

impl DumbTarget {
    pub(super) fn new(
        place: RepositoryKeys,
        options: Arc<DumbOptions>,
        opened: DumbSnapshot,
    ) -> Self {
        Self {
            place,
            options,
            snapshot: opened.snapshot,
            refs: opened.refs,
            head: opened.head,
            listed: None,
            indexes: Indexes::default(),
            stands_on: Vec::new(),
            arrived: None,
        }
    }

    /// Peels tags whose objects were there before, and named by no ref.
    async fn peel(&mut self, refs: &mut Refs) -> Result<()> {
        let was = &self.snapshot.refs;
        let fresh = |name: &BString, target: &RefTarget| {
            target.peeled.is_none()
                && !name.starts_with(b"refs/heads/")
                && was.get(name) != Some(target)
                && self
                    .arrived
                    .as_ref()
                    .is_none_or(|index| index.find(target.id).is_none())
        };
        let unknown = refs.iter_mut().filter(|(name, target)| fresh(name, target));
        let unknown: Vec<&mut RefTarget> = unknown.map(|(_, target)| target).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let list = match &self.listed {
            Some(listed) => listed.list.clone(),
            None => Listed::read(&self.place).await?.list,
        };
        let hash = unknown[0].id.kind();
        let packs = packs(&self.place, &list, hash, &mut self.indexes).await?;
        let database = database(&self.place, &self.options, hash, packs)?;
        for target in unknown {
            let (peeled, _) = database.peel(target.id).await?;
            target.peeled = (peeled != target.id).then_some(peeled);
        }
        Ok(())
    }

    async fn listed(&mut self) -> Result<&mut Listed> {
        if self.listed.is_none() {
            self.listed = Some(Listed::read(&self.place).await?);
        }
        Ok(self.listed.as_mut().expect("because it was just set"))
    }

    /// Makes sure that the repository has these objects. Each one that it has, it has
    /// with all that it needs: no pack is listed before that was looked at.
    async fn require(&mut self, mut missing: Vec<ObjectId>) -> Result<()> {
        let tips = self.snapshot.tips();
        missing.retain(|id| tips.binary_search(id).is_err());
        if missing.is_empty() {
            return Ok(());
        }
        if self.options.loose {
            find_loose(&self.place, &mut missing).await?;
        }
        if !missing.is_empty() {
            let packs = self.listed().await?.list.packs.clone();
            let (place, indexes) = (&self.place, &mut self.indexes);
            indexes.find(place, &packs, &mut missing).await?;
            self.stands_on = packs;
        }
        if !missing.is_empty() && !self.options.loose {
            find_loose(&self.place, &mut missing).await?;
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(missing_objects_error(&missing).into())
        }
    }

    /// Collects a pack, verifies it and makes its objects readable.
    async fn receive_pack(
        &mut self,
        mut incoming: IncomingPack,
        roots: &[ObjectId],
        report: &mut PushReport,
    ) -> Result<ReceivedObjects> {
        let mut writer = upload_staged(&self.place, self.options.memory / 2)?;
        while let Some(bytes) = incoming.chunk().await? {
            writer.push(bytes).await?;
        }
        let arrived = incoming.finish()?;
        report.objects = arrived.received.objects() as u64;
        report.bytes = arrived.received.size_bytes();
        let spool = writer.finish().await?;
        let kept = self.publish_received(arrived, &spool, roots).await;
        spool.remove().await;
        kept
    }

    async fn publish_received(
        &mut self,
        arrived: VerifiedPack,
        spool: &Spool,
        roots: &[ObjectId],
    ) -> Result<ReceivedObjects> {
        let (resolved, watch, missing) = arrived.resolve(spool, &NoBases, roots).await?;
        self.require(missing).await?;
        self.arrived = Some(resolved.index.clone());
        if resolved.index.is_empty() {
            return Ok(watch);
        }
        if self.options.loose {
            loose::write(&self.place, &self.options, &resolved, spool).await?;
        } else {
            let index = &resolved.index;
            self.add(PackToPublish { index, spool }).await?;
        }
        Ok(watch)
    }

    /// Publishes a pack, merged with small ones that are there.
    async fn add(&mut self, fresh: PackToPublish<'_>) -> Result<()> {
        if self.refs.is_none() && self.listed.is_none() {
            // Most likely there is no list; if there is, writing this one fails.
            self.listed = Some(Listed::default());
        }
        let (place, options) = (self.place.clone(), Arc::clone(&self.options));
        let list = self.listed().await?.list.clone();
        if list.supersedes(fresh.id()) {
            return Ok(());
        }
        let old = consolidate::select_packs(&list, fresh.size(), options.largest_merged);
        if !old.is_empty() {
            let indexes = &mut self.indexes;
            let merged =
                consolidate::merge_packs(&place, &options, &list, indexes, &old, fresh).await;
            match merged {
                Ok((index, spool)) => {
                    let packed = PackToPublish {
                        index: &index,
                        spool: &spool,
                    };
                    let done = self.list(packed, &old).await;
                    spool.remove().await;
                    done?;
                    consolidate::delete_staged_orphans(&place, &options).await;
                    return Ok(());
                }
                // Many packs are slow to read, and nothing worse.
                Err(error) => tracing::warn!(
                    remote = %place,
                    error = %error.report(),
                    "small packs could not be merged"
                ),
            }
        }
        self.list(fresh, &[]).await
    }

    /// Writes a pack and lists it in place of others.
    async fn list(&mut self, packed: PackToPublish<'_>, instead_of: &[ObjectId]) -> Result<()> {
        packed.publish(&self.place).await?;
        let (id, size) = (packed.id(), packed.size());
        self.indexes.insert(id, packed.index.clone());
        for _ in 0..MAX_LIST_CONFLICTS {
            let was = self.listed().await?.clone();
            if self
                .stands_on
                .iter()
                .any(|pack| !was.list.supersedes(*pack))
            {
                let message = format!("someone else removed packs of {}", self.place);
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            if let Some(etag) = self.write_list(&was, id, size, instead_of).await? {
                let listed = self.listed().await?;
                listed.etag = Some(etag);
                return Ok(());
            }
            self.listed = None;
        }
        let message = format!("the list of packs of {} changes all the time", self.place);
        Err(Error::new(ErrorKind::Conflict, message))
    }

    /// Writes the list of packs; `None` when someone else changed it meanwhile.
    async fn write_list(
        &mut self,
        was: &Listed,
        id: ObjectId,
        size: PackSize,
        instead_of: &[ObjectId],
    ) -> Result<Option<ETag>> {
        let mut list = was.list.clone();
        list.add(id, size, instead_of, (self.options.clock)());
        consolidate::delete_superseded(&self.place, &self.options, &mut list).await;
        if let Some(etag) = &was.etag
            && list == was.list
        {
            return Ok(Some(etag.clone()));
        }
        let written = self
            .place
            .replace(&ObjectRole::Packs, list.write(), was.etag.as_ref());
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
