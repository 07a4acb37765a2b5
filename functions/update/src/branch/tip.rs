//! Reads the commit that is to be archived.

use branchline_core::git::object::Commit;
use branchline_core::name::CommitId;
use branchline_core::storage::ObjectHead;
use branchline_core::{Error, ErrorKind, Result};

use super::Attempt;
use crate::ref_kind::RefKind;
use crate::request::Requester;

impl Attempt<'_> {
    /// Reads the commit that is to be archived; `None` for a branch or tag that is gone, unless a
    /// request by hand names it. `found` is the artifact, if it is read already.
    pub(super) async fn tip(&self, found: Option<&ObjectHead>) -> Result<Option<CommitId>> {
        if let Some(listed) = self.listed_tip(found) {
            return Ok(Some(listed));
        }
        let codecommit = &self.context.codecommit;
        let (tip, is_gone): (_, fn(&Error) -> bool) = match &self.task.kind {
            RefKind::Branch => (
                codecommit
                    .get_branch(self.repository(), self.branch())
                    .await,
                Error::is_branch_missing,
            ),
            RefKind::Tag(tag) => (
                codecommit.get_tag(self.repository(), tag).await,
                Error::is_commit_missing,
            ),
            RefKind::Commit(commit) => return Ok(Some(*commit)),
            RefKind::PullRequest { id, .. } => return self.pull_request_tip(id).await,
        };
        match tip {
            Ok(tip) => Ok(Some(tip)),
            Err(error) if is_gone(&error) && self.task.requester != Requester::ByHand => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Fails for a commit that the repository does not have, as in an event made by hand. It may
    /// have been `read`.
    pub(super) async fn check_existence(
        &self,
        commit: CommitId,
        read: Option<Result<Commit>>,
    ) -> Result<()> {
        let codecommit = &self.context.codecommit;
        let found = match read {
            Some(read) => read,
            None => codecommit.get_commit(self.repository(), commit).await,
        };
        found.map(drop).map_err(|error| {
            if error.kind() == ErrorKind::NotFound && !error.is_repository_missing() {
                error.with_hint("name a commit that was pushed, or none for the branch's tip")
            } else {
                error
            }
        })
    }

    /// Returns the commit of a tag that a schedule has listed, if the artifact is that commit's: the
    /// tag is not read again, because nothing newer can be replaced.
    fn listed_tip(&self, found: Option<&ObjectHead>) -> Option<CommitId> {
        let is_listed = self.task.requester == Requester::BySchedule
            && matches!(self.task.kind, RefKind::Tag(_));
        let listed = self.task.commit.filter(|_| is_listed)?;
        let identity = self.identity(listed);
        let is_current = |head: &&ObjectHead| {
            identity.is_of_branch(head) && identity.commit_of(head) == Some(listed)
        };
        found.filter(is_current).map(|_| listed)
    }

    /// Returns true when the tip is `commit` now. The precondition does not detect a branch that
    /// moved forward and back meanwhile, because equal bytes have equal `ETag`s.
    pub(super) async fn is_tip(&self, commit: CommitId) -> Result<bool> {
        match self.tip(None).await {
            Ok(tip) => Ok(tip == Some(commit)),
            Err(error) if error.is_branch_missing() || error.is_commit_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
