//! The order in which a push changes refs. Pure.

use std::collections::HashMap;

use crate::git::ObjectId;
use crate::remote::{RefUpdate, Refs, conflicting_ref};

/// Number of refs that are changed at once.
pub(super) const CONCURRENT_REFS: usize = 8;

/// Step of a push, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Deletion of a ref that is in the way of a new one.
    DeleteConflicting,
    /// Creation or move.
    Write,
    /// Any other deletion: after new refs, because these may be composed of its bundle.
    Delete,
}

fn steps(changes: &[RefUpdate]) -> Vec<Step> {
    let created = changes.iter().filter_map(|change| {
        let new = change.new.filter(|_| change.old.is_none())?;
        Some((change.name.clone(), new))
    });
    let created: Refs = created.collect();
    let is_conflicting =
        |change: &RefUpdate| conflicting_ref(&created, change.name.as_ref()).is_some();
    let step = |change: &RefUpdate| match change.new {
        Some(_) => Step::Write,
        None if is_conflicting(change) => Step::DeleteConflicting,
        None => Step::Delete,
    };
    changes.iter().map(step).collect()
}

/// Returns the positions of the changes, in groups of at most [`CONCURRENT_REFS`] that may be
/// made at once, one group after the other: older commits first, by their `numbers`, so that
/// later bundles are composed of earlier ones. `is_first_alone` puts the first ref that is
/// written into a group of its own.
pub(super) fn waves(
    changes: &[RefUpdate],
    numbers: &HashMap<ObjectId, usize>,
    is_first_alone: bool,
) -> Vec<Vec<usize>> {
    let steps = steps(changes);
    let mut order: Vec<usize> = (0..changes.len()).collect();
    order.sort_by_key(|at| {
        let number = changes[*at].new.and_then(|new| numbers.get(&new.id));
        (steps[*at], number.copied().unwrap_or_default())
    });
    let mut waves: Vec<Vec<usize>> = Vec::new();
    let mut written = 0;
    for at in order {
        let max = if steps[at] == Step::Write && is_first_alone && written == 1 {
            1
        } else {
            CONCURRENT_REFS
        };
        written += usize::from(steps[at] == Step::Write);
        match waves.last_mut() {
            Some(wave) if steps[wave[0]] == steps[at] && wave.len() < max => wave.push(at),
            _ => waves.push(vec![at]),
        }
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::RefValue;

    #[test]
    fn refs_in_the_way_are_deleted_first_and_others_last() {
        let id = |n: u8| ObjectId::from_bytes_or_panic(&[n; 20]);
        let change = |name: &str, old: Option<u8>, new: Option<u8>| RefUpdate {
            name: name.into(),
            old: old.map(id),
            new: new.map(|n| RefValue {
                id: id(n),
                peeled: None,
            }),
        };
        let mut changes = vec![
            change("refs/heads/old", Some(1), None),
            change("refs/heads/a", Some(1), None),
            change("refs/heads/a/b", None, Some(3)),
            change("refs/heads/main", Some(1), Some(2)),
        ];
        let numbers = HashMap::from([(id(2), 1), (id(3), 2)]);
        let found = waves(&changes, &numbers, true);
        assert_eq!(found, [vec![1], vec![3], vec![2], vec![0]]);
        let found = waves(&changes, &numbers, false);
        assert_eq!(found, [vec![1], vec![3, 2], vec![0]]);
        changes.extend((0..12).map(|n| change(&format!("refs/tags/{n}"), None, Some(9))));
        let found = waves(&changes, &numbers, true);
        let sizes: Vec<_> = found.iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 1, 8, 5, 1]);
        assert!(waves(&[], &numbers, true).is_empty());
    }
}
