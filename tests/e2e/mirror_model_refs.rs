//! A model of mirrors whose source renames its default branch, has names in each other's way and odd
//! ones, is emptied, names LFS objects that nobody has, and whose runs are killed: from a repository to
//! CodeCommit, from there to bundles, and to another repository in CodeCommit.
//!
//! After each run git finds the targets sound, and the Python client clones the bundles and checks out
//! the default branch; after a kill, git clones them with branchline's helper.
//!
//! `BRANCHLINE_MODEL_CASES` is the number of cases.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use branchline_core::mirror::{LfsOptions, MirrorOptions, MirrorStats, mirror};
use branchline_core::remote::open::{
    OpenRemote as _, OpenerConfig, RemoteOpener, RemoteRole, RemoteSpec, S3Layout,
};
use branchline_core::remote::url::RemoteUrl;
use branchline_core::remote::{Head, Remote, STALE_PREFIX};
use branchline_test_support::git;
use branchline_test_support::lfs_server::oid;
use branchline_tests::environment::built_programs;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};

use super::bundle_peers::{On, PREFIX, Peers, input, refs, url};

const MEMORY: usize = 64 << 20;
const NAMES: [&str; 9] = [
    "refs/heads/main",
    "refs/heads/main/line",
    "refs/heads/a",
    "refs/heads/a/b",
    "refs/heads/größe",
    "refs/heads/x.y@z",
    "refs/tags/v",
    "refs/tags/v/1",
    "refs/tags/it's",
];
/// The first of [`NAMES`] that are branches.
const BRANCHES: usize = 6;

type Refs = BTreeMap<String, String>;

#[derive(Debug, Clone, Copy)]
enum Change {
    Commit(usize),
    Force(usize),
    /// A commit with the pointer to an LFS object that nobody has.
    LargeFile(usize),
    Delete(usize),
    RenameDefault(usize),
    Empty,
}

#[derive(Debug, Clone)]
struct Step {
    changes: Vec<Change>,
    prune: bool,
    /// Milliseconds after which a run into the bundles is killed before the complete one.
    kill: Option<u64>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let any_name = 0..NAMES.len();
    let branch = 0..BRANCHES;
    let change = prop_oneof![
        5 => any_name.clone().prop_map(Change::Commit),
        1 => any_name.clone().prop_map(Change::Force),
        2 => branch.clone().prop_map(Change::LargeFile),
        2 => any_name.prop_map(Change::Delete),
        2 => branch.prop_map(Change::RenameDefault),
        1 => Just(Change::Empty),
    ];
    let step = (
        prop::collection::vec(change, 2..5),
        any::<bool>(),
        prop::option::of(5..400_u64),
    );
    let step = step.prop_map(|(changes, prune, kill)| Step {
        changes,
        prune,
        kill,
    });
    prop::collection::vec(step, 3..4)
}

fn is_in_the_way(one: &str, other: &str) -> bool {
    let extends = |long: &str, short: &str| {
        long.strip_prefix(short)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    extends(one, other) || extends(other, one)
}

fn parsed(lines: &str) -> Refs {
    let lines = lines.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(id, name)| (name.to_owned(), id.to_owned()))
        .collect()
}

/// Refs of a remote, and the branch that its `HEAD` names.
#[derive(Debug, Default)]
struct State {
    refs: Refs,
    head: Option<String>,
}

impl State {
    /// The branch that `HEAD` names, if it is there.
    fn default_branch(&self) -> Option<&String> {
        let head = self.head.as_ref();
        head.filter(|head| self.refs.contains_key(*head))
    }
}

struct Chain {
    peers: Peers,
    remotes: RemoteOpener,
    commits: usize,
}

impl Chain {
    async fn start() -> Result<Option<Self>> {
        let Some(peers) = Peers::start(On::DevelopmentServer).await? else {
            return Ok(None);
        };
        let config = OpenerConfig {
            // Locks of killed runs.
            lock_lifetime: Some(Duration::from_secs(1)),
            ..OpenerConfig::default()
        };
        let remotes = RemoteOpener::new(peers.aws(), &config)?;
        Ok(Some(Self {
            peers,
            remotes,
            commits: 0,
        }))
    }

    fn source(&self) -> Result<State> {
        Ok(State {
            refs: parsed(&refs(&self.peers.work())?),
            head: Some(self.peers.git(&["symbolic-ref", "HEAD"])?),
        })
    }

    fn update(&self, name: &str, id: &str) -> Result<()> {
        for other in self.source()?.refs.keys() {
            if is_in_the_way(other, name) {
                self.peers.git(&["update-ref", "-d", other])?;
            }
        }
        self.peers.git(&["update-ref", name, id])?;
        Ok(())
    }

    fn commit(&mut self, name: &str, parent: Option<&str>, has_pointer: bool) -> Result<()> {
        self.commits += 1;
        let number = self.commits;
        let date = 1_600_000_000 + number;
        let mut stream =
            format!("commit refs/model/new\ncommitter C <c@x> {date} +0000\ndata 5\nmodel\n");
        if let Some(parent) = parent {
            writeln!(stream, "from {parent}")?;
        }
        writeln!(stream, "M 100644 inline file-{number}\ndata 6\n{number:06}")?;
        if has_pointer {
            let id = oid(format!("large {number}").as_bytes());
            let pointer =
                format!("version https://git-lfs.github.com/spec/v1\noid sha256:{id}\nsize 7\n");
            let length = pointer.len();
            writeln!(stream, "M 100644 inline large\ndata {length}\n{pointer}")?;
        }
        let work = self.peers.work();
        let arguments = ["fast-import", "--quiet", "--force"];
        input(&work, &arguments, stream.as_bytes())?;
        let id = self.peers.git(&["rev-parse", "refs/model/new"])?;
        self.peers.git(&["update-ref", "-d", "refs/model/new"])?;
        self.update(name, &id)
    }

    fn apply(&mut self, change: Change) -> Result<()> {
        let state = self.source()?;
        let first_branch = state
            .refs
            .iter()
            .find(|(name, _)| name.starts_with("refs/heads/"));
        let parent_of = |at: usize| {
            let own = state.refs.get(NAMES[at]);
            own.or(first_branch.map(|(_, id)| id)).map(String::as_str)
        };
        match change {
            Change::Commit(at) => self.commit(NAMES[at], parent_of(at), false)?,
            Change::LargeFile(at) => self.commit(NAMES[at], parent_of(at), true)?,
            Change::Force(at) => self.commit(NAMES[at], None, false)?,
            Change::Delete(at) => {
                if state.refs.contains_key(NAMES[at]) {
                    self.peers.git(&["update-ref", "-d", NAMES[at]])?;
                }
            }
            Change::RenameDefault(at) => {
                if let Some(old) = state.default_branch() {
                    let id = &state.refs[old];
                    self.peers.git(&["update-ref", "-d", old])?;
                    self.update(NAMES[at], id)?;
                }
                self.peers.git(&["symbolic-ref", "HEAD", NAMES[at]])?;
            }
            Change::Empty => {
                for name in state.refs.keys() {
                    self.peers.git(&["update-ref", "-d", name])?;
                }
            }
        }
        Ok(())
    }

    async fn open(&self, place: &str, role: RemoteRole) -> Result<Arc<dyn Remote>> {
        let mut spec = RemoteSpec::new(RemoteUrl::new(place)?);
        spec.layout = place.starts_with("s3:").then_some(S3Layout::Bundle);
        spec.create = role == RemoteRole::Target;
        spec.role = role;
        Ok(match role {
            RemoteRole::Source => self.remotes.open_source(&spec, MEMORY).await?,
            RemoteRole::Target => self.remotes.open(&spec, MEMORY).await?,
        })
    }

    async fn state(&self, place: &str) -> Result<State> {
        let remote = self.open(place, RemoteRole::Source).await?;
        let source = match remote.source(&[]).await {
            Err(error) if error.kind() == branchline_core::ErrorKind::NotFound => {
                return Ok(State::default());
            }
            source => source?,
        };
        let snapshot = source.snapshot();
        let refs = snapshot.refs.iter();
        Ok(State {
            refs: refs
                .map(|(name, found)| (name.to_string(), found.id.to_string()))
                .collect(),
            head: match &snapshot.head {
                Some(Head::Symbolic(name)) => Some(name.to_string()),
                _ => None,
            },
        })
    }

    /// Mirrors, and checks what holds for each kind of target; returns the target's new state.
    async fn hop(&self, from: &str, to: &str, prune: bool) -> Result<State> {
        let (source, before) = if from.contains("://") {
            (self.state(from).await?, self.state(to).await?)
        } else {
            (self.source()?, self.state(to).await?)
        };
        let opened = self.open(from, RemoteRole::Source).await?;
        let target = self.open(to, RemoteRole::Target).await?;
        let options = MirrorOptions {
            prune,
            prune_all: true,
            lfs: Some(LfsOptions::new(MEMORY)),
            ..MirrorOptions::default()
        };
        let stats = mirror(&*opened, &*target, &options, None).await?;
        ensure!(stats.complete, "{from} to {to}: {stats:?}");
        let after = self.state(to).await?;
        check(&source, &before, &after, (prune, to), &stats)?;
        Ok(after)
    }

    /// Kills the command line while it mirrors into the bundles; git must clone them then.
    async fn kill(&self, from: &str, to: &str, after_ms: u64, name: &str) -> Result<()> {
        let program = built_programs().join("branchline");
        let program = program.to_str().context("a plain path")?;
        let folder = self.peers.folder.path();
        let arguments = ["mirror", from, to, "--layout=bundle", "--prune=all"];
        let mut command = self.peers.command_line(folder, program, &arguments)?;
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let mut child = command.spawn()?;
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        child.kill()?;
        child.wait()?;
        if self.state(to).await?.refs.is_empty() {
            return Ok(());
        }
        let arguments = ["clone", "--quiet", "--mirror", to, name];
        let mut command = self.peers.command_line(folder, "git", &arguments)?;
        tokio::task::spawn_blocking(move || git::run(&mut command)).await??;
        fsck(&folder.join(name))
    }
}

fn fsck(folder: &Path) -> Result<()> {
    let found = git::git(folder, ["fsck", "--full", "--strict", "--no-dangling"])?;
    ensure!(found.is_empty(), "git fsck: {found}");
    Ok(())
}

/// Checks a target after a complete run.
fn check(
    source: &State,
    before: &State,
    after: &State,
    (prune, to): (bool, &str),
    stats: &MirrorStats,
) -> Result<()> {
    let is_selected = |name: &str| {
        ["refs/heads/", "refs/tags/"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    let wanted: BTreeMap<_, _> = source
        .refs
        .iter()
        .filter(|(name, _)| is_selected(name))
        .collect();
    let rejected: BTreeSet<String> = stats.rejected.keys().map(ToString::to_string).collect();
    let is_bundle = to.starts_with("s3:");
    for (name, id) in &wanted {
        let found = after.refs.get(*name);
        if rejected.contains(*name) {
            let in_the_way = before.refs.keys().any(|other| is_in_the_way(other, name));
            ensure!(in_the_way && !is_bundle, "`{name}` is rejected: {stats:?}");
        } else {
            ensure!(found == Some(*id), "{to} has {found:?} as `{name}`");
        }
    }
    let names: Vec<&String> = after.refs.keys().collect();
    for (at, one) in names.iter().enumerate() {
        for other in &names[at + 1..] {
            ensure!(!is_in_the_way(one, other), "{to} has `{one}` and `{other}`");
        }
    }
    if let Some(default) = source.default_branch()
        && after.refs.contains_key(default)
    {
        ensure!(after.head.as_ref() == Some(default), "{to}: {after:?}");
    }
    if after
        .refs
        .keys()
        .any(|name| name.starts_with("refs/heads/"))
    {
        ensure!(
            after.default_branch().is_some(),
            "`HEAD` dangles: {after:?}"
        );
    }
    let has_rejections = wanted.keys().any(|name| rejected.contains(*name));
    for (name, id) in before.refs.iter().filter(|(name, _)| is_selected(name)) {
        if wanted.contains_key(name) {
            continue;
        }
        let is_kept = after.refs.get(name) == Some(id);
        if prune {
            let may_stay = rejected.contains(name) || has_rejections;
            ensure!(!is_kept || may_stay, "{to}: `{name}` is pruned");
        } else {
            let mut stale = after
                .refs
                .iter()
                .filter(|(name, _)| name.starts_with(STALE_PREFIX));
            ensure!(
                is_kept || stale.any(|(_, kept)| kept == id),
                "{to}: `{name}` has vanished"
            );
        }
    }
    Ok(())
}

async fn play(steps: &[Step]) -> Result<()> {
    let Some(mut chain) = Chain::start().await? else {
        return Ok(());
    };
    let (first, last, bundles) = ("codecommit://demo", "codecommit://copy", url(PREFIX));
    chain.commit("refs/heads/main", None, false)?;
    for (number, step) in steps.iter().enumerate() {
        for change in &step.changes {
            chain.apply(*change)?;
        }
        let work = chain.peers.work().display().to_string();
        chain.hop(&work, first, step.prune).await?;
        if let Some(after_ms) = step.kill {
            let name = format!("killed-{number}.git");
            chain.kill(first, &bundles, after_ms, &name).await?;
        }
        let in_bundles = chain.hop(first, &bundles, step.prune).await?;
        if !in_bundles.refs.is_empty() {
            let clone = format!("clone-{number}");
            let cloned = chain.peers.python_clone(PREFIX, &clone).await?;
            ensure!(
                parsed(&cloned) == in_bundles.refs,
                "step {number}: {cloned}"
            );
            let clone = chain.peers.folder.path().join(clone);
            if let Some(default) = in_bundles.default_branch() {
                let head = git::git(&clone, ["symbolic-ref", "HEAD"])?;
                ensure!(head == *default, "step {number}: {head}");
            }
        }
        if in_bundles.refs.is_empty() {
            // A prefix with nothing is not a source.
            continue;
        }
        chain.hop(&bundles, last, step.prune).await?;
        for name in ["demo", "copy"] {
            let folder = chain.peers.server().codecommit().repository_dir(name);
            fsck(&folder.context("the repository is created")?)?;
        }
    }
    Ok(())
}

fn run(steps: &[Step]) -> TestCaseResult {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("a runtime");
    let played = runtime.and_then(|runtime| runtime.block_on(play(steps)));
    played.map_err(|error| TestCaseError::fail(format!("{error:#}")))
}

/// Few cases, because each starts a server, and the Python client several times.
fn config() -> ProptestConfig {
    let cases = std::env::var("BRANCHLINE_MODEL_CASES").ok();
    ProptestConfig {
        cases: cases.and_then(|text| text.parse().ok()).unwrap_or(2),
        max_shrink_iters: 20,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn codecommit_and_bundles_can_be_cloned_whatever_the_source_does(steps in steps()) {
        run(&steps)?;
    }
}
