//! Updates that are not fast-forwards.

use bstr::{BString, ByteSlice as _};

use super::moved_ref::MovedRef;
use super::plan::MirrorPlan;
use super::progress::RefProgress;
use crate::remote::{CommitTrace, Source, is_ancestor};

/// Maximum number of refs about which the source is asked after one push; further ones count as
/// forced.
const MAX_REQUESTS: usize = 64;

/// Ancestry test of moved refs: by the commits of the packs that were sent, else by a request to
/// the source.
pub(super) struct FastForwardCheck<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) commits: Option<&'a CommitTrace>,
    requests: usize,
}

impl<'a> FastForwardCheck<'a> {
    pub(super) fn new(source: &'a dyn Source, commits: Option<&'a CommitTrace>) -> Self {
        Self {
            source,
            commits,
            requests: 0,
        }
    }

    /// Returns true if an update is not a fast-forward, or if the source cannot answer. A moved
    /// tag never is a fast-forward.
    pub(super) async fn is_forced(&mut self, moved: &MovedRef) -> bool {
        let MovedRef { name, old, new } = moved;
        if name.starts_with(b"refs/tags/") {
            return true;
        }
        let is_proven = |commits: &CommitTrace| commits.proves_ancestor(*old, *new);
        if self.commits.is_some_and(is_proven) {
            return false;
        }
        if self.requests == MAX_REQUESTS {
            return true;
        }
        self.requests += 1;
        match self.source.commits_since(*new, *old).await {
            Ok(Some(graph)) => !is_ancestor(&graph, *old, *new),
            Ok(None) => true,
            Err(error) => {
                tracing::debug!(
                    ref.name = %name.as_bstr(),
                    error = %error.report(),
                    "cannot determine whether a ref moved forward"
                );
                true
            }
        }
    }

    /// Records which of the refs that have moved did not move forward.
    pub(super) async fn record(&mut self, progress: &mut RefProgress) {
        for moved in progress.take_moved() {
            if self.is_forced(&moved).await {
                progress.record_forced(moved);
            }
        }
    }

    /// Rejects the updates of a plan that are not fast-forwards.
    pub(super) async fn reject_forced(&mut self, plan: &mut MirrorPlan) {
        let mut allowed = Vec::with_capacity(plan.changes.len());
        for change in std::mem::take(&mut plan.changes) {
            if let Some(moved) = MovedRef::of(&change)
                && self.is_forced(&moved).await
            {
                let reason = rejection(&moved);
                plan.rejected.insert(change.name, reason);
            } else {
                allowed.push(change);
            }
        }
        plan.changes = allowed;
    }
}

fn rejection(moved: &MovedRef) -> String {
    let MovedRef { name, old, new } = moved;
    let is_tag = name.starts_with(b"refs/tags/");
    let (what, remedy) = if is_tag {
        (
            "names another object at the target than at the source",
            "delete one of the two tags",
        )
    } else {
        (
            "has commits at the target that the source's does not have",
            "merge them at the source",
        )
    };
    format!(
        "`{}` {what}: {old} instead of {new}; hint: {remedy}, or allow `\"force\"`",
        BString::from(name.as_bytes())
    )
}
