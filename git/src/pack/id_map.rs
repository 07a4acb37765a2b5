//! A map from object ids that takes little memory beside its ids.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use crate::{HashKind, ObjectId};

/// The number of shards; a shard has the ids that begin with the same bits.
const SHARDS: usize = 64;

/// Values by object id, for all objects of a pack.
///
/// Ids are stored in the length of their hash function. They are divided among shards that grow
/// one by one, so that growing takes little memory beside the map.
pub(crate) struct IdMap<V>(Shards<V>);

enum Shards<V> {
    Sha1(Vec<Shard<20, V>>),
    Sha256(Vec<Shard<32, V>>),
}

type Shard<const N: usize, V> = HashMap<[u8; N], V, BuildHasherDefault<IdHasher>>;

impl<V> IdMap<V> {
    /// Creates an empty map for ids of `hash`.
    pub(crate) fn new(hash: HashKind) -> Self {
        Self(match hash {
            HashKind::Sha256 => Shards::Sha256(shards()),
            _ => Shards::Sha1(shards()),
        })
    }

    /// Returns the value of an id.
    pub(crate) fn get(&self, id: ObjectId) -> Option<&V> {
        match &self.0 {
            Shards::Sha1(shards) => get(shards, id),
            Shards::Sha256(shards) => get(shards, id),
        }
    }

    /// Returns whether the map has a value for an id.
    pub(crate) fn contains(&self, id: ObjectId) -> bool {
        self.get(id).is_some()
    }

    /// Returns the value of an id, which is `value` if the map had none. An id has the hash
    /// function of the map.
    pub(crate) fn or_insert(&mut self, id: ObjectId, value: V) -> &mut V {
        match &mut self.0 {
            Shards::Sha1(shards) => or_insert(shards, id, value),
            Shards::Sha256(shards) => or_insert(shards, id, value),
        }
    }

    /// Passes each id with its value to `each`, and frees the map meanwhile.
    pub(crate) fn drain(self, mut each: impl FnMut(ObjectId, V)) {
        match self.0 {
            Shards::Sha1(shards) => drain(shards, &mut each),
            Shards::Sha256(shards) => drain(shards, &mut each),
        }
    }
}

impl<V> fmt::Debug for IdMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: usize = match &self.0 {
            Shards::Sha1(shards) => shards.iter().map(HashMap::len).sum(),
            Shards::Sha256(shards) => shards.iter().map(HashMap::len).sum(),
        };
        f.debug_struct("IdMap").field("count", &count).finish()
    }
}

fn shards<const N: usize, V>() -> Vec<Shard<N, V>> {
    (0..SHARDS).map(|_| Shard::default()).collect()
}

fn shard_of(first: u8) -> usize {
    usize::from(first) * SHARDS / 256
}

fn get<const N: usize, V>(shards: &[Shard<N, V>], id: ObjectId) -> Option<&V> {
    let key = <[u8; N]>::try_from(id.as_slice()).ok()?;
    shards[shard_of(key[0])].get(&key)
}

fn or_insert<const N: usize, V>(shards: &mut [Shard<N, V>], id: ObjectId, value: V) -> &mut V {
    let key = <[u8; N]>::try_from(id.as_slice())
        .expect("because the ids of a pack have the hash function of the pack");
    shards[shard_of(key[0])].entry(key).or_insert(value)
}

fn drain<const N: usize, V>(shards: Vec<Shard<N, V>>, each: &mut impl FnMut(ObjectId, V)) {
    for shard in shards {
        for (key, value) in shard {
            each(ObjectId::from_bytes_or_panic(&key), value);
        }
    }
}

/// A hasher that uses bytes of an id, because an id is a hash already.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

/// The first byte of an id that is used: those before it are equal within a shard.
const FIRST_HASHED_BYTE: usize = 4;

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Discriminants and lengths are shorter than any id.
        if bytes.len() >= 20 {
            let first = bytes[FIRST_HASHED_BYTE..]
                .first_chunk()
                .expect("because there are at least twenty bytes");
            self.0 = u64::from_le_bytes(*first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{ObjectKind, id_of};

    #[test]
    fn a_map_keeps_the_first_value_of_each_id_of_both_hash_functions() {
        for hash in [HashKind::Sha1, HashKind::Sha256] {
            let id = |n: u32| id_of(hash, ObjectKind::Blob, &n.to_le_bytes()).unwrap();
            let mut map = IdMap::new(hash);
            for n in 0..5000 {
                assert_eq!(*map.or_insert(id(n), n), n);
                assert_eq!(*map.or_insert(id(n), 7), n, "the first value stays");
            }
            assert!((0..5000).all(|n| map.get(id(n)) == Some(&n)));
            assert!(!map.contains(id(5000)));
            let other = match hash {
                HashKind::Sha1 => HashKind::Sha256,
                _ => HashKind::Sha1,
            };
            assert!(!map.contains(other.null()), "another hash function");
            let mut found = Vec::new();
            map.drain(|at, n| {
                assert_eq!(at, id(n));
                found.push(n);
            });
            found.sort_unstable();
            assert!(found.into_iter().eq(0..5000));
        }
    }
}
