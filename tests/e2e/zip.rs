//! `s3+zip://` as migration keeps it: read by a pipeline, and beside the client that it is
//! from, git-remote-s3 0.4.2, when `BRANCHLINE_VENV` names the Python environment that has
//! it.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use branchline_dev::pipeline::Status;
use branchline_dev::s3::store::{Head, Query};
use branchline_test_support::git;
use branchline_tests::compare;
use branchline_tests::environment::{BUCKET, MIGRATION, Setup, TestEnvironment, pipeline};
use serde_json::{Value, json};

const SUMMARY: &str = "codepipeline-artifact-revision-summary";
const ARCHIVED: &str = "branchline-archived";

/// A stage with migration, and a repository that is pushed as `demo`.
async fn stage() -> Result<(TestEnvironment, tempfile::TempDir)> {
    let stage = TestEnvironment::start(Setup {
        migration: Some(vec![("MIGRATION_MEMORY_MIB", "32".to_owned())]),
        // What is pushed here is not to be archived by update.
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        ..Setup::default()
    })
    .await?;
    stage.create_repository("demo").await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    Ok((stage, work))
}

/// Mirrors `demo` to that prefix, all branches and tags.
async fn mirror(stage: &TestEnvironment, prefix: &str) -> Result<Value> {
    let event = json!({ "mappings": [{
        "source": "codecommit://demo",
        "target": format!("s3+zip://{BUCKET}/{prefix}"),
        "prune": true,
    }]});
    let answer = stage.call(MIGRATION, &event).await;
    let answer = answer.map_err(|error| anyhow!("{error}"))?;
    ensure!(answer["status"] == "complete", "{answer}");
    Ok(answer)
}

/// The object of a key, its metadata and bytes.
fn object(stage: &TestEnvironment, key: &str) -> Result<(Head, Vec<u8>)> {
    let got = stage.server.store().get_bytes(BUCKET, key, None);
    let (head, bytes) = got.map_err(|error| anyhow!("{key}: {error}"))?;
    Ok((head, bytes.to_vec()))
}

fn summary(head: &Head) -> &str {
    head.attributes.user.get(SUMMARY).map_or("", String::as_str)
}

/// The current keys below a prefix, without it.
fn keys(stage: &TestEnvironment, prefix: &str) -> Vec<String> {
    let query = Query {
        limit: 1000,
        ..Query::default()
    };
    let bucket = stage.server.store().bucket(BUCKET);
    let page = bucket.expect("the bucket is there").list(&query);
    let keys = page.versions.into_iter().map(|found| found.key);
    keys.filter_map(|key| Some(key.strip_prefix(prefix)?.to_owned()))
        .collect()
}

/// Bytes that do not shrink.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend(state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_reads_the_archive_that_migration_keeps_beside_a_ref() -> Result<()> {
    let (stage, work) = stage().await?;
    let work = work.path();
    let attributes = "*.txt text eol=crlf\nsecret export-ignore\nversion export-subst\n";
    let files = [
        (".gitattributes", attributes),
        ("a.txt", "one\n"),
        ("secret", "s"),
        ("version", "$Format:%H %s$\n"),
    ];
    git::commit(work, &files, "First")?;
    git::git(work, ["checkout", "--quiet", "-b", "feature/x"])?;
    // More than the API serves, and more than all the memory that the function may use.
    std::fs::write(work.join("film"), noise(40 << 20))?;
    let tip = git::commit(work, &[], "Zweite Änderung: 日本語 ✓")?;
    git::git(work, ["checkout", "--quiet", "main"])?;
    git::git(work, ["tag", "-a", "v1", "-m", "one"])?;
    stage
        .push(work, "demo", &["main", "feature/x", "v1"])
        .await?;
    mirror(&stage, "team/demo").await?;
    // The same process answers, and its peak is that of all it did: its own 32 MiB, those
    // that it is allowed, and those of an archive.
    let again = stage.invoke(MIGRATION, &json!({})).await?;
    let peak = again.max_memory_bytes.expect("the system tells it");
    let bound = (32 + 32 + 45) << 20;
    assert!(peak <= bound, "{peak} bytes are more than {bound}");

    let key = "team/demo/refs/heads/feature/x/repo.zip";
    let version = object(&stage, key)?.0.version_id;
    stage.pipelines("CreatePipeline", &pipeline("from-zip", key))?;
    let start = json!({
        "name": "from-zip",
        "sourceRevisions": [{
            "actionName": "Source",
            "revisionType": "S3_OBJECT_VERSION_ID",
            "revisionValue": version,
        }],
    });
    stage.pipelines("StartPipelineExecution", &start)?;
    stage.wait_until_idle().await?;
    let executions = stage.executions();
    let [execution] = executions.as_slice() else {
        panic!("one execution: {executions:?}");
    };
    assert_eq!(execution.status, Status::Succeeded, "{execution:?}");
    assert_eq!(execution.sources[0].key, key);
    assert_eq!(execution.sources[0].version_id, version);
    let shown = execution.sources[0].revision_summary.as_deref();
    let expected = format!("{} Zweite Änderung: 日本語 ✓", &tip[..7]);
    assert_eq!(shown, Some(expected.as_str()));
    compare::with_git_archive(&stage.source_of(execution)?, work, &tip)?;
    for name in ["refs/heads/main", "refs/tags/v1"] {
        let (head, zip) = object(&stage, &format!("team/demo/{name}/repo.zip"))?;
        let agreement = compare::with_git_archive(&zip, work, name)?;
        assert_eq!(agreement.entries, 3);
        let id = git::git(work, ["rev-parse", name])?;
        assert_eq!(head.attributes.user[ARCHIVED], id);
    }

    // Nothing is new: nothing is written. One is lost: it is written again, and alone.
    let bucket = stage.server.store().bucket(BUCKET);
    let bucket = bucket.map_err(|error| anyhow!("{error}"))?;
    let all = Query {
        limit: 1000,
        ..Query::default()
    };
    let versions = || bucket.list_versions(&all).versions.len();
    let before = versions();
    mirror(&stage, "team/demo").await?;
    assert_eq!(versions(), before);
    let lost = "team/demo/refs/heads/main/repo.zip";
    delete(&stage, lost).await?;
    let answer = mirror(&stage, "team/demo").await?;
    assert_eq!(answer["mappings"][0]["refs"]["unchanged"], 3);
    compare::with_git_archive(&object(&stage, lost)?.1, work, "main")?;

    // A ref that goes takes its archive along.
    stage.push(work, "demo", &[":refs/tags/v1"]).await?;
    mirror(&stage, "team/demo").await?;
    let left = keys(&stage, "team/demo/");
    assert!(!left.iter().any(|key| key.contains("v1")), "{left:?}");
    stage.server.shutdown().await;
    Ok(())
}

async fn delete(stage: &TestEnvironment, key: &str) -> Result<()> {
    use branchline_core::aws::{AccessKey, Aws};
    use branchline_core::name::{BucketName, ObjectKey};
    use branchline_core::storage::client::SdkObjectStore;
    use branchline_core::storage::{ObjectStoreExt as _, Precondition};
    let credentials = stage.server.credentials();
    let access = AccessKey {
        id: credentials.access_key_id.clone(),
        secret: credentials.secret_access_key.clone(),
        session_token: credentials.session_token.clone(),
    };
    let region = &stage.server.account().region;
    let store = SdkObjectStore::new(&Aws::fixed(region, &stage.server.endpoint(), &access));
    let (bucket, key) = (BucketName::new(BUCKET)?, ObjectKey::new(key)?);
    store.delete(&bucket, &key, &Precondition::None).await?;
    Ok(())
}

/// A push by git with the Python helper; what it says when it fails.
async fn python(
    stage: &TestEnvironment,
    environment: &Path,
    work: &Path,
    arguments: &[&str],
) -> Result<Result<(), String>> {
    let mut command = git::command(work);
    stage.sign_in(&mut command);
    let path = std::env::var("PATH").unwrap_or_default();
    let bin = environment.join("bin");
    command
        .args(arguments)
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("HOME", work);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(if output.status.success() {
        Ok(())
    } else {
        Err(said)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_those_of_the_python_client_where_that_is_right() -> Result<()> {
    let Some(environment) = std::env::var_os("BRANCHLINE_VENV").map(PathBuf::from) else {
        eprintln!("skipped: BRANCHLINE_VENV is not set; `cargo xtask test` makes that environment");
        return Ok(());
    };
    let (stage, work) = stage().await?;
    let work = work.path();
    let url = format!("s3+zip://{BUCKET}/python");
    let push = async |refspecs: &[&str]| {
        stage.push(work, "demo", refspecs).await?;
        let arguments = [&["push", &*url], refspecs].concat();
        python(&stage, &environment, work, &arguments).await
    };
    let both = |name: &str| -> Result<_> {
        let theirs = object(&stage, &format!("python/{name}/repo.zip"))?;
        let ours = object(&stage, &format!("ours/{name}/repo.zip"))?;
        let (read, wanted) = (compare::read(&ours.1)?, compare::read(&theirs.1)?);
        assert_eq!(read, wanted, "{name}: the same entries and comment");
        let disposition = |head: &Head| head.attributes.content_disposition.clone();
        assert_eq!(disposition(&ours.0), disposition(&theirs.0), "{name}");
        Ok((ours.0, theirs.0))
    };
    git::commit(work, &[("a.txt", "one\n"), ("run", "x")], "First: a change")?;
    git::git(work, ["tag", "-a", "v1", "-m", "one"])?;
    push(&["main", "v1"])
        .await?
        .expect("the Python client pushes");
    mirror(&stage, "ours").await?;
    assert_eq!(keys(&stage, "ours/"), keys(&stage, "python/"));
    let (ours, theirs) = both("refs/heads/main")?;
    assert_eq!(summary(&ours), summary(&theirs));
    both("refs/tags/v1")?;

    // A ref that is not checked out: theirs is the summary of what is.
    git::git(work, ["checkout", "--quiet", "-b", "feature/x"])?;
    let tip = git::commit(work, &[("b", "side")], "On a branch")?;
    git::git(work, ["checkout", "--quiet", "main"])?;
    push(&["feature/x"])
        .await?
        .expect("the Python client pushes");
    mirror(&stage, "ours").await?;
    let (ours, theirs) = both("refs/heads/feature/x")?;
    assert_eq!(summary(&ours), format!("{} On a branch", &tip[..7]));
    assert!(summary(&theirs).ends_with("First: a change"));

    // On the Python client's own prefix: what it wrote counts, and loses nothing.
    let before = object(&stage, "python/refs/heads/main/repo.zip")?.0.etag;
    mirror(&stage, "python").await?;
    assert_eq!(keys(&stage, "ours/"), keys(&stage, "python/"));
    let after = object(&stage, "python/refs/heads/main/repo.zip")?.0.etag;
    assert_eq!(after, before);

    // A subject beyond ASCII: it stores the bundle, fails, and leaves an old archive.
    let tip = git::commit(work, &[("a.txt", "two\n")], "Größer")?;
    let failed = push(&["main"]).await?;
    assert!(
        failed.is_err(),
        "the Python client has learnt it: use its summary here"
    );
    let (old, _) = object(&stage, "python/refs/heads/main/repo.zip")?;
    assert_eq!(old.etag, before, "the archive is of the commit before");
    // The next run of ours heals it. The lock, if one is left, grows old.
    mirror(&stage, "ours").await?;
    let (ours, zip) = object(&stage, "ours/refs/heads/main/repo.zip")?;
    assert_eq!(summary(&ours), format!("{} Größer", &tip[..7]));
    compare::with_git_archive(&zip, work, &tip)?;
    mirror(&stage, "python").await?;
    let (theirs, zip) = object(&stage, "python/refs/heads/main/repo.zip")?;
    assert_eq!(summary(&theirs), summary(&ours));
    compare::with_git_archive(&zip, work, &tip)?;

    // And the Python client goes on from there.
    git::commit(work, &[("a.txt", "three\n")], "Third")?;
    push(&["main"]).await?.expect("the Python client pushes");
    mirror(&stage, "ours").await?;
    let (ours, theirs) = both("refs/heads/main")?;
    assert_eq!(summary(&ours), summary(&theirs));
    assert!(!theirs.attributes.user.contains_key(ARCHIVED));
    stage.server.shutdown().await;
    Ok(())
}
