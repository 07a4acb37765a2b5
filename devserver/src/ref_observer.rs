//! What a push, `CreateBranch` or `DeleteBranch` did to a repository's refs, and who
//! wants to know.

/// One ref that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefUpdate {
    /// The full name, `refs/heads/main`.
    pub name: String,
    /// The object that it named before; `None` for a new ref.
    pub old: Option<String>,
    /// The object that it names now; `None` for a deleted ref.
    pub new: Option<String>,
}

/// Learns of every change of refs, once every reader sees it.
///
/// Called once a push (with all of its refs) or API call. Must return soon: the caller's
/// answer waits for it.
pub trait RefObserver: Send + Sync {
    /// `updates` happened in `repository`, done by `principal_arn`.
    fn refs_changed(&self, repository: &str, principal_arn: &str, updates: &[RefUpdate]);
}

/// An observer that wants to know nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl RefObserver for NoObserver {
    fn refs_changed(&self, _: &str, _: &str, _: &[RefUpdate]) {}
}
