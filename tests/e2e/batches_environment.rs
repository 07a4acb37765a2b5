//! Environment of migrations in batches: a source behind `git http-backend`, and CodeCommit
//! repositories on the development server.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use branchline_core::git::HashKind;
use branchline_dev::faults::{Rule, Service};
use branchline_test_support::git;
use branchline_tests::environment::{MIGRATION, Setup, TestEnvironment};
use serde_json::{Value, json};

use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::repo::Repo;

/// Start of the names of temporary tags.
pub(crate) const TEMPORARY: &str = "refs/tags/codecommit_migration_";

/// A source, and a development server as its target.
pub(crate) struct BatchEnvironment {
    pub stage: TestEnvironment,
    pub source: Arc<Repo>,
    pub server: GitServer,
    /// Number of packs after which the source sends no more.
    packs: Arc<AtomicUsize>,
}

impl BatchEnvironment {
    pub(crate) async fn new(source: Repo) -> Result<Self> {
        Self::with(source, Setup::default()).await
    }

    pub(crate) async fn with(source: Repo, setup: Setup) -> Result<Self> {
        let source = Arc::new(source);
        let packs = Arc::new(AtomicUsize::new(usize::MAX));
        let left = Arc::clone(&packs);
        let server = GitServer::with(&source, move |seen| {
            // The rule is called without the body first.
            if !wants_pack(&seen.body) {
                return Response::Git;
            }
            let take = |left: usize| left.checked_sub(1);
            match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
                Ok(_) => Response::Git,
                Err(_) => Response::Fixed(403, "text/plain", b"no more".to_vec()),
            }
        });
        let mut faults = setup.faults.clone();
        // No trigger, because these tests do not need events.
        faults.push(rule("events:lose"));
        let stage = TestEnvironment::start(Setup {
            migration: Some(setup.migration.clone().unwrap_or_default()),
            faults,
            ..setup
        })
        .await?;
        Ok(Self {
            stage,
            source,
            server,
            packs,
        })
    }

    /// Makes the source refuse to send packs after `packs` of them.
    pub(crate) fn stop_after(&self, packs: usize) {
        self.packs.store(packs, Ordering::SeqCst);
    }

    /// Makes the source send all packs again.
    pub(crate) fn go_on(&self) {
        self.stop_after(usize::MAX);
    }

    /// Builds a mapping from the source to `codecommit://<target>`, with `create`.
    pub(crate) fn mapping(&self, target: &str) -> Value {
        json!({
            "source": self.server.url(),
            "target": format!("codecommit://{target}"),
            "create": true,
        })
    }

    /// Migrates in batches of `commits` commits.
    pub(crate) async fn migrate(&self, target: &str, commits: u64) -> Result<Value, Value> {
        let batch = json!({ "commits": commits });
        self.call(&self.mapping(target), &batch).await
    }

    /// Invokes the function; returns the only mapping of the answer, or the failure.
    pub(crate) async fn call(&self, mapping: &Value, batch: &Value) -> Result<Value, Value> {
        let event = json!({ "mappings": [mapping], "batch": batch });
        let answer = self.stage.call(MIGRATION, &event).await?;
        Ok(answer["mappings"][0].clone())
    }

    /// Migrates until complete; returns the number of invocations.
    pub(crate) async fn finish(&self, target: &str, commits: u64) -> Result<usize> {
        for calls in 1..50 {
            let answer = self.migrate(target, commits).await;
            let answer = answer.map_err(|error| anyhow::anyhow!("migration failed: {error}"))?;
            if answer["status"] == "complete" {
                return Ok(calls);
            }
        }
        bail!("it does not come to an end");
    }

    /// Lists the temporary tags of a repository, as `<id> <name>`, sorted by number.
    pub(crate) fn temporary(&self, target: &str) -> Result<Vec<String>> {
        let refs = self.stage.refs(target)?;
        let mut tags: Vec<String> = refs
            .lines()
            .filter(|line| line.contains(TEMPORARY))
            .map(str::to_owned)
            .collect();
        tags.sort_by_key(|line| (line.len(), line.rsplit(' ').next().map(str::to_owned)));
        Ok(tags)
    }

    /// Checks that a repository is valid, and has exactly the source's refs with one of
    /// `prefixes`, and their objects.
    pub(crate) fn check_refs(&self, target: &str, prefixes: &[&str]) -> Result<()> {
        let place = self.stage.server.codecommit().repository_dir(target);
        let place = place.with_context(|| format!("there is no repository `{target}`"))?;
        let fsck = ["fsck", "--full", "--strict", "--no-dangling"];
        assert_eq!(git::git(&place, fsck)?, "", "`git fsck` must find no fault");
        let selected = |line: &&str| {
            let name = line.split(' ').nth(1).unwrap_or_default();
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        };
        let wanted: Vec<String> = self
            .source
            .refs()
            .lines()
            .filter(selected)
            .map(str::to_owned)
            .collect();
        let refs = self.stage.refs(target)?;
        assert_eq!(refs.lines().collect::<Vec<_>>(), wanted, "refs of {target}");
        Ok(())
    }

    /// Calls [`check_refs`](Self::check_refs) for all branches and tags.
    pub(crate) fn check(&self, target: &str) -> Result<()> {
        self.check_refs(target, &["refs/heads/", "refs/tags/"])
    }

    /// Installs a hook `update` in a repository: a shell script without its `#!` line.
    pub(crate) async fn hook(&self, target: &str, script: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        if self.stage.refs(target).is_err() {
            self.stage.create_repository(target).await?;
        }
        let place = self.stage.server.codecommit().repository_dir(target);
        let hooks = place.context("the repository is missing")?.join("hooks");
        std::fs::create_dir_all(&hooks)?;
        let hook = hooks.join("update");
        std::fs::write(&hook, format!("#!/bin/sh\n{script}\n"))?;
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Removes the hook.
    pub(crate) fn unhook(&self, target: &str) -> Result<()> {
        let place = self.stage.server.codecommit().repository_dir(target);
        let hook = place
            .context("the repository is missing")?
            .join("hooks/update");
        Ok(std::fs::remove_file(hook)?)
    }

    /// Number of requests for pushes so far: of refs, of permission to push, and pushes.
    pub(crate) fn push_requests(&self) -> u64 {
        let requests = self.stage.server.requests();
        requests.count(Service::Git, "git-receive-pack")
    }
}

/// Returns true if a request is for objects, not for a history without trees and blobs.
pub(crate) fn wants_pack(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    text.contains("want ") && !text.contains("filter ")
}

pub(crate) fn rule(text: &str) -> Rule {
    text.parse().expect("because the rule is well formed")
}

/// Options for invocations with `work` to mirror in, and one second to end in.
pub(crate) fn hasty(work: Duration) -> Setup {
    Setup {
        timeout: work + Duration::from_secs(1),
        migration: Some(vec![("DEADLINE_MARGIN_SECONDS", "1".to_owned())]),
        ..Setup::default()
    }
}

/// Makes a linear history with a tag.
pub(crate) fn linear(commits: usize) -> Repo {
    let repo = empty();
    let numbers: Vec<usize> = (1..=commits).collect();
    let table: Vec<(usize, &str, Vec<usize>)> = numbers
        .iter()
        .map(|n| {
            let parent = n.checked_sub(1).filter(|parent| *parent > 0);
            (*n, "main", parent.into_iter().collect())
        })
        .collect();
    import(&repo, &table, 20);
    repo.git(&["tag", "light", "main~1"]);
    repo
}

/// Makes `m1`-`m3`, a branch `side` that is merged, a later branch `rel`, tags of a commit, of a
/// tag, of a tree and of a blob, and notes.
pub(crate) fn merged() -> Repo {
    let repo = empty();
    let table: Vec<(usize, &str, Vec<usize>)> = vec![
        (1, "main", vec![]),
        (2, "main", vec![1]),
        (3, "main", vec![2]),
        (11, "side", vec![3]),
        (12, "side", vec![11]),
        (13, "side", vec![12]),
        (14, "side", vec![13]),
        (4, "main", vec![3]),
        (5, "main", vec![4]),
        (20, "main", vec![5, 14]),
        (6, "main", vec![20]),
        (7, "main", vec![6]),
        (8, "main", vec![7]),
        (9, "main", vec![8]),
        (31, "rel", vec![7]),
        (32, "rel", vec![31]),
    ];
    import(&repo, &table, 20);
    repo.git(&["tag", "-a", "v1", "-m", "one", "main"]);
    repo.git(&["tag", "-a", "nested", "-m", "two", "v1"]);
    repo.git(&["tag", "-a", "tree", "-m", "three", "main^{tree}"]);
    repo.git(&["tag", "-a", "blob", "-m", "four", "main:f1"]);
    repo.git(&["tag", "light", "rel~1"]);
    repo.git(&["notes", "add", "-m", "noted", "main"]);
    repo
}

pub(crate) fn empty() -> Repo {
    let repo = Repo::new(HashKind::Sha1);
    repo.git(&["config", "uploadpack.allowFilter", "true"]);
    repo
}

/// Imports commits, each with its number, branch, parents, and an incompressible file of `bytes`
/// bytes.
pub(crate) fn import(repo: &Repo, commits: &[(usize, &str, Vec<usize>)], bytes: usize) {
    let mut stream = String::new();
    let mut noise = 88_172_645_463_325_252_u64;
    for (number, branch, parents) in commits {
        let text: String = (0..bytes)
            .map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                char::from(b'!' + u8::try_from(noise % 90).unwrap_or_default())
            })
            .collect();
        let date = 1_700_000_000 + number;
        write!(
            stream,
            "commit refs/heads/{branch}\nmark :{number}\n\
             committer C <c@x> {date} +0000\ndata 2\nc\n"
        )
        .expect("because writing to memory cannot fail");
        for (word, parent) in ["from", "merge", "merge"].iter().zip(parents) {
            writeln!(stream, "{word} :{parent}").expect("because writing to memory cannot fail");
        }
        write!(
            stream,
            "M 644 inline f{}\ndata {bytes}\n{text}\n",
            number % 7
        )
        .expect("because writing to memory cannot fail");
    }
    repo.input(&["fast-import", "--quiet", "--force"], stream.as_bytes());
}
