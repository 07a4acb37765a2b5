//! Options of the protocol.

/// Options that git has set.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Options {
    /// Messages about the progress are wanted.
    pub(super) progress: bool,
    /// Pushes are only checked.
    pub(super) dry_run: bool,
    /// `list` names the hash function.
    pub(super) object_format: bool,
}
