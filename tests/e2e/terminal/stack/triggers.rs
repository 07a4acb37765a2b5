//! `branchline triggers`.

use anyhow::Result;
use branchline_tests::environment::Setup;
use serde_json::json;

use super::Console;

#[tokio::test(flavor = "multi_thread")]
async fn triggers_are_shown_and_applied_and_foreign_ones_are_untouched() -> Result<()> {
    let console = Console::start(Setup::default()).await?;
    console.lose_events()?;
    let foreign = json!({
        "name": "theirs",
        "destinationArn": "arn:aws:sns:us-east-1:123456789012:topic",
        "branches": ["main"],
        "events": ["all"],
    });
    let put = json!({ "repositoryName": "demo", "triggers": [foreign] });
    console
        .stage
        .codecommit("PutRepositoryTriggers", put)
        .await?;
    let before = console.stage.triggers("demo");
    console.commit("1")?;
    console.push(&["main", "main:feature/x"]).await?;

    let shown = console.run(&["triggers", "demo"]).await?.done();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(
        lines[0],
        "triggers that call arn:aws:lambda:us-east-1:123456789012:function:update: one for each \
         branch"
    );
    assert_eq!(lines[1], ". theirs  (main)");
    assert!(lines[2].starts_with("+ branchline-") && lines[2].ends_with("  (feature/x)"));
    assert!(lines[3].starts_with("+ branchline-") && lines[3].ends_with("  (main)"));
    assert_eq!(lines[4], "2 to write; `--apply` writes them");
    assert_eq!(
        console.stage.triggers("demo"),
        before,
        "a plan writes nothing"
    );

    console.stage.server.faults().clear();
    let shown = console.run(&["triggers", "demo", "--apply"]).await?.done();
    assert!(
        shown.ends_with("2 written; update is invoked for feature/x, main\n"),
        "{shown}"
    );
    console.stage.wait_until_idle().await?;
    let after = console.stage.triggers("demo");
    assert_eq!(after.len(), 3);
    assert!(
        after.contains(&before[0]),
        "the foreign trigger is as it was"
    );
    assert_eq!(
        console.stage.executions().len(),
        2,
        "both branches are started"
    );

    let shown = console.run(&["triggers", "demo", "--apply"]).await?.done();
    assert!(shown.ends_with("\nnothing to write\n"), "{shown}");
    let (status, report) = console.json(&["triggers", "demo"]).await?;
    assert_eq!(status, Some(0));
    assert_eq!(report["plan"]["kept"].as_array().map(Vec::len), Some(2));
    assert_eq!(report["plan"]["foreign"][0]["name"], "theirs");
    assert_eq!(report["applied"], json!(null));
    let error = console.run(&["triggers", "no-such"]).await?.failed(1);
    assert!(error.contains("no-such"), "{error}");
    Ok(())
}
