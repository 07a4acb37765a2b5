//! Sending packs.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::OnceCell;

use super::keys::{ObjectRole, RepositoryKeys};
use super::odb::{Indexes, database, packs};
use super::pack_list::PackList;
use super::{DumbOptions, parse};
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::odb::{self, Database, StoredPack};
use crate::remote::{CommitGraph, PackBody, PackRequest, Snapshot, Source};

/// How much of a pack that is sent as it is is read at once.
const STEP: u64 = 8 << 20;

/// A repository that was opened to be read.
struct DumbSource {
    place: RepositoryKeys,
    options: Arc<DumbOptions>,
    snapshot: Snapshot,
    stored: OnceCell<Vec<StoredPack>>,
    database: OnceLock<Arc<Database>>,
}

/// Opens it.
pub(super) fn open(
    place: RepositoryKeys,
    options: Arc<DumbOptions>,
    snapshot: Snapshot,
) -> Box<dyn Source> {
    Box::new(DumbSource {
        place,
        options,
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
            && self.is_all(only, wanted)
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
}

impl DumbSource {
    /// The packs, looked at once.
    async fn stored(&self) -> Result<&[StoredPack]> {
        let look = async || {
            // Read after the refs: it lists all that these need.
            let list = match self.place.read(&ObjectRole::Packs).await? {
                None => PackList::default(),
                Some((bytes, _)) => {
                    parse(&self.place, "objects/info/packs", PackList::parse(&bytes))?
                }
            };
            let mut indexes = Indexes::default();
            packs(&self.place, &list, self.snapshot.hash, &mut indexes).await
        };
        let stored = self.stored.get_or_try_init(look).await?;
        Ok(stored)
    }

    /// The objects, with what was read of them before.
    fn database(&self, stored: Vec<StoredPack>) -> Result<&Arc<Database>> {
        if let Some(database) = self.database.get() {
            return Ok(database);
        }
        let made = database(&self.place, &self.options, self.snapshot.hash, stored)?;
        Ok(self.database.get_or_init(|| Arc::new(made)))
    }

    /// Whether this pack may go as it is: every ref is wanted, the receiver has nothing
    /// of it, and takes its deltas.
    fn is_all(&self, pack: &StoredPack, wanted: &PackRequest) -> bool {
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

/// A pack, byte for byte.
fn stream_pack_file(pack: StoredPack) -> PackBody {
    let step = move |at: u64| {
        let pack = pack.clone();
        async move {
            if at >= pack.size_bytes {
                return Ok(None);
            }
            let end = pack.size_bytes.min(at + STEP);
            let bytes = pack.bytes.read_range(at..end).await?;
            Ok(Some((bytes, end)))
        }
    };
    Box::pin(stream::try_unfold(0, step))
}
