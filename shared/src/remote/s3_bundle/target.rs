//! Push side of a bundle remote.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use bstr::{BString, ByteSlice as _};
use futures_util::StreamExt as _;

use super::archive;
use super::atomic::change_all_or_none;
use super::catalog::BundleCatalog;
use super::change_order::{CONCURRENT_REFS, waves};
use super::competing::ResolvedRef;
use super::expected_ref::ExpectedRef;
use super::indexed_bundle::IndexedBundle;
use super::keys::BundleFile;
use super::options::BundleLocation;
use super::plan::topological_order;
use super::receive::AvailableObjects;
use super::ref_change::{PublishedRef, RefChanges, RefResult};
use super::repair;
use super::source::{BundleSnapshot, ensure_no_info_refs};
use super::stored_copies::StoredCopies;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::pack::Bases;
use crate::git::refs::{Head, RefOutcome, RefValue};
use crate::remote::lazy_bases::LazyBases;
use crate::remote::{
    BatchPolicy, Leftovers, Push, PushReport, RefUpdate, Snapshot, Target, TargetCapabilities,
};
use crate::storage::delete_leftovers;

/// Maximum number of bundles that were just written or used, as bases of other bundles.
const MAX_RECENT_BASES: usize = 16;

/// A bundle remote that was opened to push to it.
pub struct BundleTarget {
    location: Arc<BundleLocation>,
    opened: BundleSnapshot,
    /// Bundles that were just written or used, the latest last.
    recent: Vec<Arc<IndexedBundle>>,
    /// Refs that were pushed, and whose archives are current.
    archived: HashSet<BString>,
    /// Whether the size of all bundles was logged.
    has_warned: bool,
}

impl std::fmt::Debug for BundleTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BundleTarget")
            .field("location", &self.location.to_string())
            .finish_non_exhaustive()
    }
}

/// Result of each ref of a push.
#[derive(Debug, Default)]
pub struct PushResults {
    /// Updates of the push, in order; an error if the ref was not changed, or if that is not
    /// known.
    pub refs: Vec<(BString, Result<RefOutcome>)>,
    /// Number of objects in the pack.
    pub objects: u64,
    /// Number of bytes that were sent, without copied ones.
    pub bytes: u64,
}

impl BundleTarget {
    pub(super) async fn open(location: &Arc<BundleLocation>) -> Result<Self> {
        let opened = BundleSnapshot::new(location, &[]).await?;
        if opened.refs.is_empty() {
            ensure_no_info_refs(location).await?;
        }
        Ok(Self {
            location: Arc::clone(location),
            opened,
            recent: Vec::new(),
            archived: HashSet::new(),
            has_warned: false,
        })
    }

    /// Receives objects and changes refs; returns a result for each ref.
    ///
    /// # Errors
    /// Any, when the pack is incomplete or `HEAD` cannot be written. No ref was touched in the
    /// first case.
    pub async fn push_all(&mut self, push: Push) -> Result<PushResults> {
        let new: Vec<ObjectId> = push
            .changes
            .iter()
            .filter_map(|change| Some(change.new?.id))
            .collect();
        self.check_hash_function(&new)?;
        let catalog = &self.opened.catalog;
        let available = if let Some(pack) = push.pack {
            AvailableObjects::receive(catalog, pack, push.publish_hook, &new).await?
        } else {
            let tips = self.opened.snapshot.tips();
            let unknown = new.iter().copied().filter(|id| !tips.contains(id));
            AvailableObjects::locate(catalog, &unknown.collect::<Vec<_>>()).await?
        };
        let mut results = PushResults {
            objects: available.received_objects,
            ..PushResults::default()
        };
        let changed = self
            .change(
                &push.changes,
                &available,
                (push.atomic, push.temporary),
                &mut results,
            )
            .await;
        available.remove_spool().await;
        changed?;
        self.warn_of_repeated_history(&push.changes);
        self.write_head(push.head, &push.changes, &results).await?;
        self.location.check_kept_lock()?;
        Ok(results)
    }

    /// Logs once if the bundles, each with the whole history of its ref, take much more space than
    /// one repository.
    fn warn_of_repeated_history(&mut self, changes: &[RefUpdate]) {
        let has_grown = changes.iter().any(|change| change.new.is_some());
        if self.has_warned || !has_grown {
            return;
        }
        let refs = &self.opened.refs;
        if let Some(copies) = StoredCopies::find(refs.iter().map(|(_, r)| r.file.size_bytes)) {
            self.has_warned = true;
            tracing::warn!(
                remote = %self.location,
                size_bytes = copies.stored_bytes,
                largest.size_bytes = copies.largest_bytes,
                refs = refs.len(),
                "the layout `bundle` stores the history once for each ref: the layout `dumb` \
                 would store it once"
            );
        }
    }

    /// Checks that the new ids use the remote's hash function. An empty remote adopts that of
    /// the first id.
    fn check_hash_function(&mut self, new: &[ObjectId]) -> Result<()> {
        let BundleSnapshot {
            snapshot,
            refs,
            catalog,
            ..
        } = &mut self.opened;
        if refs.is_empty()
            && let Some(first) = new.first()
            && first.kind() != snapshot.hash
        {
            snapshot.hash = first.kind();
            *catalog = BundleCatalog::new(&self.location, snapshot.hash, Vec::new());
        }
        let Some(other) = new.iter().find(|id| id.kind() != snapshot.hash) else {
            return Ok(());
        };
        let (location, hash, kind) = (&self.location, snapshot.hash, other.kind());
        let message = format!("{location} holds ids of {hash}, and {other} is an id of {kind}");
        Err(Error::new(ErrorKind::Config, message)
            .with_hint("git cannot translate between them: use an empty prefix"))
    }

    /// Changes the refs: deletions of refs that are in the way of new ones; then new and moved
    /// refs, older commits first, so that later bundles are composed of earlier ones; then the
    /// other deletions.
    async fn change(
        &mut self,
        changes: &[RefUpdate],
        available: &AvailableObjects,
        (atomic, temporary): (bool, bool),
        results: &mut PushResults,
    ) -> Result<()> {
        if atomic && changes.len() > 1 {
            let made = self.ref_changes(available, temporary);
            let outcomes = change_all_or_none(&made, changes).await?;
            results.refs = changes
                .iter()
                .zip(outcomes)
                .map(|(change, result)| {
                    let outcome =
                        result.and_then(|result| self.record_result(change, result, results));
                    (change.name.clone(), outcome)
                })
                .collect();
            return Ok(());
        }
        let mut numbers = HashMap::new();
        if changes.len() > 1 && available.received.is_some() {
            let database = available.database(&self.opened.catalog, None)?;
            let new: Vec<_> = changes
                .iter()
                .filter_map(|change| Some(change.new?.id))
                .collect();
            let tips = self.opened.snapshot.tips();
            numbers = topological_order(&database, &new, &tips).await?;
        }
        // The first new ref alone, because the others may be composed of its bundle.
        let is_first_alone = available.received.is_some();
        let mut outcomes: HashMap<usize, Result<RefOutcome>> = HashMap::new();
        for wave in waves(changes, &numbers, is_first_alone) {
            let made = self.ref_changes(available, temporary);
            let made = &made;
            let wave_results: Vec<(usize, Result<RefResult>)> = futures_util::stream::iter(wave)
                .map(|number| async move { (number, made.change(&changes[number]).await) })
                .buffer_unordered(CONCURRENT_REFS)
                .collect()
                .await;
            for (number, result) in wave_results {
                let outcome =
                    result.and_then(|result| self.record_result(&changes[number], result, results));
                outcomes.insert(number, outcome);
            }
        }
        results.refs = changes
            .iter()
            .enumerate()
            .map(|(number, change)| {
                let outcome = outcomes.remove(&number).unwrap_or(Ok(RefOutcome::Unknown));
                (change.name.clone(), outcome)
            })
            .collect();
        Ok(())
    }

    fn ref_changes<'a>(
        &'a self,
        available: &'a AvailableObjects,
        temporary: bool,
    ) -> RefChanges<'a> {
        RefChanges {
            location: &self.location,
            opened: &self.opened,
            recent: &self.recent,
            available,
            temporary,
        }
    }

    /// Records the result of a ref, so that later pushes to this target are based on it.
    ///
    /// # Errors
    /// When the ref has moved and its archive could not be written.
    fn record_result(
        &mut self,
        change: &RefUpdate,
        result: RefResult,
        results: &mut PushResults,
    ) -> Result<RefOutcome> {
        let name = &change.name;
        let published = match result {
            RefResult::Rejected(words) => return Ok(RefOutcome::Rejected(words)),
            RefResult::Deleted => None,
            RefResult::Published(published) => Some(*published),
        };
        let found = self.opened.find(name).map(|found| &found.expected);
        let deleted = found.map(|expected| expected.files.clone());
        let deleted = deleted.unwrap_or_default();
        let protected = found.is_some_and(|expected| expected.protected);
        let file = published.as_ref().map(|published| published.file.clone());
        self.opened.catalog.replace(&deleted, file);
        self.recent
            .retain(|base| !deleted.contains(&base.bundle.file));
        self.opened.refs.retain(|(other, _)| other != name);
        self.opened.snapshot.refs.remove(name);
        let Some(published) = published else {
            self.archived.insert(name.clone());
            return Ok(RefOutcome::Done);
        };
        let PublishedRef {
            file,
            sent_bytes,
            archived,
            indexed,
            base,
        } = published;
        results.bytes += sent_bytes;
        if archived.is_ok() {
            self.archived.insert(name.clone());
        }
        let target = RefValue {
            id: file.id,
            peeled: None,
        };
        self.opened.snapshot.refs.insert(name.clone(), target);
        let found = ResolvedRef {
            file: file.clone(),
            expected: ExpectedRef {
                name: name.clone(),
                files: vec![file],
                protected,
            },
            orphans: Vec::new(),
            has_archive: true,
            has_abandoned_lock: false,
        };
        self.opened.refs.push((name.clone(), found));
        if let Some(indexed) = indexed {
            self.add_recent(indexed, base.as_ref());
        }
        archived.map(|()| RefOutcome::Done)
    }

    /// Adds a bundle that was just written, and moves its base to the end, because other
    /// bundles are likely to be composed of that, too.
    fn add_recent(&mut self, indexed: IndexedBundle, base: Option<&BundleFile>) {
        let is_base = |recent: &Arc<IndexedBundle>| Some(&recent.bundle.file) == base;
        if let Some(at) = self.recent.iter().position(is_base) {
            self.recent[at..].rotate_left(1);
        }
        if self.recent.len() == MAX_RECENT_BASES {
            self.recent.remove(0);
        }
        self.recent.push(Arc::new(indexed));
    }

    /// Writes `HEAD` if it is to change.
    async fn write_head(
        &mut self,
        head: Option<Head>,
        changes: &[RefUpdate],
        results: &PushResults,
    ) -> Result<()> {
        let read = &self.opened.head;
        let done = changes.iter().zip(&results.refs);
        let pushed = done.filter_map(|(change, (name, outcome))| {
            let exists = change.new.is_some() && matches!(outcome, Ok(RefOutcome::Done));
            exists.then_some(name)
        });
        let chosen = read.choose(head, &self.opened.snapshot.refs, pushed);
        let Some(chosen) = chosen else {
            return Ok(());
        };
        match self.location.write_head(&chosen.name, read).await {
            Ok(written) => self.opened.head = written,
            // Another push has written it meanwhile.
            Err(error) if error.kind() == ErrorKind::Conflict && !chosen.is_requested => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.opened.snapshot.head = Some(Head::Symbolic(chosen.name));
        Ok(())
    }
}

#[async_trait]
impl Target for BundleTarget {
    fn snapshot(&self) -> &Snapshot {
        &self.opened.snapshot
    }

    fn capabilities(&self) -> TargetCapabilities {
        TargetCapabilities {
            batches: BatchPolicy::BySize,
            thin: true,
            offset_deltas: true,
            head: true,
            unborn_head: false,
            sets_aside: true,
            max_changes: usize::MAX,
        }
    }

    fn accepts_head(&self, head: &Head) -> bool {
        matches!(head, Head::Symbolic(_))
    }

    fn bases(&self) -> Option<Arc<dyn Bases>> {
        let location = Arc::clone(&self.location);
        Some(Arc::new(LazyBases::new(move || {
            let location = Arc::clone(&location);
            async move {
                let opened = BundleSnapshot::new(&location, &[]).await?;
                let catalog: Arc<dyn Bases> = Arc::new(opened.catalog);
                Ok(catalog)
            }
        })))
    }

    fn is_atomic(&self) -> bool {
        true
    }

    async fn refresh_archives(&mut self, refs: &[BString]) -> Result<()> {
        let BundleSnapshot {
            catalog,
            refs: listed,
            ..
        } = &self.opened;
        archive::refresh_outdated(catalog, listed, refs, &self.archived).await
    }

    async fn push_each(&mut self, push: Push) -> Result<Vec<(BString, Result<RefOutcome>)>> {
        Ok(self.push_all(push).await?.refs)
    }

    async fn repair(&mut self, refs: &[BString]) -> Result<()> {
        for (name, found) in &mut self.opened.refs {
            if !refs.contains(name) {
                continue;
            }
            let is_repaired = repair::repair(&self.location, name, found).await?;
            if found.has_abandoned_lock && !is_repaired {
                repair::release_abandoned_lock(&self.location, name.as_bstr()).await?;
            }
            found.has_abandoned_lock = false;
        }
        Ok(())
    }

    async fn delete_leftovers(&mut self, which: Leftovers) -> Result<()> {
        let location = &self.location;
        let prefix = location.incoming_prefix();
        let written_before = which.written_before((location.options.clock)());
        let (store, bucket) = (&*location.store, &location.bucket);
        let deleted = delete_leftovers(store, bucket, &prefix, written_before);
        deleted.await.map(drop)
    }

    async fn push(&mut self, push: Push) -> Result<PushReport> {
        let results = self.push_all(push).await?;
        let refs = results
            .refs
            .into_iter()
            .map(|(name, outcome)| Ok::<_, Error>((name, outcome?)))
            .collect::<Result<_>>()?;
        Ok(PushReport {
            refs,
            objects: results.objects,
            bytes: results.bytes,
        })
    }
}
