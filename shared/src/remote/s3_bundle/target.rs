//! A bundle remote that is written to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use bstr::{BString, ByteSlice};
use futures_util::StreamExt as _;

use super::BundleLocation;
use super::archive::ArchiveAction;
use super::bundle_reader::OpenBundle;
use super::catalog::{BundleCatalog, IndexedBundle, database_with};
use super::competing::{Ref, is_descendant};
use super::completed_pack::Overlay;
use super::compose::CopyBase;
use super::delete;
use super::expected_ref::{ExpectedRef, stale_ref_error};
use super::outcome::RefResult;
use super::plan::BundlePlan;
use super::publish::{MOST_REPLACED, publish};
use super::source::{BundleSnapshot, no_info_refs};
use crate::error::{Error, ErrorKind, Result};
use crate::git::odb::{Database, StoredPack, commit_graph};
use crate::git::refs::RefOutcome;
use crate::git::{HashKind, ObjectId};
use crate::name::ObjectKey;
use crate::remote::{
    BatchPolicy, IncomingPack, Push, PushReport, RefUpdate, Snapshot, Spool, SpoolConfig,
    SpoolWriter, Target, TargetCapabilities,
};
use crate::storage::PutOptions;

/// How many refs are moved at once.
const REFS_AT_ONCE: usize = 8;

/// A remote that was opened to be written to.
pub struct BundleTarget {
    pub(super) place: Arc<BundleLocation>,
    pub(super) opened: BundleSnapshot,
    pub(super) hash: HashKind,
    /// Bundles that were just written or used, the latest last.
    pub(super) fresh: Vec<CopyBase>,
    /// Refs that were pushed, with all that is kept beside them.
    pub(super) archived: HashSet<BString>,
}

impl std::fmt::Debug for BundleTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BundleTarget")
            .field("place", &self.place.to_string())
            .finish_non_exhaustive()
    }
}

/// What became of each ref of a push.
#[derive(Debug, Default)]
pub struct PushResults {
    /// Each of the push's changes, in its order; an error where the ref was not changed,
    /// or where nobody knows.
    pub refs: Vec<(BString, Result<RefOutcome>)>,
    /// How many objects the pack had.
    pub objects: u64,
    /// How many bytes of objects were sent.
    pub bytes: u64,
}

/// What has arrived, and where else the objects lie that refs need.
pub(super) struct AvailableObjects {
    arrived: Option<StoredPack>,
    pub(super) books: Vec<Arc<IndexedBundle>>,
    spool: Option<Arc<Spool>>,
    objects: u64,
    /// The refs are there for a while only.
    temporary: bool,
}

impl BundleTarget {
    pub(super) async fn open(place: &Arc<BundleLocation>) -> Result<Self> {
        let opened = BundleSnapshot::new(place, &[]).await?;
        if opened.refs.is_empty() {
            no_info_refs(place).await?;
        }
        Ok(Self {
            place: Arc::clone(place),
            hash: opened.snapshot.hash,
            opened,
            fresh: Vec::new(),
            archived: HashSet::new(),
        })
    }

    /// Takes objects in and changes refs, and tells of each what became of it.
    ///
    /// # Errors
    /// When the objects did not arrive whole, and so no ref was touched.
    pub async fn push_all(&mut self, push: Push) -> Result<PushResults> {
        let new: Vec<ObjectId> = push
            .changes
            .iter()
            .filter_map(|change| Some(change.new?.id))
            .collect();
        self.check_hash_function(&new)?;
        let doubts = Arc::clone(&self.opened.library.doubts);
        let mut stock = match self.receive_pack(push.pack, push.before_refs, &new).await {
            Ok(stock) => stock,
            Err(error) => return Err(doubts.discard_on_error(error).await),
        };
        stock.temporary = push.temporary;
        let mut each = PushResults {
            objects: stock.objects,
            ..PushResults::default()
        };
        let outcome = self.change(&push.changes, &stock, &mut each).await;
        let outcome = match outcome {
            Ok(()) => Ok(()),
            Err(error) => Err(doubts.discard_on_error(error).await),
        };
        // The books hold what the spool may still be read for.
        stock.arrived = None;
        if let Some(spool) = stock.spool.take().and_then(Arc::into_inner) {
            spool.remove().await;
        }
        outcome?;
        self.write_head(push.head, &push.changes, &each).await?;
        Ok(each)
    }

    /// Makes sure that the new ids are of the remote's hash function, which the first ones
    /// of an empty remote tell.
    fn check_hash_function(&mut self, new: &[ObjectId]) -> Result<()> {
        if self.opened.refs.is_empty()
            && let Some(first) = new.first()
            && first.kind() != self.hash
        {
            self.hash = first.kind();
            self.opened.snapshot.hash = self.hash;
            self.opened.library = BundleCatalog::new(&self.place, self.hash, Vec::new());
        }
        let Some(other) = new.iter().find(|id| id.kind() != self.hash) else {
            return Ok(());
        };
        let (place, hash, kind) = (&self.place, self.hash, other.kind());
        let message = format!("{place} holds ids of {hash}, and {other} is one of {kind}");
        Err(Error::new(ErrorKind::Config, message)
            .with_hint("git cannot translate between them: use an empty prefix"))
    }

    /// Takes the pack in, and finds what it and the new refs need.
    async fn receive_pack(
        &self,
        pack: Option<IncomingPack>,
        before_refs: Option<Arc<dyn crate::remote::PrePublishHook>>,
        new: &[ObjectId],
    ) -> Result<AvailableObjects> {
        let library = &self.opened.library;
        let Some(mut incoming) = pack else {
            let tips = self.opened.snapshot.tips();
            let unknown: Vec<_> = new
                .iter()
                .copied()
                .filter(|id| !tips.contains(id))
                .collect();
            return Ok(AvailableObjects {
                arrived: None,
                books: library.find(&unknown).await?,
                spool: None,
                objects: 0,
                temporary: false,
            });
        };
        let key = format!(
            "{}branchline/incoming-{:032x}.pack",
            self.place.prefix,
            rand::random::<u128>()
        );
        let spool_place = SpoolConfig {
            store: Arc::clone(&self.place.store),
            bucket: self.place.bucket.clone(),
            key: ObjectKey::new(&key)?,
            options: PutOptions {
                kms_key_id: self.place.options.kms_key_id.clone(),
                ..PutOptions::default()
            },
        };
        let mut writer = SpoolWriter::new(spool_place, self.place.options.limits.memory / 4);
        while let Some(bytes) = incoming.chunk().await? {
            writer.push(bytes).await?;
        }
        let arrived = incoming.finish()?;
        let size_bytes = arrived.received.size_bytes();
        let objects = arrived.received.objects() as u64;
        let spool = Arc::new(writer.finish().await?);
        let resolve = async {
            let (resolved, watch, missing) = arrived.resolve(&*spool, library, new).await?;
            let books = library.find(&missing).await?;
            if let Some(before_refs) = before_refs {
                before_refs.pre_publish(&watch).await?;
            }
            let bytes: Arc<dyn crate::git::pack::PackBytes> = spool.clone();
            Ok((
                Overlay::completed_thin_pack(bytes, size_bytes, &resolved),
                books,
            ))
        };
        match resolve.await {
            Ok((arrived, books)) => Ok(AvailableObjects {
                arrived: Some(arrived),
                books,
                spool: Some(spool),
                objects,
                temporary: false,
            }),
            Err(error) => {
                if let Some(spool) = Arc::into_inner(spool) {
                    spool.remove().await;
                }
                Err(error)
            }
        }
    }

    /// Changes the refs: older commits first, so that later bundles are composed of earlier
    /// ones.
    async fn change(
        &mut self,
        changes: &[RefUpdate],
        stock: &AvailableObjects,
        each: &mut PushResults,
    ) -> Result<()> {
        let mut order: Vec<usize> = (0..changes.len()).collect();
        if changes.len() > 1 && stock.arrived.is_some() {
            let ages = self.topological_order(changes, stock).await?;
            order.sort_by_key(|at| {
                let new = changes[*at].new.map(|new| new.id);
                new.map_or((0, 0), |id| (1, ages.get(&id).copied().unwrap_or_default()))
            });
        }
        let mut outcomes: HashMap<usize, Result<RefOutcome>> = HashMap::new();
        // The first ones alone: others may be composed of them.
        let mut at = 0;
        while at < order.len() {
            let width = if at == 0 && stock.arrived.is_some() {
                1
            } else {
                REFS_AT_ONCE
            };
            let wave = &order[at..order.len().min(at + width)];
            at += wave.len();
            let this = &*self;
            let done: Vec<(usize, Result<RefResult>)> =
                futures_util::stream::iter(wave.iter().copied())
                    .map(|number| async move {
                        (number, this.change_one(&changes[number], stock).await)
                    })
                    .buffer_unordered(REFS_AT_ONCE)
                    .collect()
                    .await;
            for (number, done) in done {
                let mut outcome =
                    done.and_then(|done| self.record_result(&changes[number], done, each));
                if let Err(error) = outcome {
                    outcome = Err(self.opened.library.doubts.discard_on_error(error).await);
                }
                outcomes.insert(number, outcome);
            }
        }
        each.refs = changes
            .iter()
            .enumerate()
            .map(|(number, change)| {
                let outcome = outcomes.remove(&number).unwrap_or(Ok(RefOutcome::Unknown));
                (change.name.clone(), outcome)
            })
            .collect();
        Ok(())
    }

    /// The new commits, numbered from the oldest.
    async fn topological_order(
        &self,
        changes: &[RefUpdate],
        stock: &AvailableObjects,
    ) -> Result<HashMap<ObjectId, usize>> {
        let database = self.database(stock, None)?;
        let new: Vec<_> = changes
            .iter()
            .filter_map(|change| Some(change.new?.id))
            .collect();
        let mut commits = Vec::new();
        for id in &new {
            if database.contains(*id).await? {
                commits.push((*id, database.peel(*id).await?.0));
            }
        }
        let wants: Vec<_> = commits.iter().map(|(id, _)| *id).collect();
        let numbers: HashMap<_, _> = commit_graph(&database, &wants, &self.opened.snapshot.tips())
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

    pub(super) fn database(
        &self,
        stock: &AvailableObjects,
        own: Option<&Arc<IndexedBundle>>,
    ) -> Result<Arc<Database>> {
        let mut books = stock.books.clone();
        if let Some(own) = own
            && !books.iter().any(|book| book.bundle.file == own.bundle.file)
        {
            books.push(Arc::clone(own));
        }
        database_with(&self.place, self.hash, stock.arrived.as_ref(), &books)
    }

    pub(super) fn find(&self, name: &BString) -> Option<&Ref> {
        let refs = &self.opened.refs;
        refs.iter()
            .find(|(other, _)| other == name)
            .map(|(_, found)| found)
    }

    async fn change_one(&self, change: &RefUpdate, stock: &AvailableObjects) -> Result<RefResult> {
        let found = self.find(&change.name);
        if found.map(|found| found.file.id) != change.old {
            return Err(stale_ref_error(change.name.as_bstr()));
        }
        let seen = match found {
            // What lost its ref lies in that one's folder, and is deleted there.
            Some(found) if found.seen.name != change.name => {
                return self.change_orphan(change, found, stock).await;
            }
            Some(found) => found.seen.clone(),
            None => ExpectedRef::absent(change.name.clone()),
        };
        let strays = found
            .map(|found| found.strays.as_slice())
            .unwrap_or_default();
        let is_protected = seen.protected;
        let Some(new) = change.new else {
            if is_protected {
                return Ok(RefResult::Rejected("the branch is protected".to_owned()));
            }
            if let Some(Ref { file, .. }) = found {
                delete::delete(&self.place, &seen, file, strays).await?;
            }
            return Ok(RefResult::Deleted);
        };
        let plan = self.plan(change, found, new.id, stock).await?;
        if is_protected && !plan.is_forward {
            let words = "the branch is protected, and the push is not a fast-forward";
            return Ok(RefResult::Rejected(words.to_owned()));
        }
        let (seen, strays) = match found {
            // More than a new bundle can say that it replaces. One that is not full may stand
            // on the others.
            Some(found)
                if seen.files.len() > MOST_REPLACED
                    && OpenBundle::open(&self.place, &found.file).await?.is_full() =>
            {
                delete::repair(&self.place, &seen, &found.file, strays).await?;
                let files = vec![found.file.clone()];
                (ExpectedRef { files, ..seen }, [].as_slice())
            }
            _ => (seen, strays),
        };
        // Those that the new commit descends from are in its bundle.
        let mut kept = Vec::new();
        for stray in strays {
            if !is_descendant(&plan.database, new.id, stray.id).await? {
                kept.push(stray.clone());
            }
        }
        let zip = self.archive_action(&plan, new.id, stock).await?;
        let published = publish(&self.place, &seen, &kept, new.id, &*plan.body, &zip).await?;
        Ok(self.cache_new_pack(published, plan.makes).await)
    }

    async fn archive_action(
        &self,
        plan: &BundlePlan,
        id: ObjectId,
        stock: &AvailableObjects,
    ) -> Result<ArchiveAction> {
        if stock.temporary {
            return Ok(ArchiveAction::Leave);
        }
        self.zip(&plan.database, id).await
    }

    /// Changes what was listed only because it lost its ref.
    async fn change_orphan(
        &self,
        change: &RefUpdate,
        found: &Ref,
        stock: &AvailableObjects,
    ) -> Result<RefResult> {
        if let Some(new) = change.new {
            let seen = ExpectedRef::absent(change.name.clone());
            let plan = self.plan(change, Some(found), new.id, stock).await?;
            let zip = self.archive_action(&plan, new.id, stock).await?;
            let published = publish(&self.place, &seen, &[], new.id, &*plan.body, &zip).await?;
            delete::delete_orphan(&self.place, &found.seen).await?;
            return Ok(self.cache_new_pack(published, plan.makes).await);
        }
        delete::delete_orphan(&self.place, &found.seen).await?;
        Ok(RefResult::Deleted)
    }
}

#[async_trait]
impl Target for BundleTarget {
    fn snapshot(&self) -> &Snapshot {
        &self.opened.snapshot
    }

    fn accepts(&self) -> TargetCapabilities {
        TargetCapabilities {
            batches: BatchPolicy::BySize,
            thin: true,
            offset_deltas: true,
            head: self.opened.snapshot.head.is_none(),
            max_changes: usize::MAX,
        }
    }

    async fn refresh_archives(&mut self, refs: &[BString]) -> Result<()> {
        self.refresh_outdated_archives(refs).await
    }

    async fn push(&mut self, push: Push) -> Result<PushReport> {
        let each = self.push_all(push).await?;
        let refs = each
            .refs
            .into_iter()
            .map(|(name, outcome)| Ok::<_, Error>((name, outcome?)))
            .collect::<Result<_>>()?;
        Ok(PushReport {
            refs,
            objects: each.objects,
            bytes: each.bytes,
        })
    }
}
