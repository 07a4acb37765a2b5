//! Contents of objects that deltas may need as bases, within a bound of memory.

use bytes::Bytes;
use lru::LruCache;

use crate::object::ObjectKind;

/// The name of a base while a pack is read: the number of an entry, or [`EXTERNAL`] plus the
/// number of an object outside of the pack.
pub(super) type Key = u64;

/// The key of the first object outside of the pack.
pub(super) const EXTERNAL: Key = 1 << 32;

/// Bytes that a cached object costs in addition to its content.
const OVERHEAD_BYTES: usize = 200;

/// Contents by key; the least recently used are evicted first.
#[derive(Debug)]
pub(super) struct Cache {
    max_bytes: usize,
    held_bytes: usize,
    contents: LruCache<Key, (ObjectKind, Bytes)>,
}

impl Cache {
    /// Creates a cache of at most `max_bytes` bytes.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            held_bytes: 0,
            contents: LruCache::unbounded(),
        }
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.contents.contains(&key)
    }

    pub(super) fn get(&mut self, key: Key) -> Option<(ObjectKind, Bytes)> {
        self.contents.get(&key).cloned()
    }

    /// Inserts content, unless it alone exceeds the bound or `key` is cached already.
    pub(super) fn insert(&mut self, key: Key, kind: ObjectKind, content: Bytes) {
        let cost = content.len() + OVERHEAD_BYTES;
        if cost > self.max_bytes || self.contains(key) {
            return;
        }
        self.shrink(self.max_bytes - cost);
        self.held_bytes += cost;
        self.contents.put(key, (kind, content));
    }

    /// Evicts objects until at most `max_bytes` bytes are held.
    pub(super) fn shrink(&mut self, max_bytes: usize) {
        while self.held_bytes > max_bytes {
            let Some((_, (_, content))) = self.contents.pop_lru() else {
                return;
            };
            self.held_bytes -= content.len() + OVERHEAD_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_object_is_evicted_and_the_bound_holds() {
        let mut cache = Cache::new(3 * (OVERHEAD_BYTES + 10));
        let ten = Bytes::from_static(&[0; 10]);
        for key in 0..3 {
            cache.insert(key, ObjectKind::Blob, ten.clone());
        }
        assert!(cache.get(0).is_some());
        cache.insert(3, ObjectKind::Blob, ten.clone());
        assert!(!cache.contains(1), "1 is the least recently used");
        assert!(cache.contains(0) && cache.contains(2) && cache.contains(3));
        cache.insert(4, ObjectKind::Blob, vec![0; 10_000].into());
        assert!(!cache.contains(4) && cache.contains(3));
        cache.shrink(0);
        assert_eq!((cache.held_bytes, cache.contents.len()), (0, 0));
    }
}
