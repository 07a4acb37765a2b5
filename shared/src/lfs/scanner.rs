//! The pointers in the blobs of a passing pack.

use std::collections::BTreeSet;

use super::Pointer;
use crate::error::{Error, ErrorKind};
use crate::git::Result;
use crate::git::pack::incoming::BlobScanner;

/// Collects the pointers among the blobs of an incoming pack.
#[derive(Debug, Default)]
pub struct PointerScanner(BTreeSet<Pointer>);

impl PointerScanner {
    /// Creates a scanner for one pack.
    pub fn boxed() -> Box<dyn BlobScanner> {
        Box::<Self>::default()
    }

    /// Returns the pointers, each once, in their order.
    pub fn pointers(&self) -> Vec<Pointer> {
        self.0.iter().cloned().collect()
    }
}

impl BlobScanner for PointerScanner {
    fn scan(&mut self, content: &[u8]) {
        self.0.extend(Pointer::parse(content));
    }

    /// Logs that not all small blobs of a pack were scanned.
    ///
    /// # Errors
    /// `Config` when the repository uses LFS, because objects might be left behind.
    fn check_unscanned(&self, blobs: usize) -> Result<()> {
        let message =
            format!("there was not enough memory to look for LFS pointers in {blobs} blobs");
        if self.0.is_empty() {
            tracing::warn!(blobs, "{message}; there was none in the others");
            return Ok(());
        }
        let error = Error::new(ErrorKind::Config, message).with_hint(
            "raise `MIGRATION_MEMORY_MIB`, or mirror without LFS objects: `\"lfs\": false`",
        );
        Err(error.into())
    }
}
