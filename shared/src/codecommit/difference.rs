//! Differences between two commits.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{CodeCommit, Page};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::EntryMode;
use crate::name::{CommitId, RepositoryName};

/// File, symbolic link or submodule on one side of a [`Difference`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DifferenceSide {
    /// Path from the root; bytes that are not UTF-8 are replaced by U+FFFD.
    pub path: String,
    /// Mode, never [`EntryMode::Tree`].
    pub mode: EntryMode,
    /// Id of the blob, or of a submodule's commit.
    pub id: ObjectId,
}

/// Difference between two commits at one path. Renames are a removal and an addition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Entry of the older commit; `None` for an added path.
    pub before: Option<DifferenceSide>,
    /// Entry of the newer commit; `None` for a removed path.
    pub after: Option<DifferenceSide>,
}

/// Reads the pages of [`CodeCommit::get_differences`]; returns `None` when there are more than
/// `max_differences`. Adds the number of requests to `requests`.
///
/// # Errors
/// `Corrupt` for pages without an end, because differences that are left out would look like
/// files that did not change.
pub async fn differences_up_to(
    codecommit: &dyn CodeCommit,
    repository: &RepositoryName,
    before: CommitId,
    after: CommitId,
    max_differences: usize,
    requests: &AtomicU64,
) -> Result<Option<Vec<Difference>>> {
    let mut differences = Vec::new();
    let mut next: Option<String> = None;
    loop {
        requests.fetch_add(1, Ordering::Relaxed);
        let page = codecommit
            .get_differences(repository, before, after, next.as_deref())
            .await?;
        let Page { items, next: token } = page;
        differences.extend(items);
        if differences.len() > max_differences {
            return Ok(None);
        }
        match token {
            None => return Ok(Some(differences)),
            Some(token) if next.as_deref() == Some(token.as_str()) => {
                let message = format!(
                    "the differences between commits {before} and {after} of repository \
                     `{repository}` end in a page that names itself as the next one"
                );
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            token => next = token,
        }
    }
}
