//! Races on one ref of one bucket: git-remote-s3 0.4.2 and the command line by `git push`, and a
//! mirroring as a process of its own, when `BRANCHLINE_VENV` names the Python environment.
//!
//! `BRANCHLINE_RACE_ROUNDS` says how many rounds are raced (else 4, each scenario once),
//! `BRANCHLINE_RACE_SEED` the seed of what is drawn (else a new one; it is printed).
//!
//! Allowed in every scenario:
//! - each commit that was acknowledged is listed, under the ref's name or under that name
//!   with `__`, before and after the repair, and git finds it complete;
//! - at most one of our writers was acknowledged;
//! - after the repair each ref has one bundle, and both clients clone the same;
//! - the next push succeeds, and leaves no lock and no second bundle.
//!
//! The number of acknowledged writers differs:
//!
//! | scenario | `ok` |
//! |---|---|
//! | `Plain` | exactly one |
//! | `Killed`: five writers are killed at any point, no lock grows old | at most one |
//! | `Slow`: uploads and locks take longer than a lock's lifetime | any number of the Python client's, of ours at most one; none if the last one to publish could not find that out |
//! | `SlowAndKilled` | the same |
//!
//! The window that `Slow` leaves open is the Python client's plain write without any
//! condition (see `s3_bundle/publish.rs`): it publishes although another writer holds the lock
//! by then, and reports success.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use branchline_core::git::ObjectId;
use branchline_core::remote::Remote as _;
use branchline_core::remote::s3_bundle::BundleOptions;
use branchline_dev::faults::{Rule, Service};
use branchline_test_support::git;
use branchline_tests::bundle_push::push_one;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::bundle_peers::{BUCKET, On, Peers, input, url};

const WRITERS: usize = 16;
const NAME: &str = "refs/heads/main";
/// Interval at which a waiting writer checks the number of requests.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    Plain,
    Slow,
    Killed,
    SlowAndKilled,
}

impl Scenario {
    const ALL: [Self; 4] = [Self::Plain, Self::Slow, Self::Killed, Self::SlowAndKilled];

    fn is_slow(self) -> bool {
        matches!(self, Self::Slow | Self::SlowAndKilled)
    }

    fn kills(self) -> usize {
        match self {
            Self::Plain | Self::Slow => 0,
            Self::Killed | Self::SlowAndKilled => 5,
        }
    }

    fn lock_seconds(self) -> u64 {
        if self.is_slow() { 1 } else { 60 }
    }

    /// Uploads, and the locks that are renewed meanwhile, are held up longer than locks
    /// live: some of them, so that it depends on chance who is overtaken.
    fn faults(self, random: &mut StdRng) -> Vec<Rule> {
        if !self.is_slow() {
            return Vec::new();
        }
        let mut rules = Vec::new();
        for operation in ["PutObject", "UploadPart", "CompleteMultipartUpload"] {
            let ms = random.random_range(500..3500);
            let rate = random.random_range(0.2..0.8);
            let rule = format!("s3/{operation}:latency,ms={ms},rate={rate}");
            rules.push(rule.parse().expect("it is a rule"));
        }
        rules
    }
}

/// Program of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    /// git-remote-s3 0.4.2.
    Python,
    /// `branchline` as git's helper.
    CommandLine,
    /// The push of a mirroring.
    Mirroring,
}

impl Program {
    /// Returns the program of the writer of a number: half of the writers are Python clients.
    fn of(writer: usize) -> Self {
        match writer % 4 {
            1 | 3 => Self::Python,
            2 => Self::CommandLine,
            _ => Self::Mirroring,
        }
    }
}

/// A writer of a round. Points in time are numbers of requests that the server has received
/// in this round, so that they fall between any two of them.
#[derive(Debug, Clone, Copy)]
struct Writer {
    number: usize,
    program: Program,
    starts_at: u64,
    dies_at: Option<u64>,
}

/// Result of one writer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum WriterResult {
    Ok,
    Refused(String),
    Killed,
}

/// Input of all rounds: a published commit, and a child of it for each writer.
struct Race {
    peers: Peers,
    base: ObjectId,
    base_bundle: Vec<u8>,
    commits: Vec<ObjectId>,
}

fn id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.as_bytes()).expect("git prints ids")
}

impl Race {
    async fn prepare() -> Result<Option<Self>> {
        let Some(peers) = Peers::start(On::DevelopmentServer).await? else {
            return Ok(None);
        };
        let work = peers.work();
        let base = git::commit(&work, &[("a.txt", "one\n")], "First")?;
        let base_bundle = input(&work, &["bundle", "create", "--quiet", "-", "main"], b"")?;
        let tree = peers.git(&["rev-parse", "main^{tree}"])?;
        let mut commits = Vec::new();
        for writer in 0..WRITERS {
            let message = format!("by writer {writer}");
            let commit = peers.git(&["commit-tree", &tree, "-p", &base, "-m", &message])?;
            // The Python client takes names only.
            peers.git(&["branch", &format!("w{writer}"), &commit])?;
            commits.push(id(&commit));
        }
        Ok(Some(Self {
            peers,
            base: id(&base),
            base_bundle,
            commits,
        }))
    }

    fn requests(&self) -> u64 {
        let lines = self.peers.server().requests().lines();
        let lines = lines.iter().filter(|line| line.service == Service::S3);
        lines.map(|line| line.count).sum()
    }

    fn command(&self, writer: Writer, prefix: &str, lock_seconds: u64) -> Result<Command> {
        let refspec = format!("w{}:{NAME}", writer.number);
        let (work, url) = (self.peers.work(), url(prefix));
        let mut command = if writer.program == Program::Python {
            self.peers.python_command(&work, &["push", &url, &refspec])
        } else if writer.program == Program::CommandLine {
            // Started by the end of standard input, as a mirroring is.
            let script = "read -r line; exec git push \"$@\"";
            let arguments = ["-c", script, "sh", &url, &refspec];
            self.peers.command_line(&work, "sh", &arguments)?
        } else {
            let mut command = Command::new(env!("CARGO_BIN_EXE_push-bundle"));
            self.peers.sign_in(&mut command);
            // All of ours share it, and may be killed while they write to it.
            command.arg("--copies").arg(work.with_file_name("copies"));
            command.arg("--repository").arg(&work);
            let (old, new) = (self.base, self.commits[writer.number]);
            for (option, value) in [
                ("--bucket", BUCKET.to_owned()),
                ("--prefix", prefix.to_owned()),
                ("--ref", NAME.to_owned()),
                ("--old", old.to_string()),
                ("--new", new.to_string()),
                ("--lock-lifetime-seconds", lock_seconds.to_string()),
            ] {
                command.args([option, &value]);
            }
            command
        };
        command.env("GIT_REMOTE_S3_LOCK_TTL_SECONDS", lock_seconds.to_string());
        // Git and its helper are killed together.
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }

    /// Runs one writer. If the number of requests never reaches its start, it starts when all
    /// Python clients have ended.
    async fn write(
        &self,
        writer: Writer,
        command: Command,
        before: u64,
        running: &AtomicUsize,
    ) -> Result<WriterResult> {
        let passed = |at: u64| self.requests() - before >= at;
        let mut child = tokio::process::Command::from(command).spawn()?;
        let group = child.id().context("it runs")?;
        let mut held = child.stdin.take();
        let mut ended = std::pin::pin!(child.wait_with_output());
        let mut killed = false;
        let output = loop {
            tokio::select! {
                output = &mut ended => break output?,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
            if passed(writer.starts_at) || running.load(Ordering::Relaxed) == 0 {
                held = None;
            }
            if held.is_none() && !killed && writer.dies_at.is_some_and(passed) {
                let group = i32::try_from(group).context("ids of processes are small")?;
                let group = rustix::process::Pid::from_raw(group).context("it is none")?;
                rustix::process::kill_process_group(group, rustix::process::Signal::KILL)?;
                killed = true;
            }
        };
        if writer.program == Program::Python {
            running.fetch_sub(1, Ordering::Relaxed);
        }
        reported(writer, &output, killed)
    }

    /// Waits until nothing is under way: what a writer sent before it was killed may still
    /// arrive.
    async fn quiet(&self) {
        let requests = self.peers.server().requests();
        loop {
            // The most since then, and so those of now.
            requests.reset();
            if requests.max_in_flight(Service::S3) == 0 {
                return;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn round(&self, number: usize, scenario: Scenario, seed: u64) -> Result<Tally> {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
        let prefix = format!("race/{number}");
        let key = format!("{prefix}/{NAME}/{}.bundle", self.base);
        self.peers.put(&key, self.base_bundle.clone()).await?;
        self.peers.put(&format!("{prefix}/HEAD"), NAME).await?;
        let rules = scenario.faults(&mut random);
        // A push of the Python client makes nine requests, the lock is the fourth; the fastest
        // of them makes nearly all before the next one starts.
        let earliest = random.random_range(0..4);
        let mut writers: Vec<Writer> = (0..WRITERS)
            .map(|number| {
                let program = Program::of(number);
                let starts_at = random.random_range(earliest..earliest + 12);
                let is_python = program == Program::Python;
                Writer {
                    number,
                    program,
                    starts_at: if is_python { 0 } else { starts_at },
                    dies_at: None,
                }
            })
            .collect();
        for _ in 0..scenario.kills() {
            let at = random.random_range(0..WRITERS);
            writers[at].dies_at = Some(writers[at].starts_at + random.random_range(0..60));
        }
        let faults = self.peers.server().faults();
        for rule in &rules {
            faults.add(rule.clone());
        }
        let before = self.requests();
        let running = AtomicUsize::new(WRITERS / 2);
        let mut pushes = Vec::new();
        for writer in &writers {
            let command = self.command(*writer, &prefix, scenario.lock_seconds())?;
            pushes.push(self.write(*writer, command, before, &running));
        }
        let reported = futures_util::future::try_join_all(pushes).await?;
        faults.clear();
        self.quiet().await;
        let what = format!("round {number}, {scenario:?}, seed {seed}, {rules:?}: {reported:?}");
        self.judge(&prefix, scenario, &reported)
            .await
            .with_context(|| what)
    }

    /// The remote, by a clock by which all locks are old.
    fn later() -> BundleOptions {
        let options = BundleOptions::default();
        let clock = Arc::clone(&options.clock);
        BundleOptions {
            clock: Arc::new(move || clock() + 3600),
            ..options
        }
    }

    async fn judge(
        &self,
        prefix: &str,
        scenario: Scenario,
        reported: &[WriterResult],
    ) -> Result<Tally> {
        let mut tally = Tally::of(reported);
        let all = tally.ours + tally.python;
        ensure!(tally.ours <= 1, "at most one of ours wins");
        match scenario {
            Scenario::Plain => ensure!(all == 1, "exactly one wins"),
            Scenario::Killed => ensure!(all <= 1, "at most one wins"),
            Scenario::Slow | Scenario::SlowAndKilled => {}
        }
        let remote = self.peers.remote_at(prefix, Self::later())?;
        let name = prefix.replace('/', "-");
        let mut cloned = String::new();
        for step in ["raced", "repaired"] {
            cloned = self
                .peers
                .our_clone(&remote, &format!("{name}-{step}"))
                .await?;
            for (writer, reported) in reported.iter().enumerate() {
                let commit = self.commits[writer].to_string();
                ensure!(
                    *reported != WriterResult::Ok || cloned.contains(&commit),
                    "{commit} of writer {writer} was acknowledged, and is lost when {step}: \
                     {cloned}"
                );
            }
            ensure!(cloned.contains(&format!(" {NAME}\n")) || cloned.ends_with(NAME));
            if step == "raced" {
                tally.orphans += cloned.lines().count() as u64 - 1;
            }
            remote.repair().await?;
        }
        self.one_bundle_each(prefix).await?;
        let python = self
            .peers
            .python_clone(prefix, &format!("{name}-python"))
            .await?;
        ensure!(python == cloned, "the Python client reads {python}");
        self.next_push(prefix).await?;
        Ok(tally)
    }

    async fn one_bundle_each(&self, prefix: &str) -> Result<()> {
        let keys = self.peers.keys(prefix).await?;
        let mut folders: BTreeMap<&str, u64> = BTreeMap::new();
        for key in keys.iter().filter(|key| key.ends_with(".bundle")) {
            let (folder, _) = key.rsplit_once('/').expect("keys have folders");
            *folders.entry(folder).or_default() += 1;
        }
        ensure!(folders.values().all(|count| *count == 1), "{keys:?}");
        Ok(())
    }

    /// Pushes once more, over whatever lock was left.
    async fn next_push(&self, prefix: &str) -> Result<()> {
        let remote = self.peers.remote_at(prefix, Self::later())?;
        let source = remote.source(&[]).await?;
        let refs = &source.snapshot().refs;
        let (_, old) = refs
            .iter()
            .find(|(name, _)| *name == NAME)
            .context("the ref is there")?;
        let tree = self.peers.git(&["rev-parse", "main^{tree}"])?;
        let parent = old.id.to_string();
        let new = ["commit-tree", &tree, "-p", &parent, "-m", "the next one"];
        let new = id(&self.peers.git(&new)?);
        let done = push_one(&remote, &self.peers.work(), NAME, old.id, new).await?;
        ensure!(done == Ok(()), "the next push succeeds: {done:?}");
        self.one_bundle_each(prefix).await?;
        let keys = self.peers.keys(prefix).await?;
        let lock = format!("{prefix}/{NAME}/LOCK#.lock");
        ensure!(!keys.contains(&lock), "no lock is left: {keys:?}");
        let expected = format!("{prefix}/{NAME}/{new}.bundle");
        ensure!(keys.contains(&expected), "it was pushed: {keys:?}");
        Ok(())
    }
}

fn reported(writer: Writer, output: &Output, killed: bool) -> Result<WriterResult> {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (stdout, stderr) = (said(&output.stdout), said(&output.stderr));
    let is_mirroring = writer.program == Program::Mirroring;
    let acknowledged = if is_mirroring {
        stdout == "ok"
    } else {
        output.status.success()
    };
    if acknowledged {
        return Ok(WriterResult::Ok);
    }
    if killed && output.status.code().is_none() {
        return Ok(WriterResult::Killed);
    }
    let refused = if is_mirroring {
        output.status.success() && stdout == "conflict"
    } else {
        // Git refuses the push if it lists the remote while the ref has two bundles.
        stderr.contains("failed to push some refs")
    };
    ensure!(refused || killed, "{writer:?} fails: {stdout}{stderr}");
    Ok(WriterResult::Refused(stderr))
}

/// Counts of results, of a round or of all.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    ours: u64,
    python: u64,
    refused: u64,
    killed: u64,
    /// Bundles that had lost the ref.
    orphans: u64,
}

impl Tally {
    fn of(reported: &[WriterResult]) -> Self {
        let mut tally = Self {
            rounds: 1,
            ..Self::default()
        };
        for (writer, reported) in reported.iter().enumerate() {
            match reported {
                WriterResult::Ok if Program::of(writer) == Program::Python => tally.python += 1,
                WriterResult::Ok => tally.ours += 1,
                WriterResult::Refused(_) => tally.refused += 1,
                WriterResult::Killed => tally.killed += 1,
            }
        }
        tally
    }

    fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.ours += other.ours;
        self.python += other.python;
        self.refused += other.refused;
        self.killed += other.killed;
        self.orphans += other.orphans;
    }
}

/// "One `ok` a round, no acknowledged commit unreachable, no ref unreadable."
#[tokio::test(flavor = "multi_thread")]
async fn sixteen_writers_of_both_clients_lose_nothing_that_was_acknowledged() -> Result<()> {
    let number = |name: &str| -> Result<Option<u64>> {
        let value = std::env::var(name).ok();
        let number = value.map(|value| value.parse().with_context(|| name.to_owned()));
        number.transpose()
    };
    let rounds = number("BRANCHLINE_RACE_ROUNDS")?.unwrap_or(4);
    let seed = number("BRANCHLINE_RACE_SEED")?.unwrap_or_else(rand::random);
    println!("BRANCHLINE_RACE_ROUNDS={rounds} BRANCHLINE_RACE_SEED={seed}");
    let Some(race) = Race::prepare().await? else {
        return Ok(());
    };
    let mut all = Tally::default();
    for round in 0..usize::try_from(rounds)? {
        let scenario = Scenario::ALL[round % Scenario::ALL.len()];
        let tally = Box::pin(race.round(round, scenario, seed)).await?;
        println!("round {round}, {scenario:?}: {tally:?}");
        all.add(&tally);
    }
    println!("all: {all:?}");
    Ok(())
}
