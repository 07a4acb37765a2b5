//! The history of a remote, read only if a file of the archive asks for it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use branchline_core::Result;
use branchline_core::archive::{Ancestor, AnnotatedTag, DatabaseHistory, History};
use branchline_core::git::ObjectId;
use branchline_core::git::odb::{Database, PackRequest};
use branchline_core::git::pack::PackLimits;
use branchline_core::git::server::RefSnapshot;
use branchline_core::remote::Source;
use tokio::sync::OnceCell;

use super::{ArchiveMeter, objects};

/// The history of a remote: read where the remote has its objects, or fetched into a temporary
/// file, from servers that can filter without trees and files.
pub(super) struct SourceHistory {
    pub(super) source: Arc<dyn Source>,
    /// The archived commit.
    pub(super) id: ObjectId,
    pub(super) limits: PackLimits,
    pub(super) temporary: PathBuf,
    pub(super) meter: Arc<ArchiveMeter>,
    pub(super) opened: OnceCell<DatabaseHistory>,
    pub(super) listed: OnceCell<Arc<RefSnapshot>>,
}

impl fmt::Debug for SourceHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceHistory")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl SourceHistory {
    async fn opened(&self) -> Result<&DatabaseHistory> {
        self.opened.get_or_try_init(|| self.open()).await
    }

    async fn open(&self) -> Result<DatabaseHistory> {
        let refs = self.refs().await?;
        let tags = refs.refs.values().filter(|value| value.peeled.is_some());
        let mut wants = vec![self.id];
        wants.extend(tags.map(|tag| tag.id));
        wants.sort_unstable();
        wants.dedup();
        let database = self.database(wants).await?;
        Ok(DatabaseHistory::new(database, (*refs).clone()))
    }

    async fn database(&self, wants: Vec<ObjectId>) -> Result<Arc<Database>> {
        if let Some(database) = self.source.objects(&wants).await? {
            return Ok(database);
        }
        let pack = if let Some(pack) = self.source.fetch_commits(&wants).await? {
            pack
        } else {
            let request = PackRequest {
                wants,
                offset_deltas: true,
                ..PackRequest::default()
            };
            self.source.fetch(&request).await?
        };
        let hash = self.source.snapshot().hash;
        objects::store(pack, hash, self.limits, &self.temporary, &self.meter).await
    }

    async fn list(&self) -> Result<Arc<RefSnapshot>> {
        let snapshot = self.source.snapshot();
        let mut refs = RefSnapshot {
            hash: snapshot.hash,
            refs: snapshot.refs.clone(),
            head: snapshot.head.clone(),
        };
        self.source.peel_tags(&mut refs.refs).await;
        let is_unpeeled = |name: &[u8]| name.starts_with(b"refs/tags/");
        let unpeeled = refs.refs.iter();
        let unpeeled = unpeeled.filter(|(name, value)| value.peeled.is_none() && is_unpeeled(name));
        let unpeeled: Vec<ObjectId> = unpeeled.map(|(_, value)| value.id).collect();
        if !unpeeled.is_empty()
            && let Some(database) = self.source.objects(&unpeeled).await?
        {
            return DatabaseHistory::new(database, refs).refs().await;
        }
        Ok(Arc::new(refs))
    }
}

#[async_trait]
impl History for SourceHistory {
    async fn refs(&self) -> Result<Arc<RefSnapshot>> {
        let listed = self.listed.get_or_try_init(|| self.list());
        listed.await.map(Arc::clone)
    }

    async fn commit(&self, id: ObjectId) -> Result<Ancestor> {
        self.opened().await?.commit(id).await
    }

    async fn tag(&self, id: ObjectId, peeled: ObjectId) -> Result<Option<AnnotatedTag>> {
        self.opened().await?.tag(id, peeled).await
    }

    fn abbreviated(&self, id: ObjectId, digits: Option<usize>) -> String {
        match self.opened.get() {
            Some(opened) => opened.abbreviated(id, digits),
            None => id.to_string(),
        }
    }
}
