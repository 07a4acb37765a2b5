//! What holds while others write, while calls fail, and when time runs out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use branchline_core::ErrorKind;
use branchline_core::testkit::{Entry, Failing, FaultPlan, When};
use branchline_lifecycle::{Context, handle};
use serde_json::{Value, json};

use super::world::*;

fn created(branch: &str) -> Value {
    let mut created = event("eventbridge-branch-created.json");
    created["detail"]["referenceName"] = branch.into();
    created["detail"]["referenceFullName"] = format!("refs/heads/{branch}").into();
    created
}

#[tokio::test(start_paused = true)]
async fn sixty_four_branches_created_at_once_are_all_covered_and_no_foreign_trigger_is_lost() {
    for at_once in [false, true] {
        for arriving in [false, true] {
            let world = World::new();
            world.add_foreign(&[foreign(1), foreign(2), foreign(3)]);
            world
                .codecommit
                .traffic()
                .set_latency(Duration::from_millis(20));
            if !arriving {
                world.push(names(64));
            }
            let events = names(64).into_iter().enumerate().map(|(n, branch)| {
                let world = &world;
                async move {
                    if at_once {
                        tokio::time::sleep(Duration::from_millis(n as u64 * 7 % 90)).await;
                    }
                    if arriving {
                        world.push([&branch]);
                    }
                    // As Lambda does with an asynchronous event: twice again.
                    for _ in 0..3 {
                        match world.send(created(&branch)).await {
                            Ok(_) => break,
                            Err(failure) => assert_eq!(failure.kind(), ErrorKind::Conflict),
                        }
                        tokio::time::sleep(Duration::from_mins(1)).await;
                    }
                }
            });
            if at_once {
                futures_util::future::join_all(events).await;
            } else {
                for event in events {
                    event.await;
                }
            }
            assert_eq!(
                world.watched(),
                names(64),
                "at once: {at_once}, arriving: {arriving}"
            );
            assert_eq!(world.foreign(), [foreign(1), foreign(2), foreign(3)]);
            let invoked: BTreeSet<_> = world.invoked().into_iter().collect();
            assert_eq!(invoked.into_iter().collect::<Vec<_>>(), names(64));
            println!(
                "64 branches, at once: {at_once}, arriving: {arriving}: {} writes, {} calls",
                world.codecommit.traffic().count("put_triggers"),
                world.calls()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_foreign_trigger_that_comes_while_we_work_is_kept() {
    // Before each call but the write itself; what comes directly before that is seen by
    // nobody (see the documentation of `branchline_core::trigger`).
    for call in 1..=5 {
        let world = World::new();
        world.push(["a"]);
        world.add_foreign(&[foreign(1)]);
        let writer = Arc::clone(&world.codecommit);
        world.codecommit.traffic().before_call(call, move || {
            let mut all = writer.triggers(&demo());
            all.push(foreign(2));
            writer.set_triggers(&demo(), all);
        });
        world.reconcile().await;
        if world.codecommit.traffic().calls().get(call - 1) == Some(&"put_triggers") {
            continue;
        }
        assert_eq!(
            world.foreign(),
            [foreign(1), foreign(2)],
            "before call {call}"
        );
        assert_eq!(world.watched(), ["a"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_foreign_trigger_that_another_reconciler_drops_is_put_back() {
    let world = World::new();
    world.push(["a"]);
    world.add_foreign(&[foreign(1), foreign(2)]);
    let other = Arc::clone(&world.codecommit);
    // It read before `mail-2` was there, and writes after us.
    world
        .codecommit
        .traffic()
        .before("get_triggers", 3, move || {
            let mut all = other.triggers(&demo());
            all.retain(|trigger| trigger.name != "mail-2");
            other.set_triggers(&demo(), all);
        });
    world.reconcile().await;
    let mut kept = world.foreign();
    kept.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(kept, [foreign(1), foreign(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_throttled_or_lost_is_made_again_over_what_is_there_by_then() {
    for kind in [ErrorKind::Throttled, ErrorKind::Transport] {
        for when in [When::Before, When::After] {
            let world = World::new();
            world.push(["a"]);
            world.add_foreign(&[foreign(1)]);
            let script = FaultPlan::new();
            script.fail_method("put_triggers", 1, kind, when);
            let context = Arc::new(Context::new(
                world.config.clone(),
                Arc::new(Failing::new(Arc::clone(&world.codecommit), &script)),
                world.functions.clone(),
            ));
            let writer = Arc::clone(&world.codecommit);
            let traffic = world.codecommit.traffic();
            traffic.before("get_triggers", 3, move || {
                let mut all = writer.triggers(&demo());
                all.push(foreign(2));
                writer.set_triggers(&demo(), all);
            });
            let event = json!({"repository": "demo"});
            let answer = send(&context, event).await.unwrap();
            assert_eq!(texts(&answer.repositories[0].invoked), ["a"]);
            assert_eq!(world.foreign(), [foreign(1), foreign(2)], "{kind} {when:?}");
            assert_eq!(world.watched(), ["a"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_our_own_write_left_out_is_owed_even_if_another_covers_it_again() {
    let world = World::new();
    world.push(["a", "b"]);
    world.reconcile().await;
    world.codecommit.delete_branch(&demo(), "b");
    let covering = world.triggers();
    // We take the trigger of `b` away; `b` comes back, its push is missed; then another
    // reconciler, which read before our write, writes that trigger again.
    let other = Arc::clone(&world.codecommit);
    let traffic = world.codecommit.traffic();
    let third = traffic.count("get_triggers") + 3;
    traffic.before("get_triggers", third, move || {
        other.commit(&demo(), "b", &[("f", Entry::file("again"))]);
        other.set_triggers(&demo(), covering);
    });
    let answer = world.reconcile().await;
    assert_eq!(texts(&answer.invoked), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn whoever_writes_without_end_ends_in_a_conflict() {
    let world = World::new();
    world.push(["a"]);
    for call in 1..=100 {
        let writer = Arc::clone(&world.codecommit);
        world
            .codecommit
            .traffic()
            .before("get_triggers", call, move || {
                writer.set_triggers(&demo(), vec![foreign(call)]);
            });
    }
    let failure = world.send(json!({"repository": "demo"})).await.unwrap_err();
    assert_eq!(failure.kind(), ErrorKind::Conflict);
    assert!(
        failure.message().contains("repository `demo`"),
        "{}",
        failure.message()
    );
    assert_eq!(world.codecommit.traffic().count("put_triggers"), 0);
    assert_eq!(
        world.codecommit.traffic().count("get_triggers"),
        16,
        "eight tries"
    );
}

#[tokio::test(start_paused = true)]
async fn whichever_call_fails_a_second_run_converges() {
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
                let world = World::new();
                world.push(names(13));
                world.add_foreign(&[foreign(1)]);
                world.reconcile().await;
                world.push(["new/1", "new/2"]);
                world.codecommit.delete_branch(&demo(), "feature/0003");
                let script = FaultPlan::new();
                script.fail(k, kind, when);
                let codecommit = Arc::clone(&world.codecommit);
                let functions = Arc::clone(&world.functions);
                let context = Arc::new(Context::new(
                    world.config.clone(),
                    Arc::new(Failing::new(codecommit, &script)),
                    Arc::new(Failing::new(functions, &script)),
                ));
                match send(&context, json!({"repository": "demo"})).await {
                    Err(failure) => {
                        failed += 1;
                        assert_eq!(failure.kind(), kind, "call {k}: a clean error");
                        assert_eq!(world.foreign(), [foreign(1)]);
                    }
                    // The write of triggers is tried again by itself.
                    Ok(_) if script.calls().get(k - 1) == Some(&"put_triggers") => {}
                    Ok(_) => {
                        assert!(k > script.calls().len(), "{kind} at call {k} was swallowed");
                        break;
                    }
                }
                send(&context, json!({"repository": "demo"})).await.unwrap();
                let mut wanted = names(13);
                wanted.retain(|name| name != "feature/0003");
                wanted.extend(["new/1".to_owned(), "new/2".to_owned()]);
                assert_eq!(world.watched(), wanted, "{kind} at call {k}");
                assert_eq!(world.foreign(), [foreign(1)]);
                for branch in ["new/1", "new/2"] {
                    let invoked = world.invoked().iter().filter(|b| *b == branch).count();
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
async fn a_run_out_of_time_says_so_and_the_next_goes_on() {
    let world = World::new();
    world.push(names(9));
    world
        .functions
        .traffic()
        .set_latency(Duration::from_secs(100));
    let deadline = Instant::now() + Duration::from_secs(50);
    let event = json!({"repository": "demo"});
    let failure = handle(Arc::clone(&world.context), event, deadline)
        .await
        .unwrap_err();
    assert_eq!(failure.kind(), ErrorKind::Deadline);
    world.functions.traffic().set_latency(Duration::ZERO);
    assert_eq!(texts(&world.reconcile().await.invoked), names(9));
}
