//! A push that is killed or interrupted at any of its requests: the remote stays valid, a retry
//! does the rest, and nothing temporary is left.

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

/// Bytes that do not compress, so that packs are sent by multipart uploads.
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

/// A push that was ended.
struct EndedPush {
    url: String,
    /// The ids of the branch before and after the push.
    before: String,
    after: String,
}

/// "A killed push to the layout `dumb` leaves a valid repository, and the next push does the rest."
#[tokio::test]
async fn a_push_to_the_dumb_layout_that_is_killed_at_any_request_is_completed_by_the_next()
-> Result<()> {
    end_at_each_request("dumb", Signal::KILL, &[false, true]).await
}

#[tokio::test]
async fn a_push_to_the_dumb_layout_that_is_interrupted_at_any_request_leaves_nothing() -> Result<()>
{
    end_at_each_request("dumb", Signal::INT, &[false, true]).await
}

/// "A killed push to the layout `bundle` leaves a valid repository, and a retry does the rest."
#[tokio::test]
async fn a_push_to_the_bundle_layout_that_is_killed_at_any_request_is_completed_by_a_retry()
-> Result<()> {
    end_at_each_request("bundle", Signal::KILL, &[false]).await
}

#[tokio::test]
async fn a_first_push_to_the_bundle_layout_that_is_killed_at_any_request_is_completed_by_a_retry()
-> Result<()> {
    end_at_each_request("bundle", Signal::KILL, &[true]).await
}

/// "A push to the layout `bundle` that is interrupted leaves no lock, no upload, no second bundle."
#[tokio::test]
async fn a_push_to_the_bundle_layout_that_is_interrupted_at_any_request_leaves_nothing()
-> Result<()> {
    end_at_each_request("bundle", Signal::INT, &[false, true]).await
}

async fn end_at_each_request(layout: &'static str, signal: Signal, creates: &[bool]) -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let temporary = terminal.path("temporary");
    std::fs::create_dir(&temporary)?;
    terminal.set("TMPDIR", temporary.to_str());
    terminal.set("GIT_CONFIG_COUNT", Some("1"));
    terminal.set("GIT_CONFIG_KEY_0", Some("branchline.layout"));
    terminal.set("GIT_CONFIG_VALUE_0", Some(layout));
    if signal == Signal::KILL {
        // A retry waits until the lock of the killed push is abandoned.
        terminal.set("GIT_REMOTE_S3_LOCK_TTL_SECONDS", Some("1"));
    }
    terminal.repository("work", 6)?;
    if layout == "dumb" {
        // A bundle is always sent by a multipart upload.
        let mut large = vec![0; LARGE_FILE_BYTES];
        StdRng::seed_from_u64(1).fill(&mut large[..]);
        std::fs::write(terminal.path("work/large"), large)?;
        git::commit(&terminal.path("work"), &[], "large")?;
    }
    let store = terminal.server().store();
    store.set_public_access(BUCKET, PublicAccess::ReadAndList);
    for creates in creates {
        let ending = Ending {
            layout,
            signal,
            creates: *creates,
        };
        let ended = ending.at_each_request(&terminal).await;
        ended.with_context(|| format!("{ending:?}"))?;
    }
    let mut left = files(&temporary)?;
    // The Python client does not delete its own.
    left.retain(|path| !path.contains("/git_remote_s3_"));
    assert_eq!(left, [""; 0], "temporary files");
    let mut objects = files(&terminal.path("work/.git/objects"))?;
    objects.retain(|path| path.contains("tmp_") || path.contains("incoming"));
    assert_eq!(objects, [""; 0], "git's temporary files");
    Ok(())
}

impl Ending {
    /// Ends a push at each of its requests, and checks what it leaves. In the layout `bundle`, each
    /// push is to a repository of its own, and they are checked at the end, because the locks of
    /// killed pushes are abandoned by then.
    async fn at_each_request(self, terminal: &Terminal) -> Result<()> {
        let work = terminal.path("work");
        let mut ended = Vec::new();
        let mut with_two_bundles = 0;
        for k in 1..=MAX_REQUEST {
            let url = match (self.creates, self.layout) {
                (true, _) => url(&format!("new-{k}")),
                (false, "dumb") => url("r"),
                (false, _) => url(&format!("{k}")),
            };
            let mut before = String::new();
            if !self.creates {
                terminal.push(&url, &["main"]).await?.done();
                before = git::git(&work, ["rev-parse", "main"])?;
            }
            let text = format!("{k}");
            let after = git::commit(&work, &[("file", text.as_str())], &text)?;
            let was_ended = self.push(terminal, &url, k).await?;
            let push = EndedPush { url, before, after };
            if self.signal == Signal::INT {
                let left = nothing_is_left(terminal, &push.url, self.signal).await;
                left.with_context(|| format!("request {k}"))?;
            }
            with_two_bundles += usize::from(has_two_bundles(terminal, &push.url));
            if self.layout == "dumb" {
                let checked = self.check(terminal, &push).await;
                checked.with_context(|| format!("request {k}"))?;
            }
            ended.push((k, push));
            if !was_ended {
                break;
            }
        }
        ensure!(
            ended.len() > 4,
            "pushes were ended at {} requests",
            ended.len()
        );
        // The deletion of the old bundle, and the requests that are sent with it.
        let max = match self.signal {
            Signal::KILL if !self.creates => 3,
            _ => 0,
        };
        ensure!(
            with_two_bundles <= max,
            "a ref had two bundles after {with_two_bundles} requests"
        );
        for (k, push) in ended.iter().filter(|_| self.layout != "dumb") {
            let checked = self.check(terminal, push).await;
            checked.with_context(|| format!("request {k}"))?;
        }
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

    async fn check(self, terminal: &Terminal, push: &EndedPush) -> Result<()> {
        let EndedPush { url, before, after } = push;
        let listed = terminal.git(&["ls-remote", url, "refs/heads/main"]).await?;
        let listed = listed.done();
        let id = listed.split('\t').next().unwrap_or_default();
        ensure!(id == before || id == after, "`{listed}` is listed");
        if !id.is_empty() {
            self.clone_as_others(terminal, url, id).await?;
        }
        let refspec = format!("{after}:refs/heads/main");
        terminal.push(url, &[&refspec]).await?.done();
        nothing_is_left(terminal, url, self.signal).await?;
        ensure!(!has_two_bundles(terminal, url), "a ref has two bundles");
        let head = ["ls-remote", "--symref", url, "HEAD"];
        let head = terminal.git(&head).await?.done();
        ensure!(head.contains("refs/heads/main"), "`HEAD` is `{head}`");
        self.clone_as_others(terminal, url, after).await
    }

    /// Clones with what else reads the layout: git's own HTTP, or the Python client. The latter
    /// refuses a ref with two bundles, so that such a ref is cloned by the command line.
    async fn clone_as_others(self, terminal: &Terminal, url: &str, expected: &str) -> Result<()> {
        let to = "clone";
        let arguments = ["clone", "--quiet", "--no-checkout", url, to];
        let cloned = if self.layout == "dumb" {
            let path = url.strip_prefix("s3://").unwrap_or(url);
            let over_http = format!("{}/{path}", terminal.server().endpoint());
            terminal.git(&["clone", "--quiet", &over_http, to]).await?
        } else if let Some(python) =
            Python::of(terminal).filter(|_| !has_two_bundles(terminal, url))
        {
            python.git(&arguments).await?
        } else {
            terminal.git(&arguments).await?
        };
        cloned.done();
        let clone = terminal.path(to);
        let id = git::git(&clone, ["rev-parse", "refs/remotes/origin/main"])?;
        ensure!(id == expected, "{to} has {id}");
        git::git(&clone, ["fsck", "--strict", "--connectivity-only"])?;
        std::fs::remove_dir_all(clone)?;
        Ok(())
    }
}

/// Returns the start of the keys of a repository.
fn prefix(url: &str) -> String {
    let name = url.rsplit('/').next().unwrap_or_default();
    format!("team/{name}/")
}

/// Waits until no lock, no upload and no staged pack of a repository is left.
async fn nothing_is_left(terminal: &Terminal, url: &str, signal: Signal) -> Result<()> {
    let prefix = prefix(url);
    let begin = Instant::now();
    loop {
        // Git does not wait for its helper, whose last request may still be on the way. That of a
        // killed one never arrives.
        let requests = terminal.server().requests();
        requests.reset();
        let is_killed = signal == Signal::KILL;
        let is_quiet = is_killed || requests.max_in_flight(Service::S3) == 0;
        let mut left = terminal.keys(&prefix);
        left.retain(|key| {
            ["LOCK#", "tmp_pack_", "incoming-"]
                .iter()
                .any(|part| key.contains(part))
        });
        let uploads = terminal.server().store().uploads(BUCKET);
        let mut uploads = uploads.map_err(|error| anyhow::anyhow!("{error}"))?;
        // A client that is killed between the creation of an upload and the write by which its
        // lock names the upload leaves one.
        uploads.retain(|upload| upload.key.starts_with(&prefix) && !is_killed);
        if is_quiet && left.is_empty() && uploads.is_empty() {
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

/// Whether a ref of a repository has two bundles.
fn has_two_bundles(terminal: &Terminal, url: &str) -> bool {
    let mut folders = BTreeSet::new();
    let keys = terminal.keys(&prefix(url));
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
