//! The update function's real bootstrap makes artifacts from artifacts of other commits.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use branchline_dev::faults::Service;
use branchline_test_support::git;
use branchline_tests::compare;
use branchline_tests::environment::{Setup, TestEnvironment, UPDATE};
use serde_json::json;

async fn stage() -> Result<(TestEnvironment, tempfile::TempDir)> {
    stage_with("api").await
}

/// Starts an environment whose function reads whole commits by `source`.
async fn stage_with(source: &str) -> Result<(TestEnvironment, tempfile::TempDir)> {
    let stage = TestEnvironment::start(Setup {
        update: vec![("ARCHIVE_SOURCE", source.to_owned())],
        ..Setup::default()
    })
    .await?;
    stage.create_repository("demo").await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    Ok((stage, work))
}

/// Pushes `refspec`, and compares the artifact of the new execution with `git archive`.
async fn push(stage: &TestEnvironment, work: &Path, refspec: &str, tip: &str) -> Result<()> {
    let before = stage.executions().len();
    stage.push(work, "demo", &[refspec]).await?;
    stage.wait_until_idle().await?;
    let executions = stage.executions();
    assert_eq!(executions.len(), before + 1, "{refspec} is archived");
    let last = executions.last().context("it is there")?;
    compare::with_git_archive(&stage.source_of(last)?, work, tip)?;
    Ok(())
}

fn count(stage: &TestEnvironment, operation: &str) -> u64 {
    stage
        .server
        .requests()
        .count(Service::CodeCommit, operation)
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_after_the_first_fetch_only_what_changed() -> Result<()> {
    let (stage, work) = stage().await?;
    let work = work.path();
    let names: Vec<String> = (0..600).map(|n| format!("d{}/f{n}", n % 40)).collect();
    let mut files: Vec<_> = names.iter().map(|name| (name.as_str(), &**name)).collect();
    files.push((
        ".gitattributes",
        "*.crlf text eol=crlf\nversion export-subst\n",
    ));
    files.push(("version", "$Format:%H$\n"));
    files.push(("a.crlf", "1\n2\n"));
    let first = git::commit(work, &files, "First")?;
    push(&stage, work, "main", &first).await?;
    let (folders, blobs) = (count(&stage, "GetFolder"), count(&stage, "GetBlob"));
    assert_eq!((folders, blobs), (41, 603));

    // An edit, a new file, a removed file, a mode, a rename, and a symbolic link.
    std::fs::remove_file(work.join("d3/f3"))?;
    std::fs::rename(work.join("d4/f4"), work.join("d5.txt"))?;
    std::fs::set_permissions(work.join("d6/f6"), Permissions::from_mode(0o755))?;
    std::os::unix::fs::symlink("f7", work.join("d7/link"))?;
    let second = git::commit(work, &[("d0/f0", "changed"), ("new/file", "new")], "Second")?;
    push(&stage, work, "main", &second).await?;
    assert_eq!(
        count(&stage, "GetDifferences"),
        1,
        "all differences are on one page"
    );
    assert_eq!(
        count(&stage, "GetFolder") - folders,
        1,
        "the folder of `version`"
    );
    let fetched = count(&stage, "GetBlob") - blobs;
    assert_eq!(fetched, 7, "the attributes and six files");

    // A new branch starts from the default branch.
    let third = git::commit(work, &[("d1/f1", "on a branch")], "Third")?;
    push(&stage, work, "main:refs/heads/feature/x", &third).await?;
    assert_eq!(count(&stage, "GetDifferences"), 2);

    // A forced push to an unrelated history.
    git::git(work, ["checkout", "--quiet", "--orphan", "other"])?;
    let fourth = git::commit(work, &[("d1/f1", "unrelated")], "Fourth")?;
    push(&stage, work, "+other:refs/heads/main", &fourth).await?;
    assert_eq!(count(&stage, "GetDifferences"), 3);
    assert_eq!(
        count(&stage, "GetFolder") - folders,
        3,
        "two more for `version`"
    );
    stage.server.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_an_artifact_takes_no_more_memory_than_a_full_run() -> Result<()> {
    const LARGEST: usize = 6 << 20;
    let (stage, work) = stage().await?;
    let work = work.path();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for file in 0..14 {
        let mut noise = Vec::with_capacity(LARGEST);
        while noise.len() < LARGEST {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            noise.extend(seed.to_le_bytes());
        }
        noise.truncate(LARGEST);
        std::fs::write(work.join(format!("noise-{file}")), noise)?;
    }
    let first = git::commit(work, &[("a", "1")], "Noise")?;
    push(&stage, work, "main", &first).await?;
    for file in 0..5 {
        let from = work.join(format!("noise-{}", file + 6));
        let mut noise = std::fs::read(from)?;
        noise.reverse();
        std::fs::write(work.join(format!("noise-{file}")), noise)?;
    }
    let second = git::commit(work, &[("a", "2")], "More noise")?;
    push(&stage, work, "main", &second).await?;
    assert_eq!(count(&stage, "GetDifferences"), 1);
    assert_eq!(count(&stage, "GetBlob"), 15 + 6, "the others are copied");
    let event = json!({"repository": "demo", "branch": "main"});
    let peak = stage.invoke(UPDATE, &event).await?.max_memory_bytes;
    let peak = peak.context("the system reports it")?;
    let bound = (64 << 20) + 3 * LARGEST as u64;
    assert!(peak <= bound, "{peak} bytes are more than {bound}");
    stage.server.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_many_files_is_fetched_by_git_and_the_next_push_reuses_it() -> Result<()> {
    let (stage, work) = stage_with("auto").await?;
    let work = work.path();
    let names: Vec<String> = (0..600).map(|n| format!("d{}/f{n}", n % 200)).collect();
    let mut files: Vec<_> = names.iter().map(|name| (name.as_str(), &**name)).collect();
    files.push((".gitattributes", "*.crlf text eol=crlf\n"));
    files.push(("a.crlf", "1\n2\n"));
    let first = git::commit(work, &files, "First")?;
    push(&stage, work, "main", &first).await?;
    assert_eq!(count(&stage, "GetBlob"), 1, "the attributes of the root");
    let folders = count(&stage, "GetFolder");
    assert!(folders <= 33, "the walk ends early: {folders}");
    let by_git = stage.requests_of(UPDATE, Service::Git);
    assert_eq!(by_git, 2, "the refs, and the pack");
    let by_api = stage.requests_of(UPDATE, Service::CodeCommit);
    assert_eq!(
        by_api,
        3 + folders + 1,
        "the tip, its commit, the repository"
    );

    let second = git::commit(work, &[("d0/f0", "changed")], "Second")?;
    push(&stage, work, "main", &second).await?;
    assert_eq!(count(&stage, "GetDifferences"), 1, "the artifact is reused");
    assert_eq!(count(&stage, "GetFolder"), folders);
    assert_eq!(stage.requests_of(UPDATE, Service::Git), by_git);
    let requests = stage.requests_of(UPDATE, Service::CodeCommit) - by_api;
    assert_eq!(requests, 6, "those of the change");
    let event = json!({"repository": "demo", "branch": "main"});
    let peak = stage.invoke(UPDATE, &event).await?.max_memory_bytes;
    let peak = peak.context("the system reports it")?;
    assert!(peak <= 64 << 20, "{peak} bytes for a small commit");
    stage.server.shutdown().await;
    Ok(())
}
