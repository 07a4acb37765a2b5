//! `doctor`, `protect` and `delete-branch` on every state that the Python client can leave in a
//! bucket: on the development server and on moto, without a terminal, each command twice.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use branchline_core::name::{BucketName, ObjectKey};
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::storage::{ObjectStore as _, PutOptions};
use branchline_test_support::git;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;

use super::environment::{BUCKET, Outcome, Terminal, url};

/// Time after which locks of the tests are abandoned, and a little more: S3 stores whole seconds.
const LOCK_AGE: Duration = Duration::from_millis(2200);
/// Number of tags of the state whose keys need two pages of a list, with those of its branches.
const TAGS: usize = 1000;

/// An object of a state, beside `HEAD` and a bundle for each of the branches `main`, `topic` and
/// `spare`. A `*` in a name stands for `topic`, and for `spare`.
#[derive(Debug, Clone, Copy)]
enum Left {
    /// The bundle of a commit, in the folder of a ref.
    Bundle(&'static str, &'static str),
    /// A key, and the text that it has.
    Object(&'static str, &'static str),
    /// Tags of `main`.
    Tags(usize),
}
use Left::{Bundle, Object, Tags};

/// A state that the Python client can leave.
struct State {
    /// Last part of the prefix.
    name: &'static str,
    head: Option<&'static str>,
    left: &'static [Left],
    /// Kinds of the problems that `doctor` finds.
    problems: &'static [&'static str],
    /// Refs after `spare` was deleted and the rest was fixed; `__` is followed by digits of an id.
    refs: &'static [&'static str],
}

/// Refs of a state without damage, after `spare` was deleted.
const HEALTHY: &[&str] = &["refs/heads/main", "refs/heads/topic"];

static STATES: [State; 13] = [
    State {
        name: "healthy",
        head: Some("refs/heads/main"),
        left: &[],
        problems: &[],
        refs: HEALTHY,
    },
    State {
        name: "two-bundles",
        head: Some("refs/heads/main"),
        left: &[Bundle("refs/heads/*", "two")],
        problems: &["several-bundles", "several-bundles"],
        refs: &[
            "refs/heads/main",
            "refs/heads/spare__",
            "refs/heads/topic",
            "refs/heads/topic__",
        ],
    },
    State {
        name: "older-bundle",
        head: Some("refs/heads/main"),
        left: &[Bundle("refs/heads/*", "one~1")],
        problems: &["several-bundles", "several-bundles"],
        refs: HEALTHY,
    },
    State {
        name: "stale-lock",
        head: Some("refs/heads/main"),
        left: &[Object("refs/heads/*/LOCK#.lock", "")],
        problems: &["stale-lock", "stale-lock"],
        refs: HEALTHY,
    },
    State {
        name: "lock-of-first-push",
        head: Some("refs/heads/main"),
        left: &[Object("refs/heads/new/LOCK#.lock", "")],
        problems: &["stale-lock"],
        refs: HEALTHY,
    },
    State {
        name: "dangling-head",
        head: Some("refs/heads/deleted"),
        left: &[],
        problems: &["head"],
        refs: HEALTHY,
    },
    State {
        name: "without-head",
        head: None,
        left: &[],
        problems: &["head"],
        refs: HEALTHY,
    },
    State {
        name: "zip",
        head: Some("refs/heads/main"),
        left: &[
            Object("refs/heads/main/repo.zip", "zip"),
            Object("refs/heads/*/repo.zip", "zip"),
        ],
        problems: &[],
        refs: HEALTHY,
    },
    State {
        name: "lfs",
        head: Some("refs/heads/main"),
        left: &[Object("lfs/11", "one"), Object("lfs/22", "two")],
        problems: &[],
        refs: HEALTHY,
    },
    State {
        name: "nested",
        head: Some("refs/heads/main"),
        left: &[
            Bundle("below/refs/heads/topic", "one"),
            Bundle("below/refs/heads/topic", "two"),
            Object("below/refs/heads/topic/LOCK#.lock", ""),
        ],
        problems: &[],
        refs: HEALTHY,
    },
    State {
        name: "in-the-way",
        head: Some("refs/heads/main"),
        left: &[Bundle("refs/heads/*/below", "main")],
        problems: &["refs-in-the-way", "refs-in-the-way"],
        refs: &[
            "refs/heads/main",
            "refs/heads/spare/below",
            "refs/heads/topic/below",
            "refs/stale/heads/topic",
        ],
    },
    State {
        name: "all-at-once",
        head: Some("refs/heads/deleted"),
        left: &[
            Bundle("refs/heads/*", "two"),
            Object("refs/heads/*/LOCK#.lock", ""),
            Object("refs/heads/*/repo.zip", "zip"),
            Object("refs/heads/main/PROTECTED#", ""),
            Object("lfs/11", "one"),
        ],
        problems: &[
            "stale-lock",
            "stale-lock",
            "several-bundles",
            "several-bundles",
            "head",
        ],
        refs: &[
            "refs/heads/main",
            "refs/heads/spare__",
            "refs/heads/topic",
            "refs/heads/topic__",
        ],
    },
    State {
        name: "thousand-keys",
        head: Some("refs/heads/main"),
        left: &[Tags(TAGS), Object("refs/tags/t0/LOCK#.lock", "")],
        problems: &["stale-lock"],
        refs: &[],
    },
];

/// A server of S3 with repositories in these states.
struct StatesEnvironment {
    terminal: Terminal,
    store: SdkObjectStore,
    /// Id and bundle of each commit that a state names.
    bundles: BTreeMap<&'static str, (String, Bytes)>,
}

impl StatesEnvironment {
    async fn new(mut terminal: Terminal) -> Result<Self> {
        terminal.set("GIT_REMOTE_S3_LOCK_TTL_SECONDS", Some("1"));
        terminal.repository("work", 4)?;
        let work = terminal.path("work");
        let mut bundles = BTreeMap::new();
        for name in ["one", "two"] {
            git::git(&work, ["checkout", "--quiet", "-B", name, "main"])?;
            git::commit(&work, &[(name, "1")], name)?;
            git::commit(&work, &[(name, "2")], name)?;
        }
        for commit in ["main", "one", "one~1", "two"] {
            let id = git::git(&work, ["rev-parse", commit])?;
            git::git(&work, ["branch", "--force", "bundled", &id])?;
            let create = ["bundle", "create", "--quiet", "../bundle", "bundled"];
            git::git(&work, create)?;
            let bytes = std::fs::read(terminal.path("bundle"))?;
            bundles.insert(commit, (id, bytes.into()));
        }
        let world = Self {
            store: terminal.store(),
            terminal,
            bundles,
        };
        let objects = STATES.iter().flat_map(|state| world.objects(state));
        let puts = objects.map(|(key, body)| world.put(key, body));
        let puts = futures_util::stream::iter(puts).buffer_unordered(16);
        puts.try_collect::<()>().await?;
        tokio::time::sleep(LOCK_AGE).await;
        Ok(world)
    }

    /// The keys and contents of a state.
    fn objects(&self, state: &State) -> Vec<(String, Bytes)> {
        let mut left = vec![
            Bundle("refs/heads/main", "main"),
            Bundle("refs/heads/*", "one"),
        ];
        left.extend(state.left);
        let mut objects = Vec::new();
        let mut add = |key: &str, body: &Bytes| {
            objects.push((format!("team/{}/{key}", state.name), body.clone()));
        };
        if let Some(head) = state.head {
            add("HEAD", &head.into());
        }
        for left in left {
            let (key, body) = match left {
                Tags(count) => {
                    let (id, bundle) = &self.bundles["main"];
                    for number in 0..count {
                        add(&format!("refs/tags/t{number}/{id}.bundle"), bundle);
                    }
                    continue;
                }
                Bundle(folder, commit) => {
                    let (id, bundle) = &self.bundles[commit];
                    (format!("{folder}/{id}.bundle"), bundle.clone())
                }
                Object(key, text) => (key.to_owned(), text.into()),
            };
            if key.contains('*') {
                for branch in ["topic", "spare"] {
                    add(&key.replace('*', branch), &body);
                }
            } else {
                add(&key, &body);
            }
        }
        objects
    }

    async fn put(&self, key: String, body: Bytes) -> Result<()> {
        let (bucket, key) = (BucketName::new(BUCKET)?, ObjectKey::new(&key)?);
        let options = PutOptions::default();
        self.store.put(&bucket, &key, body, &options).await?;
        Ok(())
    }

    /// The keys of a state, and of what is below its prefix.
    async fn keys(&self, state: &State) -> Result<Vec<String>> {
        let (bucket, prefix) = (BucketName::new(BUCKET)?, format!("team/{}/", state.name));
        let (mut keys, mut next) = (Vec::new(), None);
        loop {
            let page = self
                .store
                .list(&bucket, &prefix, None, next.as_deref())
                .await?;
            keys.extend(page.objects.iter().map(|object| object.key.to_string()));
            next = page.next;
            if next.is_none() {
                return Ok(keys);
            }
        }
    }

    /// Runs `branchline remote` on a state without a terminal.
    async fn remote(&self, state: &State, words: &[&str], branch: &[&str]) -> Result<Outcome> {
        let url = url(state.name);
        let arguments = [&["remote"], words, &["--json", &url], branch].concat();
        self.terminal.run("branchline", &arguments).await
    }

    /// Runs `doctor`, which must end with `status`; returns its report.
    async fn doctor(&self, state: &State, options: &[&str], status: i32) -> Result<Value> {
        let words = [&["doctor"], options].concat();
        let run = self.remote(state, &words, &[]).await?;
        assert_eq!(run.status, Some(status), "{}: {run:?}", state.name);
        assert_eq!(run.stderr, "", "{}", state.name);
        serde_json::from_str(&run.stdout).context("the report is JSON")
    }

    /// Runs a command on a branch, which must have this result.
    async fn branch(&self, state: &State, words: [&str; 2], result: &str) -> Result<()> {
        let [command, branch] = words;
        let run = self.remote(state, &[command], &[branch]).await?;
        let printed = run.clone().done();
        let report: Value = serde_json::from_str(&printed)?;
        assert_eq!(
            report["result"], result,
            "{} {words:?}: {run:?}",
            state.name
        );
        Ok(())
    }

    /// Runs a command on a branch, which must fail with one line that has this text.
    async fn refused(&self, state: &State, words: [&str; 2], text: &str) -> Result<()> {
        let [command, branch] = words;
        let said = self.remote(state, &[command], &[branch]).await?.failed(1);
        assert_eq!(said.lines().count(), 1, "{} {words:?}: {said}", state.name);
        assert!(said.contains(text), "{} {words:?}: {said}", state.name);
        Ok(())
    }

    /// Examines a state, protects and deletes branches in it, and fixes it.
    async fn check(&self, state: &State) -> Result<()> {
        let (name, keys) = (state.name, self.keys(state).await?);
        let status = if state.problems.is_empty() { 0 } else { 3 };
        for _ in 0..2 {
            let report = self.doctor(state, &[], status).await?;
            assert_eq!(kinds(&report), state.problems, "{name}: {report}");
        }
        assert_eq!(self.keys(state).await?, keys, "{name}: nothing is written");

        self.branch(state, ["protect", "spare"], "protected")
            .await?;
        self.branch(state, ["protect", "spare"], "unchanged")
            .await?;
        let deletion = ["delete-branch", "spare"];
        self.refused(state, deletion, "protected").await?;
        self.branch(state, ["unprotect", "spare"], "unprotected")
            .await?;
        self.branch(state, ["unprotect", "spare"], "unchanged")
            .await?;
        assert_eq!(self.keys(state).await?, keys, "{name}: as before");
        self.branch(state, deletion, "deleted").await?;
        self.refused(state, deletion, "does not exist").await?;
        let folder = format!("team/{name}/refs/heads/spare/");
        let left = self.keys(state).await?;
        let is_left = |key: &&String| key.starts_with(&folder) && !key.contains("/below/");
        assert_eq!(left.iter().find(is_left), None, "{name}");

        self.doctor(state, &["--fix"], 0).await?;
        let fixed = self.keys(state).await?;
        let again = self.doctor(state, &["--fix"], 0).await?;
        assert_eq!(again["fixed"], serde_json::json!([]), "{name}: {again}");
        assert_eq!(self.keys(state).await?, fixed, "{name}: fixed once");
        let of_others = |keys: Vec<String>| -> Vec<String> {
            let refs = format!("team/{name}/refs/");
            let mut keys = keys;
            keys.retain(|key| !key.starts_with(&refs) && !key.ends_with("/HEAD"));
            keys
        };
        assert_eq!(of_others(fixed), of_others(keys), "{name}: not its own");
        self.check_refs(state).await
    }

    /// Compares the refs with those that are expected, and clones them.
    async fn check_refs(&self, state: &State) -> Result<()> {
        let url = url(state.name);
        if state.refs.is_empty() {
            let listed = self.terminal.git(&["ls-remote", "--refs", &url]).await?;
            let listed = listed.done().lines().count();
            assert_eq!(listed, TAGS + HEALTHY.len(), "{}", state.name);
            return Ok(());
        }
        let clone = ["clone", "--quiet", "--mirror", &url, state.name];
        self.terminal.git(&clone).await?.done();
        let path = self.terminal.path(state.name);
        git::git(&path, ["fsck", "--strict", "--no-dangling"])?;
        let refs = git::git(&path, ["for-each-ref", "--format=%(refname)"])?;
        let of_orphan = |name: &str| name.split_inclusive("__").next().unwrap_or(name).to_owned();
        let refs: Vec<String> = refs.lines().map(of_orphan).collect();
        assert_eq!(refs, state.refs, "{}", state.name);
        let head = git::git(&path, ["symbolic-ref", "HEAD"])?;
        assert_eq!(head, "refs/heads/main", "{}", state.name);
        // No commit is lost.
        let mut kept = vec!["main", "one"];
        kept.extend((state.refs.len() == 4 && state.name != "in-the-way").then_some("two"));
        for commit in kept {
            let id = &self.bundles[commit].0;
            git::git(&path, ["cat-file", "-e", id])?;
        }
        Ok(())
    }

    /// Checks states side by side.
    async fn check_all(&self) -> Result<()> {
        let checks = STATES.iter().map(|state| async move {
            let checked = self.check(state).await;
            checked.context(state.name)
        });
        let checks = futures_util::stream::iter(checks).buffer_unordered(4);
        checks.try_collect::<()>().await
    }
}

fn kinds(report: &Value) -> Vec<&str> {
    let problems = report["problems"].as_array().into_iter().flatten();
    problems
        .filter_map(|problem| problem["kind"].as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_that_the_python_client_leaves_is_examined_and_fixed() -> Result<()> {
    StatesEnvironment::new(Terminal::start().await?)
        .await?
        .check_all()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_that_the_python_client_leaves_is_examined_and_fixed_on_moto() -> Result<()> {
    match Terminal::on_moto()? {
        Some(terminal) => StatesEnvironment::new(terminal).await?.check_all().await,
        None => Ok(()),
    }
}
