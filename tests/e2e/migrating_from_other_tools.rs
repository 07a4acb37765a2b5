//! `docs/moving.md`, step by step: what the tools that branchline replaces left is there, and
//! nothing of it is lost on the way.
//!
//! Beside this: `dumb.rs` takes over a mirror of mirror-git-to-s3, `bundle.rs` shares a
//! bucket with the Python client of git-remote-s3.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use branchline_core::codecommit::Trigger;
use branchline_core::git::HashKind;
use branchline_test_support::git;
use branchline_tests::environment::{
    BUCKET, LIFECYCLE, MIGRATION, Setup, TestEnvironment, UPDATE, built_programs, pipeline,
};
use serde_json::{Value, json};

use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::Repo;

const MOVING: &str = include_str!("../../docs/moving.md");

/// The requests in the section of that heading, in their order.
fn requests(heading: &str) -> Result<Vec<Value>> {
    let (_, section) = MOVING.split_once(heading).context("the section is there")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```json\n").skip(1);
    let requests = blocks.map(|block| {
        let (block, _) = block.split_once("```").context("the block ends")?;
        Ok(serde_json::from_str(block)?)
    });
    requests.collect()
}

/// The first request in the section of that heading.
fn request(heading: &str) -> Result<Value> {
    let first = requests(heading)?.into_iter().next();
    first.context("it shows a request")
}

/// The name of the source's server in the document.
const SOURCE: &str = "https://git.example.com/team/project.git";

/// Replaces the name of the source's server, and nothing else, in a request of the document.
fn with_source(request: &Value, url: &str) -> Result<Value> {
    let text = request.to_string();
    ensure!(text.contains(SOURCE), "{text}");
    Ok(serde_json::from_str(&text.replace(SOURCE, url))?)
}

/// The commands of the document's section in which `git ls-remote` lists URLs.
fn listed_urls(heading: &str) -> Result<Vec<&'static str>> {
    let (_, section) = MOVING.split_once(heading).context("the section is there")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let lines = section.lines();
    Ok(lines
        .filter_map(|line| line.strip_prefix("git ls-remote "))
        .collect())
}

/// Runs `git ls-remote` as a user does; returns the branches and tags. `codecommit://` is read by
/// branchline's helper, `s3://` by the first helper in `programs`.
async fn ls_remote(
    stage: &TestEnvironment,
    programs: Option<&Path>,
    url: &str,
) -> Result<Vec<String>> {
    let folder = tempfile::tempdir()?;
    let helper = folder.path().join("git-remote-codecommit");
    std::os::unix::fs::symlink(built_programs().join("branchline"), helper)?;
    let mut command = git::command(folder.path());
    command.args(["ls-remote", url]);
    stage.sign_in(&mut command);
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = programs.map(|programs| programs.join("bin"));
    let programs = programs.map_or(String::new(), |programs| format!("{}:", programs.display()));
    command
        .env(
            "PATH",
            format!("{programs}{}:{path}", folder.path().display()),
        )
        .env("CODE_COMMIT_ENDPOINT", stage.server.endpoint())
        .env("HOME", folder.path());
    let printed = tokio::task::spawn_blocking(move || git::run(&mut command)).await??;
    let mut lines: Vec<String> = printed
        .lines()
        .filter(|line| line.contains("\trefs/heads/") || line.contains("\trefs/tags/"))
        .filter(|line| !line.ends_with("^{}"))
        .map(str::to_owned)
        .collect();
    lines.sort();
    Ok(lines)
}

async fn call(stage: &TestEnvironment, function: &str, event: &Value) -> Result<Value> {
    let answer = stage.call(function, event).await;
    answer.map_err(|error| anyhow!("{function}: {error}"))
}

/// A trigger as the old lifecycle Lambda made it for a branch.
fn old_trigger(branch: &str) -> Value {
    json!({
        "name": format!("trigger-{branch}-updates"),
        "destinationArn": "arn:aws:lambda:us-east-1:123456789012:function:pipeline-exec",
        "customData": "{\"pipeline_name\": \"deploy\", \"bucket\": \"artifacts\"}",
        "branches": [branch],
        "events": ["updateReference"],
    })
}

async fn put_triggers(stage: &TestEnvironment, triggers: &[Value]) -> Result<()> {
    let input = json!({ "repositoryName": "demo", "triggers": triggers });
    stage
        .codecommit("PutRepositoryTriggers", input)
        .await
        .map(drop)
}

fn ours(triggers: &[Trigger]) -> Vec<&Trigger> {
    let is_ours = |trigger: &&Trigger| trigger.name.starts_with("branchline-");
    triggers.iter().filter(is_ours).collect()
}

fn watched<'a>(triggers: &[&'a Trigger]) -> BTreeSet<&'a str> {
    let branches = triggers.iter().flat_map(|trigger| &trigger.branches);
    branches.map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_librarys_lambdas_are_replaced_trigger_by_trigger() -> Result<()> {
    let branches = ["main", "b1", "b2", "b3", "b4", "b5", "b6", "b7"];
    // Before the stack is there, nothing of it hears of events.
    let lost = "events:lose,rate=1.0".parse().expect("it is a fault");
    let exclude = ("BRANCHES_EXCLUDE", "master".to_owned());
    let stage = TestEnvironment::start(Setup {
        update: vec![
            ("ARTIFACT_KEY", "artifacts/deploy".to_owned()),
            ("ARCHIVE_COMMIT_INFO", "true".to_owned()),
            ("PIPELINE_NAME", "old".to_owned()),
            exclude.clone(),
        ],
        lifecycle: vec![exclude],
        faults: vec![lost],
        ..Setup::default()
    })
    .await?;
    stage.pipelines("CreatePipeline", &pipeline("old", "artifacts/deploy"))?;
    stage.create_repository("demo").await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    let tip = git::commit(work.path(), &[("a.txt", "1")], "First")?;
    let mut refspecs: Vec<String> = branches
        .iter()
        .map(|branch| format!("main:refs/heads/{branch}"))
        .collect();
    refspecs.push("main:refs/heads/master".to_owned());
    let refspecs: Vec<&str> = refspecs.iter().map(String::as_str).collect();
    stage.push(work.path(), "demo", &refspecs).await?;
    let mut old: Vec<Value> = branches.iter().map(|branch| old_trigger(branch)).collect();
    old.push(json!({
        "name": "lifecycle",
        "destinationArn": "arn:aws:lambda:us-east-1:123456789012:function:pipeline-lifecycle",
        "customData": "{\"pipeline_exec_function\": \"pipeline-exec\"}",
        "branches": [],
        "events": ["createReference", "deleteReference"],
    }));
    put_triggers(&stage, &old).await?;
    let before = stage.triggers("demo");
    stage.server.faults().clear();

    // Step 2: with 9 old triggers in the way, one of ours watches all branches but master.
    call(&stage, LIFECYCLE, &json!({ "schedule": true })).await?;
    stage.wait_until_idle().await?;
    let both = stage.triggers("demo");
    let of_ours = ours(&both);
    assert_eq!(of_ours.len(), 1, "{both:#?}");
    assert_eq!(watched(&of_ours), branches.into());
    let kept: Vec<&Trigger> = both.iter().filter(|one| !of_ours.contains(one)).collect();
    assert!(
        kept.into_iter().eq(&before),
        "the old ones are as they were"
    );
    let started = stage.executions().len();
    assert!(started > 0, "what is there already is archived");

    // Step 3: the old ones go, and the schedule spreads ours again.
    let input = json!({ "repositoryName": "demo" });
    let mut left = stage.codecommit("GetRepositoryTriggers", input).await?["triggers"].clone();
    let triggers = left.as_array_mut().context("triggers are a list")?;
    triggers.retain(|trigger| {
        trigger["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("branchline-"))
    });
    put_triggers(&stage, triggers).await?;
    call(&stage, LIFECYCLE, &json!({ "schedule": true })).await?;
    stage.wait_until_idle().await?;
    let alone = stage.triggers("demo");
    assert_eq!(
        alone.len(),
        branches.len(),
        "one for each branch: {alone:#?}"
    );
    assert_eq!(watched(&ours(&alone)), branches.into());

    // The pipeline finds its object where it was, with the file that it knows.
    let tip = {
        let new = git::commit(work.path(), &[("a.txt", "2")], "Second")?;
        assert_ne!(new, tip);
        new
    };
    stage.push(work.path(), "demo", &["main"]).await?;
    stage.wait_until_idle().await?;
    let executions = stage.executions();
    let newest = executions.last().context("the push starts it")?;
    assert_eq!(newest.sources[0].key, "artifacts/deploy");
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(stage.source_of(newest)?))?;
    let mut info = String::new();
    zip.by_name("commit_info.json")?.read_to_string(&mut info)?;
    let info: Value = serde_json::from_str(&info)?;
    assert_eq!(info["commitId"], tip.as_str(), "{info}");
    assert_eq!(info["branchName"], "main");
    assert_eq!(info["RepositoryName"], "demo");

    // "Compare the id that `git ls-remote origin refs/heads/main` prints with `commitId` [..], or
    // with the comment of the zip (`unzip -z`)."
    let listed = ls_remote(&stage, None, "codecommit://demo").await?;
    ensure!(
        listed.contains(&format!("{tip}\trefs/heads/main")),
        "{listed:?}"
    );
    let archive = work.path().join("artifact.zip");
    std::fs::write(&archive, stage.source_of(newest)?)?;
    let unzip = std::process::Command::new("unzip")
        .arg("-z")
        .arg(&archive)
        .output();
    let comment = String::from_utf8(unzip.context("unzip is installed")?.stdout)?;
    ensure!(comment.lines().any(|line| line == tip), "{comment}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_data_of_an_old_trigger_is_heeded_by_update() -> Result<()> {
    let stage = TestEnvironment::start(Setup {
        update: vec![("CUSTOM_DATA", "trust".to_owned())],
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        ..Setup::default()
    })
    .await?;
    stage.pipelines("CreatePipeline", &pipeline("nightly", "artifacts/nightly"))?;
    stage.create_repository("demo").await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    git::commit(work.path(), &[("a.txt", "1")], "First")?;
    stage.push(work.path(), "demo", &["main"]).await?;
    let mut trigger = old_trigger("main");
    trigger["destinationArn"] = json!(stage.server.account().function_arn(UPDATE));
    let data = json!({ "pipeline_name": "nightly", "bucket": BUCKET, "key": "artifacts/nightly" });
    trigger["customData"] = json!(data.to_string());
    put_triggers(&stage, &[trigger]).await?;
    git::commit(work.path(), &[("a.txt", "2")], "Second")?;
    stage.push(work.path(), "demo", &["main"]).await?;
    stage.wait_until_idle().await?;
    let executions = stage.executions();
    let [execution] = executions.as_slice() else {
        panic!("one push, one execution: {executions:?}");
    };
    assert_eq!(execution.pipeline, "nightly");
    assert_eq!(execution.sources[0].key, "artifacts/nightly");
    Ok(())
}

/// git that finds the Python client of git-remote-s3.
async fn python(
    stage: &TestEnvironment,
    environment: &Path,
    folder: &Path,
    words: &[&str],
) -> Result<()> {
    let mut command = git::command(folder);
    command.args(words);
    stage.sign_in(&mut command);
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env(
            "PATH",
            format!("{}:{path}", environment.join("bin").display()),
        )
        .env("HOME", folder);
    tokio::task::spawn_blocking(move || git::run(&mut command))
        .await?
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn developers_go_on_with_git_remote_s3_beside_the_function() -> Result<()> {
    let Some(environment) = std::env::var_os("BRANCHLINE_VENV").map(PathBuf::from) else {
        eprintln!("skipped: BRANCHLINE_VENV is not set; `cargo xtask test` makes that environment");
        return Ok(());
    };
    let stage = TestEnvironment::start(Setup {
        migration: Some(Vec::new()),
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        ..Setup::default()
    })
    .await?;
    let backup = request("## From awslabs git-remote-s3")?;
    let url = backup["mappings"][0]["target"]
        .as_str()
        .context("it has a target")?;
    let bucket = url
        .trim_start_matches("s3://")
        .split('/')
        .next()
        .unwrap_or_default();
    stage.create_public_bucket(bucket)?;
    let folder = tempfile::tempdir()?;
    let work = folder.path().join("work");
    git::init(&work)?;
    git::commit(&work, &[("a.txt", "1")], "First")?;
    stage.create_repository("MyDemoRepo").await?;
    stage.push(&work, "MyDemoRepo", &["main"]).await?;

    // The function writes; a developer clones and pushes.
    let answer = call(&stage, MIGRATION, &backup).await?;
    assert_eq!(answer["status"], "complete", "{answer}");
    let clone = folder.path().join("clone");
    let to = clone.to_str().context("a plain path")?;
    python(
        &stage,
        &environment,
        folder.path(),
        &["clone", "--quiet", url, to],
    )
    .await?;
    let theirs = git::commit(&clone, &[("a.txt", "2")], "By a developer")?;
    python(
        &stage,
        &environment,
        &clone,
        &["push", "--quiet", "origin", "HEAD:main"],
    )
    .await?;

    // The other way round, what was pushed to the bucket reaches CodeCommit.
    let back = requests("## From awslabs git-remote-s3")?.swap_remove(1);
    assert_eq!(back["mappings"][0]["source"], url);
    assert_eq!(
        back["mappings"][0]["target"],
        backup["mappings"][0]["source"]
    );
    let answer = call(&stage, MIGRATION, &back).await?;
    assert_eq!(answer["mappings"][0]["refs"]["updated"], 1, "{answer}");
    assert_eq!(
        stage.refs("MyDemoRepo")?,
        format!("{theirs} refs/heads/main")
    );

    // And both are equal: the backup has nothing to do.
    let answer = call(&stage, MIGRATION, &backup).await?;
    assert_eq!(answer["mappings"][0]["objects"], 0, "{answer}");
    assert_eq!(answer["mappings"][0]["refs"]["unchanged"], 1, "{answer}");

    // "`git ls-remote` of both URLs prints the same ids, here with the Python client."
    let section = "## From awslabs git-remote-s3";
    let urls = listed_urls(section)?;
    let [source, copy] = urls.as_slice() else {
        panic!("two URLs are listed: {urls:?}");
    };
    let programs = Some(environment.as_path());
    let listed = ls_remote(&stage, programs, source).await?;
    ensure!(
        listed == [format!("{theirs}\trefs/heads/main")],
        "{listed:?}"
    );
    assert_eq!(ls_remote(&stage, programs, copy).await?, listed);

    // A commit that only CodeCommit has is listed by the plan, and kept by `"force": false`.
    let requests = requests(section)?;
    let [_, _, look, zip] = requests.as_slice() else {
        panic!("the section has four requests");
    };
    let ours = git::commit(&work, &[("b.txt", "1")], "On another branch of history")?;
    let forced = format!("+{ours}:refs/heads/main");
    stage.push(&work, "MyDemoRepo", &[&forced]).await?;
    let answer = call(&stage, MIGRATION, look).await?;
    let plan = &answer["mappings"][0]["plan"];
    ensure!(
        plan["rejected"].get("refs/heads/main").is_some(),
        "{answer}"
    );
    assert_eq!(
        stage.refs("MyDemoRepo")?,
        format!("{ours} refs/heads/main"),
        "a plan changes nothing"
    );

    // The scheme with an archive for each ref.
    let target = zip["mappings"][0]["target"].as_str().context("a target")?;
    let place = target.trim_start_matches("s3+zip://");
    let (bucket, prefix) = place.split_once('/').context("it has a prefix")?;
    stage.create_public_bucket(bucket)?;
    let answer = call(&stage, MIGRATION, zip).await?;
    assert_eq!(answer["status"], "complete", "{answer}");
    let key = format!("{prefix}/refs/heads/main/repo.zip");
    stage.server.store().get_bytes(bucket, &key, None)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_for_mirror_git_to_s3_makes_a_mirror_that_git_lists() -> Result<()> {
    let stage = TestEnvironment::start(Setup {
        migration: Some(Vec::new()),
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        ..Setup::default()
    })
    .await?;
    let event = request("## From mirror-git-to-s3")?;
    let target = event["mappings"][0]["target"].as_str();
    let target = target.context("it has a target")?.to_owned();
    let (bucket, prefix) = target
        .trim_start_matches("s3://")
        .split_once('/')
        .context("the target has a prefix")?;
    stage.create_public_bucket(bucket)?;
    let source = Repo::with_history(HashKind::Sha1, 12, 4);
    let server = GitServer::new(&source);
    let event = with_source(&event, &server.url())?;
    let answer = call(&stage, MIGRATION, &event).await?;
    assert_eq!(answer["status"], "complete", "{answer}");
    // "`git ls-remote` of the source and of the mirror's own address print the same ids"
    let urls = listed_urls("## From mirror-git-to-s3")?;
    assert_eq!(urls[0], SOURCE);
    let mirror = format!("{}/{bucket}/{prefix}", stage.server.endpoint());
    let theirs = ls_remote(&stage, None, &server.url()).await?;
    assert_eq!(ls_remote(&stage, None, &mirror).await?, theirs);
    ensure!(theirs.len() > 2, "{theirs:?}");
    Ok(())
}

/// "`git ls-remote` through the new program prints the ids of the branches that CodeCommit's own API
/// names."
#[tokio::test(flavor = "multi_thread")]
async fn the_helper_lists_what_codecommits_api_names() -> Result<()> {
    let stage = TestEnvironment::start(Setup {
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        ..Setup::default()
    })
    .await?;
    stage.create_repository("MyDemoRepo").await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    let tip = git::commit(work.path(), &[("a.txt", "1")], "First")?;
    stage.push(work.path(), "MyDemoRepo", &["main"]).await?;
    let urls = listed_urls("## From git-remote-codecommit")?;
    let [url] = urls.as_slice() else {
        panic!("one URL is listed: {urls:?}");
    };
    let listed = ls_remote(&stage, None, url).await?;
    assert_eq!(listed, [format!("{tip}\trefs/heads/main")]);
    let input = json!({ "repositoryName": "MyDemoRepo", "branchName": "main" });
    let branch = stage.codecommit("GetBranch", input).await?;
    assert_eq!(branch["branch"]["commitId"], tip.as_str(), "{branch}");
    Ok(())
}

/// The script stopped after its first two batches: their tags are there, no branch is.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_begun_by_the_script_is_finished() -> Result<()> {
    let stage = TestEnvironment::start(Setup {
        migration: Some(Vec::new()),
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        ..Setup::default()
    })
    .await?;
    let source = Repo::new(HashKind::Sha1);
    let mut history = String::new();
    for n in 1..=25 {
        let date = 1_600_000_000 + n;
        writeln!(
            history,
            "commit refs/heads/main\ncommitter C <c@x> {date} +0000\ndata 0"
        )?;
        writeln!(
            history,
            "M 100644 inline number\ndata {}\n{n}",
            n.to_string().len()
        )?;
    }
    source.input(&["fast-import", "--quiet"], history.as_bytes());
    source.git(&["tag", "-a", "v1", "-m", "one", "main~3"]);
    let server = GitServer::new(&source);
    stage.create_repository("project").await?;
    // With `-b 10`, 25 commits in a row are cut at the 3rd, the 14th and the last.
    let commits = source.git(&["rev-list", "--reverse", "--first-parent", "main"]);
    let commits: Vec<&str> = commits.lines().collect();
    for (number, at) in [(1, 3), (2, 14)] {
        let commit = commits.get(at - 1).context("the history is long enough")?;
        let tag = format!("{commit}:refs/tags/codecommit_migration_{number}");
        stage.push(&source.path, "project", &[&tag]).await?;
    }
    let event = request("## From `incremental-repo-migration.py`")?;
    ensure!(
        event["mappings"][0]["create"] == true,
        "an existing repository is accepted"
    );
    // The script had `-b 10`: "a number that differs from the script's is supported".
    let answer = call(&stage, MIGRATION, &with_source(&event, &server.url())?).await?;
    assert_eq!(answer["status"], "complete", "{answer}");
    let refs = stage.refs("project")?;
    assert!(
        !refs.contains("codecommit_migration_"),
        "no tag is left: {refs}"
    );
    let wanted = source.git(&[
        "for-each-ref",
        "--format=%(objectname) %(refname)",
        "refs/heads",
        "refs/tags",
    ]);
    assert_eq!(refs, wanted.trim_end(), "every branch and tag is there");
    // "`git ls-remote` prints the same ids for both"
    let urls = listed_urls("## From `incremental-repo-migration.py`")?;
    assert_eq!(urls[0], SOURCE);
    let ours = ls_remote(&stage, None, urls[1]).await?;
    assert_eq!(ours, ls_remote(&stage, None, &server.url()).await?);

    // A migration that is not to be finished is cleaned of the script's tags alone.
    let tag = format!("{}:refs/tags/codecommit_migration_1", commits[0]);
    stage.push(&source.path, "project", &[&tag]).await?;
    let clean = requests("## From `incremental-repo-migration.py`")?.swap_remove(1);
    call(&stage, MIGRATION, &with_source(&clean, &server.url())?).await?;
    assert_eq!(stage.refs("project")?, wanted.trim_end());
    Ok(())
}
