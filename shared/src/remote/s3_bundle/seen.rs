//! A ref as it was seen when the remote was opened, and its lock while it still is so.

use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice};

use super::Place;
use super::layout::{BundleFile, Folder};
use super::lock::Lock;
use crate::error::{Error, ErrorKind, Result};
use crate::git::shown;

/// A ref as it was seen, and is expected to be still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// The ref's full name, and its folder's.
    pub(super) name: BString,
    /// All bundles in its folder.
    pub(super) files: Vec<BundleFile>,
    /// Whether it must not be deleted or rewound.
    pub(super) protected: bool,
}

impl Seen {
    /// A ref that is not there.
    pub(super) fn nothing(name: BString) -> Self {
        Self {
            name,
            files: Vec::new(),
            protected: false,
        }
    }

    pub(super) fn knows(&self, file: &BundleFile) -> bool {
        self.files
            .iter()
            .any(|seen| seen.key == file.key && seen.etag == file.etag)
    }

    /// Whether that is exactly what was seen, and nothing that was seen as free to be
    /// deleted or rewound is protected now.
    fn is(&self, folder: &Folder) -> bool {
        let is_free = self.protected || !folder.protected || self.files.is_empty();
        is_free
            && self.files.len() == folder.bundles.len()
            && folder.bundles.iter().all(|file| self.knows(file))
    }
}

/// Gets the lock of a ref that still is as it was seen, and what lies in its folder.
pub(super) async fn locked(place: &Arc<Place>, seen: &Seen) -> Result<(Lock, Folder)> {
    let name = seen.name.as_bstr();
    let lock = Lock::acquire(place, place.lock_key(name)?).await?;
    let error = match place.folder(name).await {
        Ok(folder) if seen.is(&folder) => return Ok((lock, folder)),
        Ok(_) => stale(name),
        Err(error) => error,
    };
    lock.release().await;
    Err(error)
}

pub(super) fn stale(name: &BStr) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("`{}` was changed by someone else", shown(name)),
    )
    .with_hint("fetch, and push again")
}
