//! The worked examples of `docs/triggers.md`, as they are written there.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, anyhow};
use branchline_core::filter::parse_triggers;
use branchline_dev::delivery::EventRule;
use branchline_dev::s3::store::Query;
use branchline_test_support::git;
use branchline_tests::environment::{BUCKET, LIFECYCLE, Setup, TestEnvironment, UPDATE, pipeline};
use serde_json::{Value, json};

const DOCUMENT: &str = include_str!("../../docs/triggers.md");

/// The JSON block below a heading.
fn example(heading: &str) -> Result<String> {
    let (_, below) = DOCUMENT.split_once(heading).context("the heading")?;
    let (_, block) = below.split_once("```json\n").context("a block")?;
    let (block, _) = block.split_once("```").context("its end")?;
    Ok(block.to_owned())
}

/// A stage whose functions have these triggers, with a repository and the pipelines.
async fn stage(triggers: &str, repository: &str) -> Result<(TestEnvironment, tempfile::TempDir)> {
    let pipelines = parse_triggers(triggers)?;
    let stage = TestEnvironment::start(Setup {
        update: vec![
            ("TRIGGERS", triggers.to_owned()),
            ("PIPELINE_NAME", String::new()),
        ],
        lifecycle: vec![("TRIGGERS", triggers.to_owned())],
        event_rules: [Setup::default().event_rules, vec![pull_requests()]].concat(),
        ..Setup::default()
    })
    .await?;
    let names: BTreeSet<&str> = pipelines
        .iter()
        .map(|trigger| trigger.pipeline.as_str())
        .collect();
    for name in names {
        stage.pipelines("CreatePipeline", &pipeline(name, "key/of/no/object.zip"))?;
    }
    stage.create_repository(repository).await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    Ok((stage, work))
}

/// The rule that brings pull requests to update.
fn pull_requests() -> EventRule {
    let events = [
        "pullRequestCreated",
        "pullRequestSourceBranchUpdated",
        "pullRequestStatusChanged",
        "pullRequestMergeStatusUpdated",
    ];
    EventRule {
        function: UPDATE.to_owned(),
        events: events.map(str::to_owned).into(),
    }
}

/// Pipelines of the executions since the first `seen`, sorted, and the keys that they read.
fn started(stage: &TestEnvironment, seen: usize) -> Vec<(String, String)> {
    let executions = stage.executions().split_off(seen);
    let mut started: Vec<_> = executions
        .into_iter()
        .map(|execution| {
            let key = execution.sources.first().map(|source| source.key.clone());
            (execution.pipeline.clone(), key.unwrap_or_default())
        })
        .collect();
    started.sort();
    started
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monorepo_starts_the_pipelines_of_the_services_that_a_push_changes() -> Result<()> {
    let (stage, work) = stage(&example("## A monorepo")?, "shop").await?;
    let files = [
        ("web/index.html", "1"),
        ("api/main.py", "1"),
        ("README.md", "1"),
    ];
    git::commit(work.path(), &files, "First")?;
    stage.push(work.path(), "shop", &["main"]).await?;
    stage.wait_until_idle().await?;
    let of = |names: &[&str]| -> Vec<(String, String)> {
        let key = "shop/main.zip".to_owned();
        names
            .iter()
            .map(|name| ((*name).to_owned(), key.clone()))
            .collect()
    };
    assert_eq!(started(&stage, 0), of(&["api", "web"]), "everything is new");
    let mut seen = 2;
    for (path, names) in [
        ("web/index.html", &["web"][..]),
        ("common/log.py", &["api", "web"]),
        ("README.md", &[]),
        ("api/main.py", &["api"]),
    ] {
        git::commit(work.path(), &[(path, "2")], path)?;
        stage.push(work.path(), "shop", &["main"]).await?;
        stage.wait_until_idle().await?;
        assert_eq!(started(&stage, seen), of(names), "{path}");
        seen += names.len();
    }
    for execution in stage.executions() {
        assert!(
            !stage.source_of(&execution)?.is_empty(),
            "each has read its zip"
        );
    }
    git::commit(work.path(), &[("docs/x", "1")], "Nothing to build")?;
    stage.push(work.path(), "shop", &["main"]).await?;
    stage.wait_until_idle().await?;
    let request = json!({"schedule": true});
    let answer = stage.update(&request).await;
    let answer = answer.map_err(|error| anyhow!("{error}"))?;
    assert_eq!(answer["counts"], json!({"skipped": 1}));
    assert_eq!(stage.executions().len(), seen);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_released_once_from_its_own_key() -> Result<()> {
    let (stage, work) = stage(&example("## Releases by tag")?, "demo").await?;
    git::commit(work.path(), &[("a", "1")], "First")?;
    git::git(work.path(), ["tag", "-a", "-m", "One", "v1.2.0"])?;
    git::git(work.path(), ["tag", "v1.3.0-rc1"])?;
    // The first push of a repository comes before its trigger, which lifecycle then creates.
    stage.push(work.path(), "demo", &["main"]).await?;
    stage.wait_until_idle().await?;
    let triggers = stage.triggers("demo");
    assert_eq!(
        triggers.len(),
        1,
        "one trigger is for all refs: {triggers:?}"
    );
    assert_eq!(triggers[0].branches, Vec::<String>::new());
    let tags = ["v1.2.0", "v1.3.0-rc1"];
    stage.push(work.path(), "demo", &tags).await?;
    stage.wait_until_idle().await?;
    let release = ("release".to_owned(), "demo/tag/v1.2.0.zip".to_owned());
    let test = ("test".to_owned(), "demo/main.zip".to_owned());
    assert_eq!(started(&stage, 0), [release.clone(), test.clone()]);

    let by_hand = json!({"repository": "demo", "tag": "refs/tags/v1.2.0"});
    let answer = stage.update(&by_hand).await;
    let answer: Value = answer.map_err(|error| anyhow!("{error}"))?;
    assert_eq!(answer["results"][0]["outcome"], "unchanged");
    let head = git::git(work.path(), ["rev-parse", "main"])?;
    assert_eq!(
        answer["results"][0]["commit"],
        head.trim(),
        "an annotated tag is peeled"
    );
    let again = json!({"repository": "demo", "tag": "v1.2.0", "again": true});
    let answer = stage.update(&again).await;
    let answer: Value = answer.map_err(|error| anyhow!("{error}"))?;
    assert_eq!(answer["results"][0]["outcome"], "started");
    stage.wait_until_idle().await?;
    assert_eq!(
        started(&stage, 0),
        [release.clone(), release, test],
        "the same object is released once more"
    );
    let answer = stage.call(LIFECYCLE, &json!({"schedule": true})).await;
    let answer = answer.map_err(|error| anyhow!("{error}"))?;
    assert_eq!(answer["counts"]["changed"], 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_is_checked_and_cleaned_up_after_at_its_end() -> Result<()> {
    let (stage, work) = stage(&example("## Pull requests")?, "demo").await?;
    git::commit(work.path(), &[("src/a", "1"), ("docs/a", "1")], "First")?;
    let first = ["main", "main:refs/heads/docs"];
    stage.push(work.path(), "demo", &first).await?;
    git::git(work.path(), ["switch", "-q", "-c", "feature"])?;
    git::commit(work.path(), &[("src/b", "1")], "A feature")?;
    stage.push(work.path(), "demo", &["feature"]).await?;
    stage.wait_until_idle().await?;
    assert_eq!(started(&stage, 0), [], "pushes alone start nothing");

    let target = json!({
        "repositoryName": "demo",
        "sourceReference": "feature",
        "destinationReference": "main",
    });
    let request = json!({"title": "A feature", "targets": [target]});
    let created = stage.codecommit("CreatePullRequest", request).await?;
    let id = created["pullRequest"]["pullRequestId"].clone();
    let id = id.as_str().context("an id")?;
    stage.wait_until_idle().await?;
    let key = format!("demo/pull/{id}.zip");
    let of = |name: &str| (name.to_owned(), key.clone());
    assert_eq!(started(&stage, 0), [of("check")]);
    git::commit(work.path(), &[("docs/b", "1")], "Its description")?;
    stage.push(work.path(), "demo", &["feature"]).await?;
    stage.wait_until_idle().await?;
    assert_eq!(started(&stage, 1), [of("check")], "all of it is checked");

    let merge = json!({"pullRequestId": id, "repositoryName": "demo"});
    let merged = stage.codecommit("MergePullRequestByFastForward", merge);
    merged.await?;
    stage.wait_until_idle().await?;
    assert_eq!(started(&stage, 2), [of("clean-up")]);
    let last = stage.executions().pop().context("an execution")?;
    assert!(
        !stage.source_of(&last)?.is_empty(),
        "its version is still there"
    );
    let bucket = stage.server.store().bucket(BUCKET);
    let bucket = bucket.map_err(|error| anyhow!("{error}"))?;
    let query = Query {
        limit: 1000,
        ..Query::default()
    };
    let live = bucket.list(&query).versions;
    assert!(live.iter().all(|object| object.key != key), "it is deleted");
    Ok(())
}
