//! The update function's real bootstrap on the development server, from a push to a
//! pinned execution.

use std::path::Path;

use anyhow::Result;
use branchline_dev::faults::Service;
use branchline_dev::pipeline::Status;
use branchline_dev::s3::policy::Policy;
use branchline_dev::s3::store::Query;
use branchline_test_support::git;
use branchline_tests::compare;
use branchline_tests::environment::{BUCKET, Setup, TestEnvironment, UPDATE};
use serde_json::json;

/// A stage with repository `demo`, and a work tree to push from.
async fn stage(setup: Setup) -> Result<(TestEnvironment, tempfile::TempDir)> {
    let stage = TestEnvironment::start(setup).await?;
    stage.create_repository("demo").await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    Ok((stage, work))
}

async fn push(stage: &TestEnvironment, work: &Path, refspecs: &[&str]) -> Result<()> {
    stage.push(work, "demo", refspecs).await?;
    stage.wait_until_idle().await
}

/// Bytes that do not shrink.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
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
async fn a_push_becomes_an_execution_pinned_to_an_archive_equal_to_gits() -> Result<()> {
    let (stage, work) = stage(Setup::default()).await?;
    let work = work.path();
    git::commit(work, &[("a.txt", "one\n"), ("dir/b.txt", "two\n")], "First")?;
    push(&stage, work, &["main", "main:refs/heads/feature/x/y"]).await?;
    assert_eq!(stage.executions().len(), 2, "one for each branch");

    let attributes = "*.txt text eol=crlf\nsecret export-ignore\nversion export-subst\n";
    let files = [
        (".gitattributes", attributes),
        ("secret", "s"),
        ("version", "$Format:%H %s$\n"),
    ];
    let tip = git::commit(work, &files, "Zweite Änderung: 日本語 ✓")?;
    push(&stage, work, &["main:refs/heads/feature/x/y"]).await?;

    let executions = stage.executions();
    let last = executions.last().expect("there is one");
    assert_eq!((executions.len(), last.status), (3, Status::Succeeded));
    let [source] = last.sources.as_slice() else {
        panic!("one source was read: {last:?}");
    };
    assert_eq!(
        (source.bucket.as_str(), source.key.as_str()),
        (BUCKET, "demo/feature/x/y.zip")
    );
    assert!(source.version_id.is_some(), "it is pinned");
    let summary = source
        .revision_summary
        .as_deref()
        .expect("a summary is shown");
    assert_eq!(summary, format!("{} Zweite Änderung: 日本語 ✓", &tip[..7]));
    let agreement = compare::with_git_archive(&stage.source_of(last)?, work, &tip)?;
    assert_eq!(agreement.entries, 5);
    stage.server.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn this_repository_is_archived_as_git_archives_it() -> Result<()> {
    let stage = TestEnvironment::start(Setup::default()).await?;
    stage.create_repository("branchline").await?;
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let tip = git::git(&own, ["rev-parse", "HEAD"])?;
    stage
        .push(&own, "branchline", &["HEAD:refs/heads/main"])
        .await?;
    stage.wait_until_idle().await?;
    let executions = stage.executions();
    let [execution] = executions.as_slice() else {
        panic!(
            "one execution: {executions:?}; {:?}",
            stage.server.queue().dead_letters()
        );
    };
    let agreement = compare::with_git_archive(&stage.source_of(execution)?, &own, &tip)?;
    assert!(agreement.entries > 100, "{agreement:?}");
    stage.server.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_branches_and_tags_start_nothing() -> Result<()> {
    let (stage, work) = stage(Setup::default()).await?;
    let work = work.path();
    git::commit(work, &[("a", "1")], "First")?;
    git::git(work, ["tag", "v1"])?;
    push(&stage, work, &["main", "main:old", "v1"]).await?;
    assert_eq!(stage.executions().len(), 2);
    push(&stage, work, &[":old"]).await?;
    assert_eq!(stage.executions().len(), 2);
    assert!(
        stage.server.queue().dead_letters().is_empty(),
        "no event failed"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_by_hand_and_a_schedule_are_answered() -> Result<()> {
    let (stage, work) = stage(Setup::default()).await?;
    let work = work.path();
    let tip = git::commit(work, &[("a", "1")], "First")?;
    push(&stage, work, &["main"]).await?;
    push(&stage, work, &["main:refs/heads/größe/日本"]).await?;
    let event = json!({"repository": "demo", "branch": "größe/日本"});
    let answer = stage.update(&event).await.expect("the branch is there");
    let result = &answer["results"][0];
    assert_eq!(result["outcome"], "unchanged");
    assert_eq!(result["commit"], json!(tip));
    assert_eq!(result["artifact"]["files"], 1);
    let answer = stage
        .update(&json!({"schedule": true}))
        .await
        .expect("it is well");
    for result in answer["results"].as_array().expect("it is a list") {
        assert_eq!(result["outcome"], "unchanged", "{result}");
    }
    assert_eq!(stage.executions().len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_events_fail_with_a_stable_type_and_the_field() -> Result<()> {
    let (stage, work) = stage(Setup::default()).await?;
    // What is converted must be held, and this is too large to be.
    let large = "x".repeat(32 * 1024 * 1024 + 1);
    let files = [
        (".gitattributes", "*.bin ident\n"),
        ("big/film.bin", &large),
    ];
    git::commit(work.path(), &files, "Large")?;
    push(&stage, work.path(), &["main"]).await?;
    let letters = stage.server.queue().dead_letters();
    assert_eq!(
        letters.len(),
        1,
        "Lambda gives the event up after its tries"
    );
    let cases = [
        (
            json!({"repository": "demo", "branch": "main"}),
            "FileTooLarge",
            "big/film.bin",
        ),
        (
            json!({"repository": "demo", "branch": "nope"}),
            "NotFound",
            "`nope`",
        ),
        (
            json!({"repository": "nowhere", "branch": "main"}),
            "NotFound",
            "`nowhere`",
        ),
        (
            json!({"repository": "a b", "branch": "main"}),
            "InvalidEvent",
            "`repository`",
        ),
        (json!({"what": 1}), "InvalidEvent", "`what`"),
        (json!([1, 2]), "InvalidEvent", "JSON object"),
    ];
    for (event, kind, named) in cases {
        let error = stage.update(&event).await.expect_err("it fails");
        assert_eq!(
            error["errorType"],
            json!(format!("branchline.{kind}")),
            "{event}: {error}"
        );
        let message = error["errorMessage"].as_str().unwrap_or_default();
        assert!(message.contains(named), "{event}: {message}");
    }
    let uploads = stage
        .server
        .store()
        .uploads(BUCKET)
        .expect("the bucket is there");
    assert!(uploads.is_empty(), "no upload is left behind");
    assert!(stage.executions().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_contradict_stop_the_function_at_init() -> Result<()> {
    let setup = Setup {
        update: vec![
            ("ARTIFACT_KEY", "source.zip".to_owned()),
            ("DELETE_ARTIFACTS", "true".to_owned()),
        ],
        ..Setup::default()
    };
    let stage = TestEnvironment::start(setup).await?;
    let error = stage
        .update(&json!({"schedule": true}))
        .await
        .expect_err("it cannot start");
    assert_eq!(error["errorType"], "branchline.Config", "{error}");
    let message = error["errorMessage"].as_str().unwrap_or_default();
    assert!(message.contains("`DELETE_ARTIFACTS`"), "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_archive_goes_up_in_parts() -> Result<()> {
    let (stage, work) = stage(Setup::default()).await?;
    let work = work.path();
    // Bytes that do not shrink: three parts of 5 MiB and a rest.
    for file in 0..6 {
        std::fs::write(work.join(format!("noise-{file}")), noise(file, 3 << 20))?;
    }
    let tip = git::commit(work, &[], "Noise")?;
    push(&stage, work, &["main"]).await?;
    let executions = stage.executions();
    let last = executions.last().expect("an execution started");
    compare::with_git_archive(&stage.source_of(last)?, work, &tip)?;
    assert!(
        last.sources[0].etag.contains("-4"),
        "four parts: {}",
        last.sources[0].etag
    );
    Ok(())
}

/// "Memory does not grow with the repository": the process as a whole, the SDK's buffers
/// and the allocator's leftovers included.
#[tokio::test(flavor = "multi_thread")]
async fn the_function_stays_within_its_memory_for_any_repository() -> Result<()> {
    const LARGEST: usize = 6 << 20;
    let (stage, work) = stage(Setup::default()).await?;
    let work = work.path();
    for file in 0..12 {
        std::fs::write(work.join(format!("noise-{file}")), noise(file, LARGEST))?;
    }
    git::commit(work, &[], "Noise")?;
    push(&stage, work, &["main"]).await?;
    assert_eq!(stage.executions().len(), 1, "the push was archived");
    // The same process answers, and its peak is that of all it did.
    let event = json!({"repository": "demo", "branch": "main"});
    let peak = stage.invoke(UPDATE, &event).await?.max_memory_bytes;
    let peak = peak.expect("the system tells it");
    let bound = (64 << 20) + 3 * LARGEST as u64;
    assert!(peak <= bound, "{peak} bytes are more than {bound}");
    Ok(())
}

/// Every object and version in the bucket, by key.
fn keys(stage: &TestEnvironment) -> Vec<String> {
    let query = Query {
        limit: 1000,
        ..Query::default()
    };
    let bucket = stage.server.store().bucket(BUCKET);
    let page = bucket.expect("the bucket is there").list_versions(&query);
    page.versions.into_iter().map(|found| found.key).collect()
}

/// "Files over 6 MiB, which CodeCommit's API does not serve, are read over git."
#[tokio::test(flavor = "multi_thread")]
async fn files_that_the_api_does_not_serve_are_archived_by_one_shallow_fetch() -> Result<()> {
    let (stage, work) = stage(Setup::default()).await?;
    let work = work.path();
    let film = noise(1, (6 << 20) + 1);
    std::fs::write(work.join("film"), &film)?;
    std::fs::write(work.join("film.again"), [&film[..], b"and more"].concat())?;
    let text = "a line\n".repeat(1 << 20);
    let files = [
        (".gitattributes", "*.txt text eol=crlf\n"),
        ("dir/large.txt", &text),
        ("small", "1"),
    ];
    let tip = git::commit(work, &files, "Large files")?;
    push(&stage, work, &["main"]).await?;
    let executions = stage.executions();
    let [execution] = executions.as_slice() else {
        panic!("{executions:?}; {:?}", stage.server.queue().dead_letters());
    };
    let agreement = compare::with_git_archive(&stage.source_of(execution)?, work, &tip)?;
    assert_eq!(agreement.entries, 6);
    assert_eq!(keys(&stage), ["demo/main.zip"], "the pack is gone");
    let fetches = stage
        .server
        .requests()
        .count(Service::Git, "git-upload-pack");
    assert_eq!(fetches, 2, "the refs and one pack");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_deletion_of_a_temporary_pack_is_named_in_the_answer() -> Result<()> {
    let (stage, work) = stage(Setup {
        update_memory_mib: Some(192),
        ..Setup::default()
    })
    .await?;
    let denied = json!({ "Statement": {
        "Effect": "Deny", "Principal": "*",
        "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion"],
        "Resource": format!("arn:aws:s3:::{BUCKET}/*"),
    }});
    let denied = Policy::parse(&denied.to_string()).map_err(|why| anyhow::anyhow!(why))?;
    let work = work.path();
    git::commit(work, &[("a", "1")], "First")?;
    push(&stage, work, &["main"]).await?;
    stage.server.store().set_policy(BUCKET, Some(denied));
    std::fs::write(work.join("film"), noise(7, 28 << 20))?;
    git::commit(work, &[], "Film")?;
    let lost = "events:lose,rate=1.0".parse();
    stage
        .server
        .faults()
        .add(lost.expect("the rule is well formed"));
    push(&stage, work, &["main"]).await?;
    let event = json!({"repository": "demo", "branch": "main"});
    let answer = stage.update(&event).await;
    let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    assert_eq!(answer["results"][0]["outcome"], "started");
    let reason = answer["results"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("`s3:DeleteObject"), "{answer}");
    Ok(())
}

/// "Memory does not grow with files that are read over git: at most `64 MiB + 3 x 6 MiB` and half of
/// the function's memory."
#[tokio::test(flavor = "multi_thread")]
async fn the_function_stays_within_its_memory_however_large_a_file_is() -> Result<()> {
    const FUNCTION_MIB: u32 = 192;
    let (stage, work) = stage(Setup {
        update_memory_mib: Some(FUNCTION_MIB),
        ..Setup::default()
    })
    .await?;
    let work = work.path();
    std::fs::write(work.join("film"), noise(99, 100 << 20))?;
    for file in 0..6 {
        std::fs::write(work.join(format!("noise-{file}")), noise(file, 5 << 20))?;
    }
    let tip = git::commit(work, &[], "Film")?;
    push(&stage, work, &["main"]).await?;
    let executions = stage.executions();
    let [execution] = executions.as_slice() else {
        panic!("{executions:?}; {:?}", stage.server.queue().dead_letters());
    };
    compare::with_git_archive(&stage.source_of(execution)?, work, &tip)?;
    assert_eq!(keys(&stage), ["demo/main.zip"], "the pack is gone");
    // The same process answers, and its peak is that of all it did.
    let event = json!({"repository": "demo", "branch": "main"});
    let peak = stage.invoke(UPDATE, &event).await?.max_memory_bytes;
    let peak = peak.expect("the system tells it");
    let bound = (64 << 20) + 3 * (6 << 20) + u64::from(FUNCTION_MIB / 2) * (1 << 20);
    println!("{} MiB at most of {}", peak >> 20, bound >> 20);
    assert!(peak <= bound, "{peak} bytes are more than {bound}");
    Ok(())
}
