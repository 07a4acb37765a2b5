//! Runs without LFS objects: the target remembers that refs have moved without their objects, so that
//! a later run copies them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::inventory::Inventory;
use super::{LfsStore, Pointer, PointerScanner};
use crate::git::ObjectId;
use crate::git::pack::incoming::{BlobScanner, PublishHook, ReceivedObjects};

/// Records at the target that refs move without their LFS objects, so that a later run with LFS
/// objects copies them: in a store that lists its objects, that history is to be scanned; at a
/// server, the objects themselves, so that a repository without LFS objects gets no record.
pub struct SkippedScan {
    target: Inventory,
    /// Tips of the target's refs before.
    scanned: Mutex<Vec<ObjectId>>,
}

impl SkippedScan {
    /// Makes the hook of a run without LFS objects; `None` if the target keeps no record.
    pub fn new(target: Option<Arc<dyn LfsStore>>) -> Option<Self> {
        let target = target.filter(|target| target.records().is_some())?;
        Some(Self {
            target: Inventory::new(target),
            scanned: Mutex::default(),
        })
    }

    /// Returns the constructor of the scanner that packs pass; `None` if history is scanned later.
    pub fn scanner(&self) -> Option<fn() -> Box<dyn BlobScanner>> {
        match self.target.store.listed() {
            Some(_) => None,
            None => Some(SkippedPointers::boxed),
        }
    }

    /// Sets the tips of the target's refs before they move.
    pub fn set_scanned(&self, tips: Vec<ObjectId>) {
        *self.scanned.lock().unwrap_or_else(PoisonError::into_inner) = tips;
    }
}

#[async_trait]
impl PublishHook for SkippedScan {
    async fn before_publish(&self, received: &ReceivedObjects) -> crate::git::Result<()> {
        if let Some(found) = received.scanner::<SkippedPointers>()
            && !found.is_partial.load(Ordering::Relaxed)
        {
            let pointers: Vec<Pointer> = found.pointers.pointers();
            let pointers = pointers.iter().filter(|pointer| pointer.size_bytes > 0);
            let update = self.target.update(|record| {
                for pointer in pointers.clone() {
                    record.set_missing(pointer.clone());
                }
            });
            return Ok(update.await?);
        }
        let scanned = {
            let scanned = self.scanned.lock();
            scanned.unwrap_or_else(PoisonError::into_inner).clone()
        };
        let update = self.target.update(|record| record.set_unscanned(&scanned));
        Ok(update.await?)
    }
}

/// Pointers of a pack whose objects are not copied.
#[derive(Debug, Default)]
struct SkippedPointers {
    pointers: PointerScanner,
    /// Memory did not suffice for all blobs of the pack.
    is_partial: AtomicBool,
}

impl SkippedPointers {
    fn boxed() -> Box<dyn BlobScanner> {
        Box::<Self>::default()
    }
}

impl BlobScanner for SkippedPointers {
    fn scan(&mut self, content: &[u8]) {
        self.pointers.scan(content);
    }

    fn check_unscanned(&self, _: usize) -> crate::git::Result<()> {
        self.is_partial.store(true, Ordering::Relaxed);
        Ok(())
    }
}
