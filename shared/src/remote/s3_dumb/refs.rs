//! Applies changes to a repository's refs, without requests.

use std::collections::{HashMap, HashSet};

use bstr::BString;

use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::remote::{
    ATOMIC_FAILURE, ReceivedObjects, RefOutcome, RefUpdate, RefValue, Refs, conflicting_ref,
    is_branch, reject_non_commit,
};

/// Refs after changes, and the outcome of each change.
pub(super) struct ChangedRefs {
    pub(super) refs: Refs,
    pub(super) outcomes: Vec<(BString, RefOutcome)>,
}

impl ChangedRefs {
    /// Returns true if a change was rejected.
    pub(super) fn has_rejection(&self) -> bool {
        let mut outcomes = self.outcomes.iter();
        outcomes.any(|(_, outcome)| matches!(outcome, RefOutcome::Rejected(_)))
    }

    /// Returns the outcomes of an atomic push of which a change was rejected.
    pub(super) fn into_none_changed(self) -> Vec<(BString, RefOutcome)> {
        let none = |(name, outcome)| match outcome {
            RefOutcome::Rejected(reason) => (name, RefOutcome::Rejected(reason)),
            _ => (name, RefOutcome::Rejected(ATOMIC_FAILURE.to_owned())),
        };
        self.outcomes.into_iter().map(none).collect()
    }
}

/// Checks that the refs `old` have the old ids of `changes`.
///
/// # Errors
/// `Conflict` when a ref does not match the old id of its change.
pub(super) fn check_unchanged(old: &Refs, changes: &[RefUpdate]) -> Result<()> {
    for change in changes {
        let current = old.get(&change.name).map(|target| target.id);
        if current != change.old {
            let message = format!("another client changed `{}`", change.name);
            return Err(Error::new(ErrorKind::Conflict, message));
        }
    }
    Ok(())
}

/// Applies changes to the refs `old`. Branches that would name one of the objects `non_commits`
/// are rejected.
///
/// # Errors
/// `Conflict` when a ref does not match the old id of its change.
pub(super) fn apply(
    old: &Refs,
    changes: Vec<RefUpdate>,
    objects: Option<&ReceivedObjects>,
    non_commits: &[ObjectId],
) -> Result<ChangedRefs> {
    check_unchanged(old, &changes)?;
    let mut refs = old.clone();
    for change in changes.iter().filter(|change| change.new.is_none()) {
        refs.remove(&change.name);
    }
    let non_commits: HashSet<&ObjectId> = non_commits.iter().collect();
    let known_tags = KnownTags::new(old);
    let mut outcomes = Vec::with_capacity(changes.len());
    for change in changes {
        let outcome = if let Some(target) = change.new {
            if let Some(other) = conflicting_ref(&refs, change.name.as_ref()) {
                RefOutcome::Rejected(format!("`{other}` conflicts with the name"))
            } else if is_branch(&change.name) && non_commits.contains(&target.id) {
                RefOutcome::Rejected(reject_non_commit(&change.name, target.id))
            } else {
                let id = target.id;
                let peeled = target.peeled.or_else(|| known_tags.peel(objects, id));
                refs.insert(change.name.clone(), RefValue { id, peeled });
                RefOutcome::Done
            }
        } else {
            RefOutcome::Done
        };
        outcomes.push((change.name, outcome));
    }
    if refs.len() > 2 * old.len() {
        // A tree that grows by one name after the other is half empty.
        refs = refs.into_iter().collect();
    }
    Ok(ChangedRefs { refs, outcomes })
}

/// The objects that tags among the refs peel to.
struct KnownTags(HashMap<ObjectId, ObjectId>);

impl KnownTags {
    fn new(refs: &Refs) -> Self {
        let tags = refs.values();
        Self(tags.filter_map(|tag| Some((tag.id, tag.peeled?))).collect())
    }

    /// Returns the peeled id of a tag, if the new objects or other refs have it.
    fn peel(&self, objects: Option<&ReceivedObjects>, id: ObjectId) -> Option<ObjectId> {
        let at = objects.and_then(|objects| objects.peel(id));
        self.0.get(&at.unwrap_or(id)).copied().or(at)
    }
}

#[cfg(test)]
mod tests {
    use bstr::ByteSlice as _;

    use super::*;

    fn id(n: u8) -> ObjectId {
        ObjectId::from_bytes_or_panic(&[n; 20])
    }

    fn target(n: u8) -> RefValue {
        RefValue {
            id: id(n),
            peeled: None,
        }
    }

    fn change(name: &str, old: Option<u8>, new: Option<u8>) -> RefUpdate {
        RefUpdate {
            name: name.into(),
            old: old.map(id),
            new: new.map(target),
        }
    }

    #[test]
    fn conflicting_names_are_refused_unless_they_are_deleted() {
        let was = Refs::from([("refs/heads/a".into(), target(1))]);
        let below = change("refs/heads/a/b", None, Some(2));
        let refused = apply(&was, vec![below.clone()], None, &[]).unwrap();
        assert_eq!(refused.refs, was);
        assert!(matches!(refused.outcomes[0].1, RefOutcome::Rejected(_)));
        let moved = apply(
            &was,
            vec![change("refs/heads/a", Some(1), None), below],
            None,
            &[],
        )
        .unwrap();
        assert_eq!(moved.refs.keys().collect::<Vec<_>>(), ["refs/heads/a/b"]);
        let back = apply(
            &moved.refs,
            vec![change("refs/heads/a", None, Some(1))],
            None,
            &[],
        )
        .unwrap();
        assert!(matches!(back.outcomes[0].1, RefOutcome::Rejected(_)));
        let unrelated = change("refs/heads/a-b", None, Some(1));
        let unrelated = apply(&moved.refs, vec![unrelated], None, &[]).unwrap();
        assert_eq!(unrelated.outcomes[0].1, RefOutcome::Done);
    }

    #[test]
    fn a_branch_that_would_not_name_a_commit_is_refused_alone() {
        let changes = [
            change("refs/heads/a", None, Some(1)),
            change("refs/heads/b", None, Some(2)),
            change("refs/tags/b", None, Some(2)),
        ];
        let after = apply(&Refs::new(), changes.to_vec(), None, &[id(2)]).unwrap();
        let names: Vec<_> = after.refs.keys().collect();
        assert_eq!(names, ["refs/heads/a", "refs/tags/b"]);
        let rejected = RefOutcome::Rejected(reject_non_commit(&"refs/heads/b".into(), id(2)));
        assert_eq!(after.outcomes[1].1, rejected);
    }

    #[test]
    fn a_ref_that_moved_meanwhile_is_a_conflict() {
        let was = Refs::from([("refs/heads/a".into(), target(1))]);
        for old in [None, Some(2)] {
            let changes = vec![change("refs/heads/a", old, Some(3))];
            let error = apply(&was, changes, None, &[]);
            assert_eq!(error.err().map(|e| e.kind()), Some(ErrorKind::Conflict));
        }
    }

    #[test]
    fn a_tag_that_another_ref_names_is_peeled_like_it() {
        let known = RefValue {
            id: id(1),
            peeled: Some(id(2)),
        };
        let was = Refs::from([("refs/tags/a".into(), known)]);
        let changed = apply(&was, vec![change("refs/tags/b", None, Some(1))], None, &[]).unwrap();
        assert_eq!(changed.refs[b"refs/tags/b".as_bstr()], known);
    }
}
