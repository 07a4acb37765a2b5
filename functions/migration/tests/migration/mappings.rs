//! Several mappings: side by side, in turns, and each with a fate of its own.

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_migration::Status;
use serde_json::json;

use crate::fixture::*;
use branchline_test_support::repo::Repo;

#[tokio::test]
async fn an_answer_counts_refs_objects_and_bytes() {
    let world = World::new();
    let from = source();
    world.add("one.git", &from);
    let event = request(&[all("https://git.test/one.git", "s3://mirrors/one.git")]);
    let answer = world.run(event.clone()).await.expect("all is well");
    let refs = from.refs();
    let (refs_count, objects) = (refs.lines().count(), from.objects().len());
    let bytes = world.pack("one.git").len();
    assert_eq!(
        serde_json::to_string(&answer).expect("it is plain data"),
        format!(
            "{{\"status\":\"complete\",\"mappings\":[{{\"source\":\"https://git.test/one.git\",\
             \"target\":\"s3://mirrors/one.git\",\"status\":\"complete\",\"refs\":{{\
             \"created\":{refs_count},\"updated\":0,\"deleted\":0,\"unchanged\":0,\
             \"rejected\":0}},\"objects\":{objects},\"bytes\":{bytes}}}]}}"
        )
    );
    assert_eq!(world.published("one.git").as_ref(), Some(&refs));

    let before = world.store.journal().len();
    let again = world.run(event).await.expect("all is well");
    let again = serde_json::to_value(&again).expect("it is plain data");
    let counts = json!({
        "created": 0, "updated": 0, "deleted": 0, "unchanged": refs_count, "rejected": 0,
    });
    assert_eq!(again["mappings"][0]["refs"], counts);
    assert_eq!(again["mappings"][0]["objects"], 0);
    assert_eq!(world.store.journal().len(), before, "nothing is written");
}

#[tokio::test]
async fn the_test_of_a_trigger_is_answered_and_does_nothing() {
    let world = World::new();
    let event = json!({ "Records": [{ "eventName": "TriggerEventTest" }] });
    let answer = world.run(event).await.expect("all is well");
    let text = serde_json::to_string(&answer).expect("it is plain data");
    assert_eq!(text, r#"{"status":"complete","mappings":[]}"#);
    assert!(world.seen().opened.is_empty(), "nothing is opened");
}

#[tokio::test(start_paused = true)]
async fn a_failure_stops_no_other_mapping_and_fails_the_invocation() {
    let world = World::new();
    let (from, to) = (source(), Repo::new(HashKind::Sha1));
    world.add("one.git", &from);
    world.add("two", &to);
    let bad = json!({
        "source": "https://git.test/one.git", "target": "s3://mirrors/c", "depth": 1,
    });
    let event = request(&[
        all("https://git.test/gone.git", "s3://mirrors/a"),
        all("https://git.test/one.git", "s3://mirrors/b"),
        bad,
        all("https://git.test/one.git", "codecommit://two"),
    ]);
    let failure = world.run(event).await.expect_err("two mappings fail");
    assert_eq!(failure.kind(), ErrorKind::NotFound, "that of the first");
    let kinds: Vec<_> = failure
        .errors()
        .iter()
        .map(branchline_core::Error::kind)
        .collect();
    assert_eq!(kinds, [ErrorKind::NotFound, ErrorKind::InvalidEvent]);
    let message = failure.message();
    for words in [
        "2 of 4 failed",
        "https://git.test/gone.git -> s3://mirrors/a: there is no repository `gone.git`",
        "field `mappings[2].depth`",
    ] {
        assert!(message.contains(words), "{words}: {message}");
    }
    assert_eq!(world.published("b"), Some(from.refs()));
    assert_eq!(to.refs(), from.refs());
    assert_eq!(world.published("a"), None, "nothing is published");
}

#[tokio::test]
async fn refs_that_the_target_refuses_fail_the_mapping_in_its_words() {
    let world = World::new();
    let from = Repo::with_history(HashKind::Sha1, 5, 2);
    world.add("one.git", &from);
    let kept = json!({ "source": "https://git.test/one.git", "target": "s3://mirrors/one" });
    let event = request(&[kept]);
    world.run(event.clone()).await.expect("all is well");
    // Without `prune` the old branch stays, and is in the new one's way.
    from.git(&["branch", "-m", "side", "tmp"]);
    from.git(&["branch", "-m", "tmp", "side/by/side"]);
    from.git(&["branch", "fine", "main"]);
    let failure = world
        .run(event.clone())
        .await
        .expect_err("a ref is refused");
    assert_eq!(failure.kind(), ErrorKind::Conflict);
    let words = "the target refused 1 refs: `refs/heads/side/by/side`: `refs/heads/side` is in \
                 the way, as git sees names";
    assert!(failure.message().contains(words), "{}", failure.message());
    let published = world.published("one").expect("it is there");
    assert!(published.contains("refs/heads/fine"), "the others went on");
    assert!(!published.contains("side/by/side"));

    let mut pruned = event;
    pruned["mappings"][0]["prune"] = json!(true);
    let answer = world.run(pruned).await.expect("nothing is in the way now");
    assert_eq!(answer.mappings[0].refs.deleted, 1);
    assert_eq!(answer.mappings[0].refs.created, 1);
}

#[tokio::test(start_paused = true)]
async fn mappings_with_different_targets_go_side_by_side_within_the_memory() {
    for (memory_mib, at_once) in [("32", 1), ("64", 2), ("100", 3), ("256", 4)] {
        let mut world = World::new();
        world.memory_mib = memory_mib;
        let from = Repo::with_history(HashKind::Sha1, 3, 2);
        world.add("one.git", &from);
        let targets: Vec<Repo> = (0..6).map(|_| Repo::new(HashKind::Sha1)).collect();
        let mappings: Vec<_> = targets
            .iter()
            .enumerate()
            .map(|(at, repo)| {
                world.add(&format!("to-{at}"), repo);
                all("https://git.test/one.git", &format!("codecommit://to-{at}"))
            })
            .collect();
        let answer = world.run(request(&mappings)).await.expect("all is well");
        let names: Vec<_> = answer
            .mappings
            .iter()
            .map(|one| one.target.clone())
            .collect();
        let wanted: Vec<_> = (0..6).map(|at| format!("codecommit://to-{at}")).collect();
        assert_eq!(names, wanted, "answers are in the request's order");
        for target in &targets {
            assert_eq!(target.refs(), from.refs());
        }
        let seen = world.seen();
        assert_eq!(seen.most, (at_once, 1), "{memory_mib} MiB");
        let all: usize = memory_mib.parse().expect("a number");
        let share = all * 1024 * 1024 / at_once;
        assert_eq!(seen.opened.len(), 12);
        assert!(seen.opened.iter().all(|(_, memory)| *memory == share));
    }
}

#[tokio::test(start_paused = true)]
async fn mappings_with_one_target_take_turns_in_their_order() {
    let world = World::new();
    let (first, second) = (source(), Repo::with_history(HashKind::Sha1, 3, 2));
    let to = Repo::new(HashKind::Sha1);
    world.add("first.git", &first);
    world.add("second.git", &second);
    world.add("to", &to);
    let of = |name: &str, refs: &str| {
        json!({
            "source": format!("https://git.test/{name}.git"),
            "target": "codecommit://to",
            "refs": [refs],
        })
    };
    let event = request(&[
        of("first", "refs/heads/*"),
        of("second", "refs/tags/*"),
        of("second", "refs/heads/main"),
    ]);
    let answer = world.run(event).await.expect("all is well");
    assert_eq!(answer.status, Status::Complete);
    assert_eq!(world.seen().most, (1, 1), "one at a time");
    assert_eq!(
        answer.mappings[2].refs.updated, 1,
        "the last one has its way"
    );
    assert_eq!(to.id("main"), second.id("main"));
    assert_eq!(to.id("side"), first.id("side"));
    assert_eq!(to.id("v1"), second.id("v1"));
    to.fsck();
}
