use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;
use crate::git::{HashKind, ObjectId};

fn id(number: u8) -> ObjectId {
    ObjectId::from_hex(format!("{number:040x}").as_bytes()).unwrap()
}

fn snapshot(refs: &[(&str, u8)], head: Option<Head>) -> Snapshot {
    let refs = refs.iter().map(|(name, number)| {
        let target = RefValue {
            id: id(*number),
            peeled: None,
        };
        (BString::from(*name), target)
    });
    Snapshot {
        hash: HashKind::Sha1,
        refs: refs.collect(),
        head,
        ..Snapshot::empty(HashKind::Sha1)
    }
}

/// Plans with and without `prune`, which may delete everything; `HEAD` is accepted.
fn plan(
    source: &Snapshot,
    target: &Snapshot,
    selection: &RefSelection,
    prune: bool,
) -> Result<MirrorPlan> {
    let rules = PlanRules {
        prune,
        prune_all: true,
        head: source.head.as_ref(),
        ..PlanRules::default()
    };
    super::plan(source, target, selection, rules)
}

fn names_of(updates: &[RefUpdate]) -> Vec<String> {
    updates
        .iter()
        .map(|update| update.name.to_string())
        .collect()
}

#[expect(clippy::unnecessary_wraps, reason = "a head may be unknown")]
fn symbolic(name: &str) -> Option<Head> {
    Some(Head::Symbolic(name.into()))
}

#[test]
fn refs_come_before_deletions_and_the_branch_of_head_first() {
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
            ("refs/heads/old", 2),
            ("refs/heads/same", 4),
            ("refs/keep/x", 7),
            ("refs/tags/v1", 9),
        ],
        symbolic("refs/heads/old"),
    );
    let selection = RefSelection::default();
    let pruned = plan(&source, &target, &selection, true).unwrap();
    let cleared = names_of(&pruned.conflicting_deletions);
    assert_eq!(cleared, ["refs/heads/b"], "it is in the way of `b/c`");
    let changes = [
        "refs/heads/main",
        "refs/heads/a",
        "refs/heads/b/c",
        "refs/tags/v1",
    ];
    assert_eq!(names_of(&pruned.changes), changes);
    assert_eq!(pruned.changes[3].old, Some(id(9)), "the id that was read");
    assert_eq!(names_of(&pruned.deletions), ["refs/heads/old"]);
    assert_eq!(pruned.head, symbolic("refs/heads/main"));
    assert_eq!((pruned.unchanged, pruned.copies.len()), (1, 0));
    let kept = plan(&source, &target, &selection, false).unwrap();
    assert_eq!(
        (kept.conflicting_deletions, kept.deletions),
        (Vec::new(), Vec::new())
    );
    let created = ["refs/heads/main", "refs/heads/a", "refs/tags/v1"];
    assert_eq!(names_of(&kept.changes), created);
    let reason = &kept.rejected[b"refs/heads/b/c".as_bstr()];
    assert!(reason.contains("`refs/heads/b` of the target is in the way"));
    assert!(
        reason.contains("hint: delete or rename it there"),
        "{reason}"
    );
}

/// Each case: refs of the source, refs of the target, the refs set aside with their new
/// names, and the rejected refs.
#[test]
fn refs_in_the_way_are_set_aside_or_reject_the_others() {
    type Names<'a> = &'a [&'a str];
    type Case<'a> = (Names<'a>, Names<'a>, &'a [(&'a str, &'a str)], Names<'a>);
    let cases: [Case<'_>; 9] = [
        (
            &["heads/a/b"],
            &["heads/a"],
            &[("heads/a", "heads/a")],
            &["heads/a/b"],
        ),
        (
            &["heads/a"],
            &["heads/a/b"],
            &[("heads/a/b", "heads/a/b")],
            &["heads/a"],
        ),
        (
            &["heads/a/b/c/d", "tags/v/1"],
            &["heads/a/b", "tags/v"],
            &[("heads/a/b", "heads/a/b"), ("tags/v", "tags/v")],
            &["heads/a/b/c/d", "tags/v/1"],
        ),
        (
            &["heads/a"],
            &["heads/a/b", "heads/a/c", "stale/heads/a"],
            &[("heads/a/b", "heads/a-2/b"), ("heads/a/c", "heads/a-2/c")],
            &["heads/a"],
        ),
        (
            &["heads/a/b"],
            &["heads/a", "heads/a/b"],
            &[("heads/a", "heads/a")],
            &[],
        ),
        (
            &["heads/a"],
            &["heads/a", "heads/a/b"],
            &[("heads/a/b", "heads/a/b")],
            &[],
        ),
        (
            &["heads/x"],
            &["heads/a", "heads/a/b", "heads/a/b/c"],
            &[("heads/a", "heads/a"), ("heads/a/b", "heads/a-2/b")],
            &[],
        ),
        (&["heads/a", "heads/a/b"], &[], &[], &["heads/a"]),
        (&["heads/a"], &["heads/a-b", "heads/ab"], &[], &[]),
    ];
    let side = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| format!("refs/{name}")).collect();
        let refs: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        snapshot(&refs, None)
    };
    for (source, target, aside, rejected) in cases {
        let (source, mut target) = (side(source), side(target));
        if let Some(stale) = target.refs.get_mut(b"refs/stale/heads/a".as_bstr()) {
            stale.id = id(9);
        }
        let selection = RefSelection::default();
        let rules = PlanRules {
            sets_aside: true,
            ..PlanRules::default()
        };
        let plan = super::plan(&source, &target, &selection, rules).unwrap();
        let expected = aside.iter().map(|(name, kept)| {
            (
                format!("refs/{name}").into(),
                format!("refs/stale/{kept}").into(),
            )
        });
        assert_eq!(plan.set_aside, expected.collect(), "{source:?} {target:?}");
        let both = source.refs.len() > 1 && target.refs.is_empty();
        assert_eq!(
            plan.rejected.len(),
            usize::from(both),
            "{:?}",
            plan.rejected
        );
        assert_eq!(plan.copies.len(), plan.set_aside.len());
        assert_eq!(plan.conflicting_deletions.len(), plan.set_aside.len());
        // A copy that was made before is not made again.
        let mut again = target.clone();
        for copy in &plan.copies {
            again.refs.insert(copy.name.clone(), copy.new.unwrap());
        }
        let resumed = super::plan(&source, &again, &selection, rules).unwrap();
        assert_eq!(
            (resumed.copies.len(), &resumed.conflicting_deletions),
            (0, &plan.conflicting_deletions)
        );
        let rules = PlanRules::default();
        let plan = super::plan(&source, &target, &selection, rules).unwrap();
        let expected = rejected.iter().map(|name| format!("refs/{name}"));
        let found = plan.rejected.keys().map(ToString::to_string);
        assert!(found.eq(expected), "{:?}", plan.rejected);
        assert!(plan.set_aside.is_empty() && plan.conflicting_deletions.is_empty());
    }
}

#[test]
fn a_ref_that_is_not_selected_is_never_set_aside() {
    let source = snapshot(&[("refs/heads/a/b", 1), ("refs/heads/c", 1)], None);
    let target = snapshot(&[("refs/heads/a", 2)], None);
    let selection = RefSelection::new(["refs/heads/a/*", "refs/heads/c"]).unwrap();
    let rules = PlanRules {
        sets_aside: true,
        prune: true,
        ..PlanRules::default()
    };
    let plan = super::plan(&source, &target, &selection, rules).unwrap();
    assert_eq!(names_of(&plan.changes), ["refs/heads/c"]);
    assert!(plan.conflicting_deletions.is_empty() && plan.copies.is_empty());
    let reason = &plan.rejected[b"refs/heads/a/b".as_bstr()];
    assert!(
        reason.contains("the mapping does not select it"),
        "{reason}"
    );
}

#[test]
fn an_emptied_source_deletes_everything_only_on_request() {
    let target = [("refs/heads/a", 1), ("refs/tags/v", 1), ("refs/notes/n", 1)];
    let target = snapshot(&target, symbolic("refs/heads/a"));
    let other = snapshot(&[("refs/notes/m", 1)], None);
    let selection = RefSelection::default();
    let rules = |prune_all| PlanRules {
        prune: true,
        prune_all,
        ..PlanRules::default()
    };
    for source in [&Snapshot::empty(HashKind::Sha1), &other] {
        let error = super::plan(source, &target, &selection, rules(false)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected);
        assert!(error.to_string().contains("delete all 2 of"), "{error}");
        assert!(error.hint().unwrap().contains(r#""prune": "all""#));
        let plan = super::plan(source, &target, &selection, rules(true)).unwrap();
        assert_eq!(names_of(&plan.deletions), ["refs/heads/a", "refs/tags/v"]);
    }
    let renamed = snapshot(&[("refs/heads/b", 1)], symbolic("refs/heads/b"));
    let plan = super::plan(&renamed, &target, &selection, rules(false)).unwrap();
    assert_eq!(plan.deletions.len(), 2, "a ref takes their place");
}

#[test]
fn head_changes_if_it_differs_and_is_there() {
    let selection = RefSelection::new(["refs/heads/a*"]).unwrap();
    let head_of = |source: Option<Head>, target: Option<Head>| {
        let refs = [("refs/heads/a", 1), ("refs/heads/b", 1)];
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
        head_of(b.clone(), a.clone()),
        None,
        "`refs/heads/b` is not selected"
    );
    assert_eq!(
        head_of(unborn.clone(), b.clone()),
        None,
        "it does not spread"
    );
    assert_eq!(head_of(a.clone(), unborn), a);
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
        let updates = first.conflicting_deletions.iter().chain(&first.changes).chain(&first.deletions);
        for (at, change) in updates.enumerate() {
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
        if after.refs.keys().any(|name| name.starts_with(b"refs/heads/")) {
            let Some(Head::Symbolic(head)) = &after.head else {
                return Err(TestCaseError::fail("there is a `HEAD`"));
            };
            prop_assert!(after.refs.contains_key(head), "`HEAD` names a missing branch");
        }
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
        prop_assert_eq!(second.deletions, []);
        prop_assert_eq!(second.head, None);
        prop_assert_eq!(second.unchanged, wanted.len() as u64);
    }
}
