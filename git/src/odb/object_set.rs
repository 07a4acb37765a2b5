//! Sets of objects of a database.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Database, ObjectLocation};
use crate::ObjectId;

/// A set of objects: one bit for each object in a pack, and the ids of others.
pub(super) struct ObjectSet {
    packs: Vec<Vec<u64>>,
    others: HashSet<ObjectId>,
}

impl ObjectSet {
    pub(super) fn new(database: &Database) -> Self {
        let words = |held: &super::OpenPack| vec![0; held.layout.len().div_ceil(64)];
        Self {
            packs: database.packs.iter().map(words).collect(),
            others: HashSet::new(),
        }
    }

    /// Inserts the object at `slot`; returns whether it is new.
    pub(super) fn insert(&mut self, id: ObjectId, slot: Option<ObjectLocation>) -> bool {
        let Some(ObjectLocation { pack, entry }) = slot else {
            return self.others.insert(id);
        };
        let word = &mut self.packs[pack as usize][entry as usize / 64];
        let bit = 1 << (entry % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    pub(super) fn contains(&self, id: ObjectId, slot: Option<ObjectLocation>) -> bool {
        match slot {
            Some(ObjectLocation { pack, entry }) => {
                self.packs[pack as usize][entry as usize / 64] & (1 << (entry % 64)) != 0
            }
            None => self.others.contains(&id),
        }
    }
}

/// Objects of a database that a receiver is known to have. The set may be incomplete.
pub struct ReceiverObjects {
    pub(super) database: Arc<Database>,
    pub(super) marks: ObjectSet,
}

impl std::fmt::Debug for ReceiverObjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiverObjects").finish_non_exhaustive()
    }
}

impl ReceiverObjects {
    /// Returns whether the receiver is known to have an object.
    pub fn contains(&self, id: ObjectId) -> bool {
        self.marks.contains(id, self.database.find(id))
    }

    pub(super) fn insert(&mut self, id: ObjectId) -> bool {
        self.marks.insert(id, self.database.find(id))
    }
}
