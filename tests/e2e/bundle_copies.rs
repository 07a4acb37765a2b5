//! The migration function's environments and the packs that they keep in `/tmp`.

use anyhow::{Result, ensure};
use branchline_dev::faults::Service;
use branchline_test_support::git;
use branchline_test_support::http_backend::HttpBackend;
use branchline_tests::environment::{MIGRATION, Setup, TestEnvironment};
use serde_json::json;

const BUCKET: &str = "remotes";

/// Starts an environment over the data of an earlier one, with a cold function.
async fn stage_on(data: &std::path::Path) -> Result<TestEnvironment> {
    TestEnvironment::start(Setup {
        migration: Some(Vec::new()),
        data: Some(data.to_owned()),
        ..Setup::default()
    })
    .await
}

/// Pushes to the bundle remote; how many objects were read for it.
async fn push(stage: &TestEnvironment, source: &HttpBackend) -> Result<u64> {
    let reads = || {
        let lines = stage.server.requests().lines().into_iter();
        lines
            .filter(|line| line.service == Service::S3 && line.operation == "GetObject")
            .map(|line| line.count)
            .sum::<u64>()
    };
    let before = reads();
    let event = json!({ "mappings": [{
        "source": source.url(), "target": format!("s3://{BUCKET}/r"), "layout": "bundle",
    }]});
    let answer = stage.call(MIGRATION, &event).await;
    let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(answer["status"] == "complete", "{answer}");
    Ok(reads() - before)
}

/// "A function that wrote or read a bundle before re-reads only its two ends."
#[tokio::test(flavor = "multi_thread")]
async fn a_warm_function_does_not_read_the_bundle_that_it_wrote() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let work = folder.path().join("work");
    git::init(&work)?;
    let noise = (0..40_000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string());
    let noise = noise.collect::<Vec<_>>().join("\n");
    git::commit(&work, &[("noise.txt", &noise)], "First")?;
    let source = HttpBackend::start(&work.join(".git"))?;

    let stage = stage_on(&data).await?;
    stage.create_public_bucket(BUCKET)?;
    push(&stage, &source).await?;
    // `HEAD`, the start and the end of the bundle, and the record of LFS objects.
    for n in 0..2 {
        git::commit(&work, &[("small.txt", &format!("{n}"))], "Warm")?;
        assert_eq!(push(&stage, &source).await?, 4, "warm, push {n}");
    }
    stage.server.shutdown().await;

    let stage = stage_on(&data).await?;
    git::commit(&work, &[("small.txt", "cold")], "Cold")?;
    assert_eq!(
        push(&stage, &source).await?,
        5,
        "another environment reads it"
    );
    git::commit(&work, &[("small.txt", "warm again")], "Warm again")?;
    assert_eq!(push(&stage, &source).await?, 4, "once");

    let id = git::git(&work, ["rev-parse", "HEAD"])?;
    let branch = git::git(&work, ["symbolic-ref", "HEAD"])?;
    let key = format!("r/{}/{}.bundle", branch.trim(), id.trim());
    let object = stage.server.store().get_bytes(BUCKET, &key, None);
    let (_, bundle) = object.map_err(|error| anyhow::anyhow!("`{key}`: {error}"))?;
    let path = folder.path().join("it.bundle");
    std::fs::write(&path, bundle)?;
    let path = path.to_string_lossy().into_owned();
    git::git(&work, ["bundle", "verify", "--quiet", &path])?;
    git::git(
        folder.path(),
        ["clone", "--quiet", "--mirror", &path, "clone"],
    )?;
    git::git(&folder.path().join("clone"), ["fsck", "--strict"])?;
    stage.server.shutdown().await;
    Ok(())
}
