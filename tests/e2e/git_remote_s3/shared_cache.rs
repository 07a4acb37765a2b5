//! Several processes that use one pack cache at the same time.

use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use branchline_test_support::git;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process_group};

use super::environment::{Terminal, url};

/// Rounds of processes that run at the same time.
const ROUNDS: usize = 3;
/// Users in each round, each of whom pushes to a repository and clones from it.
const USERS: usize = 4;
/// Size of a file that is added in each round, so that packs of several rounds do not fit.
const FILE_BYTES: usize = 300 << 10;

/// Pushes of several users to branches of one repository, clones of all branches, and processes
/// that are killed, with a cache of 1 MiB that evicts all the time.
#[tokio::test]
async fn processes_that_share_a_cache_and_are_killed_serve_correct_packs() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let cache = terminal.path("cache").display().to_string();
    terminal.set("XDG_CACHE_HOME", Some(&cache));
    terminal.set("BRANCHLINE_CACHE_MIB", Some("1"));
    terminal.set("GIT_REMOTE_S3_LOCK_TTL_SECONDS", Some("1"));
    let url = url("r");
    let mut random = StdRng::seed_from_u64(7);
    for user in 0..USERS {
        terminal.repository(&format!("user-{user}"), 6)?;
    }
    for round in 0..ROUNDS {
        let mut works = Vec::new();
        for user in 0..USERS {
            let name = format!("user-{user}");
            let mut content = vec![0; FILE_BYTES];
            random.fill(&mut content[..]);
            std::fs::write(terminal.path(&format!("{name}/file-{round}")), content)?;
            git::commit(&terminal.path(&name), &[], &format!("{name} {round}"))?;
            // One process of a round is killed at some time.
            let killed_after = (user == round).then(|| random.random_range(20..400));
            works.push(work(&terminal, &url, user, round, killed_after));
        }
        futures_util::future::try_join_all(works).await?;
    }
    let packs = std::fs::read_dir(terminal.path("cache/branchline/packs"))?;
    let sizes: Vec<u64> = packs
        .map(|entry| Ok(entry?.metadata()?.len()))
        .collect::<Result<_>>()?;
    ensure!(!sizes.is_empty(), "packs are cached");
    Ok(())
}

async fn work(
    terminal: &Terminal,
    url: &str,
    user: usize,
    round: usize,
    killed_after: Option<u64>,
) -> Result<()> {
    let name = format!("user-{user}");
    let refspec = format!("main:branch-{user}");
    let push = ["-C", &name, "push", "--quiet", url, &refspec];
    if let Some(milliseconds) = killed_after {
        let mut command = terminal.command("git", &push);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.process_group(0).spawn()?;
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        let group = Pid::from_raw(i32::try_from(child.id())?).context("a process has an id")?;
        // It may have ended by itself.
        let _ = kill_process_group(group, Signal::KILL);
        tokio::task::spawn_blocking(move || child.wait()).await??;
    }
    // A push that depends on a bundle which another push replaces meanwhile is rejected.
    let mut pushed = terminal.git(&push).await?;
    for _ in 0..USERS {
        if pushed.status != Some(0) {
            pushed = terminal.git(&push).await?;
        }
    }
    pushed.done();
    let clone = format!("clone-{user}-{round}");
    let branch = format!("branch-{user}");
    let arguments = ["clone", "--quiet", "--branch", &branch, url, &clone];
    terminal.git(&arguments).await?.done();
    let (clone, work) = (terminal.path(&clone), terminal.path(&name));
    git::git(&clone, ["fsck", "--strict"])?;
    let (found, expected) = (
        git::git(&clone, ["rev-parse", "HEAD"])?,
        git::git(&work, ["rev-parse", "main"])?,
    );
    ensure!(found == expected, "{name} clones {found}");
    Ok(())
}
