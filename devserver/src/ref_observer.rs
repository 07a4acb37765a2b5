//! Changes that a push, `CreateBranch` or `DeleteBranch` made to a repository's refs, and the
//! trait of their observers.

/// One ref that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefUpdate {
    /// The full name, `refs/heads/main`.
    pub name: String,
    /// Object that it named before; `None` for a new ref.
    pub old: Option<String>,
    /// Object that it names now; `None` for a deleted ref.
    pub new: Option<String>,
}

/// Observer of every change of refs, once every reader sees it.
///
/// Called once a push (with all of its refs) or API call. Must return soon, because the
/// caller's answer waits for it.
pub trait RefObserver: Send + Sync {
    /// Notifies that `principal_arn` made `updates` in `repository`.
    fn refs_changed(&self, repository: &str, principal_arn: &str, updates: &[RefUpdate]);
}

/// An observer that ignores all changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl RefObserver for NoObserver {
    fn refs_changed(&self, _: &str, _: &str, _: &[RefUpdate]) {}
}
