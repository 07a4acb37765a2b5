//! A ref as it was seen when the remote was opened, and its lock while it still is so.

use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice};

use super::BundleLocation;
use super::keys::{BundleFile, RefFolder};
use super::lock::Lock;
use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;

/// A ref as it was seen, and is expected to be still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExpectedRef {
    /// The ref's full name, and its folder's.
    pub(super) name: BString,
    /// All bundles in its folder.
    pub(super) files: Vec<BundleFile>,
    /// Whether it must not be deleted or rewound.
    pub(super) protected: bool,
}

impl ExpectedRef {
    /// A ref that is not there.
    pub(super) fn absent(name: BString) -> Self {
        Self {
            name,
            files: Vec::new(),
            protected: false,
        }
    }

    pub(super) fn matches(&self, file: &BundleFile) -> bool {
        self.files
            .iter()
            .any(|seen| seen.key == file.key && seen.etag == file.etag)
    }

    /// Whether that is exactly what was seen, and nothing that was seen as free to be
    /// deleted or rewound is protected now.
    fn is(&self, folder: &RefFolder) -> bool {
        let is_free = self.protected || !folder.protected || self.files.is_empty();
        is_free
            && self.files.len() == folder.bundles.len()
            && folder.bundles.iter().all(|file| self.matches(file))
    }
}

/// Gets the lock of a ref that still is as it was seen, and what lies in its folder.
pub(super) async fn locked(
    place: &Arc<BundleLocation>,
    seen: &ExpectedRef,
) -> Result<(Lock, RefFolder)> {
    let name = seen.name.as_bstr();
    let lock = Lock::acquire(place, place.lock_key(name)?).await?;
    let error = match place.folder(name).await {
        Ok(folder) if seen.is(&folder) => return Ok((lock, folder)),
        Ok(_) => stale_ref_error(name),
        Err(error) => error,
    };
    lock.release().await;
    Err(error)
}

pub(super) fn stale_ref_error(name: &BStr) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("`{}` was changed by someone else", escaped_excerpt(name)),
    )
    .with_hint("fetch, and push again")
}
