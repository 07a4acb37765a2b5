//! Fetch side of a bundle remote.

use std::sync::Arc;

use async_trait::async_trait;
use bstr::BString;

use super::catalog::BundleCatalog;
use super::competing::{self, ResolvedRef};
use super::head::HeadFile;
use super::keys::{BundleFile, common_hash};
use super::options::BundleLocation;
use super::peel;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::odb::{self, Database};
use crate::git::refs::{Head, IgnoredRefs, RefValue, Refs};
use crate::name::ObjectKey;
use crate::remote::{CommitGraph, PackBody, PackRequest, Snapshot, Source};

/// State of a remote when it was opened.
pub(super) struct BundleSnapshot {
    pub(super) snapshot: Snapshot,
    pub(super) head: HeadFile,
    pub(super) refs: Vec<(BString, ResolvedRef)>,
    pub(super) catalog: BundleCatalog,
}

impl BundleSnapshot {
    /// Returns the ref of this name.
    pub(super) fn find(&self, name: &BString) -> Option<&ResolvedRef> {
        let mut refs = self.refs.iter();
        let found = refs.find(|(found, _)| found == name);
        found.map(|(_, found)| found)
    }

    /// Lists the refs that start with one of `prefixes`, and resolves refs with several
    /// bundles. All refs are listed if there is not exactly one prefix.
    pub(super) async fn new(location: &Arc<BundleLocation>, prefixes: &[BString]) -> Result<Self> {
        // Because one list of everything costs fewer requests than one for each prefix.
        let start = match prefixes {
            [prefix] if prefix.starts_with(b"refs/") => prefix.clone(),
            _ => "refs/".into(),
        };
        let (folders, head) =
            futures_util::future::try_join(location.folders(start.as_ref()), location.read_head())
                .await?;
        let hash = common_hash(&folders)?;
        let refs = competing::refs(location, hash, folders).await?;
        let targets = refs.iter().map(|(name, found)| {
            let target = RefValue {
                id: found.file.id,
                peeled: None,
            };
            (name.clone(), target)
        });
        let snapshot = Snapshot {
            hash,
            refs: targets.collect(),
            head: head.name.clone().map(Head::Symbolic),
            ignored: IgnoredRefs::default(),
        };
        // Also bundles without a ref, because incremental bundles may depend on them.
        let files = refs.iter().flat_map(|(_, found)| {
            let rest = found
                .expected
                .files
                .iter()
                .filter(|file| **file != found.file);
            std::iter::once(&found.file).chain(rest)
        });
        let mut files: Vec<_> = files.cloned().collect();
        files.dedup();
        Ok(Self {
            snapshot,
            head,
            catalog: BundleCatalog::new(location, hash, files),
            refs,
        })
    }
}

/// A bundle remote that was opened to fetch from it.
pub(super) struct BundleSource {
    opened: BundleSnapshot,
}

impl BundleSource {
    pub(super) async fn open(location: &Arc<BundleLocation>, prefixes: &[BString]) -> Result<Self> {
        let opened = BundleSnapshot::new(location, prefixes).await?;
        let Snapshot { refs, head, .. } = &opened.snapshot;
        if refs.is_empty() {
            // Because a mirror that prunes would delete everything if a repository in another
            // layout counted as empty.
            ensure_no_info_refs(location).await?;
        }
        if refs.is_empty() && head.is_none() {
            // Because there may be refs outside the prefixes.
            let page = location
                .store
                .list(&location.bucket, location.prefix.as_str(), Some("/"), None)
                .await?;
            if page.objects.is_empty() && page.common_prefixes.is_empty() {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("there is nothing under `{location}`"),
                )
                .with_hint("check the bucket and the prefix, or push to it first"));
            }
        }
        Ok(Self { opened })
    }

    /// Returns the bundle whose unchanged pack answers the request, if it is full.
    fn copy_whole_pack(&self, wanted: &PackRequest) -> Option<BundleFile> {
        let [want] = wanted.wants.as_slice() else {
            return None;
        };
        if !wanted.haves.is_empty() || !wanted.offset_deltas {
            return None;
        }
        let files = self.opened.catalog.files();
        files.into_iter().find(|file| file.id == *want).cloned()
    }

    /// Whether a ref names this id.
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
        let catalog = &self.opened.catalog;
        if let Some(file) = self.copy_whole_pack(wanted)
            && let Some(pack) = catalog.cached_or_remote_pack(&file).await?
        {
            return Ok(pack);
        }
        let bundles = catalog.find(&wanted.wants).await.map_err(|error| {
            let unknown = wanted.wants.iter().find(|id| !self.is_bundle_tip(**id));
            match (error.kind(), unknown) {
                (ErrorKind::Corrupt, Some(id)) => {
                    Error::new(ErrorKind::NotFound, format!("object {id}")).with_source(error)
                }
                _ => error,
            }
        })?;
        Ok(odb::fetch(&catalog.database(None, &bundles)?, wanted).await?)
    }

    fn has_cheap_history(&self) -> bool {
        true
    }

    async fn commit_graph(
        &self,
        wants: &[ObjectId],
        haves: &[ObjectId],
    ) -> Result<Option<CommitGraph>> {
        let catalog = &self.opened.catalog;
        let bundles = catalog.find(wants).await?;
        let database = catalog.database(None, &bundles)?;
        Ok(Some(odb::graph(&database, wants, haves).await?))
    }

    async fn peel_tags(&self, refs: &mut Refs) {
        let unknown = self.opened.refs.iter().filter(|(name, _)| {
            let target = refs.get(name);
            name.starts_with(b"refs/tags/") && target.is_some_and(|found| found.peeled.is_none())
        });
        let files = unknown.map(|(name, found)| (name.clone(), found.file.clone()));
        let (catalog, files) = (&self.opened.catalog, files.collect());
        peel::peel_tags(catalog.location(), catalog.hash(), files, refs).await;
    }

    async fn objects(&self, ids: &[ObjectId]) -> Result<Option<Arc<Database>>> {
        let catalog = &self.opened.catalog;
        let (tips, others): (Vec<ObjectId>, Vec<ObjectId>) =
            ids.iter().partition(|id| self.is_bundle_tip(**id));
        let mut bundles = catalog.find(&tips).await?;
        for id in others {
            if bundles.iter().any(|bundle| bundle.objects.contains(id)) {
                continue;
            }
            match catalog.find(&[id]).await {
                Ok(found) => {
                    for bundle in found {
                        let is_same = |other: &Arc<_>| Arc::ptr_eq(other, &bundle);
                        if !bundles.iter().any(is_same) {
                            bundles.push(bundle);
                        }
                    }
                }
                // No bundle has the object.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::debug!(object.id = %id, error = %error.report(), "not found");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(catalog.database(None, &bundles)?))
    }

    async fn commits_since(&self, want: ObjectId, have: ObjectId) -> Result<Option<CommitGraph>> {
        let catalog = &self.opened.catalog;
        // These bundles have all ancestors of `want`.
        let bundles = catalog.find(&[want]).await?;
        let database = catalog.database(None, &bundles)?;
        Ok(Some(odb::graph_since(&database, want, have).await?))
    }
}

/// Checks that a prefix without bundles does not hold a repository in layout `dumb`, whose
/// `HEAD` would be overwritten.
///
/// # Errors
/// `Config` when there is `info/refs`.
pub(super) async fn ensure_no_info_refs(location: &BundleLocation) -> Result<()> {
    let key = ObjectKey::new(&format!("{}info/refs", location.prefix))?;
    if location.store.head(&location.bucket, &key).await?.is_none() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Config,
        format!("{location} holds a repository in another layout (`{key}`)"),
    )
    .with_hint("use layout `dumb` for it, or another prefix"))
}
