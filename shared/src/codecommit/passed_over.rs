//! Repositories of a schedule that the function's role may not read.

use crate::error::Error;

/// Repositories that only a pattern of `REPOSITORIES` selects and that the role may not read. They
/// are passed over, because the role may be limited to some of the account's repositories.
#[derive(Debug, Default)]
pub struct PassedOver(Vec<Error>);

impl PassedOver {
    /// Adds a repository, with the refusal of its read.
    pub fn push(&mut self, refusal: Error) {
        self.0.push(refusal);
    }

    /// Returns the number of repositories.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Logs the number of repositories. Returns the first refusal if all `selected` repositories
    /// were refused, which is a mistake and not a limit.
    pub fn finish(self, selected: usize) -> Option<Error> {
        let count = self.0.len();
        if count > 0 {
            tracing::info!(
                repositories = count,
                "passed over repositories that the function's role may not read"
            );
        }
        self.0.into_iter().next().filter(|_| count == selected)
    }
}
