//! The objects that a pack needs and does not contain.

use std::collections::HashSet;

use super::id_map::IdMap;
use super::{PackObject, Resolved, Visitor};
use crate::error::Result;
use crate::object::{ObjectKind, references};
use crate::{HashKind, ObjectId, corrupt};

/// Collects the references of a pack's objects while the pack is read.
///
/// Memory: 25 to 50 bytes for each distinct object that is referred to.
#[derive(Debug)]
pub struct Connectivity {
    hash: HashKind,
    needed: IdMap<ObjectKind>,
    shallow: HashSet<ObjectId>,
}

impl Connectivity {
    /// Creates a collector for a pack with the hash function `hash`. The parents of `shallow`
    /// commits are not needed.
    pub fn new(hash: HashKind, shallow: impl IntoIterator<Item = ObjectId>) -> Self {
        Self {
            hash,
            needed: IdMap::new(hash),
            shallow: shallow.into_iter().collect(),
        }
    }

    /// Returns the objects that the pack's objects and `roots` (the new ids of refs) need and
    /// that are not in the pack. The target must have them.
    ///
    /// # Errors
    /// `Corrupt` when the type of an object does not match a reference to it.
    pub fn missing_objects(self, pack: &Resolved, roots: &[ObjectId]) -> Result<Vec<ObjectId>> {
        let mut missing = Vec::new();
        let mut contradiction = None;
        self.needed.drain(|id, kind| match pack.index.find(id) {
            None => missing.push(id),
            Some(at) if pack.kinds[at] != kind => {
                let is = pack.kinds[at];
                contradiction = Some(corrupt(format!("{id} is a {is}, and used as a {kind}")));
            }
            Some(_) => {}
        });
        if let Some(contradiction) = contradiction {
            return Err(contradiction);
        }
        missing.extend(roots.iter().filter(|id| pack.index.find(**id).is_none()));
        missing.sort_unstable();
        missing.dedup();
        Ok(missing)
    }
}

impl Visitor for Connectivity {
    fn object(&mut self, object: PackObject<'_>) -> Result<()> {
        let Some(content) = object.content else {
            return Ok(());
        };
        let mut contradiction = None;
        let is_shallow = self.shallow.contains(&object.id);
        references(self.hash, object.kind, content, |reference| {
            if is_shallow && matches!(reference, crate::object::Reference::Parent(_)) {
                return;
            }
            let (id, kind) = (reference.id(), reference.kind());
            let known = self.needed.or_insert(id, kind);
            if *known != kind {
                contradiction = Some(corrupt(format!("{id} is used as a {known} and a {kind}")));
            }
        })?;
        contradiction.map_or(Ok(()), Err)
    }
}
