//! The space that bundles take, compared with one repository. Pure.

/// Maximum size of all bundles together, in sizes of the largest, without a warning.
const MAX_UNNOTICED_COPIES: u64 = 10;

/// Space that the bundles of a remote take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredCopies {
    /// Size of all bundles.
    pub(super) stored_bytes: u64,
    /// Size of the largest one: about that of the repository.
    pub(super) largest_bytes: u64,
}

impl StoredCopies {
    /// Adds up the sizes of the bundles; `None` if they do not take much more space than one
    /// repository.
    pub(super) fn find(sizes: impl Iterator<Item = u64>) -> Option<Self> {
        let (mut stored_bytes, mut largest_bytes) = (0_u64, 0);
        for size in sizes {
            stored_bytes = stored_bytes.saturating_add(size);
            largest_bytes = size.max(largest_bytes);
        }
        let is_much = stored_bytes > largest_bytes.saturating_mul(MAX_UNNOTICED_COPIES);
        is_much.then_some(Self {
            stored_bytes,
            largest_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_ten_times_the_largest_bundle_is_noticed() {
        assert_eq!(StoredCopies::find([].into_iter()), None);
        assert_eq!(StoredCopies::find([12; 10].into_iter()), None);
        let small = std::iter::repeat_n(1, 31);
        assert_eq!(StoredCopies::find(small.clone().chain([12])), None);
        let found = StoredCopies::find(small.map(|_| 12));
        let expected = StoredCopies {
            stored_bytes: 372,
            largest_bytes: 12,
        };
        assert_eq!(found, Some(expected));
    }
}
