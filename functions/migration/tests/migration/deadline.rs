//! Time that is over: what is done stays, and the same request goes on.

use std::time::Duration;

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_migration::Status;
use tokio::time::Instant;

use crate::fixture::*;
use branchline_test_support::repo::Repo;

/// What `run_for` takes off.
const MARGIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_margin_longer_than_what_is_left_is_named() {
    let world = World::new();
    let event = request(&[all("https://git.test/one.git", "s3://mirrors/one.git")]);
    for left in [Duration::ZERO, Duration::from_secs(5), MARGIN] {
        let failure = world.run_for(event.clone(), left).await;
        let failure = failure.expect_err("there is no time");
        assert_eq!(failure.kind(), ErrorKind::Deadline);
        let message = failure.message();
        assert!(message.contains("10 seconds of `DEADLINE_MARGIN_SECONDS`"));
        assert!(
            message.contains("raise the function's timeout"),
            "{message}"
        );
    }
    assert!(world.seen().opened.is_empty(), "nothing is begun");
}

/// "Whenever a mirroring stops, the same request goes on from there."
#[tokio::test(start_paused = true)]
async fn the_same_request_goes_on_until_all_refs_are_there() {
    let world = World::new();
    let (from, to) = (source(), Repo::new(HashKind::Sha1));
    for n in 0..6 {
        from.git(&["branch", &format!("topic/{n}"), &format!("main~{n}")]);
    }
    world.add("one.git", &from);
    world.add("to", &to);
    let event = request(&[all("https://git.test/one.git", "codecommit://to")]);
    let total = from.refs().lines().count();
    let mut created = 0;
    let mut rounds = 0;
    loop {
        rounds += 1;
        // Time for two pushes and a half.
        let left = MARGIN + PUSH * 2 + PUSH / 2;
        let answer = world.run_for(event.clone(), left).await;
        let answer = answer.expect("it is no failure");
        let mapping = &answer.mappings[0];
        assert_eq!(mapping.status, answer.status);
        assert_eq!(mapping.refs.unchanged, created, "what was done stays");
        created += mapping.refs.created;
        assert_eq!(
            to.refs().lines().count() as u64,
            created,
            "the counts are true"
        );
        to.fsck();
        let text = serde_json::to_string(&answer).expect("it is plain data");
        if answer.status == Status::Complete {
            break;
        }
        assert!(
            text.starts_with(r#"{"status":"incomplete","mappings":[{"#),
            "{text}"
        );
        assert!(text.contains(r#""status":"incomplete","refs""#), "{text}");
        assert_eq!(
            mapping.refs.created,
            2 * CHANGES as u64,
            "each round does its part"
        );
    }
    assert!(rounds >= 3, "the time was short");
    assert_eq!(rounds, total.div_ceil(2 * CHANGES));
    assert_eq!(to.refs(), from.refs());
    assert_eq!(to.objects(), from.objects());
}

#[tokio::test(start_paused = true)]
async fn cleaning_tells_what_it_deleted_before_the_time_was_over() {
    let world = World::new();
    let to = source();
    let before = to.refs();
    for n in 1..=5 {
        to.git(&["tag", &format!("codecommit_migration_{n}"), "main"]);
    }
    world.add("to", &to);
    let mut mapping = all("https://git.test/one.git", "codecommit://to");
    mapping["clean"] = true.into();
    // Time for two pushes and a half.
    for (status, deleted) in [
        (Status::Incomplete, 2 * CHANGES as u64),
        (Status::Complete, 1),
    ] {
        let left = MARGIN + PUSH * 2 + PUSH / 2;
        let answer = world.run_for(request(&[mapping.clone()]), left).await;
        let answer = answer.expect("it is no failure");
        assert_eq!(answer.status, status);
        assert_eq!(answer.mappings[0].refs.deleted, deleted);
    }
    assert_eq!(to.refs(), before);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_is_valid_whenever_the_time_is_over_and_later_rounds_do_the_rest() {
    let mut world = World::new();
    // One mapping at a time, each request to S3 a second.
    world.memory_mib = "32";
    world.store.traffic().set_latency(Duration::from_secs(1));
    let from = source();
    world.add("one.git", &from);
    let to = |name: &str| all("https://git.test/one.git", &format!("s3://mirrors/{name}"));
    let begin = Instant::now();
    world.run(request(&[to("z")])).await.expect("all is well");
    let one = begin.elapsed();
    assert!(
        one >= Duration::from_secs(4),
        "objects, lists and refs: {one:?}"
    );

    let names = ["a", "b", "c"];
    let event = request(&names.map(to));
    let mut seconds = 1;
    let mut rounds = 0;
    loop {
        rounds += 1;
        // Each time a little more, so that it is over at every request once.
        let left = MARGIN + Duration::from_secs(seconds);
        seconds += 1;
        let answer = world.run_for(event.clone(), left).await;
        let answer = answer.expect("it is no failure");
        for (name, mapping) in names.iter().zip(&answer.mappings) {
            let published = world.published(name);
            assert!(
                published.is_none() || published == Some(from.refs()),
                "all refs or none are published"
            );
            if mapping.status == Status::Complete {
                assert_eq!(published, Some(from.refs()));
            }
            if published.is_some() {
                let clone = Repo::new(HashKind::Sha1);
                clone.index_pack(&world.pack(name), false);
                let lines = from.refs().lines().fold(String::new(), |lines, line| {
                    let (id, name) = line.split_once(' ').expect("id and name");
                    lines + &format!("create {name} {id}\n")
                });
                clone.input(&["update-ref", "--stdin"], lines.as_bytes());
                clone.fsck();
                assert_eq!(clone.objects(), from.objects());
            }
        }
        if answer.status == Status::Complete {
            break;
        }
        assert!(rounds < 100, "it comes to an end");
    }
    assert!(rounds >= 4, "it was interrupted: {rounds}");
    assert!(world.store.uploads().is_empty(), "no upload is left behind");
}

#[tokio::test(start_paused = true)]
async fn a_remote_that_does_not_answer_leaves_its_mapping_incomplete() {
    let world = World::new();
    let from = source();
    world.add("one.git", &from);
    let event = request(&[
        all("https://silent.test/x.git", "s3://mirrors/x"),
        all("https://git.test/one.git", "s3://mirrors/one"),
    ]);
    let begin = Instant::now();
    let answer = world.run_for(event, Duration::from_mins(2)).await;
    let answer = answer.expect("it is no failure");
    assert!(begin.elapsed() <= Duration::from_mins(2), "it ends in time");
    assert_eq!(answer.status, Status::Incomplete);
    let states: Vec<_> = answer.mappings.iter().map(|one| one.status).collect();
    assert_eq!(states, [Status::Incomplete, Status::Complete]);
}
