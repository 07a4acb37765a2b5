//! Receives the pack of a push, and locates the objects that the new refs need.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::catalog::BundleCatalog;
use super::completed_pack::CompletedPack;
use super::indexed_bundle::IndexedBundle;
use super::spooled_pack::{ReceivedBytes, SpooledPack};
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::odb::{Database, StoredPack};
use crate::git::pack::PackBytes;
use crate::name::ObjectKey;
use crate::pack_cache::PackCopy;
use crate::remote::{IncomingPack, PublishHook, Spool, SpoolConfig, SpoolWriter};
use crate::storage::PutOptions;

/// The received pack, and the existing bundles that hold the remaining objects.
#[derive(Default)]
pub(super) struct AvailableObjects {
    pub(super) received: Option<StoredPack>,
    pub(super) bundles: Vec<Arc<IndexedBundle>>,
    /// Number of objects in the received pack.
    pub(super) received_objects: u64,
    /// The received pack, if S3 can copy it as a bundle.
    pub(super) spooled: Option<Arc<SpooledPack>>,
    /// Whether the refs of the push have one new value, so that the received pack is its.
    pub(super) has_one_root: bool,
    spool: Option<Arc<Spool>>,
}

impl AvailableObjects {
    /// Locates the ids in `new`, none of which was sent.
    pub(super) async fn locate(catalog: &BundleCatalog, new: &[ObjectId]) -> Result<Self> {
        Ok(Self {
            bundles: catalog.find(new).await?,
            ..Self::default()
        })
    }

    /// Receives a pack, with everything that the ids in `new` need, and locates the objects
    /// that the sender left out. `publish_hook` runs once the pack is known to be complete.
    pub(super) async fn receive(
        catalog: &BundleCatalog,
        mut incoming: IncomingPack,
        publish_hook: Option<Arc<dyn PublishHook>>,
        new: &[ObjectId],
    ) -> Result<Self> {
        let location = catalog.location();
        let key = format!(
            "{}{:032x}.pack",
            location.incoming_prefix(),
            rand::random::<u128>()
        );
        let config = SpoolConfig {
            store: Arc::clone(&location.store),
            bucket: location.bucket.clone(),
            key: ObjectKey::new(&key)?,
            options: PutOptions {
                kms_key_id: location.options.kms_key_id.clone(),
                ..PutOptions::default()
            },
        };
        let mut writer = SpoolWriter::new(config, location.options.limits.memory / 4);
        let mut copy: Option<PackCopy> = None;
        while let Some(bytes) = incoming.chunk().await? {
            if let Some(cache) = &location.options.pack_cache
                && let Some(start) = writer.outgrown_by(bytes.len())
            {
                let start = Bytes::copy_from_slice(start);
                let copy = copy.insert(PackCopy::new(cache, catalog.hash()));
                copy.push(start).await;
            }
            if let Some(copy) = &mut copy {
                copy.push(bytes.clone()).await;
            }
            writer.push(bytes).await?;
        }
        let arrived = incoming.finish()?;
        let size_bytes = arrived.received.size_bytes();
        let received_objects = arrived.received.objects() as u64;
        let spool = Arc::new(writer.finish().await?);
        let (written, copy) = match copy {
            Some(copy) => copy.finish().await.unzip(),
            None => (None, None),
        };
        let received = ReceivedBytes {
            spool: Arc::clone(&spool),
            copy,
        };
        let bytes: Arc<dyn PackBytes> = Arc::new(received);
        let resolve = async {
            let (resolved, objects, missing) = arrived.resolve(&*bytes, catalog, new).await?;
            let bundles = catalog.find(&missing).await?;
            if let Some(publish_hook) = publish_hook {
                publish_hook.before_publish(&objects).await?;
            }
            let is_whole = missing.is_empty() && resolved.completed.is_none();
            let place = spool.place().filter(|_| is_whole).cloned();
            let spooled = place.map(|place| {
                Arc::new(SpooledPack {
                    place,
                    size_bytes,
                    index: resolved.index.clone(),
                    bytes: Arc::clone(&bytes),
                    written: Mutex::new(written),
                })
            });
            let bytes = Arc::clone(&bytes);
            let pack = CompletedPack::stored_pack(bytes, size_bytes, &resolved);
            Ok((pack, bundles, spooled))
        };
        let resolved = resolve.await;
        // The received pack and the spooled one hold the bytes, which hold the spool.
        drop(bytes);
        match resolved {
            Ok((pack, bundles, spooled)) => Ok(Self {
                received: Some(pack),
                bundles,
                received_objects,
                spooled,
                has_one_root: new.iter().all(|id| Some(id) == new.first()),
                spool: Some(spool),
            }),
            Err(error) => {
                if let Some(spool) = Arc::into_inner(spool) {
                    spool.remove().await;
                }
                Err(error)
            }
        }
    }

    /// Opens a database of these objects, and of those in `own`.
    pub(super) fn database(
        &self,
        catalog: &BundleCatalog,
        own: Option<&Arc<IndexedBundle>>,
    ) -> Result<Arc<Database>> {
        let mut bundles = self.bundles.clone();
        if let Some(own) = own
            && !bundles
                .iter()
                .any(|bundle| bundle.bundle.file == own.bundle.file)
        {
            bundles.push(Arc::clone(own));
        }
        catalog.database(self.received.as_ref(), &bundles)
    }

    /// Removes the spool of the received pack. Nothing may read the pack any more.
    pub(super) async fn remove_spool(mut self) {
        // The pack holds a reference to the spool.
        self.received = None;
        self.spooled = None;
        if let Some(spool) = self.spool.take().and_then(Arc::into_inner) {
            spool.remove().await;
        }
    }
}
