//! A fleet with the real migration function.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use branchline_dev::lambda::FunctionConfig;
use branchline_dev::s3::store::{Precondition, PutOptions, Query};
use branchline_test_support::git;
use branchline_tests::environment::{TestEnvironment, built_programs};
use branchline_tests::template::Template;
use serde_json::{Value, json};

use super::interpreter::{Interpreter, MIGRATION, deployment};
use super::{put, stage};

/// The bucket that is mirrored to.
const MIRRORS: &str = "mirrors";
/// Time that an invocation works before it answers `incomplete`.
const WORK: Duration = Duration::from_secs(6);
/// Margin that an invocation leaves of its time.
const MARGIN: Duration = Duration::from_secs(30);

/// Makes a repository with one commit and returns that commit's id.
async fn push(stage: &TestEnvironment, name: &str) -> Result<String> {
    stage.create_repository(name).await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    let commit = git::commit(work.path(), &[("name.txt", name)], "First")?;
    stage.push(work.path(), name, &["main"]).await?;
    stage.wait_until_idle().await?;
    Ok(commit)
}

/// The commit of `main` in the mirror of a repository, all of which git has found sound.
fn mirrored(stage: &TestEnvironment, name: &str) -> Result<String> {
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

/// A stage with the real function, a bucket for mirrors, and the interpreter on it.
async fn start() -> Result<Option<(TestEnvironment, Interpreter)>> {
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
    let interpreter = Interpreter::start(&stage, "*").await?;
    Ok(interpreter.map(|interpreter| (stage, interpreter)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_mirrored_and_failed_mappings_are_retried() -> Result<()> {
    let Some((stage, mut interpreter)) = start().await? else {
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

/// Returns keys and contents of the objects with a prefix in the bucket of mirrors.
fn objects(stage: &TestEnvironment, prefix: &str) -> Result<BTreeMap<String, String>> {
    let store = stage.server.store();
    let page = store.bucket(MIRRORS)?.list(&Query {
        prefix: prefix.to_owned(),
        limit: 1000,
        ..Query::default()
    });
    let keys = page.versions.into_iter().map(|version| version.key);
    let object = |key: String| {
        let (head, _) = store.get_bytes(MIRRORS, &key, None)?;
        Ok((key, head.etag))
    };
    keys.map(object).collect()
}

/// The commit of `main` in the mirror that backs a repository up, whose objects git has checked.
fn backed_up(stage: &TestEnvironment, name: &str) -> Result<String> {
    let prefix = format!("backup/{name}/");
    let store = stage.server.store();
    let folder = tempfile::tempdir()?;
    git::git(folder.path(), ["init", "--quiet", "--bare"])?;
    let mut refs = String::new();
    for key in objects(stage, &prefix)?.into_keys() {
        let (_, bytes) = store.get_bytes(MIRRORS, &key, None)?;
        let path = &key[prefix.len()..];
        if path == "info/refs" {
            refs = String::from_utf8(bytes.to_vec())?;
        } else if path.starts_with("objects/") {
            let file = folder.path().join(path);
            std::fs::create_dir_all(file.parent().context("an object has a folder")?)?;
            std::fs::write(file, bytes)?;
        }
    }
    for line in refs.lines() {
        let (id, name) = line.split_once('\t').context("a line has two columns")?;
        git::git(folder.path(), ["update-ref", name, id])?;
    }
    git::git(folder.path(), ["fsck", "--full", "--strict"])?;
    git::git(folder.path(), ["rev-parse", "refs/heads/main"])
}

/// The night's backup, started as its schedule starts it: one repository is incomplete at
/// first, one cannot be written, and the others do not mind. Started again, it does the
/// rest; once more, and nothing changes.
#[tokio::test(flavor = "multi_thread")]
async fn backups_of_all_repositories_end_in_the_same_place() -> Result<()> {
    let Some((stage, mut interpreter)) = start().await? else {
        return Ok(());
    };
    let template = Template::load()?;
    let deployment = deployment(&template, "*")?;
    let machine = deployment.properties("MirrorFleet")?;
    let input = machine["Events"]["Backup"]["Properties"]["Input"].as_str();
    let input: Value = serde_json::from_str(input.context("the schedule has an input")?)?;
    // Two on a page: the first that asks for a history is one that gets it.
    let names = ["api", "late", "taken"];
    let mut commits = BTreeMap::new();
    for name in names {
        commits.insert(name, push(&stage, name).await?);
    }
    // Someone published another layout there.
    let store = stage.server.store();
    let bundle = format!("backup/taken/refs/heads/main/{}.bundle", commits["taken"]);
    store.put(MIRRORS, &bundle, b"a bundle", PutOptions::default())?;
    // It gets it later than an invocation may wait.
    let slow = "git/git-upload-pack:latency,ms=20000,nth=1".parse();
    stage.server.faults().add(slow.expect("it is a fault"));

    let run = interpreter.run("mirror-fleet", &input).await?;
    assert_eq!(run.0["error"], "Fleet.SomeFailed", "{run:?}");
    let error = run.item("codecommit://taken").expect_err("it is taken");
    assert!(error.starts_with("branchline."), "{error}");
    let rounds = ["codecommit://api", "codecommit://late"]
        .map(|source| run.item(source).expect("it is complete")["rounds"].as_u64());
    assert!(
        rounds.iter().flatten().sum::<u64>() > 2,
        "one was incomplete at first: {run:?}"
    );
    for name in ["api", "late"] {
        assert_eq!(backed_up(&stage, name)?, commits[name], "{name}");
    }

    let bucket = store.bucket(MIRRORS)?;
    bucket.delete(&bundle, None, &Precondition::default())?;
    let run = interpreter.run("mirror-fleet", &input).await?;
    assert_eq!(run.0["status"], "SUCCEEDED", "{run:?}");
    assert_eq!(run.0["output"]["items"], 3);
    assert_eq!(backed_up(&stage, "taken")?, commits["taken"]);

    let before = objects(&stage, "backup/")?;
    let run = interpreter.run("mirror-fleet", &input).await?;
    assert_eq!(run.0["status"], "SUCCEEDED", "{run:?}");
    for name in names {
        let output = run
            .item(&format!("codecommit://{name}"))
            .expect("it is complete");
        assert_eq!(output["rounds"], 1);
        assert_eq!(output["mapping"]["objects"], 0, "nothing is new: {output}");
    }
    assert_eq!(
        objects(&stage, "backup/")?,
        before,
        "no object is written again"
    );
    Ok(())
}
