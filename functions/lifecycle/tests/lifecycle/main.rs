//! Tests of the `lifecycle` function over services in memory.

#![expect(
    clippy::unwrap_used,
    reason = "a failed setup fails its test by panicking"
)]

mod answers;
mod concurrency_and_faults;
mod fixture;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use branchline_core::ErrorKind;
use branchline_core::codecommit::CodeCommit;
use branchline_core::function::FunctionArn;
use branchline_core::name::RepositoryName;
use branchline_core::pattern::RepositoryPatterns;
use branchline_core::testkit::{
    CodeCommitOptions, Entry, Failing, FaultPlan, MemoryFunctions, When,
};
use branchline_core::trigger::{TriggerLimits, TriggerMode, preview};
use branchline_lifecycle::Context;
use serde_json::{Value, json};

use fixture::*;

#[tokio::test]
async fn a_new_branch_gets_a_trigger_and_its_first_push_reaches_update() {
    let fixture = LifecycleFixture::with(
        &[("TRIGGER_CUSTOM_DATA", r#"{"bucket":"other"}"#)],
        &CodeCommitOptions::default(),
    );
    fixture.push(["main", "feature/login"]);
    fixture.add_foreign(&[foreign(1)]);
    let answer = fixture
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
            "skipped": [],
        }]})
    );
    let triggers = serde_json::to_value(fixture.triggers()).unwrap();
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
    let invocations = fixture
        .functions
        .invocations(&fixture.config.policy.destination);
    assert_eq!(
        invocations[0]["Records"][0]["customData"],
        r#"{"bucket":"other"}"#
    );
    assert_eq!(
        invocations[0]["Records"][0]["eventSourceARN"],
        "arn:aws:codecommit:us-east-1:111122223333:demo"
    );
    let requests = branchline_core::event::parse(&invocations[0]).unwrap();
    assert_eq!(requests.len(), 2, "update must be able to read the event");
}

#[tokio::test]
async fn a_second_run_writes_nothing_and_invokes_nothing() {
    let fixture = LifecycleFixture::new();
    fixture.push(names(14));
    fixture.add_foreign(&[foreign(1)]);
    let first = fixture.reconcile().await;
    assert_eq!((first.created.len(), first.invoked.len()), (14, 14));
    let second = fixture.reconcile().await;
    assert_eq!(fixture.codecommit.traffic().count("put_triggers"), 1);
    assert_eq!(fixture.functions.traffic().count("invoke_async"), 1);
    assert_eq!(fixture.invoked().len(), 14);
    assert_eq!((second.created.len(), second.kept), (0, 14));
}

#[tokio::test]
async fn a_deleted_branch_loses_its_trigger_also_when_its_event_was_lost() {
    let fixture = LifecycleFixture::new();
    fixture.push(["a", "b"]);
    fixture.reconcile().await;
    fixture.codecommit.delete_branch(&demo(), "a");
    let answer = fixture.send(json!({"schedule": true})).await.unwrap();
    assert_eq!(answer.repositories[0].removed, ["a"]);
    assert_eq!(fixture.watched(), ["b"]);
    assert_eq!(
        fixture.invoked(),
        ["a", "b"],
        "`b` was covered before, so update is invoked once only"
    );
}

#[tokio::test]
async fn every_event_about_a_repository_reconciles_it() {
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
        let fixture = LifecycleFixture::new();
        fixture.push(["main"]);
        let answer = fixture.send(event(file)).await.unwrap();
        assert_eq!(answer.repositories.len(), 1, "{file}: each repository once");
        assert_eq!(fixture.watched(), ["main"], "{file}");
    }
    let fixture = LifecycleFixture::new();
    fixture.push(["main"]);
    let answer = fixture.send(event("trigger-test.json")).await.unwrap();
    assert_eq!((answer.repositories.len(), fixture.calls()), (0, 0));
}

/// "Foreign triggers are written back unchanged."
#[tokio::test]
async fn a_change_of_mode_misses_no_branch() {
    let fixture = LifecycleFixture::new();
    fixture.add_foreign(&[foreign(1), foreign(2)]);
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
        fixture.push(names(count).into_iter().skip(there));
        for gone in names(there).into_iter().skip(count) {
            fixture.codecommit.delete_branch(&demo(), &gone);
        }
        let answer = fixture.reconcile().await;
        assert_eq!(answer.mode, Some(mode), "{count} branches");
        let added = count.saturating_sub(there);
        // A trigger for all branches covers new ones before the run lists them.
        let missed = if fixture.watched().is_empty() && answer.created.is_empty() {
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
            assert_eq!(fixture.watched(), names(count), "each is named once");
        }
        assert_eq!(fixture.foreign(), [foreign(1), foreign(2)]);
        there = count;
    }
}

#[tokio::test]
async fn a_service_that_accepts_less_moves_the_function_to_the_next_mode() {
    for (max_triggers, max_branches_per_trigger, branches, mode, writes) in [
        // Fewer triggers accepted than assumed.
        (5, 10, 8, TriggerMode::Packed, 2),
        // Fewer branches of a trigger accepted than assumed.
        (10, 9, 12, TriggerMode::AllBranches, 2),
        // Fewer of both.
        (2, 3, 8, TriggerMode::AllBranches, 3),
    ] {
        let fixture = LifecycleFixture::with(
            &[],
            &CodeCommitOptions {
                max_triggers,
                max_branches_per_trigger,
                ..CodeCommitOptions::default()
            },
        );
        fixture.push(names(branches));
        fixture.add_foreign(&[foreign(1)]);
        let answer = fixture.reconcile().await;
        assert_eq!(answer.mode, Some(mode));
        assert_eq!(answer.invoked.len(), branches, "every branch is covered");
        let traffic = fixture.codecommit.traffic();
        assert_eq!(traffic.count("put_triggers"), writes);
        fixture.reconcile().await;
        assert_eq!(
            traffic.count("put_triggers"),
            writes,
            "lowered limits must be kept for the next run"
        );
        assert_eq!(fixture.foreign(), [foreign(1)]);
    }
}

#[tokio::test]
async fn five_thousand_branches_take_one_write_and_four_calls_besides_the_pages() {
    for (include, mode) in [
        ("**", TriggerMode::AllBranches),
        ("**/0?00", TriggerMode::PerBranch),
    ] {
        let options = CodeCommitOptions {
            page: 100,
            ..CodeCommitOptions::default()
        };
        let fixture = LifecycleFixture::with(&[("BRANCHES_INCLUDE", include)], &options);
        fixture.push(names(5000));
        let start = Instant::now();
        let answer = fixture.reconcile().await;
        assert_eq!(answer.mode, Some(mode));
        assert_eq!(fixture.codecommit.traffic().count("put_triggers"), 1);
        assert_eq!(fixture.calls(), 50 + 4, "pages + 4");
        println!(
            "5,000 branches, {mode:?}: {} ms",
            start.elapsed().as_millis()
        );
        fixture.reconcile().await;
        assert_eq!(fixture.calls(), 2 * 50 + 4 + 2, "nothing to do: pages + 2");
    }
}

#[tokio::test]
async fn a_missing_repository_is_reported_and_nothing_is_written() {
    let fixture = LifecycleFixture::new();
    let answer = fixture.reconcile().await;
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
            "skipped": [],
            "reason": "the repository is gone",
        })
    );
    for call in 1..=5 {
        let fixture = LifecycleFixture::new();
        fixture.push(["a"]);
        let other = Arc::clone(&fixture.codecommit);
        fixture
            .codecommit
            .traffic()
            .before_call(call, move || other.delete_repository(&demo()));
        let answer = fixture.reconcile().await;
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
        (json!([]), "must be a JSON object"),
        (json!({"schedule": "yes"}), "`schedule`"),
        (json!({"Records": []}), "`Records`"),
        (json!({"repository": "a/b"}), "`repository`"),
    ] {
        let fixture = LifecycleFixture::new();
        let failure = fixture.send(event).await.unwrap_err();
        assert_eq!(failure.kind(), ErrorKind::InvalidEvent);
        assert!(failure.message().contains(part), "{}", failure.message());
        assert_eq!(fixture.calls(), 0);
    }
}

#[tokio::test]
async fn an_event_of_another_account_or_region_is_skipped_before_anything_is_done() {
    let fixture = LifecycleFixture::new();
    fixture.push(["main"]);
    for file in [
        "eventbridge-branch-created.json",
        "trigger-branch-created.json",
    ] {
        for (own, other) in [("us-east-1", "eu-west-1"), ("111122223333", "444455556666")] {
            let text = event(file).to_string().replace(own, other);
            let answer = fixture.send(serde_json::from_str(&text).unwrap()).await;
            let answer = answer.expect("it is skipped");
            assert_eq!(answer.repositories.len(), 1, "{file}");
            let skipped = &answer.repositories[0];
            assert_eq!((skipped.mode, skipped.created.len()), (None, 0));
            let reason = skipped.reason.as_deref().expect("it has a reason");
            assert!(reason.contains(own) && reason.contains(other), "{reason}");
        }
    }
    assert_eq!(fixture.calls(), 0);
}

#[tokio::test]
async fn an_event_wrapped_by_sns_and_sqs_is_handled() {
    let fixture = LifecycleFixture::new();
    fixture.push(["main"]);
    let inner = event("trigger-branch-created.json").to_string();
    let sns = json!({"Type": "Notification", "TopicArn": "arn:aws:sns:us-east-1:111122223333:t", "Message": inner});
    let wrapped = [
        json!({"Records": [{"EventSource": "aws:sns", "Sns": sns}]}),
        json!({"Records": [{"eventSource": "aws:sqs", "body": inner}]}),
        json!({"Records": [{"eventSource": "aws:sqs", "body": sns.to_string()}]}),
    ];
    for event in wrapped {
        let answer = fixture.send(event.clone()).await;
        let answer = answer.unwrap_or_else(|failure| panic!("{event}: {}", failure.message()));
        assert_eq!(answer.repositories.len(), 1);
        assert_eq!(answer.repositories[0].repository, demo());
    }
}

#[tokio::test]
async fn no_slot_for_a_trigger_is_an_error_that_names_the_foreign_ones() {
    let fixture = LifecycleFixture::new();
    fixture.push(["a"]);
    fixture.add_foreign(&(0..10).map(foreign).collect::<Vec<_>>());
    let failure = fixture
        .send(json!({"repository": "demo"}))
        .await
        .unwrap_err();
    assert_eq!(failure.kind(), ErrorKind::Config);
    for part in ["repository `demo`", "`mail-0`", "`mail-9`"] {
        assert!(failure.message().contains(part), "{}", failure.message());
    }
    assert_eq!(fixture.foreign().len(), 10);
}

#[tokio::test]
async fn a_schedule_covers_the_selected_repositories_and_one_failure_does_not_stop_the_others() {
    let fixture =
        LifecycleFixture::with(&[("REPOSITORIES", "demo-*")], &CodeCommitOptions::default());
    let name = |n: usize| RepositoryName::new(&format!("demo-{n}")).unwrap();
    for n in 0..12 {
        fixture
            .codecommit
            .commit(&name(n), "main", &[("f", Entry::file("x"))]);
    }
    fixture.push(["main"]);
    fixture
        .codecommit
        .set_triggers(&name(3), (0..10).map(foreign).collect());
    fixture
        .codecommit
        .traffic()
        .set_latency(Duration::from_millis(1));
    let failure = fixture.send(json!({"schedule": true})).await.unwrap_err();
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
        assert_eq!(fixture.codecommit.triggers(&name(n)).len(), 1, "demo-{n}");
    }
    assert_eq!(fixture.triggers(), [], "`demo` is not selected");
    assert!(
        fixture.codecommit.traffic().peak() > 1,
        "repositories must be reconciled concurrently"
    );
}

#[tokio::test]
async fn repositories_that_only_a_pattern_selects_and_the_role_may_not_read_are_passed_over() {
    let fixture = LifecycleFixture::new();
    fixture.push(["main"]);
    let outside = RepositoryName::new("a-outside").unwrap();
    fixture.codecommit.add_repository(&outside);
    let denied = async |repositories: &str, event: Value, calls: &[usize]| {
        let faults = FaultPlan::new();
        for call in calls {
            faults.fail_method("get_triggers", *call, ErrorKind::AccessDenied, When::Before);
        }
        let mut config = fixture.config.clone();
        config.repositories = RepositoryPatterns::new(repositories).unwrap();
        let context = Context::new(
            config,
            Arc::new(Failing::new(Arc::clone(&fixture.codecommit), &faults)),
            fixture.functions.clone(),
        );
        send(&Arc::new(context), event).await
    };
    let schedule = json!({"schedule": true});
    for patterns in ["*", "a-*, d?mo, other-*"] {
        let answer = denied(patterns, schedule.clone(), &[1]).await.unwrap();
        assert_eq!(answer.repositories.len(), 1, "{patterns}");
        assert_eq!(answer.counts.unwrap().passed_over, 1, "{patterns}");
    }
    let failure = denied("a-outside,demo", schedule.clone(), &[1]).await;
    assert_eq!(failure.unwrap_err().kind(), ErrorKind::AccessDenied);
    let failure = denied("*", json!({"repository": "a-outside"}), &[1]).await;
    assert_eq!(failure.unwrap_err().kind(), ErrorKind::AccessDenied);
    let failure = denied("*", schedule, &[1, 2]).await;
    let failure = failure.expect_err("the role may read none of them");
    assert_eq!(failure.kind(), ErrorKind::AccessDenied);
}

#[tokio::test]
async fn a_preview_returns_the_plan_of_a_run_and_writes_nothing() {
    let fixture = LifecycleFixture::new();
    fixture.push(["a", "b"]);
    fixture.reconcile().await;
    fixture.push(["c"]);
    fixture.codecommit.delete_branch(&demo(), "a");
    fixture.add_foreign(&[foreign(1)]);
    let before = fixture.triggers();
    let codecommit: &dyn CodeCommit = &*fixture.codecommit;
    let policy = &fixture.config.policy;
    let seen = preview(codecommit, policy, TriggerLimits::default(), &demo())
        .await
        .unwrap();
    assert_eq!(seen.present, before);
    assert_eq!(fixture.triggers(), before);
    assert_eq!((seen.plan.added.len(), seen.plan.removed.len()), (1, 1));
    let promised = seen.plan.triggers_to_put();
    fixture.reconcile().await;
    assert_eq!(
        fixture.triggers(),
        promised,
        "a run must write what the preview returned"
    );
    let after = preview(codecommit, policy, TriggerLimits::default(), &demo())
        .await
        .unwrap();
    assert!(after.plan.is_empty());
}

#[tokio::test]
async fn a_changed_update_function_takes_over_the_triggers_and_is_invoked_for_every_branch() {
    let fixture = LifecycleFixture::new();
    fixture.push(["a", "b"]);
    fixture.reconcile().await;
    let mut config = fixture.config.clone();
    config.policy.destination = FunctionArn::new(&format!("{UPDATE}-2")).unwrap();
    let functions = Arc::new(MemoryFunctions::with_functions(&[&config
        .policy
        .destination]));
    let context = Context::new(
        config.clone(),
        fixture.codecommit.clone(),
        functions.clone(),
    );
    let answer = send(&Arc::new(context), json!({"repository": "demo"}))
        .await
        .unwrap();
    assert_eq!(texts(&answer.repositories[0].invoked), ["a", "b"]);
    let destinations: BTreeSet<_> = fixture
        .triggers()
        .into_iter()
        .map(|t| t.destination_arn)
        .collect();
    assert_eq!(
        destinations.into_iter().collect::<Vec<_>>(),
        [format!("{UPDATE}-2")]
    );
    let invocations = functions.invocations(&config.policy.destination);
    assert_eq!(invocations.len(), 1, "one event names both branches");
    let requests = branchline_core::event::parse(&invocations[0]).unwrap();
    assert_eq!(requests.len(), 2);
}

#[tokio::test]
async fn the_branches_of_a_first_deployment_reach_update_in_few_invocations() {
    let fixture = LifecycleFixture::new();
    let mut all = 0;
    for name in ["r1", "r2", "r3"] {
        let repository = RepositoryName::new(name).unwrap();
        for number in 0..200 {
            let branch = format!("b{number}");
            let change = [("f", Entry::file(&branch))];
            fixture.codecommit.commit(&repository, &branch, &change);
        }
        all += 200;
    }
    let answer = fixture.send(json!({"schedule": true})).await.unwrap();
    let invoked: usize = answer.repositories.iter().map(|r| r.invoked.len()).sum();
    assert_eq!(invoked, all);
    assert_eq!(fixture.invoked().len(), all, "each branch is named once");
    let invocations = fixture
        .functions
        .invocations(&fixture.config.policy.destination);
    assert!(invocations.len() <= 12, "{} invocations", invocations.len());
}

#[tokio::test]
async fn a_branch_whose_name_cannot_be_used_does_not_stop_the_others() {
    let fixture = LifecycleFixture::new();
    fixture.push(["main"]);
    for name in ["HEAD", "-x"] {
        fixture.codecommit.add_odd_branch(&demo(), name);
    }
    let answer = fixture.reconcile().await;
    assert_eq!(texts(&answer.created), ["main"]);
    let skipped: Vec<_> = answer.skipped.iter().map(|left| &left.branch).collect();
    assert_eq!(skipped, ["-x", "HEAD"]);
    assert!(answer.skipped[0].reason.contains("refuses"));
    assert_eq!(fixture.watched(), ["main"]);
}
