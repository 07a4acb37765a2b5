//! A bundle whose pack has a copy on this machine's disk.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::file::OpenBundle;
use crate::error::Result;
use crate::git::pack::PackBytes;
use crate::remote::copies::Copy;

/// Reads the copy, and the bundle from where the copy turns out to be broken.
pub(super) struct Near {
    pub(super) copy: Arc<Copy>,
    pub(super) bundle: OpenBundle,
}

#[async_trait]
impl PackBytes for Near {
    async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        match self.copy.read_range(range.clone()).await {
            Some(bytes) => Ok(bytes),
            None => self.bundle.read_range(range).await,
        }
    }
}
