//! The function over services in memory.

#![expect(
    clippy::unwrap_used,
    reason = "what sets a test up fails it by panicking"
)]

#[path = "lifecycle/disturbed.rs"]
mod disturbed;
#[path = "lifecycle/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use branchline_core::ErrorKind;
use branchline_core::codecommit::CodeCommit;
use branchline_core::function::FunctionArn;
use branchline_core::name::RepositoryName;
use branchline_core::testkit::{CodeCommitOptions, Entry, MemoryFunctions};
use branchline_core::trigger::{TriggerLimits, TriggerMode, preview};
use branchline_lifecycle::Context;
use serde_json::json;

use world::*;

#[tokio::test]
async fn a_new_branch_gets_a_trigger_and_its_first_push_reaches_update() {
    let world = World::with(
        &[("TRIGGER_CUSTOM_DATA", r#"{"bucket":"other"}"#)],
        &CodeCommitOptions::default(),
    );
    world.push(["main", "feature/login"]);
    world.add_foreign(&[foreign(1)]);
    let answer = world
        .send(event("eventbridge-branch-created.json"))
        .await
        .unwrap();
    let answer = serde_json::to_value(answer).unwrap();
    assert_eq!(
        answer,
        json!({"repositories": [{
            "repository": "demo",
            "mode": "per-branch",
            "created": ["feature/login", "main"],
            "removed": [],
            "kept": 0,
            "foreign": 1,
            "invoked": ["feature/login", "main"],
        }]})
    );
    let triggers = serde_json::to_value(world.triggers()).unwrap();
    let own = |name: &str, branch: &str| {
        json!({
            "name": name,
            "destinationArn": UPDATE,
            "customData": r#"{"bucket":"other"}"#,
            "branches": [branch],
            "events": ["updateReference", "createReference"],
        })
    };
    assert_eq!(
        triggers,
        json!([
            foreign(1),
            own("branchline-feature-login-238ff8ac", "feature/login"),
            own("branchline-main-ae741254", "main"),
        ])
    );
    let invocations = world
        .functions
        .invocations(&world.config.policy.destination);
    assert_eq!(
        invocations[0]["Records"][0]["customData"],
        r#"{"bucket":"other"}"#
    );
    assert_eq!(
        invocations[0]["Records"][0]["eventSourceARN"],
        "arn:aws:codecommit:us-east-1:111122223333:demo"
    );
    let requests = branchline_core::event::parse(&invocations[0]).unwrap();
    assert_eq!(requests.len(), 1, "update understands what it is sent");
}

#[tokio::test]
async fn a_second_run_writes_nothing_and_invokes_nothing() {
    let world = World::new();
    world.push(names(14));
    world.add_foreign(&[foreign(1)]);
    let first = world.reconcile().await;
    assert_eq!((first.created.len(), first.invoked.len()), (14, 14));
    let second = world.reconcile().await;
    assert_eq!(world.codecommit.traffic().count("put_triggers"), 1);
    assert_eq!(world.functions.traffic().count("invoke_async"), 14);
    assert_eq!((second.created.len(), second.kept), (0, 14));
}

#[tokio::test]
async fn a_deleted_branch_loses_its_trigger_also_when_its_event_was_lost() {
    let world = World::new();
    world.push(["a", "b"]);
    world.reconcile().await;
    world.codecommit.delete_branch(&demo(), "a");
    let answer = world.send(json!({"schedule": true})).await.unwrap();
    assert_eq!(answer.repositories[0].removed, ["a"]);
    assert_eq!(world.watched(), ["b"]);
    assert_eq!(world.invoked(), ["a", "b"], "`b` was covered all along");
}

#[tokio::test]
async fn every_event_about_a_repository_is_a_reason_to_look() {
    for file in [
        "eventbridge-branch-created.json",
        "eventbridge-branch-deleted.json",
        "eventbridge-branch-updated.json",
        "eventbridge-tag-created.json",
        "manual-repository.json",
        "schedule.json",
        "trigger-branch-created.json",
        "trigger-branch-deleted.json",
        "trigger-custom-data.json",
        "trigger-many-references.json",
    ] {
        let world = World::new();
        world.push(["main"]);
        let answer = world.send(event(file)).await.unwrap();
        assert_eq!(answer.repositories.len(), 1, "{file}: each repository once");
        assert_eq!(world.watched(), ["main"], "{file}");
    }
    let world = World::new();
    world.push(["main"]);
    let answer = world.send(event("trigger-test.json")).await.unwrap();
    assert_eq!((answer.repositories.len(), world.calls()), (0, 0));
}

/// "Foreign triggers are written back unchanged."
#[tokio::test]
async fn moving_between_the_modes_misses_no_branch() {
    let world = World::new();
    world.add_foreign(&[foreign(1), foreign(2)]);
    let mut there = 0;
    for (count, mode) in [
        (8, TriggerMode::PerBranch),
        (9, TriggerMode::Packed),
        (80, TriggerMode::Packed),
        (81, TriggerMode::AllBranches),
        (80, TriggerMode::Packed),
        (8, TriggerMode::PerBranch),
        (90, TriggerMode::AllBranches),
        (3, TriggerMode::PerBranch),
    ] {
        world.push(names(count).into_iter().skip(there));
        for gone in names(there).into_iter().skip(count) {
            world.codecommit.delete_branch(&demo(), &gone);
        }
        let answer = world.reconcile().await;
        assert_eq!(answer.mode, Some(mode), "{count} branches");
        let added = count.saturating_sub(there);
        // One trigger for all branches covers new ones before anyone looks.
        let missed = if world.watched().is_empty() && answer.created.is_empty() {
            0
        } else {
            added
        };
        assert_eq!(
            answer.invoked.len(),
            missed,
            "{count} branches after {there}"
        );
        if mode != TriggerMode::AllBranches {
            assert_eq!(world.watched(), names(count), "each is named once");
        }
        assert_eq!(world.foreign(), [foreign(1), foreign(2)]);
        there = count;
    }
}

#[tokio::test]
async fn a_service_that_accepts_less_moves_the_function_to_the_next_mode() {
    for (max_triggers, max_branches_per_trigger, branches, mode, writes) in [
        // Fewer triggers than assumed.
        (5, 10, 8, TriggerMode::Packed, 2),
        // Fewer branches than assumed.
        (10, 9, 12, TriggerMode::AllBranches, 2),
        // Both.
        (2, 3, 8, TriggerMode::AllBranches, 3),
    ] {
        let world = World::with(
            &[],
            &CodeCommitOptions {
                max_triggers,
                max_branches_per_trigger,
                ..CodeCommitOptions::default()
            },
        );
        world.push(names(branches));
        world.add_foreign(&[foreign(1)]);
        let answer = world.reconcile().await;
        assert_eq!(answer.mode, Some(mode));
        assert_eq!(answer.invoked.len(), branches, "every branch is covered");
        let traffic = world.codecommit.traffic();
        assert_eq!(traffic.count("put_triggers"), writes);
        world.reconcile().await;
        assert_eq!(
            traffic.count("put_triggers"),
            writes,
            "what was refused is remembered"
        );
        assert_eq!(world.foreign(), [foreign(1)]);
    }
}

#[tokio::test]
async fn five_thousand_branches_take_one_write_and_four_calls_beside_the_pages() {
    for (include, mode) in [
        ("**", TriggerMode::AllBranches),
        ("**/0?00", TriggerMode::PerBranch),
    ] {
        let options = CodeCommitOptions {
            page: 100,
            ..CodeCommitOptions::default()
        };
        let world = World::with(&[("BRANCHES_INCLUDE", include)], &options);
        world.push(names(5000));
        let start = Instant::now();
        let answer = world.reconcile().await;
        assert_eq!(answer.mode, Some(mode));
        assert_eq!(world.codecommit.traffic().count("put_triggers"), 1);
        assert_eq!(world.calls(), 50 + 4, "pages + 4");
        println!(
            "5,000 branches, {mode:?}: {} ms",
            start.elapsed().as_millis()
        );
        world.reconcile().await;
        assert_eq!(world.calls(), 2 * 50 + 4 + 2, "nothing to do: pages + 2");
    }
}

#[tokio::test]
async fn a_repository_that_is_gone_is_said_to_be_and_nothing_is_done() {
    let world = World::new();
    let answer = world.reconcile().await;
    let answer = serde_json::to_value(answer).unwrap();
    assert_eq!(
        answer,
        json!({
            "repository": "demo",
            "mode": null,
            "created": [],
            "removed": [],
            "kept": 0,
            "foreign": 0,
            "invoked": [],
            "reason": "the repository is gone",
        })
    );
    for call in 1..=5 {
        let world = World::new();
        world.push(["a"]);
        let other = Arc::clone(&world.codecommit);
        world
            .codecommit
            .traffic()
            .before_call(call, move || other.delete_repository(&demo()));
        let answer = world.reconcile().await;
        assert_eq!(
            answer.reason.as_deref(),
            Some("the repository is gone"),
            "call {call}"
        );
    }
}

#[tokio::test]
async fn an_unknown_shape_names_the_field() {
    for (event, part) in [
        (json!({"repo": "demo"}), "`repo`"),
        (json!([]), "no JSON object"),
        (json!({"schedule": "yes"}), "`schedule`"),
        (json!({"Records": []}), "`Records`"),
        (json!({"repository": "a/b"}), "`repository`"),
    ] {
        let world = World::new();
        let failure = world.send(event).await.unwrap_err();
        assert_eq!(failure.kind(), ErrorKind::InvalidEvent);
        assert!(failure.message().contains(part), "{}", failure.message());
        assert_eq!(world.calls(), 0);
    }
}

#[tokio::test]
async fn an_event_from_another_region_is_refused_before_anything_is_done() {
    let world = World::new();
    world.push(["main"]);
    for file in [
        "eventbridge-branch-created.json",
        "trigger-branch-created.json",
    ] {
        let text = event(file).to_string().replace("us-east-1", "eu-west-1");
        let failure = world
            .send(serde_json::from_str(&text).unwrap())
            .await
            .unwrap_err();
        assert_eq!(failure.kind(), ErrorKind::Config, "{file}");
        for part in [
            "arn:aws:codecommit:eu-west-1",
            "`UPDATE_FUNCTION_ARN`",
            "hint:",
        ] {
            assert!(failure.message().contains(part), "{}", failure.message());
        }
    }
    assert_eq!(world.calls(), 0);
}

#[tokio::test]
async fn a_place_for_no_trigger_of_ours_is_an_error_that_names_the_foreign_ones() {
    let world = World::new();
    world.push(["a"]);
    world.add_foreign(&(0..10).map(foreign).collect::<Vec<_>>());
    let failure = world.send(json!({"repository": "demo"})).await.unwrap_err();
    assert_eq!(failure.kind(), ErrorKind::Config);
    for part in ["repository `demo`", "`mail-0`", "`mail-9`"] {
        assert!(failure.message().contains(part), "{}", failure.message());
    }
    assert_eq!(world.foreign().len(), 10);
}

#[tokio::test]
async fn a_schedule_covers_the_repositories_that_are_meant_and_one_failure_stops_no_other() {
    let world = World::with(&[("REPOSITORIES", "demo-*")], &CodeCommitOptions::default());
    let name = |n: usize| RepositoryName::new(&format!("demo-{n}")).unwrap();
    for n in 0..12 {
        world
            .codecommit
            .commit(&name(n), "main", &[("f", Entry::file("x"))]);
    }
    world.push(["main"]);
    world
        .codecommit
        .set_triggers(&name(3), (0..10).map(foreign).collect());
    world
        .codecommit
        .traffic()
        .set_latency(Duration::from_millis(1));
    let failure = world.send(json!({"schedule": true})).await.unwrap_err();
    assert_eq!(failure.kind(), ErrorKind::Config);
    assert!(
        failure.message().starts_with("1 of 12 failed: "),
        "{}",
        failure.message()
    );
    assert!(
        failure.message().contains("`demo-3`"),
        "{}",
        failure.message()
    );
    for n in (0..12).filter(|n| *n != 3) {
        assert_eq!(world.codecommit.triggers(&name(n)).len(), 1, "demo-{n}");
    }
    assert_eq!(world.triggers(), [], "`demo` is not meant");
    assert!(
        world.codecommit.traffic().peak() > 1,
        "repositories are looked at concurrently"
    );
}

#[tokio::test]
async fn a_preview_says_what_a_run_would_do_and_does_nothing() {
    let world = World::new();
    world.push(["a", "b"]);
    world.reconcile().await;
    world.push(["c"]);
    world.codecommit.delete_branch(&demo(), "a");
    world.add_foreign(&[foreign(1)]);
    let before = world.triggers();
    let codecommit: &dyn CodeCommit = &*world.codecommit;
    let policy = &world.config.policy;
    let seen = preview(codecommit, policy, TriggerLimits::default(), &demo())
        .await
        .unwrap();
    assert_eq!(seen.present, before);
    assert_eq!(world.triggers(), before);
    assert_eq!((seen.plan.added.len(), seen.plan.removed.len()), (1, 1));
    let promised = seen.plan.triggers_to_put();
    world.reconcile().await;
    assert_eq!(
        world.triggers(),
        promised,
        "the function does what the preview says"
    );
    let after = preview(codecommit, policy, TriggerLimits::default(), &demo())
        .await
        .unwrap();
    assert!(after.plan.is_empty());
}

#[tokio::test]
async fn another_update_function_takes_the_triggers_over_and_sees_every_branch() {
    let world = World::new();
    world.push(["a", "b"]);
    world.reconcile().await;
    let mut config = world.config.clone();
    config.policy.destination = FunctionArn::new(&format!("{UPDATE}-2")).unwrap();
    let functions = Arc::new(MemoryFunctions::with_functions(&[&config
        .policy
        .destination]));
    let context = Context::new(config.clone(), world.codecommit.clone(), functions.clone());
    let answer = send(&Arc::new(context), json!({"repository": "demo"}))
        .await
        .unwrap();
    assert_eq!(texts(&answer.repositories[0].invoked), ["a", "b"]);
    let destinations: BTreeSet<_> = world
        .triggers()
        .into_iter()
        .map(|t| t.destination_arn)
        .collect();
    assert_eq!(
        destinations.into_iter().collect::<Vec<_>>(),
        [format!("{UPDATE}-2")]
    );
    assert_eq!(functions.invocations(&config.policy.destination).len(), 2);
}
