//! A bundle remote that is read.

use std::sync::Arc;

use async_trait::async_trait;
use bstr::BString;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::BundleLocation;
use super::catalog::{BundleCatalog, database};
use super::competing::{self, Ref};
use super::keys::{BundleFile, one_hash};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::odb;
use crate::git::refs::{Head, RefTarget};
use crate::name::ObjectKey;
use crate::remote::{CommitGraph, PackBody, PackRequest, Snapshot, Source};

/// A remote as it was when it was opened.
pub(super) struct BundleSnapshot {
    pub(super) snapshot: Snapshot,
    pub(super) refs: Vec<(BString, Ref)>,
    pub(super) library: BundleCatalog,
}

impl BundleSnapshot {
    /// Lists, and chooses where a ref has several bundles.
    pub(super) async fn new(place: &Arc<BundleLocation>, prefixes: &[BString]) -> Result<Self> {
        // One list of everything is cheaper than one for each prefix.
        let start = match prefixes {
            [one] if one.starts_with(b"refs/") => one.clone(),
            _ => "refs/".into(),
        };
        let (folders, head) =
            futures_util::future::try_join(place.folders(start.as_ref()), place.read_head())
                .await?;
        let hash = one_hash(&folders)?;
        let refs = competing::refs(place, hash, folders).await?;
        let targets = refs.iter().map(|(name, found)| {
            let target = RefTarget {
                id: found.file.id,
                peeled: None,
            };
            (name.clone(), target)
        });
        let snapshot = Snapshot {
            hash,
            refs: targets.collect(),
            head: head.map(Head::Symbolic),
        };
        // What lost its ref, too: an incremental bundle may stand on it.
        let files = refs.iter().flat_map(|(_, found)| {
            let rest = found.seen.files.iter().filter(|file| **file != found.file);
            std::iter::once(&found.file).chain(rest)
        });
        let mut files: Vec<_> = files.cloned().collect();
        files.dedup();
        Ok(Self {
            snapshot,
            library: BundleCatalog::new(place, hash, files),
            refs,
        })
    }
}

/// A remote that was opened to be read.
pub(super) struct BundleSource {
    place: Arc<BundleLocation>,
    opened: BundleSnapshot,
}

impl BundleSource {
    pub(super) async fn open(place: &Arc<BundleLocation>, prefixes: &[BString]) -> Result<Self> {
        let opened = BundleSnapshot::new(place, prefixes).await?;
        let Snapshot { refs, head, .. } = &opened.snapshot;
        if refs.is_empty() {
            // Pruned by what only looks empty, a mirror would lose everything.
            no_info_refs(place).await?;
        }
        if refs.is_empty() && head.is_none() {
            // There may be refs that were not asked for.
            let page = place
                .store
                .list(&place.bucket, place.prefix.as_str(), Some("/"), None)
                .await?;
            if page.objects.is_empty() && page.common_prefixes.is_empty() {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("there is nothing under `{place}`"),
                )
                .with_hint("check the bucket and the prefix, or push to it first"));
            }
        }
        Ok(Self {
            place: Arc::clone(place),
            opened,
        })
    }

    /// The bundle whose pack is what is asked for, as it lies.
    fn copy_whole_pack(&self, wanted: &PackRequest) -> Option<BundleFile> {
        let [want] = wanted.wants.as_slice() else {
            return None;
        };
        if !wanted.haves.is_empty() || !wanted.offset_deltas {
            return None;
        }
        let files = self.opened.library.files();
        files.into_iter().find(|file| file.id == *want).cloned()
    }

    /// Which of the wanted objects no bundle is called by.
    fn is_bundle_tip(&self, id: ObjectId) -> bool {
        self.opened
            .refs
            .iter()
            .any(|(_, found)| found.file.id == id)
    }
}

#[async_trait]
impl Source for BundleSource {
    fn snapshot(&self) -> &Snapshot {
        &self.opened.snapshot
    }

    async fn fetch(&self, wanted: &PackRequest) -> Result<PackBody> {
        let library = &self.opened.library;
        if let Some(file) = self.copy_whole_pack(wanted)
            && let Some(whole) = library.cached_or_remote_pack(&file).await?
        {
            return Ok(whole);
        }
        let books = library.find(&wanted.wants).await.map_err(|error| {
            let unknown = wanted.wants.iter().find(|id| !self.is_bundle_tip(**id));
            match (error.kind(), unknown) {
                (ErrorKind::Corrupt, Some(id)) => {
                    Error::new(ErrorKind::NotFound, format!("object {id}")).with_source(error)
                }
                _ => error,
            }
        })?;
        let database = database(&self.place, self.opened.snapshot.hash, &books)?;
        let doubts = Arc::clone(&library.doubts);
        match odb::fetch(&database, wanted).await {
            Ok(pack) => Ok(pack
                .or_else(move |error| {
                    let doubts = Arc::clone(&doubts);
                    async move { Err(doubts.discard_on_error(error.into()).await.into()) }
                })
                .boxed()),
            Err(error) => Err(doubts.discard_on_error(error.into()).await),
        }
    }

    fn has_cheap_history(&self) -> bool {
        true
    }

    async fn commit_graph(
        &self,
        wants: &[ObjectId],
        haves: &[ObjectId],
    ) -> Result<Option<CommitGraph>> {
        let books = self.opened.library.find(wants).await?;
        let database = database(&self.place, self.opened.snapshot.hash, &books)?;
        match odb::graph(&database, wants, haves).await {
            Ok(graph) => Ok(Some(graph)),
            Err(error) => {
                let doubts = &self.opened.library.doubts;
                Err(doubts.discard_on_error(error.into()).await)
            }
        }
    }
}

/// Makes sure that a prefix without bundles is no repository that stock git clones, whose
/// `HEAD` would be overwritten.
pub(super) async fn no_info_refs(place: &BundleLocation) -> Result<()> {
    let key = ObjectKey::new(&format!("{}info/refs", place.prefix))?;
    if place.store.head(&place.bucket, &key).await?.is_none() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Config,
        format!("{place} holds a repository that is no repository of bundles (`{key}`)"),
    )
    .with_hint("use layout `dumb` for it, or another prefix"))
}
