//! The expected state of a ref, and its lock while that state holds.

use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice};

use super::keys::{BundleFile, RefFolder};
use super::lock::Lock;
use super::options::BundleLocation;
use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;

/// State of a ref when the remote was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExpectedRef {
    /// Full name of the ref, which is also the folder's.
    pub(super) name: BString,
    /// All bundles in the folder.
    pub(super) files: Vec<BundleFile>,
    /// Whether the ref must not be deleted or rewound.
    pub(super) protected: bool,
}

impl ExpectedRef {
    /// Returns the state of a missing ref.
    pub(super) fn absent(name: BString) -> Self {
        Self {
            name,
            files: Vec::new(),
            protected: false,
        }
    }

    /// Whether `file` is one of the expected bundles, byte for byte.
    pub(super) fn matches(&self, file: &BundleFile) -> bool {
        self.files
            .iter()
            .any(|expected| expected.key == file.key && expected.etag == file.etag)
    }

    /// Whether the folder is unchanged, and a ref that was unprotected is not protected now.
    fn matches_folder(&self, folder: &RefFolder) -> bool {
        let may_change = self.protected || !folder.protected || self.files.is_empty();
        may_change
            && self.files.len() == folder.bundles.len()
            && folder.bundles.iter().all(|file| self.matches(file))
    }
}

/// Acquires the lock of a ref, and lists its folder.
///
/// # Errors
/// `Conflict` when another client holds the lock, or the ref is not in the `expected` state.
pub(super) async fn lock_expected(
    location: &Arc<BundleLocation>,
    expected: &ExpectedRef,
) -> Result<(Lock, RefFolder)> {
    let name = expected.name.as_bstr();
    let lock = Lock::acquire(location, location.lock_key(name)?).await?;
    let error = match location.folder(name).await {
        Ok(folder) if expected.matches_folder(&folder) => return Ok((lock, folder)),
        Ok(_) => stale_ref_error(name),
        Err(error) => error,
    };
    lock.release().await;
    Err(error)
}

/// Returns the error of a push to a ref that another push changed.
pub(super) fn stale_ref_error(name: &BStr) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("`{}` was changed by someone else", escaped_excerpt(name)),
    )
    .with_hint("fetch, and push again")
}
