//! Plans, bounded answers, and branches that are passed to update as older than the stack.

use branchline_core::answer::{MAX_ITEMS, MAX_NAMES};
use branchline_core::codecommit::CodeCommit as _;
use branchline_core::name::RepositoryName;
use branchline_core::testkit::{CodeCommitOptions, Entry};
use serde_json::{Value, json};

use crate::fixture::*;

fn plan() -> Value {
    json!({"schedule": true, "plan": true})
}

async fn answer(fixture: &LifecycleFixture, event: Value) -> Value {
    serde_json::to_value(fixture.send(event).await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_plan_says_what_the_next_run_does_and_writes_nothing() {
    for branches in [3, 14, 90] {
        let fixture = LifecycleFixture::new();
        fixture.add_foreign(&[foreign(1)]);
        fixture.push(["kept", "gone"]);
        fixture.reconcile().await;
        fixture.codecommit.delete_branch(&demo(), "gone");
        fixture.push(names(branches));
        fixture.codecommit.add_odd_branch(&demo(), "HEAD");
        let other = RepositoryName::new("other").unwrap();
        let change = [("f", Entry::file("x"))];
        fixture.codecommit.commit(&other, "main", &change);
        let before = (fixture.triggers(), fixture.invoked());

        let mut planned = answer(&fixture, plan()).await;
        assert_eq!((fixture.triggers(), fixture.invoked()), before);
        let set = fixture.codecommit.get_triggers(&other).await.unwrap();
        assert_eq!(set.triggers, []);

        let done = answer(&fixture, json!({"schedule": true})).await;
        let planned = planned.as_object_mut().unwrap();
        assert_eq!(planned.remove("plan"), Some(json!(true)));
        assert_eq!(Value::Object(planned.clone()), done, "{branches} branches");
        assert_eq!(done["counts"]["created"], branches + 1);
        assert_eq!(done["counts"]["removed"], 1);

        let planned = answer(&fixture, plan()).await;
        for change in ["changed", "created", "removed", "invoked"] {
            assert_eq!(planned["counts"][change], 0, "{change}: nothing is left");
        }
    }
}

#[tokio::test]
async fn the_answer_of_a_schedule_is_bounded_and_lists_changes_first() {
    let options = CodeCommitOptions {
        page: 1000,
        ..CodeCommitOptions::default()
    };
    let fixture = LifecycleFixture::with(&[], &options);
    let name = |n: usize| RepositoryName::new(&format!("r{n:04}")).unwrap();
    let change = [("f", Entry::file("x"))];
    let repositories = MAX_ITEMS + 100;
    for n in 0..repositories {
        fixture.codecommit.commit(&name(n), "main", &change);
    }
    answer(&fixture, json!({"schedule": true})).await;
    let last = name(repositories - 1);
    let tip = fixture.codecommit.commit(&last, "b0", &change);
    for n in 1..MAX_NAMES + 200 {
        let branch = format!("b{n}");
        fixture.codecommit.set_branch(&last, &branch, tip);
    }
    let answer = answer(&fixture, json!({"schedule": true})).await;
    assert_eq!(answer["counts"]["repositories"], repositories);
    assert_eq!(answer["counts"]["changed"], 1);
    assert_eq!(answer["counts"]["created"], MAX_NAMES + 200);
    let listed = answer["repositories"].as_array().unwrap();
    assert_eq!(listed.len(), MAX_ITEMS);
    assert_eq!(listed[0]["repository"], last.as_str());
    assert_eq!(listed[0]["created"].as_array().unwrap().len(), MAX_NAMES);
    // A manual request is bounded, too, and says how many there are.
    let text = json!({"repository": last.as_str()});
    let answer = serde_json::to_value(fixture.send(text).await.unwrap()).unwrap();
    assert_eq!(answer.get("counts"), None, "nothing is left out");
}

/// Branches of each invocation, those without a mark and those with it.
fn marks(fixture: &LifecycleFixture) -> Vec<(String, bool)> {
    let invocations = fixture
        .functions
        .invocations(&fixture.config.policy.destination);
    let mut marks = Vec::new();
    for record in invocations
        .iter()
        .flat_map(|event| event["Records"].as_array().unwrap())
    {
        for reference in record["codecommit"]["references"].as_array().unwrap() {
            let name = reference["ref"].as_str().unwrap();
            let name = name.strip_prefix("refs/heads/").unwrap();
            marks.push((name.to_owned(), reference["existing"] == true));
        }
    }
    marks.sort();
    marks
}

#[tokio::test]
async fn update_is_told_which_branches_no_event_named() {
    let fixture = LifecycleFixture::new();
    fixture.push(["feature/login", "main"]);
    fixture
        .send(event("eventbridge-branch-created.json"))
        .await
        .unwrap();
    let named = ("feature/login".to_owned(), false);
    let found = ("main".to_owned(), true);
    assert_eq!(marks(&fixture), [named.clone(), found.clone()]);
    // The schedule finds nothing new.
    fixture.send(json!({"schedule": true})).await.unwrap();
    assert_eq!(marks(&fixture).len(), 2);
    // The event of a branch that was found comes later than that of the first one.
    let event = json!({"repository": "demo", "branch": "main"});
    fixture.send(event.clone()).await.unwrap();
    let repeated = ("main".to_owned(), false);
    assert_eq!(marks(&fixture), [named.clone(), repeated.clone(), found]);
    // Once more it is covered and known.
    fixture.send(event).await.unwrap();
    assert_eq!(marks(&fixture).len(), 3);
}
