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
             \"created\":{refs_count},\"updated\":0,\"forced\":0,\"deleted\":0,\
             \"unchanged\":0,\"rejected\":0,\"set_aside\":0}},\"objects\":{objects},\
             \"bytes\":{bytes},\"lfs\":{{\"objects\":0,\"bytes\":0,\"missing\":0,\"left_out\":0}}}}]}}"
        )
    );
    assert_eq!(fixture.published("one.git").as_ref(), Some(&refs));

    let before = fixture.store.journal().len();
    let again = fixture.run(event).await.expect("because no mapping fails");
    let again = serde_json::to_value(&again).expect("because an answer is plain data");
    let counts = json!({
        "created": 0, "updated": 0, "forced": 0, "deleted": 0, "unchanged": refs_count,
        "rejected": 0, "set_aside": 0,
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

#[tokio::test(start_paused = true)]
async fn rejected_refs_fail_the_mapping_with_the_reasons_of_the_target() {
    let fixture = MigrationFixture::new();
    let (from, to) = (
        Repo::with_history(HashKind::Sha1, 5, 2),
        Repo::new(HashKind::Sha1),
    );
    fixture.add("one.git", &from);
    fixture.add("two", &to);
    let mapping = json!({ "source": "https://git.test/one.git", "target": "codecommit://two" });
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
    assert_eq!(failure.kind(), ErrorKind::Rejected);
    let words = "the target refused 1 refs: `refs/heads/side/by/side`: `refs/heads/side` of the \
                 target is in the way";
    assert!(failure.message().contains(words), "{}", failure.message());
    let refs = to.refs();
    assert!(
        refs.contains("refs/heads/fine"),
        "other refs must be mirrored"
    );
    assert!(!refs.contains("side/by/side"));

    let mut pruned = event;
    pruned["mappings"][0]["prune"] = json!(true);
    let answer = fixture
        .run(pruned)
        .await
        .expect("because no ref conflicts now");
    assert_eq!(answer.mappings[0].refs.deleted, 1);
    assert_eq!(answer.mappings[0].refs.created, 1);
}

#[tokio::test]
async fn a_ref_that_is_set_aside_is_counted_and_named() {
    let fixture = MigrationFixture::new();
    let from = Repo::with_history(HashKind::Sha1, 5, 2);
    fixture.add("one.git", &from);
    let mapping = json!({ "source": "https://git.test/one.git", "target": "s3://mirrors/one" });
    let event = request(&[mapping]);
    let first = fixture.run(event.clone()).await;
    first.expect("because no mapping fails");
    from.git(&["branch", "-m", "side", "tmp"]);
    from.git(&["branch", "-m", "tmp", "side/by/side"]);
    let answer = fixture.run(event).await;
    let answer = answer.expect("because the stale branch is set aside");
    let mapping = &answer.mappings[0];
    assert_eq!((mapping.refs.set_aside, mapping.refs.created), (1, 1));
    assert_eq!(
        mapping.warnings,
        ["`refs/heads/side` was in the way of another ref and is kept as `refs/stale/heads/side`"]
    );
    let published = fixture.published("one").expect("because it was mirrored");
    for name in ["refs/heads/side/by/side", "refs/stale/heads/side"] {
        assert!(published.contains(name), "{published}");
    }
}

#[tokio::test]
async fn a_plan_writes_nothing_and_the_next_run_does_what_it_said() {
    let fixture = MigrationFixture::new();
    let from = Repo::with_history(HashKind::Sha1, 6, 2);
    from.git(&["branch", "gone", "main"]);
    from.git(&["branch", "rewound", "main"]);
    fixture.add("one.git", &from);
    let mapping = all_refs("https://git.test/one.git", "s3://mirrors/one");
    let planned = |mapping: &serde_json::Value| json!({ "mappings": [mapping], "plan": true });

    let answer = fixture.run(planned(&mapping)).await;
    let answer = serde_json::to_value(answer.expect("because the source is there"));
    let answer = answer.expect("because an answer is plain data");
    assert!(fixture.store.journal().is_empty(), "nothing is written");
    assert_eq!(answer["status"], "incomplete", "there is something to do");
    let refs = from.refs().lines().count();
    assert_eq!(answer["mappings"][0]["refs"]["created"], refs);
    assert_eq!(answer["mappings"][0]["plan"]["head"], "refs/heads/main");
    let run = fixture.run(request(std::slice::from_ref(&mapping))).await;
    run.expect("because no mapping fails");

    let before = from.id("main").to_string();
    from.git(&["branch", "-D", "gone"]);
    from.git(&["branch", "new", "main"]);
    from.git(&["branch", "-f", "rewound", "main~2"]);
    let next = from.git(&["commit-tree", "main^{tree}", "-p", "side", "-m", "next"]);
    from.git(&["update-ref", "refs/heads/side", &next]);
    let after = from.id("rewound").to_string();
    let written = fixture.store.journal().len();
    let answer = fixture.run(planned(&mapping)).await;
    let answer = serde_json::to_value(answer.expect("because no mapping fails"));
    let planned_answer = answer.expect("because an answer is plain data");
    assert_eq!(fixture.store.journal().len(), written, "nothing is written");
    let plan = &planned_answer["mappings"][0]["plan"];
    let expected = json!({
        "created": ["refs/heads/new"],
        "updated": ["refs/heads/rewound", "refs/heads/side"],
        "forced": { "refs/heads/rewound": format!("{before} -> {after}") },
        "deleted": ["refs/heads/gone"],
        "set_aside": {},
        "rejected": {},
    });
    assert_eq!(*plan, expected);
    let answer = fixture.run(request(std::slice::from_ref(&mapping))).await;
    let answer = serde_json::to_value(answer.expect("because no mapping fails"));
    let answer = answer.expect("because an answer is plain data");
    let counts = |answer: &serde_json::Value| answer["mappings"][0]["refs"].clone();
    assert_eq!(counts(&answer), counts(&planned_answer));
    let warning = format!(
        "`refs/heads/rewound` was moved by force from {before} to {after}, which does not \
         contain it"
    );
    assert_eq!(answer["mappings"][0]["warnings"], json!([warning]));
    let done = fixture
        .run(json!({ "mappings": [mapping], "plan": true }))
        .await;
    let done = done.expect("because no mapping fails");
    assert_eq!(done.status, Status::Complete, "nothing is left to do");
}

#[tokio::test]
async fn an_emptied_source_fails_its_mapping_unless_all_may_be_pruned() {
    let fixture = MigrationFixture::new();
    let from = Repo::with_history(HashKind::Sha1, 4, 2);
    fixture.add("one.git", &from);
    let mut mapping = all_refs("https://git.test/one.git", "s3://mirrors/one");
    let first = fixture.run(request(std::slice::from_ref(&mapping))).await;
    first.expect("because no mapping fails");
    let refs = from.refs();
    for line in refs.lines() {
        let (_, name) = line.split_once(' ').expect("because it is a ref");
        from.git(&["update-ref", "-d", name]);
    }
    let count = refs.lines().count();
    let failure = fixture.run(request(std::slice::from_ref(&mapping))).await;
    let failure = failure.expect_err("everything would be deleted");
    assert_eq!(failure.kind(), ErrorKind::Rejected);
    let words = format!("`prune` would delete all {count} of the target");
    assert!(failure.message().contains(&words), "{}", failure.message());
    mapping["prune"] = json!("all");
    let answer = fixture.run(request(&[mapping])).await;
    let answer = answer.expect("because it is allowed");
    assert_eq!(answer.mappings[0].refs.deleted, count as u64);
}

#[tokio::test]
async fn an_update_by_force_is_rejected_where_the_mapping_forbids_it() {
    let fixture = MigrationFixture::new();
    let from = Repo::with_history(HashKind::Sha1, 5, 2);
    fixture.add("one.git", &from);
    let mut mapping = all_refs("https://git.test/one.git", "s3://mirrors/one");
    mapping["force"] = json!(false);
    let first = fixture.run(request(std::slice::from_ref(&mapping))).await;
    first.expect("because no mapping fails");
    let (before, side) = (from.id("main"), from.id("side"));
    from.git(&["update-ref", "refs/heads/main", "main~1"]);
    from.git(&["branch", "new", "side"]);
    let failure = fixture.run(request(std::slice::from_ref(&mapping))).await;
    let failure = failure.expect_err("a ref is rejected");
    assert_eq!(failure.kind(), ErrorKind::Rejected);
    for words in [
        "`refs/heads/main`",
        &before.to_string(),
        "allow `\"force\"`",
    ] {
        assert!(failure.message().contains(words), "{}", failure.message());
    }
    let published = fixture.published("one").expect("because it was mirrored");
    assert!(published.contains(&format!("{before} refs/heads/main")));
    assert!(published.contains(&format!("{side} refs/heads/new")));
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
