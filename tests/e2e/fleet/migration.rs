//! A fleet with the real migration function.

use std::time::Duration;

use anyhow::{Context as _, Result};
use branchline_dev::lambda::FunctionConfig;
use branchline_dev::s3::store::Query;
use branchline_tests::git;
use branchline_tests::stage::{Stage, built_programs};
use serde_json::{Value, json};

use super::interpreter::{Interpreter, MIGRATION};
use super::{put, stage};

/// The bucket that is mirrored to.
const MIRRORS: &str = "mirrors";
/// How long an invocation works before it answers `incomplete`.
const WORK: Duration = Duration::from_secs(6);
/// What it leaves of its time.
const MARGIN: Duration = Duration::from_secs(30);

/// Makes a repository with one commit and returns that commit's id.
async fn push(stage: &Stage, name: &str) -> Result<String> {
    stage.create_repository(name).await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    let commit = git::commit(work.path(), &[("name.txt", name)], "First")?;
    stage.push(work.path(), name, &["main"]).await?;
    stage.settle().await?;
    Ok(commit)
}

/// The commit of `main` in the mirror of a repository, all of which git has found sound.
fn mirrored(stage: &Stage, name: &str) -> Result<String> {
    let store = stage.server.store();
    let bytes = |key: &str| store.get_bytes(MIRRORS, key, None).map(|(_, bytes)| bytes);
    let refs = String::from_utf8(bytes(&format!("{name}/info/refs"))?.to_vec())?;
    let line = refs
        .lines()
        .find_map(|line| line.strip_suffix("\trefs/heads/main"));
    let commit = line.context("the branch is there")?.to_owned();
    let page = store.bucket(MIRRORS)?.list(&Query {
        prefix: format!("{name}/objects/pack/"),
        limit: 100,
        ..Query::default()
    });
    let folder = tempfile::tempdir()?;
    git::init(folder.path())?;
    for version in &page.versions {
        let file = version
            .key
            .rsplit('/')
            .next()
            .context("a key has a last part")?;
        let packs = folder.path().join(".git/objects/pack");
        std::fs::write(packs.join(file), bytes(&version.key)?)?;
    }
    git::git(folder.path(), ["update-ref", "refs/heads/main", &commit])?;
    git::git(folder.path(), ["fsck", "--full", "--strict"])?;
    Ok(commit)
}

fn mapping(name: &str) -> Value {
    json!({
        "source": format!("codecommit://{name}"), "target": format!("s3://{MIRRORS}/{name}"),
        "layout": "dumb",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_mirrored_and_what_failed_is_made_up_for() -> Result<()> {
    let bootstrap = built_programs().join(MIGRATION);
    let mut function = FunctionConfig::new(MIGRATION, bootstrap);
    function.timeout = WORK + MARGIN;
    let margin = MARGIN.as_secs().to_string();
    function
        .environment
        .insert("DEADLINE_MARGIN_SECONDS".into(), margin);
    let stage = stage(function).await?;
    let region = stage.server.account().region.clone();
    stage.server.store().create_bucket(MIRRORS, &region)?;
    let Some(mut interpreter) = Interpreter::start(&stage).await? else {
        return Ok(());
    };
    let (one, two) = (push(&stage, "one").await?, push(&stage, "two").await?);
    let list = json!([mapping("one"), mapping("late"), mapping("two")]);
    put(&stage, "list.json", &list.to_string())?;
    let input = json!({
        "list": { "key": "list.json" }, "maxConcurrency": 2, "toleratedFailurePercentage": 50,
    });

    // The first object that is written takes longer than an invocation may.
    let slow = "s3/PutObject:latency,ms=20000,nth=1".parse();
    stage.server.faults().add(slow.expect("it is a fault"));
    let run = interpreter.run("mirror-fleet", &input).await?;
    assert_eq!(
        run.item("codecommit://late"),
        Err("branchline.NotFound"),
        "{run:?}"
    );
    let rounds = |source| run.item(source).map(|output| output["rounds"].as_u64());
    let rounds = [rounds("codecommit://one"), rounds("codecommit://two")];
    let rounds: Vec<u64> = rounds
        .into_iter()
        .filter_map(|n| n.ok().flatten())
        .collect();
    assert_eq!(rounds.len(), 2, "the others are complete: {run:?}");
    assert!(
        rounds.iter().sum::<u64>() > 2,
        "one was incomplete at first: {run:?}"
    );
    assert_eq!(run.0["error"], "Fleet.SomeFailed");
    assert_eq!(mirrored(&stage, "one")?, one, "it is mirrored");
    assert_eq!(mirrored(&stage, "two")?, two, "it is mirrored");

    let late = push(&stage, "late").await?;
    let run = interpreter.run("mirror-fleet", &input).await?;
    assert_eq!(run.0["status"], "SUCCEEDED", "{run:?}");
    assert_eq!(mirrored(&stage, "late")?, late);
    for (source, created) in [("one", 0), ("two", 0), ("late", 1)] {
        let output = run
            .item(&format!("codecommit://{source}"))
            .expect("it is complete")
            .clone();
        let refs = &output["mapping"]["refs"];
        assert_eq!(refs["created"], created, "only the rest is done: {output}");
        assert_eq!(refs["updated"], 0, "only the rest is done: {output}");
    }
    Ok(())
}
