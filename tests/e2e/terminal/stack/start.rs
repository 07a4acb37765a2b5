//! `branchline start`.

use anyhow::Result;
use branchline_tests::environment::Setup;
use serde_json::json;

use super::Console;

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_a_tag_and_a_commit_are_started_once_and_again_on_request() -> Result<()> {
    let console = Console::start(Setup::default()).await?;
    console.lose_events()?;
    let first = console.commit("1")?;
    console.push(&["main", "main:refs/tags/v1"]).await?;
    console.commit("2")?;
    console.push(&["main"]).await?;
    console.stage.server.faults().clear();

    // The default branch, and then the same once more.
    let shown = console.run(&["start", "demo"]).await?.done();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(
        lines[0].starts_with("main at ") && lines[0].ends_with(": started"),
        "{shown}"
    );
    assert_eq!(lines[1], "  archive    s3://artifacts/demo/main.zip");
    assert!(lines[2].starts_with("  execution  "), "{shown}");
    let shown = console.run(&["start", "demo", "main"]).await?.done();
    assert!(shown.contains(": unchanged\n"), "{shown}");
    let shown = console
        .run(&["start", "demo", "main", "--again"])
        .await?
        .done();
    assert!(
        shown.contains(": started, started once more, as `again` asks for\n"),
        "{shown}"
    );

    // A short name that is no branch's is a tag's.
    let (status, answer) = console.json(&["start", "demo", "v1"]).await?;
    assert_eq!(status, Some(0), "{answer}");
    let result = &answer["results"][0];
    assert_eq!(result["branch"], "refs/tags/v1");
    assert_eq!(result["outcome"], "started");
    assert_eq!(result["commit"], first.trim());
    assert_eq!(result["artifact"]["key"], "demo/tag/v1.zip");
    let shown = console
        .run(&["start", "demo", "refs/tags/v1"])
        .await?
        .done();
    assert!(shown.starts_with("refs/tags/v1 at "), "{shown}");
    let (_, answer) = console.json(&["start", "demo", first.trim()]).await?;
    assert_eq!(
        answer["results"][0]["branch"],
        format!("commit/{}", first.trim())
    );
    console.stage.wait_until_idle().await?;
    assert_eq!(console.stage.executions().len(), 4);

    let error = console.run(&["start", "demo", "nothing"]).await?.failed(1);
    assert!(
        error.contains("`nothing` is neither a branch nor a tag of `demo`"),
        "{error}"
    );
    let error = console.run(&["start", "absent"]).await?.failed(1);
    assert!(error.contains("absent"), "{error}");
    for wrong in ["refs/notes/x", "a..b"] {
        let error = console.run(&["start", "demo", wrong]).await?.failed(1);
        assert!(error.contains(wrong), "{error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_filter_starts_is_status_3_and_a_missing_stack_has_a_remedy() -> Result<()> {
    let triggers = json!([{"pipeline": "deploy", "gitConfiguration": {
        "sourceActionName": "Source", "push": [{"branches": {"includes": ["main"]}}]}}]);
    let console = Console::start(Setup {
        update: vec![
            ("PIPELINE_NAME", String::new()),
            ("TRIGGERS", triggers.to_string()),
        ],
        ..Setup::default()
    })
    .await?;
    console.lose_events()?;
    console.commit("1")?;
    console.push(&["main:other"]).await?;
    console.stage.server.faults().clear();
    let (status, answer) = console.json(&["start", "demo", "other"]).await?;
    assert_eq!(status, Some(3), "{answer}");
    assert_eq!(answer["results"][0]["outcome"], "skipped");
    let error = console
        .run(&["start", "demo", "--stack", "no-such"])
        .await?
        .failed(1);
    assert!(error.contains("hint: "), "{error}");
    Ok(())
}
