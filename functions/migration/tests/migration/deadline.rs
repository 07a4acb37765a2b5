//! Deadlines: an interrupted mapping keeps its progress, and an equal request resumes it.

use std::time::Duration;

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_migration::Status;
use tokio::time::Instant;

use crate::fixture::*;
use branchline_test_support::repo::Repo;

/// `DEADLINE_MARGIN_SECONDS` of the fixture.
const MARGIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_margin_longer_than_the_time_left_is_reported() {
    let fixture = MigrationFixture::new();
    let event = request(&[all_refs("https://git.test/one.git", "s3://mirrors/one.git")]);
    for left in [Duration::ZERO, Duration::from_secs(5), MARGIN] {
        let failure = fixture.run_for(event.clone(), left).await;
        let failure = failure.expect_err("there is no time left");
        assert_eq!(failure.kind(), ErrorKind::Deadline);
        let message = failure.message();
        assert!(message.contains("10 seconds of `DEADLINE_MARGIN_SECONDS`"));
        assert!(
            message.contains("raise the function's timeout"),
            "{message}"
        );
    }
    assert!(
        fixture.seen().opened.is_empty(),
        "no remote is opened without time left"
    );
}

/// "An interrupted mirroring resumes when the same request is sent again."
#[tokio::test(start_paused = true)]
async fn an_equal_request_resumes_until_all_refs_are_mirrored() {
    let fixture = MigrationFixture::new();
    let (from, to) = (source(), Repo::new(HashKind::Sha1));
    for n in 0..6 {
        from.git(&["branch", &format!("topic/{n}"), &format!("main~{n}")]);
    }
    fixture.add("one.git", &from);
    fixture.add("to", &to);
    let event = request(&[all_refs("https://git.test/one.git", "codecommit://to")]);
    let total = from.refs().lines().count();
    let mut created = 0;
    let mut rounds = 0;
    loop {
        rounds += 1;
        // Time for two pushes and a half.
        let left = MARGIN + PUSH * 2 + PUSH / 2;
        let answer = fixture.run_for(event.clone(), left).await;
        let answer = answer.expect("because running out of time is not a failure");
        let mapping = &answer.mappings[0];
        assert_eq!(mapping.status, answer.status);
        assert_eq!(mapping.refs.unchanged, created, "progress must be kept");
        created += mapping.refs.created;
        assert_eq!(
            to.refs().lines().count() as u64,
            created,
            "the counts must match the target"
        );
        to.fsck();
        let text = serde_json::to_string(&answer).expect("because an answer is plain data");
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
            2 * MAX_CHANGES as u64,
            "each round makes two pushes"
        );
    }
    assert!(rounds >= 3, "the time must not suffice for one round");
    assert_eq!(rounds, total.div_ceil(2 * MAX_CHANGES));
    assert_eq!(to.refs(), from.refs());
    assert_eq!(to.objects(), from.objects());
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_cleaning_reports_the_tags_that_it_deleted() {
    let fixture = MigrationFixture::new();
    let to = source();
    let before = to.refs();
    for n in 1..=5 {
        to.git(&["tag", &format!("codecommit_migration_{n}"), "main"]);
    }
    fixture.add("to", &to);
    let mut mapping = all_refs("https://git.test/one.git", "codecommit://to");
    mapping["clean"] = true.into();
    // Time for two pushes and a half.
    for (status, deleted) in [
        (Status::Incomplete, 2 * MAX_CHANGES as u64),
        (Status::Complete, 1),
    ] {
        let left = MARGIN + PUSH * 2 + PUSH / 2;
        let answer = fixture.run_for(request(&[mapping.clone()]), left).await;
        let answer = answer.expect("because running out of time is not a failure");
        assert_eq!(answer.status, status);
        assert_eq!(answer.mappings[0].refs.deleted, deleted);
    }
    assert_eq!(to.refs(), before);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_is_valid_at_any_deadline_and_later_rounds_complete_it() {
    let mut fixture = MigrationFixture::new();
    // One mapping at a time, each request to S3 a second.
    fixture.memory_mib = "32";
    fixture.store.traffic().set_latency(Duration::from_secs(1));
    let from = source();
    fixture.add("one.git", &from);
    let to = |name: &str| all_refs("https://git.test/one.git", &format!("s3://mirrors/{name}"));
    let begin = Instant::now();
    fixture
        .run(request(&[to("z")]))
        .await
        .expect("because no mapping fails");
    let elapsed = begin.elapsed();
    assert!(
        elapsed >= Duration::from_secs(4),
        "objects, lists and refs: {elapsed:?}"
    );

    let names = ["a", "b", "c"];
    let event = request(&names.map(to));
    let mut seconds = 1;
    let mut rounds = 0;
    loop {
        rounds += 1;
        // One second more each round, so that every request is interrupted once.
        let left = MARGIN + Duration::from_secs(seconds);
        seconds += 1;
        let answer = fixture.run_for(event.clone(), left).await;
        let answer = answer.expect("because running out of time is not a failure");
        for (name, mapping) in names.iter().zip(&answer.mappings) {
            let published = fixture.published(name);
            assert!(
                published.is_none() || published == Some(from.refs()),
                "all refs or none are published"
            );
            if mapping.status == Status::Complete {
                assert_eq!(published, Some(from.refs()));
            }
            if published.is_some() {
                let clone = Repo::new(HashKind::Sha1);
                clone.index_pack(&fixture.pack(name), false);
                let lines = from.refs().lines().fold(String::new(), |lines, line| {
                    let (id, name) = line
                        .split_once(' ')
                        .expect("because a line has an id and a name");
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
        assert!(rounds < 100, "the rounds must end");
    }
    assert!(rounds >= 4, "the mirroring must be interrupted: {rounds}");
    assert!(
        fixture.store.uploads().is_empty(),
        "no multipart upload may be left"
    );
}

#[tokio::test(start_paused = true)]
async fn a_remote_that_does_not_answer_leaves_its_mapping_incomplete() {
    let fixture = MigrationFixture::new();
    let from = source();
    fixture.add("one.git", &from);
    let event = request(&[
        all_refs("https://silent.test/x.git", "s3://mirrors/x"),
        all_refs("https://git.test/one.git", "s3://mirrors/one"),
    ]);
    let begin = Instant::now();
    let answer = fixture.run_for(event, Duration::from_mins(2)).await;
    let answer = answer.expect("because running out of time is not a failure");
    assert!(
        begin.elapsed() <= Duration::from_mins(2),
        "the invocation must end in time"
    );
    assert_eq!(answer.status, Status::Incomplete);
    let states: Vec<_> = answer
        .mappings
        .iter()
        .map(|mapping| mapping.status)
        .collect();
    assert_eq!(states, [Status::Incomplete, Status::Complete]);
}
