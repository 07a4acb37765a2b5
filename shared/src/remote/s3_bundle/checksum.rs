//! The trailers of an old pack and of the new one that is made of it, computed of the same
//! bytes.

use bytes::Bytes;

use super::compose::CopyBase;
use crate::error::{Error, ErrorKind, Result};
use crate::git::pack::FileHasher;
use crate::git::{HashKind, ObjectId};

/// Pieces of less are not worth a thread.
const SMALL: usize = 256 * 1024;

/// Whether bytes are those of a pack, as far as they were taken.
pub(super) struct PackChecksum {
    hasher: FileHasher,
    pack: ObjectId,
}

impl PackChecksum {
    /// Starts before the header of the pack that is called that.
    pub(super) fn new(pack: ObjectId) -> Self {
        Self {
            hasher: FileHasher::new(pack.kind()),
            pack,
        }
    }

    /// Takes bytes of the pack, up to its trailer.
    pub(super) async fn update(self, bytes: Bytes) -> Result<Self> {
        let hasher = hashed(self.hasher, bytes).await?;
        Ok(Self { hasher, ..self })
    }

    /// Whether they were the pack's, all of which were taken.
    pub(super) fn matches(&self) -> bool {
        self.hasher.clone().finish() == self.pack
    }
}

/// The trailers as far as they are computed.
pub(super) struct OldAndNewChecksum {
    new: FileHasher,
    /// The old one, where the old pack is read from a copy.
    old: Option<PackChecksum>,
}

impl OldAndNewChecksum {
    /// Starts with the header of the new pack, and that of the old one.
    pub(super) async fn new(
        hash: HashKind,
        header: &[u8],
        base: Option<&CopyBase>,
    ) -> Result<Self> {
        let mut new = FileHasher::new(hash);
        new.update(header);
        let near = base.filter(|base| base.is_near);
        let old = match near.and_then(|base| base.copy.as_ref()) {
            Some(copy) => {
                let proof = PackChecksum::new(copy.pack_id());
                Some(proof.update(copy.header().clone()).await?)
            }
            None => None,
        };
        Ok(Self { new, old })
    }

    /// Takes entries of the old pack.
    pub(super) async fn update(self, entries: Bytes) -> Result<Self> {
        let Self { new, old } = self;
        let Some(old) = old else {
            let new = hashed(new, entries).await?;
            return Ok(Self { new, old: None });
        };
        let both = (hashed(new, entries.clone()), old.update(entries));
        let (new, old) = futures_util::future::try_join(both.0, both.1).await?;
        let old = Some(old);
        Ok(Self { new, old })
    }

    /// Takes entries of the new pack.
    pub(super) fn update_new(&mut self, entries: &[u8]) {
        self.new.update(entries);
    }

    /// Whether the old pack, all of whose entries were taken, was the one that it should be.
    pub(super) fn old_matches(&self) -> bool {
        self.old.as_ref().is_none_or(PackChecksum::matches)
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
