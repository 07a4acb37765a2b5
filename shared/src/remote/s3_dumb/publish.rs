//! A pack and its index, written into the bucket under their names.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::keys::{ObjectRole, RepositoryKeys};
use super::pack_list::PackSize;
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::pack::Index;
use crate::remote::{Spool, SpoolConfig, SpoolWriter};
use crate::storage::Precondition;
use crate::storage::multipart::MultipartWriter;

/// How much of a staged pack is copied by one request; S3 copies at most 5 GiB.
const COPY: u64 = 512 << 20;
/// How many copies are on their way at once.
const COPIES_AT_ONCE: usize = 4;

/// Where a pack is collected that is under way.
pub(super) fn upload_staged(place: &RepositoryKeys, memory: usize) -> Result<SpoolWriter> {
    let file = ObjectRole::Staged(rand::random());
    let at = SpoolConfig {
        store: Arc::clone(&place.store),
        bucket: place.bucket.clone(),
        key: place.key(&file)?,
        options: place.options(&file, Precondition::None),
    };
    Ok(SpoolWriter::new(at, memory))
}

/// A pack that is about to be published.
#[derive(Clone, Copy)]
pub(super) struct PackToPublish<'a> {
    pub(super) index: &'a Index,
    pub(super) spool: &'a Spool,
}

impl PackToPublish<'_> {
    pub(super) fn id(&self) -> ObjectId {
        self.index.pack_id()
    }

    pub(super) fn size(&self) -> PackSize {
        PackSize {
            objects: self.index.len() as u64,
            bytes: self.spool.size_bytes(),
        }
    }

    /// Writes the pack and its index. Nobody reads them before they are listed; written
    /// twice, they are the same.
    pub(super) async fn publish(&self, place: &RepositoryKeys) -> Result<()> {
        let index = async {
            let file = ObjectRole::Index(self.id());
            let bytes = self.index.bytes().clone();
            place.put(&file, bytes, Precondition::None).await
        };
        tokio::try_join!(self.publish_pack(place), index)?;
        Ok(())
    }

    async fn publish_pack(&self, place: &RepositoryKeys) -> Result<()> {
        let file = ObjectRole::Pack(self.id());
        if let Some(bytes) = self.spool.in_memory() {
            place.put(&file, bytes.clone(), Precondition::None).await?;
            return Ok(());
        }
        let Some(staged) = self.spool.place() else {
            return Ok(());
        };
        let key = place.key(&file)?;
        let upload = MultipartWriter::new(Arc::clone(&place.store), place.bucket.clone(), key);
        let mut upload = upload.with_options(place.options(&file, Precondition::None));
        let size = self.spool.size_bytes();
        let ranges = (0..size.div_ceil(COPY)).map(|at| at * COPY..size.min((at + 1) * COPY));
        let source = (&staged.bucket, &staged.key, None);
        let copied = stream::iter((1..).zip(ranges))
            .map(|(number, range)| upload.copy(number, source, range))
            .buffer_unordered(COPIES_AT_ONCE)
            .try_collect::<()>()
            .await;
        let done = match copied {
            Ok(()) => upload.complete(0, bytes::Bytes::new()).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(_) => upload.disarm(),
            Err(error) => {
                upload.abort().await;
                return Err(error);
            }
        }
        Ok(())
    }
}
