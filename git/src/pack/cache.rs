//! Content of objects that may be wanted again as bases, within a bound.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::object::ObjectKind;

/// What a base is called while a pack is read: the number of an entry, or
/// [`EXTERNAL`] plus the number of an object outside of the pack.
pub(super) type Key = u64;

/// Where the numbers of objects outside of the pack start.
pub(super) const EXTERNAL: Key = 1 << 32;

/// A map that forgets what was not asked for the longest.
#[derive(Debug)]
pub(super) struct Cache {
    capacity: usize,
    held: usize,
    clock: u64,
    contents: HashMap<Key, (u64, ObjectKind, Bytes)>,
    by_age: BTreeMap<u64, Key>,
}

/// What an empty object costs all the same.
const OVERHEAD: usize = 200;

impl Cache {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            held: 0,
            clock: 0,
            contents: HashMap::new(),
            by_age: BTreeMap::new(),
        }
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.contents.contains_key(&key)
    }

    pub(super) fn get(&mut self, key: Key) -> Option<(ObjectKind, Bytes)> {
        let (age, kind, content) = self.contents.get_mut(&key)?;
        self.by_age.remove(age);
        self.clock += 1;
        *age = self.clock;
        self.by_age.insert(self.clock, key);
        Some((*kind, content.clone()))
    }

    /// Remembers content, unless it alone is more than the capacity.
    pub(super) fn insert(&mut self, key: Key, kind: ObjectKind, content: Bytes) {
        let cost = content.len() + OVERHEAD;
        if cost > self.capacity || self.contains(key) {
            return;
        }
        self.shrink(self.capacity - cost);
        self.clock += 1;
        self.held += cost;
        self.by_age.insert(self.clock, key);
        self.contents.insert(key, (self.clock, kind, content));
    }

    /// Forgets until at most `bytes` are held.
    pub(super) fn shrink(&mut self, bytes: usize) {
        while self.held > bytes {
            let Some((_, key)) = self.by_age.pop_first() else {
                return;
            };
            if let Some((_, _, content)) = self.contents.remove(&key) {
                self.held -= content.len() + OVERHEAD;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_and_the_bound_holds() {
        let mut cache = Cache::new(3 * (OVERHEAD + 10));
        let ten = Bytes::from_static(&[0; 10]);
        for key in 0..3 {
            cache.insert(key, ObjectKind::Blob, ten.clone());
        }
        assert!(cache.get(0).is_some());
        cache.insert(3, ObjectKind::Blob, ten.clone());
        assert!(!cache.contains(1), "1 was not asked for the longest");
        assert!(cache.contains(0) && cache.contains(2) && cache.contains(3));
        cache.insert(4, ObjectKind::Blob, vec![0; 10_000].into());
        assert!(!cache.contains(4) && cache.contains(3));
        cache.shrink(0);
        assert_eq!((cache.held, cache.contents.len()), (0, 0));
    }
}
