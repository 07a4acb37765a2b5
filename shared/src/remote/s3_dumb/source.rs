//! Sending packs.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::OnceCell;

use super::pack_list::PackList;
use super::place::{File, Place};
use super::stored::{Indexes, database, packs};
use super::{Options, parse};
use crate::error::Result;
use crate::git::ObjectId;
use crate::remote::objects::{self, Database, PackAt};
use crate::remote::{CommitGraph, PackBody, Snapshot, Source, Wanted};

/// How much of a pack that is sent as it is is read at once.
const STEP: u64 = 8 << 20;

/// A repository that was opened to be read.
struct DumbSource {
    place: Place,
    options: Arc<Options>,
    snapshot: Snapshot,
    stored: OnceCell<Vec<PackAt>>,
    database: OnceLock<Arc<Database>>,
}

/// Opens it.
pub(super) fn open(place: Place, options: Arc<Options>, snapshot: Snapshot) -> Box<dyn Source> {
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

    async fn fetch(&self, wanted: &Wanted) -> Result<PackBody> {
        let stored = self.stored().await?.to_vec();
        if let [only] = stored.as_slice()
            && self.is_all(only, wanted)
        {
            return Ok(as_it_is(only.clone()));
        }
        let database = self.database(stored)?;
        objects::fetch(database, wanted).await
    }

    fn tells_history(&self) -> bool {
        true
    }

    async fn history(&self, wants: &[ObjectId], haves: &[ObjectId]) -> Result<Option<CommitGraph>> {
        let stored = self.stored().await?.to_vec();
        objects::graph(self.database(stored)?, wants, haves)
            .await
            .map(Some)
    }
}

impl DumbSource {
    /// The packs, looked at once.
    async fn stored(&self) -> Result<&[PackAt]> {
        let look = async || {
            // Read after the refs: it lists all that these need.
            let list = match self.place.read(&File::Packs).await? {
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
    fn database(&self, stored: Vec<PackAt>) -> Result<&Arc<Database>> {
        if let Some(database) = self.database.get() {
            return Ok(database);
        }
        let made = database(&self.place, &self.options, self.snapshot.hash, stored)?;
        Ok(self.database.get_or_init(|| Arc::new(made)))
    }

    /// Whether this pack may go as it is: every ref is wanted, the receiver has nothing
    /// of it, and takes its deltas.
    fn is_all(&self, pack: &PackAt, wanted: &Wanted) -> bool {
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
fn as_it_is(pack: PackAt) -> PackBody {
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
