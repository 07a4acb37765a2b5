//! Tags, commits, and requests that start once more.

use branchline_core::ErrorKind;
use branchline_core::name::CommitId;
use branchline_core::testkit::{CommitText, Entry, FaultPlan, PipelineOptions, When};
use branchline_update::handle;
use serde_json::{Value, json};

use crate::filters::{fixture, started};
use crate::fixture::*;

const RELEASES: &str = r#"[
  {"pipeline": "test", "gitConfiguration": {"sourceActionName": "Source",
    "push": [{"branches": {"includes": ["main", "tag/*"]}}]}},
  {"pipeline": "release", "gitConfiguration": {"sourceActionName": "Source",
    "push": [{"tags": {"includes": ["v*"], "excludes": ["*-rc*"]}}]}}]"#;

fn releases() -> UpdateFixture {
    let mut fixture = fixture(RELEASES, &[("test", "Source"), ("release", "Source")]);
    fixture.settings.insert("PIPELINE_VARIABLES", "true");
    fixture
}

/// The event of a pushed tag, which may name the object of an annotated tag.
fn tagged(tag: &str, named: CommitId) -> Value {
    records(&[
        json!({"ref": format!("refs/tags/{tag}"), "commit": named.to_string(), "created": true}),
    ])
}

#[tokio::test]
async fn a_tag_is_archived_under_its_own_key_and_started_once() {
    let fixture = releases();
    let tip = fixture.push("main", "one");
    fixture.codecommit.set_tag(&repository(), "v1.0", tip);
    let annotated = CommitId::new(&"ab".repeat(20)).expect("it is valid");
    let results = fixture.results(tagged("v1.0", annotated)).await;
    assert_eq!(outcomes(&results), [("refs/tags/v1.0", "started")]);
    assert_eq!(results[0]["commit"], tip.to_string(), "it is peeled");
    let zip = fixture.latest("demo/tag/v1.0.zip");
    assert_eq!(files(&zip)["README"], "one");
    assert_eq!(zip.metadata.user["branchline-ref"], "refs/tags/v1.0");
    assert!(!zip.metadata.user.contains_key("branchline-branch"));
    let executions = fixture.executions();
    let [execution] = executions.as_slice() else {
        panic!("one pipeline is for tags: {executions:?}");
    };
    assert_eq!(execution.request.pipeline.as_str(), "release");
    let source = execution.request.source.clone().expect("it is pinned");
    assert_eq!(source.object_key.as_deref(), Some("demo/tag/v1.0.zip"));
    assert_eq!(source.object_version_id.as_deref(), zip.id.as_deref());
    let variables = [
        ("REPOSITORY_NAME", "demo"),
        ("TAG_NAME", "v1.0"),
        ("COMMIT_ID", &tip.to_string()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(execution.request.variables, variables);

    for event in [
        tagged("v1.0", tip),
        json!({"repository": "demo", "tag": "v1.0"}),
    ] {
        let results = fixture.results(event).await;
        assert_eq!(outcomes(&results), [("refs/tags/v1.0", "unchanged")]);
    }
    assert_eq!(started(&fixture), ["release"]);
    fixture.assert_no_upload_is_left();
}

#[tokio::test]
async fn a_moved_tag_is_archived_and_started_again_and_a_deleted_one_is_skipped() {
    let fixture = releases();
    let first = fixture.push("main", "one");
    fixture.codecommit.set_tag(&repository(), "v1", first);
    fixture.results(tagged("v1", first)).await;
    let second = fixture.push("main", "two");
    fixture.codecommit.set_tag(&repository(), "v1", second);
    // Late and doubled events of the first position see the second one.
    for (named, outcome) in [
        (first, "started"),
        (second, "unchanged"),
        (first, "unchanged"),
    ] {
        let results = fixture.results(tagged("v1", named)).await;
        assert_eq!(outcomes(&results), [("refs/tags/v1", outcome)]);
    }
    assert_eq!(files(&fixture.latest("demo/tag/v1.zip"))["README"], "two");
    assert_eq!(started(&fixture), ["release", "release"]);
    fixture.codecommit.delete_tag(&repository(), "v1");
    let results = fixture.results(tagged("v1", second)).await;
    assert_eq!(outcomes(&results), [("refs/tags/v1", "skipped")]);
    assert_eq!(results[0]["reason"], "the tag does not exist any more");
    let failure = fixture
        .failure(json!({"repository": "demo", "tag": "v1"}))
        .await;
    assert_eq!(failure.kind(), ErrorKind::NotFound);
    assert!(failure.message().contains("`v1`"), "{}", failure.message());
}

#[tokio::test]
async fn tags_that_no_filter_matches_cost_no_request() {
    let fixture = releases();
    let tip = fixture.push("main", "one");
    for tag in ["v1-rc1", "other"] {
        fixture.codecommit.set_tag(&repository(), tag, tip);
        let results = fixture.results(tagged(tag, tip)).await;
        assert_eq!(results[0]["outcome"], "skipped");
        assert_eq!(
            results[0]["reason"],
            "no filter of `TRIGGERS` matches the tag"
        );
    }
    assert_eq!(fixture.codecommit.traffic().calls(), [""; 0]);
    let without = UpdateFixture::new(&[]);
    let results = without.results(tagged("v1", tip)).await;
    assert_eq!(results[0]["outcome"], "skipped");
}

/// A branch `tag/v1` and a tag `v1` have one key by default.
#[tokio::test]
async fn a_branch_and_a_tag_never_replace_each_other() {
    let fixture = releases();
    let tip = fixture.push("main", "one");
    fixture.codecommit.set_branch(&repository(), "tag/v1", tip);
    fixture.codecommit.set_tag(&repository(), "v1", tip);
    fixture.results(moved("tag/v1", tip)).await;
    let failure = fixture.failure(tagged("v1", tip)).await;
    assert_eq!(failure.kind(), ErrorKind::Config);
    for part in ["`tag/v1`", "`{ref}`"] {
        assert!(failure.message().contains(part), "{}", failure.message());
    }
    assert_eq!(fixture.versions("demo/tag/v1.zip").len(), 1);

    let mut fixture = releases();
    fixture
        .settings
        .insert("ARTIFACT_KEY", "{repository}/{ref}.zip");
    let tip = fixture.push("main", "one");
    fixture.codecommit.set_branch(&repository(), "tag/v1", tip);
    fixture.codecommit.set_tag(&repository(), "v1", tip);
    fixture.results(moved("tag/v1", tip)).await;
    fixture.results(tagged("v1", tip)).await;
    assert_eq!(fixture.versions("demo/heads/tag/v1.zip").len(), 1);
    assert_eq!(fixture.versions("demo/tags/v1.zip").len(), 1);
}

#[tokio::test]
async fn the_schedule_deletes_no_artifact_of_a_tag() {
    let mut fixture = releases();
    fixture.settings.insert("DELETE_ARTIFACTS", "true");
    let tip = fixture.push("main", "one");
    fixture.codecommit.set_tag(&repository(), "v1", tip);
    fixture.results(tagged("v1", tip)).await;
    fixture.results(json!({"schedule": true})).await;
    assert!(fixture.latest("demo/tag/v1.zip").body.is_some());
}

#[tokio::test]
async fn a_commit_without_a_branch_is_archived_by_hand() {
    let fixture = UpdateFixture::new(&[]);
    let first = fixture.push("main", "one");
    fixture.push("main", "two");
    let request = json!({"repository": "demo", "commit": first.to_string()});
    let results = fixture.results(request.clone()).await;
    let name = format!("commit/{first}");
    assert_eq!(outcomes(&results), [(name.as_str(), "started")]);
    let zip = fixture.latest(&format!("demo/{name}.zip"));
    assert_eq!(files(&zip)["README"], "one");
    let results = fixture.results(request).await;
    assert_eq!(outcomes(&results), [(name.as_str(), "unchanged")]);
    let missing = json!({"repository": "demo", "commit": "ab".repeat(20)});
    let failure = fixture.failure(missing).await;
    assert_eq!(failure.kind(), ErrorKind::NotFound);

    let filtered = releases();
    let tip = filtered.push("main", "one");
    let request = json!({"repository": "demo", "commit": tip.to_string()});
    let results = filtered.results(request).await;
    assert_eq!(results[0]["outcome"], "uploaded");
    assert_eq!(started(&filtered), [""; 0]);
}

#[tokio::test]
async fn again_starts_the_same_artifact_once_more_and_says_so() {
    for filtered in [false, true] {
        let fixture = if filtered {
            releases()
        } else {
            UpdateFixture::new(&[])
        };
        let tip = fixture.push("main", "one");
        fixture.results(moved("main", tip)).await;
        let request = json!({"repository": "demo", "branch": "main", "again": true});
        for count in 2..4 {
            let results = fixture.results(request.clone()).await;
            assert_eq!(outcomes(&results), [("main", "started")]);
            assert_eq!(
                results[0]["reason"],
                "started once more, as `again` asks for"
            );
            let executions = fixture.executions();
            assert_eq!(executions.len(), count);
            assert_eq!(results[0]["execution_id"], executions[count - 1].id);
            assert_eq!(
                executions[count - 1].request.source,
                executions[0].request.source,
                "it is the same artifact"
            );
        }
        let results = fixture.results(moved("main", tip)).await;
        assert_eq!(outcomes(&results), [("main", "unchanged")]);
        assert_eq!(fixture.versions("demo/main.zip").len(), 1);
    }
}

#[tokio::test]
async fn a_crash_at_any_call_of_a_tag_is_repaired_by_the_retry() {
    let calls = {
        let fixture = releases();
        let tip = fixture.push("main", "one");
        fixture.codecommit.set_tag(&repository(), "v1", tip);
        let plan = FaultPlan::new();
        handle(fixture.failing_context(&plan), tagged("v1", tip), soon())
            .await
            .expect("nothing fails");
        plan.calls()
    };
    assert!(calls.contains(&"get_tag"), "{calls:?}");
    for nth in 1..=calls.len() {
        for when in [When::Before, When::After] {
            let fixture = releases();
            let tip = fixture.push("main", "one");
            fixture.codecommit.set_tag(&repository(), "v1", tip);
            let plan = FaultPlan::new();
            plan.fail(nth, ErrorKind::Internal, when);
            let run = handle(fixture.failing_context(&plan), tagged("v1", tip), soon()).await;
            // The check of the pipeline only warns.
            if calls[nth - 1] != "declaration" {
                run.expect_err("the failure is not swallowed");
            }
            fixture
                .send(tagged("v1", tip))
                .await
                .expect("the retry succeeds");
            let what = format!("call {nth} ({}), {when:?}", calls[nth - 1]);
            assert_eq!(fixture.versions("demo/tag/v1.zip").len(), 1, "{what}");
            assert_eq!(started(&fixture), ["release"], "{what}");
            fixture.assert_no_upload_is_left();
        }
    }
}

#[tokio::test]
async fn a_pipeline_of_tags_that_is_missing_is_named() {
    let fixture = releases();
    fixture.pipelines.delete_pipeline(&pipeline("release"));
    let tip = fixture.push("main", "one");
    fixture.codecommit.set_tag(&repository(), "v1", tip);
    let failure = fixture.failure(tagged("v1", tip)).await;
    assert_eq!(failure.kind(), ErrorKind::NotFound);
    for part in ["tag `refs/tags/v1`", "`release`"] {
        assert!(failure.message().contains(part), "{}", failure.message());
    }
    fixture
        .pipelines
        .set_pipeline(&pipeline("release"), PipelineOptions::default());
    fixture.results(tagged("v1", tip)).await;
    assert_eq!(started(&fixture), ["release"]);
}

fn schedule() -> Value {
    json!({"schedule": true})
}

#[tokio::test]
async fn the_schedule_makes_up_for_lost_events_of_tags_and_a_plan_says_so() {
    let fixture = releases();
    let tip = fixture.push("main", "one");
    fixture.results(moved("main", tip)).await;
    fixture.codecommit.set_tag(&repository(), "v1", tip);
    fixture.codecommit.set_tag(&repository(), "v1-rc1", tip);
    fixture.codecommit.set_tag(&repository(), "other", tip);
    for (round, outcome) in ["started", "unchanged", "started"].into_iter().enumerate() {
        if round == 2 {
            let tip = fixture.push("main", "two");
            fixture.results(moved("main", tip)).await;
            fixture.codecommit.set_tag(&repository(), "v1", tip);
        }
        let (writes, calls) = (
            fixture.store.journal(),
            fixture.codecommit.traffic().calls().len(),
        );
        let planned = fixture
            .results(json!({"schedule": true, "plan": true}))
            .await;
        assert_eq!(fixture.store.journal(), writes, "a plan writes nothing");
        let done = fixture.results(schedule()).await;
        for results in [planned, done] {
            let mut outcomes = outcomes(&results);
            outcomes.sort_unstable();
            let expected = [("main", "unchanged"), ("refs/tags/v1", outcome)];
            assert_eq!(outcomes, expected, "round {round}");
        }
        if outcome == "unchanged" {
            let made = fixture.codecommit.traffic().calls().split_off(calls);
            let about_tags = made.into_iter().filter(|call| call.contains("tag"));
            let about_tags: Vec<&str> = about_tags.collect();
            assert_eq!(
                about_tags, ["list_tags"; 2],
                "nothing is read of a current tag"
            );
        }
    }
    assert_eq!(started(&fixture), ["test", "release", "test", "release"]);
    fixture.assert_no_upload_is_left();
}

/// A commit of a branch, at a time in seconds since the epoch.
fn push_at(fixture: &UpdateFixture, content: &str, seconds: u64) -> CommitId {
    let mut text = CommitText::new(content);
    text.committer.date = format!("{seconds} +0000");
    let files = [("README", Entry::file(content))];
    fixture
        .codecommit
        .commit_as(&repository(), "main", &files, &text)
}

#[tokio::test]
async fn tags_that_are_older_than_the_first_archived_one_are_left_as_they_are() {
    let mut fixture = releases();
    fixture.settings.insert("EXISTING_BRANCHES", "archive");
    for number in 0..150 {
        let old = push_at(&fixture, &number.to_string(), 1_000_000_000 + number);
        let tag = format!("v0.{number}");
        fixture.codecommit.set_tag(&repository(), &tag, old);
    }
    let of_tags = |results: Vec<Value>| -> Vec<(String, String)> {
        let pairs = outcomes(&results);
        let pairs = pairs.into_iter().filter(|(name, _)| *name != "main");
        pairs
            .map(|(name, outcome)| (name.into(), outcome.into()))
            .collect()
    };
    let calls = fixture.codecommit.traffic().calls().len();
    assert_eq!(of_tags(fixture.results(schedule()).await), []);
    let made = fixture.codecommit.traffic().calls().split_off(calls);
    assert!(!made.contains(&"get_commits"), "{made:?}");

    // The event of the first tag arrives, and those of later ones are lost.
    let year_3000 = 32_503_680_000;
    let new = push_at(&fixture, "new", year_3000);
    fixture.codecommit.set_tag(&repository(), "v1", new);
    fixture.results(tagged("v1", new)).await;
    for tag in ["v2", "v3"] {
        let new = push_at(&fixture, tag, year_3000 + 1);
        fixture.codecommit.set_tag(&repository(), tag, new);
    }
    let calls = fixture.codecommit.traffic().calls().len();
    let results = of_tags(fixture.results(schedule()).await);
    let expected = [
        ("refs/tags/v2", "started"),
        ("refs/tags/v3", "started"),
        ("refs/tags/v1", "unchanged"),
    ];
    let expected = expected.map(|(name, outcome)| (name.to_owned(), outcome.to_owned()));
    assert_eq!(results, expected);
    let made = fixture.codecommit.traffic().calls().split_off(calls);
    let batches = made.iter().filter(|call| **call == "get_commits").count();
    assert_eq!(
        batches, 2,
        "152 tags have no artifact, and a request reads 100"
    );
    let mut started = started(&fixture);
    started.retain(|pipeline| pipeline == "release");
    assert_eq!(started, ["release"; 3]);

    // A tag that is moved to a new commit is new.
    fixture.codecommit.set_tag(&repository(), "v0.1", new);
    let results = of_tags(fixture.results(schedule()).await);
    assert_eq!(results[0], ("refs/tags/v0.1".into(), "started".into()));
}

#[tokio::test]
async fn the_schedule_leaves_a_tag_alone_whose_key_a_branch_has() {
    let fixture = releases();
    let tip = fixture.push("main", "one");
    fixture.codecommit.set_branch(&repository(), "tag/v1", tip);
    fixture.codecommit.set_tag(&repository(), "v1", tip);
    for _ in 0..2 {
        let results = fixture.results(schedule()).await;
        let tag = results
            .iter()
            .find(|result| result["branch"] == "refs/tags/v1")
            .expect("there is a result");
        assert_eq!(tag["outcome"], "skipped", "{tag}");
        assert_eq!(
            tag["reason"],
            "`demo/tag/v1.zip` is shared, and holds something else now"
        );
    }
    assert_eq!(fixture.versions("demo/tag/v1.zip").len(), 1);
}
