//! The difference between two remotes, as ref updates. Pure.

use crate::error::{Error, ErrorKind, Result};
use crate::mirror::RefSelection;
use crate::mirror::temporary_tag::is_temporary;
use crate::remote::{Head, RefUpdate, Snapshot};

/// Ref updates that make the target's selected refs equal the source's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorPlan {
    /// Deletions first, because a deleted ref may conflict with a new one (`a` with `a/b`);
    /// then the branch that `HEAD` names; then the others, sorted by name.
    pub changes: Vec<RefUpdate>,
    /// New target of `HEAD`, if it differs.
    pub head: Option<Head>,
    /// Number of selected refs that are equal already.
    pub unchanged: u64,
}

/// Plans the updates of `selection`; with `prune`, deletions too.
///
/// # Errors
/// `Config` if the two sides use different hash functions.
pub fn plan(
    source: &Snapshot,
    target: &Snapshot,
    selection: &RefSelection,
    prune: bool,
) -> Result<MirrorPlan> {
    if !target.refs.is_empty() && !source.refs.is_empty() && source.hash != target.hash {
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "the source uses {} and the target {}",
                source.hash, target.hash
            ),
        )
        .with_hint("git cannot convert between them: use an empty target"));
    }
    // Temporary tags of a migration are not mirrored, on either side.
    let selected =
        |name: &bstr::BString| selection.selects(name.as_ref()) && !is_temporary(name.as_ref());
    let mut changes = Vec::new();
    if prune {
        let deleted = target
            .refs
            .iter()
            .filter(|(name, _)| selected(name) && !source.refs.contains_key(*name));
        changes.extend(deleted.map(|(name, was)| RefUpdate {
            name: name.clone(),
            old: Some(was.id),
            new: None,
        }));
    }
    let deletions = changes.len();
    let mut unchanged = 0;
    for (name, new) in &source.refs {
        if !selected(name) {
            continue;
        }
        let old = target.refs.get(name).map(|was| was.id);
        if old == Some(new.id) {
            unchanged += 1;
            continue;
        }
        changes.push(RefUpdate {
            name: name.clone(),
            old,
            new: Some(*new),
        });
    }
    let head = source.head.clone().filter(|head| match head {
        Head::Symbolic(name) => selected(name),
        Head::Detached(_) => true,
    });
    if let Some(Head::Symbolic(first)) = &head {
        let moves = &mut changes[deletions..];
        if let Some(at) = moves.iter().position(|change| change.name == *first) {
            moves[..=at].rotate_right(1);
        }
    }
    Ok(MirrorPlan {
        changes,
        head: head.filter(|head| target.head.as_ref() != Some(head)),
        unchanged,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bstr::BString;
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;
    use crate::git::{HashKind, ObjectId};
    use crate::remote::{RefTarget, Refs};

    fn id(number: u8) -> ObjectId {
        ObjectId::from_hex(format!("{number:040x}").as_bytes()).unwrap()
    }

    fn snapshot(refs: &[(&str, u8)], head: Option<Head>) -> Snapshot {
        let refs = refs.iter().map(|(name, number)| {
            let target = RefTarget {
                id: id(*number),
                peeled: None,
            };
            (BString::from(*name), target)
        });
        Snapshot {
            hash: HashKind::Sha1,
            refs: refs.collect(),
            head,
        }
    }

    fn names(plan: &MirrorPlan) -> Vec<String> {
        let changes = plan.changes.iter();
        changes.map(|change| change.name.to_string()).collect()
    }

    #[expect(clippy::unnecessary_wraps, reason = "a head may be unknown")]
    fn symbolic(name: &str) -> Option<Head> {
        Some(Head::Symbolic(name.into()))
    }

    #[test]
    fn deletions_come_first_and_then_the_branch_of_head() {
        let source = snapshot(
            &[
                ("refs/heads/a", 1),
                ("refs/heads/b/c", 2),
                ("refs/heads/main", 3),
                ("refs/heads/same", 4),
                ("refs/notes/x", 5),
                ("refs/tags/v1", 6),
            ],
            symbolic("refs/heads/main"),
        );
        let target = snapshot(
            &[
                ("refs/heads/b", 2),
                ("refs/heads/same", 4),
                ("refs/keep/x", 7),
                ("refs/tags/v1", 9),
            ],
            symbolic("refs/heads/b"),
        );
        let selection = RefSelection::default();
        let pruned = plan(&source, &target, &selection, true).unwrap();
        let expected = [
            "refs/heads/b",
            "refs/heads/main",
            "refs/heads/a",
            "refs/heads/b/c",
            "refs/tags/v1",
        ];
        assert_eq!(names(&pruned), expected);
        assert_eq!(pruned.changes[0].new, None, "the source does not have it");
        assert_eq!(
            pruned.changes[4].old,
            Some(id(9)),
            "the old id is in the update"
        );
        assert_eq!(pruned.head, symbolic("refs/heads/main"));
        assert_eq!(pruned.unchanged, 1);
        let kept = plan(&source, &target, &selection, false).unwrap();
        assert_eq!(
            names(&kept),
            expected[1..],
            "nothing may be deleted without `prune`"
        );
    }

    #[test]
    fn head_changes_if_it_differs_and_is_selected() {
        let selection = RefSelection::new(["refs/heads/a*"]).unwrap();
        let head_of = |source: Option<Head>, target: Option<Head>| {
            let refs = [("refs/heads/a", 1)];
            let plan = plan(
                &snapshot(&refs, source),
                &snapshot(&refs, target),
                &selection,
                true,
            );
            plan.unwrap().head
        };
        let (a, b) = (symbolic("refs/heads/a"), symbolic("refs/heads/b"));
        let unborn = symbolic("refs/heads/ab");
        let detached = Some(Head::Detached(id(1)));
        assert_eq!(head_of(a.clone(), a.clone()), None);
        assert_eq!(head_of(a.clone(), None), a);
        assert_eq!(head_of(a.clone(), b.clone()), a);
        assert_eq!(
            head_of(b, a.clone()),
            None,
            "`refs/heads/b` is not selected"
        );
        assert_eq!(head_of(unborn.clone(), a.clone()), unborn);
        assert_eq!(head_of(detached.clone(), a.clone()), detached);
        assert_eq!(head_of(None, a), None, "an unknown `HEAD` is not mirrored");
    }

    #[test]
    fn hash_functions_must_match_if_both_sides_have_refs() {
        let mut source = snapshot(&[("refs/heads/a", 1)], None);
        let target = snapshot(&[("refs/heads/a", 2)], None);
        source.hash = HashKind::Sha256;
        let selection = RefSelection::default();
        let error = plan(&source, &target, &selection, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let empty = Snapshot::empty(HashKind::Sha1);
        assert!(plan(&source, &empty, &selection, false).is_ok());
        assert!(plan(&empty, &target, &selection, true).is_ok());
    }

    fn any_snapshot() -> impl Strategy<Value = Snapshot> {
        let space = prop::sample::select(vec!["refs/heads/", "refs/tags/", "refs/notes/"]);
        let name = (space, 0..6_u8).prop_map(|(space, n)| format!("{space}{n}"));
        let refs = prop::collection::btree_map(name, 1..4_u8, 0..14);
        let head = prop::option::of(0..6_u8);
        (refs, head).prop_map(|(refs, head)| {
            let refs: Vec<_> = refs.iter().map(|(name, n)| (name.as_str(), *n)).collect();
            snapshot(
                &refs,
                head.and_then(|n| symbolic(&format!("refs/heads/{n}"))),
            )
        })
    }

    proptest! {
        #[test]
        fn an_applied_plan_makes_both_sides_equal_and_the_next_plan_is_empty(
            source in any_snapshot(),
            target in any_snapshot(),
            prune: bool,
        ) {
            let selection = RefSelection::default();
            let first = plan(&source, &target, &selection, prune).unwrap();
            let mut after = target.clone();
            let mut seen = BTreeMap::new();
            for (at, change) in first.changes.iter().enumerate() {
                prop_assert!(selection.selects(change.name.as_ref()));
                prop_assert!(seen.insert(change.name.clone(), at).is_none(), "each ref is updated once");
                prop_assert_eq!(change.old, target.refs.get(&change.name).map(|was| was.id));
                prop_assert_ne!(change.old, change.new.map(|new| new.id), "an update must change its ref");
                match change.new {
                    Some(new) => after.refs.insert(change.name.clone(), new),
                    None => after.refs.remove(&change.name),
                };
            }
            after.head = first.head.clone().or(after.head);
            let selected = |side: &Snapshot| -> Refs {
                let refs = side.refs.iter().filter(|(name, _)| selection.selects((*name).as_ref()));
                refs.map(|(name, target)| (name.clone(), *target)).collect()
            };
            let (wanted, made) = (selected(&source), selected(&after));
            for (name, target) in &wanted {
                prop_assert_eq!(made.get(name), Some(target));
            }
            for (name, now) in &after.refs {
                if !wanted.contains_key(name) {
                    prop_assert_eq!(target.refs.get(name), Some(now), "other refs must stay");
                    prop_assert!(!prune || !selection.selects(name.as_ref()));
                }
            }
            let created = first.changes.iter().filter(|change| change.new.is_some()).count();
            prop_assert_eq!(created as u64 + first.unchanged, wanted.len() as u64);
            let second = plan(&source, &after, &selection, prune).unwrap();
            prop_assert_eq!(second.changes, []);
            prop_assert_eq!(second.head, None);
            prop_assert_eq!(second.unchanged, wanted.len() as u64);
        }
    }
}
