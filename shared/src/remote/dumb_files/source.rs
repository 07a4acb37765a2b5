//! Sends packs.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::OnceCell;

use super::odb::{Indexes, database, packs};
use super::pack_list::PackList;
use super::{INFO_PACKS, RepositoryFiles};
use crate::error::{Error, Result};
use crate::git::ObjectId;
use crate::git::odb::{self, Database, StoredPack};
use crate::git::pack::PackLimits;
use crate::remote::{CommitGraph, PackBody, PackRequest, Snapshot, Source};

/// Bytes of a pack that are read at once when it is sent unchanged.
const CHUNK_BYTES: u64 = 8 << 20;

/// Repository opened for reading.
struct DumbSource {
    files: Arc<dyn RepositoryFiles>,
    limits: PackLimits,
    snapshot: Snapshot,
    stored: OnceCell<Vec<StoredPack>>,
    database: OnceLock<Arc<Database>>,
}

/// Opens a repository for reading.
pub(in crate::remote) fn open(
    files: Arc<dyn RepositoryFiles>,
    limits: PackLimits,
    snapshot: Snapshot,
) -> Box<dyn Source> {
    Box::new(DumbSource {
        files,
        limits,
        snapshot,
        stored: OnceCell::new(),
        database: OnceLock::new(),
    })
}

#[async_trait]
impl Source for DumbSource {
    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    async fn fetch(&self, wanted: &PackRequest) -> Result<PackBody> {
        let stored = self.stored().await?.to_vec();
        if let [only] = stored.as_slice()
            && self.can_send_unchanged(only, wanted)
            // The pack may be above history that is loose.
            && !self.files.may_have_loose().await?
        {
            return Ok(stream_pack_file(only.clone()));
        }
        let database = self.database(stored)?;
        Ok(odb::fetch(database, wanted).await?)
    }

    fn has_cheap_history(&self) -> bool {
        true
    }

    async fn commit_graph(
        &self,
        wants: &[ObjectId],
        haves: &[ObjectId],
    ) -> Result<Option<CommitGraph>> {
        let stored = self.stored().await?.to_vec();
        let graph = odb::graph(self.database(stored)?, wants, haves).await?;
        Ok(Some(graph))
    }

    async fn objects(&self, _ids: &[ObjectId]) -> Result<Option<Arc<Database>>> {
        let stored = self.stored().await?.to_vec();
        Ok(Some(Arc::clone(self.database(stored)?)))
    }

    async fn commits_since(&self, want: ObjectId, have: ObjectId) -> Result<Option<CommitGraph>> {
        let stored = self.stored().await?.to_vec();
        let graph = odb::graph_since(self.database(stored)?, want, have).await?;
        Ok(Some(graph))
    }
}

impl DumbSource {
    /// Returns the packs, read once.
    async fn stored(&self) -> Result<&[StoredPack]> {
        let read = async || {
            // Read after the refs, so that it lists all packs that they need.
            let list = match self.files.read(INFO_PACKS).await? {
                None => PackList::default(),
                Some(bytes) => PackList::parse(&bytes).map_err(|error: Error| {
                    error.context(format!("`{INFO_PACKS}` of {}", self.files))
                })?,
            };
            let mut indexes = Indexes::default();
            packs(&self.files, &list, self.snapshot.hash, &mut indexes).await
        };
        let stored = self.stored.get_or_try_init(read).await?;
        Ok(stored)
    }

    /// Returns the database of objects, made once.
    fn database(&self, stored: Vec<StoredPack>) -> Result<&Arc<Database>> {
        if let Some(database) = self.database.get() {
            return Ok(database);
        }
        let made = database(&self.files, self.limits, self.snapshot.hash, stored)?;
        Ok(self.database.get_or_init(|| Arc::new(made)))
    }

    /// Returns whether the pack may be sent unchanged: every ref is wanted, the receiver has
    /// none of its objects, and accepts its deltas.
    fn can_send_unchanged(&self, pack: &StoredPack, wanted: &PackRequest) -> bool {
        let has = |id: &ObjectId| pack.index.find(*id).is_some();
        wanted.offset_deltas
            && wanted.wants.iter().all(has)
            && !wanted.haves.iter().any(has)
            && self
                .snapshot
                .tips()
                .iter()
                .all(|tip| wanted.wants.contains(tip))
    }
}

/// Streams a stored pack unchanged.
fn stream_pack_file(pack: StoredPack) -> PackBody {
    let step = move |at: u64| {
        let pack = pack.clone();
        async move {
            if at >= pack.size_bytes {
                return Ok(None);
            }
            let end = pack.size_bytes.min(at + CHUNK_BYTES);
            let bytes = pack.bytes.read_range(at..end).await?;
            Ok(Some((bytes, end)))
        }
    };
    Box::pin(stream::try_unfold(0, step))
}
