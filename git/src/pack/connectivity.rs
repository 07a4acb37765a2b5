//! The objects that a pack needs and does not contain.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;

use super::receive::IdHasher;
use super::{PackObject, Resolved, Visitor};
use crate::error::Result;
use crate::object::{ObjectKind, references};
use crate::{HashKind, ObjectId, corrupt};

/// Collects the references of a pack's objects while the pack is read.
///
/// Memory: about 60 bytes for each distinct object that is referred to.
#[derive(Debug)]
pub struct Connectivity {
    hash: HashKind,
    needed: HashMap<ObjectId, ObjectKind, BuildHasherDefault<IdHasher>>,
    shallow: HashSet<ObjectId>,
}

impl Connectivity {
    /// Creates a collector for a pack with the hash function `hash`. The parents of `shallow`
    /// commits are not needed.
    pub fn new(hash: HashKind, shallow: impl IntoIterator<Item = ObjectId>) -> Self {
        Self {
            hash,
            needed: HashMap::default(),
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
        for (id, kind) in self.needed {
            match pack.index.find(id) {
                None => missing.push(id),
                Some(at) if pack.kinds[at] != kind => {
                    let is = pack.kinds[at];
                    return Err(corrupt(format!("{id} is a {is}, and used as a {kind}")));
                }
                Some(_) => {}
            }
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
            let known = self.needed.entry(id).or_insert(kind);
            if *known != kind {
                contradiction = Some(corrupt(format!("{id} is used as a {known} and a {kind}")));
            }
        })?;
        contradiction.map_or(Ok(()), Err)
    }
}
