//! The trailers of an old pack and of the new one that is made of it, computed of the same
//! bytes.

use bytes::Bytes;

use super::compose::Base;
use crate::error::{Error, ErrorKind, Result};
use crate::git::pack::FileHasher;
use crate::git::{HashKind, ObjectId};

/// Pieces of less are not worth a thread.
const SMALL: usize = 256 * 1024;

/// The trailers as far as they are computed.
pub(super) struct Trailers {
    new: FileHasher,
    /// The old one, and what it must be. Only where the old pack is read from a copy.
    old: Option<(FileHasher, ObjectId)>,
}

impl Trailers {
    /// Starts with the header of the new pack, and that of the old one.
    pub(super) fn new(hash: HashKind, header: &[u8], base: Option<&Base>) -> Self {
        let begun = |header: &[u8]| {
            let mut hasher = FileHasher::new(hash);
            hasher.update(header);
            hasher
        };
        let near = base.filter(|base| base.is_near);
        let copy = near.and_then(|base| base.copy.as_ref());
        Self {
            new: begun(header),
            old: copy.map(|copy| (begun(copy.header()), copy.pack_id())),
        }
    }

    /// Takes entries of the old pack.
    pub(super) async fn update(self, entries: Bytes) -> Result<Self> {
        let Self { new, old } = self;
        let Some((old, pack)) = old else {
            let new = hashed(new, entries).await?;
            return Ok(Self { new, old: None });
        };
        let both = (hashed(new, entries.clone()), hashed(old, entries));
        let (new, old) = futures_util::future::try_join(both.0, both.1).await?;
        Ok(Self {
            new,
            old: Some((old, pack)),
        })
    }

    /// Takes entries of the new pack.
    pub(super) fn update_new(&mut self, entries: &[u8]) {
        self.new.update(entries);
    }

    /// Whether the old pack, all of whose entries were taken, was the one that it should be.
    pub(super) fn are_good(&self) -> bool {
        let mut old = self.old.iter();
        old.all(|(hasher, pack)| hasher.clone().finish() == *pack)
    }

    /// The trailer of the new pack.
    pub(super) fn finish(self) -> ObjectId {
        self.new.finish()
    }
}

/// Hashes on a thread of its own, beside whatever else goes on.
async fn hashed(mut hasher: FileHasher, bytes: Bytes) -> Result<FileHasher> {
    if bytes.len() < SMALL {
        hasher.update(&bytes);
        return Ok(hasher);
    }
    let work = tokio::task::spawn_blocking(move || {
        hasher.update(&bytes);
        hasher
    });
    work.await.map_err(|error| {
        Error::new(ErrorKind::Internal, "hashing a pack failed").with_source(error)
    })
}
