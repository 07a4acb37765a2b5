//! Abbreviated ids.

use super::Database;
use crate::ObjectId;
use crate::pack::Index;

/// The minimum number of digits of an abbreviated id.
const MIN_DIGITS: usize = 7;

impl Database {
    /// Abbreviates an id as git's `%h` does in a repository of these packs without
    /// `core.abbrev`: to at least half of the bits of the number of objects, and to digits
    /// with which no other id starts.
    pub fn abbreviated(&self, id: ObjectId) -> String {
        self.abbreviated_to(id, None)
    }

    /// Abbreviates an id like [`abbreviated`](Self::abbreviated), to at least `digits`.
    pub fn abbreviated_to(&self, id: ObjectId, digits: Option<usize>) -> String {
        let bits = (usize::BITS - self.packed_objects().leading_zeros()) as usize;
        let unique = self
            .packs
            .iter()
            .map(|held| unique_digits(held.layout.index(), id));
        let digits = digits.unwrap_or_else(|| bits.div_ceil(2).max(MIN_DIGITS));
        let digits = unique.fold(digits, usize::max);
        id.to_hex_with_len(digits.min(id.kind().len_in_hex()))
            .to_string()
    }
}

/// Returns the number of digits of `id` with which no other id of the index starts.
fn unique_digits(index: &Index, id: ObjectId) -> usize {
    let (mut start, mut end) = (0, index.len());
    while start < end {
        let middle = usize::midpoint(start, end);
        if index.id(middle) < id {
            start = middle + 1;
        } else {
            end = middle;
        }
    }
    // The neighbours in the order of ids share the longest prefix.
    let neighbours = start.saturating_sub(1)..index.len().min(start + 2);
    neighbours
        .map(|position| index.id(position))
        .filter(|other| *other != id)
        .map(|other| common_digits(id, other) + 1)
        .max()
        .unwrap_or_default()
}

fn common_digits(left: ObjectId, right: ObjectId) -> usize {
    let pairs = left.as_slice().iter().zip(right.as_slice());
    let mut digits = 0;
    for (left, right) in pairs {
        let differs = left ^ right;
        if differs != 0 {
            return digits + usize::from(differs < 0x10);
        }
        digits += 2;
    }
    digits
}
