//! Writes a pack and its index to the bucket.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::keys::{ObjectRole, RepositoryKeys};
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::pack::Index;
use crate::remote::dumb_files::pack_list::PackSize;
use crate::storage::Precondition;
use crate::storage::multipart::MultipartWriter;
use crate::storage::spool::{Spool, SpoolConfig, SpoolWriter};

/// Bytes of a staged pack that one request copies; S3 copies at most 5 GiB.
const COPY_PART_BYTES: u64 = 512 << 20;
/// Maximum number of concurrent copies.
const CONCURRENT_COPIES: usize = 4;

/// Makes the writer of a pack that is being received, staged in the bucket above `memory`
/// bytes.
pub(super) fn upload_staged(keys: &RepositoryKeys, memory: usize) -> Result<SpoolWriter> {
    let file = ObjectRole::Staged(rand::random());
    let config = SpoolConfig {
        store: Arc::clone(&keys.store),
        bucket: keys.bucket.clone(),
        key: keys.key(&file)?,
        options: keys.options(&file, Precondition::None),
    };
    Ok(SpoolWriter::new(config, memory))
}

/// Pack to publish.
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

    /// Writes the pack and its index, unconditionally: they are read only after they are
    /// listed, and their content depends only on their names.
    pub(super) async fn publish(&self, keys: &RepositoryKeys) -> Result<()> {
        let index = async {
            let file = ObjectRole::Index(self.id());
            let bytes = self.index.bytes().clone();
            keys.put(&file, bytes, Precondition::None).await
        };
        tokio::try_join!(self.publish_pack(keys), index)?;
        Ok(())
    }

    async fn publish_pack(&self, keys: &RepositoryKeys) -> Result<()> {
        let file = ObjectRole::Pack(self.id());
        if let Some(bytes) = self.spool.in_memory() {
            keys.put(&file, bytes.clone(), Precondition::None).await?;
            return Ok(());
        }
        let Some(staged) = self.spool.place() else {
            return Ok(());
        };
        let key = keys.key(&file)?;
        let upload = MultipartWriter::new(Arc::clone(&keys.store), keys.bucket.clone(), key);
        let mut upload = upload.with_options(keys.options(&file, Precondition::None));
        let size = self.spool.size_bytes();
        let ranges = (0..size.div_ceil(COPY_PART_BYTES))
            .map(|at| at * COPY_PART_BYTES..size.min((at + 1) * COPY_PART_BYTES));
        let source = (&staged.bucket, &staged.key, None);
        let copied = stream::iter((1..).zip(ranges))
            .map(|(number, range)| upload.copy(number, source, range))
            .buffer_unordered(CONCURRENT_COPIES)
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
