//! A push to the layout `dumb` that is killed or interrupted at any of its requests: the remote
//! stays valid, the next push does the rest, and nothing temporary is left.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use branchline_dev::faults::Service;
use branchline_dev::s3::store::PublicAccess;
use branchline_test_support::git;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process_group};

use super::environment::{BUCKET, Terminal, url};
use super::peers::Python;

/// Bytes that do not compress, so that bundles are sent by multipart uploads.
const LARGE_FILE_BYTES: usize = 11 << 20;
/// Number of the last request at which a push is ended. A push that merges packs sends more.
const MAX_REQUEST: u64 = 24;
/// Longest wait for the end of what an interrupted push does in the background.
const CLEANUP_LIMIT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Pushes of one kind, ended in one way.
#[derive(Debug, Clone, Copy)]
struct Ending {
    layout: &'static str,
    signal: Signal,
    /// Each push creates the repository; else, it adds to one.
    creates: bool,
}

/// "A killed push to the layout `dumb` leaves a valid repository, and the next push does the rest."
#[tokio::test]
async fn a_push_to_the_dumb_layout_that_is_killed_at_any_request_is_completed_by_the_next()
-> Result<()> {
    end_at_each_request("dumb", Signal::KILL).await
}

#[tokio::test]
async fn a_push_to_the_dumb_layout_that_is_interrupted_at_any_request_leaves_nothing() -> Result<()>
{
    end_at_each_request("dumb", Signal::INT).await
}

async fn end_at_each_request(layout: &'static str, signal: Signal) -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let temporary = terminal.path("temporary");
    std::fs::create_dir(&temporary)?;
    terminal.set("TMPDIR", temporary.to_str());
    terminal.set("GIT_CONFIG_COUNT", Some("1"));
    terminal.set("GIT_CONFIG_KEY_0", Some("branchline.layout"));
    terminal.set("GIT_CONFIG_VALUE_0", Some(layout));
    if signal == Signal::KILL {
        // The next push waits until the lock of the killed one is abandoned.
        terminal.set("GIT_REMOTE_S3_LOCK_TTL_SECONDS", Some("1"));
    }
    terminal.repository("work", 6)?;
    let mut large = vec![0; LARGE_FILE_BYTES];
    StdRng::seed_from_u64(1).fill(&mut large[..]);
    std::fs::write(terminal.path("work/large"), large)?;
    git::commit(&terminal.path("work"), &[], "large")?;
    let store = terminal.server().store();
    store.set_public_access(BUCKET, PublicAccess::ReadAndList);
    for creates in [false, true] {
        let ending = Ending {
            layout,
            signal,
            creates,
        };
        let ended = ending.at_each_request(&terminal).await;
        ended.with_context(|| format!("{ending:?}"))?;
    }
    let left: Vec<_> = std::fs::read_dir(&temporary)?.collect();
    assert!(left.is_empty(), "temporary files: {left:?}");
    let mut objects = files(&terminal.path("work/.git/objects"))?;
    objects.retain(|path| path.contains("tmp_") || path.contains("incoming"));
    assert_eq!(objects, [""; 0], "git's temporary files");
    Ok(())
}

impl Ending {
    async fn at_each_request(self, terminal: &Terminal) -> Result<()> {
        let mut url = url("r");
        if !self.creates {
            terminal.push(&url, &["main"]).await?.done();
        }
        let mut k = 1;
        loop {
            let work = terminal.path("work");
            let mut before = git::git(&work, ["rev-parse", "main"])?;
            let text = format!("{k}");
            let after = git::commit(&work, &[("file", text.as_str())], &text)?;
            if self.creates {
                url = super::environment::url(&format!("new-{k}"));
                before = String::new();
            }
            let was_ended = self.push(terminal, &url, k).await?;
            let checked = self.check(terminal, &url, [&before, &after], k).await;
            checked.with_context(|| format!("request {k}"))?;
            if !was_ended || k == MAX_REQUEST {
                break;
            }
            k += 1;
        }
        ensure!(k > 4, "pushes were ended at {k} requests");
        Ok(())
    }

    /// Pushes, and ends git and its helper at the k-th request; returns false if there were fewer
    /// requests.
    async fn push(self, terminal: &Terminal, url: &str, k: u64) -> Result<bool> {
        // The request of a killed push is never carried out. That of an interrupted one is, later:
        // the store after it is the same as before the next request.
        let milliseconds = match self.signal {
            Signal::KILL => 600_000,
            _ => 300,
        };
        let faults = terminal.server().faults();
        let rule = format!("s3:latency,ms={milliseconds},nth={k}");
        let parsed = rule.parse();
        faults.add(parsed.map_err(|error| anyhow::anyhow!("{error}"))?);
        let mut command = terminal.command("git", &["-C", "work", "push", url, "main"]);
        command.stderr(Stdio::null()).stdout(Stdio::null());
        command.process_group(0);
        let mut child = command.spawn()?;
        let group = Pid::from_raw(i32::try_from(child.id())?).context("a process has an id")?;
        let is_held = || faults.rules().iter().any(|rule| rule.hits > 0);
        let was_ended = loop {
            if is_held() {
                kill_process_group(group, self.signal)?;
                break true;
            }
            if child.try_wait()?.is_some() {
                break false;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        };
        let status = tokio::task::spawn_blocking(move || child.wait()).await??;
        faults.clear();
        ensure!(
            was_ended || status.success(),
            "the push ended with {status}"
        );
        Ok(was_ended)
    }

    async fn check(
        self,
        terminal: &Terminal,
        url: &str,
        [before, after]: [&str; 2],
        k: u64,
    ) -> Result<()> {
        let name = url.rsplit('/').next().unwrap_or_default();
        let prefix = format!("team/{name}/");
        if self.signal == Signal::INT {
            self.nothing_is_left(terminal, &prefix).await?;
        }
        let listed = terminal.git(&["ls-remote", url, "refs/heads/main"]).await?;
        let listed = listed.done();
        let id = listed.split('\t').next().unwrap_or_default();
        ensure!(id == before || id == after, "`{listed}` is listed");
        let clone = format!("{}-{name}-{k}", self.layout);
        let is_complete = !has_two_bundles(terminal, &prefix);
        self.clone_as_others(terminal, url, &clone, id, is_complete)
            .await?;
        terminal.push(url, &["main"]).await?.done();
        let listed = terminal.git(&["ls-remote", url, "refs/heads/main"]).await?;
        let listed = listed.done();
        ensure!(
            listed.starts_with(after),
            "`{listed}` is listed after a push"
        );
        let clone = format!("{clone}-completed");
        let mut after = after.to_owned();
        if has_two_bundles(terminal, &prefix) {
            // The push was up to date, so that git sent nothing: the next one deletes the old bundle.
            after = git::commit(&terminal.path("work"), &[("file", "next")], "next")?;
            terminal.push(url, &["main"]).await?.done();
        }
        self.nothing_is_left(terminal, &prefix).await?;
        ensure!(!has_two_bundles(terminal, &prefix), "a ref has two bundles");
        self.clone_as_others(terminal, url, &clone, &after, true)
            .await
    }

    /// Clones with what else reads the layout: git's own HTTP, or the Python client. The latter
    /// refuses a ref with two bundles, which it has between the publication of the new one and the
    /// deletion of the old one; ours lists one of them.
    async fn clone_as_others(
        self,
        terminal: &Terminal,
        url: &str,
        to: &str,
        expected: &str,
        is_complete: bool,
    ) -> Result<()> {
        if expected.is_empty() {
            return Ok(());
        }
        let cloned = if self.layout == "dumb" {
            let path = url.strip_prefix("s3://").unwrap_or(url);
            let over_http = format!("{}/{path}", terminal.server().endpoint());
            terminal.git(&["clone", "--quiet", &over_http, to]).await?
        } else if let Some(python) = Python::of(terminal).filter(|_| is_complete) {
            python.git(&["clone", "--quiet", url, to]).await?
        } else {
            terminal.git(&["clone", "--quiet", url, to]).await?
        };
        cloned.done();
        let clone = terminal.path(to);
        let id = git::git(&clone, ["rev-parse", "refs/remotes/origin/main"])?;
        ensure!(id == expected, "{to} has {id}");
        git::git(&clone, ["fsck", "--strict", "--connectivity-only"])?;
        std::fs::remove_dir_all(clone)?;
        Ok(())
    }

    /// Waits until no lock, no upload and no staged pack is left below `prefix`.
    async fn nothing_is_left(self, terminal: &Terminal, prefix: &str) -> Result<()> {
        let begin = Instant::now();
        loop {
            // Git does not wait for its helper, whose last request may still be on the way. That of a
            // killed one never arrives.
            let requests = terminal.server().requests();
            requests.reset();
            let is_killed = self.signal == Signal::KILL;
            let is_quiet = is_killed || requests.max_in_flight(Service::S3) == 0;
            let mut left = terminal.keys(prefix);
            left.retain(|key| key.contains("LOCK#") || key.contains("tmp_pack_"));
            let uploads = terminal.server().store().uploads(BUCKET);
            let uploads = uploads.map_err(|error| anyhow::anyhow!("{error}"))?;
            // A client that is killed between the creation of an upload and the write by which its
            // lock names the upload leaves one without parts.
            if is_quiet && left.is_empty() && (is_killed || uploads.is_empty()) {
                return Ok(());
            }
            let waited = begin.elapsed();
            ensure!(
                waited < CLEANUP_LIMIT,
                "left after {waited:?}: {left:?}, {} uploads",
                uploads.len()
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Whether a ref below `prefix` has two bundles.
fn has_two_bundles(terminal: &Terminal, prefix: &str) -> bool {
    let mut folders = BTreeSet::new();
    let keys = terminal.keys(prefix);
    let mut bundles = keys.iter().filter(|key| key.ends_with(".bundle"));
    bundles.any(|key| !folders.insert(key.rsplit_once('/').unwrap_or_default().0))
}

/// The paths of all files below a directory.
fn files(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}
