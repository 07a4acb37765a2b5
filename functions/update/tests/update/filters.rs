//! `TRIGGERS`: pipelines that are chosen by branches and by changed paths.

use branchline_core::ErrorKind;
use branchline_core::name::CommitId;
use branchline_core::testkit::{CommitText, Entry, PipelineOptions};
use serde_json::{Value, json};

use crate::fixture::*;

/// A repository with two services and common code.
pub(crate) const MONOREPO: &str = r#"[
  {"pipeline": "web", "gitConfiguration": {"sourceActionName": "Source", "push": [
    {"branches": {"includes": ["main", "feature/**"]},
     "filePaths": {"includes": ["web/**", "common/**"], "excludes": ["**/*.md"]}}]}},
  {"pipeline": "api", "gitConfiguration": {"sourceActionName": "Code", "push": [
    {"branches": {"includes": ["main", "feature/**"]},
     "filePaths": {"includes": ["api/**", "common/**"]}}]}}]"#;

/// Makes services in memory with these triggers and their pipelines.
pub(crate) fn fixture(triggers: &'static str, pipelines: &[(&str, &str)]) -> UpdateFixture {
    let mut fixture = UpdateFixture::new(&[("TRIGGERS", triggers)]);
    fixture.settings.remove("PIPELINE_NAME");
    for (name, action) in pipelines {
        let options = PipelineOptions {
            source_action: (*action).to_owned(),
            ..PipelineOptions::default()
        };
        fixture.pipelines.set_pipeline(&pipeline(name), options);
    }
    fixture
}

pub(crate) fn monorepo() -> UpdateFixture {
    fixture(MONOREPO, &[("web", "Source"), ("api", "Code")])
}

/// Pushes a commit that writes these files.
pub(crate) fn change(fixture: &UpdateFixture, branch: &str, paths: &[&str]) -> CommitId {
    let content = fixture.codecommit.traffic().calls().len() + fixture.executions().len();
    let files: Vec<(&str, Entry)> = paths
        .iter()
        .map(|path| (*path, Entry::file(format!("{path} {content}"))))
        .collect();
    fixture.codecommit.commit(&repository(), branch, &files)
}

/// Names of the pipelines of all executions, in order.
pub(crate) fn started(fixture: &UpdateFixture) -> Vec<String> {
    let executions = fixture.executions().into_iter();
    executions
        .map(|execution| execution.request.pipeline.to_string())
        .collect()
}

/// Pushes to `main`, and returns the result of its event with the pipelines that it started.
async fn push(fixture: &UpdateFixture, paths: &[&str]) -> (Value, Vec<String>) {
    let before = started(fixture).len();
    let tip = change(fixture, "main", paths);
    let mut results = fixture.results(moved("main", tip)).await;
    (results.remove(0), started(fixture).split_off(before))
}

#[tokio::test]
async fn a_push_starts_the_pipelines_whose_paths_it_changes_and_no_others() {
    let fixture = monorepo();
    let (first, pipelines) = push(&fixture, &["web/a", "api/a", "README.md"]).await;
    assert_eq!(first["outcome"], "started");
    assert_eq!(pipelines, ["web", "api"], "everything is new");
    let executions = fixture.executions();
    assert_eq!(
        first["executions"],
        json!([
            {"pipeline": "web", "execution_id": executions[0].id},
            {"pipeline": "api", "execution_id": executions[1].id},
        ])
    );
    let actions: Vec<_> = executions
        .iter()
        .map(|execution| {
            let source = execution.request.source.clone().expect("it is pinned");
            (source.action_name, source.object_version_id)
        })
        .collect();
    let version = fixture.latest("demo/main.zip").id;
    let version = version.as_deref().map(str::to_owned);
    assert_eq!(
        actions,
        [
            ("Source".to_owned(), version.clone()),
            ("Code".to_owned(), version)
        ],
        "each pipeline is pinned to the one artifact by its own action"
    );

    assert_eq!(push(&fixture, &["web/b"]).await.1, ["web"]);
    assert_eq!(push(&fixture, &["api/b", "api/x.md"]).await.1, ["api"]);
    assert_eq!(push(&fixture, &["common/lib"]).await.1, ["web", "api"]);
    assert_eq!(
        push(&fixture, &["common/x.md"]).await.1,
        ["api"],
        "an exclude of one pipeline does not hold for another"
    );
    let removed = [("web/a", Entry::Removed)];
    let tip = fixture.codecommit.commit(&repository(), "main", &removed);
    let results = fixture.results(moved("main", tip)).await;
    assert_eq!(results[0]["executions"][0]["pipeline"], "web");
    fixture.assert_no_upload_is_left();
}

#[tokio::test]
async fn a_push_that_matches_nothing_is_skipped_with_the_reason_and_reads_no_file() {
    let fixture = monorepo();
    let (first, _) = push(&fixture, &["web/a", "api/a"]).await;
    let calls = fixture.codecommit.traffic().calls().len();
    let store_calls = fixture.store.traffic().calls().len();
    let (result, pipelines) = push(&fixture, &["docs/x", "web/x.md"]).await;
    assert_eq!(result["outcome"], "skipped");
    let first_commit = first["commit"].as_str().expect("it is text");
    assert_eq!(
        result["reason"],
        format!("no file that changed since {first_commit} matches `filePaths` of `TRIGGERS`")
    );
    assert_eq!(pipelines, [""; 0]);
    assert_eq!(
        fixture.versions("demo/main.zip").len(),
        1,
        "nothing is written"
    );
    let made = fixture.codecommit.traffic().calls().split_off(calls);
    assert_eq!(made, ["get_branch", "get_commit", "get_differences"]);
    let stored = fixture.store.traffic().calls().split_off(store_calls);
    let tags = stored.iter().filter(|call| call.contains("tags")).count();
    assert_eq!(tags, 2, "three requests are made for the paths: {stored:?}");

    for _ in 0..2 {
        let results = fixture.results(json!({"schedule": true})).await;
        assert_eq!(outcomes(&results), [("main", "skipped")], "{results:?}");
    }
    let tip = change(&fixture, "main", &["docs/y"]);
    fixture.results(moved("main", tip)).await;
    assert_eq!(
        started(&fixture),
        ["web", "api"],
        "neither event nor schedule starts it"
    );
    assert_eq!(push(&fixture, &["web/c"]).await.1, ["web"]);
}

#[tokio::test]
async fn a_branch_that_no_filter_matches_costs_no_request() {
    let fixture = monorepo();
    let tip = change(&fixture, "main", &["web/a"]);
    fixture.codecommit.set_branch(&repository(), "wip", tip);
    let results = fixture.results(moved("wip", tip)).await;
    assert_eq!(outcomes(&results), [("wip", "skipped")]);
    assert_eq!(
        results[0]["reason"],
        "no filter of `TRIGGERS` matches the branch"
    );
    assert_eq!(fixture.codecommit.traffic().calls(), [""; 0]);
    let results = fixture.results(json!({"schedule": true})).await;
    assert_eq!(outcomes(&results), [("main", "started")], "{results:?}");
}

/// The first push of a branch is compared with the commit at which it left the default branch.
#[tokio::test]
async fn a_new_branch_starts_the_pipelines_of_its_own_changes() {
    let fixture = monorepo();
    push(&fixture, &["web/a", "api/a"]).await;
    let base = change(&fixture, "main", &["web/b"]);
    fixture
        .codecommit
        .set_branch(&repository(), "feature/x", base);
    let results = fixture.results(moved("feature/x", base)).await;
    assert_eq!(
        outcomes(&results),
        [("feature/x", "skipped")],
        "nothing is changed yet"
    );
    // The default branch moves on meanwhile.
    push(&fixture, &["web/c"]).await;
    let before = started(&fixture).len();
    let tip = change(&fixture, "feature/x", &["api/x"]);
    let calls = fixture.codecommit.traffic().calls().len();
    let results = fixture.results(moved("feature/x", tip)).await;
    assert_eq!(outcomes(&results), [("feature/x", "started")]);
    assert_eq!(started(&fixture).split_off(before), ["api"]);
    let made = fixture.codecommit.traffic().calls().split_off(calls);
    assert_eq!(
        made[..5],
        [
            "get_branch",
            "get_commit",
            "get_repository",
            "get_merge_base",
            "get_differences"
        ],
        "three requests are made for the paths"
    );
    let before = started(&fixture).len();
    let tip = change(&fixture, "feature/x", &["web/y"]);
    fixture.results(moved("feature/x", tip)).await;
    assert_eq!(started(&fixture).split_off(before), ["web"]);
}

#[tokio::test]
async fn a_merge_starts_the_pipelines_of_all_that_it_brings() {
    let fixture = monorepo();
    push(&fixture, &["web/a", "api/a"]).await;
    let base = change(&fixture, "main", &["docs/a"]);
    fixture.results(moved("main", base)).await;
    fixture.codecommit.set_branch(&repository(), "side", base);
    change(&fixture, "side", &["api/b"]);
    let side = change(&fixture, "side", &["docs/b"]);
    let before = started(&fixture).len();
    let merge = fixture.codecommit.commit_on(
        &repository(),
        "main",
        &[side, base],
        &[],
        &CommitText::new("Merge\n"),
    );
    fixture.results(moved("main", merge)).await;
    assert_eq!(started(&fixture).split_off(before), ["api"]);
}

#[tokio::test]
async fn a_forced_push_is_compared_with_what_was_started() {
    let fixture = monorepo();
    let (first, _) = push(&fixture, &["web/a", "api/a"]).await;
    push(&fixture, &["web/b"]).await;
    let before = started(&fixture).len();
    let first = CommitId::new(first["commit"].as_str().expect("it is text")).expect("it is an id");
    let tip = fixture.codecommit.commit_on(
        &repository(),
        "main",
        &[first],
        &[("docs/x", Entry::file("x"))],
        &CommitText::new("Rewrite\n"),
    );
    fixture.results(moved("main", tip)).await;
    assert_eq!(
        started(&fixture).split_off(before),
        ["web"],
        "`web/b` is gone"
    );
}

/// A change of more files than three requests read starts every pipeline that may be meant.
#[tokio::test]
async fn a_change_of_more_pages_than_are_read_starts_its_pipelines() {
    let fixture = monorepo();
    push(&fixture, &["web/a", "api/a"]).await;
    let paths: Vec<String> = (0..9).map(|n| format!("docs/{n}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    assert_eq!(push(&fixture, &paths).await.1, ["web", "api"]);
}

#[tokio::test]
async fn a_request_by_hand_starts_every_pipeline_of_the_branch_once() {
    let fixture = monorepo();
    push(&fixture, &["web/a", "api/a"]).await;
    let tip = change(&fixture, "main", &["web/b"]);
    let request = json!({"repository": "demo", "branch": "main", "commit": tip.to_string()});
    let results = fixture.results(request.clone()).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    assert_eq!(started(&fixture)[2..], ["web", "api"]);
    let results = fixture.results(request).await;
    assert_eq!(outcomes(&results), [("main", "unchanged")]);
    assert_eq!(started(&fixture).len(), 4, "nothing is started twice");
    let tip = change(&fixture, "main", &["api/b"]);
    fixture.results(moved("main", tip)).await;
    let request = json!({"repository": "demo", "branch": "main"});
    let results = fixture.results(request).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    assert_eq!(
        started(&fixture)[4..],
        ["api", "web"],
        "the artifact of the tip is started where it was not yet"
    );
}

/// One filter without paths, for a pipeline of each branch.
const BRANCHES: &str = r#"[{"pipeline": "deploy-{branch}", "repositories": ["demo", "team-*"],
  "gitConfiguration": {"sourceActionName": "Source", "push": [
    {"branches": {"includes": ["main", "dev"]}}, {"branches": {"includes": ["release/*"]}}]}}]"#;

#[tokio::test]
async fn filters_of_branches_alone_start_each_push_and_compare_nothing() {
    let fixture = fixture(
        BRANCHES,
        &[("deploy-main", "Source"), ("deploy-dev", "Source")],
    );
    for (branch, content) in [("main", "a"), ("dev", "b"), ("main", "c")] {
        let tip = fixture.push(branch, content);
        let results = fixture.results(moved(branch, tip)).await;
        assert_eq!(outcomes(&results), [(branch, "started")]);
        let results = fixture.results(moved(branch, tip)).await;
        assert_eq!(outcomes(&results), [(branch, "unchanged")]);
        assert!(results[0]["execution_id"].is_string());
    }
    assert_eq!(
        started(&fixture),
        ["deploy-main", "deploy-dev", "deploy-main"]
    );
    let results = fixture.results(json!({"schedule": true})).await;
    assert_eq!(
        outcomes(&results),
        [("dev", "unchanged"), ("main", "unchanged")]
    );
}

#[tokio::test]
async fn a_plan_of_filters_writes_nothing_and_says_what_follows() {
    let fixture = monorepo();
    push(&fixture, &["web/a", "api/a"]).await;
    for (paths, outcome) in [(["docs/a"], "skipped"), (["web/b"], "started")] {
        change(&fixture, "main", &paths);
        let journal = fixture.store.journal();
        let plan = fixture
            .results(json!({"schedule": true, "plan": true}))
            .await;
        assert_eq!(outcomes(&plan), [("main", outcome)]);
        assert_eq!(fixture.store.journal(), journal, "a plan writes nothing");
        let done = fixture.results(json!({"schedule": true})).await;
        assert_eq!(outcomes(&done), [("main", outcome)]);
    }
}

#[tokio::test]
async fn an_older_branch_is_archived_and_its_next_push_compared() {
    let mut fixture = monorepo();
    fixture.settings.insert("EXISTING_BRANCHES", "archive");
    change(&fixture, "main", &["web/a", "api/a"]);
    let results = fixture.results(json!({"schedule": true})).await;
    assert_eq!(outcomes(&results), [("main", "uploaded")]);
    let results = fixture.results(json!({"schedule": true})).await;
    assert_eq!(outcomes(&results), [("main", "unchanged")]);
    assert_eq!(started(&fixture), [""; 0]);
    assert_eq!(push(&fixture, &["docs/a"]).await.1, [""; 0]);
    assert_eq!(push(&fixture, &["api/b"]).await.1, ["api"]);
}

#[tokio::test]
async fn a_late_event_of_an_older_branch_starts_its_pipelines() {
    let mut fixture = monorepo();
    fixture.settings.insert("EXISTING_BRANCHES", "archive");
    let tip = change(&fixture, "main", &["web/a", "api/a"]);
    fixture.results(json!({"schedule": true})).await;
    let results = fixture.results(moved("main", tip)).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    assert_eq!(started(&fixture), ["web", "api"]);
    assert_eq!(
        fixture.latest("demo/main.zip").tags["branchline-started"],
        "web"
    );
}

#[test]
fn contradictory_settings_are_refused() {
    for (settings, expected) in [
        (
            [("PIPELINE_NAME", "deploy"), ("ARTIFACT_KEY", "x.zip")],
            "`TRIGGERS` and `PIPELINE_NAME` are both set",
        ),
        (
            [
                ("PIPELINE_NAME", ""),
                ("ARTIFACT_KEY", "{repository}/{commit}.zip"),
            ],
            "`TRIGGERS` has `filePaths`, but `ARTIFACT_KEY` has `{commit}`",
        ),
        (
            [("PIPELINE_NAME", ""), ("TRIGGERS", "[{}]")],
            "`TRIGGERS` is not valid: `[0]`: missing field",
        ),
    ] {
        let mut fixture = monorepo();
        fixture.settings.extend(settings);
        let error = fixture.config().expect_err(expected);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(expected), "{error}");
    }
}
