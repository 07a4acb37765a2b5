//! The agent's protocol, spoken by hand.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use branchline_dev::faults::{RequestLine, Service};
use branchline_test_support::lfs_server::oid;

use super::super::environment::{BUCKET, url};
use super::{
    TERMINATE, content, download, fault, files, init, lfs_keys, outcome, put, repository,
    run_agent, start_agent, terminal, upload,
};

#[tokio::test]
async fn each_event_is_answered_and_the_end_is_clean() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    repository(&terminal, "work", &url("r")).await?;
    let bytes = content("x", 5000);
    let id = oid(&bytes);
    let path = terminal.path("object");
    std::fs::write(&path, &bytes)?;
    let lines = [
        init("upload", "origin"),
        upload(&id, bytes.len(), &path),
        // A second time, the object is there.
        upload(&id, bytes.len(), &path),
        upload(&oid(b"gone"), 4, &terminal.path("gone")),
        TERMINATE.to_owned(),
    ];
    let said = run_agent(&terminal, "work", &lines).await?.done();
    let complete = format!(r#"{{"event":"complete","oid":"{id}"}}"#);
    let answers: Vec<&str> = said.lines().collect();
    assert_eq!(answers.first(), Some(&"{}"), "{said}");
    assert_eq!(
        answers.iter().filter(|line| **line == complete).count(),
        2,
        "{said}"
    );
    let progress = r#""event":"progress""#;
    assert!(answers.iter().any(|line| line.contains(progress)), "{said}");
    let failed = answers.last().copied().unwrap_or_default();
    assert!(failed.contains(r#""error":{"code":2"#), "{said}");
    assert!(failed.contains("git lfs fetch --all"), "{said}");
    assert_eq!(lfs_keys(&terminal, "team/r"), [format!("team/r/lfs/{id}")]);

    // The end of the input is as good as `terminate`.
    let lines = [init("download", "origin"), download(&id, bytes.len())];
    let said = run_agent(&terminal, "work", &lines).await?.done();
    let path = said.split(r#""path":""#).nth(1).context("a path")?;
    let path = path.split('"').next().context("a path ends")?;
    assert!(std::fs::read(path)? == bytes);
    Ok(())
}

#[tokio::test]
async fn what_is_not_an_event_ends_the_agent_with_a_message() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    repository(&terminal, "work", &url("r")).await?;
    super::git_in(
        &terminal,
        "work",
        &["remote", "add", "local", "../elsewhere"],
    )
    .await?;
    let origin = || init("download", "origin");
    for (lines, part) in [
        (vec!["{\"event\":".to_owned()], "is not an event of git-lfs"),
        (vec!["nonsense".to_owned()], "is not an event of git-lfs"),
        (
            vec![origin(), "{}".to_owned()],
            "is not an event of git-lfs",
        ),
        (vec![download(&oid(b""), 1)], "before `init`"),
        (
            vec![init("download", "absent")],
            "remote `absent` is not configured",
        ),
        (vec![init("upload", "local")], "is not in S3"),
        (
            vec![init("upload", "https://host/mirror")],
            "cannot be uploaded",
        ),
        (vec![init("download", "s3://bucket")], "has no prefix"),
    ] {
        let ended = run_agent(&terminal, "work", &lines).await?;
        let said = ended.clone().failed(1);
        assert!(
            said.starts_with("error: ") && said.contains(part),
            "{lines:?}: {said}"
        );
        assert!(said.contains("hint: ") || part == "before `init`", "{said}");
        if lines[0].contains("init") && !lines[0].contains("origin") {
            assert!(ended.stdout.contains(r#"{"error":{"code":"#), "{ended:?}");
        }
    }
    // At a terminal, the agent does not wait for events.
    let by_hand = [
        "--quiet",
        "--return",
        "--command",
        "git-lfs-s3",
        "/dev/null",
    ];
    let ended = terminal.run("script", &by_hand).await?;
    assert_eq!(ended.status, Some(2), "{ended:?}");
    assert!(
        ended.stdout.contains("git-lfs starts this program"),
        "{ended:?}"
    );
    // A wrong id or size fails that transfer only.
    let lines = [
        origin(),
        download("../../x", 1),
        download(&oid(b"gone"), 4),
        TERMINATE.to_owned(),
    ];
    let said = run_agent(&terminal, "work", &lines).await?.done();
    assert_eq!(said.matches(r#""error":{"code":2"#).count(), 2, "{said}");
    assert!(said.contains("the id `../../x`"), "{said}");
    assert!(said.contains("does not have LFS object"), "{said}");
    Ok(())
}

#[tokio::test]
async fn an_end_in_the_midst_of_a_transfer_leaves_nothing() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    repository(&terminal, "work", &url("r")).await?;
    let bytes = content("large", 12 << 20);
    let id = oid(&bytes);
    let path = terminal.path("object");
    std::fs::write(&path, &bytes)?;
    let store = terminal.server().store().clone();
    let uploads = || {
        store
            .uploads(BUCKET)
            .map_or(usize::MAX, |uploads| uploads.len())
    };
    for last in [Some(TERMINATE), None] {
        fault(&terminal, "s3/UploadPart:latency,ms=600000")?;
        let lines = [init("upload", "origin"), upload(&id, bytes.len(), &path)];
        let mut child = start_agent(&terminal, "work", &lines)?;
        while uploads() == 0 {
            assert_eq!(
                child.try_wait()?,
                None,
                "the upload waits for its first part"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut stdin = child.stdin.take().context("it is piped")?;
        if let Some(line) = last {
            writeln!(stdin, "{line}")?;
        }
        drop(stdin);
        let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
        let said = outcome(&output).failed(1);
        assert!(said.contains("git-lfs ended before LFS object"), "{said}");
        assert_eq!(uploads(), 0, "the upload is aborted");
        terminal.server().faults().clear();
    }
    assert!(lfs_keys(&terminal, "team/r").is_empty());

    // A download leaves no file.
    put(&terminal, &format!("team/r/lfs/{id}"), &bytes)?;
    fault(&terminal, "s3/GetObject:latency,ms=600000,nth=2")?;
    let lines = [init("download", "origin"), download(&id, bytes.len())];
    let mut child = start_agent(&terminal, "work", &lines)?;
    let directory = terminal.path("work/.git/lfs/tmp");
    while files(&directory).is_empty() {
        assert_eq!(
            child.try_wait()?,
            None,
            "the download waits for its second part"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(child.stdin.take());
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
    outcome(&output).failed(1);
    assert!(files(&directory).is_empty(), "{:?}", files(&directory));
    Ok(())
}

#[tokio::test]
async fn a_large_transfer_that_was_interrupted_is_continued() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    repository(&terminal, "work", &url("r")).await?;
    // Above the size from which transfers are continued.
    let bytes = content("huge", 66 << 20);
    let id = oid(&bytes);
    let path = terminal.path("object");
    std::fs::write(&path, &bytes)?;
    let parts = || {
        terminal
            .server()
            .requests()
            .count(Service::S3, "UploadPart")
    };
    fault(&terminal, "s3/UploadPart:latency,ms=600000,nth=12")?;
    let lines = [init("upload", "origin"), upload(&id, bytes.len(), &path)];
    let mut child = start_agent(&terminal, "work", &lines)?;
    let progress = "team/r/branchline/lfs-upload-";
    while parts() < 12 || terminal.keys(progress).is_empty() {
        assert_eq!(child.try_wait()?, None, "the upload waits for a part");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(child.stdin.take());
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
    outcome(&output).failed(1);
    terminal.server().faults().clear();
    let before = parts();
    let said = run_agent(&terminal, "work", &lines).await?.done();
    assert!(
        said.contains(r#""event":"complete""#) && !said.contains("error"),
        "{said}"
    );
    assert!(
        parts() - before < 14,
        "parts that were sent are not sent again"
    );
    assert_eq!(lfs_keys(&terminal, "team/r"), [format!("team/r/lfs/{id}")]);
    assert!(
        terminal.keys(progress).is_empty(),
        "the progress is deleted"
    );
    Ok(())
}

#[tokio::test]
async fn a_small_object_costs_one_request_and_nothing_is_listed() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    repository(&terminal, "work", &url("r")).await?;
    let contents: Vec<_> = (0..20).map(|n| content(&format!("{n}"), 10_000)).collect();
    let mut uploads = vec![init("upload", "origin")];
    let mut downloads = vec![init("download", "origin")];
    for (n, bytes) in contents.iter().enumerate() {
        let path = terminal.path(&format!("object-{n}"));
        std::fs::write(&path, bytes)?;
        uploads.push(upload(&oid(bytes), bytes.len(), &path));
        downloads.push(download(&oid(bytes), bytes.len()));
    }
    let count = |operation| terminal.server().requests().count(Service::S3, operation);
    for lines in [&mut uploads, &mut downloads] {
        lines.push(TERMINATE.to_owned());
        let said = run_agent(&terminal, "work", lines).await?.done();
        assert_eq!(said.matches(r#""event":"complete""#).count(), 20, "{said}");
    }
    assert_eq!((count("PutObject"), count("GetObject")), (20, 20));
    // Two find the layout of the repository.
    let lines = terminal.server().requests().lines();
    assert!(terminal.requests() <= 42, "{lines:?}");
    let lists = |line: &RequestLine| line.operation.contains("List");
    assert!(!lines.iter().any(lists), "{lines:?}");
    Ok(())
}

#[tokio::test]
async fn two_agents_that_send_one_large_object_both_succeed() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    repository(&terminal, "work", &url("r")).await?;
    let bytes = content("huge", 66 << 20);
    let path = terminal.path("object");
    std::fs::write(&path, &bytes)?;
    let lines = [
        init("upload", "origin"),
        upload(&oid(&bytes), bytes.len(), &path),
        TERMINATE.to_owned(),
    ];
    let both = tokio::join!(
        run_agent(&terminal, "work", &lines),
        run_agent(&terminal, "work", &lines)
    );
    for said in [both.0?.done(), both.1?.done()] {
        assert!(
            said.contains(r#""event":"complete""#) && !said.contains("error"),
            "{said}"
        );
    }
    let stored = terminal.server().store();
    let stored = stored.get_bytes(BUCKET, &format!("team/r/lfs/{}", oid(&bytes)), None);
    let (_, stored) = stored.map_err(|error| anyhow::anyhow!("{error}"))?;
    assert!(stored == bytes);
    assert!(terminal.keys("team/r/branchline/").is_empty());
    Ok(())
}
