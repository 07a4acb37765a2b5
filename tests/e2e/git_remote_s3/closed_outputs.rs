//! Outputs that are closed early or cannot be written, and inputs that end early: an exit status,
//! at most one line on standard error, and no process that stays.

use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::environment::{Terminal, url};

/// Longest time that a program runs after its pipes are closed.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Waits for the end of a program; returns its exit status and what it printed on standard error.
async fn end(mut child: Child) -> Result<(Option<i32>, String)> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            let mut said = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                stderr.read_to_string(&mut said)?;
            }
            return Ok((status.code(), said));
        }
        if begin.elapsed() > END_LIMIT {
            child.kill()?;
            ensure!(false, "the program has not ended");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_or_a_full_disk_ends_a_command_without_a_panic() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 6)?;
    let url = url("r");
    terminal.push(&url, &["main", "side"]).await?.done();
    let revision = format!("{url}@main");
    let copy = super::environment::url("copy");
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full");
    for arguments in [
        &["remote", "doctor", &url][..],
        &["remote", "doctor", "--json", &url],
        &["remote", "gc", &url],
        &["archive", "--format", "tar", &revision],
        &["mirror", "--json", &url, &copy],
        &["completions", "bash"],
        &["--help"],
    ] {
        for closed in [true, false] {
            let mut command = terminal.command("branchline", arguments);
            command.stdin(Stdio::null()).stderr(Stdio::piped());
            if closed {
                command.stdout(Stdio::piped());
            } else {
                command.stdout(full()?);
            }
            let mut child = command.spawn()?;
            drop(child.stdout.take());
            let (status, said) = end(child).await?;
            let case = format!("{arguments:?}, {closed}: {status:?} {said}");
            assert!(status.is_some_and(|status| status < 4), "{case}");
            assert!(!said.contains("panicked"), "{case}");
            // A mirror goes on, and so does what prints help.
            let ends = ["remote", "archive"].contains(&arguments[0]);
            if ends && !closed {
                assert_eq!(status, Some(1), "{case}");
                assert!(said.contains("No space left on device"), "{case}");
                assert!(said.contains("standard output cannot be written"), "{case}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_helper_ends_when_git_goes_away() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 30)?;
    for layout in ["bundle", "dumb"] {
        let url = url(layout);
        terminal.init_remote(layout, &url).await?;
        terminal.push(&url, &["main"]).await?.done();
        let requests = [
            "",
            "capabilities\n",
            "capabilities\nlist\n",
            "list for-push\n",
            "connect git-upload-pack\n",
            "connect git-upload-pack\n0014command=ls-refs\n",
            "connect git-upload-pack\n0014command=ls-refs\n0000",
            "connect git-receive-pack\n",
            "connect git-receive-pack\n00",
            "connect git-upload-archive\n0012argument main\n0000",
        ];
        for request in requests {
            for keeps_input in [true, false] {
                let mut command = terminal.command("git-remote-s3", &["origin", &url]);
                command
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped());
                let mut child = command.spawn()?;
                let mut input = child.stdin.take();
                if let Some(input) = &mut input {
                    input.write_all(request.as_bytes())?;
                }
                drop(child.stdout.take());
                // Where nothing is answered, only the end of the input is noticed.
                let input = input.filter(|_| keeps_input && request.contains("list"));
                let (status, said) = end(child).await?;
                drop(input);
                let case = format!("{layout}, {request:?}: {status:?} {said}");
                assert!(status.is_some_and(|status| status < 4), "{case}");
                assert!(!said.contains("panicked"), "{case}");
            }
        }
    }
    Ok(())
}
