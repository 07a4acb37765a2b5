//! Failures at the terminal: the message, the exit status, and the state that is left.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use branchline_dev::faults::{Rule, Service};
use branchline_dev::s3::store::PutOptions;
use branchline_test_support::git;

use super::environment::{BUCKET, Terminal, url};

/// Number of the last request of a push that is made to fail.
const MAX_FAILED_REQUEST: u64 = 12;

/// The one line that begins with `fatal:` and comes from the helper.
fn fatal(said: &str) -> &str {
    let mut lines = said.lines().filter(|line| line.starts_with("fatal: "));
    let line = lines.next().unwrap_or_else(|| panic!("{said}"));
    assert_eq!(lines.next(), None, "{said}");
    assert!(
        !said.contains("panicked") && !said.contains('\u{1b}'),
        "{said}"
    );
    line
}

fn rule(text: &str) -> Result<Rule> {
    text.parse().map_err(|error| anyhow::anyhow!("{error}"))
}

#[tokio::test]
async fn each_failure_is_one_line_with_a_hint() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let failing = async |terminal: &Terminal, url: &str| -> Result<String> {
        let said = terminal.git(&["ls-remote", url]).await?.failed(128);
        Ok(fatal(&said).to_owned())
    };
    for (url, part) in [
        (
            "s3://no-such-bucket/x",
            "bucket `no-such-bucket` does not exist",
        ),
        (&format!("s3://{BUCKET}"), "has no prefix"),
        (&format!("s3://me:secret@{BUCKET}/x"), "profile"),
        ("s3://Not_A:Bucket/x", "bucket's name"),
        (
            &format!("s3://absent@{BUCKET}/x"),
            "the AWS profile `absent` does not exist",
        ),
    ] {
        let line = failing(&terminal, url).await?;
        assert!(
            line.contains(part) && line.contains("hint: "),
            "{url}: {line}"
        );
        assert!(!line.contains("secret"), "{line}");
    }
    terminal.set("AWS_SECRET_ACCESS_KEY", Some("wrong"));
    let line = failing(&terminal, &url("r")).await?;
    assert!(line.contains("does not accept the credentials"), "{line}");
    terminal.set("AWS_ACCESS_KEY_ID", None);
    terminal.set("AWS_SECRET_ACCESS_KEY", None);
    let line = failing(&terminal, &url("r")).await?;
    assert!(
        line.contains("no usable AWS credentials") && line.contains("hint: "),
        "{line}"
    );
    terminal.set("BRANCHLINE_CACHE_MIB", Some("much"));
    let line = failing(&terminal, &url("r")).await?;
    assert!(line.contains("`BRANCHLINE_CACHE_MIB`"), "{line}");
    Ok(())
}

#[tokio::test]
async fn a_call_by_hand_and_unknown_commands_are_refused() -> Result<()> {
    let terminal = Terminal::start().await?;
    let said = terminal.run("git-remote-s3", &[]).await?.failed(2);
    assert!(fatal(&said).contains("usage"), "{said}");
    let mut command = terminal.command("git-remote-s3", &["origin", &url("r")]);
    let output =
        tokio::task::spawn_blocking(move || git::output(&mut command, b"capabilities\nnonsense\n"));
    let output = output.await??;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr)?;
    assert!(
        fatal(&said).contains("`nonsense` is not a command"),
        "{said}"
    );
    // The end of the input is an end as good as any.
    let command = terminal.command("git-remote-s3", &["origin", &url("r")]);
    assert_eq!(terminal.wait_for(command).await?.done(), "");
    let said = terminal
        .run("branchline", &["--as", "git-remote-s4"])
        .await?
        .failed(2);
    assert!(said.contains("git-remote-s3"), "{said}");
    let said = terminal.run("branchline", &["nonsense"]).await?.failed(2);
    assert!(said.contains("Usage"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_push_to_a_bundle_that_fails_at_any_request_is_completed_by_the_next() -> Result<()> {
    fail_each_request("bundle").await
}

#[tokio::test]
async fn a_push_to_the_dumb_layout_that_fails_at_any_request_is_completed_by_the_next() -> Result<()>
{
    fail_each_request("dumb").await
}

/// Lets the k-th request of a push fail for each k: the remote is valid afterwards, and the next
/// push does the rest.
async fn fail_each_request(layout: &str) -> Result<()> {
    let mut terminal = Terminal::start().await?;
    // Where the release of a lock fails, the next push waits until it is abandoned.
    terminal.set("GIT_REMOTE_S3_LOCK_TTL_SECONDS", Some("1"));
    terminal.repository("work", 6)?;
    let work = terminal.path("work");
    let url = url(layout);
    terminal.init_remote(layout, &url).await?;
    terminal.push(&url, &["main"]).await?.done();
    let mut k = 1;
    loop {
        let before = git::git(&work, ["rev-parse", "main"])?;
        let text = format!("{layout} {k}");
        git::commit(&work, &[("file", text.as_str())], &text)?;
        // All tries of a request fail, so that no retry hides the failure.
        let requests = terminal.requests();
        for later in 0..5 {
            terminal
                .server()
                .faults()
                .add(rule(&format!("s3:error,nth={}", k + later))?);
        }
        let pushed = terminal.push(&url, &["main"]).await?;
        terminal.server().faults().clear();
        let sent = terminal.requests() - requests;
        let listed = terminal
            .git(&["ls-remote", &url, "refs/heads/main"])
            .await?
            .done();
        let after = git::git(&work, ["rev-parse", "main"])?;
        let is_valid = listed.starts_with(&before) || listed.starts_with(&after);
        assert!(is_valid, "{layout}, request {k}: {listed}");
        if pushed.status == Some(0) {
            assert!(
                listed.starts_with(&after),
                "{layout}, request {k}: {pushed:?}"
            );
        }
        terminal.push(&url, &["main"]).await?.done();
        // A push merges packs now and then, and then sends more requests.
        if sent < k || k == MAX_FAILED_REQUEST {
            break;
        }
        k += 1;
    }
    assert!(k > 3, "{layout}: requests were made to fail: {k}");
    git::commit(&work, &[("file", "last")], "last")?;
    terminal.push(&url, &["main"]).await?.done();
    let keys = terminal.keys(&format!("team/{layout}/"));
    assert_eq!(keys.iter().find(|key| key.contains("LOCK#")), None);
    terminal
        .git(&["clone", "--quiet", &url, layout])
        .await?
        .done();
    git::git(&terminal.path(layout), ["fsck", "--strict"])?;
    Ok(())
}

/// "A push that is interrupted leaves no lock and no upload."
#[tokio::test]
async fn an_interrupted_push_releases_its_lock_and_aborts_its_upload() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 4)?;
    let url = url("r");
    terminal.push(&url, &["side"]).await?.done();
    // The upload of the bundle takes longer than the test.
    for operation in ["PutObject", "CompleteMultipartUpload", "UploadPart"] {
        let text = format!("s3/{operation}:latency,ms=600000,nth=2");
        terminal.server().faults().add(rule(&text)?);
    }
    let mut command = terminal.command("git", &["-C", "work", "push", &url, "main"]);
    command.stderr(Stdio::piped()).stdout(Stdio::null());
    // As at a terminal, where Ctrl-C reaches git and the helper.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn()?;
    let lock = "team/r/refs/heads/main/LOCK#.lock";
    let has_lock = || terminal.keys("team/r/").iter().any(|key| key == lock);
    while !has_lock() {
        assert_eq!(child.try_wait()?, None, "the push waits for its upload");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let group = rustix::process::Pid::from_raw(i32::try_from(child.id())?).context("a pid")?;
    let interrupt = || rustix::process::kill_process_group(group, rustix::process::Signal::INT);
    interrupt()?;
    // Git signals its helper once more.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let _ = interrupt();
    let status = tokio::task::spawn_blocking(move || child.wait()).await??;
    assert!(!status.success());
    // Git does not wait for the helper.
    let begin = Instant::now();
    while has_lock() {
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "the lock is left"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let uploads = terminal.server().store().uploads(BUCKET);
    assert!(uploads.is_ok_and(|uploads| uploads.is_empty()));
    terminal.server().faults().clear();
    terminal.push(&url, &["main"]).await?.done();
    Ok(())
}

#[tokio::test]
async fn damaged_objects_are_reported_and_do_not_hang() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 6)?;
    for layout in ["bundle", "dumb"] {
        let url = url(layout);
        terminal.init_remote(layout, &url).await?;
        terminal.push(&url, &["main"]).await?.done();
        let store = terminal.server().store();
        for key in terminal.keys(&format!("team/{layout}/")) {
            let (_, extension) = key.rsplit_once('.').unwrap_or_default();
            if !["bundle", "pack"].contains(&extension) {
                continue;
            }
            let (_, whole) = store
                .get_bytes(BUCKET, &key, None)
                .map_err(|e| anyhow::anyhow!("{e}"))?;
            let truncated = &whole[..whole.len() / 2];
            store
                .put(BUCKET, &key, truncated, PutOptions::default())
                .map_err(|error| anyhow::anyhow!("{error}"))?;
        }
        let cloned = terminal.git(&["clone", &url, layout]).await?;
        let said = cloned.failed(128);
        assert!(said.contains("fatal: "), "{said}");
        assert!(!terminal.path(layout).exists(), "git removes the clone");
    }
    Ok(())
}

#[tokio::test]
async fn a_protected_branch_holds_against_force() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 4)?;
    let url = url("r");
    terminal.push(&url, &["main", "side"]).await?.done();
    let key = "team/r/refs/heads/side/PROTECTED#";
    let store = terminal.server().store();
    store
        .put(BUCKET, key, b"", PutOptions::default())
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    for refspec in ["+main~1:side", ":side"] {
        let said = terminal.push(&url, &[refspec]).await?.failed(1);
        assert!(said.contains("protected"), "{refspec}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_not_overwritten() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 4)?;
    let url = url("r");
    terminal.push(&url, &["side"]).await?.done();
    terminal.server().faults().add(rule("s3/GetObject:error")?);
    let pushed = terminal.push(&url, &["main"]).await?;
    assert_ne!(pushed.status, Some(0), "{pushed:?}");
    terminal.server().faults().clear();
    let store = terminal.server().store();
    let head = store.get_bytes(BUCKET, "team/r/HEAD", None);
    let (_, head) = head.map_err(|error| anyhow::anyhow!("{error}"))?;
    assert_eq!(head, "refs/heads/side".as_bytes());
    let lines = terminal.server().requests().lines();
    let writes = lines.iter().filter(|line| line.service == Service::S3);
    assert!(writes.count() > 0);
    Ok(())
}
