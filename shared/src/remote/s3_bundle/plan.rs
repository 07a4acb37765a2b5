//! How the bundle of a ref is made: copied, composed of another one, or written anew.

use std::sync::Arc;

use super::bundle_reader::OpenBundle;
use super::catalog::database_with;
use super::competing::{Ref, is_descendant};
use super::compose::{Composed, CopyBase, CopyOfBundle, ObjectIdSet};
use super::keys::BundleFile;
use super::publish::BundleBody;
use super::target::{AvailableObjects, BundleTarget};
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::bundle::Header;
use crate::git::odb::{Database, commit_graph, reachable_objects};
use crate::pack_cache::CachedPack;
use crate::remote::RefUpdate;

/// How the bundle of a ref is made.
pub(super) struct BundlePlan {
    pub(super) body: Box<dyn BundleBody>,
    pub(super) database: Arc<Database>,
    /// The new commit descends from the old one, or there is no old one.
    pub(super) is_forward: bool,
    /// What the new bundle will hold and where its pack starts, for others to be composed of
    /// it.
    pub(super) makes: Option<ComposedBundle>,
}

/// A bundle of which others can be composed once it is written.
pub(super) struct ComposedBundle {
    pub(super) ids: ObjectIdSet,
    pub(super) pack_start: u64,
    /// The bundle that it was composed of.
    pub(super) of: Option<BundleFile>,
    /// The copy of its pack, where that is the old one's.
    pub(super) copy: Option<Arc<CachedPack>>,
}

impl BundleTarget {
    pub(super) async fn plan(
        &self,
        change: &RefUpdate,
        found: Option<&Ref>,
        new: ObjectId,
        stock: &AvailableObjects,
    ) -> Result<BundlePlan> {
        let library = &self.opened.library;
        let own = match found {
            Some(found) => Some(library.read(&found.file).await?),
            None => None,
        };
        let database = self.database(stock, own.as_ref())?;
        if let Some(bundle) = self.find_identical(new).await? {
            // That is asked only of protected branches.
            let protected = found.is_some_and(|found| found.seen.protected);
            let is_forward = match own.as_ref().filter(|_| protected) {
                None => true,
                Some(own) => {
                    let other = library.read(&bundle.file).await?;
                    let both = [Arc::clone(own), other];
                    let database = database_with(&self.place, self.hash, None, &both)?;
                    is_descendant(&database, new, own.bundle.file.id).await?
                }
            };
            return Ok(BundlePlan {
                body: Box::new(CopyOfBundle(bundle)),
                database,
                is_forward,
                makes: None,
            });
        }
        let is_forward = match &own {
            None => true,
            Some(own) => is_descendant(&database, new, own.bundle.file.id).await?,
        };
        let own = own.filter(|_| is_forward);
        let base = match own.as_deref().and_then(CopyBase::of) {
            Some(base) => Some(base),
            None => self.base(new, found.is_none(), stock, &database).await?,
        };
        let tip: Vec<_> = base.iter().map(|base| base.bundle.file.id).collect();
        // What is reachable is known to be there after this.
        let closure = reachable_objects(&database, &[new], &tip).await?;
        let mut objects = closure.objects;
        if let Some(base) = &base {
            objects.retain(|id| !base.ids.contains(*id));
        }
        let mut header = Header::new(self.hash);
        header.refs.push((new, change.name.clone()));
        let start = header.write()?.len() as u64;
        let composed = Composed {
            hash: self.hash,
            header,
            known: base.is_some().then_some(closure.known),
            base,
            objects,
            database: Arc::clone(&database),
            options: self.place.options.clone(),
        };
        let makes = Some(ComposedBundle {
            ids: composed.ids(),
            pack_start: start,
            of: composed.base.as_ref().map(|base| base.bundle.file.clone()),
            copy: composed
                .base
                .as_ref()
                .filter(|_| composed.objects.is_empty())
                .and_then(|base| base.copy.clone()),
        });
        Ok(BundlePlan {
            body: Box::new(composed),
            database,
            is_forward,
            makes,
        })
    }

    /// A full bundle of that very id.
    async fn find_identical(&self, id: ObjectId) -> Result<Option<OpenBundle>> {
        let files = self.opened.library.files();
        let Some(file) = files.into_iter().find(|file| file.id == id) else {
            return Ok(None);
        };
        let bundle = OpenBundle::open(&self.place, file).await?;
        Ok(bundle.is_full().then_some(bundle))
    }

    /// A bundle to compose the one of `id` of.
    async fn base(
        &self,
        id: ObjectId,
        is_new_ref: bool,
        stock: &AvailableObjects,
        database: &Arc<Database>,
    ) -> Result<Option<CopyBase>> {
        let read = stock.books.iter().filter_map(|book| CopyBase::of(book));
        let mut candidates: Vec<CopyBase> = self.fresh.iter().cloned().chain(read).collect();
        candidates.sort_by_key(|base| std::cmp::Reverse(base.bundle.file.size_bytes));
        for base in &candidates {
            if is_descendant(database, id, base.bundle.file.id).await? {
                return Ok(Some(base.clone()));
            }
        }
        if !is_new_ref {
            return Ok(None);
        }
        // One that has a little more than is needed is better than to send all anew.
        for base in candidates {
            let tip = base.bundle.file.id;
            // Small ones are written anew, and exactly.
            let is_small = base.bundle.file.size_bytes < 2 * self.place.options.part_bytes as u64;
            if is_small || !database.contains(tip).await? {
                continue;
            }
            let more = commit_graph(database, &[tip], &[id]).await?.len();
            if more > 0 && more * 4 <= commit_graph(database, &[tip], &[]).await?.len() {
                return Ok(Some(base));
            }
        }
        Ok(None)
    }
}
