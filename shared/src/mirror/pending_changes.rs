//! Ref updates whose report has not arrived.

use std::sync::Arc;

use bstr::BString;

use crate::git::ObjectId;
use crate::remote::RefUpdate;

/// A requested update whose report has not arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PendingChange {
    pub(super) name: BString,
    /// Whether it counts; temporary tags do not.
    pub(super) is_counted: bool,
    /// Former id; `None` for a new ref.
    pub(super) old: Option<ObjectId>,
    /// New id; `None` for a deletion.
    pub(super) new: Option<ObjectId>,
}

/// The updates of one push until they are reported.
///
/// Shares the updates with the push: a repository may have hundreds of thousands of refs.
#[derive(Debug, Default)]
pub(super) struct PendingChanges {
    counted: Arc<Vec<RefUpdate>>,
    temporary: Vec<RefUpdate>,
    /// Positions in `counted`, then in `temporary`, sorted by name.
    by_name: Vec<usize>,
    /// By position in `by_name`.
    is_reported: Vec<bool>,
    unreported: usize,
}

impl PendingChanges {
    pub(super) fn new(counted: Arc<Vec<RefUpdate>>, temporary: &[RefUpdate]) -> Self {
        let count = counted.len() + temporary.len();
        let mut pending = Self {
            counted,
            temporary: temporary.to_vec(),
            by_name: Vec::new(),
            is_reported: vec![false; count],
            unreported: count,
        };
        let mut by_name: Vec<usize> = (0..count).collect();
        by_name.sort_unstable_by(|one, other| {
            pending.update(*one).name.cmp(&pending.update(*other).name)
        });
        pending.by_name = by_name;
        pending
    }

    fn update(&self, position: usize) -> &RefUpdate {
        match self.counted.get(position) {
            Some(update) => update,
            None => &self.temporary[position - self.counted.len()],
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unreported == 0
    }

    /// Takes the update of a ref that is reported; `None` if it was not requested.
    pub(super) fn take(&mut self, name: BString) -> Option<PendingChange> {
        let at = self
            .by_name
            .binary_search_by(|position| self.update(*position).name.cmp(&name))
            .ok()?;
        if std::mem::replace(&mut self.is_reported[at], true) {
            return None;
        }
        self.unreported -= 1;
        Some(self.pending(at, name))
    }

    fn pending(&self, at: usize, name: BString) -> PendingChange {
        let position = self.by_name[at];
        let update = self.update(position);
        PendingChange {
            name,
            is_counted: position < self.counted.len(),
            old: update.old,
            new: update.new.map(|target| target.id),
        }
    }

    /// Returns the updates without a report, sorted by name.
    pub(super) fn unreported(&self) -> impl Iterator<Item = PendingChange> {
        let positions = 0..self.by_name.len();
        let unreported = positions.filter(|at| !self.is_reported[*at]);
        unreported.map(|at| self.pending(at, self.update(self.by_name[at]).name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_pending_until_it_is_reported_once() {
        let update = |name: &str| RefUpdate {
            name: name.into(),
            old: None,
            new: None,
        };
        let counted = Arc::new(vec![update("refs/heads/b"), update("refs/heads/a")]);
        let mut pending = PendingChanges::new(counted, &[update("refs/tags/t")]);
        let mut is_counted = |name: &str| {
            let taken = pending.take(name.into());
            taken.map(|taken| (taken.name == name, taken.is_counted))
        };
        assert_eq!(is_counted("refs/heads/b"), Some((true, true)));
        assert_eq!(is_counted("refs/heads/b"), None, "it was reported");
        assert_eq!(is_counted("refs/heads/c"), None, "it was not requested");
        assert!(!pending.is_empty());
        let rest: Vec<_> = pending.unreported().map(|rest| rest.name).collect();
        assert_eq!(rest, ["refs/heads/a", "refs/tags/t"]);
        let taken = pending.take("refs/tags/t".into());
        assert!(!taken.expect("it is pending").is_counted);
        assert!(pending.take("refs/heads/a".into()).is_some() && pending.is_empty());
        assert!(PendingChanges::default().is_empty());
    }
}
