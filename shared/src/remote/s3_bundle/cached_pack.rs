//! Bundle packs that are cached on the local disk.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::bundle_reader::OpenBundle;
use crate::git::pack::PackBytes;
use crate::pack_cache::CachedPack;

/// Reads the cached pack; falls back to the bundle where the cache is damaged.
pub(super) struct CachedPackReader {
    pub(super) cached: Arc<CachedPack>,
    pub(super) bundle: OpenBundle,
}

#[async_trait]
impl PackBytes for CachedPackReader {
    async fn read_range(&self, range: Range<u64>) -> crate::git::Result<Bytes> {
        match self.cached.read_range(range.clone()).await {
            Some(bytes) => Ok(bytes),
            None => self.bundle.read_range(range).await,
        }
    }
}
