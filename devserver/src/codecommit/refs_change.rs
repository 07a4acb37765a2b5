//! Changes of refs: one at a time per repository, compared before and after, and each
//! reported to the observer once.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::git::GitError;
use super::repository::{first_default_branch, ref_changes};
use super::{CodeCommitService, Repository};
use crate::ref_observer::RefUpdate;

/// Permit to change a repository's refs.
///
/// The holder must call [`finish`](Self::finish) in a task of its own, because a change must
/// be reported even if the client goes away.
#[derive(Debug)]
pub(crate) struct RefChangePermit {
    service: CodeCommitService,
    repository: Arc<Repository>,
    before: BTreeMap<String, String>,
    _guard: OwnedMutexGuard<()>,
}

impl CodeCommitService {
    /// Waits for other changes to finish and records the present refs.
    pub(crate) async fn begin_ref_change(
        &self,
        repository: &Arc<Repository>,
    ) -> Result<RefChangePermit, GitError> {
        let guard = Arc::clone(&repository.refs_lock).lock_owned().await;
        let current = self.find(&repository.name);
        if !current.is_some_and(|current| Arc::ptr_eq(&current, repository)) {
            return Err(GitError::new("refs", "the repository was deleted"));
        }
        Ok(RefChangePermit {
            before: repository.refs().await?,
            service: self.clone(),
            repository: Arc::clone(repository),
            _guard: guard,
        })
    }
}

impl RefChangePermit {
    /// Computes what changed, gives the repository a default branch when these are its
    /// first branches, notifies the observer, and applies the change to open pull requests.
    pub(crate) async fn finish(self, principal_arn: &str) -> Result<Vec<RefUpdate>, GitError> {
        let after = self.repository.refs().await?;
        let updates = ref_changes(&self.before, &after);
        if updates.is_empty() {
            return Ok(updates);
        }
        let first = match self.repository.default_branch() {
            None => first_default_branch(&updates),
            Some(_) => None,
        };
        let stored = match first {
            Some(branch) => self.repository.set_default_branch(&branch).await,
            // Writes the time of the last modification.
            None => self.repository.update(|_| ()),
        };
        // The refs have moved even if the metadata failed, so the change must be reported.
        let name = &self.repository.name;
        let observer = &self.service.0.observer;
        observer.refs_changed(name, principal_arn, &updates);
        let followed = self
            .service
            .follow_branches(&self.repository, principal_arn, &updates);
        let followed = followed.await;
        followed.map_err(|error| GitError::new("pull requests", error.message))?;
        stored.map(|()| updates)
    }
}
