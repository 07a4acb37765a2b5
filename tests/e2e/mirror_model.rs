//! A model of mirrors through CodeCommit and S3: random changes of a local repository go to a
//! repository in CodeCommit, from there to bundles in S3, and from there to another one in
//! CodeCommit, while the Python client pushes to the bundles and clones them.
//!
//! Promises that hold after each run: the target has the selected refs of the source; with `prune`
//! it has no other; without, it keeps those that somebody else pushed.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use branchline_core::mirror::{MirrorOptions, mirror};
use branchline_core::remote::Remote;
use branchline_core::remote::open::{
    OpenRemote as _, OpenerConfig, RemoteOpener, RemoteRole, RemoteSpec, S3Layout,
};
use branchline_core::remote::url::RemoteUrl;
use branchline_test_support::git;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};

use super::bundle_peers::{On, PREFIX, Peers, refs, url};

const MEMORY: usize = 64 << 20;
/// Branches besides `main`, which stays.
const BRANCHES: [&str; 3] = ["dev", "feature/x", "größe"];

type Refs = BTreeMap<String, String>;

#[derive(Debug, Clone, Copy)]
enum Change {
    /// A commit on `main`.
    Commit,
    /// A branch at `main`, created or moved.
    Branch(usize),
    /// A branch without the history that it had.
    Force(usize),
    Delete(usize),
    /// An annotated tag, moved if it exists.
    Tag,
}

/// A push of the Python client to the bundles.
#[derive(Debug, Clone, Copy)]
enum PythonPush {
    /// `main` under a name that the source does not have.
    NewBranch,
    /// Another commit under a name that the source may have.
    Over(usize),
    DeleteBranch(usize),
}

#[derive(Debug, Clone)]
struct Step {
    changes: Vec<Change>,
    python: Option<PythonPush>,
    prune: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let branch = 0..BRANCHES.len();
    let change = prop_oneof![
        3 => Just(Change::Commit),
        3 => branch.clone().prop_map(Change::Branch),
        1 => branch.clone().prop_map(Change::Force),
        2 => branch.clone().prop_map(Change::Delete),
        1 => Just(Change::Tag),
    ];
    let python = prop_oneof![
        1 => Just(PythonPush::NewBranch),
        2 => branch.clone().prop_map(PythonPush::Over),
        1 => branch.prop_map(PythonPush::DeleteBranch),
    ];
    let step = (
        prop::collection::vec(change, 1..4),
        prop::option::of(python),
        any::<bool>(),
    );
    let step = step.prop_map(|(changes, python, prune)| Step {
        changes,
        python,
        prune,
    });
    prop::collection::vec(step, 2..5)
}

struct MirrorChain {
    peers: Peers,
    remotes: RemoteOpener,
    commits: usize,
    /// Refs that the bundles must have.
    bundles: Refs,
}

impl MirrorChain {
    async fn start() -> Result<Option<Self>> {
        let Some(peers) = Peers::start(On::DevelopmentServer).await? else {
            return Ok(None);
        };
        let remotes = RemoteOpener::new(peers.aws(), &OpenerConfig::default())?;
        let mut chain = Self {
            peers,
            remotes,
            commits: 0,
            bundles: Refs::new(),
        };
        chain.commit("main")?;
        Ok(Some(chain))
    }

    /// Adds a commit to the branch that is checked out.
    fn commit(&mut self, message: &str) -> Result<()> {
        self.commits += 1;
        let text = self.commits.to_string();
        git::commit(&self.peers.work(), &[("number.txt", &text)], message)?;
        Ok(())
    }

    fn apply(&mut self, change: Change) -> Result<()> {
        match change {
            Change::Commit => self.commit("main")?,
            Change::Branch(at) => {
                self.peers.git(&["branch", "-f", BRANCHES[at], "main"])?;
            }
            Change::Force(at) => {
                let tree = self.peers.git(&["rev-parse", "main^{tree}"])?;
                self.commits += 1;
                let message = format!("root {}", self.commits);
                let id = self.peers.git(&["commit-tree", "-m", &message, &tree])?;
                self.peers.git(&["branch", "-f", BRANCHES[at], &id])?;
            }
            Change::Delete(at) => {
                if self.source_refs()?.contains_key(&branch(at)) {
                    self.peers.git(&["branch", "-D", BRANCHES[at]])?;
                }
            }
            Change::Tag => {
                self.commits += 1;
                let message = format!("tag {}", self.commits);
                self.peers.git(&["tag", "-f", "-a", "-m", &message, "v1"])?;
            }
        }
        Ok(())
    }

    /// Has the Python client push to the bundles, and notes what it pushed.
    async fn push_with_python(&mut self, push: PythonPush) -> Result<()> {
        match push {
            PythonPush::NewBranch => {
                self.peers.python_push(&["main:refs/heads/python"]).await?;
                let id = self.peers.git(&["rev-parse", "main"])?;
                self.bundles.insert("refs/heads/python".to_owned(), id);
            }
            PythonPush::Over(at) => {
                let tree = self.peers.git(&["rev-parse", "main^{tree}"])?;
                self.commits += 1;
                let message = format!("python {}", self.commits);
                let id = self.peers.git(&["commit-tree", "-m", &message, &tree])?;
                let refspec = format!("+{id}:{}", branch(at));
                // The Python client pushes refs, not ids.
                self.peers.git(&["update-ref", "refs/python/pushed", &id])?;
                let refspec = refspec.replace(&id, "refs/python/pushed");
                self.peers.python_push(&[&refspec]).await?;
                self.peers
                    .git(&["update-ref", "-d", "refs/python/pushed"])?;
                self.bundles.insert(branch(at), id);
            }
            PythonPush::DeleteBranch(at) => {
                if self.bundles.remove(&branch(at)).is_some() {
                    self.peers
                        .python_push(&[&format!(":{}", branch(at))])
                        .await?;
                }
            }
        }
        Ok(())
    }

    fn source_refs(&self) -> Result<Refs> {
        Ok(parsed(&refs(&self.peers.work())?))
    }

    async fn open(&self, place: &str, role: RemoteRole) -> Result<std::sync::Arc<dyn Remote>> {
        let mut spec = RemoteSpec::new(RemoteUrl::new(place)?);
        spec.layout = place.starts_with("s3:").then_some(S3Layout::Bundle);
        spec.create = role == RemoteRole::Target;
        spec.role = role;
        Ok(match role {
            RemoteRole::Source => self.remotes.open_source(&spec, MEMORY).await?,
            RemoteRole::Target => self.remotes.open(&spec, MEMORY).await?,
        })
    }

    async fn mirror(&self, source: &str, target: &str, prune: bool) -> Result<()> {
        let source = self.open(source, RemoteRole::Source).await?;
        let target = self.open(target, RemoteRole::Target).await?;
        let options = MirrorOptions {
            prune,
            ..MirrorOptions::default()
        };
        let stats = mirror(&*source, &*target, &options, None).await?;
        ensure!(
            stats.complete && stats.rejected.is_empty(),
            "{source} to {target}: {stats:?}"
        );
        Ok(())
    }

    async fn refs_of(&self, place: &str) -> Result<Refs> {
        let remote = self.open(place, RemoteRole::Source).await?;
        let source = remote.source(&[]).await?;
        let refs = source.snapshot().refs.iter();
        let refs = refs.map(|(name, found)| (name.to_string(), found.id.to_string()));
        Ok(refs.collect())
    }
}

fn branch(at: usize) -> String {
    format!("refs/heads/{}", BRANCHES[at])
}

/// Returns the refs in lines of git.
fn parsed(lines: &str) -> Refs {
    let lines = lines.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(id, name)| (name.to_owned(), id.to_owned()))
        .collect()
}

/// Returns the refs of a mirror that had `before` and was made equal to `source`.
fn mirrored(source: &Refs, before: &Refs, prune: bool) -> Refs {
    let mut after = if prune { Refs::new() } else { before.clone() };
    after.extend(source.clone());
    after
}

async fn play(steps: &[Step]) -> Result<()> {
    let Some(mut chain) = MirrorChain::start().await? else {
        return Ok(());
    };
    let (first, last) = ("codecommit://demo", "codecommit://copy");
    let (bundles, work) = (url(PREFIX), chain.peers.work().display().to_string());
    let (mut in_first, mut in_last) = (Refs::new(), Refs::new());
    for (number, step) in steps.iter().enumerate() {
        for change in &step.changes {
            chain.apply(*change)?;
        }
        // The first step makes the bundles.
        if number > 0
            && let Some(push) = step.python
        {
            chain.push_with_python(push).await?;
        }
        let source = chain.source_refs()?;
        chain.mirror(&work, first, step.prune).await?;
        in_first = mirrored(&source, &in_first, step.prune);
        ensure!(chain.refs_of(first).await? == in_first, "step {number}");

        chain.mirror(first, &bundles, step.prune).await?;
        chain.bundles = mirrored(&in_first, &chain.bundles, step.prune);
        let clone = format!("clone-{number}");
        let cloned = chain.peers.python_clone(PREFIX, &clone).await?;
        let cloned = parsed(&cloned);
        ensure!(
            cloned == chain.bundles,
            "step {number}: the Python client clones {cloned:?}, not {:?}",
            chain.bundles
        );
        let clone = chain.peers.folder.path().join(clone);
        let head = git::git(&clone, ["symbolic-ref", "HEAD"])?;
        ensure!(head == "refs/heads/main", "step {number}: {head}");

        chain.mirror(&bundles, last, step.prune).await?;
        in_last = mirrored(&chain.bundles, &in_last, step.prune);
        ensure!(chain.refs_of(last).await? == in_last, "step {number}");
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

proptest! {
    // Few cases, because each starts a server and the Python client some times.
    #![proptest_config(ProptestConfig {
        cases: 3,
        max_shrink_iters: 20,
        ..ProptestConfig::default()
    })]

    #[test]
    fn codecommit_bundles_and_the_python_client_agree_whatever_happens(steps in steps()) {
        run(&steps)?;
    }
}
