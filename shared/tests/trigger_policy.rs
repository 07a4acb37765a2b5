//! The triggers that branches need, and the difference from the observed ones.

#![expect(
    clippy::unwrap_used,
    reason = "a failed setup fails its test by panicking"
)]

use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

use branchline_core::ErrorKind;
use branchline_core::codecommit::{Trigger, TriggerEvent};
use branchline_core::function::FunctionArn;
use branchline_core::name::{BranchName, RepositoryName};
use branchline_core::pattern::BranchPatterns;
use branchline_core::trigger::foreign_triggers::ForeignTriggerTracker;
use branchline_core::trigger::plan::{is_same_set, partition_owned};
use branchline_core::trigger::policy::BranchCoverage;
use branchline_core::trigger::{
    CustomData, DesiredTriggers, Policy, TriggerLimits, TriggerMode, TriggerPlan, TriggerPrefix,
};
use proptest::prelude::*;

const UPDATE: &str = "arn:aws:lambda:eu-west-1:111122223333:function:update";

fn policy() -> Policy {
    Policy {
        branches: BranchPatterns::default(),
        prefix: TriggerPrefix::default(),
        destination: FunctionArn::new(UPDATE).unwrap(),
        custom_data: None,
        filters: Vec::new(),
    }
}

fn foreign(number: usize) -> Trigger {
    Trigger {
        name: format!("branchline-mail-{number}"),
        destination_arn: "arn:aws:sns:eu-west-1:111122223333:topic".into(),
        custom_data: Some("x".into()),
        branches: vec!["main".into()],
        events: vec![TriggerEvent::All],
    }
}

fn names(range: std::ops::Range<usize>) -> Vec<BranchName> {
    range
        .map(|n| BranchName::new(&format!("feature/{n:05}")).unwrap())
        .collect()
}

/// Computes the triggers that `branches` need, with `present` observed.
fn desired_with(
    policy: &Policy,
    limits: TriggerLimits,
    branches: &[BranchName],
    present: &[Trigger],
) -> branchline_core::Result<DesiredTriggers> {
    let (ours, foreign) = partition_owned(&policy.prefix, present);
    let repository = RepositoryName::new("demo").unwrap();
    let matching = policy.matching(branches);
    policy.desired_triggers(&repository, limits, &matching, &ours, &foreign)
}

fn desired(branches: &[BranchName], present: &[Trigger]) -> DesiredTriggers {
    desired_with(&policy(), TriggerLimits::default(), branches, present).unwrap()
}

fn plan(desired: &DesiredTriggers, present: &[Trigger]) -> TriggerPlan {
    TriggerPlan::new(&policy().prefix, present, &desired.triggers, &[])
}

/// Returns the triggers after the plan was written.
fn after(desired: &DesiredTriggers, present: &[Trigger]) -> Vec<Trigger> {
    plan(desired, present).triggers_to_put()
}

fn assert_covers(desired: &DesiredTriggers, branches: &[BranchName]) {
    let coverage = BranchCoverage::of(&policy(), &desired.triggers);
    for branch in branches {
        assert!(coverage.covers(branch), "`{branch}` has a trigger");
        let watching = desired.triggers.iter().filter(|trigger| {
            trigger.branches.is_empty() || trigger.branches.iter().any(|b| b == branch.as_str())
        });
        assert_eq!(watching.count(), 1, "`{branch}` has one trigger");
    }
}

#[test]
fn each_branch_has_its_own_trigger_while_slots_suffice() {
    let branches = names(0..7);
    let present: Vec<_> = (0..3).map(foreign).collect();
    let desired = desired(&branches, &present);
    assert_eq!(desired.mode, TriggerMode::PerBranch);
    assert_eq!(desired.triggers.len(), 7);
    assert_covers(&desired, &branches);
    for trigger in &desired.triggers {
        assert_eq!(trigger.destination_arn, UPDATE);
        assert_eq!(
            trigger.events,
            [TriggerEvent::UpdateReference, TriggerEvent::CreateReference],
            "neither a push nor a branch created again may be missed"
        );
    }
}

#[test]
fn branches_share_triggers_when_slots_run_out_and_at_last_one_covers_all() {
    for (branches, foreign_count, mode, triggers) in [
        (10, 0, TriggerMode::PerBranch, 10),
        (11, 0, TriggerMode::Packed, 2),
        (10, 1, TriggerMode::Packed, 1),
        (100, 0, TriggerMode::Packed, 10),
        (101, 0, TriggerMode::AllBranches, 1),
        (10, 9, TriggerMode::Packed, 1),
        (11, 9, TriggerMode::AllBranches, 1),
        (1, 9, TriggerMode::PerBranch, 1),
        (0, 10, TriggerMode::PerBranch, 0),
    ] {
        let branches = names(0..branches);
        let present: Vec<_> = (0..foreign_count).map(foreign).collect();
        let desired = desired(&branches, &present);
        assert_eq!(
            (desired.mode, desired.triggers.len()),
            (mode, triggers),
            "{} branches with {foreign_count} foreign triggers",
            branches.len()
        );
        assert_covers(&desired, &branches);
    }
}

#[test]
fn foreign_triggers_that_use_every_slot_are_named() {
    let present: Vec<_> = (0..10).map(foreign).collect();
    let error = desired_with(&policy(), TriggerLimits::default(), &names(0..1), &present)
        .expect_err("no slot is left");
    assert_eq!(error.kind(), ErrorKind::Config);
    let report = error.report();
    for part in [
        "repository `demo`",
        "10 triggers",
        "`branchline-mail-0`",
        "`branchline-mail-9`",
    ] {
        assert!(report.contains(part), "{report}");
    }
}

#[test]
fn only_selected_branches_have_triggers() {
    let policy = Policy {
        branches: BranchPatterns::new("feature/**", "**/000?1").unwrap(),
        custom_data: Some(CustomData::new(r#"{"bucket":"b"}"#).unwrap()),
        ..policy()
    };
    let mut branches = names(0..3);
    branches.push(BranchName::new("main").unwrap());
    let desired = desired_with(&policy, TriggerLimits::default(), &branches, &[]).unwrap();
    let watched: BTreeSet<_> = desired.triggers.iter().flat_map(|t| &t.branches).collect();
    assert_eq!(
        watched.into_iter().collect::<Vec<_>>(),
        ["feature/00000", "feature/00002"]
    );
    for trigger in &desired.triggers {
        assert_eq!(trigger.custom_data.as_deref(), Some(r#"{"bucket":"b"}"#));
    }
}

#[test]
fn one_branch_more_or_less_changes_one_trigger() {
    let branches = names(0..60);
    let present = after(&desired(&branches, &[]), &[foreign(0)]);
    for (change, branches) in [
        ("one more", names(0..61)),
        ("one more in front", {
            let mut all = vec![BranchName::new("a").unwrap()];
            all.extend(names(0..60));
            all
        }),
        ("one less", {
            let mut all = names(0..60);
            all.remove(30);
            all
        }),
        ("one replaced", {
            let mut all = names(0..61);
            all.remove(30);
            all
        }),
    ] {
        let plan = plan(&desired(&branches, &present), &present);
        let touched = plan.added.len() + plan.changed.len() + plan.removed.len();
        assert_eq!(touched, 1, "{change}: {plan:?}");
    }
}

#[test]
fn groups_are_merged_when_foreign_triggers_use_their_slots() {
    // Ten groups, five branches left in each.
    let all = names(0..100);
    let mut present = after(&desired(&all, &[]), &[]);
    for trigger in &mut present {
        trigger.branches.truncate(5);
    }
    let left: BTreeSet<_> = present.iter().flat_map(|t| t.branches.clone()).collect();
    let branches: Vec<_> = left
        .iter()
        .map(|name| BranchName::new(name).unwrap())
        .collect();
    assert!(
        plan(&desired(&branches, &present), &present).is_empty(),
        "half-empty groups must be retained"
    );
    present.extend((0..4).map(foreign));
    let desired = desired(&branches, &present);
    assert_eq!(
        (desired.mode, desired.triggers.len()),
        (TriggerMode::Packed, 6)
    );
    assert_covers(&desired, &branches);
    let kept = plan(&desired, &present).kept.len();
    assert_eq!(kept, 2, "four dissolved groups fill four others");
}

#[test]
fn lower_limits_are_respected() {
    let limits = |triggers, branches_per_trigger, first_mode| TriggerLimits {
        triggers,
        branches_per_trigger,
        first_mode,
    };
    for (branches, limits, mode, triggers) in [
        (
            6,
            limits(5, 10, TriggerMode::PerBranch),
            TriggerMode::Packed,
            1,
        ),
        (
            6,
            limits(5, 2, TriggerMode::PerBranch),
            TriggerMode::Packed,
            3,
        ),
        (
            6,
            limits(5, 1, TriggerMode::PerBranch),
            TriggerMode::AllBranches,
            1,
        ),
        (
            6,
            limits(10, 10, TriggerMode::Packed),
            TriggerMode::Packed,
            1,
        ),
        (
            6,
            limits(10, 10, TriggerMode::AllBranches),
            TriggerMode::AllBranches,
            1,
        ),
    ] {
        let branches = names(0..branches);
        let desired = desired_with(&policy(), limits, &branches, &[]).unwrap();
        assert_eq!(
            (desired.mode, desired.triggers.len()),
            (mode, triggers),
            "{limits:?}"
        );
        assert_covers(&desired, &branches);
    }
}

#[test]
fn the_order_of_triggers_branches_or_events_does_not_count() {
    let branches = names(0..35);
    let mut present = after(&desired(&branches, &[]), &[foreign(1), foreign(2)]);
    present.reverse();
    for trigger in &mut present {
        trigger.branches.reverse();
        trigger.events.reverse();
        if trigger.custom_data.is_none() {
            trigger.custom_data = Some(String::new());
        }
    }
    let plan = plan(&desired(&branches, &present), &present);
    assert!(plan.is_empty(), "{plan:?}");
}

#[test]
fn edited_owned_triggers_are_repaired_and_foreign_ones_are_written_unchanged() {
    let branches = names(0..4);
    let desired_now = desired(&branches, &[]);
    let mut odd = foreign(1);
    odd.events = vec![TriggerEvent::DeleteReference, TriggerEvent::CreateReference];
    odd.branches = vec!["z".into(), "a".into()];
    let mut present = desired_now.triggers.clone();
    present.insert(1, odd.clone());
    present[0].branches.push("other".into());
    present[2].events.pop();
    present[3].destination_arn = UPDATE.replace("update", "old-update");
    present.pop();
    let mut doubled = present[0].clone();
    doubled.name = policy().prefix.of_branch("gone", 0);
    present.push(doubled);

    let plan = plan(&desired(&branches, &present), &present);
    assert_eq!(
        (plan.changed.len(), plan.added.len(), plan.removed.len()),
        (3, 1, 1)
    );
    let written = plan.triggers_to_put();
    assert!(
        written.contains(&odd),
        "foreign triggers must be written unchanged"
    );
    assert!(is_same_set(
        &partition_owned(&policy().prefix, &written).0,
        &desired_now.triggers
    ));
    assert_eq!(
        written
            .iter()
            .map(|t| &t.name)
            .collect::<HashSet<_>>()
            .len(),
        written.len(),
        "names are unique"
    );
}

#[test]
fn triggers_of_a_former_update_function_are_owned_and_cover_nothing() {
    let branches = names(0..3);
    let mut present = desired(&branches, &[]).triggers;
    for trigger in &mut present {
        trigger.destination_arn = UPDATE.replace("update", "old-update");
    }
    let coverage = BranchCoverage::of(&policy(), &present);
    assert!(branches.iter().all(|branch| !coverage.covers(branch)));
    let plan = plan(&desired(&branches, &present), &present);
    assert_eq!((plan.changed.len(), plan.foreign.len()), (3, 0));
}

#[test]
fn a_hundred_thousand_branches_are_planned_in_seconds() {
    let branches = names(0..100_000);
    let policy = Policy {
        branches: BranchPatterns::new("feature/**,release/*", "**/wip-*").unwrap(),
        ..policy()
    };
    let start = Instant::now();
    let desired =
        desired_with(&policy, TriggerLimits::default(), &branches, &[foreign(0)]).unwrap();
    assert_eq!(desired.mode, TriggerMode::AllBranches);
    let seconds = start.elapsed().as_secs_f64();
    println!("100,000 branches: {seconds:.2} s");
    assert!(seconds < 10.0, "{seconds} s even without optimisation");
}

#[test]
fn a_foreign_trigger_dropped_by_another_reconciler_is_detected() {
    let prefix = TriggerPrefix::default();
    let ours = |branches| desired(&names(0..branches), &[]).triggers;
    let with = |branches, foreign_count: &[Trigger]| {
        let mut set = ours(branches);
        set.extend_from_slice(foreign_count);
        set
    };
    let lost = |steps: &[(bool, Vec<Trigger>)]| {
        let mut tracker = ForeignTriggerTracker::new(&prefix);
        for (written, set) in steps {
            if *written {
                tracker.record_write(set);
            } else {
                tracker.record_read(set);
            }
        }
        tracker.dropped_foreign_triggers().to_vec()
    };
    let [a, b] = [foreign(1), foreign(2)];
    let both = [a.clone(), b.clone()];
    let just_a = std::slice::from_ref(&a);

    let stale_reconciler = [(false, with(1, &both)), (false, with(2, just_a))];
    assert_eq!(lost(&stale_reconciler), std::slice::from_ref(&b));
    let over_ours = [
        (false, with(1, &both)),
        (true, with(2, &both)),
        (false, with(2, just_a)),
    ];
    assert_eq!(lost(&over_ours), std::slice::from_ref(&b));

    let deleted_by_hand = [(false, with(1, &both)), (false, with(1, just_a))];
    assert_eq!(
        lost(&deleted_by_hand),
        [],
        "owned triggers are unchanged: a deliberate deletion"
    );
    let stale_hand = [
        (false, with(1, &both)),
        (true, with(2, &both)),
        (false, with(1, just_a)),
    ];
    assert_eq!(
        lost(&stale_hand),
        [],
        "owned triggers are those before the write: not a reconciler"
    );
    let replaced = [(false, with(2, &both)), (false, vec![a.clone()])];
    assert_eq!(
        lost(&replaced),
        [],
        "a replacement of the whole set is deliberate"
    );

    let back = [
        (false, with(1, &both)),
        (false, with(2, just_a)),
        (false, with(2, &both)),
    ];
    assert_eq!(lost(&back), [], "the trigger is back");
    let again = [
        (false, with(1, &both)),
        (false, with(2, just_a)),
        (true, with(3, &both)),
        (false, with(3, just_a)),
    ];
    assert_eq!(
        lost(&again),
        std::slice::from_ref(&b),
        "a trigger dropped twice is restored once"
    );
    let mut edited = b.clone();
    edited.branches.clear();
    let edit = [
        (false, with(1, &both)),
        (false, with(2, &[a.clone(), edited])),
    ];
    assert_eq!(lost(&edit), [], "an edited trigger is not missing");
}

#[test]
fn custom_data_of_more_than_1000_characters_is_refused() {
    assert!(CustomData::new(&"é".repeat(1000)).is_ok());
    let error = CustomData::new(&"é".repeat(1001)).expect_err("the text is too long");
    assert_eq!(error.kind(), ErrorKind::Config);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    /// From any observed state, the desired one covers exactly the branches, respects the
    /// limits, keeps foreign triggers, and is stable.
    #[test]
    fn desired_triggers_respect_the_limits_cover_all_branches_and_are_stable(
        before in proptest::collection::btree_set(0_usize..140, 0..130),
        now in proptest::collection::btree_set(0_usize..140, 0..130),
        foreign_before in 0_usize..9,
        foreign_now in 0_usize..10,
        per_trigger in 1_usize..=10,
    ) {
        let limits = TriggerLimits { branches_per_trigger: per_trigger, ..TriggerLimits::default() };
        let branches = |set: &BTreeSet<usize>| set.iter().flat_map(|n| names(*n..n + 1)).collect::<Vec<_>>();
        let (before, now) = (branches(&before), branches(&now));
        let foreign_count: Vec<_> = (0..foreign_before).map(foreign).collect();
        let first = desired_with(&policy(), limits, &before, &foreign_count).unwrap();
        let mut present = first.triggers;
        present.extend((0..foreign_now).map(foreign));

        let desired = desired_with(&policy(), limits, &now, &present).unwrap();
        assert_covers(&desired, &now);
        prop_assert!(desired.triggers.len() + foreign_now <= limits.triggers);
        prop_assert!(desired.triggers.iter().all(|t| t.branches.len() <= per_trigger));
        if desired.mode != TriggerMode::AllBranches {
            let watched: usize = desired.triggers.iter().map(|t| t.branches.len()).sum();
            prop_assert_eq!(watched, now.len(), "no other branch may be covered");
        }
        let names: HashSet<_> = desired.triggers.iter().map(|t| t.name.to_lowercase()).collect();
        prop_assert_eq!(names.len(), desired.triggers.len());

        let written = plan(&desired, &present).triggers_to_put();
        let again = desired_with(&policy(), limits, &now, &written).unwrap();
        prop_assert!(plan(&again, &written).is_empty(), "a second run must have nothing to write");
        let (_, kept) = partition_owned(&policy().prefix, &written);
        prop_assert!(is_same_set(&kept, &(0..foreign_now).map(foreign).collect::<Vec<_>>()));
    }
}

#[test]
fn one_trigger_for_all_refs_is_needed_where_a_filter_is_of_tags() {
    let filters = |push: &str| {
        let json = format!(
            r#"[{{"pipeline": "p", "repositories": ["demo"], "gitConfiguration":
                {{"sourceActionName": "Source", "push": [{push}]}}}}]"#
        );
        branchline_core::filter::parse_triggers(&json).unwrap()
    };
    let branches = names(0..3);
    for (push, mode) in [
        (
            r#"{"branches": {"includes": ["**"]}}"#,
            TriggerMode::PerBranch,
        ),
        (
            r#"{"tags": {"includes": ["v*"]}}"#,
            TriggerMode::AllBranches,
        ),
    ] {
        let policy = Policy {
            filters: filters(push),
            ..policy()
        };
        let desired = desired_with(&policy, TriggerLimits::default(), &branches, &[]).unwrap();
        assert_eq!(desired.mode, mode, "{push}");
        if mode == TriggerMode::AllBranches {
            assert_eq!(desired.triggers[0].branches, Vec::<String>::new());
        }
    }
}
