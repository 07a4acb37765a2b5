//! Several mappings in one request: concurrency, order, and independent failures.

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_migration::Status;
use serde_json::json;

use crate::fixture::*;
use branchline_test_support::repo::Repo;

#[tokio::test]
async fn an_answer_counts_refs_objects_and_bytes() {
    let fixture = MigrationFixture::new();
    let from = source();
    fixture.add("one.git", &from);
    let event = request(&[all_refs("https://git.test/one.git", "s3://mirrors/one.git")]);
    let answer = fixture
        .run(event.clone())
        .await
        .expect("because no mapping fails");
    let refs = from.refs();
    let (refs_count, objects) = (refs.lines().count(), from.objects().len());
    let bytes = fixture.pack("one.git").len();
    assert_eq!(
        serde_json::to_string(&answer).expect("because an answer is plain data"),
        format!(
            "{{\"status\":\"complete\",\"mappings\":[{{\"source\":\"https://git.test/one.git\",\
             \"target\":\"s3://mirrors/one.git\",\"status\":\"complete\",\"refs\":{{\
             \"created\":{refs_count},\"updated\":0,\"deleted\":0,\"unchanged\":0,\
             \"rejected\":0}},\"objects\":{objects},\"bytes\":{bytes},\"lfs\":{{\"objects\":0,\
             \"bytes\":0,\"missing\":0,\"left_out\":0}}}}]}}"
        )
    );
    assert_eq!(fixture.published("one.git").as_ref(), Some(&refs));

    let before = fixture.store.journal().len();
    let again = fixture.run(event).await.expect("because no mapping fails");
    let again = serde_json::to_value(&again).expect("because an answer is plain data");
    let counts = json!({
        "created": 0, "updated": 0, "deleted": 0, "unchanged": refs_count, "rejected": 0,
    });
    assert_eq!(again["mappings"][0]["refs"], counts);
    assert_eq!(again["mappings"][0]["objects"], 0);
    assert_eq!(
        fixture.store.journal().len(),
        before,
        "a second run must write nothing"
    );
}

#[tokio::test]
async fn the_test_event_of_a_trigger_is_answered_and_does_nothing() {
    let fixture = MigrationFixture::new();
    let event = json!({ "Records": [{ "eventName": "TriggerEventTest" }] });
    let answer = fixture.run(event).await.expect("because no mapping fails");
    let text = serde_json::to_string(&answer).expect("because an answer is plain data");
    assert_eq!(text, r#"{"status":"complete","mappings":[]}"#);
    assert!(fixture.seen().opened.is_empty(), "no remote may be opened");
}

#[tokio::test(start_paused = true)]
async fn a_failed_mapping_does_not_stop_the_others_and_fails_the_invocation() {
    let fixture = MigrationFixture::new();
    let (from, to) = (source(), Repo::new(HashKind::Sha1));
    fixture.add("one.git", &from);
    fixture.add("two", &to);
    let bad = json!({
        "source": "https://git.test/one.git", "target": "s3://mirrors/c", "depth": 1,
    });
    let event = request(&[
        all_refs("https://git.test/gone.git", "s3://mirrors/a"),
        all_refs("https://git.test/one.git", "s3://mirrors/b"),
        bad,
        all_refs("https://git.test/one.git", "codecommit://two"),
    ]);
    let failure = fixture.run(event).await.expect_err("two mappings fail");
    assert_eq!(
        failure.kind(),
        ErrorKind::NotFound,
        "the kind must be that of the first failure"
    );
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
    assert_eq!(fixture.published("b"), Some(from.refs()));
    assert_eq!(to.refs(), from.refs());
    assert_eq!(
        fixture.published("a"),
        None,
        "a failed mapping must publish nothing"
    );
}

#[tokio::test]
async fn rejected_refs_fail_the_mapping_with_the_reasons_of_the_target() {
    let fixture = MigrationFixture::new();
    let from = Repo::with_history(HashKind::Sha1, 5, 2);
    fixture.add("one.git", &from);
    let mapping = json!({ "source": "https://git.test/one.git", "target": "s3://mirrors/one" });
    let event = request(&[mapping]);
    fixture
        .run(event.clone())
        .await
        .expect("because no mapping fails");
    // Without `prune` the old branch stays and conflicts with the new one.
    from.git(&["branch", "-m", "side", "tmp"]);
    from.git(&["branch", "-m", "tmp", "side/by/side"]);
    from.git(&["branch", "fine", "main"]);
    let failure = fixture
        .run(event.clone())
        .await
        .expect_err("a ref is rejected");
    assert_eq!(failure.kind(), ErrorKind::Conflict);
    let words = "the target refused 1 refs: `refs/heads/side/by/side`: `refs/heads/side` \
                 conflicts with the name";
    assert!(failure.message().contains(words), "{}", failure.message());
    let published = fixture
        .published("one")
        .expect("because the first run published");
    assert!(
        published.contains("refs/heads/fine"),
        "other refs must be mirrored"
    );
    assert!(!published.contains("side/by/side"));

    let mut pruned = event;
    pruned["mappings"][0]["prune"] = json!(true);
    let answer = fixture
        .run(pruned)
        .await
        .expect("because no ref conflicts now");
    assert_eq!(answer.mappings[0].refs.deleted, 1);
    assert_eq!(answer.mappings[0].refs.created, 1);
}

#[tokio::test(start_paused = true)]
async fn mappings_with_different_targets_run_concurrently_within_the_memory() {
    for (memory_mib, at_once) in [("32", 1), ("64", 2), ("100", 3), ("256", 4)] {
        let mut fixture = MigrationFixture::new();
        fixture.memory_mib = memory_mib;
        let from = Repo::with_history(HashKind::Sha1, 3, 2);
        fixture.add("one.git", &from);
        let targets: Vec<Repo> = (0..6).map(|_| Repo::new(HashKind::Sha1)).collect();
        let mappings: Vec<_> = targets
            .iter()
            .enumerate()
            .map(|(at, repo)| {
                fixture.add(&format!("to-{at}"), repo);
                all_refs("https://git.test/one.git", &format!("codecommit://to-{at}"))
            })
            .collect();
        let answer = fixture
            .run(request(&mappings))
            .await
            .expect("because no mapping fails");
        let names: Vec<_> = answer
            .mappings
            .iter()
            .map(|mapping| mapping.target.clone())
            .collect();
        let wanted: Vec<_> = (0..6).map(|at| format!("codecommit://to-{at}")).collect();
        assert_eq!(names, wanted, "answers must be in the order of the request");
        for target in &targets {
            assert_eq!(target.refs(), from.refs());
        }
        let seen = fixture.seen();
        assert_eq!(seen.peak, (at_once, 1), "{memory_mib} MiB");
        let memory: usize = memory_mib.parse().expect("because it is a number");
        let share = memory * 1024 * 1024 / at_once;
        assert_eq!(seen.opened.len(), 12);
        assert!(seen.opened.iter().all(|(_, memory)| *memory == share));
    }
}

#[tokio::test(start_paused = true)]
async fn mappings_with_one_target_run_one_after_the_other_in_order() {
    let fixture = MigrationFixture::new();
    let (first, second) = (source(), Repo::with_history(HashKind::Sha1, 3, 2));
    let to = Repo::new(HashKind::Sha1);
    fixture.add("first.git", &first);
    fixture.add("second.git", &second);
    fixture.add("to", &to);
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
    let answer = fixture.run(event).await.expect("because no mapping fails");
    assert_eq!(answer.status, Status::Complete);
    assert_eq!(fixture.seen().peak, (1, 1), "one push at a time");
    assert_eq!(
        answer.mappings[2].refs.updated, 1,
        "the last mapping of the ref wins"
    );
    assert_eq!(to.id("main"), second.id("main"));
    assert_eq!(to.id("side"), first.id("side"));
    assert_eq!(to.id("v1"), second.id("v1"));
    to.fsck();
}
