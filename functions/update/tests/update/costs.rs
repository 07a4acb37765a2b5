//! Costs of a push that do not depend on the machine: requests, rounds of concurrent requests,
//! and bytes. A change that makes one of them grow fails here.

use std::time::Duration;

use branchline_core::testkit::Entry;
use serde_json::Value;

use crate::fixture::*;
use crate::reuse::{borrowed, calls, commit, fixture, many};

/// Latency of CodeCommit, by the clock of tokio, which advances while all tasks wait.
const LATENCY: Duration = Duration::from_millis(10);

/// Returns the calls to CodeCommit that an event takes, and the number of rounds of them.
async fn rounds(fixture: &UpdateFixture, event: Value) -> (Vec<&'static str>, u128) {
    fixture.codecommit.traffic().set_latency(LATENCY);
    let begin = tokio::time::Instant::now();
    let calls = calls(fixture, event).await;
    let rounds = begin.elapsed().as_millis() / LATENCY.as_millis();
    (calls, rounds)
}

fn count(calls: &[&str], method: &str) -> usize {
    calls.iter().filter(|call| **call == method).count()
}

fn stored_bytes(fixture: &UpdateFixture, key: &str) -> u64 {
    let body = fixture.latest(key).body.expect("it is not a delete marker");
    body.len() as u64
}

#[tokio::test(start_paused = true)]
async fn a_first_push_takes_one_request_for_each_folder_and_file_and_no_round_in_vain() {
    let fixture = fixture(&[]);
    let mut files = many(500);
    files.push((".gitattributes".into(), Entry::file("*.txt text=auto\n")));
    let first = commit(&fixture, "main", &[], &borrowed(&files));
    let (calls, rounds) = rounds(&fixture, moved("main", first)).await;
    for (method, expected) in [
        ("get_branch", 1),
        ("get_commit", 1),
        ("get_repository", 1),
        ("get_folder", 1 + 97),
        ("get_blob", 1 + 500),
    ] {
        assert_eq!(count(&calls, method), expected, "{method}");
    }
    assert_eq!(calls.len(), 3 + 98 + 501);
    // The tip with the commit and the default branch, the root, its attributes, 97 folders and
    // 500 files, 32 at once.
    let needed = 3 + 97_u128.div_ceil(32) + 500_u128.div_ceil(32);
    assert!(rounds <= needed, "{rounds} rounds, and {needed} are needed");
}

#[tokio::test(start_paused = true)]
async fn a_push_of_one_change_takes_six_requests_in_four_rounds_and_reads_the_artifact_once() {
    let fixture = fixture(&[]);
    let mut files = many(2000);
    files.push((".gitattributes".into(), Entry::file("*.txt text=auto\n")));
    let first = commit(&fixture, "main", &[], &borrowed(&files));
    fixture.results(moved("main", first)).await;

    let changed = [("folder3/file3.txt", Entry::file("changed\n"))];
    let second = commit(&fixture, "main", &[first], &changed);
    let size = stored_bytes(&fixture, "demo/main.zip");
    let (store, codecommit) = (fixture.store.traffic(), fixture.codecommit.traffic());
    let before = (store.bytes("get"), codecommit.bytes("get_blob"));
    let (calls, rounds) = rounds(&fixture, moved("main", second)).await;
    assert_eq!(calls.len(), 6, "{calls:?}");
    assert_eq!(
        rounds, 4,
        "the tip with the commit and the differences, the attributes, the file, the tip again"
    );
    assert_eq!(
        codecommit.bytes("get_blob") - before.1,
        "*.txt text=auto\n".len() as u64 + "changed\n".len() as u64
    );
    // The directory is read before the content.
    let read = store.bytes("get") - before.0;
    assert!(read <= size * 3 / 2, "{read} bytes of {size} are read");
}

#[tokio::test(start_paused = true)]
async fn a_new_branch_takes_five_requests_in_three_rounds() {
    let fixture = fixture(&[]);
    let first = commit(&fixture, "main", &[], &borrowed(&many(300)));
    fixture.results(moved("main", first)).await;
    let new = [("new", Entry::file("new"))];
    let tip = commit(&fixture, "feature/x", &[first], &new);
    let (calls, rounds) = rounds(&fixture, moved("feature/x", tip)).await;
    assert_eq!(calls.len(), 5, "{calls:?}");
    assert_eq!(
        rounds, 3,
        "the tip with the default branch, the differences, the file"
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_of_what_is_archived_takes_one_request() {
    let fixture = fixture(&[]);
    let first = commit(&fixture, "main", &[], &borrowed(&many(20)));
    fixture.results(moved("main", first)).await;
    let (calls, rounds) = rounds(&fixture, moved("main", first)).await;
    assert_eq!((calls, rounds), (vec!["get_branch"], 1));
}

#[tokio::test(start_paused = true)]
async fn a_superseded_event_reads_nothing_but_the_tip_its_commit_and_the_differences() {
    let fixture = fixture(&[]);
    let first = commit(&fixture, "main", &[], &borrowed(&many(20)));
    fixture.results(moved("main", first)).await;
    let second = commit(&fixture, "main", &[first], &[("new", Entry::file("2"))]);
    commit(&fixture, "main", &[second], &[("new", Entry::file("3"))]);
    let (calls, rounds) = rounds(&fixture, moved("main", second)).await;
    assert_eq!(calls, ["get_branch", "get_commit", "get_differences"]);
    assert_eq!(rounds, 1);
}
