//! Concurrent writers, failing calls and deadlines.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use branchline_core::ErrorKind;
use branchline_core::testkit::{Entry, Failing, FaultPlan, When};
use branchline_lifecycle::{Context, handle};
use serde_json::{Value, json};

use super::fixture::*;

fn created(branch: &str) -> Value {
    let mut created = event("eventbridge-branch-created.json");
    created["detail"]["referenceName"] = branch.into();
    created["detail"]["referenceFullName"] = format!("refs/heads/{branch}").into();
    created
}

#[tokio::test(start_paused = true)]
async fn sixty_four_branches_created_concurrently_are_all_covered_and_no_foreign_trigger_is_lost() {
    for concurrent in [false, true] {
        for arriving in [false, true] {
            let fixture = LifecycleFixture::new();
            fixture.add_foreign(&[foreign(1), foreign(2), foreign(3)]);
            fixture
                .codecommit
                .traffic()
                .set_latency(Duration::from_millis(20));
            if !arriving {
                fixture.push(names(64));
            }
            let events = names(64).into_iter().enumerate().map(|(n, branch)| {
                let fixture = &fixture;
                async move {
                    if concurrent {
                        tokio::time::sleep(Duration::from_millis(n as u64 * 7 % 90)).await;
                    }
                    if arriving {
                        fixture.push([&branch]);
                    }
                    // Lambda retries an asynchronous event twice.
                    for _ in 0..3 {
                        match fixture.send(created(&branch)).await {
                            Ok(_) => break,
                            Err(failure) => assert_eq!(failure.kind(), ErrorKind::Conflict),
                        }
                        tokio::time::sleep(Duration::from_mins(1)).await;
                    }
                }
            });
            if concurrent {
                futures_util::future::join_all(events).await;
            } else {
                for event in events {
                    event.await;
                }
            }
            assert_eq!(
                fixture.watched(),
                names(64),
                "concurrent: {concurrent}, arriving: {arriving}"
            );
            assert_eq!(fixture.foreign(), [foreign(1), foreign(2), foreign(3)]);
            let invoked: BTreeSet<_> = fixture.invoked().into_iter().collect();
            assert_eq!(invoked.into_iter().collect::<Vec<_>>(), names(64));
            println!(
                "64 branches, concurrent: {concurrent}, arriving: {arriving}: {} writes, {} calls",
                fixture.codecommit.traffic().count("put_triggers"),
                fixture.calls()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_foreign_trigger_added_during_a_run_is_kept() {
    // Before each call but the write itself: a trigger added directly before the write cannot
    // be seen (see the documentation of `branchline_core::trigger`).
    for call in 1..=5 {
        let fixture = LifecycleFixture::new();
        fixture.push(["a"]);
        fixture.add_foreign(&[foreign(1)]);
        let writer = Arc::clone(&fixture.codecommit);
        fixture.codecommit.traffic().before_call(call, move || {
            let mut all = writer.triggers(&demo());
            all.push(foreign(2));
            writer.set_triggers(&demo(), all);
        });
        fixture.reconcile().await;
        if fixture.codecommit.traffic().calls().get(call - 1) == Some(&"put_triggers") {
            continue;
        }
        assert_eq!(
            fixture.foreign(),
            [foreign(1), foreign(2)],
            "before call {call}"
        );
        assert_eq!(fixture.watched(), ["a"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_foreign_trigger_that_another_reconciler_dropped_is_restored() {
    let fixture = LifecycleFixture::new();
    fixture.push(["a"]);
    fixture.add_foreign(&[foreign(1), foreign(2)]);
    let other = Arc::clone(&fixture.codecommit);
    // The other reconciler read before `mail-2` was added, and writes after this one.
    fixture
        .codecommit
        .traffic()
        .before("get_triggers", 3, move || {
            let mut all = other.triggers(&demo());
            all.retain(|trigger| trigger.name != "mail-2");
            other.set_triggers(&demo(), all);
        });
    fixture.reconcile().await;
    let mut kept = fixture.foreign();
    kept.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(kept, [foreign(1), foreign(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_or_lost_write_is_retried_over_the_current_triggers() {
    for kind in [ErrorKind::Throttled, ErrorKind::Transport] {
        for when in [When::Before, When::After] {
            let fixture = LifecycleFixture::new();
            fixture.push(["a"]);
            fixture.add_foreign(&[foreign(1)]);
            let faults = FaultPlan::new();
            faults.fail_method("put_triggers", 1, kind, when);
            let context = Arc::new(Context::new(
                fixture.config.clone(),
                Arc::new(Failing::new(Arc::clone(&fixture.codecommit), &faults)),
                fixture.functions.clone(),
            ));
            let writer = Arc::clone(&fixture.codecommit);
            let traffic = fixture.codecommit.traffic();
            traffic.before("get_triggers", 3, move || {
                let mut all = writer.triggers(&demo());
                all.push(foreign(2));
                writer.set_triggers(&demo(), all);
            });
            let event = json!({"repository": "demo"});
            let answer = send(&context, event).await.unwrap();
            assert_eq!(texts(&answer.repositories[0].invoked), ["a"]);
            assert_eq!(
                fixture.foreign(),
                [foreign(1), foreign(2)],
                "{kind} {when:?}"
            );
            assert_eq!(fixture.watched(), ["a"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_a_write_left_out_is_pending_even_if_another_writer_covers_it_again() {
    let fixture = LifecycleFixture::new();
    fixture.push(["a", "b"]);
    fixture.reconcile().await;
    fixture.codecommit.delete_branch(&demo(), "b");
    let covering = fixture.triggers();
    // This run removes the trigger of `b`; `b` is created again and its push is missed; then
    // another reconciler, which read before that write, writes the trigger again.
    let other = Arc::clone(&fixture.codecommit);
    let traffic = fixture.codecommit.traffic();
    let third = traffic.count("get_triggers") + 3;
    traffic.before("get_triggers", third, move || {
        other.commit(&demo(), "b", &[("f", Entry::file("again"))]);
        other.set_triggers(&demo(), covering);
    });
    let answer = fixture.reconcile().await;
    assert_eq!(texts(&answer.invoked), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn an_endless_concurrent_writer_causes_a_conflict() {
    let fixture = LifecycleFixture::new();
    fixture.push(["a"]);
    for call in 1..=100 {
        let writer = Arc::clone(&fixture.codecommit);
        fixture
            .codecommit
            .traffic()
            .before("get_triggers", call, move || {
                writer.set_triggers(&demo(), vec![foreign(call)]);
            });
    }
    let failure = fixture
        .send(json!({"repository": "demo"}))
        .await
        .unwrap_err();
    assert_eq!(failure.kind(), ErrorKind::Conflict);
    assert!(
        failure.message().contains("repository `demo`"),
        "{}",
        failure.message()
    );
    assert_eq!(fixture.codecommit.traffic().count("put_triggers"), 0);
    assert_eq!(
        fixture.codecommit.traffic().count("get_triggers"),
        16,
        "eight attempts, two reads each"
    );
}

#[tokio::test(start_paused = true)]
async fn a_second_run_converges_after_any_failed_call() {
    let kinds = [
        ErrorKind::Transport,
        ErrorKind::Throttled,
        ErrorKind::AccessDenied,
        ErrorKind::Internal,
    ];
    let mut failed = 0;
    for kind in kinds {
        for when in [When::Before, When::After] {
            for k in 1.. {
                let fixture = LifecycleFixture::new();
                fixture.push(names(13));
                fixture.add_foreign(&[foreign(1)]);
                fixture.reconcile().await;
                fixture.push(["new/1", "new/2"]);
                fixture.codecommit.delete_branch(&demo(), "feature/0003");
                let faults = FaultPlan::new();
                faults.fail(k, kind, when);
                let codecommit = Arc::clone(&fixture.codecommit);
                let functions = Arc::clone(&fixture.functions);
                let context = Arc::new(Context::new(
                    fixture.config.clone(),
                    Arc::new(Failing::new(codecommit, &faults)),
                    Arc::new(Failing::new(functions, &faults)),
                ));
                match send(&context, json!({"repository": "demo"})).await {
                    Err(failure) => {
                        failed += 1;
                        assert_eq!(failure.kind(), kind, "call {k}: a clean error");
                        assert_eq!(fixture.foreign(), [foreign(1)]);
                    }
                    // The run retries the write of triggers.
                    Ok(_) if faults.calls().get(k - 1) == Some(&"put_triggers") => {}
                    Ok(_) => {
                        assert!(k > faults.calls().len(), "{kind} at call {k} was swallowed");
                        break;
                    }
                }
                send(&context, json!({"repository": "demo"})).await.unwrap();
                let mut wanted = names(13);
                wanted.retain(|name| name != "feature/0003");
                wanted.extend(["new/1".to_owned(), "new/2".to_owned()]);
                assert_eq!(fixture.watched(), wanted, "{kind} at call {k}");
                assert_eq!(fixture.foreign(), [foreign(1)]);
                for branch in ["new/1", "new/2"] {
                    let invoked = fixture.invoked().iter().filter(|b| *b == branch).count();
                    assert!(
                        invoked >= 1,
                        "{kind} {when:?} at call {k}: `{branch}` was invoked"
                    );
                }
            }
        }
    }
    assert!(failed > 50, "{failed} runs failed");
}

#[tokio::test(start_paused = true)]
async fn a_run_at_its_deadline_reports_it_and_the_next_run_continues() {
    let fixture = LifecycleFixture::new();
    fixture.push(names(9));
    fixture
        .functions
        .traffic()
        .set_latency(Duration::from_secs(100));
    let deadline = Instant::now() + Duration::from_secs(50);
    let event = json!({"repository": "demo"});
    let failure = handle(Arc::clone(&fixture.context), event, deadline)
        .await
        .unwrap_err();
    assert_eq!(failure.kind(), ErrorKind::Deadline);
    fixture.functions.traffic().set_latency(Duration::ZERO);
    assert_eq!(texts(&fixture.reconcile().await.invoked), names(9));
}
