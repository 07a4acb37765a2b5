//! Receives the pack of a push, and locates the objects that the new refs need.

use std::sync::Arc;

use super::catalog::BundleCatalog;
use super::completed_pack::Overlay;
use super::indexed_bundle::IndexedBundle;
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::odb::{Database, StoredPack};
use crate::git::pack::PackBytes;
use crate::name::ObjectKey;
use crate::remote::{IncomingPack, PublishHook, Spool, SpoolConfig, SpoolWriter};
use crate::storage::PutOptions;

/// The received pack, and the existing bundles that hold the remaining objects.
#[derive(Default)]
pub(super) struct AvailableObjects {
    pub(super) received: Option<StoredPack>,
    pub(super) bundles: Vec<Arc<IndexedBundle>>,
    /// Number of objects in the received pack.
    pub(super) received_objects: u64,
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
        while let Some(bytes) = incoming.chunk().await? {
            writer.push(bytes).await?;
        }
        let arrived = incoming.finish()?;
        let size_bytes = arrived.received.size_bytes();
        let received_objects = arrived.received.objects() as u64;
        let spool = Arc::new(writer.finish().await?);
        let resolve = async {
            let (resolved, watch, missing) = arrived.resolve(&*spool, catalog, new).await?;
            let bundles = catalog.find(&missing).await?;
            if let Some(publish_hook) = publish_hook {
                publish_hook.before_publish(&watch).await?;
            }
            let bytes: Arc<dyn PackBytes> = spool.clone();
            let pack = Overlay::completed_thin_pack(bytes, size_bytes, &resolved);
            Ok((pack, bundles))
        };
        match resolve.await {
            Ok((pack, bundles)) => Ok(Self {
                received: Some(pack),
                bundles,
                received_objects,
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
        if let Some(spool) = self.spool.take().and_then(Arc::into_inner) {
            spool.remove().await;
        }
    }
}
