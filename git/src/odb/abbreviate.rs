//! Ids as people read them.

use super::Database;
use crate::ObjectId;
use crate::pack::Index;

/// The fewest digits that git shows of an id.
const FEWEST: usize = 7;

impl Database {
    /// The first digits of an id, as many as git's `%h` shows in a repository of these
    /// packs (`core.abbrev` not set): a few more than half of what tells as many objects
    /// apart, and so many that no other id starts with them.
    pub fn abbreviated(&self, id: ObjectId) -> String {
        let bits = (usize::BITS - self.packed_objects().leading_zeros()) as usize;
        let unique = self
            .packs
            .iter()
            .map(|held| digits_alone(held.layout.index(), id));
        let digits = unique.fold(bits.div_ceil(2).max(FEWEST), usize::max);
        id.to_hex_with_len(digits.min(id.kind().len_in_hex()))
            .to_string()
    }
}

/// How many digits of an id it takes so that no other id of the index starts with them.
fn digits_alone(index: &Index, id: ObjectId) -> usize {
    let (mut start, mut end) = (0, index.len());
    while start < end {
        let middle = usize::midpoint(start, end);
        if index.id(middle) < id {
            start = middle + 1;
        } else {
            end = middle;
        }
    }
    // The neighbours share the most with it.
    let near = start.saturating_sub(1)..index.len().min(start + 2);
    near.map(|position| index.id(position))
        .filter(|other| *other != id)
        .map(|other| common_digits(id, other) + 1)
        .max()
        .unwrap_or_default()
}

fn common_digits(one: ObjectId, other: ObjectId) -> usize {
    let pairs = one.as_slice().iter().zip(other.as_slice());
    let mut digits = 0;
    for (one, other) in pairs {
        let differs = one ^ other;
        if differs != 0 {
            return digits + usize::from(differs < 0x10);
        }
        digits += 2;
    }
    digits
}
