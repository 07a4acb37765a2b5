//! Deletes what an unfinished migration left at a target.

use async_trait::async_trait;
use tokio::time::Instant;

use super::MirrorResult;
use super::attempt::{self, Attempt, ReleaseLimit};
use super::batch;
use super::progress::RefProgress;
use crate::error::Result;
use crate::remote::{Leftovers, Remote, Target};

/// The deletion of temporary tags, as work to be attempted.
struct Cleaning<'a>(&'a dyn Remote);

#[async_trait]
impl Attempt for Cleaning<'_> {
    fn target(&self) -> &dyn Remote {
        self.0
    }

    async fn attempt(&mut self, progress: &mut RefProgress) -> Result<()> {
        let mut target = self.0.target().await?;
        progress.start_attempt(target.snapshot());
        batch::delete(&mut *target, progress, true).await?;
        target.delete_leftovers(Leftovers::All).await?;
        let lfs = self.0.lfs();
        match lfs.as_ref().and_then(|lfs| lfs.listed()) {
            Some(listed) => listed.delete_unfinished().await,
            None => Ok(()),
        }
    }
}

/// Deletes temporary objects of killed runs. A failure is only logged, because the next run
/// deletes them.
pub(super) async fn delete_leftovers(target: &mut dyn Target) {
    if let Err(error) = target.delete_leftovers(Leftovers::Abandoned).await {
        tracing::warn!(
            error = %error.report(),
            "temporary objects of earlier runs could not be deleted"
        );
    }
}

/// Deletes what unfinished migrations left at `target`, until done or `deadline` has come: their
/// temporary tags, which count as deleted refs, packs that were being received, and uploads of
/// large LFS objects. A migration started afterwards pushes them again.
pub async fn clean(target: &dyn Remote, deadline: Option<Instant>) -> MirrorResult {
    clean_within(target, deadline, ReleaseLimit::default()).await
}

/// Deletes as [`clean`], with a limit of the wait for the release of locks.
pub(super) async fn clean_within(
    target: &dyn Remote,
    deadline: Option<Instant>,
    limit: ReleaseLimit,
) -> MirrorResult {
    let mut result = attempt::run_until_done(&mut Cleaning(target), deadline).await;
    // The deletions are all that was requested.
    result.stats.undeleted.clear();
    attempt::release(&mut result, limit).await;
    result
}
