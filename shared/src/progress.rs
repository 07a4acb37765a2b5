//! What long work tells about itself while it runs.

/// Takes steps of long work. Calls are frequent and must return at once.
pub trait Progress: Send + Sync {
    /// `done` of `total` (where that is known) objects or bytes of `what` are done.
    fn step(&self, what: &str, done: u64, total: Option<u64>);

    /// Something worth a line of its own.
    fn message(&self, text: &str) {
        let _ = text;
    }
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn step(&self, _what: &str, _done: u64, _total: Option<u64>) {}
}
