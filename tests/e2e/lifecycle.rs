//! The lifecycle function's real bootstrap on the development server: triggers follow the
//! branches, by events and by schedule.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use branchline_core::codecommit::Trigger;
use branchline_test_support::git;
use branchline_tests::environment::{LIFECYCLE, Setup, TestEnvironment, UPDATE};
use serde_json::json;

async fn stage(setup: Setup) -> Result<(TestEnvironment, tempfile::TempDir)> {
    let stage = TestEnvironment::start(setup).await?;
    stage.create_repository("demo").await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    git::commit(work.path(), &[("a", "1")], "First")?;
    Ok((stage, work))
}

async fn push(stage: &TestEnvironment, work: &Path, refspecs: &[&str]) -> Result<()> {
    stage.push(work, "demo", refspecs).await?;
    stage.wait_until_idle().await
}

fn watched(triggers: &[Trigger]) -> BTreeSet<String> {
    triggers
        .iter()
        .flat_map(|trigger| trigger.branches.clone())
        .collect()
}

/// "A branch gets its trigger, its first push is archived, and its deletion removes the trigger."
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_gets_its_trigger_its_first_push_is_archived_and_its_end_takes_it_away()
-> Result<()> {
    let (stage, work) = stage(Setup::default()).await?;
    let work = work.path();
    push(&stage, work, &["main"]).await?;
    push(&stage, work, &["main:feature/x"]).await?;
    let triggers = stage.triggers("demo");
    assert_eq!(
        watched(&triggers),
        ["feature/x", "main"].map(str::to_owned).into()
    );
    assert_eq!(triggers.len(), 2, "one for each branch");
    let update = stage.server.account().function_arn(UPDATE);
    assert!(
        triggers
            .iter()
            .all(|trigger| trigger.destination_arn == update)
    );
    assert_eq!(
        stage.executions().len(),
        2,
        "each first push is archived once"
    );

    git::commit(work, &[("a", "2")], "Second")?;
    push(&stage, work, &["main:feature/x"]).await?;
    assert_eq!(
        stage.executions().len(),
        3,
        "the second goes through the trigger"
    );

    push(&stage, work, &[":feature/x"]).await?;
    assert_eq!(watched(&stage.triggers("demo")), ["main".to_owned()].into());
    assert!(
        stage.server.queue().dead_letters().is_empty(),
        "no event failed"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn more_branches_than_triggers_are_packed_and_then_watched_as_one() -> Result<()> {
    let (stage, work) = stage(Setup::default()).await?;
    let work = work.path();
    let foreign = json!({
        "name": "notify",
        "destinationArn": "arn:aws:sns:us-east-1:123456789012:topic",
        "branches": [],
        "events": ["all"],
    });
    let triggers = json!({ "repositoryName": "demo", "triggers": [foreign] });
    stage.codecommit("PutRepositoryTriggers", triggers).await?;
    let before = stage.triggers("demo");

    let branch = |n: usize| format!("main:refs/heads/b/{n}");
    let twelve: Vec<String> = (0..12).map(branch).collect();
    let refspecs: Vec<&str> = twelve.iter().map(String::as_str).collect();
    push(&stage, work, &refspecs).await?;
    let packed = stage.triggers("demo");
    assert!(
        packed.len() <= 10 && packed.starts_with(&before),
        "{packed:#?}"
    );
    assert_eq!(watched(&packed).len(), 12);
    assert_eq!(stage.executions().len(), 12, "every first push is archived");

    let hundred: Vec<String> = (12..95).map(branch).collect();
    let refspecs: Vec<&str> = hundred.iter().map(String::as_str).collect();
    push(&stage, work, &refspecs).await?;
    let one = stage.triggers("demo");
    assert_eq!(
        (one.len(), watched(&one).len()),
        (2, 0),
        "one watches all branches: {one:#?}"
    );
    assert!(one.starts_with(&before), "the foreign one is as it was");
    assert_eq!(stage.executions().len(), 95);

    let gone: Vec<String> = (3..95).map(|n| format!(":refs/heads/b/{n}")).collect();
    let refspecs: Vec<&str> = gone.iter().map(String::as_str).collect();
    push(&stage, work, &refspecs).await?;
    let few = stage.triggers("demo");
    assert_eq!(
        watched(&few),
        ["b/0", "b/1", "b/2"].map(str::to_owned).into()
    );
    assert_eq!(
        few.len(),
        4,
        "one for each branch again, and the foreign one"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_events_are_recovered_by_the_two_schedules() -> Result<()> {
    let faults = vec![
        "events:lose,rate=1.0"
            .parse()
            .expect("the rule is well formed"),
    ];
    let (stage, work) = stage(Setup {
        faults,
        ..Setup::default()
    })
    .await?;
    push(&stage, work.path(), &["main", "main:feature/x"]).await?;
    assert!(
        stage.triggers("demo").is_empty() && stage.executions().is_empty(),
        "all is lost"
    );
    let answer = stage
        .call(LIFECYCLE, &json!({"schedule": true}))
        .await
        .expect("it is well");
    assert_eq!(
        answer["repositories"][0]["created"],
        json!(["feature/x", "main"])
    );
    stage.wait_until_idle().await?;
    assert_eq!(
        stage.executions().len(),
        2,
        "update is invoked for each new branch"
    );
    let answer = stage
        .update(&json!({"schedule": true}))
        .await
        .expect("it is well");
    assert_eq!(answer["results"][0]["outcome"], "unchanged");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_is_shown_without_writing() -> Result<()> {
    let faults = vec![
        "events:lose,rate=1.0"
            .parse()
            .expect("the rule is well formed"),
    ];
    let (stage, work) = stage(Setup {
        faults,
        ..Setup::default()
    })
    .await?;
    push(
        &stage,
        work.path(),
        &["main", "main:feature/x", "main:wip/y"],
    )
    .await?;
    let show = async |more: &[&str]| -> Result<String> {
        let program = branchline_tests::environment::built_programs().join("branchline-dev");
        let mut command = std::process::Command::new(program);
        command
            .args(["triggers", "demo", "--env", "BRANCHES_EXCLUDE=wip/**"])
            .args(more);
        stage.sign_in(&mut command);
        tokio::task::spawn_blocking(move || git::run(&mut command)).await?
    };
    let text = show(&[]).await?;
    assert!(text.contains("mode     per-branch"), "{text}");
    assert!(
        text.contains("present  0") && text.contains("wanted   2"),
        "{text}"
    );
    assert_eq!(text.matches("\n+ branchline-").count(), 2, "{text}");
    assert!(
        text.trim_end()
            .ends_with("one write would apply the difference"),
        "{text}"
    );
    let plan: serde_json::Value = serde_json::from_str(&show(&["--json"]).await?)?;
    assert_eq!(
        plan["difference"]["added"].as_array().map(Vec::len),
        Some(2),
        "{plan:#}"
    );
    assert!(stage.triggers("demo").is_empty(), "nothing was written");

    stage
        .call(LIFECYCLE, &json!({"repository": "demo"}))
        .await
        .expect("it is well");
    let text = show(&[]).await?;
    assert!(
        text.trim_end()
            .ends_with("one write would apply the difference"),
        "wip/y has a trigger: {text}"
    );
    assert_eq!(text.matches("\n- ").count(), 1, "{text}");
    Ok(())
}

/// "Branches whose names cannot be used are left out by name, and the others are handled."
#[tokio::test(flavor = "multi_thread")]
async fn branches_that_git_makes_and_no_one_can_use_do_not_stop_the_others() -> Result<()> {
    let (stage, work) = stage(Setup::default()).await?;
    let work = work.path();
    // `git push --mirror` of a clone makes the first.
    let odd = ["main:refs/heads/HEAD", "main:refs/heads/-x"];
    push(&stage, work, &["main", odd[0], odd[1]]).await?;
    assert_eq!(watched(&stage.triggers("demo")), ["main".to_owned()].into());
    assert_eq!(stage.executions().len(), 1, "the usable branch is archived");
    let answer = stage.update(&json!({"schedule": true})).await;
    let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    assert_eq!(answer["counts"], json!({"unchanged": 1, "skipped": 2}));
    let reasons = answer["results"].to_string();
    assert!(reasons.contains("`git branch` refuses it"), "{reasons}");
    assert!(
        stage.server.queue().dead_letters().is_empty(),
        "no event failed"
    );
    Ok(())
}
