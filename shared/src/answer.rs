//! Answers of functions, which AWS Lambda limits to 6 MB. A larger one would turn a good run
//! into a failure. The log has what an answer leaves out.

use serde::Serialize;

/// Maximum number of items in the answer of a schedule.
pub const MAX_ITEMS: usize = 1000;

/// Maximum number of names in one list of an item.
pub const MAX_NAMES: usize = 1000;

/// Maximum size of all items, in bytes of JSON: below 6 MB, with room for what is around them.
const MAX_BYTES: usize = 5_000_000;

/// Returns `items` unchanged if they fit an answer; otherwise as many as fit, sorted by
/// `importance`.
pub fn bounded<T: Serialize, K: Ord>(items: Vec<T>, importance: impl Fn(&T) -> K) -> Vec<T> {
    bounded_to(items, MAX_BYTES, importance)
}

fn bounded_to<T: Serialize, K: Ord>(
    mut items: Vec<T>,
    max_bytes: usize,
    importance: impl Fn(&T) -> K,
) -> Vec<T> {
    // One more byte for the comma.
    let size = |item: &T| serde_json::to_vec(item).map_or(max_bytes, |json| json.len() + 1);
    let total = items.iter().map(size).fold(0, usize::saturating_add);
    if items.len() <= MAX_ITEMS && total <= max_bytes {
        return items;
    }
    items.sort_by_key(importance);
    items.truncate(MAX_ITEMS);
    let mut left = max_bytes;
    items.retain(|item| {
        let size = size(item);
        let fits = size <= left;
        // After the first item that does not fit, no less important one follows.
        left = if fits { left - size } else { 0 };
        fits
    });
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_that_fit_keep_their_order() {
        assert_eq!(bounded(vec!["b", "a"], |item| *item), ["b", "a"]);
    }

    #[test]
    fn the_most_important_items_stay_within_number_and_size() {
        let items: Vec<usize> = (0..5000).rev().collect();
        let kept = bounded(items, |item| *item);
        assert_eq!(kept, (0..MAX_ITEMS).collect::<Vec<_>>());
        // Five bytes each: quotes, two letters, comma.
        let items = vec!["dd", "cc", "a very long item", "aa", "bb"];
        let kept = bounded_to(items, 14, |item| *item);
        assert!(
            kept.is_empty(),
            "the most important item does not fit: {kept:?}"
        );
        let kept = bounded_to(vec!["dd", "cc", "aa", "bb"], 14, |item| *item);
        assert_eq!(kept, ["aa", "bb"]);
        let json = serde_json::to_string(&kept).expect("it serialises");
        assert!(json.len() <= 14, "{json}");
    }
}
