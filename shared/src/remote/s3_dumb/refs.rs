//! Applies changes to a repository's refs, without requests.

use bstr::BString;

use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::remote::{ReceivedObjects, RefOutcome, RefUpdate, RefValue, Refs, conflicting_ref};

/// Refs after changes, and the outcome of each change.
pub(super) struct ChangedRefs {
    pub(super) refs: Refs,
    pub(super) outcomes: Vec<(BString, RefOutcome)>,
}

/// Applies changes to the refs `old`.
///
/// # Errors
/// `Conflict` when a ref does not match the old id of its change.
pub(super) fn apply(
    old: &Refs,
    changes: &[RefUpdate],
    watch: Option<&ReceivedObjects>,
) -> Result<ChangedRefs> {
    let mut refs = old.clone();
    for change in changes {
        let current = old.get(&change.name).map(|target| target.id);
        if current != change.old {
            let message = format!("another client changed `{}`", change.name);
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        if change.new.is_none() {
            refs.remove(&change.name);
        }
    }
    let mut outcomes = Vec::new();
    for change in changes {
        let outcome = if let Some(target) = change.new {
            if let Some(other) = conflicting_ref(&refs, change.name.as_ref()) {
                RefOutcome::Rejected(format!("`{other}` conflicts with the name"))
            } else {
                let id = target.id;
                let peeled = target.peeled.or_else(|| peel(old, watch, id));
                refs.insert(change.name.clone(), RefValue { id, peeled });
                RefOutcome::Done
            }
        } else {
            RefOutcome::Done
        };
        outcomes.push((change.name.clone(), outcome));
    }
    Ok(ChangedRefs { refs, outcomes })
}

/// Returns the peeled id of a tag, if the new objects or other refs have it.
fn peel(old: &Refs, watch: Option<&ReceivedObjects>, id: ObjectId) -> Option<ObjectId> {
    let at = watch.and_then(|watch| watch.peel(id));
    let known = old.values().find(|target| target.id == at.unwrap_or(id));
    known.and_then(|target| target.peeled).or(at)
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
        let refused = apply(&was, std::slice::from_ref(&below), None).unwrap();
        assert_eq!(refused.refs, was);
        assert!(matches!(refused.outcomes[0].1, RefOutcome::Rejected(_)));
        let moved = apply(&was, &[change("refs/heads/a", Some(1), None), below], None).unwrap();
        assert_eq!(moved.refs.keys().collect::<Vec<_>>(), ["refs/heads/a/b"]);
        let back = apply(&moved.refs, &[change("refs/heads/a", None, Some(1))], None).unwrap();
        assert!(matches!(back.outcomes[0].1, RefOutcome::Rejected(_)));
        let unrelated = change("refs/heads/a-b", None, Some(1));
        let unrelated = apply(&moved.refs, &[unrelated], None).unwrap();
        assert_eq!(unrelated.outcomes[0].1, RefOutcome::Done);
    }

    #[test]
    fn a_ref_that_moved_meanwhile_is_a_conflict() {
        let was = Refs::from([("refs/heads/a".into(), target(1))]);
        for old in [None, Some(2)] {
            let error = apply(&was, &[change("refs/heads/a", old, Some(3))], None);
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
        let changed = apply(&was, &[change("refs/tags/b", None, Some(1))], None).unwrap();
        assert_eq!(changed.refs[b"refs/tags/b".as_bstr()], known);
    }
}
