//! A remote that receives long histories in batches of commits.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bstr::BString;

use super::{
    BatchPolicy, Head, Leftovers, Push, PushReport, RefOutcome, Remote, Snapshot, Source, Target,
    TargetCapabilities,
};
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::pack::Bases;
use crate::lfs::LfsStore;

/// A remote whose target receives batches of commits, under the tags of the script that AWS
/// documents for migrations, although its kind does not ask for them.
pub struct ByCommits(Arc<dyn Remote>);

impl ByCommits {
    /// Wraps a remote.
    pub fn new(remote: Arc<dyn Remote>) -> Self {
        Self(remote)
    }
}

impl fmt::Display for ByCommits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl Remote for ByCommits {
    async fn source(&self, prefixes: &[BString]) -> Result<Box<dyn Source>> {
        self.0.source(prefixes).await
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        Ok(Box::new(ByCommitsTarget(self.0.target().await?)))
    }

    fn lfs(&self) -> Option<Arc<dyn LfsStore>> {
        self.0.lfs()
    }
}

struct ByCommitsTarget(Box<dyn Target>);

#[async_trait]
impl Target for ByCommitsTarget {
    fn snapshot(&self) -> &Snapshot {
        self.0.snapshot()
    }

    fn capabilities(&self) -> TargetCapabilities {
        TargetCapabilities {
            batches: BatchPolicy::ByCommits,
            ..self.0.capabilities()
        }
    }

    fn accepts_head(&self, head: &Head) -> bool {
        self.0.accepts_head(head)
    }

    async fn haves(&self) -> Result<Vec<ObjectId>> {
        self.0.haves().await
    }

    async fn push(&mut self, push: Push) -> Result<PushReport> {
        self.0.push(push).await
    }

    fn is_atomic(&self) -> bool {
        self.0.is_atomic()
    }

    async fn push_each(&mut self, push: Push) -> Result<Vec<(BString, Result<RefOutcome>)>> {
        self.0.push_each(push).await
    }

    async fn repair(&mut self, refs: &[BString]) -> Result<()> {
        self.0.repair(refs).await
    }

    async fn refresh_archives(&mut self, refs: &[BString]) -> Result<()> {
        self.0.refresh_archives(refs).await
    }

    fn bases(&self) -> Option<Arc<dyn Bases>> {
        self.0.bases()
    }

    async fn delete_leftovers(&mut self, which: Leftovers) -> Result<()> {
        self.0.delete_leftovers(which).await
    }
}
